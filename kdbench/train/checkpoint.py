"""Saving a training so that a kill at any instant costs at most the steps since the last save."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain data) atomically: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, numerics: dict[str, Any]) -> dict[str, Any] | None:
    """The state at ``path``; None if there is none, if it is damaged, or if it was made under other numerics.

    A checkpoint is a shortcut, never evidence: whatever is doubtful about it, the training starts over.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # what is no checkpoint makes torch's unpickler raise whatever its bytes happen to say
        return None
    return state if isinstance(state, dict) and state.get("numerics") == numerics else None
