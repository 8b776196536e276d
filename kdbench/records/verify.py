"""Scores recomputed from stored predictions: what a page calls measured was measured here, or is not shown as such."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.data import DATASETS
from kdbench.data.spec import labels_digest
from kdbench.errors import UserError
from kdbench.stats.aggregate import SELECTIONS
from kdbench.stats.bias import corrected
from kdbench.stats.scores import Judged, judge

Record = Mapping[str, Any]
Arrays = Mapping[str, NDArray[Any]]

#: How far a record may lie from its predictions: accuracy is exact, the rest was rounded to float16 in the file (a
#: confidence that is rounded across the edge of a bin moves its whole image, so the calibration error has the widest).
TOLERANCE = {"top1": 1e-3, "top5": 1e-3, "nll": 5e-3, "ece": 2e-2}


#: Bytes of labels whose digest is remembered by them; anybody may have written larger ones.
_REMEMBERED = 1 << 20


@dataclass(frozen=True)
class Problem:
    """A record that is not shown, and why; ``file`` is its place in the results folder.

    ``suite`` is None for a file that could not be read at all.
    """

    text: str
    suite: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class Scored:
    """What a prediction file of N ``images`` says: the scores of each selection that it has, its test labels' digest.

    ``right``: for each selection, on which images its most probable class is the true one, as packed bits in hex;
    ``binned``: its reliability, as floats of four bytes in hex.
    """

    scores: Mapping[str, Mapping[str, float]]
    labels: str
    images: int
    right: Mapping[str, str]
    binned: Mapping[str, str]


#: What a prediction file has of each selection; the last four where classes were left out.
PARTS = ("top5", "log_p_true", "top_p", "lead", "right", "held_out_lead", "held_out_right")
#: How far probabilities of two bytes may be from what they mean, and more.
HALVES = 0.05


class Seen:
    """On which test images the networks of verified records are right, and how sure of it they are.

    It is kept as their predictions pass by.
    """

    def __init__(self) -> None:
        self._right: dict[tuple[str, str], tuple[int, bytes]] = {}
        self._binned: dict[tuple[str, str], bytes] = {}

    def keep(self, record: Record, found: Scored) -> None:
        for selection, bits in found.right.items():
            place = record["predictions"]["sha256"], selection
            self._right[place] = found.images, bytes.fromhex(bits)
            self._binned[place] = bytes.fromhex(found.binned[selection])

    def right(self, selection: str) -> Callable[[Record], NDArray[np.bool_] | None]:
        """A function from a record to whether its network at ``selection`` is right on each image [N], where known."""

        def of(record: Record) -> NDArray[np.bool_] | None:
            known = self._right.get(((record["predictions"] or {}).get("sha256", ""), selection))
            if known is None:
                return None
            images, bits = known
            return np.unpackbits(np.frombuffer(bits, np.uint8), count=images).astype(bool)

        return of

    def binned(self, record: Record, selection: str) -> NDArray[np.float32] | None:
        """The reliability [3, bins] of the record's network at ``selection``, as ``stats.scores`` has it."""
        known = self._binned.get(((record["predictions"] or {}).get("sha256", ""), selection))
        return None if known is None else np.frombuffer(known, "<f4").reshape(3, -1)


def score(arrays: Arrays, classes: int | None = None) -> Scored:
    """Score a prediction file over ``classes``, where they are known; UserError where its arrays are not sound."""
    arrays = dict(arrays)
    judged: dict[str, Judged] = {}
    known: dict[tuple[int, ...], Judged] = {}  # where the best epoch is the last, both have the same arrays
    for name in (name for name in SELECTIONS if f"{name}_top5" in arrays):
        same = tuple(id(arrays.get(f"{name}_{part}")) for part in PARTS)
        if same not in known:
            _check_shapes(arrays, name)
            _check_probabilities(arrays, name, classes)
            known[same] = judge(arrays, name)
        judged[name] = known[same]
    if not judged:
        raise UserError("its prediction file has no scores of any epoch; it is left out.")
    scores = {name: found.scores | corrected(arrays, name) for name, found in judged.items()}
    bits = {name: np.packbits(found.right).tobytes().hex() for name, found in judged.items()}
    hexes = {name: found.binned.astype("<f4").tobytes().hex() for name, found in judged.items()}
    labels = arrays["labels"]
    few = labels.nbytes <= _REMEMBERED
    digest = _labels_digest(labels.tobytes(), labels.dtype.str) if few else labels_digest(labels)
    return Scored(scores, digest, len(labels), bits, hexes)


@lru_cache(maxsize=32)
def _labels_digest(labels: bytes, kind: str) -> str:
    """That of the labels of a test set, which all of its records have."""
    return labels_digest(np.frombuffer(labels, kind))


def verify(
    records: Iterable[Record], scored: Callable[[Record], Scored], seen: Seen | None = None
) -> tuple[list[Record], list[Problem]]:
    """The records whose scores their predictions bear out, those scores recomputed, and a Problem for each other one.

    ``scored`` returns what a record's file says or raises UserError. Trials that did not finish pass as they are; so do
    contributed records without predictions. ``seen`` keeps what it needs of the others' predictions.
    """
    kept: list[tuple[Record, str | None]] = []
    problems: list[Problem] = []
    for record in records:
        try:
            _check_numbers(record)
            if record["predictions"] is None:
                kept.append((record, None))
            else:
                found = scored(record)
                kept.append((_recomputed(record, found), found.labels))
                if seen is not None:
                    seen.keep(record, found)
        except UserError as error:
            problems.append(problem(record, error))
    return _true_labels(kept, problems), problems


def problem(record: Record, text: object) -> Problem:
    """What is wrong with ``record``, which says ``file`` where it was read from one."""
    return Problem(f"{name(record)}: {text}", record["suite"], record.get("file"))


def name(record: Record) -> str:
    """What a problem calls a record: its row, seed and the first digits of its key."""
    return f"{record['suite']} {record['pair']} {record['label']} seed {record['seed']} ({record['key'][:12]})"


def _check_numbers(record: Record) -> None:
    """Refuse numbers that nothing can measure: a mean or a plot would break on them."""
    for part in (record["cost"], *record["scores"].values()):
        for field, value in (part or {}).items():
            if value is not None and not abs(value) < 1e18:
                raise UserError(f"its {field} is not a finite number of sensible size; it is left out.")


def _recomputed(record: Record, found: Scored) -> Record:
    scores = dict(record["scores"])
    for selection in SELECTIONS:
        if scores.get(selection) is None:
            continue
        if selection not in found.scores:
            raise UserError(f"its prediction file lacks sound arrays for {selection}; it is left out.")
        for metric, tolerance in TOLERANCE.items():
            said, measured = scores[selection][metric], found.scores[selection][metric]
            if not abs(measured - said) <= tolerance * max(1.0, abs(measured) if metric == "nll" else 1.0):
                raise UserError(
                    f"the record says {selection} {metric} {said:.4f}, but its predictions give {measured:.4f}; "
                    "it is left out."
                )
        scores[selection] = {**scores[selection], **found.scores[selection]}
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
        or top.min() < 0
    ):
        raise UserError(f"its prediction file lacks sound arrays for {selection}; it is left out.")
    if any(f"{selection}_{part}lead" in arrays for part in ("", "held_out_")):
        _check_leads(arrays, selection)


def _check_probabilities(arrays: Arrays, selection: str, classes: int | None) -> None:
    """UserError unless they are some: the true class has the largest where it is the first, else what is left.

    The largest of ``classes`` is no smaller than the mean of all, and no class is beyond them.
    """
    top_p, p = _floats(arrays[f"{selection}_top_p"]), _floats(arrays[f"{selection}_log_p_true"], exp=True)
    top = arrays[f"{selection}_top5"]
    wrong = top[:, 0] != arrays["labels"]
    if classes is not None and top.max() >= classes:
        raise UserError(f"its prediction file names classes for {selection} that its data has not; it is left out.")
    sound = (
        top_p.min() > 0
        and top_p.min() >= (1 - HALVES) / (classes or math.inf)
        and top_p.max() <= 1 + HALVES
        and (p <= (1 + HALVES) * top_p).all()
        and ((p >= (1 - HALVES) * top_p) | wrong).all()
        and ((p + top_p <= 1 + HALVES) | ~wrong).all()
    )
    if not sound:
        raise UserError(f"the probabilities in its prediction file are none for {selection}; it is left out.")


def _floats(values: NDArray[np.floating], exp: bool = False) -> NDArray[np.float32]:
    """``values`` or what e is to the power of them; of floats of two bytes looked up, as there are few of them."""
    if values.dtype == np.float16 and values.flags.c_contiguous:
        return _of_halves(exp).take(values.view(np.uint16))
    with np.errstate(over="ignore"):
        return np.exp(values, dtype=np.float32) if exp else values.astype(np.float32)


@cache
def _of_halves(exp: bool) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
        return np.exp(every) if exp else every


def _check_leads(arrays: Arrays, selection: str) -> None:
    for part, images in (("", len(arrays["labels"])), ("held_out_", None)):
        lead, right = arrays.get(f"{selection}_{part}lead"), arrays.get(f"{selection}_{part}right")
        if (
            lead is None
            or right is None
            or lead.ndim != 1
            or not len(lead)
            or lead.shape != right.shape
            or len(lead) != (images or len(lead))
            or lead.dtype.kind != "f"
            or right.dtype.kind not in "iu"
            or not np.isin(right, (0, 1, 2)).all()
            or not np.isfinite(lead).all()
        ):
            raise UserError(f"its prediction file lacks sound leads for {selection}; it is left out.")


def _true_labels(kept: list[tuple[Record, str | None]], problems: list[Problem]) -> list[Record]:
    """Drop the records whose test labels are false, however many there are of them.

    True are the labels that the data set's own specification names, for the official copy. Of other data, whose labels
    nobody can name, measured records must agree with one another, and contributed ones with those.
    """
    said: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for record, labels in kept:
        if labels is not None:
            said[_data(record)][record["evidence"]].add(labels)
    out = []
    for record, labels in kept:
        official = official_labels(record)
        theirs = said[_data(record)]
        wanted = {official} if official else theirs["measured"] or theirs["contributed"]
        if labels is None or wanted == {labels}:
            out.append(record)
        elif official:
            problems.append(problem(record, f"its test labels are not those of {record['dataset']}; it is left out."))
        else:
            text = "records of its data disagree on the test labels, and no digest of them decides; it is left out."
            problems.append(problem(record, text))
    return out


def _data(record: Record) -> tuple[str, str]:
    data = record["identity"].get("data")
    return record["dataset"], str(data.get("sha256")) if isinstance(data, Mapping) else ""


def official_labels(record: Record) -> str | None:
    """The digest of the test labels that predictions on the record's data have, where that is known."""
    dataset, content = _data(record)
    spec = DATASETS.get(dataset) if dataset in DATASETS else None
    return spec.test_labels if spec is not None and spec.digest in (None, content) else None
