"""Whether a change made training slower: by its speed relative to the reference network's in the same process.

Seconds differ from machine to machine and from minute to minute, so a speed is only a ratio to a reference network
that was timed in the same process, a process counts once, and rows that are the same method twice (A/A rows) show
whether such ratios can be trusted at all.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from itertools import combinations

from kdbench.regress.judge import Judged, Verdict
from kdbench.regress.side import Place, Side
from kdbench.stats.drops import LEVELS, drops

#: Percent of speed: a loss of as much is one that matters.
SLOWER = 10.0
#: Fresh processes on either side, without which nothing is said.
PROCESSES = 5


def judge_speed(old: Mapping[Place, Side], new: Mapping[Place, Side], margin: float = SLOWER) -> list[Judged]:
    """A verdict on the speed of each row and pair that both sides have, in percent of the old speed."""
    places = [place for place in old if place in new]
    before, after = ({place: _logs(side[place]) for place in places} for side in (old, new))
    known = [place for place in places if min(len(before[place]), len(after[place])) >= PROCESSES]
    unsteady = _unsteady(new, after, margin) or _unsteady(old, before, margin)
    found = [_open(place, before[place], after[place], "") for place in places if place not in known]
    if unsteady is None and known:
        unsteady = "there is no A/A row to show how steady the timing is"
    if unsteady:
        return found + [_open(place, before[place], after[place], unsteady) for place in known]
    if known:
        tested = drops([before[place] for place in known], [after[place] for place in known])
        failed, passed = tested.failed(margin, LEVELS[0]), tested.passed(margin)
        for number, place in enumerate(known):
            drop, most = float(tested.drop[number]), float(tested.most[number])
            verdict, why = Verdict.PASS, f"training is less than {margin:g} % slower"
            if failed[number]:
                verdict, why = Verdict.FAIL, f"training is {drop:.0f} % slower"
            elif not passed[number]:
                verdict, why = Verdict.INCONCLUSIVE, "the timings vary too much to tell; time more processes"
            found.append(
                Judged(
                    place[0], f"{place[1]} speed", verdict, why, _told(before[place]), _told(after[place]), drop, most
                )
            )
    return found


def _logs(side: Side) -> list[float]:
    """100 times the logarithm of the relative speed, so that differences are percent: its mean in each process."""
    by_process: dict[float, list[float]] = defaultdict(list)
    for training in side.trainings:
        if training.speed is not None and training.process is not None:
            by_process[training.process].append(100 * math.log(training.speed))
    return [sum(values) / len(values) for values in by_process.values()]


def _told(logs: list[float]) -> tuple[float, int] | None:
    return (math.exp(sum(logs) / len(logs) / 100), len(logs)) if logs else None


def _open(place: Place, before: list[float], after: list[float], why: str) -> Judged:
    fewest = min(len(before), len(after))
    why = why or f"it was timed by {fewest} of the {PROCESSES} processes that are needed; train more seeds"
    return Judged(place[0], f"{place[1]} speed", Verdict.INCONCLUSIVE, why, _told(before), _told(after))


def _unsteady(sides: Mapping[Place, Side], logs: Mapping[Place, list[float]], margin: float) -> str | None:
    """Why the timings of one side are not to be trusted; empty where A/A rows agree, None where there are none."""
    found = None
    for one, other in combinations(logs, 2):
        if one[0] != other[0] or sides[one].stream == sides[other].stream:
            continue
        if sides[one].identity.get("method") != sides[other].identity.get("method") or not (logs[one] and logs[other]):
            continue
        found = found or ""
        gap = abs(sum(logs[one]) / len(logs[one]) - sum(logs[other]) / len(logs[other]))
        if gap > margin / 2:
            return f"the A/A rows {one[1]} and {other[1]} differ by {gap:.0f} % in speed, which is chance"
    return found
