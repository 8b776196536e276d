"""Where kdbench keeps what it can make again: downloads, digests of data sets, imported weights."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from kdbench.environment import folder


def cache_dir() -> Path:
    """``$KDBENCH_CACHE``, else the platform's cache folder for kdbench; it need not exist yet."""
    return folder("KDBENCH_CACHE") or Path(platformdirs.user_cache_dir("kdbench"))
