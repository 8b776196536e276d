"""Tables to take away, in LaTeX, Markdown or cell by cell: a suite's rows on its pairs, all rows on all data sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from kdbench.render.catalogue import Catalogue, split
from kdbench.render.suiteview import Row, SuiteView, standing_rows, suite_view
from kdbench.render.texts import SELECTION_NAMES, pair_title
from kdbench.stats.intervals import Interval

#: The title of the first column.
CORNER = "method"


@dataclass(frozen=True)
class Cell:
    """A number of ``row``, in percent: its ``top1`` on a ``pair``, or its mean ``gain`` over so many pairs."""

    view: SuiteView
    row: Row
    dataset: str
    pair: str
    quantity: str
    value: Interval

    def flat(self) -> dict[str, Any]:
        """The cell as a row of a table."""
        row, value = self.row, self.value
        return {
            "suite": self.view.name,
            "dataset": self.dataset,
            "pair": self.pair,
            "label": row.label,
            "method": row.method,
            "evidence": row.evidence,
            "quantity": self.quantity,
            "selection": self.view.selection,
            "n": value.n,
            "mean": value.mean,
            "low": value.low,
            "high": value.high,
        }


@dataclass(frozen=True)
class Grid:
    """``rows`` have a title and, for each of the ``columns``, the cells that stand there, if any."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Sequence[Cell], ...]], ...]

    @property
    def cells(self) -> Iterator[Cell]:
        return (cell for _, places in self.rows for place in places for cell in place)


def suite_grid(catalogue: Catalogue, name: str) -> Grid:
    """The table of a suite's page: each row's accuracy on each pair, and its mean gain."""
    view = suite_view(catalogue, name)
    datasets = sorted({table.dataset for table in view.tables})
    titles = [pair_title(*split(table.pair)) for table in view.tables]
    if len(datasets) > 1:
        titles = [f"{title} ({table.dataset})" for title, table in zip(titles, view.tables, strict=True)]
    caption = (
        f"{name} on {', '.join(datasets)}: test top-1 accuracy in percent at the {SELECTION_NAMES[view.selection]}, "
        "mean over seeds with its 95 % t-interval; the mean gain over the student alone, paired by seed, with its own."
    )
    rows = [
        (_title(row), (*_accuracies(view, row), _gain(view, row, ", ".join(datasets), view.planned)))
        for row in (*view.rows, *view.contributed)
    ]
    return Grid(caption, (*titles, "mean gain"), tuple(rows))


def dataset_grid(catalogue: Catalogue, names: Sequence[str]) -> Grid:
    """Each row of the suites ``names`` on each of their data sets: its mean gain over the pairs there."""
    columns: dict[str, None] = {}  # in the order of the suites; one without a student alone has no gains
    found: dict[tuple[bool, str], dict[str, Sequence[Cell]]] = {}
    for view in (suite_view(catalogue, name) for name in names):
        for dataset, group in groupby(view.tables, key=lambda table: table.dataset):
            tables = list(group)
            column = f"{dataset} ({view.name})"
            for row in standing_rows(catalogue, tables, view.selection)[1]:
                if cells := _gain(view, row, dataset, len(tables)):
                    found.setdefault((row.evidence != "measured", _title(row)), {})[column] = cells
                    columns[column] = None
    caption = (
        "Gain in test top-1 accuracy over the student alone, in percent: the mean over the pairs of each data set, "
        "with its 95 % interval over seeds."
    )
    order = sorted(found, key=lambda row: (row[0], -len(found[row]), row[1]))
    rows = tuple((row[1], tuple(found[row].get(column, ()) for column in columns)) for row in order)
    return Grid(caption, tuple(columns), rows)


def _title(row: Row) -> str:
    return row.label if row.evidence == "measured" else f"{row.label} ({row.evidence})"


def _accuracies(view: SuiteView, row: Row) -> Iterator[Sequence[Cell]]:
    for table in view.tables:
        lines = row.lines.get((table.dataset, table.pair), ())
        yield [Cell(view, row, table.dataset, table.pair, "top1", line.top1) for line in lines if line.top1]


def _gain(view: SuiteView, row: Row, dataset: str, pairs: int) -> Sequence[Cell]:
    return [Cell(view, row, dataset, f"{row.covered} of {pairs}", "gain", row.gain)] if row.gain else []


def markdown(grid: Grid) -> str:
    """``grid`` as a table of Markdown under its caption."""
    rule = ["---", *("---:" for _ in grid.columns)]
    rows = [[_plain(label), *("; ".join(map(_text, place)) or "–" for place in places)] for label, places in grid.rows]
    lines = [f"| {' | '.join(row)} |" for row in ([CORNER, *map(_plain, grid.columns)], rule, *rows)]
    return "\n".join([_plain(grid.caption), "", *lines, ""])


def latex(grid: Grid) -> str:
    """``grid`` as a table of LaTeX, which needs the package booktabs."""
    rows = [
        [_escaped(label), *("; ".join(map(_math, place)) or "--" for place in places)] for label, places in grid.rows
    ]
    lines = [
        r"% Needs \usepackage{booktabs}.",
        r"\begin{table}",
        rf"\caption{{{_escaped(grid.caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(grid.columns)}}}",
        r"\toprule",
        rf"{' & '.join([CORNER, *map(_escaped, grid.columns)])} \\",
        r"\midrule",
        *(rf"{' & '.join(row)} \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _text(cell: Cell) -> str:
    half = "" if cell.value.half is None else f" ± {cell.value.half:.2f}"
    return f"{cell.value.mean:{'+' if cell.quantity == 'gain' else ''}.2f}{half}"


def _math(cell: Cell) -> str:
    return f"${_text(cell)}$".replace("±", r"\pm")


def _plain(text: str) -> str:
    """``text`` in Markdown, where it means nothing but itself."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def _escaped(text: str) -> str:
    """The same in LaTeX."""
    special = {"\\": r"\textbackslash{}", "→": r"$\to$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c) or (f"\\{c}" if c in "&%$#_{}" else c) for c in text)
