"""From record files to results: what several say of one trial counts once, and is shown wherever suites list it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from kdbench.canonical import canonical
from kdbench.records.agreement import TEACHER, rounding
from kdbench.records.listings import Place, Said

Record = Mapping[str, Any]

#: A trial is done when it ended by itself; a crash or a time-out is tried again.
DONE = frozenset({"finished", "diverged", "inapplicable"})
#: What equal weights must score alike, whichever version of kdbench scored them.
_EXACT = ("epoch", "top1", "top5")


def fold(records: Iterable[Record]) -> tuple[list[Record], list[tuple[Record, str]]]:
    """The results in ``records``, and those that contradict another one, with a sentence.

    Records of equal key, numerics, evidence and weights are one result: the earliest stands for all, under ``costs``
    it has the cost of each, and its ``cost`` is their median, field by field. Other results of the key stay beside it
    as replicates. A failed attempt, the latest one, counts only where there is nothing else of its key and evidence.
    """
    by_key: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        by_key[record["key"], record["evidence"]].append(record)
    results: list[Record] = []
    refused: list[tuple[Record, str]] = []
    for attempts in by_key.values():
        done = [record for record in attempts if record["status"] in DONE]
        if not done:
            results.append(max(attempts, key=_age))
            continue
        if len(done) == 1:
            results += done
            continue
        groups: dict[bytes, list[Record]] = defaultdict(list)
        for record in done:
            groups[canonical([record["status"], record["numerics"], record["weights_sha256"]])].append(record)
        for group in groups.values():
            group.sort(key=_age)
            if contradiction := _contradiction(group):
                refused += [(record, contradiction) for record in group]
            else:
                results.append(_one(group))
    return results, refused


def one_teacher(results: Iterable[Record]) -> tuple[list[Record], list[tuple[Record, str]]]:
    """The ``results`` without what is contributed and says of a teacher another accuracy than was measured of it.

    Those are returned beside the others, each with a sentence.
    """
    results = list(results)
    if all(record["evidence"] == "measured" for record in results):
        return results, []
    measured: dict[bytes, list[float]] = defaultdict(list)
    for record in results:
        if record["evidence"] == "measured" and record["teacher"] is not None:
            measured[_teacher(record)].append(record["teacher"]["top1"])
    kept: list[Record] = []
    refused: list[tuple[Record, str]] = []
    for record in results:
        known = measured.get(_teacher(record)) if record["evidence"] != "measured" and record["teacher"] else None
        if known and abs(record["teacher"]["top1"] - median(known)) > rounding(record["dataset"]):
            said = f"its teacher's top1 is {record['teacher']['top1']:.2f}, but {median(known):.2f} was measured of it"
            refused.append((record, said))
        else:
            kept.append(record)
    return kept, refused


def _teacher(record: Record) -> bytes:
    return canonical([record["dataset"], record["identity"]["teacher"], record["teacher"]["weights_sha256"]])


def placed(
    results: Iterable[Record], listings: Mapping[str, Mapping[Place, Said]], stands: Callable[[Record, Place], bool]
) -> Iterator[Record]:
    """Each of ``results`` wherever its trial is shown: at its own place, at those of others of its key, as listed.

    What a listing says counts only where the trial ``stands``.

    Whichever suite trained a trial first, and on whichever machine, it is the same trial. What is contributed shows
    nothing that was measured anywhere else.
    """
    results = list(results)
    places: dict[tuple[str, str], set[Place]] = defaultdict(set)
    for record in results:
        measured = record["evidence"] == "measured"
        said = (place for place, said in listings.get(record["key"], {}).items() if not (measured and said.contributed))
        listed = (place for place in said if stands(record, place))
        places[record["key"], record["evidence"]].update(_places(record), listed)
    for record in results:
        if record["label"] == TEACHER:
            yield record
        for place in sorted(places[record["key"], record["evidence"]]):
            if place.label != TEACHER:
                yield {**record, **place._asdict()}


def _places(record: Record) -> Iterable[Place]:
    return (Place(record["suite"], record["label"], record["pair"]), *record.get("places", ()))


def _age(record: Record) -> tuple[str, str]:
    """What sorts attempts by time, and those of one moment always alike."""
    return record["provenance"]["created"], canonical(record["provenance"]).decode()


def _contradiction(group: Sequence[Record]) -> str:
    """What two of ``group`` that score differently say; empty where equal weights score alike, as they must."""
    first = group[0]
    for other in group[1:]:
        for selection, score in first["scores"].items():
            theirs = other["scores"][selection]
            for field in _EXACT:
                mine, its = (None if s is None else s[field] for s in (score, theirs))
                if mine != its:
                    return (
                        f"it has the weights and the numerics of another record of its trial, but {selection} {field} "
                        f"is {mine} in the one and {its} in the other"
                    )
    return ""


def _one(group: Sequence[Record]) -> Record:
    first = group[0]
    if len(group) == 1:
        return first
    costs = [record["cost"] for record in group if record["cost"] is not None]
    places = tuple(dict.fromkeys(place for record in group for place in _places(record)))
    return {**first, "cost": _median(costs), "costs": costs, "places": places}


def _median(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The median of each field over the ``costs`` that have it; a whole number stays one."""
    if not costs:
        return None
    fields = dict.fromkeys(name for cost in costs for name in cost)
    found: dict[str, Any] = {}
    for name in fields:
        values = [cost[name] for cost in costs if cost.get(name) is not None]
        middle = median(values) if values else None
        whole = middle is not None and all(isinstance(value, int) for value in values)
        found[name] = round(middle) if middle is not None and whole else middle
    return found
