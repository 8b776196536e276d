"""Listings: the trials that a suite asked for and that lie under another one.

A trial has one record, whichever suite asked first. Each further suite leaves a listing, which says by what label and
on what pair it shows the trial. A listing is named by its suite and its content, so writers do not meet and folders
are merged by copying.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.errors import UserError, reason
from kdbench.folders import write_atomically
from kdbench.records.reading import printable, read_json, unlisted
from kdbench.records.validate import SCHEMA_VERSION, check


class Place(NamedTuple):
    """Where a trial is shown: suite, label and pair are its suite's, not the trial's."""

    suite: str
    label: str
    pair: str


class Said(NamedTuple):
    """The file of a listing that says where a trial is shown; ``contributed``: it shows contributed records alone."""

    file: str
    contributed: bool


class Listing(NamedTuple):
    """A listing as it was read: trials by key and their places, and whether it is somebody else's."""

    suite: str
    contributed: bool
    trials: list[tuple[str, Place]]


def write_listing(folder: Path, suite: str, places: Iterable[tuple[str, Place]], contributed: bool = False) -> Path:
    """List trials, by key, under ``suite`` in the folder of listings ``folder``; ``contributed``: for somebody else."""
    trials = [{"key": key, "label": place.label, "pair": place.pair} for key, place in sorted(places)]
    document: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "suite": suite, "trials": trials}
    document |= {"evidence": "contributed"} if contributed else {}
    data = json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
    path = folder / _name(suite, data)
    check("listing", document, str(path))
    write_atomically(path, data)
    return path


def read_listings(folder: Path) -> tuple[dict[str, dict[Place, Said]], list[str]]:
    """Key -> the places of a trial, each with what says so, from all listings in ``folder``; one's own come first.

    And a sentence for each that cannot be used.
    """
    found: dict[str, dict[Place, Said]] = {}
    problems = []
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".json") and not name.startswith("."))
    except OSError as error:
        if not folder.exists() and not folder.is_symlink():
            return {}, []
        names = []
        problems.append(f"{unlisted(f'v1/{folder.name}', folder, error)}, so no listing is used.")
    for path in (folder / name for name in names):
        try:
            listing = read_listing(path)
            said = Said(printable(path.name), listing.contributed)
            for key, place in listing.trials:
                known = found.setdefault(key, {})
                if place not in known or known[place].contributed > said.contributed:
                    known[place] = said
        except UserError as error:
            problems.append(str(error))
    return found, problems


def read_listing(path: Path) -> Listing:
    """The listing at ``path``; UserError where it cannot be used."""
    where = f"The listing {printable(path.name)}"
    try:
        document = read_json(path)
    except ValueError as error:
        raise UserError(f"{where} cannot be read ({reason(error)}); restore it or delete it.") from None
    try:
        check("listing", document, f"{where} is damaged")
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}; restore it or delete it.") from None
    if path.name != _name(document["suite"], path.read_bytes()):
        raise UserError(
            f"{where} is damaged: its name is not that of its suite and its content; restore it or delete it."
        )
    suite = document["suite"]
    trials = [(trial["key"], Place(suite, trial["label"], trial["pair"])) for trial in document["trials"]]
    return Listing(suite, "evidence" in document, trials)


def _name(suite: str, data: bytes) -> str:
    return f"{suite}.{hashlib.sha256(data).hexdigest()[:12]}.json"
