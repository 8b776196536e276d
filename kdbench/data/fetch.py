"""Downloads, only when asked: through torchvision's own classes, which check what they fetch."""

from __future__ import annotations

import contextlib
import sys
from http.client import HTTPException
from pathlib import Path

from kdbench.data.spec import DatasetSpec
from kdbench.errors import DataError, reason


def fetch(spec: DatasetSpec, root: Path) -> None:
    """Download ``spec`` into ``root``; DataError when there is no network or what came is damaged."""
    from torchvision import datasets

    try:
        root.mkdir(parents=True, exist_ok=True)
        # torchvision prints its progress; stdout belongs to the command that asked.
        with contextlib.redirect_stdout(sys.stderr):
            getattr(datasets, str(spec.torchvision))(root, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{spec.title} could not be downloaded into {root} ({reason(error)}); get it from {spec.url} by other "
            f"means: wanted is {spec.files}."
        ) from error
