"""A cohort is cut to the memory there is, and nobody's bits change."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from bench import Bench, same_bits, suite_text

from kdbench.suites import Suite
from kdbench.train import cohort, room
from kdbench.train.conformance import make_bench
from kdbench.train.room import Room, activation_bytes, free_memory, state_bytes

MakeSuite = Callable[[str], Suite]


def test_what_a_student_holds_is_counted() -> None:
    bench = make_bench("fitnet")
    member = bench.member()
    weights = sum(p.numel() for part in (member.network, member.method) for p in part.parameters())
    statistics = sum(b.numel() * b.element_size() for part in (member.network, member.method) for b in part.buffers())
    assert state_bytes(member) == 3 * 4 * weights + statistics


def test_activations_grow_with_the_batch_and_the_student_stays_as_it_is() -> None:
    bench = make_bench("kd")
    member = bench.member()
    before = {name: value.clone() for name, value in member.network.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.random.get_rng_state()
    small, large = bench.batches.of(torch.arange(4)), bench.batches.of(torch.arange(16))
    assert 2 < activation_bytes(member, large) / activation_bytes(member, small) <= 4.1
    assert all(torch.equal(value, before[name]) for name, value in member.network.state_dict().items())
    assert torch.equal(drawn, torch.random.get_rng_state())


def test_as_many_as_fit_beside_the_activations_of_those_stepped_at_a_time() -> None:
    bench = make_bench("kd")
    member, batch = bench.member(), bench.batch(0, bench.member())
    state, activations = state_bytes(member), activation_bytes(member, batch)
    for cores in (1, 2):
        space = Room(3 * state + cores * activations, cores)
        taken = 0
        while space.for_another():
            space.add(member, batch)
            taken += 1
        assert taken == 3
    boundless = Room(None, 1)
    boundless.add(member, batch)
    assert boundless.for_another()


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


def test_a_cohort_that_does_not_fit_trains_in_turns(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = make_suite(suite_text(["ce", "kd", "fitnet", "dkd", "nkd"]))
    whole = bench.train(bench.trials(suite))
    narrow = bench.again("narrow")
    shutil.copytree(bench.folder / "cache" / "teachers", narrow.folder / "cache" / "teachers")
    monkeypatch.setattr(Room, "for_another", lambda self: self._count < 2)
    monkeypatch.setattr(Room, "_count", 0, raising=False)
    monkeypatch.setattr(Room, "add", lambda self, member, batch: setattr(self, "_count", self._count + 1))
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
