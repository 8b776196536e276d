"""The frozen baseline: a small file with what later trainings are compared with, seed by seed."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdbench import __version__
from kdbench.errors import UnknownName, UserError, listed, reason
from kdbench.folders import write_atomically
from kdbench.records.inventory import measured_rows
from kdbench.records.provenance import code
from kdbench.records.reading import read_json
from kdbench.records.store import Store
from kdbench.records.validate import SCHEMA_VERSION, check
from kdbench.regress.side import Place, Side, Taught, Training, sides
from kdbench.stats.aggregate import NO_TEACHER


@dataclass(frozen=True)
class Baseline:
    """What a suite's rows came to; ``where`` it was read from."""

    suite: str
    sides: Mapping[Place, Side]
    where: Path


def from_records(root: Path, suite: str = "") -> tuple[Baseline, list[str]]:
    """The records of ``suite`` in the results folder ``root``, and a sentence for each file that is no record.

    UserError where there are none, or of several suites and none is named.
    """
    if not root.is_dir():
        raise UserError(f"There is no results folder at {root}; name one that kdbench run has written.")
    records, problems = measured_rows(Store(root))
    known = sorted({record["suite"] for record in records if record["label"] != "teacher"})
    chosen = [name for name in known if not suite or suite in (name, name.partition("@")[0])]
    if len(chosen) > 1:
        raise UserError(f"{root} has records of {listed(chosen)}; name one of them with its version.")
    if not chosen:
        text = f"of {suite}" if suite else "of any suite"
        raise UserError(f"{root} has no records {text}; kdbench run --suite NAME --results {root} makes them.")
    return Baseline(chosen[0], sides(records, chosen[0]), root), problems


def narrowed(baseline: Baseline, pairs: Sequence[str], rows: Sequence[str]) -> Baseline:
    """What of ``baseline`` matches any of the globs for pairs and any of those for rows; none of them means all.

    A row without a teacher belongs to every pair with its student. UserError where a glob matches nothing.
    """
    labels, names = ({place[part] for place in baseline.sides} for part in (1, 0))
    for noun, globs, known in (("row", rows, labels), ("pair", pairs, names)):
        for glob in globs:
            if not fnmatch.filter(known, glob):
                raise UnknownName(f"{noun} among the records of {baseline.suite}", glob, known)
    wanted = {name for glob in pairs for name in fnmatch.filter(names, glob)} if pairs else names
    wanted |= {f"{NO_TEACHER}:{name.partition(':')[2]}" for name in wanted}
    kept = {
        place: side
        for place, side in baseline.sides.items()
        if place[0] in wanted and (not rows or any(fnmatch.fnmatchcase(place[1], glob) for glob in rows))
    }
    return replace(baseline, sides=kept)


def write(baseline: Baseline, path: Path) -> None:
    """Keep ``baseline`` in a file that ``read`` reads."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "suite": baseline.suite,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kdbench": __version__,
        "git_sha": code()[0],
        "cells": [asdict(side) for side in baseline.sides.values()],
    }
    check("baseline", json.loads(json.dumps(document)), str(path))
    write_atomically(path, json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n")


def read(path: Path) -> Baseline:
    """The baseline in the file ``path``; UserError says what is wrong with it."""
    try:
        document = read_json(path)
    except ValueError as error:
        raise UserError(
            f"The baseline {path} cannot be read ({reason(error)}); kdbench baseline freeze SUITE writes one."
        ) from None
    check("baseline", document, f"The baseline {path} is damaged")
    found = [_side(cell) for cell in document["cells"]]
    return Baseline(document["suite"], {side.place: side for side in found}, path)


def _side(raw: Mapping[str, Any]) -> Side:
    return Side(
        **{
            **raw,
            "numerics": tuple(raw["numerics"]),
            "teacher": None if raw["teacher"] is None else Taught(**raw["teacher"]),
            "trainings": tuple(Training(**training) for training in raw["trainings"]),
            "diverged": tuple(raw["diverged"]),
        }
    )
