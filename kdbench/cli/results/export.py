"""``kdbench results export``: results as tables, as scores for model hubs, and what to cite for them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.cli.results import results_folder
from kdbench.cli.say import complain, many, say
from kdbench.cli.suite_names import suite_ids
from kdbench.errors import EXIT_OK, UserError, listed
from kdbench.records import Store
from kdbench.shipped import shipped

if TYPE_CHECKING:
    from kdbench.render.catalogue import Catalogue
    from kdbench.render.grid import Grid

#: Format -> the tables that it can be of, the usual one first; none for what is no table.
FORMATS: dict[str, tuple[str, ...]] = {
    "csv": ("results", "suite", "datasets"),
    "json": ("results", "suite", "datasets"),
    "parquet": ("results", "suite", "datasets"),
    "latex": ("suite", "datasets"),
    "markdown": ("suite", "datasets"),
    "eval-results": (),
    "bibtex": (),
}
#: What cannot be printed, and where it goes instead.
UNPRINTED = {"parquet": "a file", "eval-results": "a folder"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=FORMATS, help="what to write")
    parser.add_argument(
        "--table",
        choices=("results", "suite", "datasets"),
        help="a line for each result, a suite's rows on its pairs, or all rows on all data sets (default: results, and "
        "suite for latex and markdown)",
    )
    parser.add_argument(
        "--suite", action="append", default=[], metavar="SUITE", help="only this suite's; may be given again"
    )
    parser.add_argument(
        "--results",
        metavar="DIR",
        help="the results folder (default: results here if there is one, else the shipped numbers)",
    )
    parser.add_argument("--out", metavar="PATH", help="the file to write, or the folder for eval-results")


def main(options: argparse.Namespace) -> int:
    form, tables = options.format, FORMATS[options.format]
    options.suite = suite_ids(options.suite)
    if options.table and options.table not in tables:
        can = f"its tables are {' and '.join(tables)}" if tables else "it is no table"
        raise UserError(f"{form} cannot be of --table {options.table}; {can}.")
    if options.out is None and form in UNPRINTED:
        raise UserError(f"{form} cannot be printed; name {UNPRINTED[form]} with --out.")
    table = options.table or next(iter(tables), "")
    folder = results_folder(options.results) if options.results else _usual()
    if table == "results":
        from kdbench.frames import load_results

        frame = load_results(folder)
        _write_frame(frame[frame["suite"].isin(_chosen(set(frame["suite"]), options.suite))], form, options.out)
    else:
        _export(_catalogue(folder), table, options)
    return EXIT_OK


def _usual() -> Path:
    return Path("results") if Path("results/v1").is_dir() else shipped("results")


def _catalogue(folder: Path) -> Catalogue:
    from kdbench.render.site import gather

    catalogue = gather(Store(folder))
    for problem in catalogue.problems:
        complain(problem.text)
    return catalogue


def _chosen(known: Collection[str], suites: Sequence[str]) -> list[str]:
    """``suites``, or all that are ``known``; UserError where one is not, or where there are none."""
    if not known:
        raise UserError("The results folder has no results; name another one with --results.")
    if unknown := [name for name in suites if name not in known]:
        raise UserError(f"The results folder has no suite {unknown[0]}; it has {listed(sorted(known))}.")
    return list(dict.fromkeys(suites)) or sorted(known)


def _export(catalogue: Catalogue, table: str, options: argparse.Namespace) -> None:
    """Write what is made of the pages' own tables."""
    from kdbench.render import bibtex, grid, hub

    names = _chosen(catalogue.suites, options.suite)
    if options.format == "bibtex":
        rows = (line for name in names for table in catalogue.tables_of(name) for line in table.every)
        _write(bibtex.bibtex(catalogue, {line.cell.method for line in rows}), options.out)
    elif options.format == "eval-results":
        files = list(hub.eval_results(record for record in catalogue.measured if record["suite"] in names))
        for path, text in files:
            _write(text, str(Path(options.out, path)))
        say(f"{options.out}: the scores of {many(len(files), 'network')}.")
    elif table == "suite":
        _write_grids([grid.suite_grid(catalogue, name) for name in names], options)
    else:
        _write_grids([grid.dataset_grid(catalogue, names)], options)


def _write_grids(grids: Sequence[Grid], options: argparse.Namespace) -> None:
    from kdbench.render.grid import latex, markdown

    written = {"latex": latex, "markdown": markdown}.get(options.format)
    if written is not None:
        _write("\n".join(map(written, grids)), options.out)
        return
    import pandas as pd

    cells = [cell.flat() for grid in grids for cell in grid.cells]
    _write_frame(pd.DataFrame.from_records(cells), options.format, options.out)


def _write_frame(frame: Any, form: str, out: str | None) -> None:
    if form == "csv":
        _write(frame.to_csv(index=False), out)
    elif form == "json":
        _write(frame.to_json(orient="records", indent=1, date_format="iso", double_precision=15) + "\n", out)
    else:
        try:
            frame.to_parquet(out, index=False)
        except ImportError:
            raise UserError("Parquet needs a library that is not installed; pip install 'kdbench[parquet]'.") from None


def _write(text: str, out: str | None) -> None:
    if out is None:
        sys.stdout.write(text)
    else:
        path = Path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
