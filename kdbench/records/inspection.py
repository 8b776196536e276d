"""A results folder looked through, file by file: what is set apart in it, and what a reader should know of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.errors import UserError
from kdbench.records.beside import Beside, beside
from kdbench.records.inventory import Inventory, take_inventory
from kdbench.records.literature import load
from kdbench.records.pins import pinned_suites, read_pins
from kdbench.records.runs import LIVE, read_manifest
from kdbench.records.store import LISTINGS, METHODS_FOLDER, PLUGINS_FOLDER, PREDICTIONS, WEIGHTS, Store
from kdbench.records.verify import Problem, official_labels, problem

Record = Mapping[str, Any]

#: What lies in a results folder that is read, or is for people, beside what ``beside`` finds.
_OTHERS = (
    f"v1/{LISTINGS}/*.json",
    "pins.json",
    "baselines/*.json",
    "reported/*.csv",
)


@dataclass(frozen=True)
class Inspection:
    """``problems`` are what is set apart, with a sentence each; ``warnings`` are of what is used all the same."""

    records: int
    results: int
    problems: list[Problem]
    warnings: list[Problem]


def inspect(store: Store) -> Inspection:
    """Look at every file of ``store``."""
    found = take_inventory(store)
    others = beside(store, "pins", "runs", WEIGHTS, METHODS_FOLDER, PLUGINS_FOLDER)
    problems = [*found.problems, *map(Problem, others.unread), *_unreadable(store, others)]
    warnings = [problem(record, text) for record in found.records for text in _doubts(record)]
    return Inspection(found.count, len(found.results), problems, [*warnings, *_strays(store, found, others)])


def _doubts(record: Record) -> Iterator[str]:
    """What a reader of ``record`` should know, in a sentence each."""
    if record["status"] == "finished" and record["predictions"] is None:
        yield "it has no predictions, so none of its scores can be recomputed."
    if record["predictions"] is not None and official_labels(record) is None:
        yield f"no digest is known of the test labels of this copy of {record['dataset']}, so they are not checked."
    if record["provenance"]["git_dirty"]:
        yield "the code that made it was not the commit that it names."
    yield from record["warnings"]


def _unreadable(store: Store, others: Beside) -> Iterator[Problem]:
    """Pins, manifests and the literature, where they cannot be used."""
    for suite in pinned_suites(store.root):
        try:
            read_pins(store.root, suite, links=False)
        except UserError as error:
            yield Problem(str(error), file=store.place(store.root / "pins" / suite))
    runs = (path for path in others.files if path.parent == store.root / "runs")
    for path in (path for path in runs if not path.name.endswith(LIVE)):
        try:
            read_manifest(path)
        except UserError as error:
            yield Problem(str(error), file=store.place(path))
    if (store.root / "reported").is_dir():
        try:
            load(store.root / "reported")
        except UserError as error:
            yield Problem(str(error), file="reported")


def _strays(store: Store, found: Inventory, others: Beside) -> Iterator[Problem]:
    """Links, pipes and other files that nothing reads; hidden ones, temporary files among them, are not looked at.

    Predictions and listings are strays only where no record is set apart, which may be the one that they belong to.
    """
    known = {path for pattern in _OTHERS for path in store.root.glob(pattern)}.union(store.files([]))
    known |= {path for path in others.files if path.parent.name != WEIGHTS or path.suffix == ".safetensors"}
    known.add(store.root / "v1" / LISTINGS)  # a link, perhaps, which is read
    for path, text in others.strange.items():
        yield Problem(text, file=store.place(path))
    known |= {store.predictions_path(record) for record in found.records if record["predictions"] is not None}
    for path in sorted(set(store.root.rglob("*")) - known - others.strange.keys()):
        if _hidden(path.relative_to(store.root)) or (path.is_dir() and not path.is_symlink()):
            continue
        where = store.place(path)
        if store.root / "v1" in path.parents and path.suffix.lower() == ".json":
            continue  # a problem, as it may be a record
        if path.parent != store.root / "v1" / PREDICTIONS or path.suffix != ".npz":
            yield Problem(f"Nothing reads the file {where}.", file=where)
        elif not found.problems:
            yield Problem(f"No record names the prediction file {where}.", file=where)
    if not found.problems:
        recorded = {record["key"] for record in found.records}
        listed = [places for key, places in store.listings()[0].items() if key not in recorded]
        for name in sorted({said.file for places in listed for said in places.values()}):
            text = f"The listing {name} shows trials that no record is of."
            yield Problem(text, file=f"v1/{LISTINGS}/{name}")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
