"""The trial's key: what changes it, what does not, and that it stays what it was."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from kdbench.canonical import canonical
from kdbench.models.build import Build
from kdbench.protocol import Protocol
from kdbench.supervision.few_labels import FewLabels
from kdbench.trials import trial as trial_module
from kdbench.trials.teacher import Normalisation, Teacher
from kdbench.trials.trial import Trial, teacher_trial

PROTOCOL = Protocol(epochs=240, batch=64, lr=0.05, milestones=(150, 180, 210))
NORM = Normalisation((0.5,), (0.25,))
IMPORTED = Teacher(
    "t", "checkpoint", "resnet56", NORM, weights_sha256="b" * 64, files=("t.pt",), url="https://a", source="s"
)
TRAINED = Teacher("t", "trained", "tiny_cnn_l", NORM, seed=1, protocol=PROTOCOL)
TRIAL = Trial(
    suite="s@1",
    dataset="digits",
    data_digest="a" * 64,
    protocol=PROTOCOL,
    student="tiny_cnn_s",
    normalisation=NORM,
    pair="t:s",
    teacher=IMPORTED,
    method="kd",
    method_version=1,
    config={"temperature": 4.0, "kd_weight": 0.9},
    seed=0,
    label="kd",
)

ALONE_TRAINED = teacher_trial(TRAINED, "digits", "a" * 64)

OTHER_FIELDS: dict[str, Any] = {
    "dataset": "mnist",
    "data_digest": "c" * 64,
    "student": "tiny_cnn_l",
    "normalisation": Normalisation((0.5,), (0.2500001,)),
    "teacher": None,
    "method": "dkd",
    "method_version": 2,
    "config": {"temperature": 4.0, "kd_weight": 0.90000001},
    "seed": 1,
    "stream": 1,
    "plugin_sha256": "d" * 64,
    "student_code": {"source": "d" * 64},
    "supervision": FewLabels(images=1),
    "supervision_sha256": "d" * 64,
    "init": dataclasses.replace(IMPORTED, kind="init"),
    "build": Build(input_size=64),
}
NAMES = {"suite": "other@2", "label": "renamed", "pair": "x:y", "diagnostics": ("features",)}

OTHER_PROTOCOL: dict[str, Any] = {
    "epochs": 239,
    "batch": 65,
    "lr": 0.0500001,
    "optimiser": "adam",
    "momentum": 0.8,
    "nesterov": True,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "milestones": (150, 180),
    "factor": 0.2,
    "warm_up": 0.2,
    "augmentation": "crop",
    "pad": 2,
    "precision": "bfloat16",
    "threads": 2,
    "holdout": 1,
    "split_seed": 1,
    "selection": "best_val",
    "fold": True,
    "compile": "default",
}


def test_the_tables_of_this_file_are_complete() -> None:
    fields = {f.name for f in dataclasses.fields(Trial)}
    assert fields == {*OTHER_FIELDS, *NAMES, "protocol"}
    assert {f.name for f in dataclasses.fields(Protocol)} == set(OTHER_PROTOCOL)


@pytest.mark.parametrize("name", OTHER_FIELDS)
def test_every_field_of_the_identity_changes_the_key(name: str) -> None:
    assert dataclasses.replace(TRIAL, **{name: OTHER_FIELDS[name]}).key != TRIAL.key


@pytest.mark.parametrize("name", OTHER_PROTOCOL)
def test_every_field_of_the_protocol_changes_the_key(name: str) -> None:
    protocol = dataclasses.replace(PROTOCOL, **{name: OTHER_PROTOCOL[name]})
    assert dataclasses.replace(TRIAL, protocol=protocol).key != TRIAL.key
    recipe = dataclasses.replace(TRAINED, protocol=protocol)
    assert dataclasses.replace(TRIAL, teacher=recipe).key != dataclasses.replace(TRIAL, teacher=TRAINED).key


@pytest.mark.parametrize("name", NAMES)
def test_names_do_not_change_the_key(name: str) -> None:
    assert dataclasses.replace(TRIAL, **{name: NAMES[name]}).key == TRIAL.key


def test_the_engine_version_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = TRIAL.key
    monkeypatch.setattr(trial_module, "ENGINE_VERSION", trial_module.ENGINE_VERSION + 1)
    assert dataclasses.replace(TRIAL).key != before


@pytest.mark.parametrize(
    ("teacher", "name", "value", "matters"),
    [
        (IMPORTED, "weights_sha256", "e" * 64, True),
        (IMPORTED, "model", "resnet20", True),
        (IMPORTED, "model_code", {"source": "d" * 64}, True),
        (IMPORTED, "normalisation", Normalisation((0.4,), (0.25,)), True),
        (IMPORTED, "name", "u", False),
        (IMPORTED, "files", ("u.safetensors",), False),
        (IMPORTED, "url", "https://b", False),
        (IMPORTED, "claimed_top1", 72.0, False),
        (TRAINED, "model", "tiny_cnn_s", True),
        (TRAINED, "model_code", {"options": {"width": 8}}, True),
        (TRAINED, "seed", 2, True),
        (TRAINED, "normalisation", Normalisation((0.4,), (0.25,)), True),
        (TRAINED, "name", "u", False),
    ],
)
def test_a_teacher_counts_by_its_weights_or_its_recipe(
    teacher: Teacher, name: str, value: object, matters: bool
) -> None:
    before = dataclasses.replace(TRIAL, teacher=teacher)
    after = dataclasses.replace(TRIAL, teacher=dataclasses.replace(teacher, **{name: value}))
    assert (before.key != after.key) == matters


def test_config_is_a_set_of_values_not_an_order() -> None:
    turned = dict(reversed(list(TRIAL.config.items())))
    assert list(turned) != list(TRIAL.config)
    assert dataclasses.replace(TRIAL, config=turned).key == TRIAL.key


@pytest.mark.parametrize("teacher", [None, IMPORTED, TRAINED], ids=["none", "imported", "trained"])
def test_json_round_trip(teacher: Teacher | None) -> None:
    trial = dataclasses.replace(TRIAL, teacher=teacher)
    back = Trial.from_json(json.loads(json.dumps(trial.to_json())))
    assert back == trial
    assert back.key == trial.key


def test_the_key_is_pinned() -> None:
    """Another key makes every stored record count as not done: change these only with ENGINE_VERSION."""
    assert TRIAL.key == "9a73f539b6325d018ac8116728eafcc0213fc2b3972dc3b3959ab549c9f1e834"
    assert dataclasses.replace(TRIAL, teacher=TRAINED).key == (
        "da8bf0fdbcb6816cb2dbab906f3470d2afb3f71348921c95ba0a411db4758a46"
    )


def test_a_teachers_training_is_the_students_alone_training() -> None:
    """The recipe of a trained teacher is the key of the same plain training of that network."""
    recipe = teacher_trial(TRAINED, "digits", "a" * 64, "s@1")
    alone = dataclasses.replace(
        TRIAL, student="tiny_cnn_l", teacher=None, method="ce", config=recipe.config, seed=1, label="ce", pair="none:x"
    )
    assert recipe.key == alone.key
    with pytest.raises(ValueError, match="has no training"):
        teacher_trial(IMPORTED, "digits", "a" * 64)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_key_is_made_of_what_is_not_a_number(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical({"x": value})


def test_the_written_form_is_pinned() -> None:
    assert canonical({"b": [1, 1.0, 1e-4, True, None], "a": "ä"}) == b'{"a":"\\u00e4","b":[1,1.0,0.0001,true,null]}'
