"""Putting results folders together: every file is named by its content, so nothing is lost and nothing is replaced."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kdbench.errors import UserError, reason
from kdbench.folders import copy_atomically, write_atomically
from kdbench.records.beside import beside
from kdbench.records.listings import read_listing, write_listing
from kdbench.records.pins import pinned_suites, read_pins
from kdbench.records.reading import check_regular, printable, read_file
from kdbench.records.runs import LIVE, live_path, read_manifest
from kdbench.records.store import LISTINGS, WEIGHTS, Store

#: The names of kept weights.
_WEIGHTS = re.compile(r"[0-9a-f]{64}\.safetensors")
#: What is of those alone who ran it.
_OURS = frozenset({"pins", "runs"})


class Merged(NamedTuple):
    """Records that were copied, and those that were there; a sentence for each file that cannot be used."""

    new: int
    known: int
    problems: list[str]


def merge(into: Store, sources: Sequence[Store], contributed: bool = False) -> Merged:
    """Copy the records of ``sources`` with their predictions, and listings, pins and manifests, into one store.

    Copying the folders' files does the same; this also leaves out, and names, what is damaged, and follows no link
    beside the records. ``contributed``: whatever the records of ``sources`` call themselves, here they are somebody
    else's, who pins no teacher and whose runs are none of this folder's. UserError, before anything is copied, where an
    earlier version wrote a folder or where two pin a teacher to different weights.
    """
    for store in (into, *sources):
        store.check_current()
    if not contributed:
        _check_pins([into, *sources])
    new = known = 0
    problems: list[str] = []
    for source in sources:
        for path in source.files(problems):
            try:
                adopted = into.adopt(path, source, contributed)
            except UserError as error:
                problems.append(str(error))
                continue
            new, known = new + adopted, known + (not adopted)
        found = beside(source)
        problems += (*source.misplaced(), *found.strange.values(), *found.unread)
        for path in found.files:
            try:
                _bring(source, path, into, contributed)
            except UserError as error:
                problems.append(str(error))
    return Merged(new, known, problems)


def _bring(source: Store, path: Path, into: Store, contributed: bool) -> None:
    """Copy the file ``path``, which lies beside the records of ``source``; UserError where it cannot be used."""
    kind, target = _kind(source, path), into.root / path.relative_to(source.root)
    if contributed and kind == "v1":
        listing = read_listing(path)
        write_listing(into.root / "v1" / LISTINGS, listing.suite, listing.trials, contributed=True)
    elif target.exists() or (contributed and kind in _OURS) or (kind == WEIGHTS and not _WEIGHTS.fullmatch(path.name)):
        return
    elif (content := _content(source, path)) is not None:
        try:
            if kind == WEIGHTS:
                into.ignore_weights()
                copy_atomically(path, target)
            else:
                write_atomically(target, content)
        except (FileExistsError, NotADirectoryError):
            raise UserError(
                f"{printable(str(path))} is not copied: {into.place(target)} cannot be made, a file is in its way."
            ) from None


def _kind(source: Store, path: Path) -> str:
    """The folder of ``source`` that ``path`` lies in."""
    return path.relative_to(source.root).parts[0]


def _content(source: Store, path: Path) -> bytes | None:
    """The bytes of a file that lies beside the records of ``source``; of weights none, which may be larger than memory.

    None of a run that is under way. UserError where it is damaged, or is not to be read.
    """
    kind = _kind(source, path)
    try:
        if kind == "runs":
            if path.name.endswith(LIVE) or live_path(path).exists():
                return None
            read_manifest(path)
        elif kind == "v1":
            read_listing(path)
        elif kind == WEIGHTS:
            check_regular(path)
            return b""
        return read_file(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{printable(str(path))} is not copied: {reason(error)}.") from None


def _check_pins(stores: Sequence[Store]) -> None:
    """UserError that names two pins of one teacher to different weights."""
    found: dict[tuple[str, str], tuple[str, Path]] = {}
    for store in stores:
        for suite in pinned_suites(store.root):
            folder = store.root / "pins" / suite
            for teacher, weights in read_pins(store.root, suite, links=False).items():
                known, where = found.setdefault((suite, teacher), (weights, folder))
                if known != weights:
                    raise UserError(
                        f"{where} and {folder} pin the teacher {teacher} to different weights; "
                        "delete the one that is wrong."
                    )
