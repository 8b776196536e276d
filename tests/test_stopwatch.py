"""Seconds of work: of this process on a CPU, between events in the queue of a GPU."""

from __future__ import annotations

import time

import pytest
import torch

from kdbench.train.stopwatch import Stopwatch


def test_pieces_add_up() -> None:
    watch = Stopwatch(torch.device("cpu"), 100.0)
    for _ in range(2):
        before = watch.seconds
        watch.add(watch.mark())
        assert watch.seconds > before
    assert watch.seconds < 200


@pytest.mark.parametrize(
    ("lasted", "worked", "counted"),
    [(100.0, 0.05, 0.05), (100.0, 30.0, 100.0), (0.9, 0.0, 0.9), (0.1, 0.2, 0.1)],
    ids=["stopped", "shared with other programs", "short", "two threads"],
)
def test_a_process_that_was_stopped_did_no_work(
    monkeypatch: pytest.MonkeyPatch, lasted: float, worked: float, counted: float
) -> None:
    watch = Stopwatch(torch.device("cpu"))
    monkeypatch.setattr(time, "perf_counter", iter([5.0, 5.0 + lasted]).__next__)
    monkeypatch.setattr(time, "process_time", iter([2.0, 2.0 + worked]).__next__)
    watch.add(watch.mark())
    assert watch.seconds == pytest.approx(counted)


class Queue:
    """A GPU that has done what was launched up to ``now``, in milliseconds; each event is recorded where it ends."""

    launched = now = 0.0

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = Queue.launched

        def query(self) -> bool:
            return self.at <= Queue.now

        def synchronize(self) -> None:
            Queue.now = max(Queue.now, self.at)

        def elapsed_time(self, end: Queue.Event) -> float:
            assert self.query()
            assert end.query()
            return end.at - self.at


def test_a_gpus_work_is_charged_to_whoever_launched_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Queue.Event)
    watches = {3.0: Stopwatch(torch.device("cuda")), 5.0: Stopwatch(torch.device("cuda"))}
    for _ in range(4):
        for milliseconds, watch in watches.items():
            began = watch.mark()
            Queue.launched += milliseconds
            watch.add(began)
    assert Queue.now == 0, "nobody waited"
    Queue.now = 12.0
    watches[3.0].add(watches[3.0].mark())
    assert len(watches[3.0]._pieces) == 3, "what has ended is counted on the way"
    assert watches[3.0].seconds == pytest.approx(0.012)
    assert watches[5.0].seconds == pytest.approx(0.020)
    assert watches[5.0].seconds == pytest.approx(0.020)
