"""What a network is before its first step: weights that ``init`` names, and how it is built and what it sees."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path, PurePosixPath

from kdbench.canonical import digest
from kdbench.data import DatasetSpec
from kdbench.errors import UserError, shown
from kdbench.models.build import AS_NAMED, KEPT, LARGEST, Build
from kdbench.names import LONGEST_TEXT
from kdbench.suites.table import Table
from kdbench.trials.teacher import Normalisation, Teacher

#: The one value of ``head``: the classifier of the file is left out, whether it fits or not.
NEW = "new"
_DIGEST = re.compile("[0-9a-f]{64}")


def parse_init(
    raw: object, model: str, data: DatasetSpec, where: str, home: Path | None, build: Build = AS_NAMED
) -> Teacher:
    """The checkpoint that ``raw``, a file's name or a table, says that a network ``model`` starts from.

    ``home`` is the folder of a suite's own file, which the weights may lie in. UserError begins with ``where``.
    """
    table = Table({"files": [raw]} if isinstance(raw, str) else raw, f"{where} init")
    files, key = table.take("files", list), table.take("key", str, "")
    if not files or any(type(file) is not str or not file for file in files):
        raise UserError(f"{table.where}: files must be a list of the files that the weights may be in.")
    norm = Normalisation(tuple(data.mean), tuple(data.std))
    init = Teacher(
        name="init",
        kind="init",
        model=model,
        normalisation=norm,
        files=tuple(placed(home, file) for file in files),
        key=key,
        head=parse_head(table),
        url=table.take("url", str, ""),
        sha256=table.take("sha256", str, ""),
        weights_sha256=table.take("weights_sha256", str, ""),
        source=table.take("source", str, ""),
        build=build,
    )
    table.finish()
    check_files(init, table.where, anywhere=home is not None)
    return named(init, files, data)


def named(init: Teacher, words: Sequence[str], data: DatasetSpec) -> Teacher:
    """``init`` under the name that it is pinned by, which ``words`` tell from others of its suite."""
    what = digest([init.model, *words, init.key, init.head, data.name])[:8]
    stem = re.sub("[^A-Za-z0-9]+", "-", init.model).strip("-")[:40]
    return replace(init, name=f"{stem}-{what}@init")


def parse_build(table: Table, model: str) -> Build:
    """The fields ``options`` and ``input_size``; UserError where ``model`` cannot have such."""
    options, size = table.take("options", dict, {}), table.count("input_size", 0, 0, LARGEST)
    if options and not model.startswith("timm/"):
        raise UserError(f"{table.where}: options are given to timm, and {model} is not timm's; leave them out.")
    if kept := sorted(set(options) & KEPT):
        raise UserError(f"{table.where}: options cannot hold {kept[0]!r}, which is kdbench's to say; leave it out.")
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(each, int | str) or (isinstance(each, float) and isfinite(each)) for each in values):
            raise UserError(f"{table.where}: options: {shown(name)} must be a number, a text or a list of such.")
    return Build(options, size)


def check_files(teacher: Teacher, where: str, anywhere: bool) -> None:
    """UserError where what is said of the weights of ``teacher`` cannot be; ``anywhere``: or outside the data root."""
    if any(type(f) is not str or not f or not (anywhere or _relative(f)) for f in teacher.files):
        raise UserError(f"{where}: files must be relative paths of files, which are looked up under the data root.")
    if teacher.weights_sha256 and not _DIGEST.fullmatch(teacher.weights_sha256):
        raise UserError(f"{where}: weights_sha256 must be 64 digits of 0-9a-f, not {shown(teacher.weights_sha256)}.")
    if teacher.sha256 and not _DIGEST.fullmatch(teacher.sha256):
        raise UserError(f"{where}: sha256 must be 64 digits of 0-9a-f, not {shown(teacher.sha256)}.")
    if teacher.sha256 and not teacher.url:
        raise UserError(f"{where}: sha256 is that of the file at 'url', which is missing.")
    if teacher.url and not teacher.url.startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
        raise UserError(f"{where}: url must begin with https://.")
    if len(teacher.source) > LONGEST_TEXT:
        raise UserError(f"{where}: source has {len(teacher.source)} characters; a record takes {LONGEST_TEXT}.")


def _relative(file: str) -> bool:
    return not PurePosixPath(file).is_absolute() and ".." not in PurePosixPath(file).parts


def parse_head(table: Table) -> str:
    """The field ``head``; UserError where it is anything but ``new``."""
    head: str = table.take("head", str, "")
    if head not in ("", NEW):
        raise UserError(f"{table.where}: head can be {NEW!r}, a classifier that is not the file's, not {shown(head)}.")
    return head


def placed(home: Path | None, name: str) -> str:
    """The file ``name``, which is looked for in the folder ``home`` first."""
    found = None if home is None else home / name
    return name if found is None or not found.is_file() else str(found.absolute())
