"""Studies: why distillation works, as claims that are judged by records. Imports no torch."""

from __future__ import annotations

from importlib import resources

from kdbench.studies.judge import Drawn, Judged, Missing, Related, judge, plotted, related
from kdbench.studies.study import STUDIES, Claim, Study, get_study, parse_study

__all__ = [
    "STUDIES",
    "Claim",
    "Drawn",
    "Judged",
    "Missing",
    "Related",
    "Study",
    "get_study",
    "judge",
    "parse_study",
    "plotted",
    "related",
]


def _load_builtin() -> None:
    for entry in sorted(resources.files(__package__).iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".toml"):
            text = entry.read_text(encoding="utf-8")
            STUDIES.add(entry.name.removesuffix(".toml"), (text, f"kdbench/studies/{entry.name}"), "kdbench")


_load_builtin()
