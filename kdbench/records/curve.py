"""A record's curve in little room: accuracies alone, four bytes an epoch, as text that JSON can hold."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

#: What is kept of a curve, where any epoch has it.
KEPT = ("test_top1", "val_top1")


def compact(curve: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The accuracies in ``curve``, by name, as base64 of little-endian floats; nan where an epoch has none."""
    found = {name: [point[name] for point in curve] for name in KEPT}
    return {name: _packed(values) for name, values in found.items() if any(value is not None for value in values)}


def _packed(values: Sequence[float | None]) -> str:
    numbers = (math.nan if value is None else value for value in values)
    return base64.b64encode(struct.pack(f"<{len(values)}f", *numbers)).decode("ascii")


def accuracies(kept: Mapping[str, str], name: str) -> list[float]:
    """Percent after each epoch, from the first, of what ``compact`` has kept; nan where there is none, or nothing."""
    data = base64.b64decode(kept.get(name, ""))
    return list(struct.unpack(f"<{len(data) // 4}f", data))
