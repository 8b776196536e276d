"""Every decision of a run: which task starts next and where, and what becomes of one that ended.

Values in, values out: it knows no process and no clock, so that the simulation decides by the same code.
"""

from __future__ import annotations

import bisect
import heapq
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from kdbench.plan.fleet import MEMORY_SHARE, Device, Fleet
from kdbench.plan.memory import Needs
from kdbench.plan.task import EXIT_DEVICE, EXIT_MEMORY, EXIT_REFUSED, Task
from kdbench.schedule.base import Ending, Event, Grant

#: A worker that dies without a word (killed, out of memory) is started again this often.
RETRIES = 2
#: A worker that is stopped from outside after it has saved (a node that is taken away) is started again this often.
STOPS = 100
#: A task may be overtaken for as long as it takes itself, and for at least so many seconds.
PATIENCE = 600.0
#: What a worker may yet take beyond the peak that it has told.
MARGIN = 1.1


@dataclass
class _Held:
    """What a running task holds: its grant and, once known, its memory; ``until``: when it is estimated to end."""

    grant: Grant
    until: float
    memory: float


@dataclass
class _Room:
    """What a device has left."""

    device: Device
    free: list[int]
    running: dict[int, _Held] = field(default_factory=dict)

    def memory_left(self) -> float:
        """Bytes that nobody holds; none beside a worker of which it is not known yet."""
        if self.device.memory is None:
            return float("inf")
        held = [one.memory for one in self.running.values()]
        return 0.0 if 0.0 in held else MEMORY_SHARE * self.device.memory - sum(held)

    def usable(self) -> bool:
        """Whether anybody at all could start here."""
        return bool(self.free) and not self.alone()

    def alone(self) -> bool:
        """Whether whoever runs here is to have it alone."""
        return any(one.grant.task.exclusive for one in self.running.values())

    def admits(self, task: Task) -> bool:
        """Whether ``task`` may start beside those that run here."""
        if len(self.free) < self.cores(task) or self.alone():
            return False
        if not self.running:
            return True
        known = bool(task.memory) or self.device.memory is None
        return not task.exclusive and known and task.memory <= self.memory_left()

    def cores(self, task: Task) -> int:
        """The slots that ``task`` fills here."""
        return min(task.cores, self.device.slots)


class Queue:
    """The tasks of a run: waiting, running, finished and failed.

    Tasks start in their order, those in ``after`` first, wherever there is room. One that needs more room than there is
    may be overtaken; when it has waited long, a device is kept for it.
    """

    def __init__(self, tasks: Sequence[Task], fleet: Fleet, retries: int = RETRIES) -> None:
        self.retries = retries
        self.finished: list[Task] = []
        self.failed: dict[str, str] = {}
        self._rooms = self._made_rooms(fleet)
        self._uneven = len({device.speed for device in fleet.devices}) > 1
        self._held: dict[int, _Held] = {}
        self._ids = 0
        self._ready: list[tuple[float, Task]] = []  # by place, which is unique
        self._blocked: dict[str, tuple[float, Task]] = {}
        self._followers: dict[str, list[str]] = {}
        self._front, self._back = 0.0, 0.0
        self._missing: dict[str, set[str]] = {}
        self._done: set[str] = set()
        self._overtaken: dict[str, float] = {}
        self._needs = Needs()
        for task in tasks:
            self._add(task, last=True)

    @staticmethod
    def _made_rooms(fleet: Fleet) -> list[_Room]:
        rooms, number = [], 0
        for device in fleet.devices:
            rooms.append(_Room(device, list(range(number, number + device.slots))))
            number += device.slots
        return rooms

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing waits that could."""
        return not self._held and not self._ready

    @property
    def running(self) -> list[Grant]:
        return [held.grant for held in self._held.values()]

    def start(self, now: float) -> list[Grant]:
        """Whatever may start ``now``; the caller starts it, or puts it back."""
        grants: list[Grant] = []
        refused: set[tuple[int, float, bool]] = set()
        matched = self._matched(now) if self._uneven else None
        usable = [number for number, room in enumerate(self._rooms) if room.usable()]
        for place, waiting in self._ready.copy():
            if not usable:
                break
            memory = self._needs.of(waiting)
            task = waiting if memory == waiting.memory else replace(waiting, memory=memory)
            need = (task.cores, task.memory, task.exclusive)
            if need in refused or (matched is not None and task.id not in matched):
                continue
            if (number := self._choose(task, usable, None if matched is None else matched[task.id])) is not None:
                grants.append(self._grant(place, task, number, now))
                if not self._rooms[number].usable():
                    usable.remove(number)
                continue
            refused.add(need)
            if self._waited_long(task, now) and (kept := self._soonest(task, usable)) is not None:
                usable.remove(kept)  # it is left to run empty
        return grants

    def put_back(self, grant: Grant) -> None:
        """Undo a grant whose worker could not be started."""
        self._free(grant)
        self._add(grant.task, last=False)

    def holds(self, grant: Grant, memory: float) -> None:
        """Take note that the worker of ``grant`` was measured to hold so many bytes."""
        if grant.id in self._held:
            self._held[grant.id].memory = MARGIN * memory
            self._needs.learn(grant.task, MARGIN * memory)

    def ended(self, grant: Grant, ending: Ending) -> list[tuple[Task, Event]]:
        """What becomes of the task of ``grant``, as events to tell."""
        memory = self._held[grant.id].memory
        self._free(grant)
        task = replace(grant.task, memory=max(grant.task.memory, memory))
        if ending.code == 0 and ending.done:
            self.finished.append(task)
            self._done.add(task.id)
            self._unblock(task.id)
            return [(task, {"event": "ended"})]
        if (again := self._another_try(task, ending)) is not None:
            self._add(again, last=False)
            text = f"its worker {ending.why}; another one goes on"
            return [(task, {"event": "retried", "text": text})]
        if len(task.trials) > 1 and ending.code != EXIT_REFUSED:
            halves = ending.code == EXIT_MEMORY
            for part in reversed(_halves(task) if halves else _parts(task)):
                self._add(part, last=bool(task.plugins) and not halves)
            how = "in halves" if halves else "one by one"
            return [(task, {"event": "retried", "text": f"{_told(ending)}; its trials go on {how}"})]
        text = ending.refused or f"{task.title}: {_told(ending)}."
        self.failed[task.id] = text
        told = {"event": "failed", "text": text, "timed_out": ending.late, "refused": bool(ending.refused)}
        return [(task, told), *self._drop_followers(task.id, text)]

    def _another_try(self, task: Task, ending: Ending) -> Task | None:
        """The task anew where it was ended from outside, or lost its GPU or its memory to others; None elsewhere.

        Several trials together are tried again once, as one of them may be the cause, and then one by one. The last
        try of a trial has its device to itself.
        """
        if ending.late or ending.code == EXIT_REFUSED:
            return None
        several, alone = len(task.trials) > 1, task.exclusive
        once_more = replace(task, attempt=task.attempt + 1)
        if ending.code == EXIT_MEMORY:
            return None if several or alone else replace(once_more, exclusive=True)
        if ending.saved or ending.lost:
            return once_more if task.attempt <= STOPS else None
        outside = ending.code < 0 or (ending.code == EXIT_DEVICE and not several)
        tries = min(self.retries, 1) if several else self.retries
        if not outside or task.attempt > tries:
            return None
        return replace(once_more, exclusive=alone or (not several and task.attempt == tries))

    def _drop_followers(self, name: str, why: str) -> list[tuple[Task, Event]]:
        """Tasks whose teacher could not be made ready fail with its reason, and so do those that wait for them.

        Their trials that need no teacher are run all the same.
        """
        told: list[tuple[Task, Event]] = []
        for follower in self._followers.pop(name, []):
            if (found := self._blocked.pop(follower, None)) is None:
                continue
            _, task = found
            if (alone := task.without_teacher()) is not None:
                self._add(alone, last=True)
            self.failed[follower] = why
            told.append((task, {"event": "failed", "text": why, "dependent": True}))
            told += self._drop_followers(follower, why)
        return told

    def _add(self, task: Task, last: bool) -> None:
        """Let ``task`` wait, behind all others or before them."""
        if last:
            self._back += 1
            place = self._back
        else:
            self._front -= 1
            place = self._front
        missing = set(task.after) - self._done
        if not missing:
            bisect.insort(self._ready, (place, task), key=lambda each: each[0])
            return
        self._blocked[task.id], self._missing[task.id] = (place, task), missing
        for name in missing:
            self._followers.setdefault(name, []).append(task.id)

    def _unblock(self, name: str) -> None:
        for follower in self._followers.pop(name, []):
            self._missing[follower].discard(name)
            if not self._missing[follower] and follower in self._blocked:
                bisect.insort(self._ready, self._blocked.pop(follower), key=lambda each: each[0])

    def _choose(self, task: Task, usable: Sequence[int], speed: float | None) -> int | None:
        """Of the ``usable`` devices, of that ``speed`` if it matters, the one that has room and the fewest workers."""
        rooms = ((number, self._rooms[number]) for number in usable)
        fits = [(len(r.running), number) for number, r in rooms if speed in (None, r.device.speed) and r.admits(task)]
        return min(fits)[1] if fits else None

    def _matched(self, now: float) -> dict[str, float]:
        """For devices of different speeds: the tasks to start now, and on a device of which speed.

        In their order tasks are given to whoever is estimated to be done with them first, though it be busy yet; those
        that a free device is given to start. A slow device so is left idle rather than given what a fast one ends
        sooner.
        """
        free: dict[float, list[float]] = {}
        for room in self._rooms:
            ends = free.setdefault(room.device.speed, [])
            ends += [now] * len(room.free)
            ends += [max(held.until, now) for held in room.running.values() for _ in held.grant.slots]
        for ends in free.values():
            heapq.heapify(ends)
        idle = sum(len(room.free) for room in self._rooms)
        found: dict[str, float] = {}
        # Those that all slots are busy with until even the slowest is worth its time; beyond them nobody starts now.
        most = int(sum(map(len, free.values())) * (1 + max(free) / min(free)))
        for _, task in self._ready[:most]:
            if not idle:
                break
            _, speed = min((ends[0] + task.cost / speed, -speed) for speed, ends in free.items())
            ends = free[-speed]
            if ends[0] <= now:
                found[task.id] = -speed
                idle -= 1
            heapq.heapreplace(ends, ends[0] + task.cost / -speed)
        return found

    def _waited_long(self, task: Task, now: float) -> bool:
        return now - self._overtaken.setdefault(task.id, now) > max(task.cost, PATIENCE)

    def _soonest(self, task: Task, usable: Sequence[int]) -> int | None:
        """Which of the ``usable`` devices to keep for ``task``; None where it fits in nowhere that is not full anyway.

        The one that is estimated to be empty first, of all that have as many slots as it fills.
        """
        wide = [n for n, room in enumerate(self._rooms) if room.device.slots >= task.cores] or range(len(self._rooms))
        ends = {n: max((held.until for held in self._rooms[n].running.values()), default=0.0) for n in wide}
        soonest = min(ends, key=lambda number: ends[number])
        return soonest if soonest in usable else None

    def _grant(self, place: float, task: Task, number: int, now: float) -> Grant:
        room = self._rooms[number]
        cores = room.cores(task)
        slots, room.free = tuple(room.free[:cores]), room.free[cores:]
        if task.memory and room.device.memory:
            task = replace(task, share=min(task.memory / room.memory_left(), 1.0))
        self._ids += 1
        grant = Grant(self._ids, task, number, slots)
        held = _Held(grant, now + task.cost / room.device.speed, task.memory)
        room.running[grant.id] = self._held[grant.id] = held
        self._overtaken.pop(task.id, None)
        del self._ready[bisect.bisect_left(self._ready, place, key=lambda each: each[0])]
        return grant

    def _free(self, grant: Grant) -> None:
        room = self._rooms[grant.device]
        room.free += grant.slots
        del room.running[grant.id], self._held[grant.id]


def _told(ending: Ending) -> str:
    return f"{ending.why if ending.late else f'its worker {ending.why}'}; its log is {ending.log}"


def _halves(task: Task) -> list[Task]:
    """The first and the second half of the trials of ``task``, each as a task."""
    middle = (len(task.trials) + 1) // 2
    return [_part(task, range(middle)), _part(task, range(middle, len(task.trials)))]


def _parts(task: Task) -> list[Task]:
    """One task a trial.

    Whichever of them takes its process down does so alone, the others go on from their checkpoints.
    """
    return [_part(task, [number]) for number in range(len(task.trials))]


def _part(task: Task, numbers: Iterable[int]) -> Task:
    """The trials of ``task`` with these ``numbers`` as a task of its own."""
    trials = tuple(task.trials[number] for number in numbers)
    alone = len(trials) == 1
    return replace(
        task,
        id=f"{task.id}-{trials[0].key[:8]}",
        title=trials[0].title if alone else f"{task.title} ({len(trials)} of its trials)",
        trials=trials,
        cost=task.cost * len(trials) / len(task.trials),
        attempt=task.attempt + 1,
        cores=1 if alone else task.cores,
        memory=0.0,
    )


def how(code: int) -> str:
    """What an exit code says of a worker's end."""
    named = {EXIT_DEVICE: "lost its GPU", EXIT_MEMORY: "ran out of memory"}
    if code >= 0:
        return named.get(code, f"ended with code {code}")
    name = next((sign.name for sign in signal.Signals if sign == -code), f"signal {-code}")
    return f"was ended by {name}{', as happens when memory runs out' if code == -signal.SIGKILL else ''}"
