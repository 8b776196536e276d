"""The literature's rows in order: gains, comparable contexts, quotes, contradictions, and what can be said of printing.

A number is compared with those of its own context and no others: numbers of one pair differ in who trained the teacher,
in how long the student was trained and in which epoch is printed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import combinations
from statistics import median, quantiles

from kdbench.records.literature import Reported, Source

#: What a metric is called, and whether a larger value is the better one.
METRICS = {
    "top1": ("top-1 accuracy, %", True),
    "top5": ("top-5 accuracy, %", True),
    "top1_error": ("top-1 error, %", False),
    "test_error_percent": ("test error, %", False),
    "test_errors_of_10000": ("test errors of 10,000", False),
    "frame_accuracy": ("frame accuracy, %", True),
    "wer": ("word error rate, %", False),
}

#: The recipes that rows name, each in a sentence.
RECIPES = {
    "crd": "240 epochs of SGD in batches of 64, as in the repository of CRD",
    "deit": "300 epochs of AdamW with strong augmentation, as for DeiT",
    "dist": "100 epochs of SGD in batches of 256, as in the repository of DIST",
    "dist-b2": "450 epochs with RandAugment and averaged weights, strategy B2 of DIST",
    "hsakd": "four rotated copies of each image, and teachers of its own",
    "kdtf": "the repository's own networks and training in TensorFlow",
    "mdistiller": "100 epochs of SGD in batches of 512, as in mdistiller",
    "mlkd": "480 epochs or more, and a second, strongly augmented view of each image",
    "mmcls": "100 epochs of SGD in batches of 256, as in mmclassification",
    "ndkd": "240 epochs of SGD with Nesterov's momentum at twice the usual rate and batch",
    "ofa": "vision transformers and convolutional networks on CIFAR-100 at 224 pixels, as for OFA",
    "paddleclas": "the framework's own recipe, with a stronger student alone",
    "pld": "250 epochs of AdamW on CIFAR-100, 100 epochs of LAMB on ImageNet",
    "scalekd": "300 epochs or more with strong augmentation",
    "simkd": "240 epochs, and the KD loss added to the other methods",
    "sskd": "teachers of its own, and the KD loss added to the other methods",
    "streamlined": "240 epochs of twice the images, the other half with RandAugment",
    "tiny-transformers": "300 epochs of vision transformers on CIFAR-100 at 224 pixels",
    "torchdistill": "100 epochs of SGD in batches of 256, as in torchdistill",
}

#: Two printed values closer than this differ by rounding to two decimals only.
ROUNDING = 0.0051

#: data set, teacher, student, method, metric
Place = tuple[str, str, str, str, str]


def place(row: Reported) -> Place:
    return (row.dataset, row.teacher, row.student, row.method, row.metric)


def gain(row: Reported) -> float | None:
    """By how much ``row`` is better than the student alone of the same source; None where that is not printed."""
    if row.student_baseline is None or row.teacher == "none":
        return None
    difference = row.value - row.student_baseline
    return difference if METRICS[row.metric][1] else -difference


@dataclass(frozen=True)
class Number:
    """A number, and the rows of other sources that quote it."""

    row: Reported
    quotes: tuple[Reported, ...] = ()

    @property
    def gain(self) -> float | None:
        return gain(self.row)


@dataclass(frozen=True)
class Context:
    """Numbers of one pair and metric under the same recipe, teacher, student alone and selection, best first."""

    recipe: str
    teacher_value: float | None
    student_baseline: float | None
    selection: str
    numbers: tuple[Number, ...]

    @property
    def students(self) -> list[float]:
        """The student alone as its sources print it, which may differ by rounding."""
        return sorted({n.row.student_baseline for n in self.numbers if n.row.student_baseline is not None})


class Tier(Enum):
    """What a contradiction means, the gravest first."""

    UNEXPLAINED = "unexplained"
    EXPLAINED = "explained"
    APART = "not comparable"


@dataclass(frozen=True)
class Contradiction:
    """One method for which different sources print different values on one pair, and in what else these rows differ.

    ``spread`` is the largest difference of two rows of the gravest tier that there are two of.
    """

    method: str
    metric: str
    tier: Tier
    spread: float
    rows: tuple[Reported, ...]
    differ_in: tuple[str, ...]


def folded(rows: Iterable[Reported]) -> list[Number]:
    """Each number once: a quote that prints what another source ran, or quotes too, is folded into it.

    Two quotes over different students alone are two gains, and stay apart where nobody says who ran the number.
    """
    rows = list(rows)
    kept: dict[Place, list[Reported]] = defaultdict(list)
    quotes: dict[int, list[Reported]] = defaultdict(list)
    for row in rows:
        if row.provenance != "quoted":
            kept[place(row)].append(row)
    for row in rows:
        if row.provenance != "quoted":
            continue
        known = kept[place(row)]
        original = next(
            (k for k in known if _quotes(row, k) and (k.provenance != "quoted" or _same_alone(row, k))), None
        )
        if original is None:
            known.append(row)
        else:
            quotes[id(original)].append(row)
    folded_ones = {id(row) for found in quotes.values() for row in found}
    return [Number(row, tuple(quotes[id(row)])) for row in rows if id(row) not in folded_ones]


def _quotes(row: Reported, other: Reported) -> bool:
    """Whether ``row``, a quote, can be of the number that ``other`` has, which is of the same place."""
    return other.source != row.source and abs(other.value - row.value) < ROUNDING


def _same_alone(one: Reported, other: Reported) -> bool:
    """Whether two rows are over one student alone, as far as both say."""
    values = one.student_baseline, other.student_baseline
    return None in values or abs(values[0] - values[1]) < 2 * ROUNDING  # type: ignore[operator]


def comparable(rows: Iterable[Reported]) -> list[Reported]:
    """The ``rows`` that may be set beside others of their pair: not those set apart, and no quote of one that is."""
    rows = list(rows)
    ran: dict[Place, list[Reported]] = defaultdict(list)
    for row in rows:
        if row.provenance != "quoted":
            ran[place(row)].append(row)

    def of_apart(row: Reported) -> bool:
        originals = [other for other in ran[place(row)] if _quotes(row, other)]
        return row.provenance == "quoted" and bool(originals) and all(other.apart for other in originals)

    return [row for row in rows if not row.apart and not of_apart(row)]


def as_accuracy(row: Reported) -> Reported:
    """``row`` as a top-1 accuracy, where it is printed as an error; else as it is."""
    if row.metric != "top1_error":
        return row
    teacher, alone = (None if error is None else 100 - error for error in (row.teacher_value, row.student_baseline))
    return replace(row, metric="top1", value=100 - row.value, teacher_value=teacher, student_baseline=alone)


def contexts(numbers: Iterable[Number]) -> list[Context]:
    """``numbers``, which are of one pair and one metric, by what must be equal to compare them; most numbers first."""
    numbers = list(numbers)
    teacher = _as_one(number.row.teacher_value for number in numbers)
    student = _as_one(number.row.student_baseline for number in numbers)
    groups: dict[tuple[str, float | None, float | None, str], list[Number]] = defaultdict(list)
    for number in numbers:
        row = number.row
        groups[row.recipe, teacher[row.teacher_value], student[row.student_baseline], row.selection].append(number)
    found = [Context(*group, tuple(sorted(members, key=_best_first))) for group, members in groups.items()]
    return sorted(found, key=lambda c: (-len(c.numbers), c.recipe == "", c.recipe, _best_first(c.numbers[0])))


def _as_one(values: Iterable[float | None]) -> dict[float | None, float | None]:
    """Each of ``values`` with the one that it stands for: one network is printed as 69.75 here and as 69.76 there."""
    found: dict[float | None, float | None] = {None: None}
    for value in sorted({value for value in values if value is not None}):
        last = next(reversed(found.values()))
        found[value] = last if last is not None and value - last < 2 * ROUNDING else value
    return found


def _best_first(number: Number) -> tuple[float, str, str, str]:
    row = number.row
    return (-row.value if METRICS[row.metric][1] else row.value, row.method, row.source, row.locator)


def contradictions(rows: Iterable[Reported]) -> list[Contradiction]:
    """Where sources print different values of one method on one pair by more than rounding: gravest, widest first."""
    groups: dict[Place, list[Reported]] = defaultdict(list)
    for row in rows:
        groups[place(row)].append(row)
    found = [contradiction for group in groups.values() if (contradiction := _contradiction(group))]
    order = list(Tier)
    return sorted(found, key=lambda c: (list(METRICS).index(c.metric), order.index(c.tier), -c.spread, c.method))


def _contradiction(group: Sequence[Reported]) -> Contradiction | None:
    spreads: dict[Tier, float] = {}
    for one, other in combinations(group, 2):
        apart = abs(one.value - other.value)
        if one.source != other.source and apart > ROUNDING:
            tier = _tier(one, other)
            spreads[tier] = max(apart, spreads.get(tier, 0.0))
    if not spreads:
        return None
    tier = next(tier for tier in Tier if tier in spreads)
    rows = tuple(sorted(group, key=lambda row: (row.value, row.source, row.locator)))
    return Contradiction(rows[0].method, rows[0].metric, tier, spreads[tier], rows, _differ_in(group))


def _tier(one: Reported, other: Reported) -> Tier:
    """What it means that these two differ; a recipe that one of them does not state explains nothing."""
    if one.apart or other.apart:
        return Tier.APART
    same = all(
        getattr(one, field) == getattr(other, field) for field in ("selection", "teacher_value", "student_baseline")
    )
    recipes = {one.recipe, other.recipe} - {""}
    return Tier.UNEXPLAINED if same and len(recipes) < 2 else Tier.EXPLAINED


def _differ_in(group: Sequence[Reported]) -> tuple[str, ...]:
    fields = {
        "recipe": "recipe",
        "selection": "selection",
        "teacher_value": "teacher accuracy",
        "student_baseline": "student alone",
    }
    return tuple(text for field, text in fields.items() if len({getattr(row, field) for row in group}) > 1)


@dataclass(frozen=True)
class Difference:
    """Two numbers that one would expect to be one: ``better`` says how far ``claimed`` is above ``found``."""

    claimed: Reported
    found: Reported

    @property
    def better(self) -> float:
        difference = self.claimed.value - self.found.value
        return difference if METRICS[self.found.metric][1] else -difference


def best_against_last(rows: Iterable[Reported]) -> list[Difference]:
    """What is won by printing the best test epoch: the same training as one source prints it at both, widest first."""
    trainings: dict[tuple[Place, str, str], dict[str, list[Reported]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        trainings[place(row), row.source, row.locator][row.selection].append(row)
    both = (
        (found["best_test"], found["last"]) for found in trainings.values() if {"best_test", "last"} <= found.keys()
    )
    return _widest(Difference(best[0], last[0]) for best, last in both if len(best) == len(last) == 1)


def claimed_against_logged(rows: Iterable[Reported], sources: Mapping[str, Source]) -> list[Difference]:
    """What a source prints beside what a training log of the same people says, widest first.

    Both are of one method, pair and selection; what others found when they ran it claims nothing of that log.
    """
    rows = list(rows)
    logged = [row for row in rows if row.provenance == "log"]
    ran: dict[tuple[Place, str], list[Reported]] = defaultdict(list)
    for row in rows:
        if row.provenance == "ran":
            ran[place(row), row.selection].append(row)
    return _widest(
        Difference(claim, log)
        for log in logged
        for claim in ran[place(log), log.selection]
        if _own(sources[claim.source]) & _own(sources[log.source])
    )


def _own(source: Source) -> set[str]:
    """What a source proposes, and the repository that it is of."""
    return {*source.proposes.split(), source.repository} - {"", "-"}


def _widest(differences: Iterable[Difference]) -> list[Difference]:
    return sorted(differences, key=lambda d: (-d.better, place(d.found), d.found.source))


@dataclass(frozen=True)
class Spread:
    """One method on one pair as several sources ran it: how many different values, from where to where."""

    place: Place
    numbers: tuple[Reported, ...]

    @property
    def low(self) -> float:
        return min(row.value for row in self.numbers)

    @property
    def high(self) -> float:
        return max(row.value for row in self.numbers)


def many_values(rows: Iterable[Reported], sources: int = 3) -> list[Spread]:
    """The methods for which so many ``sources`` print different values on one pair; most values first."""
    groups: dict[Place, dict[str, Reported]] = defaultdict(dict)
    ran = (row for row in comparable(rows) if row.teacher != "none" and row.provenance != "quoted")
    for number in folded(ran):
        groups[place(number.row)].setdefault(number.row.printed, number.row)
    spreads = (Spread(where, tuple(sorted(found.values(), key=lambda r: r.value))) for where, found in groups.items())
    many = [spread for spread in spreads if len({row.source for row in spread.numbers}) >= sources]
    return sorted(many, key=lambda s: (-len(s.numbers), s.low - s.high, s.place))


@dataclass(frozen=True)
class Year:
    """Gains that sources of one ``year`` print of what they ran on ``dataset``: the middle one, and the middle half."""

    dataset: str
    year: int
    sources: int
    numbers: int
    low: float
    middle: float
    high: float


def gain_by_year(rows: Iterable[Reported], sources: Mapping[str, Source], fewest: int = 4) -> list[Year]:
    """Top-1 gains by the year of their source, where it has at least the ``fewest`` numbers on a data set."""
    groups: dict[tuple[str, int], list[Reported]] = defaultdict(list)
    for row in rows:
        year = sources[row.source].year
        if (
            year is not None
            and row.metric == "top1"
            and row.provenance == "ran"
            and not row.apart
            and gain(row) is not None
        ):
            groups[row.dataset, year].append(row)
    return list(_years(groups, fewest))


def _years(groups: Mapping[tuple[str, int], Sequence[Reported]], fewest: int) -> Iterator[Year]:
    for (dataset, year), members in sorted(groups.items()):
        if len(members) >= fewest:
            gains = [found for row in members if (found := gain(row)) is not None]
            low, _, high = quantiles(gains, n=4, method="inclusive")
            yield Year(dataset, year, len({row.source for row in members}), len(gains), low, median(gains), high)
