"""A run: it starts what the queue grants through a launcher, listens, and lets the queue decide what comes of it."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kdbench.errors import reason
from kdbench.plan.fleet import Fleet
from kdbench.plan.task import Task
from kdbench.schedule.base import Ending, Event, Grant, Launcher, Report, Watch
from kdbench.schedule.queue import RETRIES, Queue

#: Seconds a worker may be silent. It speaks every second while it works; starting takes longer.
SILENCE = 1800.0
#: Seconds that one turn of the loop may take; more, and the process was stopped, or the machine slept.
STANDSTILL = 10.0
#: Seconds until it is tried again to start what could not be started.
PAUSE = 5.0
#: Seconds that the loop listens for at a time.
TURN = 0.1


@dataclass
class _Watched:
    """A worker's times: when it was last heard, and since when it has recorded nothing; None until it has started."""

    grant: Grant
    heard: float | None = None
    landed: float | None = None
    done: bool = False
    refused: str = ""
    saved: bool = False
    #: Why it was told to end.
    late: str = ""

    def hear(self, event: Event, now: float) -> None:
        self.heard = now
        what = event["event"]
        if what in ("started", "trial", "teacher"):
            self.landed = now
        if what == "waiting":  # for another run's claim, or for room on a disk, which is no fault
            self.heard, self.landed = now + 1e9, now + 1e9
        elif self.landed is not None and self.landed > now:
            self.landed = now
        self.done = self.done or what == "done"
        self.saved = self.saved or what == "stopped"
        if what == "refused":
            self.refused = str(event.get("text", ""))

    def forgive(self, seconds: float) -> None:
        """Nobody listened for so many seconds."""
        if self.heard is not None and self.landed is not None:
            self.heard, self.landed = self.heard + seconds, self.landed + seconds


class Coordinator:
    """An Executor of any ``launcher``: the loop, the limits of time, and the end.

    ``silence``: seconds without a word after which a worker is ended. ``limit``: seconds without a record, None for no
    limit.
    """

    def __init__(
        self,
        fleet: Fleet,
        launcher: Launcher,
        *,
        silence: float = SILENCE,
        limit: float | None = None,
        retries: int = RETRIES,
    ) -> None:
        self.fleet, self.launcher, self.retries = fleet, launcher, retries
        self.silence, self.limit = silence, limit
        self._running: dict[int, _Watched] = {}
        self._paused_until = 0.0
        self._said_paused = False

    def run(self, tasks: Sequence[Task], watch: Watch) -> Report:
        """Run ``tasks``; on Ctrl-C or SIGTERM end every worker, keep what landed, and say so in the Report."""
        queue = Queue(tasks, self.fleet, self.retries)
        interrupted = False
        with _sigterm_as_interrupt():
            try:
                turned = time.monotonic()
                while not queue.over:
                    self._start(queue, watch)
                    self._listen(queue, watch, TURN)
                    turned = self._allow_for_a_stop(turned)
                    self._end_late()
            except KeyboardInterrupt:
                interrupted = True
            finally:
                self.launcher.close()
                if interrupted:
                    self._last_words(queue, watch)
        return Report(queue.finished, queue.failed, interrupted)

    def _start(self, queue: Queue, watch: Watch) -> None:
        """Start what is granted; what there is no room for, on the disk say, is put back and tried again."""
        if time.monotonic() < self._paused_until:
            return
        grants = queue.start(time.monotonic())
        self._running.update((grant.id, _Watched(grant)) for grant in grants)
        refused = self.launcher.start(grants) if grants else []
        for grant, error in reversed(refused):
            del self._running[grant.id]
            queue.put_back(grant)
            if not self._said_paused:
                text = f"cannot be started ({reason(error)}); free some room, the run tries again by itself"
                watch(grant.task, {"event": "waiting", "text": text})
            self._said_paused = True
        if refused:
            self._paused_until = time.monotonic() + PAUSE
        elif grants:
            self._said_paused = False

    def _listen(self, queue: Queue, watch: Watch, seconds: float) -> None:
        for grant, said in self.launcher.hear(seconds):
            one = self._running.get(grant.id)
            if one is None:
                continue
            if isinstance(said, Ending):
                del self._running[grant.id]
                ending = dataclasses.replace(said, done=one.done, refused=one.refused, saved=one.saved)
                if one.late:
                    ending = dataclasses.replace(ending, late=True, why=one.late)
                for task, event in queue.ended(grant, ending):
                    watch(task, event)
                continue
            one.hear(said, time.monotonic())
            if said["event"] == "memory":
                queue.holds(grant, float(said.get("peak", 0.0)))
            watch(grant.task, said)

    def _last_words(self, queue: Queue, watch: Watch) -> None:
        """What workers said while they were ended: that the last of their trials are recorded."""
        for grant, said in self.launcher.hear(0.0):
            if not isinstance(said, Ending):
                self._running[grant.id].hear(said, time.monotonic())
                watch(grant.task, said)
            elif said.code == 0 and self._running[grant.id].done:
                queue.ended(grant, dataclasses.replace(said, done=True))

    def _allow_for_a_stop(self, turned: float) -> float:
        """The time now; where this process stood still since ``turned``, no worker is to blame for that silence."""
        now = time.monotonic()
        if now - turned > STANDSTILL:
            for one in self._running.values():
                one.forgive(now - turned)
        return now

    def _end_late(self) -> None:
        """End workers that have been silent, or without a record, for too long."""
        now = time.monotonic()
        for one in self._running.values():
            if one.late or one.heard is None or one.landed is None:
                continue
            if now - one.heard > self.silence:
                one.late = f"no word from its worker for {self.silence / 60:.3g} min, so it was ended"
            elif self.limit is not None and now - one.landed > self.limit:
                one.late = f"no record from its worker within {self.limit / 60:.3g} min, so it was ended"
            if one.late:
                self.launcher.stop(one.grant)


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Inside, SIGTERM ends a run as Ctrl-C does, so that a batch system's end leaves no orphans either.

    So does SIGHUP, which a closed terminal sends, unless it is ignored, as nohup has it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    ends = [sign for sign in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(sign) is not signal.SIG_IGN]
    before = {sign: signal.signal(sign, interrupt) for sign in ends}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
