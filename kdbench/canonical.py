"""One written form for plain data, so that equal values have equal hashes on every machine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, is_dataclass
from typing import Any

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical(value: Any) -> bytes:
    """Compact JSON with sorted keys; floats in Python's shortest exact form. NaN and infinities are refused."""
    return _ENCODER.encode(value).encode()


def plain(value: Any) -> Any:
    """A dataclass, and those that are its fields, or stand in a tuple there, as dicts.

    Anything else is as it is, and not copied.
    """
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return [plain(each) for each in value]
    if not is_dataclass(value):
        return value
    return {field.name: plain(getattr(value, field.name)) for field in fields(value)}


def digest(value: Any) -> str:
    """sha256 of the canonical form, 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()
