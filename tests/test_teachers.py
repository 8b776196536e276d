"""Teachers: found, checked, measured once, kept, and never another one than was pinned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import TRAINED, Bench, same_bits, suite_text
from safetensors.torch import save_file

from kdbench.data import load
from kdbench.errors import CheckpointError, UserError
from kdbench.jobs.worker import run
from kdbench.measure.evaluate import logits_of
from kdbench.models.factory import create
from kdbench.plan.cohorts import cohorts
from kdbench.plan.expand import pinned
from kdbench.plan.fleet import cpu
from kdbench.plan.tasks import make_tasks
from kdbench.records import Record
from kdbench.suites import Suite
from kdbench.teachers.facts import TeacherFacts, TeacherShelf
from kdbench.teachers.find import find_checkpoint
from kdbench.teachers.weights import read_weights, weights_digest
from kdbench.train.device import numerics
from kdbench.trials.teacher import Teacher

MakeSuite = Callable[[str], Suite]
CPU = torch.device("cpu")
FACTS = TeacherFacts("a" * 64, 72.63, 90.0, 0.1, 0.2, 2, [])
CHECKPOINT = 'kind = "checkpoint"\nmodel = "tiny_cnn_l"\nfiles = ["own.safetensors", "own.pt"]\nurl = "https://example.org/own.pt"'


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    network = create("tiny_cnn_l", classes=10, image_shape=(1, 8, 8), mean=(0.3057,), std=(0.3762,))
    return dict(network.body.state_dict())


def keep(bench: Bench, state: Any, name: str = "own.pt") -> Path:
    path = bench.folder / "data" / "weights" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
    return path


def taught(bench: Bench, suite: Suite, *methods: str) -> dict[str, Record]:
    return bench.train(bench.trials(suite, *methods))


def shelf_of(bench: Bench, suite: Suite) -> TeacherShelf:
    trial = next(t for t in bench.trials(suite) if t.teacher)
    assert trial.teacher is not None
    return TeacherShelf(bench.folder / "cache", trial.teacher, "digits", trial.data_digest, numerics(CPU))


def test_a_trained_teacher_is_trained_once_and_leaves_its_record(bench: Bench, make_suite: MakeSuite) -> None:
    suite = make_suite(suite_text(["ce", "kd", "ttm"], epochs=1))
    first = taught(bench, suite, "kd")["kd"]
    shelf = shelf_of(bench, suite)
    before = {path: path.stat().st_mtime_ns for path in shelf.folder.iterdir()}
    (own,) = [r for r in bench.store.read()[0] if r["label"] == "teacher"]
    assert (own["status"], own["method"], own["student_model"], own["seed"]) == ("finished", "ce", "tiny_cnn_s", 100)
    bench.events.clear()
    second = taught(bench, suite, "kd", "ttm")["ttm"]
    assert {path: path.stat().st_mtime_ns for path in shelf.folder.iterdir()} == before
    trained = {event["key"] for event in bench.events if event["event"] == "epoch"}
    assert trained == {second["key"]}
    assert len([r for r in bench.store.read()[0] if r["label"] == "teacher"]) == 1
    assert first["teacher"] == second["teacher"]
    assert first["teacher"]["weights_sha256"] == weights_digest(read_weights(shelf.weights))
    assert first["teacher"]["top1"] == own["scores"]["last"]["top1"]


def test_a_teacher_that_is_ready_costs_a_plan_nothing(bench: Bench, make_suite: MakeSuite) -> None:
    suite = make_suite(suite_text(["kd"], epochs=1))
    trials = bench.trials(suite)

    def costs(device: str = "cpu") -> list[float]:
        template = replace(bench.template(trials[0]), device=device)
        return [task.cost for task in make_tasks(cohorts(trials), template, 40.0, cpu())]

    teacher, student = costs()
    assert teacher > 0
    shelf = shelf_of(bench, suite)
    shelf.finish(FACTS, np.zeros((500, 10), np.float32))
    assert costs() == [0.0, student]
    assert costs("cuda") == [teacher, student], "it was made ready on another kind of device"
    for damaged in (b"", b"[]", b"{}", b"7"):
        (shelf.folder / "facts.json").write_bytes(damaged)
        assert costs() == [teacher, student]


def test_the_facts_of_a_teacher_are_measured_on_the_test_images(bench: Bench, make_suite: MakeSuite) -> None:
    state = weights()
    keep(bench, state)
    suite = make_suite(suite_text(["kd"], epochs=1, teacher=CHECKPOINT))
    section = taught(bench, suite)["kd"]["teacher"]
    dataset = load("digits", bench.folder / "data")
    network = create("tiny_cnn_l", classes=10, image_shape=(1, 8, 8), mean=(0.3057,), std=(0.3762,))
    network.body.load_state_dict(state)
    network.to(memory_format=torch.channels_last)
    logits, _ = logits_of(network, dataset.test_images, CPU)
    assert torch.equal(torch.from_numpy(np.load(shelf_of(bench, suite).logits)), logits)
    labels = torch.from_numpy(dataset.test_labels)
    assert section["top1"] == pytest.approx(float((logits.argmax(1) == labels).double().mean() * 100))
    top2 = logits.topk(2, 1).indices
    assert section["top_k"] == 2
    assert section["unreliability"] == pytest.approx(1 - float((top2 == labels[:, None]).any(1).double().mean()))
    rates = [float((top2[labels == y] == i).any(1).double().mean()) for y in range(10) for i in range(10) if i != y]
    assert section["ambiguity"] == pytest.approx(max(rates))
    assert section["weights_sha256"] == weights_digest(state)
    assert (section["name"], section["kind"], section["model"]) == ("tutor", "checkpoint", "tiny_cnn_l")


def test_the_container_of_the_weights_changes_nothing(bench: Bench, make_suite: MakeSuite) -> None:
    suite = make_suite(suite_text(["kd"], epochs=1, teacher=CHECKPOINT))
    other = bench.again("other")
    keep(bench, weights(), "own.safetensors")
    keep(other, {"state_dict": {f"module.{k}": v for k, v in weights().items() if "num_batches" not in k}}, "own.pt")
    assert same_bits(taught(bench, suite)["kd"], taught(other, suite)["kd"])


def pin(suite: Suite, digest: str) -> Suite:
    return replace(suite, teachers={name: replace(t, weights_sha256=digest) for name, t in suite.teachers.items()})


def test_other_weights_than_the_pinned_ones_are_refused(bench: Bench, make_suite: MakeSuite) -> None:
    suite = pin(make_suite(suite_text(["kd"], epochs=1, teacher=CHECKPOINT)), weights_digest(weights()))
    path = keep(bench, weights(seed=1))
    with pytest.raises(CheckpointError, match=rf"weights in {path} are not the pinned ones: .*fetch the file again"):
        taught(bench, suite)
    assert bench.records() == {}
    keep(bench, weights())
    assert taught(bench, suite)["kd"]["status"] == "finished"


def test_pinned_takes_the_suites_digest_over_the_recorded_one() -> None:
    from test_trial import IMPORTED, TRAINED

    bare = replace(IMPORTED, weights_sha256="")
    pins = {"t": "9" * 64}
    assert pinned(bare, pins).weights_sha256 == "9" * 64
    assert pinned(bare, {}) == bare
    assert pinned(IMPORTED, pins) == IMPORTED
    assert pinned(TRAINED, pins) == TRAINED


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("fc.bias"), "the file lacks 'fc.bias'"),
        (lambda s: s.update(extra=torch.zeros(1)), "the model has not, 'extra'"),
        (lambda s: s.update({"fc.weight": torch.zeros(100, 64)}), "in another shape 'fc.weight'"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("stem")], "and 4 more"),
    ],
)
def test_weights_of_another_model_are_refused(
    bench: Bench, make_suite: MakeSuite, change: Callable[[dict[str, torch.Tensor]], object], words: str
) -> None:
    state = weights()
    change(state)
    path = keep(bench, state)
    with pytest.raises(CheckpointError, match=rf"{path} do not fit the model tiny_cnn_l: .*{words}"):
        taught(bench, make_suite(suite_text(["kd"], epochs=1, teacher=CHECKPOINT)))


def test_a_truncated_file_is_named(bench: Bench, make_suite: MakeSuite) -> None:
    path = keep(bench, weights())
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match=rf"The weights in {path} cannot be read"):
        taught(bench, make_suite(suite_text(["kd"], epochs=1, teacher=CHECKPOINT)))


def test_files_are_looked_for_in_their_order_under_the_data_root(tmp_path: Path) -> None:
    from test_trial import NORM

    teacher = Teacher(
        "t", "checkpoint", "resnet56", NORM, files=("a.safetensors", "b.pt"), url="https://example.org/b.pt"
    )
    with pytest.raises(
        CheckpointError,
        match=r"Teacher t wants its weights, a.safetensors or b.pt, in .*/weights .*get them from https://example.org/b.pt",
    ):
        find_checkpoint(teacher, tmp_path)
    (tmp_path / "weights").mkdir()
    for path in (tmp_path / "b.pt", tmp_path / "weights" / "b.pt", tmp_path / "a.safetensors"):
        path.write_bytes(b"x")
        assert find_checkpoint(teacher, tmp_path) == path


@pytest.mark.parametrize(
    ("claimed", "loud"), [(None, False), (72.63, False), (72.7, False), (72.54, False), (72.5, True), (93.0, True)]
)
def test_an_accuracy_that_is_not_the_claimed_one_is_said(claimed: float | None, loud: bool) -> None:
    from test_trial import IMPORTED

    teacher = replace(IMPORTED, claimed_top1=claimed)
    warnings = FACTS.warnings(teacher)
    assert bool(warnings) == loud
    if loud:
        assert f"scores 72.63 here, but its source claims {claimed:.2f}" in warnings[0]
    assert FACTS.section(teacher)["claimed_top1"] == claimed


def test_the_warning_is_on_every_students_record_and_not_on_the_student_alone(
    bench: Bench, make_suite: MakeSuite
) -> None:
    keep(bench, weights())
    text = suite_text(["ce", "kd", "ttm"], epochs=1, teacher=f"{CHECKPOINT}\nclaimed_top1 = 99.9")
    records = taught(bench, make_suite(text))
    (said,) = [event for event in bench.events if event["event"] == "teacher"]
    assert "but its source claims 99.90" in said["warnings"][0]
    assert {label: r["warnings"] for label, r in records.items()} == {
        "ce": [],
        "kd": said["warnings"],
        "ttm": said["warnings"],
    }


def test_a_teacher_whose_training_fails_is_said_so(bench: Bench, make_suite: MakeSuite) -> None:
    teacher = 'kind = "trained"\nmodel = "tiny_cnn_s"\nprotocol = {lr = 1e30, epochs = 1}'
    with pytest.raises(UserError, match="The teacher tutor did not finish its training"):
        taught(bench, make_suite(suite_text(["kd"], epochs=1, teacher=teacher)))
    assert bench.records() == {}


@pytest.mark.parametrize("teacher", [CHECKPOINT, TRAINED], ids=["imported", "trained"])
def test_a_damaged_shelf_is_made_anew(bench: Bench, make_suite: MakeSuite, teacher: str) -> None:
    """Each file of it lost, truncated, and the weights exchanged for others of the same shapes."""
    keep(bench, weights())
    suite = make_suite(suite_text(["kd"], epochs=1, teacher=teacher))
    (prepare, _) = bench.tasks(bench.trials(suite))
    run(prepare, bench.events.append)
    shelf = shelf_of(bench, suite)

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted(shelf.folder.glob("*.*"))}

    before = content()
    assert len(before) == 3
    for path, whole in before.items():
        flipped = bytes([*whole[:-1], whole[-1] ^ 1])
        for damaged in (None, whole[: len(whole) // 2], flipped):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            run(prepare, bench.events.append)
            assert content() == before, path.name
    for facts in (True, False):  # with what was measured of them, and without
        other = {k: v + 1 if v.is_floating_point() else v for k, v in read_weights(shelf.weights).items()}
        save_file(other, shelf.weights)
        if not facts:
            (shelf.folder / "facts.json").unlink()
        run(prepare, bench.events.append)
        assert content() == before
    flipped = bytearray(before[shelf.weights])
    flipped[-1] ^= 1
    shelf.weights.write_bytes(flipped)
    (shelf.folder / "facts.json").unlink()
    run(prepare, bench.events.append)
    assert content() == before


def test_students_without_a_ready_teacher_are_refused(bench: Bench, make_suite: MakeSuite) -> None:
    (_, task) = bench.tasks(bench.trials(make_suite(suite_text(["kd"]))))
    with pytest.raises(UserError, match="The teacher tutor is not ready"):
        run(task, bench.events.append)


def test_a_teacher_of_other_numerics_lies_apart(tmp_path: Path) -> None:
    from test_trial import IMPORTED

    def folder(**change: Any) -> Path:
        machine = {"torch": "2", "device": "cpu"} | change
        return TeacherShelf(tmp_path, IMPORTED, "digits", "a" * 64, machine).folder

    assert folder() != folder(torch="3")
    other = replace(IMPORTED, weights_sha256="9" * 64)
    assert folder() != TeacherShelf(tmp_path, other, "digits", "a" * 64, {"torch": "2", "device": "cpu"}).folder
    assert folder() != TeacherShelf(tmp_path, IMPORTED, "digits", "b" * 64, {"torch": "2", "device": "cpu"}).folder
