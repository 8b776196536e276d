"""A cohort is cut to the memory there is, and nobody's bits change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench import Bench, same_bits, suite_text

from kdbench.data import load
from kdbench.jobs import cohort
from kdbench.models.factory import create
from kdbench.plan.cohorts import cohorts
from kdbench.plan.fleet import Device, cpu
from kdbench.plan.tasks import make_tasks
from kdbench.plugins import load_plugins
from kdbench.schedule.devices import dealt
from kdbench.suites import Suite
from kdbench.train import room
from kdbench.train.batches import Batches
from kdbench.train.conformance import make_bench
from kdbench.train.member import Member
from kdbench.train.room import PROBE, Probe, Room, free_memory, kept_for_backward, state_bytes

MakeSuite = Callable[[str], Suite]


def test_what_a_student_holds_is_counted() -> None:
    bench = make_bench("fitnet")
    member = bench.member()
    weights = sum(p.numel() for part in (member.network, member.method) for p in part.parameters())
    statistics = sum(b.numel() * b.element_size() for part in (member.network, member.method) for b in part.buffers())
    assert state_bytes(member) == 3 * 4 * weights + statistics


@pytest.mark.parametrize("name", ["kd", "semckd", "reviewkd", "mlkd", "dml"])
def test_a_step_keeps_what_was_measured_and_the_student_stays_as_it_is(name: str) -> None:
    """Projectors, peers and second views included; on a few images where their number is in proportion."""
    bench = make_bench(name)
    member = bench.member()
    before = {key: value.clone() for key, value in member.state()["network"].items()}
    torch.manual_seed(3)
    drawn = torch.random.get_rng_state()
    measured = Probe([member.trial], bench.batches, bench.network).activation_bytes(member)
    assert all(torch.equal(value, before[key]) for key, value in member.state()["network"].items())
    assert torch.equal(drawn, torch.random.get_rng_state())
    batch = bench.batch(0, member)
    with kept_for_backward() as kept:
        member.step(batch, bench.taught(batch, member))
    assert measured == pytest.approx(sum(kept.values()), rel=0.1)


def test_a_few_images_tell_what_a_batch_keeps(bench: Bench, make_suite: MakeSuite) -> None:
    """Of the network's weights, too, which are as large as its activations here, and do not grow with the batch."""
    suite = make_suite(suite_text(["ce"], student="mlp_800_800", batch=200))
    dataset = load("digits", bench.folder / "data")
    (trial,) = bench.trials(suite)
    batches = Batches(dataset, suite.protocol, 0, 0, torch.device("cpu"))
    member = Member(trial, dataset, batches, torch.device("cpu"))
    probe = Probe([trial], batches, None)
    assert len(probe.batch.y) == PROBE
    with kept_for_backward() as kept:
        member.step(batches.batch(0), None)
    assert probe.activation_bytes(member) == pytest.approx(sum(kept.values()), rel=0.02)
    weights = sum(4 * parameter.numel() for parameter in member.network.parameters())
    assert sum(kept.values()) > weights > 0.2 * sum(kept.values())


def test_as_many_as_fit_beside_the_activations_of_those_stepped_at_a_time() -> None:
    bench = make_bench("kd")
    member = bench.member()
    probe = Probe([member.trial], bench.batches, bench.network)
    state, activations = state_bytes(member), probe.activation_bytes(member)
    for cores in (1, 2):
        space = Room(4 * state + cores * activations, cores)  # one is the student's that sets the pace
        taken = 0
        while space.for_another():
            space.add(member, probe)
            taken += 1
        assert taken == 3
    boundless = Room(None, 1)
    boundless.add(member, probe)
    assert boundless.for_another()


def test_a_plugins_teacher_is_counted(bench: Bench, make_suite: MakeSuite) -> None:
    plugin = bench.plugin("own", needs=["teacher"])
    load_plugins([plugin])
    sizes: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, "add", lambda self, member, probe: sizes.update({member.trial.label: state_bytes(member)}))
        bench.train(bench.trials(make_suite(suite_text(["kd", "own"], epochs=1))), [plugin])
    teacher = create("tiny_cnn_s", classes=10, image_shape=(1, 8, 8), mean=(0.5,), std=(0.25,))
    assert sizes["own"] - sizes["kd"] == sum(t.numel() * t.element_size() for t in teacher.state_dict().values()) + 8


def test_a_student_that_cannot_be_measured_is_trained(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Probe, member: Member) -> int:
        raise RuntimeError("no")

    monkeypatch.setattr(Probe, "activation_bytes", fail)
    records = bench.train(bench.trials(make_suite(suite_text(["ce", "kd"], epochs=1))))
    assert {record["status"] for record in records.values()} == {"finished"}
    assert {event["status"] for event in bench.events if event["event"] == "trial"} == {"finished"}


@pytest.mark.parametrize(
    ("device", "slots", "devices", "share"),
    [("cpu", 2, 1, 0.5), ("cuda", 2, 2, 1), ("cuda", 4, 2, 0.5), ("cuda", 3, 2, 0.5)],
)
def test_a_worker_plans_with_its_part_of_its_own_device(
    bench: Bench, make_suite: MakeSuite, device: str, slots: int, devices: int, share: float
) -> None:
    rows = [{"name": "kd", "protocol": {"epochs": 9000 + number}} for number in range(4)]
    suite = make_suite(suite_text([{**row, "label": f"kd-{number}"} for number, row in enumerate(rows)]))
    trials = bench.trials(suite)
    template = replace(bench.template(trials[0]), device=device)
    fleet = cpu(slots) if device == "cpu" else dealt([Device(str(n)) for n in range(devices)], slots)
    tasks = [task for task in make_tasks(cohorts(trials), template, 1.0, fleet) if task.trials]
    assert [(task.share, task.cores) for task in tasks] == [(share, 1)] * 4


def test_a_cohort_alone_has_all_cores_that_it_can_fill(bench: Bench, make_suite: MakeSuite) -> None:
    trials = bench.trials(make_suite(suite_text(["kd", "dkd"])))
    for slots, cores in ((1, 1), (2, 2), (8, 3)):
        (_, task) = make_tasks(cohorts(trials), bench.template(trials[0]), 1.0, cpu(slots))
        assert (task.cores, task.share) == (cores, 1.0)


def test_the_share_of_a_worker_and_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(room, "_available", lambda: 1000)
    monkeypatch.setattr(room, "_allowed", lambda: None)
    assert free_memory(cpu, 1.0) == 800
    assert free_memory(cpu, 0.5) == 400
    monkeypatch.setattr(room, "_allowed", lambda: 500)
    assert free_memory(cpu, 1.0) == 400
    monkeypatch.setattr(room, "_available", lambda: None)
    monkeypatch.setattr(room, "_allowed", lambda: None)
    assert free_memory(cpu, 1.0) is None


def test_files_that_a_container_has_read_take_none_of_its_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, text in (
        ("max", "1000\n"),
        ("current", "900\n"),
        ("stat", "anon 200\ninactive_file 500\nactive_file 90\n"),
    ):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(room, "CONTAINER", tmp_path)
    assert room._allowed() == 690
    (tmp_path / "memory.max").write_text("max\n")
    assert room._allowed() is None


def test_a_cohort_that_does_not_fit_trains_in_turns(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = make_suite(suite_text(["ce", "kd", "fitnet", "dkd", "nkd"]))
    whole = bench.train(bench.trials(suite))
    narrow = bench.again("narrow")
    shutil.copytree(bench.folder / "cache" / "teachers", narrow.folder / "cache" / "teachers")
    monkeypatch.setattr(Room, "for_another", lambda self: self._count < 2)
    monkeypatch.setattr(Room, "_count", 0, raising=False)
    monkeypatch.setattr(Room, "add", lambda self, member, probe: setattr(self, "_count", self._count + 1))
    parts = narrow.train(narrow.trials(suite))
    assert [event["text"] for event in narrow.events if event["event"] == "note"] == [
        "there is memory for 2 students at a time; 3 more follow them",
        "there is memory for 2 students at a time; 1 more follow them",
    ]
    assert sorted(record["cost"]["cohort_size"] for record in parts.values()) == [1, 2, 2, 2, 2]
    assert all(same_bits(whole[label], parts[label]) for label in whole)


def test_one_student_is_trained_however_little_there_is(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort, "free_memory", lambda device, share: 1)
    records = bench.train(bench.trials(make_suite(suite_text(["ce", "kd"]))))
    assert [record["cost"]["cohort_size"] for record in records.values()] == [1, 1]
