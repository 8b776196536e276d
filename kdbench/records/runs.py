"""Runs in a results folder: ``runs/<run>.json`` says what one did, and ``runs/<run>.live.json`` what one does now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdbench.errors import UserError, reason
from kdbench.records.reading import parse_json, printable, read_file
from kdbench.records.validate import check

#: How the name of a file ends that is there while its run is under way: nothing that merges, checks or shows results
#: reads it.
LIVE = ".live.json"


def manifest_paths(results: Path) -> list[Path]:
    """The manifests of all runs, the latest last."""
    return sorted(path for path in (results / "runs").glob("*.json") if not path.name.endswith(LIVE))


def live_paths(results: Path) -> list[Path]:
    """The live files of all runs that have one, the latest last."""
    return sorted((results / "runs").glob(f"*{LIVE}"))


def live_path(manifest: Path) -> Path:
    """Where the live file of a run lies, whose manifest is at ``manifest``."""
    return manifest.with_name(manifest.name.removesuffix(".json") + LIVE)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest at ``path``; UserError where it is none. Those of earlier versions are only read, not checked."""
    return _read(path, "run")


def read_live(path: Path) -> dict[str, Any]:
    """The live file at ``path``; UserError where it is none."""
    return _read(path, "live")


def _read(path: Path, kind: str) -> dict[str, Any]:
    where = f"The run runs/{printable(path.name)}"
    try:
        document = parse_json(read_file(path))  # of ten thousand trials it is larger than a record
    except ValueError as error:
        raise UserError(f"{where} cannot be read ({reason(error)}); restore it or delete it.") from None
    if kind == "live" or not isinstance(document, dict) or "schema_version" in document:
        check(kind, document, f"{where} is damaged")
    elif "outcome" in document or not isinstance(document.get("run"), str):  # which earlier versions did otherwise
        raise UserError(f"{where} is damaged: it says of no run; restore it or delete it.")
    try:
        for name in {"began", "ended", "heartbeat"} & document.keys():
            datetime.fromisoformat(document[name])
    except (TypeError, ValueError):
        raise UserError(f"{where} is damaged: a time of it is none; restore it or delete it.") from None
    return document  # type: ignore[no-any-return]


def manifests(results: Path, complain: Callable[[str], None]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The manifests in ``results`` that can be read, the latest first; of each other one it is said why not."""
    for path in reversed(manifest_paths(results)):
        try:
            yield path, _remembered(path, path.stat().st_mtime_ns)
        except (UserError, OSError) as error:
            complain(str(error))


@lru_cache(maxsize=1)
def _remembered(path: Path, changed: int) -> dict[str, Any]:
    """The manifest at ``path``, read once while it does not change: of ten thousand trials it takes a second."""
    return read_manifest(path)
