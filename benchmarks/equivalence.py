"""Whether a row that differs in how it is computed alone has the same accuracy: ``python benchmarks/equivalence.py``.

Reads the records of the suite ``precision`` and writes what they say into docs/precision.md. Needs no torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import stdev

from table import ROOT, replaced, row

from kdbench.records import Store
from kdbench.stats.aggregate import Cell, by_seed, cells, differences
from kdbench.stats.intervals import equivalent, t_interval

SUITE = "precision"
PAGE = ROOT / "docs" / "precision.md"
#: Points of accuracy that a precision may cost or gain and still count as the same.
MARGIN = 0.4
SIGNED = "{:+.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write into docs/precision.md what the records of precision say.")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="the results folder")
    lines = list(table(parser.parse_args().results))
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), "equivalence", "\n".join(lines)), encoding="utf-8")
    return 0


def table(results: Path) -> Iterator[str]:
    """A row for each other precision, beside the row of the same method in float32."""
    records, _ = Store(results).read()
    found = [cell for cell in cells(records) if cell.suite.partition("@")[0] == SUITE]
    columns = ("suite", "instructions", "pair", "row", "seeds")
    columns += ("float32", "this row", "difference", "spread", "90 % interval", "equivalent")
    yield row(*columns)
    yield row(*["---"] * len(columns))
    for cell in found:
        whole = _in_float32(cell, found)
        if whole is not None:
            yield row(*_compared(cell, whole))


def _in_float32(cell: Cell, among: Sequence[Cell]) -> Cell | None:
    """The row that ``cell`` is to be equivalent to; None for that row itself."""
    same = (o for o in among if (o.suite, o.pair, o.method) == (cell.suite, cell.pair, cell.method))
    return None if _precision(cell) == "float32" else next(o for o in same if _precision(o) == "float32")


def _precision(cell: Cell) -> str:
    return str(cell.records[0]["identity"]["protocol"]["precision"])


def _compared(cell: Cell, whole: Cell) -> Iterator[object]:
    apart = list(differences(cell, whole).values())
    interval = t_interval(apart, 0.9)
    limits = (interval.low, interval.high)
    instructions = sorted({str(record["numerics"]["isa"]) for each in (whole, cell) for record in each.records})
    yield from (f"`{cell.suite}`", ", ".join(instructions), f"`{cell.pair}`", f"`{cell.label}`", interval.n)
    for each in (whole, cell):
        yield f"{t_interval(by_seed(each).values()).mean:.2f}"
    yield from (SIGNED.format(interval.mean), f"{stdev(apart):.2f}" if len(apart) > 1 else "")
    yield "" if None in limits else " to ".join(map(SIGNED.format, limits))
    yield f"within {MARGIN}" if equivalent(apart, MARGIN) else "not shown"


if __name__ == "__main__":
    sys.exit(main())
