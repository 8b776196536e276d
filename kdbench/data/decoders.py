"""Processes that decode images ahead of their use, in the order in which they are asked for.

They are told paths and random numbers and hold nothing themselves, so one set of them serves training and evaluation,
a start at any step needs no rewinding, and how many there are changes no bit. That, errors that arrive as they are
raised, and pieces smaller than a batch are what torch's DataLoader does not give.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing import forkserver, resource_tracker

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdbench import environment
from kdbench.data.decoding import decode
from kdbench.data.files import ImageFiles
from kdbench.data.spec import Images
from kdbench.data.splits import shards
from kdbench.errors import DataError

#: Images a process is given at a time.
PIECE = 32


class Pending:
    """A batch that is being decoded, or that is decoded when it is asked for."""

    def __init__(self, pieces: Sequence[Callable[[], Tensor]]) -> None:
        self._pieces = pieces

    def pictures(self, device: torch.device) -> Tensor:
        """The batch on ``device``: uint8 [N,C,H,W], channels last. DataError names a damaged file."""
        with _killed():
            pieces = [piece() for piece in self._pieces]
        if device.type == "cuda":
            pinned = torch.empty((sum(map(len, pieces)), *pieces[0].shape[1:]), dtype=torch.uint8, pin_memory=True)
            whole = torch.cat(pieces, out=pinned).to(device, non_blocking=True)
        else:
            whole = torch.cat(pieces)
        return whole.permute(0, 3, 1, 2)


class Decoders:
    """``count`` processes; with none of them images are decoded where they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = _pool(count) if count else None

    def ahead(self, batch: int) -> int:
        """How many batches of ``batch`` images to ask for before they are needed, so that every process is busy."""
        return -(-2 * self.count * PIECE // batch)

    def decode(self, images: ImageFiles, words: NDArray[np.uint64] | None = None) -> Pending:
        """Begin to decode ``images``, N of them; ``words`` [N] as in ``kdbench.data.decoding.decode``."""
        paths, pieces = list(images.paths()), []
        with _killed():
            for start in range(0, len(paths), PIECE):
                places = slice(start, start + PIECE)
                drawn = None if words is None else words[places]
                job = partial(decode, paths[places], images.picture, drawn, images.view)
                pieces.append(job if self._pool is None else self._pool.submit(job).result)
        return Pending(pieces)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


@cache
def decoders() -> Decoders:
    """This process's, as many as ``KDBENCH_DECODERS`` says; none without it."""
    return Decoders(environment.decoders())


def pieces_of(
    images: Images | ImageFiles,
    size: int,
    device: torch.device,
    *,
    rank: int = 0,
    world: int = 1,
    pool: Decoders | None = None,
) -> Iterator[Tensor]:
    """``images`` in order as uint8 [<=``size``,C,H,W] on ``device``; of several processes, each shows whole batches."""
    batches = (slice(size * number, size * (number + 1)) for number in shards(-(-len(images) // size), rank, world))
    if not isinstance(images, ImageFiles):
        for places in batches:
            yield torch.from_numpy(np.ascontiguousarray(images[places])).to(device)
        return
    pool = pool or decoders()
    pending: deque[Pending] = deque()
    for places in batches:
        pending.append(pool.decode(images[places]))
        if len(pending) > pool.ahead(size):
            yield pending.popleft().pictures(device)
    for last in pending:
        yield last.pictures(device)


def _pool(count: int) -> ProcessPoolExecutor:
    # From a server that has nothing but this module: a fork of a process that trains would inherit its threads' locks
    # and its CUDA context, a fresh start of each process would import torch as often.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    # Whoever ends the whole process group by SIGTERM lets the training save itself, which may need them until then.
    resource_tracker.ensure_running()  # which unblocks it as it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return ProcessPoolExecutor(count, context, initializer=_begin)


def _begin() -> None:
    """Set a process up that decodes."""
    gc.freeze()  # what is loaded now stays: no collection looks at it again
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's processes wait for work for ever when their parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(3)


@contextmanager
def _killed() -> Iterator[None]:
    """Say in a sentence that a process was killed."""
    try:
        yield
    except BrokenProcessPool:
        raise DataError(
            "A process that decodes images was killed, perhaps for lack of memory; start the run again, with a smaller "
            "KDBENCH_DECODERS if it happens again."
        ) from None
