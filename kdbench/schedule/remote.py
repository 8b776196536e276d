"""The coordinator's side of a cluster's backends: it has relays started on nodes, and reads what they write."""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdbench.errors import UserError
from kdbench.schedule.base import Ending, Event, Grant
from kdbench.schedule.local import GRACE, Command, events_of, last_line, worker
from kdbench.schedule.queue import how
from kdbench.schedule.relay import Launch, events_file

#: Seconds between two looks into the files of all workers, on a file server maybe.
LOOK = 1.0
#: Seconds after which a job that is gone is given up, if it has not said how its worker ended: file servers lag.
LAG = 30.0
#: Seconds beyond the grace of workers in which a cluster is to end what was cancelled.
CANCELLING = 60.0


@dataclass(eq=False)
class Placed:
    """A launch, told to a relay in the file ``told``, that waits for its node or runs there, as the cluster's ``job``.

    ``read``: bytes that have been read of what each of its relays wrote; there are several where a job was put back
    into the queue. ``gone``: since when the cluster knows nothing of it. ``stopped``: it was told to end.
    """

    grant: Grant
    launch: Launch
    told: Path
    job: object = None
    started: bool = False
    gone: float | None = None
    stopped: bool = False
    read: list[int] = field(default_factory=lambda: [0])

    def news(self) -> Iterator[Event | Ending]:
        """What has been written since the last time; an Ending comes last."""
        if events_file(self.told, len(self.read)).exists():
            self.read.append(0)
        for number in range(len(self.read)):
            for event in self._read(number):
                self.started = True
                if event["event"] != "exit":
                    yield event
                    continue
                code = int(event["code"])
                if (event["told"] or code == -signal.SIGTERM) and not self.stopped:  # not by us
                    yield Ending(code, "was ended by the cluster", self.launch.log, lost=True)
                    return
                why = f"{how(code)}{last_line(Path(self.launch.log)) if code else ''}"
                yield Ending(code, why, self.launch.log)
                return

    def _read(self, number: int) -> Iterator[Event]:
        """The events in the new whole lines of a file, opened anew, as file servers show what was there when it was."""
        try:
            with events_file(self.told, number).open("rb") as stream:
                stream.seek(self.read[number])
                lines, end, _ = stream.read().rpartition(b"\n")
        except OSError:  # there is none yet, or its server is away
            return
        self.read[number] += len(lines + end)
        yield from events_of(lines.split(b"\n"))


class RemoteLauncher(ABC):
    """A Launcher whose workers run wherever a cluster has room; their files lie in ``folder``, which its nodes share.

    What ends a worker is the line that says so; the cluster's own word counts where there is none.
    """

    def __init__(
        self, folder: Path, cuda: bool, command: Command = worker, look: float = LOOK, lag: float = LAG
    ) -> None:
        self.folder, self.cuda, self.command = folder.absolute(), cuda, command
        self.look, self.lag = look, lag
        self.placed: dict[int, Placed] = {}
        self._looked = 0.0
        self._heard_of_one = False

    @abstractmethod
    def cores(self, grant: Grant) -> int:
        """The cores of a node that the worker for ``grant`` may use."""

    @abstractmethod
    def place(self, new: Sequence[Placed]) -> None:
        """Have the cluster start a relay for each of ``new``."""

    @abstractmethod
    def attend(self) -> Iterator[tuple[Grant, Event]]:
        """Whatever is to be done now and then: set ``gone`` of launches of which the cluster knows nothing any more."""

    @abstractmethod
    def cancel(self, some: Sequence[Placed]) -> None:
        """Have the cluster end ``some``: those that run may save first."""

    def release(self, one: Placed) -> None:  # noqa: B027
        """Take note that the worker of ``one`` has ended: whatever is left of its job is to end, too."""

    def fate(self, one: Placed) -> Ending:
        """What is known of the worker of ``one``, which has not said how it ended, and whose job is gone."""
        return Ending(-9, "is gone with its node", one.launch.log, lost=True)

    def blame(self, one: Placed) -> str:
        """Why the first job of a run may have ended before its relay wrote a word; empty where only a node was lost."""
        return f"{self.folder} must be on a file system that the nodes share; KDBENCH_CACHE can name one that is"

    def start(self, grants: Sequence[Grant]) -> list[tuple[Grant, Exception]]:
        new: list[Placed] = []
        refused: list[tuple[Grant, Exception]] = []
        for grant in grants:
            launch = Launch.of(grant, self.folder, self.command, self.cores(grant), self.cuda)
            try:
                new.append(Placed(grant, launch, launch.write(grant)))
            except OSError as error:  # no room on the disk
                refused.append((grant, error))
        self.placed.update((one.grant.id, one) for one in new)
        self.place(new)
        return refused

    def hear(self, seconds: float) -> list[tuple[Grant, Event | Ending]]:
        time.sleep(seconds)
        heard: list[tuple[Grant, Event | Ending]] = list(self.attend()) if seconds else []
        now = time.monotonic()
        if seconds and now - self._looked < self.look:
            return heard
        self._looked = now
        for one in list(self.placed.values()):
            for said in (*one.news(), *self._missed(one, now)):
                heard.append((one.grant, said))
                if isinstance(said, Ending):
                    del self.placed[one.grant.id]
                    self.release(one)
                    break
        return heard

    def _missed(self, one: Placed, now: float) -> Iterator[Ending]:
        """The end of ``one`` where its job is gone."""
        self._heard_of_one = self._heard_of_one or one.started
        if one.gone is None:
            return
        if one.stopped and not one.started:
            yield Ending(-15, "was cancelled", one.launch.log)
        elif now - one.gone > self.lag:
            if not self._heard_of_one and (why := self.blame(one)):
                raise UserError(f"A worker on the cluster ended before its first word: {why}.")
            yield self.fate(one)

    def stop(self, grant: Grant) -> None:
        if one := self.placed.get(grant.id):
            one.stopped = True
            self.cancel([one])

    def close(self) -> None:
        """Cancel what runs or waits; what the last of them said is heard afterwards."""
        for one in self.placed.values():
            one.stopped = True
        if not self.placed:
            return
        self.cancel(list(self.placed.values()))
        end = time.monotonic() + GRACE + CANCELLING
        try:
            while time.monotonic() < end and any(one.gone is None for one in self.placed.values()):
                time.sleep(self.look / 2)
                for _ in self.attend():
                    continue
        except KeyboardInterrupt:  # again: the cluster ends them without us
            return
