"""Where kdbench keeps what it can make again: downloads, digests of data sets, imported weights."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import platformdirs

from kdbench.environment import folder
from kdbench.errors import UserError

#: What kdbench keeps in its cache folder, beside ``data`` where that is the data root.
CACHE_FOLDERS = ("checkpoints", "claims", "costs", "downloads", "identity", "images", "outputs", "runs", "teachers")


def cache_dir() -> Path:
    """``$KDBENCH_CACHE``, else the platform's cache folder for kdbench; it need not exist yet."""
    if chosen := folder("KDBENCH_CACHE"):
        return chosen
    with suppress(RuntimeError):  # where there is no home; in older versions of platformdirs it is "~" itself
        if (found := Path(platformdirs.user_cache_dir("kdbench"))).is_absolute():
            return found
    raise UserError("This user has no home folder for a cache; name a folder in KDBENCH_CACHE.")


def expanded(text: str) -> Path:
    """The path ``text`` with a user's home in the place of ``~``; UserError where there is none."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: there is no home folder to put in the place of ~; write the path in full.") from None
