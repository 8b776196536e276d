"""A verdict for each row and pair of a baseline: whether its accuracy dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from kdbench.regress.side import SAME, Place, Side, what_differs
from kdbench.stats.drops import LEVELS, MARGIN, MOST_SEEDS, drops, seeds_needed


class Verdict(StrEnum):
    """What is found of one row on one pair; docs/regression.md says what each means."""

    FAIL = "FAIL"
    INCOMPARABLE = "INCOMPARABLE"
    MISSING = "MISSING"
    INCONCLUSIVE = "INCONCLUSIVE"
    PASS = "PASS"


@dataclass(frozen=True)
class Judged:
    """A verdict on one row and pair, and why.

    ``old`` and ``new`` are mean and number of seeds. ``most``: the drop is less, with 95 % confidence. ``needed``: the
    seeds on the baseline's side and on the new one that should decide. ``changes``: what else is not as it was.
    """

    pair: str
    label: str
    verdict: Verdict
    why: str
    old: tuple[float, int] | None = None
    new: tuple[float, int] | None = None
    drop: float | None = None
    most: float | None = None
    needed: tuple[int, int] | None = None
    changes: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        return (self.pair, self.label)


@dataclass(frozen=True)
class Judgement:
    """All verdicts of ``suite``, the worst first, and the rows that the baseline does not have."""

    suite: str
    against: str
    margin: float
    cells: tuple[Judged, ...]
    unknown: tuple[str, ...] = ()

    def beside(self, cells: Sequence[Judged]) -> Judgement:
        """This and the verdicts of ``cells``, the worst first."""
        order = list(Verdict)
        merged = sorted((*self.cells, *cells), key=lambda cell: (order.index(cell.verdict), cell.pair, cell.label))
        return replace(self, cells=tuple(merged))

    def of(self, verdict: Verdict) -> list[Judged]:
        return [cell for cell in self.cells if cell.verdict is verdict]


def judge(
    suite: str, against: str, old: Mapping[Place, Side], new: Mapping[Place, Side], margin: float = MARGIN
) -> Judgement:
    """The verdict on everything that ``old`` has: what cannot be compared, what has equal bits, and what tests say."""
    settled = {place: found for place in old if (found := _settled(old[place], new.get(place)))}
    tested = [place for place in old if place not in settled]
    judged = [*settled.values(), *_tested([(old[place], new[place]) for place in tested], margin)]
    unknown = tuple(f"{label} on {pair}" for pair, label in sorted(new.keys() - old.keys()))
    return Judgement(suite, against, margin, (), unknown).beside(judged)


def _settled(old: Side, new: Side | None) -> Judged | None:
    """A verdict that needs no test, or None."""
    if new is None:
        return Judged(*old.place, Verdict.MISSING, "there are no new records of it", old=_told(old))
    changes = _changes(old, new)
    found = Judged(*old.place, Verdict.PASS, "", _told(old), _told(new), changes=changes)
    if different := what_differs(old, new, SAME):
        return replace(found, verdict=Verdict.INCOMPARABLE, why="; ".join(different))
    if not old.trainings:
        return replace(found, verdict=Verdict.INCONCLUSIVE, why="no seed of the baseline finished")
    if not new.trainings or _diverges_more(old, new):
        ended = len(new.trainings) + len(new.diverged)
        why = f"{len(new.diverged)} of {ended} seeds diverged, and {len(old.diverged)} in the baseline"
        return replace(found, verdict=Verdict.FAIL, why=why)
    if _equal_bits(old, new):
        return replace(found, why="equal bits")
    return None


def _told(side: Side) -> tuple[float, int] | None:
    scores = side.scores
    return (sum(scores) / len(scores), len(scores)) if scores else None


def _changes(old: Side, new: Side) -> tuple[str, ...]:
    """What the new trainings have of their own that makes them no worse to compare, in words."""
    found = what_differs(old, new, ("engine", "method", "stream"))
    if new.numerics and set(old.numerics) != set(new.numerics):
        found.append(f"numerics: {' and '.join(old.numerics)}, now {' and '.join(new.numerics)}")
    if old.teacher and new.teacher and old.teacher.weights_sha256 != new.teacher.weights_sha256:
        found.append(
            f"the teacher has other weights: its own top-1 was {old.teacher.top1:.2f}, now {new.teacher.top1:.2f}"
        )
    return tuple(found)


def _equal_bits(old: Side, new: Side) -> bool:
    """Whether every new seed ended in the very network or the very predictions that the baseline has of it."""
    before = {training.seed: training for training in old.trainings}
    return all(
        (known := before.get(training.seed)) is not None
        and known.top1 == training.top1
        and ((training.weights and training.weights == known.weights)
             or (training.predictions and training.predictions == known.predictions))
        for training in new.trainings
    )  # fmt: skip


def _diverges_more(old: Side, new: Side) -> bool:
    """Whether more of the new seeds diverged than chance would have it: Fisher's exact test, one-sided, at 5 %."""
    if not new.diverged:
        return False
    from scipy.stats import hypergeom

    before, after = len(old.diverged), len(new.diverged)
    ended = after + len(new.trainings)
    total = before + len(old.trainings) + ended
    return float(hypergeom.sf(after - 1, total, before + after, ended)) < 0.05


def _tested(cells: Sequence[tuple[Side, Side]], margin: float) -> list[Judged]:
    """The verdicts of a test: at a first look, on as many seeds as every cell has, and at one more on added seeds."""
    if not cells:
        return []
    old, new = [cell[0].scores for cell in cells], [cell[1].scores for cell in cells]
    seeds = min(map(len, new))
    first, last = drops(old, [scores[:seeds] for scores in new]), drops(old, new)
    failed = first.failed(margin, LEVELS[0])
    if max(map(len, new)) > seeds:
        failed |= last.failed(margin, LEVELS[1])
    passed = last.passed(margin)
    found = []
    for number, (before, after) in enumerate(cells):
        drop, most = float(last.drop[number]), float(last.most[number])
        judged = Judged(
            *before.place,
            Verdict.PASS,
            f"the drop is less than {margin:g} points",
            _told(before),
            _told(after),
            drop,
            most if last.df[number] > 0 else None,
            changes=_changes(before, after),
        )
        if failed[number]:
            judged = replace(judged, verdict=Verdict.FAIL, why=f"it dropped by {drop:.2f} points")
        elif not passed[number]:
            sizes = (len(old[number]), len(new[number]))
            needed = seeds_needed(drop, float(last.spread[number]), float(last.df[number]), *sizes, len(cells), margin)
            judged = replace(judged, verdict=Verdict.INCONCLUSIVE, why=_open(sizes, needed), needed=needed)
        found.append(judged)
    return found


def _open(sizes: tuple[int, int], needed: tuple[int, int] | None) -> str:
    old, new = sizes
    if needed is None:
        return f"more than {MOST_SEEDS} seeds would be needed to tell"
    if needed[0] > old:
        return f"{needed[1]} seeds on either side should tell; the baseline has {old}"
    return f"{needed[1]} new seeds should tell; there are {new}"
