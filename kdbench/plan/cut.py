"""Cohorts cut to a time or to a fleet. Bits do not depend on a trial's company; only the time does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heapreplace
from itertools import pairwise

from kdbench.plan.cohorts import COHORT_LIMIT, Cohort
from kdbench.plan.cost import cohort_seconds
from kdbench.plan.fleet import Fleet
from kdbench.plan.speeds import Rate
from kdbench.trials.trial import Trial

#: Students of a cohort that are tried: each smaller number shares less of the work, and leaves fewer devices idle.
LIMITS = (COHORT_LIMIT, 12, 8, 6, 4, 3, 2, 1)
#: Seconds that a worker takes until it trains, which each further cohort costs.
START_SECONDS = 5.0
#: What a smaller limit must win, as a share of the time.
WORTH = 0.02


def landing(cohorts: Iterable[Cohort], rate: Rate, within: float | None) -> list[Cohort]:
    """``cohorts`` cut so that each is estimated to leave its records ``within`` so many seconds; None cuts nothing.

    A trial that takes longer by itself stays alone.
    """
    if within is None:
        return list(cohorts)
    made = []
    for cohort in cohorts:
        part: tuple[Trial, ...] = ()
        for trial in cohort.trials:
            if part and cohort_seconds(Cohort((*part, trial)), rate) > within:
                made.append(Cohort(part))
                part = ()
            part = (*part, trial)
        made.append(Cohort(part))
    return made


def fitted(cohorts: Sequence[Cohort], rate: Rate, fleet: Fleet) -> list[Cohort]:
    """``cohorts`` cut so that the last one ends soonest: a large one that ends as one leaves the other devices idle."""
    best, least = list(cohorts), _makespan(cohorts, rate, fleet)
    for limit in LIMITS[1:] if fleet.slots > 1 else ():
        if all(len(cohort.trials) <= limit for cohort in best):
            continue
        parts = [part for cohort in cohorts for part in _even(cohort, limit)]
        takes = _makespan(parts, rate, fleet)
        if takes < least * (1 - WORTH):
            best, least = parts, takes
    return best


def _even(cohort: Cohort, limit: int) -> list[Cohort]:
    """``cohort`` in as few parts of at most ``limit`` trials as there can be, as even as they can be."""
    count = -(-len(cohort.trials) // limit)
    bounds = [len(cohort.trials) * number // count for number in range(count + 1)]
    return [Cohort(cohort.trials[start:end]) for start, end in pairwise(bounds)]


def _makespan(cohorts: Sequence[Cohort], rate: Rate, fleet: Fleet) -> float:
    """Seconds until the last of ``cohorts`` ends; where there are fewer than slots, each fills several."""
    spare = fleet.slots // max(len(cohorts), 1) if fleet.kind == "cpu" else 1
    spare = min(max(spare, 1), max(device.slots for device in fleet.devices))
    costs = [START_SECONDS + cohort_seconds(cohort, rate) / min(spare, breadth(cohort)) for cohort in cohorts]
    return longest_first(costs, fleet)


def breadth(cohort: Cohort) -> int:
    """How many cores it can fill: a student each, and its teacher one batch ahead."""
    return len(cohort.trials) + (cohort.teacher is not None)


def longest_first(costs: Sequence[float], fleet: Fleet) -> float:
    """Seconds until the last of tasks of these ``costs`` ends, each given to whoever is done with it first."""
    places = [d.speed for d in fleet.devices for _ in range(d.slots if fleet.kind == "cpu" else 1)]
    places = sorted(places, reverse=True)[: max(len(costs), 1)]
    if len(set(places)) == 1:  # any that is free first
        loads = [0.0] * len(places)
        heapify(loads)
        for cost in sorted(costs, reverse=True):
            heapreplace(loads, loads[0] + cost / places[0])
        return max(loads)
    ends = [0.0] * len(places)
    for cost in sorted(costs, reverse=True):
        end, soonest = min((ends[n] + cost / speed, n) for n, speed in enumerate(places))
        ends[soonest] = end
    return max(ends)
