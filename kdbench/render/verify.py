"""Scores recomputed from stored predictions: what a page calls measured was measured here, or is not shown as such."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.errors import UserError
from kdbench.stats.aggregate import SELECTIONS
from kdbench.stats.scores import score_predictions

Record = Mapping[str, Any]
Arrays = Mapping[str, NDArray[Any]]

#: How far a record may lie from its predictions: accuracy is exact, the rest was rounded to float16 in the file (a
#: confidence that is rounded across the edge of a bin moves its whole image, so the calibration error has the widest).
TOLERANCE = {"top1": 1e-3, "top5": 1e-3, "nll": 5e-3, "ece": 2e-2}


@dataclass(frozen=True)
class Problem:
    """A record that is not shown, and why. ``suite`` is None for a file that could not be read at all."""

    text: str
    suite: str | None = None


class Seen:
    """On which test images the networks of verified records are right, kept as their predictions pass by."""

    def __init__(self) -> None:
        self._right: dict[tuple[str, str], NDArray[np.bool_]] = {}

    def keep(self, record: Record, arrays: Arrays) -> None:
        for selection in SELECTIONS:
            if record["scores"].get(selection) is not None:
                right = arrays[f"{selection}_top5"][:, 0] == arrays["labels"]
                self._right[record["predictions"]["sha256"], selection] = np.asarray(right)

    def right(self, selection: str) -> Callable[[Record], NDArray[np.bool_] | None]:
        return lambda record: self._right.get(((record["predictions"] or {}).get("sha256", ""), selection))


def verify(
    records: Iterable[Record], predictions: Callable[[Record], Arrays], seen: Seen | None = None
) -> tuple[list[Record], list[Problem]]:
    """The records whose scores their predictions bear out, those scores recomputed, and a Problem for each other one.

    ``predictions`` returns the arrays of a record's file or raises UserError. Trials that did not finish pass as they
    are; so do contributed records without predictions. ``seen`` keeps what it needs of the others' predictions.
    """
    kept: list[tuple[Record, str | None]] = []
    problems: list[Problem] = []
    for record in records:
        try:
            _check_numbers(record)
            if record["status"] != "finished" or (
                record["predictions"] is None and record["evidence"] == "contributed"
            ):
                kept.append((record, None))
            else:
                arrays = predictions(record)
                kept.append((_recomputed(record, arrays), _digest(arrays.get("labels"))))
                if seen is not None:
                    seen.keep(record, arrays)
        except UserError as error:
            problems.append(Problem(f"{name(record)}: {error}", record["suite"]))
    return _same_labels(kept, problems), problems


def name(record: Record) -> str:
    """What a problem calls a record: its row, seed and the first digits of its key."""
    return f"{record['suite']} {record['pair']} {record['label']} seed {record['seed']} ({record['key'][:12]})"


def _check_numbers(record: Record) -> None:
    """Refuse numbers that nothing can measure: a mean or a plot would break on them."""
    for part in (record["cost"], *record["scores"].values()):
        for field, value in (part or {}).items():
            if value is not None and not abs(value) < 1e18:
                raise UserError(f"its {field} is not a finite number of sensible size; it is left out.")


def _recomputed(record: Record, arrays: Arrays) -> Record:
    scores = dict(record["scores"])
    for selection in SELECTIONS:
        if scores.get(selection) is None:
            continue
        _check_shapes(arrays, selection)
        found = score_predictions(arrays, selection)
        for metric, tolerance in TOLERANCE.items():
            said = scores[selection][metric]
            if not abs(found[metric] - said) <= tolerance * max(1.0, abs(found[metric]) if metric == "nll" else 1.0):
                raise UserError(
                    f"the record says {selection} {metric} {said:.4f}, but its predictions give {found[metric]:.4f}; "
                    "it is left out."
                )
        scores[selection] = {**scores[selection], **found}
    return {**record, "scores": scores}


def _check_shapes(arrays: Arrays, selection: str) -> None:
    labels, top = arrays.get("labels"), arrays.get(f"{selection}_top5")
    floats = [arrays.get(f"{selection}_{part}") for part in ("log_p_true", "top_p")]
    if (
        labels is None
        or top is None
        or labels.ndim != 1
        or not len(labels)
        or top.ndim != 2
        or not top.shape[1]
        or labels.dtype.kind not in "iu"
        or top.dtype.kind not in "iu"
        or any(f is None or f.shape != labels.shape or f.dtype.kind != "f" or not np.isfinite(f).all() for f in floats)
        or len(top) != len(labels)
    ):
        raise UserError(f"its prediction file lacks sound arrays for {selection}; it is left out.")


def _digest(labels: NDArray[Any] | None) -> str | None:
    return None if labels is None else hashlib.sha256(labels.astype(np.int64).tobytes()).hexdigest()


def _same_labels(kept: list[tuple[Record, str | None]], problems: list[Problem]) -> list[Record]:
    """Drop the records whose test labels differ from those of most others of their suite and data set."""
    votes: dict[tuple[str, str], Counter[str]] = {}
    for record, labels in kept:
        if labels is not None:
            votes.setdefault((record["suite"], record["dataset"]), Counter())[labels] += 1
    out = []
    for record, labels in kept:
        if labels is not None and labels != votes[record["suite"], record["dataset"]].most_common(1)[0][0]:
            text = "its test labels are not those of the suite's other records; it is left out."
            problems.append(Problem(f"{name(record)}: {text}", record["suite"]))
        else:
            out.append(record)
    return out
