"""Pins: the weights that a suite's checkpoint teachers had at their first use.

Each is a file of its own that is named by what it says, so writers do not meet and folders can be merged by copying.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdbench.errors import UserError
from kdbench.folders import write_atomically
from kdbench.names import NAME
from kdbench.records.reading import read_json

_NAME, _DIGEST = re.compile(NAME), re.compile(r"[0-9a-f]{64}")


def read_pins(results: Path, suite: str, links: bool = True) -> dict[str, str]:
    """Teacher name -> digest of its weights, of those that ``suite`` has pinned; without ``links``, in files alone.

    UserError names a file that cannot be read, and both of two that differ.
    """
    found: dict[str, tuple[str, Path]] = {}
    for path, pins in _files(results, suite, links):
        for teacher, weights in pins.items():
            known, where = found.setdefault(teacher, (weights, path))
            if known != weights:
                raise UserError(
                    f"{where} and {path} pin the teacher {teacher} to different weights; delete the one that is wrong."
                )
    return {teacher: weights for teacher, (weights, _) in found.items()}


def pinned_suites(results: Path) -> list[str]:
    """The suites with a folder of pins of their own. No link is followed."""
    home = results / "pins"
    found = [] if home.is_symlink() else home.glob("*")
    return sorted(path.name for path in found if path.is_dir() and not path.is_symlink())


def write_pin(results: Path, suite: str, teacher: str, weights: str) -> None:
    """Pin ``teacher`` of ``suite`` to the digest ``weights``."""
    text = json.dumps({"teacher": teacher, "weights_sha256": weights}, indent=1)
    write_atomically(results / "pins" / suite / _name(teacher, weights), text.encode() + b"\n")


def bring_over_pins(results: Path) -> None:
    """Make a file of each pin in ``pins.json``, where earlier versions kept them all."""
    path = results / "pins.json"
    if os.path.lexists(path):
        for suite, pins in _early(path).items():
            for teacher, weights in pins.items():
                write_pin(results, suite, teacher, weights)
        path.unlink(missing_ok=True)


def _files(results: Path, suite: str, links: bool = True) -> Iterator[tuple[Path, Mapping[str, str]]]:
    early = results / "pins.json"
    if os.path.lexists(early):
        yield early, _early(early).get(suite, {})
    for path in sorted((results / "pins" / suite).glob("*.json")):
        if links or not path.is_symlink():
            yield path, _pin(path)


def _pin(path: Path) -> dict[str, str]:
    raw = _read(path)
    try:
        pin = _pins({raw["teacher"]: raw["weights_sha256"]})
        if [_name(*pair) for pair in pin.items()] != [path.name]:
            raise ValueError
        return pin
    except (ValueError, TypeError, KeyError):
        raise _unreadable(path, "its name and what it says are not those of a pin") from None


def _early(path: Path) -> dict[str, dict[str, str]]:
    raw = _read(path)
    try:
        return {_matching(_NAME, suite): _pins(pins) for suite, pins in raw.items()}
    except (ValueError, TypeError, AttributeError):
        raise _unreadable(path, "it holds something else than pins") from None


def _pins(raw: Any) -> dict[str, str]:
    return {_matching(_NAME, teacher): _matching(_DIGEST, weights) for teacher, weights in raw.items()}


def _matching(pattern: re.Pattern[str], text: Any) -> str:
    if not pattern.fullmatch(text):
        raise ValueError
    return str(text)


def _name(teacher: str, weights: str) -> str:
    return f"{teacher}.{weights[:12]}.json"


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise _unreadable(path, str(error)) from None


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(f"{path} cannot be read ({reason}); restore it, or delete it to pin teachers anew.")
