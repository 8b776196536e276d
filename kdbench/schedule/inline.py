"""Every task in this process, one after the other: for a debugger."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from kdbench import environment
from kdbench.errors import UserError, described, plain
from kdbench.plan.fleet import Fleet
from kdbench.plan.task import EXIT_REFUSED, Task
from kdbench.schedule.backends import Choice, Work
from kdbench.schedule.base import Ending, Executor, Grant, Report, Watch
from kdbench.schedule.devices import find_fleet
from kdbench.schedule.queue import Queue


class InlineBackend:
    """This process, on the first device of this machine."""

    def __init__(self, choice: Choice) -> None:
        environment.pin()
        self.choice = choice

    def fleet(self, threads: int) -> Fleet:
        fleet = find_fleet(self.choice.device, 1, threads)
        os.environ["CUDA_VISIBLE_DEVICES"] = fleet.devices[0].name
        return fleet

    def executor(self, fleet: Fleet, folder: Path) -> Executor:
        return InlineExecutor(fleet, self.choice.work)


class InlineExecutor:
    """Does tasks by calling ``work``. What it raises is printed where it was raised, and costs that task alone."""

    def __init__(self, fleet: Fleet, work: Work) -> None:
        self.fleet, self.work = fleet, work
        self._told_to_end = False

    def run(self, tasks: Sequence[Task], watch: Watch) -> Report:
        """Run ``tasks``; a Ctrl-C ends the run, and what landed stays."""
        queue, interrupted = Queue(tasks, self.fleet, retries=0), False
        try:
            with self._heeding():
                while not queue.over:
                    for grant in queue.start(time.monotonic()):
                        for task, event in queue.ended(grant, self._ending(grant, watch)):
                            watch(task, event)
        except KeyboardInterrupt:
            interrupted = True
        return Report(queue.finished, queue.failed, interrupted)

    def _ending(self, grant: Grant, watch: Watch) -> Ending:
        task = grant.task
        here = {"pid": os.getpid(), "host": socket.gethostname(), "device": self.fleet.devices[grant.device].name}
        watch(task, {"event": "started", "slot": 0, "attempt": task.attempt, **here})
        try:
            self.work(task, lambda event: watch(task, event))
        except UserError as error:
            return Ending(EXIT_REFUSED, "refused", "this terminal", refused=str(error))
        except (Exception, KeyboardInterrupt) as error:  # which a plugin may raise, too
            if self._told_to_end:
                raise
            for line in traceback.format_exc().splitlines():
                print(plain(line), file=sys.stderr)
            return Ending(1, f"raised {described(error)}", "this terminal")
        return Ending(0, "", done=True)

    @contextlib.contextmanager
    def _heeding(self) -> Iterator[None]:
        """Inside, Ctrl-C is told from a KeyboardInterrupt that was merely raised."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def end(*_: object) -> None:
            self._told_to_end = True
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, end)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
