"""Steps as CUDA graphs, on recordings that a CPU can make: a replayed training has the bits of one that is launched."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import eager_graph
import pytest
import torch
from bench import Bench, same_bits, suite_text
from test_kill_resume import Killed, at
from torch import Tensor

from kdbench.jobs import cohort
from kdbench.jobs.worker import run
from kdbench.methods.zoo.kd import KD
from kdbench.train import conformance, graphs
from kdbench.train.batches import Batches
from kdbench.train.conformance import random_images
from kdbench.train.device import set_up
from kdbench.train.graphs import ReplayedMember, ReplayedNetwork
from kdbench.train.lockstep import Lockstep
from kdbench.train.member import Member
from kdbench.train.taught import teach

#: Of 4 whole batches and a short one an epoch.
STEPS, BATCH, IMAGES = 12, 8, 4 * 8 + 5


@pytest.fixture(autouse=True)
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each capture, of steps on small images."""
    made: list[int] = []
    monkeypatch.setattr(conformance, "SIDE", 16)

    class Counted(eager_graph.EagerRecording):
        def __init__(self, work: Any) -> None:
            made.append(1)
            super().__init__(work)

    monkeypatch.setattr(graphs, "Recording", Counted)
    monkeypatch.setattr(graphs, "capture_works", lambda device: True)
    return made


def trained(kind: type[Member], name: str, **protocol: Any) -> tuple[Member, list[Tensor]]:
    """A student after STEPS under a teacher, and all that its record would be made of; its rate moves at each step."""
    bench = conformance.Bench("kd", "resnet8", "resnet8", random_images(IMAGES, 10), set_up("cpu", 1), BATCH, kind=kind)
    bench.protocol = replace(bench.protocol, epochs=200, schedule="cosine", augmentation="crop_flip", **protocol)
    bench.batches = Batches(bench.dataset, bench.protocol, 0, 0, bench.device)
    member = bench.member(name)
    teacher = ReplayedNetwork(bench.network) if kind is ReplayedMember else bench.network
    for step in range(STEPS):
        batch = bench.batch(step, member)
        member.step(
            batch, teach(teacher, batch, member.parts, member.spec.views) if member.spec.needs_teacher else None
        )
    sums = member.scoring.sums
    assert sums.correct is not None
    state = [*member.network.state_dict().values(), *member.method.state_dict().values()]
    return member, [*state, sums.correct, *sums.losses.values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize(
    ("name", "captures"),
    [
        ("ce", 1),
        ("fitnet", 1),
        ("lskd(kd)", 1),
        ("dkd", 3),  # its warm-up looks at the epoch, so a graph is good for one
    ],
)
def test_a_replayed_step_has_the_bits_of_a_launched_one(name: str, captures: int, recordings: list[int]) -> None:
    student, found = trained(ReplayedMember, name)
    assert isinstance(student, ReplayedMember)
    assert student.unrepeatable == ""
    # The teacher has one for whole batches and one for short ones.
    assert len(recordings) == captures + 2 * student.spec.needs_teacher
    assert same(found, trained(Member, name)[1])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tekap", "its loss asks for generator at each step"),
        ("wkd_f", "its loss asks for progress at each step"),
        ("rrd", "its method keeps something in Python from step to step"),
        ("dot(kd)", "it brings an optimiser of its own"),
    ],
)
def test_what_cannot_be_replayed_is_launched(name: str, why: str) -> None:
    student, found = trained(ReplayedMember, name)
    assert isinstance(student, ReplayedMember)
    assert student.unrepeatable == why
    assert same(found, trained(Member, name)[1])


def test_a_number_that_is_read_back_ends_the_capture_and_not_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = KD.loss

    def reading(self: KD, step: Any) -> dict[str, Tensor]:
        return {name: value * (1.0 if value.item() > 0 else -1.0) for name, value in loss(self, step).items()}

    monkeypatch.setattr(KD, "loss", reading)
    student, found = trained(ReplayedMember, "kd")
    assert isinstance(student, ReplayedMember)
    assert (student.unrepeatable or "").startswith("it cannot be captured: RuntimeError: operation not permitted")
    assert same(found, trained(Member, "kd")[1])


def test_these_recordings_keep_what_python_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a graph does; else the tests above would say nothing."""
    monkeypatch.setattr(ReplayedMember, "_epoch_of", lambda self, position: 1)
    stuck = trained(ReplayedMember, "dkd")[1]
    monkeypatch.undo()
    monkeypatch.setattr(graphs, "Recording", eager_graph.EagerRecording)
    assert same(stuck, trained(ReplayedMember, "dkd")[1]) is False


def test_a_worker_that_replays_leaves_the_same_records(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone in its own way, in a cohort, and killed and resumed."""
    from kdbench.suites import parse_suite

    trials = bench.trials(parse_suite(suite_text(("ce", "dkd", "tekap")), "tiny.toml"))
    expected = bench.train(trials)
    again = bench.again("replayed")
    shutil.copytree(bench.folder / "cache" / "teachers", again.folder / "cache" / "teachers")
    (task,) = [replace(task, graphs=True) for task in again.tasks(trials) if task.trials]
    monkeypatch.setattr(cohort, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Lockstep, "_share", at(8, Lockstep._share))
        with pytest.raises(Killed):
            run(task, again.events.append)
    run(task, again.events.append)
    records = again.records()
    assert {record["provenance"]["resumed"] for record in records.values()} == {1}
    assert all(same_bits(records[label], expected[label]) for label in expected)
