"""``kdbench results validate``: every file of a results folder checked, for people and for continuous integration."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

from kdbench.cli.results import results_folder
from kdbench.cli.say import complain, many, say
from kdbench.errors import EXIT_INCOMPLETE, EXIT_OK
from kdbench.records import Store
from kdbench.records.beside import beside
from kdbench.records.inspection import Inspection, inspect
from kdbench.records.store import WEIGHTS
from kdbench.records.verify import Problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", default="results", help="the results folder (default: results)"
    )
    parser.add_argument("--strict", action="store_true", help="fail for warnings, too")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON instead")


def main(options: argparse.Namespace) -> int:
    store = Store(results_folder(options.folder))
    found = inspect(store)
    found.problems.extend(_damaged_weights(store))
    if options.json:
        print(json.dumps(_document(options.folder, found), indent=1))
    else:
        for problem in found.problems:
            complain(sentence_of(problem))
        for warning in found.warnings:
            complain(f"warning: {sentence_of(warning)}")
        apart, warned = many(len(found.problems), "problem"), many(len(found.warnings), "warning")
        results = many(found.results, "result")
        say(f"{options.folder}: {many(found.records, 'record')}, {results}, {apart}, {warned}.")
    return EXIT_INCOMPLETE if found.problems or (options.strict and found.warnings) else EXIT_OK


def _damaged_weights(store: Store) -> Iterator[Problem]:
    if beside(store, WEIGHTS).files:
        from kdbench.students.kept import damaged  # torch

        for path, text in damaged(store):
            yield Problem(text, file=store.place(path))


def sentence_of(problem: Problem) -> str:
    """What a problem says, with the file that it is of."""
    named = problem.file is None or problem.file in problem.text
    return problem.text if named else f"{problem.file}: {problem.text}"


def _document(folder: str, found: Inspection) -> dict[str, object]:
    return {
        "folder": folder,
        "records": found.records,
        "results": found.results,
        "problems": [vars(problem) for problem in found.problems],
        "warnings": [vars(warning) for warning in found.warnings],
    }
