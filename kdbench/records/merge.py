"""Putting results folders together: every file is named by its content, so nothing is lost and nothing is replaced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kdbench.errors import UserError, reason
from kdbench.folders import write_atomically
from kdbench.records.pins import read_pins
from kdbench.records.reading import read_file
from kdbench.records.runs import live_path, manifest_paths
from kdbench.records.store import LISTINGS, METHODS_FOLDER, PLUGINS_FOLDER, WEIGHTS, Store


class Merged(NamedTuple):
    """Records that were copied, and those that were there; a sentence for each file that cannot be used."""

    new: int
    known: int
    problems: list[str]


def merge(into: Store, sources: Sequence[Store]) -> Merged:
    """Copy the records of ``sources`` with their predictions, and listings, pins and manifests, into one store.

    Copying the folders' files does the same; this also leaves out, and names, what is damaged. UserError, before
    anything is copied, where an earlier version wrote a folder or where two pin a teacher to different weights.
    """
    for store in (into, *sources):
        store.check_current()
    _check_pins([into, *sources])
    new = known = 0
    problems: list[str] = []
    for source in sources:
        for path in source.files():
            try:
                adopted = into.adopt(path, source)
            except UserError as error:
                problems.append(str(error))
                continue
            new, known = new + adopted, known + (not adopted)
        problems += source.listings()[1]
        for path in _others(source):
            target = into.root / path.relative_to(source.root)
            if target.exists():
                continue
            try:
                content = path.read_bytes() if path.parent.name == WEIGHTS else read_file(path)
            except (OSError, ValueError) as error:
                problems.append(f"{path} is not copied: {reason(error)}.")
                continue
            write_atomically(target, content)
    return Merged(new, known, problems)


def _others(source: Store) -> list[Path]:
    """The files beside records and predictions: they are named by what they say, or by the run that wrote them.

    The manifest of a run that is under way is not there yet.
    """
    folders = (f"{METHODS_FOLDER}/**/*", f"{PLUGINS_FOLDER}/**/*")
    places = (f"v1/{LISTINGS}/*.json", "pins/*/*.json", f"{WEIGHTS}/*", *folders)
    found = [path for place in places for path in source.root.glob(place)]
    ended = [path for path in manifest_paths(source.root) if not live_path(path).exists()]
    return sorted(path for path in (*found, *ended) if path.is_file())


def _check_pins(stores: Sequence[Store]) -> None:
    """UserError that names two pins of one teacher to different weights."""
    found: dict[tuple[str, str], tuple[str, Path]] = {}
    for store in stores:
        for folder in sorted(path for path in (store.root / "pins").glob("*") if path.is_dir()):
            for teacher, weights in read_pins(store.root, folder.name).items():
                known, where = found.setdefault((folder.name, teacher), (weights, folder))
                if known != weights:
                    raise UserError(
                        f"{where} and {folder} pin the teacher {teacher} to different weights; "
                        "delete the one that is wrong."
                    )
