"""What a run has found: results.json and table.md, written anew with each finding."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from table import row

from kdbench.folders import write_atomically

#: The figures of one finding, by name; None where there is none.
Figures = dict[str, Any]


@dataclass
class Stage:
    """How a stage ended, and its findings by name."""

    status: str = "running"
    detail: str = ""
    seconds: float = 0.0
    findings: dict[str, Figures] = field(default_factory=dict)


@dataclass
class Findings:
    """Those of a run, by stage; ``asked`` says what for."""

    folder: Path
    asked: Mapping[str, Any]
    stages: dict[str, Stage] = field(default_factory=dict)

    def say(self, stage: str, name: str, figures: Figures) -> None:
        self.stages[stage].findings[name] = figures
        self.write()

    def write(self) -> None:
        stages = {name: vars(stage) for name, stage in self.stages.items()}
        text = json.dumps({"asked": dict(self.asked), "stages": stages}, indent=1, default=str)
        write_atomically(self.folder / "results.json", text.encode() + b"\n")
        write_atomically(self.folder / "table.md", "\n".join(self._page()).encode() + b"\n")

    def _page(self) -> Iterator[str]:
        for name, stage in self.stages.items():
            detail = f": {stage.detail}" if stage.detail else ""
            yield from (f"## {name}", "", f"{stage.status} after {stage.seconds:.0f} s{detail}", "")
            yield from _tables(stage.findings)


def _tables(findings: Mapping[str, Figures]) -> Iterator[str]:
    """A line for each finding; those that follow one another with the same figures stand in one table."""
    for columns, group in groupby(findings.items(), key=lambda finding: tuple(finding[1])):
        yield row("", *(name.replace("_", " ") for name in columns))
        yield row(*["---"] * (1 + len(columns)))
        for name, figures in group:
            yield row(name, *(_cell(figures[column]) for column in columns))
        yield ""


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and len(value) == 3 and all(isinstance(each, float) for each in value):
        return "{1:.2f} ({0:.2f} to {2:.2f})".format(*value)  # quartiles, the median first
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_cell(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return str(value).replace("|", "/")
