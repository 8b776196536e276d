"""Files that anybody may have written: read as what they should be, or refused with a reason, whatever is in them."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

#: Bytes of JSON that are read: more than a record of ten thousand epochs has.
LARGEST_JSON = 8 << 20
#: Bytes of any other file that are read.
LARGEST = 1 << 30
#: Lists and objects inside one another; a record has six.
DEEPEST = 40


def read_file(path: Path, largest: int = LARGEST) -> bytes:
    """The bytes of ``path``; ValueError where it is no file, cannot be read or has more than ``largest``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # so that a pipe without a writer keeps nobody waiting
        with open(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("it is a folder" if stat.S_ISDIR(found.st_mode) else "it is no regular file")
            data = stream.read(largest + 1)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    if len(data) > largest:
        raise ValueError(f"it is larger than {largest >> 20} MiB")
    return data


def read_json(path: Path) -> Any:
    """What the JSON file ``path`` says; ValueError where it is not JSON, or not JSON that every reader reads alike.

    Numbers are finite, texts are Unicode, no object has a field twice, and nothing is nested more than DEEPEST deep.
    """
    try:
        text = read_file(path, LARGEST_JSON).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} of it is not UTF-8") from None
    if not text.strip():
        raise ValueError("it is empty")
    try:
        document = json.loads(text, parse_int=_integer, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check(document)
    return document


def _integer(digits: str) -> float:
    """An integer; one that no float is large enough for is infinite."""
    return int(digits) if len(digits) <= 300 else math.inf


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the field {next(name for name in names if names.count(name) > 1)[:60]!r} twice")
    return found


def _check(value: Any, field: str = "", depth: int = 0) -> None:
    """ValueError that names the field of the first number or text that is none, or of what is nested too deeply."""
    if isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ValueError(f"{_short(field)} holds half of a character")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{_short(field)} is not a finite number of sensible size")
    elif isinstance(value, dict | list):
        if depth == DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value, 1):
            _check(name, field, depth)
            _check(inner, f"{field}/{name}" if field else str(name), depth + 1)


def _short(field: str) -> str:
    """A field's name as part of a sentence, whatever it is made of."""
    return ascii(field)[1:-1][:100] or "it"
