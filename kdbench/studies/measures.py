"""What a study reads of a result, by name: scores of the network, facts of its teacher, what it cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kdbench.data import DATASETS

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """A number that a record holds: ``read(record, selection)``, nan where it holds none; ``unit`` in words."""

    title: str
    unit: str
    read: Callable[[Record, str], float]
    digits: int = 2


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


def _errors(record: Record, selection: str) -> float:
    """Test images that are classified wrongly."""
    scores, dataset = record["scores"][selection], record["dataset"]
    if scores is None or dataset not in DATASETS:
        return math.nan
    return float(round((1 - scores["top1"] / 100) * DATASETS.get(dataset).test_size))


def _corrected(name: str) -> Callable[[Record, str], float]:
    """Test errors with a corrected bias; the errors as they are where no class was left out."""

    def read(record: Record, selection: str) -> float:
        whole = record["identity"]["supervision"] == "full"
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


MEASURES: dict[str, Measure] = {
    "top1": Measure("accuracy", "points", _score("top1")),
    "top5": Measure("top-5 accuracy", "points", _score("top5")),
    "errors": Measure("test errors", "images", _errors, 0),
    "errors_corrected": Measure(
        "test errors, the bias chosen on held-out images,", "images", _corrected("errors_corrected"), 0
    ),
    "errors_corrected_on_test": Measure(
        "test errors, the bias chosen on the test images,", "images", _corrected("errors_corrected_on_test"), 0
    ),
    "removed": Measure("errors removed by a bias chosen on held-out images", "percent", _removed("errors_corrected")),
    "removed_on_test": Measure(
        "errors removed by a bias chosen on the test images", "percent", _removed("errors_corrected_on_test")
    ),
    "optimism": Measure("errors hidden by choosing the bias on the test images", "images", _optimism, 1),
    "nll": Measure("negative log-likelihood", "nats", _score("nll"), 4),
    "ece": Measure("calibration error", "0 to 1", _score("ece"), 4),
    "entropy": Measure("entropy of the output", "nats", _score("entropy"), 4),
    "agreement": Measure("agreement with the teacher", "points", _score("agreement")),
    "kl_to_teacher": Measure("divergence from the teacher", "nats", _score("kl_to_teacher"), 4),
    "teacher_top1": Measure("the teacher's accuracy", "points", _teacher("top1")),
    "unreliability": Measure("unreliability of the teacher", "0 to 1", _teacher("unreliability"), 3),
    "ambiguity": Measure("ambiguity of the teacher", "0 to 1", _teacher("ambiguity"), 3),
    "burden": Measure("unreliability and ambiguity of the teacher", "0 to 2", _burden, 3),
    "cost": Measure("cost of a step", "times the student alone", _cost),
}
