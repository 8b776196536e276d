"""Trainings that start from weights: whose classifier they have, what their keys say, what is said of a wrong file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench import TRAINED, Bench, suite_text
from test_cli import RUN, Cli, cli  # noqa: F401
from test_teachers import keep

from kdbench.data import DATASETS
from kdbench.errors import UserError
from kdbench.models.factory import create
from kdbench.plan.expand import Selection, expand
from kdbench.suites import Suite
from kdbench.teachers.ready import imported
from kdbench.teachers.weights import kept_weights, weights_digest
from kdbench.trials.trial import Trial, teacher_trial

MakeSuite = Callable[[str], Suite]
FINE = 'kind = "checkpoint"\nmodel = "tiny_cnn_m"\nhead = "new"\nseed = 7\nfiles = ["own.pt"]\nprotocol = { lr = 0.01 }'
STARTS = 'init = "own.pt"'


def state(model: str = "tiny_cnn_s", classes: int = 10) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = create(model, classes=classes, image_shape=(1, 8, 8), mean=(0.5,), std=(0.5,))
    return dict(network.body.state_dict())


def starting(init: str = STARTS, methods: tuple[str, ...] = ("ce",), teacher: str = "", name: str = "tiny") -> str:
    text = suite_text(methods, epochs=1, teacher=teacher, name=name)
    return text.replace('student = "tiny_cnn_s"\n', f'student = "tiny_cnn_s"\n{init}\n')


def still(text: str) -> str:
    """A training that moves nothing but the statistics of batch normalisation."""
    return text.replace("lr = 0.1", "lr = 1e-12")


def test_a_student_starts_from_its_file_and_its_key_says_so(bench: Bench, make_suite: MakeSuite, cli: Cli) -> None:  # noqa: F811
    keep(bench, own := state())
    make_suite(still(starting()))
    ended = cli(*RUN)
    assert (ended.code, ended.err) == (0, "")
    assert "tiny_cnn_s starts from the weights in " in ended.out
    assert "own.pt, with its classifier." in ended.out
    record = bench.records()["ce"]
    assert record["identity"]["student"]["init"] == weights_digest(own)
    left = kept_weights(bench.store.weights_path(record["weights_sha256"]))
    for name, value in own.items():
        if "running" not in name and "tracked" not in name:
            assert torch.allclose(left[f"body.{name}"], value, atol=1e-6), name
    assert "0 to train" in cli(*RUN).out
    keep(bench, state("tiny_cnn_s", 10) | {"fc.bias": torch.ones(10)})
    ended = cli(*RUN, "--seeds", "2")
    assert ended.code == 2
    assert "are not the pinned ones" in ended.err
    assert "give the new file another name" in ended.err


def test_a_classifier_of_other_classes_is_drawn_anew(bench: Bench, make_suite: MakeSuite, cli: Cli) -> None:  # noqa: F811
    keep(bench, own := state(classes=100))
    suite = make_suite(still(starting()))
    ended = cli(*RUN)
    assert "own.pt, with a new classifier." in ended.out
    record = bench.records()["ce"]
    bare = {name: value for name, value in own.items() if not name.startswith("fc.")}
    assert record["identity"]["student"]["init"] == weights_digest(bare)
    left = kept_weights(bench.store.weights_path(record["weights_sha256"]))
    assert torch.allclose(left["body.stem.0.weight"], own["stem.0.weight"], atol=1e-6)
    drawn = make_suite(still(suite_text(["ce"], epochs=1, name="drawn")))
    other = bench.train(bench.trials(drawn))["ce"]
    same = kept_weights(bench.store.weights_path(other["weights_sha256"]))
    assert torch.allclose(left["body.fc.weight"], same["body.fc.weight"], atol=1e-6), "the seed's own"
    assert suite.pairs[0].init is not None


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("init = 3", "init must be a str or dict, not 3"),
        ('init = { files = ["own.pt"], head = "old" }', "head can be 'new'"),
        ('init = ""', "files must be a list of the files"),
        ("init = { files = [] }", "files must be a list of the files"),
        ('init = "../own.pt"', "files must be relative paths"),
        ('init = { files = ["own.pt"], weights_sha256 = "f" }', "weights_sha256 must be 64 digits"),
        ('init = { file = "own.pt" }', "'files' is missing"),
    ],
)
def test_a_wrong_init_is_one_sentence(make_suite: MakeSuite, init: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        make_suite(starting(init))
    assert said in str(caught.value)
    assert "[[pairs]] 1" in str(caught.value)


def test_a_file_that_is_missing_or_does_not_fit_is_said_at_planning(
    bench: Bench,
    make_suite: MakeSuite,
    cli: Cli,  # noqa: F811
) -> None:
    make_suite(starting())
    ended = cli(*RUN)
    assert ended.code == 2
    assert "A training of tiny_cnn_s starts from weights, own.pt, in" in ended.err
    assert "--train-teachers" not in ended.err
    assert "A training of tiny_cnn_s starts from weights, own.pt" in cli(*RUN, "--dry-run").out
    keep(bench, state("tiny_cnn_l"))
    ended = cli(*RUN)
    assert ended.code == 2
    assert "do not fit the model tiny_cnn_s" in ended.err


def test_a_teacher_with_a_new_head_is_fine_tuned_before_it_teaches(
    bench: Bench,
    make_suite: MakeSuite,
    cli: Cli,  # noqa: F811
) -> None:
    keep(bench, own := state("tiny_cnn_m", 100))
    suite = make_suite(suite_text(["kd"], epochs=1, teacher=FINE))
    ended = cli(*RUN)
    assert (ended.code, ended.err) == (0, "")
    assert "tiny_cnn_m starts from the weights in " in ended.out
    records = bench.records()
    assert (records["kd"]["teacher"]["kind"], records["kd"]["teacher"]["source"]) == (
        "trained",
        "trained here from the weights in own.pt",
    )
    (of_teacher,) = (each for each in bench.store.read()[0] if each["label"] == "teacher")
    taught = of_teacher["identity"]
    bare = {name: value for name, value in own.items() if not name.startswith("fc.")}
    assert taught["student"]["init"] == weights_digest(bare)
    assert taught["protocol"]["lr"] == 0.01
    assert records["kd"]["identity"]["teacher"] == {"kind": "trained", "recipe": of_teacher["key"]}
    assert suite.teachers["tutor"].head == ""
    (bench.folder / "data" / "weights" / "own.pt").unlink()
    assert cli(*RUN, "--seeds", "2").code == 0, "it is ready, and needs its file no more"


def test_pairs_of_one_student_that_start_elsewhere_have_names_of_their_own(make_suite: MakeSuite) -> None:
    other = '[[pairs]]\nteacher = "tutor"\nstudent = "tiny_cnn_s"\ninit = "other.pt"\n'
    named = other.replace("init =", 'name = "a:b-init"\ninit =')
    with pytest.raises(UserError, match="have the student 'tiny_cnn_s' start from different weights; give one of them"):
        make_suite(starting() + other.replace("init =", 'name = "a:tiny_cnn_s"\ninit ='))
    suite = make_suite(starting(name="named") + named)
    pins = {pair.init.name: digit * 64 for pair, digit in zip(suite.pairs, "12", strict=True) if pair.init}
    assert [trial.pair for trial in keyed(suite, pins)] == ["none:tiny_cnn_s", "none:b-init"]


def keyed(suite: Suite, pins: dict[str, str]) -> list[Trial]:
    return expand(suite, Selection(), "0" * 64, pins)


def test_what_a_training_starts_from_is_in_its_key_alone_where_it_is_given(make_suite: MakeSuite) -> None:
    plain = keyed(make_suite(suite_text(["ce", "kd"], epochs=1)), {})
    assert all("init" not in trial.identity()["student"] for trial in plain)
    suite = make_suite(starting(methods=("ce", "kd"), name="starting"))
    name = suite.pairs[0].init.name
    keys = [{trial.key for trial in keyed(suite, {name: digit * 64})} for digit in "12"]
    assert len({*keys[0], *keys[1], *(trial.key for trial in plain)}) == 6
    own = replace(plain[1].teacher, init=suite.pairs[0].init)
    assert teacher_trial(own, "digits", "").key != teacher_trial(plain[1].teacher, "digits", "").key


def test_a_trial_comes_back_from_a_task_with_what_it_starts_from(make_suite: MakeSuite) -> None:
    fine = make_suite(starting(methods=("kd",), teacher=f'{TRAINED}\ninit = "other.pt"'))
    (trial,) = keyed(fine, {})
    back = Trial.from_json(json.loads(json.dumps(trial.to_json())))
    assert back.key == trial.key
    assert back == trial
    assert back.teacher.init.files == ("other.pt",)


def test_a_head_is_left_out_where_it_is_to_be_new_though_it_fits(tmp_path: Path) -> None:
    from kdbench.trials.teacher import Normalisation, Teacher

    torch.save(own := state(), tmp_path / "w.pth")
    init = Teacher("t", "init", "tiny_cnn_s", Normalisation((0.5,), (0.5,)), files=("w.pth",))
    spec = DATASETS.get("digits")
    assert weights_digest(imported(init, spec, tmp_path / "w.pth")) == weights_digest(own)
    found = imported(replace(init, head="new"), spec, tmp_path / "w.pth")
    assert set(own) - set(found) == {"fc.weight", "fc.bias"}


def test_train_teachers_starts_from_nothing(make_suite: MakeSuite) -> None:
    suite = make_suite(suite_text(["kd"], epochs=1, teacher=FINE))
    (trial,) = expand(suite, Selection(train_teachers=True), "0" * 64, {})
    assert (trial.teacher.name, trial.teacher.init) == ("tutor-trained", None)
