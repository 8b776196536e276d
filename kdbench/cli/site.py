"""``kdbench site``: the leaderboard from results files."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdbench.cli.say import complain, many, say
from kdbench.cli.suite_names import suite_ids
from kdbench.errors import EXIT_OK

#: Where a site is built unless another folder is named.
SITE = "site/public"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        metavar="DIR",
        help="the results folder (default: results here if there is one, else the shipped numbers)",
    )
    parser.add_argument(
        "--suite",
        action="append",
        default=[],
        metavar="FILE",
        help="the file of a suite in it, which says more of it than records do; may be given again",
    )
    parser.add_argument("--out", default=SITE, metavar="DIR", help=f"where to build it (default: {SITE})")


def main(options: argparse.Namespace) -> int:
    from kdbench.data import data_root

    suite_ids(options.suite)
    results = Path(options.results) if options.results else Path("results") if Path("results").is_dir() else None
    build_and_say(results, Path(options.out), data_root(None))
    return EXIT_OK


def build_and_say(results: Path | None, out: Path, data: Path) -> None:
    """Build the site, name what could not be used, and end by naming the page to open."""
    from kdbench.render import build

    report = build(results, out, data)
    for problem in report.problems:
        complain(problem)
    say(f"{many(report.records, 'record')}, {many(report.pages, 'page')}. Open {report.index}")
