"""The supervision that a suite, a row or a teacher names."""

from __future__ import annotations

from typing import Any

from kdbench.data import DatasetSpec
from kdbench.errors import UserError
from kdbench.kinds import read_kind
from kdbench.supervision import FULL, SUPERVISIONS, Supervision


def parse_supervision(raw: dict[str, Any], where: str, data: DatasetSpec) -> Supervision:
    """The supervision that the table ``raw`` describes, on ``data``; every label where it is empty."""
    if not raw:
        return FULL
    made = read_kind(SUPERVISIONS, raw, where)
    if misfit := made.misfit(data):
        raise UserError(f"{where}: {misfit}.")
    return made
