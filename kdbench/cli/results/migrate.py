"""``kdbench results migrate``: the records that an earlier version wrote."""

from __future__ import annotations

import argparse

from kdbench.cli.results import results_folder
from kdbench.cli.say import complain, many, say
from kdbench.errors import EXIT_INCOMPLETE, EXIT_OK
from kdbench.records import Store
from kdbench.records.migrate import migrate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", default="results", help="the results folder (default: results)"
    )


def main(options: argparse.Namespace) -> int:
    done = migrate(Store(results_folder(options.folder)))
    for problem in done.problems:
        complain(problem)
    copies = f", {many(done.copies, 'copy', 'copies')} of another suite's became listings" if done.copies else ""
    say(f"{options.folder}: {many(done.records, 'record')} brought over{copies}.")
    return EXIT_INCOMPLETE if done.problems else EXIT_OK
