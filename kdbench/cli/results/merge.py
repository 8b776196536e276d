"""``kdbench results merge``: the records of several folders in one."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdbench.cli.results import results_folder
from kdbench.cli.say import complain, many, say
from kdbench.errors import EXIT_INCOMPLETE, EXIT_OK
from kdbench.records import Store
from kdbench.records.merge import merge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="DIR", nargs="+", help="the folders whose records are copied")
    parser.add_argument(
        "--into", default="results", metavar="DIR", help="the results folder they are copied into (default: results)"
    )
    parser.add_argument(
        "--contributed", action="store_true", help="somebody else's folders: their records are called contributed"
    )


def main(options: argparse.Namespace) -> int:
    sources = [Store(results_folder(text)) for text in options.folders]
    done = merge(Store(Path(options.into)), sources, options.contributed)
    for problem in done.problems:
        complain(problem)
    called = " as contributed" if options.contributed else ""
    say(f"{options.into}: {many(done.new, 'record')} copied{called}, {many(done.known, 'record')} there already.")
    return EXIT_INCOMPLETE if done.problems else EXIT_OK
