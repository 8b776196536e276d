"""Saving a training so that a kill at any instant costs at most the steps since the last save."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from kdbench.folders import write_atomically

#: What a file begins with; the sha256 of all that follows it comes next, in hex, and the end of the line.
MAGIC = b"kdbench checkpoint 2 "
_HEADER = len(MAGIC) + 65


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain data) atomically: temporary file, fsync, rename."""
    stream = io.BytesIO()
    torch.save(state, stream)
    content = stream.getbuffer()
    write_atomically(path, MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n", content)


def load(path: Path, numerics: dict[str, Any]) -> dict[str, Any] | None:
    """The state at ``path``; None if there is none, if a bit of it changed, or if it was made under other numerics.

    A checkpoint is a shortcut, never evidence: whatever is doubtful about it, the training starts over.
    """
    try:
        content = path.read_bytes()
        if content[:_HEADER] != MAGIC + hashlib.sha256(content[_HEADER:]).hexdigest().encode() + b"\n":
            return None
        state = torch.load(io.BytesIO(content[_HEADER:]), map_location="cpu", weights_only=True)
    except Exception:  # what is no state of ours makes torch's unpickler raise whatever its bytes happen to say
        return None
    return state if isinstance(state, dict) and state.get("numerics") == numerics else None
