"""Several cores for one cohort: its students are stepped side by side, each operation on the protocol's threads.

Operations run as they do alone, so the bits are those of one student after the other (measured, and held to by a test);
threads inside an operation would give other bits, and less speed. On a GPU streams take the place of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from kdbench.models import MODELS
from kdbench.trials.origins import foreign_method, foreign_model
from kdbench.trials.trial import Trial

T = TypeVar("T")
R = TypeVar("R")


class Crew:
    """``cores`` threads that share a process; with one core everything happens at once, in the caller's thread."""

    def __init__(self, cores: int = 1, threads: int = 1) -> None:
        self.cores = cores
        self._pool = None if cores < 2 else ThreadPoolExecutor(cores, "crew", lambda: torch.set_num_threads(threads))

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """``work`` done for each of ``items``, in any order; the results in theirs.

        Whoever raises, it is heard of when nobody is at work any more.
        """
        if self._pool is None:
            return [work(item) for item in items]
        begun = [self._pool.submit(work, item) for item in items]
        wait(begun)
        return [one.result() for one in begun]

    def ahead(self, work: Callable[[], R]) -> Future[R] | None:
        """``work`` begun beside whatever the caller does next; None where there is no core to spare."""
        return None if self._pool is None else self._pool.submit(work)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


class Streams(Crew):
    """Streams of a GPU, one a student: small kernels of several students share it.

    Launching from one thread, this gains something where a launch is much work at once, as that of a CUDA graph is.
    """

    #: As many as torch has before two students share one.
    COUNT = 32

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.cores, self.device = self.COUNT, device
        self._streams: dict[int, torch.cuda.Stream] = {}

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """``work`` launched for each of ``items``, after all that was launched before and before all that comes after.

        An item keeps its stream, as memory that was used on one is handed out again there without waiting.
        """
        here = torch.cuda.current_stream(self.device)
        results = []
        for item in items:
            stream = self._streams.setdefault(id(item), torch.cuda.Stream(self.device))
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                results.append(work(item))
        for item in items:
            here.wait_stream(self._streams[id(item)])
        return results


def self_contained(trial: Trial, *parts: nn.Module) -> bool:
    """Whether the student of ``trial``, made of ``parts``, may be stepped beside others.

    It must draw nothing from torch's global generator, which threads share, and write to nothing that the cohort
    shares. Of kdbench's own that is tested; other people's are stepped one after the other.
    """
    drawing = any(isinstance(module, _DropoutNd) for part in parts for module in part.modules())
    return trial.student in MODELS and not drawing and is_ours(trial)


def is_ours(trial: Trial) -> bool:
    """Whether the method of ``trial``, all that it wraps and sums included, and its student are kdbench's own."""
    return not foreign_method(trial.method) and not foreign_model(trial.student)
