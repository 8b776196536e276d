"""Whether files hold the pictures that they seem to: each is decoded once, and remembered while it looks the same."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from kdbench.errors import DataError, reason
from kdbench.folders import write_atomically
from kdbench.paths import cache_dir

#: Pixels of a picture that are decoded: more is a mistake, or an attack on the memory of whoever opens it.
MOST_PIXELS = 89_478_485
#: Pillow's modes of more than eight bits, which its conversion to grey or colours cuts off, and says nothing.
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
#: Raised when a look finds something else in the same bytes.
_VERSION = 2


class Look(NamedTuple):
    """What was found in a file: a digest of its bytes, and what is wrong with it, if anything."""

    mark: str
    problem: str


def looks(root: Path, paths: Sequence[Path]) -> list[Look]:
    """What is in each of ``paths``, which lie below ``root``. DataError where one cannot be read at all."""
    place = cache_dir() / "identity" / f"pictures-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:24]}.json"
    known: dict[str, list[object]] = {}
    with suppress(OSError, ValueError, LookupError, TypeError):
        raw = json.loads(place.read_text(encoding="utf-8"))
        known = dict(raw["files"]) if raw["version"] == _VERSION else {}
    try:
        seen = [_seen(path) for path in paths]
        new = [name for name, *stamp in seen if known.get(name, [])[:2] != stamp]
        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is a problem here, not a warning
            found = dict(zip(new, pool.map(_look, new), strict=True))
    except OSError as error:
        raise DataError(f"{root} cannot be read: {reason(error)}; check its permissions.") from None
    if new:
        known |= {name: [*stamp, *found[name]] for name, *stamp in seen if name in found}
        with suppress(OSError):  # it only costs the time to look again
            write_atomically(place, json.dumps({"version": _VERSION, "files": known}).encode())
    return [found.get(name) or Look(str(known[name][2]), str(known[name][3])) for name, *_ in seen]


def _seen(path: Path) -> tuple[str, int, int]:
    """``path``, its size and its time; -1 for both where it is no plain file, which nobody opens."""
    try:
        found = path.stat()
    except FileNotFoundError:  # a link that leads nowhere
        return str(path), -1, -1
    return (str(path), found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (str(path), -1, -1)


def _look(path: str) -> Look:
    if not os.path.isfile(path):  # a folder, a link that leads nowhere, or a pipe that would be waited for
        return Look("", "it is no file")
    data = Path(path).read_bytes()
    return Look(hashlib.sha256(data).hexdigest()[:32], _problem(data))


def _problem(data: bytes) -> str:
    """Why nobody should learn from the picture ``data``, in words; empty where nothing is wrong."""
    if not data:
        return "it is empty"
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MOST_PIXELS:
                return f"it has {image.width} x {image.height} pixels, more than {MOST_PIXELS // 10**6} million"
            if image.mode in DEEP:
                return f"its pixels have more than 8 bits (mode {image.mode}), and would turn white or black"
            image.load()
    except UnidentifiedImageError:  # Pillow names the object that it was given
        return "it cannot be decoded: it is no picture that Pillow knows"
    except Image.DecompressionBombError:
        return f"it has far more than {MOST_PIXELS // 10**6} million pixels"
    except Exception as error:  # whatever a decoder makes of a damaged file
        return f"it cannot be decoded: {reason(error)}"
    return ""
