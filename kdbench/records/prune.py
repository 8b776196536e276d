"""Records that count for nothing any more."""

from __future__ import annotations

from pathlib import Path

from kdbench.records.inventory import take_inventory
from kdbench.records.results import DONE
from kdbench.records.store import Store


def superseded(store: Store) -> list[Path]:
    """The files of failed attempts that a later one, or a result, has taken the place of.

    Whatever is damaged or set apart is none of them.
    """
    found = take_inventory(store)
    counting = {result["file"] for result in found.results}
    failed = (record for record in found.records if record["status"] not in DONE)
    return [store.root / record["file"] for record in failed if record["file"] not in counting]
