"""Where kdbench keeps what it can make again: downloads, digests of data sets, imported weights."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

#: What kdbench keeps in its cache folder, beside ``data`` where that is the data root.
CACHE_FOLDERS = ("checkpoints", "identity", "images", "locks", "outputs", "runs", "teachers")


def cache_dir() -> Path:
    """``$KDBENCH_CACHE``, else the platform's cache folder for kdbench; it need not exist yet."""
    chosen = os.environ.get("KDBENCH_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("kdbench"))
