"""Published weights: every form that trainers leave them in, read without running anything, or refused with a cure."""

from __future__ import annotations

import argparse
import collections
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kdbench.data import DATASETS
from kdbench.errors import CheckpointError
from kdbench.models.factory import create
from kdbench.teachers.checkpoint import checkpoint_digest
from kdbench.teachers.ready import imported, network_of
from kdbench.teachers.weights import kept_weights, read_weights, weights_digest, write_weights
from kdbench.trials.teacher import Normalisation, Teacher

STATE = {"conv.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(4)}


def named(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"model_state_dict": STATE, "epoch": 3},
        {"state_dict": {"model": STATE}, "best_acc1": np.float64(71.5), "loss": np.float32(0.5)},
        {"model": STATE, "args": argparse.Namespace(lr=0.1, milestones=[150, 180], out=None), "n": np.int64(4)},
        {"net": named("module."), "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        named("module.model."),
        named("_orig_mod.module."),
        named("model.backbone.net."),
        {"state_dict": collections.OrderedDict(named("student.")), "epoch": 1},
    ],
    ids=lambda content: "+".join(map(str, list(content)[:2])),
)
def test_every_form_gives_the_same_weights(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    found = read_weights(tmp_path / "w.pth")
    assert weights_digest(found) == weights_digest(STATE)


def test_a_prefix_that_some_names_lack_is_part_of_the_names(tmp_path: Path) -> None:
    mixed = {"backbone.weight": torch.ones(1), "fc.weight": torch.ones(1)}
    save_file(mixed, tmp_path / "w.safetensors")
    assert set(read_weights(tmp_path / "w.safetensors")) == set(mixed)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"state_dict": named("x."), "state_dict_ema": STATE}, "state_dict_ema"),
        ({"model": named("x."), "model_ema": {"module": STATE, "decay": 0.999}}, "model_ema.module"),
        ({**named("student."), **{f"teacher.{n}": v + 1 for n, v in STATE.items()}}, "student"),
        ({"ema": {"state_dict": named("module.")}}, "ema"),
    ],
)
def test_a_key_says_which_of_several(tmp_path: Path, content: object, key: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert weights_digest(read_weights(tmp_path / "w.pth", key)) == weights_digest(STATE)


def test_a_wrong_key_names_those_that_there_are(tmp_path: Path) -> None:
    torch.save({"ema": STATE, "epoch": 1}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth: .*'emma'.*ema"):
        read_weights(tmp_path / "w.pth", "emma")
    with pytest.raises(CheckpointError, match="name the one that you want as the teacher's key: ema"):
        read_weights(tmp_path / "w.pth")


class Trainer:
    def __init__(self) -> None:
        self.lr = 0.1


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: path.write_bytes(pickle.dumps(Trainer(), protocol=4)), "it holds a .*Trainer|is damaged"),
        (
            lambda path: torch.save({"model": STATE, "trainer": Trainer()}, path),
            "it holds a .*Trainer, an object that ",
        ),
        (
            lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            "pointer of Git",
        ),
        (lambda path: path.write_bytes(b"\n<!DOCTYPE html><html>404</html>"), "it is a web page"),
        (lambda path: torch.jit.script(torch.nn.Linear(2, 2)).save(str(path)), "it is a TorchScript program"),
        (lambda path: torch.save(torch.nn.Linear(2, 2), path), "an object that would run code"),
    ],
    ids=["pickle", "object", "lfs", "page", "script", "module"],
)
def test_what_cannot_be_read_is_named_with_its_cure(tmp_path: Path, write, words: str) -> None:
    path = tmp_path / "w.pth"
    write(path)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_weights(path)
    said = str(caught.value)
    assert "\x1b" not in said
    assert "\n" not in said
    assert re.search(r"\); (fetch the file again|load it where it was made)", said)


def test_what_is_kept_has_the_names_that_it_was_kept_under_and_may_share_memory(tmp_path: Path) -> None:
    tied = torch.ones(3, 2)
    state = {"model.a": tied, "model.b": tied, "model.c": tied[0]}
    write_weights(state, tmp_path / "w.safetensors")
    found = kept_weights(tmp_path / "w.safetensors")
    assert set(found) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in state)


def teacher(model: str = "tiny_cnn_m", **fields: object) -> Teacher:
    return Teacher("t", "checkpoint", model, Normalisation((0.5,), (0.5,)), files=("w.pth",), **fields)  # type: ignore[arg-type]


def network_state(model: str = "tiny_cnn_m", classes: int = 10) -> dict[str, torch.Tensor]:
    network = create(model, classes=classes, image_shape=(1, 8, 8), mean=(0.5,), std=(0.5,))
    return network.body.state_dict()


def test_weights_of_a_network_are_imported_by_its_own_names(tmp_path: Path) -> None:
    state, spec = network_state(), DATASETS.get("digits")
    torch.save({"model": {f"module.backbone.{n}": v for n, v in state.items()}}, tmp_path / "w.pth")
    assert weights_digest(imported(teacher(), spec, tmp_path / "w.pth")) == weights_digest(state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_the_network_that_is_made_of_them(tmp_path: Path, dtype: torch.dtype) -> None:
    spec = DATASETS.get("digits")
    half = {n: v.to(dtype) if v.is_floating_point() else v for n, v in network_state().items()}
    torch.save(half, tmp_path / "w.pth")
    state = imported(teacher(), spec, tmp_path / "w.pth")
    network = network_of(teacher(), spec, state, torch.device("cpu"), tmp_path / "w.pth")
    assert weights_digest(network.body.state_dict()) == weights_digest(state)
    assert all(torch.equal(value.to(dtype), half[name]) for name, value in state.items() if value.is_floating_point())


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    torch.save({n: v.to(torch.int8) for n, v in network_state().items()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="the file has in whole numbers"):
        imported(teacher(), DATASETS.get("digits"), tmp_path / "w.pth")


def test_heads_that_only_training_has_are_left_out(tmp_path: Path) -> None:
    state, spec = network_state(), DATASETS.get("digits")
    torch.save({**state, "aux1.fc.weight": torch.ones(2), "AuxLogits.fc.bias": torch.ones(1)}, tmp_path / "w.pth")
    assert weights_digest(imported(teacher(), spec, tmp_path / "w.pth")) == weights_digest(state)


def test_weights_for_other_classes_say_what_to_do(tmp_path: Path) -> None:
    torch.save(network_state(classes=1000), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"it was made for 1000 classes; give the teacher head = 'new'"):
        imported(teacher(), DATASETS.get("digits"), tmp_path / "w.pth")


def test_several_networks_in_one_file_say_what_to_do(tmp_path: Path) -> None:
    state = network_state()
    torch.save({f"{who}.{name}": v for who in ("online", "target") for name, v in state.items()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="it holds several networks: name the one that you want"):
        imported(teacher(), DATASETS.get("digits"), tmp_path / "w.pth")
    found = imported(teacher(key="target"), DATASETS.get("digits"), tmp_path / "w.pth")
    assert weights_digest(found) == weights_digest(state)


def test_a_replaced_file_is_noticed_though_its_digest_is_remembered(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    spec, path = DATASETS.get("digits"), tmp_path / "w.pth"
    torch.save(network_state(), path)
    first = checkpoint_digest(teacher(), spec, path)
    with monkeypatch.context() as patch:  # nothing is read again while the file looks the same
        patch.setattr("kdbench.teachers.ready.imported", None)
        assert checkpoint_digest(teacher(), spec, path) == first
    torch.save(network_state(), path)
    assert checkpoint_digest(teacher(), spec, path) != first


def test_what_is_remembered_is_not_believed_when_it_is_damaged(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    spec, path = DATASETS.get("digits"), tmp_path / "w.pth"
    torch.save(network_state(), path)
    first = checkpoint_digest(teacher(), spec, path)
    (entry,) = (tmp_path / "cache/identity").iterdir()
    entry.write_text(entry.read_text().replace(first, "0" * 64))
    assert checkpoint_digest(teacher(), spec, path) == first
