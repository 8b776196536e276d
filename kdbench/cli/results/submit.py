"""``kdbench results submit``: a bundle of results for somebody else's folder, and the text of the pull request."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate
from pathlib import Path
from typing import Any

from kdbench.canonical import digest
from kdbench.cli.results import results_folder
from kdbench.cli.results.pull_request import pull_request
from kdbench.cli.results.validate import sentence_of
from kdbench.cli.say import complain, many, say
from kdbench.cli.suite_names import suite_ids
from kdbench.errors import EXIT_OK, UserError, listed
from kdbench.folders import check_writable, write_atomically
from kdbench.methods import METHODS, MethodSpec, leaves
from kdbench.plugins import files_of, load_plugins, source_of
from kdbench.records import Store
from kdbench.records.agreement import TEACHER
from kdbench.records.contribution import contribute
from kdbench.records.inspection import inspect
from kdbench.records.inventory import Inventory, take_inventory
from kdbench.records.provenance import SOURCES as CODE
from kdbench.records.store import METHODS_FOLDER, PLUGINS_FOLDER
from kdbench.registry import OURS

#: The text of the pull request, beside the folder of results.
TEXT = "PULL_REQUEST.md"

Record = Mapping[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", default="results", help="the results folder (default: results)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the bundle: a new or empty folder")
    parser.add_argument(
        "--suite", action="append", default=[], metavar="SUITE", help="only this suite's; may be given again"
    )
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="GLOB",
        help="only rows that match, and the student alone; may be given again",
    )
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="load a plugin file; may be given again"
    )


def main(options: argparse.Namespace) -> int:
    load_plugins(options.plugin)
    out, source = Path(options.out), Store(results_folder(options.folder))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is not empty; name a new folder.")
    check_writable(out, f"The bundle's folder {out}")
    found = take_inventory(source)
    for problem in found.problems:
        complain(sentence_of(problem))
    if found.problems:
        raise UserError(
            f"Nothing was bundled, as {many(len(found.problems), 'record or file', 'records or files')} of "
            f"{options.folder} would be set apart; mend or delete what is named, and give the same command again."
        )
    rows = _chosen(found, suite_ids(options.suite), options.method)
    methods = _plugin_methods(rows)
    bundle = Store(out / "results")
    try:
        checks = {name: _bundle_method(name, bundle.root / METHODS_FOLDER) for name in methods}
        _bundle_plugins(rows, methods, bundle.root / PLUGINS_FOLDER)
        written = contribute(rows, found, source, bundle)
        _check_bundle(bundle, written)
        write_atomically(out / TEXT, pull_request(bundle, checks).encode())
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    say(f"{out} holds {many(written, 'record')}, all checked, and in {TEXT} the text of the pull request.")
    say(f"In a checkout, kdbench results merge {shlex.quote(str(bundle.root))} --into results --contributed adds them.")
    return EXIT_OK


def _chosen(found: Inventory, suites: Sequence[str], globs: Sequence[str]) -> list[Record]:
    """The measured rows that were asked for, and the student alone that they are set against."""
    rows = [row for row in found.rows if row["evidence"] == "measured" and row["label"] != TEACHER]
    known = sorted({row["suite"] for row in rows})
    if unknown := sorted(set(suites) - set(known)):
        raise UserError(
            f"The results folder has measured nothing of the suite {unknown[0]}; it has {listed(known) or 'none'}."
        )
    rows = [row for row in rows if not suites or row["suite"] in suites]
    matching = {row["label"] for row in rows if not globs or any(fnmatchcase(row["label"], glob) for glob in globs)}
    if not matching:
        raise UserError("No measured row matches; kdbench results export markdown shows which there are.")
    students = {_student(row) for row in rows if row["label"] in matching}
    return [row for row in rows if row["label"] in matching or (row["method"] == "ce" and _student(row) in students)]


def _student(row: Record) -> tuple[str, str, str]:
    return row["suite"], row["dataset"], row["student_model"]


def _plugin_methods(rows: Iterable[Record]) -> list[str]:
    """The methods of plugins that ``rows`` are of; UserError where one is not at hand as it was measured."""
    for row in rows:
        if row["method"] not in METHODS:
            raise UserError(
                f"The method {row['method']} is not registered here; install its package, or name its file by --plugin."
            )
        for plugin in row["provenance"].get("plugins", ()):
            if source_of(plugin["name"]).sha256 != plugin["sha256"]:
                raise UserError(
                    f"The code of the plugin {plugin['name']} is not what {row['file']} was measured with; bring that "
                    "back, or measure anew."
                )
    names = {leaf.name for method in {row["method"] for row in rows} for leaf in leaves(METHODS.get(method))}
    return sorted(name for name in names if METHODS.origin(name) != OURS)


def _bundle_method(name: str, folder: Path) -> list[str]:
    """Write card, source and check of a plugin's method into ``folder``, named by their content; the check's lines."""
    from kdbench.cli.check_method import check

    lines: list[str] = []
    if check(name, lines.append) != EXIT_OK:
        for line in lines:
            complain(line)
        raise UserError(f"Nothing was bundled, as {name} does not keep the contract; mend it and measure anew.")
    spec = METHODS.get(name)
    files = {f"source/{file}": path.read_bytes() for file, path in _source(spec)}
    files["card.json"] = json.dumps(spec.describe(), indent=1, sort_keys=True).encode() + b"\n"
    content = digest({file: hashlib.sha256(data).hexdigest() for file, data in files.items()})
    files["check-method.txt"] = "".join(f"{line}\n" for line in lines).encode()
    for file, data in files.items():
        write_atomically(folder / f"{name}.{content[:12]}" / file, data)
    return lines


def _source(spec: MethodSpec) -> Iterator[tuple[str, Path]]:
    """The files of the outermost package that implements ``spec``, or its one file; a namespace is no package."""
    names = accumulate(spec.implementation.partition(":")[0].split("."), "{}.{}".format)
    path = next(Path(found) for name in names if (found := importlib.import_module(name).__file__))
    if path.name != "__init__.py":
        yield path.name, path
        return
    for file in sorted(path.parent.rglob("*")):
        if file.suffix in CODE and file.is_file():
            yield f"{path.parent.name}/{file.relative_to(path.parent).as_posix()}", file


def _bundle_plugins(rows: Iterable[Record], methods: Iterable[str], folder: Path) -> None:
    """Write the files of the plugins that ``rows`` ran into ``folder``, unless all their code lies with ``methods``.

    They are named by the digest that is in the records: an architecture and a data set are in the key by it.
    """
    bundled = {path.resolve() for name in methods for _, path in _source(METHODS.get(name))}
    names = sorted({plugin["name"] for row in rows for plugin in row["provenance"].get("plugins", ())})
    for plugin in map(source_of, names):
        files = files_of(plugin)
        if not bundled.issuperset(path.resolve() for path in files.values() if path.suffix in CODE):
            for file, path in files.items():
                write_atomically(folder / f"{plugin.name}.{plugin.sha256[:12]}" / file, path.read_bytes())


def _check_bundle(bundle: Store, written: int) -> None:
    found = inspect(bundle)
    if found.problems or found.records != written:
        for problem in found.problems:
            complain(sentence_of(problem))
        raise UserError("Nothing was bundled, as the bundle would not hold up; validate the results folder first.")
