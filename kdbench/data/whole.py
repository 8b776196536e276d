"""A folder that is there with all that belongs in it, or not at all."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Seconds after which a folder that is not finished is nobody's: its worker was killed.
STALE = 24 * 3600.0


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A new folder that becomes ``place`` when the block ends, unless it raises or another worker was first."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for left in place.parent.glob(f"{place.name}.*"):
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
    try:
        yield unfinished
        with suppress(OSError):
            unfinished.rename(place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove(place: Path) -> None:
    """Remove the folder ``place`` at once: whoever looks for it meanwhile finds all of it or nothing."""
    if place.exists():
        aside = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
        with suppress(OSError):  # another worker was first
            place.rename(aside / place.name)
        shutil.rmtree(aside, ignore_errors=True)
