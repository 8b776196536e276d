"""A record's curve in little room: accuracies alone, four bytes an epoch, as text that JSON can hold."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What is kept of a curve, where any epoch has it.
KEPT = ("test_top1", "val_top1")


def compact(curve: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The accuracies in ``curve``, by name, as base64 of little-endian floats; nan where an epoch has none."""
    found = {name: [point[name] for point in curve] for name in KEPT}
    return {name: _packed(values) for name, values in found.items() if any(value is not None for value in values)}


def _packed(values: Sequence[float | None]) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode("ascii")


def accuracies(kept: Mapping[str, str], name: str) -> NDArray[np.float32]:
    """Percent after each epoch, from the first, of what ``compact`` has kept; nan where there is none, or nothing."""
    return np.frombuffer(base64.b64decode(kept.get(name, "")), "<f4")
