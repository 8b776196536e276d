"""A run on a fleet that need not exist: the queue's own decisions, under a clock that jumps from end to end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdbench.plan.fleet import Device, Fleet
from kdbench.plan.task import Task
from kdbench.plan.tasks import longest_chain
from kdbench.schedule.base import Ending, Grant
from kdbench.schedule.queue import STOPS, Queue

#: Seconds that a worker takes until it trains.
START = 5.0
#: Seconds of training that a failure costs: on average half of what lies between two checkpoints.
LOST = 30.0


@dataclass(frozen=True)
class Forecast:
    """What a run would take: times in seconds, ``cost`` in the prices' currency.

    ``makespan``: until the last task ends. ``bound``: what no schedule can undercut, the total work over the fleet's
    capacity or the longest chain of tasks that wait for one another on its fastest device. ``device_seconds``: of
    devices that had something to do. ``utilisation``: their share of all devices until the end.
    """

    makespan: float
    bound: float
    device_seconds: float
    utilisation: float
    cost: float
    failures: int
    tasks: int
    #: Titles of tasks that no device of the fleet finished.
    unfinished: tuple[str, ...] = ()


@dataclass
class _Run:
    """A task that runs; ``left``: seconds of the plan's estimate that are to be done yet."""

    grant: Grant
    left: float


class _Site:
    """A device at work. On a GPU those that share it are as slow as if they took turns, which is the worst case."""

    def __init__(self, device: Device, shared: bool) -> None:
        self.device, self.shared = device, shared
        self.runs: list[_Run] = []
        self.since = 0.0
        self.busy = 0.0
        self.next_failure = float("inf")

    def rate(self) -> float:
        """Seconds of the estimate that each task gets done in a second."""
        return self.device.speed / (max(len(self.runs), 1) if self.shared else 1)

    def advance(self, now: float) -> None:
        """Account for the time until ``now``."""
        if self.runs:
            self.busy += now - self.since
            for run in self.runs:
                run.left -= (now - self.since) * self.rate()
        self.since = now

    def next_end(self) -> float:
        """When the first of its tasks ends, as things stand."""
        return self.since + max(min(run.left for run in self.runs), 0.0) / self.rate() if self.runs else float("inf")


def simulate(tasks: Sequence[Task], fleet: Fleet, *, start: float = START, seed: int = 0) -> Forecast:
    """Run ``tasks`` on ``fleet``, each for as long as it was estimated to take.

    Devices fail at random (``seed``), and their tasks go on elsewhere from their last checkpoint.
    """
    chance = random.Random(seed)
    queue = Queue(tasks, fleet, retries=STOPS)
    sites = [_Site(device, fleet.kind == "cuda" and device.slots > 1) for device in fleet.devices]
    left: dict[str, float] = {}
    now, failures = 0.0, 0
    for site in sites:
        site.next_failure = _failure(site.device, now, chance)
    while not queue.over:
        for grant in queue.start(now):
            site = sites[grant.device]
            site.advance(now)
            site.runs.append(_Run(grant, left.pop(grant.task.id, grant.task.cost) + start * site.device.speed))
        site = min(sites, key=lambda each: min(each.next_end(), each.next_failure if each.runs else float("inf")))
        if not site.runs:
            break  # nothing runs, and nothing that waits fits anywhere
        now = min(site.next_end(), site.next_failure)
        site.advance(now)
        if site.next_failure <= now and site.next_failure < float("inf"):
            failures += 1
            for run in site.runs:
                done = max(run.grant.task.cost - run.left - LOST * site.device.speed, 0.0)
                left[run.grant.task.id] = run.grant.task.cost - done
                queue.ended(run.grant, Ending(-9, "was lost", lost=True))
            site.runs = []
            site.next_failure = _failure(site.device, now, chance)
            continue
        for run in [run for run in site.runs if run.left <= 1e-9 * max(run.grant.task.cost, 1.0)]:
            site.runs.remove(run)
            queue.ended(run.grant, Ending(0, "", done=True))
    return _forecast(tasks, fleet, sites, queue, now, failures, start)


def _failure(device: Device, now: float, chance: random.Random) -> float:
    return now + chance.expovariate(device.failures / 3600) if device.failures else float("inf")


def _forecast(
    tasks: Sequence[Task], fleet: Fleet, sites: Sequence[_Site], queue: Queue, now: float, failures: int, start: float
) -> Forecast:
    busy = sum(site.busy for site in sites)
    finished = {task.id for task in queue.finished}
    return Forecast(
        makespan=now,
        bound=lower_bound(tasks, fleet, start),
        device_seconds=busy,
        utilisation=busy / (now * len(sites)) if now else 0.0,
        cost=now / 3600 * sum(device.price for device in fleet.devices),
        failures=failures,
        tasks=len(tasks),
        unfinished=tuple(task.title for task in tasks if task.id not in finished),
    )


def lower_bound(tasks: Sequence[Task], fleet: Fleet, start: float = 0.0) -> float:
    """Seconds below which no schedule of ``tasks`` ends: by their total work, and by their longest chain.

    Each worker takes ``start`` seconds before it works. Where devices differ in speed these are left out of the total,
    as who does most of the tasks is not known.
    """
    places = sum(device.slots if fleet.kind == "cpu" else 1 for device in fleet.devices)
    starts = start * len(tasks) / places if len({device.speed for device in fleet.devices}) == 1 else 0.0
    work = sum(task.cost * (task.cores if fleet.kind == "cpu" else 1) for task in tasks)
    fastest = max(device.speed for device in fleet.devices)
    chain = longest_chain([replace(task, cost=task.cost / fastest + start) for task in tasks])
    return max(work / fleet.capacity + starts, chain)


def without_failures(fleet: Fleet) -> Fleet:
    """``fleet``, were nothing to fail."""
    return replace(fleet, devices=tuple(replace(device, failures=0.0) for device in fleet.devices))
