"""TOML that anybody may have written: plain data, or one sentence that says what is wrong and where."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from kdbench.errors import UserError, reason, shown

#: The most bytes of a file, characters of a key, and tables, lists and parts of a dotted key in one another.
LONGEST, LONGEST_KEY, DEEPEST = 4 * 2**20, 200, 32
#: TOML promises no whole numbers beyond these, and neither does a record.
WHOLE = range(-(2**63), 2**63)

#: Characters that a terminal obeys, that turn the direction of what follows, or that no file can hold.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def read_toml(path: Path) -> dict[str, Any]:
    """What the TOML file ``path`` says; UserError where it cannot be read or says nothing that can be used."""
    return parse_toml(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of the TOML file ``path``; UserError where it cannot be read."""
    try:
        if not path.is_file():  # a pipe would block
            raise UserError(f"{path}: there is no such file.")
        with path.open("rb") as stream:
            return stream.read(LONGEST + 1).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}.") from None


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """What TOML ``text`` says; UserError begins with ``where``."""
    if len(text) > LONGEST:
        raise UserError(f"{where}: it has more than {LONGEST // 2**20} MiB; leave out what is no setting.")
    # A dotted key is looked at before it is parsed: what that takes grows with the square of its parts.
    if any(part.count(".") > 4 * DEEPEST for part in re.split("[=,\n]", text)):
        raise UserError(f"{where}: a key has more than {DEEPEST} parts.")
    try:
        raw = tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where}: not valid TOML: {str(error)[:200]}.") from None
    except RecursionError:
        raise UserError(f"{where}: lists or tables lie more than {DEEPEST} deep in one another.") from None
    except ValueError:  # Python's own limit of digits
        raise UserError(f"{where}: a whole number has too many digits.") from None
    _check(raw, where)
    return raw


def _check(raw: dict[str, Any], where: str) -> None:
    """UserError for a text or a number that nothing could do with, wherever in ``raw`` it stands."""
    level: list[tuple[str, Any]] = [("", raw)]
    for _ in range(DEEPEST):
        below: list[tuple[str, Any]] = []
        for place, value in level:
            if isinstance(value, dict):
                if long := next((key for key in value if len(key) > LONGEST_KEY), None):
                    raise UserError(f"{where}: the key {shown(long)} has more than {LONGEST_KEY} characters.")
                _check_text("a key", " ".join(value), where)
                below += ((f"{place}.{key}" if place else key, inner) for key, inner in value.items())
            elif isinstance(value, list):
                below += ((place, inner) for inner in value)
            elif isinstance(value, str):
                _check_text(place, value, where)
            elif isinstance(value, int) and value not in WHOLE:
                raise UserError(f"{where}: {place} is {shown(value)}, which 64 bits do not hold.")
        if not below:
            return
        level = below
    raise UserError(f"{where}: lists or tables lie more than {DEEPEST} deep in one another.")


def _check_text(place: str, text: str, where: str) -> None:
    if found := _UNSEEN.search(text):
        raise UserError(f"{where}: {place} holds the character U+{ord(found[0]):04X}, which cannot be seen; remove it.")
