"""Work in a process of its own and within a time: what it breaks, or takes with it, costs nobody else.

Processes are forked, so torch is loaded once; whoever forks them must not have used a GPU by then.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from kdbench.errors import UserError, described

#: Tells whoever waits.
Tell = Callable[[Any], None]

_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Ended:
    """How work ended: ``finished``, ``failed`` (and why), or ``out of time``."""

    status: str
    detail: str = ""


class Running:
    """``work`` in progress. It is given a function to tell with, and a connection on which it may be told."""

    def __init__(self, work: Callable[[Tell, Connection], None], log: Path) -> None:
        self.connection, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_do, args=(work, theirs, self.connection, log))
        self._process.start()
        theirs.close()
        self.ended: Ended | None = None

    def heard(self, until: float) -> Iterator[Any]:
        """What it tells, up to its end or to the time ``until`` (time.monotonic), at which it is killed."""
        while self.ended is None:
            left = until - time.monotonic()
            if left <= 0 or not wait([self.connection, self._process.sentinel], left):
                self.kill()
                self.ended = Ended("out of time")
            elif not self.connection.poll():
                self._process.join()
                self.ended = Ended("failed", f"its process ended with code {self._process.exitcode}")
            else:
                yield from self._next()
        self.kill()

    def _next(self) -> Iterator[Any]:
        try:
            said = self.connection.recv()
        except EOFError:
            self._process.join()
            self.ended = Ended("failed", f"its process ended with code {self._process.exitcode}")
            return
        if isinstance(said, Ended):
            self.ended = said
        else:
            yield said

    def kill(self) -> None:
        """End it at once, with all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()


def limited(work: Callable[[Tell], None], seconds: float, log: Path, hear: Tell) -> Ended:
    """Do ``work`` in a process that has so many ``seconds``; ``hear`` is told what it tells, as it does.

    What it prints goes to the file ``log``.
    """
    running = Running(lambda tell, _: work(tell), log)
    try:
        for said in running.heard(time.monotonic() + seconds):
            hear(said)
    finally:
        running.kill()
    assert running.ended is not None
    return running.ended


def _do(work: Callable[[Tell, Connection], None], ours: Connection, theirs: Connection, log: Path) -> None:
    os.setsid()
    theirs.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    try:
        work(ours.send, ours)
        ended = Ended("finished")
    except BaseException as error:  # whatever it is: the others go on
        traceback.print_exc()
        ended = Ended("failed", str(error) if isinstance(error, UserError) else described(error))
    ours.send(ended)
    os._exit(0)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os.killpg(0, signal.SIGKILL)
