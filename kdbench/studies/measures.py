"""What a study reads of a result, by name: scores of the network, facts of its teacher, what it cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.data import DATASETS, views_of

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """A number that a record holds: ``read(record, selection)``, nan where it holds none; ``unit`` in words.

    ``between(record, other)``: of a measure that compares two networks, which a single record does not hold. Beside
    what is in its file, a record says on which test images its network is ``right`` [N], or None.
    """

    title: str
    unit: str
    read: Callable[[Record, str], float]
    digits: int = 2
    between: Callable[[Record, Record], float] | None = None
    #: From where to where it may lie.
    span: tuple[float, float] = (-math.inf, math.inf)
    #: Of a measure of the teacher: of how many test images, at the least, it is a share that fills its span.
    images: Callable[[Record], int] | None = None


def _score(name: str) -> Callable[[Record, str], float]:
    def read(record: Record, selection: str) -> float:
        scores = record["scores"][selection]
        value = None if scores is None else scores.get(name)
        return math.nan if value is None else float(value)

    return read


def _teacher(name: str) -> Callable[[Record, str], float]:
    def read(record: Record, selection: str) -> float:
        facts = record["teacher"]
        return math.nan if facts is None or facts[name] is None else float(facts[name])

    return read


def of_teacher(measure: str) -> str:
    """The measure that is of the teacher what ``measure`` is of the student."""
    return f"teacher_{measure}"


def _features(name: str) -> Callable[[Record, str], float]:
    def read(record: Record, selection: str) -> float:
        found = record.get("diagnostics", {}).get("features")
        return math.nan if found is None else float(found[name])

    return read


def _teacher_error(record: Record, selection: str) -> float:
    return 1 - _teacher("top1")(record, selection) / 100


def _bound(record: Record, selection: str) -> float:
    """The teacher's error, half the divergence and the joint classifier's error (Ben-David et al. 2010, theorem 2)."""
    parts = (_features(name)(record, selection) for name in ("h_divergence", "joint_error"))
    divergence, joint = parts
    return _teacher_error(record, selection) + divergence / 2 + joint


def _errors(record: Record, selection: str) -> float:
    """Test images that are classified wrongly."""
    scores, dataset = record["scores"][selection], record["dataset"]
    if scores is None or dataset not in DATASETS:
        return math.nan
    return float(round((1 - scores["top1"] / 100) * DATASETS.get(dataset).test_size))


def _corrected(name: str) -> Callable[[Record, str], float]:
    """Test errors with a corrected bias; the errors as they are where no class was left out."""

    def read(record: Record, selection: str) -> float:
        whole = record["identity"].get("supervision", "full") == "full"
        return _errors(record, selection) if whole else _score(name)(record, selection)

    return read


def _removed(name: str) -> Callable[[Record, str], float]:
    """The share of the errors that a corrected bias takes away, in percent."""

    def read(record: Record, selection: str) -> float:
        before, after = _score("errors_uncorrected")(record, selection), _score(name)(record, selection)
        return 100 * (1 - after / before) if before else math.nan

    return read


def _optimism(record: Record, selection: str) -> float:
    """Errors that choosing the bias on the test set hides."""
    return _score("errors_corrected")(record, selection) - _score("errors_corrected_on_test")(record, selection)


def _burden(record: Record, selection: str) -> float:
    """Unreliability and ambiguity together: below 1 where the labels can be learnt from."""
    return _teacher("unreliability")(record, selection) + _teacher("ambiguity")(record, selection)


def _cost(record: Record, selection: str) -> float:
    cost = record["cost"]
    return math.nan if not cost or cost["ratio_to_ce"] is None else float(cost["ratio_to_ce"])


def learned(record: Record) -> NDArray[np.bool_] | None:
    """Which views of each class the network knows [classes, 2]; None where its data or predictions do not say it.

    It knows a view of a class if it is right on more than half of the test images that show this view of it alone.
    """
    spec = DATASETS.get(record["dataset"]) if record["dataset"] in DATASETS else None
    shown = None if spec is None else views_of(spec)
    if shown is None or record["right"] is None or len(record["right"]) != len(shown.labels):
        return None
    known = [
        [record["right"][(shown.labels == label) & (shown.shown == view)].mean() > 0.5 for view in (1, 2)]
        for label in range(int(shown.labels.max()) + 1)
    ]
    return np.array(known)


def _views(count: int) -> Callable[[Record, str], float]:
    def read(record: Record, selection: str) -> float:
        """The share of classes of which as many views are known."""
        known = learned(record)
        return math.nan if known is None else float((known.sum(1) == count).mean())

    return read


def _complement(record: Record, other: Record) -> float:
    """The share of classes of which each network knows one view, and the other network the other view."""
    one, two = learned(record), learned(other)
    if one is None or two is None:
        return math.nan
    return float(((one.sum(1) == 1) & (two == ~one).all(1)).mean())


def _all(record: Record) -> int:
    """How many test images its data set has; 0 where that is not at hand."""
    return DATASETS.get(record["dataset"]).test_size if record["dataset"] in DATASETS else 0


def _a_class(record: Record) -> int:
    """About as many as a class has: a degree of ambiguity is a share of the images of the worst one."""
    return _all(record) // DATASETS.get(record["dataset"]).classes if _all(record) else 0


def _nothing(record: Record, selection: str) -> float:
    return math.nan


#: Spans of measures.
PERCENT, SHARE, COUNT = (0.0, 100.0), (0.0, 1.0), (0.0, math.inf)

MEASURES: dict[str, Measure] = {
    "top1": Measure("accuracy", "points", _score("top1"), span=PERCENT),
    "top5": Measure("top-5 accuracy", "points", _score("top5"), span=PERCENT),
    "errors": Measure("test errors", "images", _errors, 0, span=COUNT),
    "errors_corrected": Measure(
        "test errors, the bias chosen on held-out images,", "images", _corrected("errors_corrected"), 0, span=COUNT
    ),
    "errors_corrected_on_test": Measure(
        "test errors, the bias chosen on the test images,",
        "images",
        _corrected("errors_corrected_on_test"),
        0,
        span=COUNT,
    ),
    "removed": Measure(
        "errors removed by a bias chosen on held-out images",
        "percent",
        _removed("errors_corrected"),
        span=(-math.inf, 100),
    ),
    "removed_on_test": Measure(
        "errors removed by a bias chosen on the test images",
        "percent",
        _removed("errors_corrected_on_test"),
        span=(-math.inf, 100),
    ),
    "optimism": Measure("errors hidden by choosing the bias on the test images", "images", _optimism, 1),
    "nll": Measure("negative log-likelihood", "nats", _score("nll"), 4, span=COUNT),
    "ece": Measure("calibration error", "0 to 1", _score("ece"), 4, span=SHARE),
    "entropy": Measure("entropy of the output", "nats", _score("entropy"), 4, span=COUNT),
    "agreement": Measure("agreement with the teacher", "points", _score("agreement"), span=PERCENT),
    "kl_to_teacher": Measure("divergence from the teacher", "nats", _score("kl_to_teacher"), 4, span=COUNT),
    "teacher_top1": Measure("the teacher's accuracy", "points", _teacher("top1"), span=PERCENT, images=_all),
    "unreliability": Measure(
        "unreliability of the teacher", "0 to 1", _teacher("unreliability"), 3, span=SHARE, images=_all
    ),
    "ambiguity": Measure("ambiguity of the teacher", "0 to 1", _teacher("ambiguity"), 3, span=SHARE, images=_a_class),
    "burden": Measure("unreliability and ambiguity of the teacher", "0 to 2", _burden, 3, span=(0, 2), images=_a_class),
    "one_view": Measure("share of classes of which one view is known", "0 to 1", _views(1), span=SHARE),
    "both_views": Measure("share of classes of which both views are known", "0 to 1", _views(2), span=SHARE),
    "complement": Measure(
        "share of classes of which two networks know different views", "0 to 1", _nothing, 2, _complement, SHARE
    ),
    "teacher_error": Measure("the teacher's error", "0 to 1", _teacher_error, 4, span=SHARE, images=_all),
    "h_divergence": Measure("divergence of the features", "0 to 2", _features("h_divergence"), 3, span=(0, 2)),
    "mmd": Measure(
        "maximum mean discrepancy of the features", "0 to 1.41", _features("mmd"), 3, span=(0, math.sqrt(2))
    ),
    "joint_error": Measure("error of the joint classifier", "0 to 2", _features("joint_error"), 3, span=(0, 2)),
    "reused_error": Measure(
        "error of the teacher's classifier on the student's features",
        "0 to 1",
        _features("reused_error"),
        4,
        span=SHARE,
    ),
    "bound": Measure("sum of the bound's parts", "0 to 4", _bound, 3, span=(0, 4)),
    "cost": Measure("cost of a step", "times the student alone", _cost, span=COUNT),
}
