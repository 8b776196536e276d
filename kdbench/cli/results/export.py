"""``kdbench results export``: results as tables, as scores for model hubs, and what to cite for them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.cli.results import results_folder
from kdbench.cli.say import complain, many, say
from kdbench.errors import EXIT_OK, UserError, listed
from kdbench.records import Store
from kdbench.shipped import shipped

if TYPE_CHECKING:
    from kdbench.render.catalogue import Catalogue

#: Format -> the tables that it can be of, the usual one first; () for what is no table.
FORMATS = {
    "csv": ("results", "suite", "datasets"),
    "json": ("results", "suite", "datasets"),
    "parquet": ("results", "suite", "datasets"),
    "latex": ("suite", "datasets"),
    "markdown": ("suite", "datasets"),
    "eval-results": (),
    "bibtex": (),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=FORMATS, help="what to write")
    parser.add_argument(
        "--table",
        choices=("results", "suite", "datasets"),
        help="one row a result, a suite's rows on its pairs, or all rows on all data sets (default: results, and suite "
        "for latex and markdown)",
    )
    parser.add_argument(
        "--suite", action="append", default=[], metavar="SUITE", help="only this suite's; may be given again"
    )
    parser.add_argument(
        "--results",
        metavar="DIR",
        help="the results folder (default: results here if there is one, else the shipped numbers)",
    )
    parser.add_argument(
        "--out", metavar="PATH", help="the file, or for eval-results the folder (default: to be printed)"
    )


def main(options: argparse.Namespace) -> int:
    tables = FORMATS[options.format]
    table = options.table or next(iter(tables), None)
    if options.table and options.table not in tables:
        raise UserError(f"--table {options.table} is none of {options.format}'s; {_rule(tables)}.")
    if options.out is None and options.format in ("parquet", "eval-results"):
        raise UserError(f"{options.format} is not printed; name a {_noun(options.format)} with --out.")
    folder = results_folder(options.results) if options.results else _usual()
    if table == "results":
        _write_frame(_results(folder, options.suite), options.format, options.out)
    else:
        _export(folder, table, options)
    return EXIT_OK


def _rule(tables: Sequence[str]) -> str:
    return f"it is of {' or '.join(tables)}" if tables else "leave it out"


def _noun(form: str) -> str:
    return "folder" if form == "eval-results" else "file"


def _usual() -> Path:
    return Path("results") if Path("results/v1").is_dir() else shipped("results")


def _results(folder: Path, suites: Sequence[str]) -> Any:
    from kdbench.frames import load_results

    frame = load_results(folder)
    _chosen(set(frame["suite"]), suites)
    return frame[frame["suite"].isin(suites)] if suites else frame


def _export(folder: Path, table: str | None, options: argparse.Namespace) -> None:
    from kdbench.render import bibtex, grid, hub
    from kdbench.render.site import gather

    catalogue = gather(Store(folder))
    for problem in catalogue.problems:
        complain(problem.text)
    names = _chosen(set(catalogue.suites), options.suite)
    if options.format == "bibtex":
        _write(bibtex.bibtex(catalogue, _methods(catalogue, names)), options.out)
    elif options.format == "eval-results":
        files = list(hub.eval_results(r for r in catalogue.measured if r["suite"] in names))
        for path, text in files:
            _write(text, str(Path(options.out, path)))
        say(f"{options.out}: {many(len(files), 'network')}.")
    else:
        grids = [grid.suite_grid(catalogue, name) for name in names] if table == "suite" else []
        grids = grids or [grid.dataset_grid(catalogue, names)]
        if options.format in ("latex", "markdown"):
            form = grid.latex if options.format == "latex" else grid.markdown
            _write("\n".join(map(form, grids)), options.out)
        else:
            import pandas as pd

            _write_frame(
                pd.DataFrame.from_records([cell.flat() for found in grids for cell in found.cells]),
                options.format,
                options.out,
            )


def _chosen(known: set[str], suites: Sequence[str]) -> list[str]:
    """``suites``, or all that are ``known``; UserError where one is not, or there are none."""
    unknown = [name for name in suites if name not in known]
    if unknown or not known:
        raise UserError(
            f"The results folder has no suite {unknown[0]}; it has {listed(sorted(known)) or 'none'}."
            if unknown
            else "The results folder has no results; name another one with --results."
        )
    return list(dict.fromkeys(suites)) or sorted(known)


def _methods(catalogue: Catalogue, names: Sequence[str]) -> set[str]:
    return {line.cell.method for name in names for table in catalogue.tables_of(name) for line in table.every}


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
        return
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="replace")
