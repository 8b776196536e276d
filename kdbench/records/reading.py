"""Files that anybody may have written: read as what they should be, or refused with a reason, whatever is in them."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections import Counter
from io import FileIO
from itertools import accumulate
from pathlib import Path
from typing import Any

#: Bytes of JSON that are read: more than a record of ten thousand epochs has.
LARGEST_JSON = 8 << 20
#: Bytes of any other file that are read, packed or unpacked: more than the predictions on a million images have.
LARGEST = 64 << 20
#: Lists and objects inside one another; a record has six.
DEEPEST = 40

_TOO_DEEP = f"it is nested more than {DEEPEST} levels deep"
#: A string, or what begins as one and does not end.
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
#: Brackets that open in a text whose depth is looked at only after it was read, which is quicker.
_FEW = 500
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_file(path: Path, largest: int = LARGEST) -> bytes:
    """The bytes of ``path``; ValueError where it is no file, cannot be read or has more than ``largest``."""
    try:
        with _opened(path) as file:
            data = file.read(min(os.fstat(file.fileno()).st_size, largest) + 1)  # which is what room is made for
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    if len(data) > largest:
        raise ValueError(f"it is larger than {largest >> 20} MiB")
    return data


def check_regular(path: Path) -> None:
    """OSError unless ``path`` is a file that can be opened and read to an end, which a pipe's reader may wait for."""
    _opened(path).close()


def _opened(path: Path) -> FileIO:
    """The regular file ``path``; OSError where it is none. Whatever it is, nobody is waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return FileIO(descriptor)
    os.close(descriptor)
    folder = stat.S_ISDIR(mode)
    raise OSError(errno.EISDIR if folder else errno.EINVAL, "Is a directory" if folder else "it is no regular file")


def read_json(path: Path) -> Any:
    """What the JSON file ``path`` says; ValueError where it is not JSON, or not JSON that every reader reads alike.

    Numbers are finite, texts are Unicode, no object has a field twice, and nothing is nested more than DEEPEST deep.
    """
    return parse_json(read_file(path, LARGEST_JSON))


def parse_json(data: bytes) -> Any:
    """What ``data`` says, by the rules of read_json()."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} of it is not UTF-8") from None
    if not text.strip():
        raise ValueError("it is empty")
    if text.count("[") + text.count("{") > _FEW:  # json calls itself for each level, so it must not even see too many
        _check_depth(_depth(text))
    try:
        document = json.loads(text, parse_int=_integer, object_pairs_hook=_object)
    except RecursionError:  # whoever calls this stands deep himself
        raise ValueError(_TOO_DEEP) from None
    depth, finite = _looked_through(document)
    _check_depth(depth)
    if "\\ud" in text or "\\uD" in text or not finite:
        _check(document)
    return document


def _check_depth(depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError(_TOO_DEEP)


def _depth(text: str) -> int:
    """How many brackets are open at most, those in strings not counted."""
    brackets = _BRACKET.findall(_STRING.sub("", text))
    return max(accumulate(1 if bracket in "[{" else -1 for bracket in brackets), default=0)


def _integer(digits: str) -> float:
    """An integer; infinite where no float is large enough for it."""
    return int(digits) if len(digits) <= 300 else math.inf


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"it has the field {printable(twice)} twice")
    return found


def _looked_through(document: Any) -> tuple[int, bool]:
    """How many lists and objects of ``document`` are inside one another, and whether every number in it is finite.

    Level by level, and no further than counts: quicker than to look at each value by its name.
    """
    level: list[Any] = [[document]]
    depth, finite = 0, True
    while level and depth <= DEEPEST:
        inner = []
        for value in level:
            for each in value.values() if type(value) is dict else value:
                kind = type(each)
                if kind is dict or kind is list:
                    inner.append(each)
                elif kind is float and not math.isfinite(each):
                    finite = False
        depth, level = depth + bool(inner), inner
    return depth, finite


def _check(value: Any, field: str = "") -> None:
    """ValueError that names the first field whose number is not finite or whose text is not Unicode."""
    if isinstance(value, str):
        if not value.isascii() and _SURROGATE.search(value):
            raise ValueError(f"{printable(field)} holds a lone surrogate, which is no character")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{printable(field)} is not a finite number of sensible size")
    elif isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value, 1):
            _check(name, field)
            _check(inner, f"{field}/{name}" if field else str(name))


def printable(name: str) -> str:
    """A name as part of a sentence, whatever it is made of."""
    if name.isprintable():
        return name[:400]
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)[:400]


def unlisted(name: str, folder: Path, error: OSError) -> str:
    """Why ``folder``, which a sentence calls ``name``, cannot be listed, and what to do, as the beginning of it."""
    if isinstance(error, NotADirectoryError):
        return f"{name} is a file where a folder belongs; move it away"
    if folder.is_symlink() and not folder.exists():
        return f"{name} is a link that leads nowhere; mend or delete it"
    return f"The folder {name} cannot be read ({error.strerror}); make it readable"
