"""Records on their way to somebody else's results folder: the same ones, called contributed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdbench.records.inventory import Inventory
from kdbench.records.listings import Place
from kdbench.records.results import DONE
from kdbench.records.store import CONTRIBUTED, Store

Record = Mapping[str, Any]


def contribute(rows: Sequence[Record], found: Inventory, source: Store, into: Store) -> int:
    """Write the records that ``rows`` are made of as contributed, and those of their teachers' trainings; how many.

    ``found`` is what the ``source`` holds. A repeated measurement goes along, a failed attempt does not.
    """
    measured = [record for record in found.records if record["evidence"] == "measured" and record["status"] in DONE]
    keys = _with_teachers({row["key"] for row in rows}, measured)
    written = 0
    for record in (record for record in measured if record["key"] in keys):
        whole = source.load(source.root / record["file"])
        packed = None if whole["predictions"] is None else source.packed(whole)
        into.put_packed({**whole, "evidence": CONTRIBUTED}, packed)
        written += 1
    places = ((row["key"], Place(row["suite"], row["label"], row["pair"])) for row in rows)
    into.list_under(places, contributed=True)
    return written


def _with_teachers(keys: set[str], records: Sequence[Record]) -> set[str]:
    """``keys``, and those of the trainings that made their teachers, and the teachers of these."""
    recipes = {record["key"]: set(_recipes(record)) for record in records}
    found, new = set[str](), keys
    while new:
        found |= new
        new = set[str]().union(*(recipes.get(key, ()) for key in new)) - found
    return found


def _recipes(record: Record) -> Iterator[str]:
    teacher = record["identity"].get("teacher")
    if isinstance(teacher, Mapping) and isinstance(teacher.get("recipe"), str):
        yield teacher["recipe"]
