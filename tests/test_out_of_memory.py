"""Memory that runs out costs no trial: the worker ends with a code of its own, and fewer students are tried."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from bench import STEPS, Bench, same_bits, suite_text

from kdbench.data import load
from kdbench.errors import out_of_memory
from kdbench.jobs import worker
from kdbench.plan.task import EXIT_MEMORY, Task
from kdbench.plugins import load_plugins
from kdbench.suites import parse_suite
from kdbench.train import checkpoint, lockstep
from kdbench.train.batches import Batches
from kdbench.train.device import nobodys, numerics
from kdbench.train.member import Member
from kdbench.train.room import Room

#: Fails from the third step on, where two students live. The probe's steps are on fewer images.
CROWD: dict[str, Any] = {
    "top": "LIVING = sys.__dict__.setdefault('living', set())",
    "setup": "LIVING.add(id(self))",
    "loss": "if len(LIVING) > 1 and len(step.y) == 200 and step.progress > 0.2: {}",
}
ENDS = {
    "cuda": "raise torch.OutOfMemoryError('CUDA out of memory')",
    "python": "raise MemoryError",
    "cpu": "torch.empty(1 << 60, dtype=torch.uint8)",
}


@pytest.fixture
def no_streams(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a worker in this process says, whose streams stay what they are."""
    events = io.StringIO()
    monkeypatch.setattr(worker, "_claim_stdout", lambda: events)
    monkeypatch.setattr(worker, "_heed", lambda pulse: None)
    return events


def work(bench: Bench, task: Task) -> int:
    """The exit code of a worker that does ``task``."""
    file = bench.folder / "task.json"
    file.write_text(task.to_json())
    return worker.main([str(file)])


@pytest.mark.usefixtures("plugins_in_company")
@pytest.mark.parametrize("kind", ENDS)
def test_a_crowd_runs_out_of_memory_and_each_alone_does_not(
    bench: Bench, no_streams: io.StringIO, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The one whose step failed starts over, as half of it may be done; the other goes on from where it was."""
    parts = {**CROWD, "loss": CROWD["loss"].format(ENDS[kind])}
    plugins = [bench.plugin(name, **parts) for name in ("one", "other")]
    monkeypatch.setattr(sys, "living", set(), raising=False)
    load_plugins(plugins)
    trials = bench.trials(parse_suite(suite_text(["one", "other"]), "tiny.toml"))
    (both,) = bench.tasks(trials, plugins)
    assert len(both.trials) == 2
    assert work(bench, both) == EXIT_MEMORY
    assert '"trial"' not in no_streams.getvalue()
    assert bench.records() == {}
    (saved,) = (bench.folder / "cache" / "checkpoints").glob("*.ckpt")
    state = checkpoint.load(saved, numerics(torch.device("cpu")))
    assert state is not None
    assert 0 < state["position"] < STEPS
    for trial in trials:
        sys.living.clear()  # type: ignore[attr-defined]
        assert work(bench, replace(both, trials=(trial,))) == 0
    records = bench.records()
    assert {label: record["status"] for label, record in records.items()} == dict.fromkeys(records, "finished")
    assert sorted(record["provenance"]["resumed"] for record in records.values()) == [0, 1]
    alone = bench.again("alone")
    for trial in trials:
        sys.living.clear()  # type: ignore[attr-defined]
        alone.train([trial])
    assert all(same_bits(records[label], other) for label, other in alone.records().items())


def test_what_counts_as_memory_that_ran_out() -> None:
    for error in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ):
        assert out_of_memory(error)
        assert nobodys(error)
    for error in (RuntimeError("no luck"), ValueError("can't allocate memory"), OSError(12, "Cannot allocate memory")):
        assert not out_of_memory(error)
        assert not nobodys(error)


def test_a_probe_that_runs_out_of_memory_leaves_no_room_for_another(bench: Bench) -> None:
    """It is a step on a copy: the student itself may well fit."""
    room = Room(2**40, 1)

    class Full:
        def activation_bytes(self, member: Member) -> int:
            raise torch.OutOfMemoryError

    trial = bench.trials(parse_suite(suite_text(["ce"]), "tiny.toml"))[0]
    dataset = load(trial.dataset, bench.folder / "data")
    device = torch.device("cpu")
    member = Member(trial, dataset, Batches(dataset, trial.protocol, 0, 0, device), device)
    room.add(member, Full())  # type: ignore[arg-type]
    assert not room.for_another()


def test_a_cohort_tells_what_it_holds_and_when_that_grows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter([100, 105, 120, 131, 133, *[133] * 100])
    monkeypatch.setattr(lockstep, "held_memory", lambda device: next(held))
    monkeypatch.setattr(lockstep, "PROGRESS_EVERY", 0.0)
    bench.train(bench.trials(parse_suite(suite_text(["ce"]), "tiny.toml")))
    told = [event["peak"] for event in bench.events if event["event"] == "memory"]
    assert told == [100, 120, 133]


def test_on_a_cpu_it_holds_what_is_resident(bench: Bench) -> None:
    bench.train(bench.trials(parse_suite(suite_text(["ce"]), "tiny.toml")))
    told = [event["peak"] for event in bench.events if event["event"] == "memory"]
    assert len(told) >= 1
    assert 2**26 < told[0] < 2**40
