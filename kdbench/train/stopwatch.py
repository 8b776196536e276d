"""How long work takes on a device that goes on working while Python does something else."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import torch

#: A piece of so many seconds in which the processor worked for less than this share of them stood still: the process
#: was stopped, or its machine asleep, and no method is to blame for that.
LONG, STILL = 1.0, 0.02


class Stopwatch:
    """Adds up ``seconds`` of pieces of work; of one that stood still on a CPU, what the processor worked for it.

    On a GPU, a piece lasts from one event in its queue to another: Python's own clock would see launches alone, and
    charge whoever is the first to wait with what all others had launched.
    """

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self._cuda = device.type == "cuda"
        self._seconds = seconds
        self._pieces: deque[tuple[Any, Any]] = deque()

    def mark(self) -> Any:
        """Where a piece of work begins."""
        if not self._cuda:
            return time.perf_counter(), time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, began: Any) -> None:
        """Count the piece that was begun at the mark ``began`` and ends here; nobody waits for it."""
        ended = self.mark()
        if not self._cuda:
            lasted, worked = (end - begin for begin, end in zip(began, ended, strict=True))
            self._seconds += worked if lasted > LONG and worked < STILL * lasted else lasted
            return
        self._pieces.append((began, ended))
        while self._pieces and self._pieces[0][1].query():
            self._count()

    @property
    def seconds(self) -> float:
        """Of all pieces so far, which are waited for."""
        while self._pieces:
            self._pieces[0][1].synchronize()
            self._count()
        return self._seconds

    def _count(self) -> None:
        began, ended = self._pieces.popleft()
        self._seconds += began.elapsed_time(ended) / 1000
