"""Which trial a student is of: by the beginning of a key, by a row's label, or by label and seed. Imports no torch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench.errors import CheckpointError, UserError, listed, shown
from kdbench.records.agreement import TEACHER
from kdbench.records.store import Record, Store
from kdbench.suites import installed_suite

#: Hex digits from which on a word may be the beginning of a key.
SHORTEST_KEY = 6


def title_of(record: Mapping[str, Any]) -> str:
    """The trial of ``record`` as progress lines name it."""
    place = record["pair"] if record["teacher_model"] else record["pair"].partition(":")[2]
    return f"{record['label']} on {place}, seed {record['seed']}"


def find(store: Store, wanted: str, suite: str = "", pair: str = "") -> Record:
    """The record of the one finished trial that ``wanted`` stands for, with its weights if any of its records has some.

    ``suite`` is a ``name@version``. UserError where there is none, or where there are several.
    """
    label, _, seed = wanted.rpartition(" seed ")
    seeded = (label.rstrip(","), int(seed)) if re.fullmatch("[0-9]{1,9}", seed) else None
    begins = len(wanted) >= SHORTEST_KEY
    found: dict[str, list[Record]] = {}
    for record in store.read()[0]:
        if record["status"] != "finished" or record["label"] == TEACHER:
            continue
        if (suite and record["suite"] != suite) or (pair and record["pair"] != pair):
            continue
        named = wanted in (record["label"], title_of(record)) or (record["label"], record["seed"]) == seeded
        if named or (begins and record["key"].startswith(wanted)):
            found.setdefault(record["key"], []).append(record)
    if not found:
        raise UserError(
            f"{store.root} has no finished trial {shown(wanted)}; give the beginning of a key, a row, 'ROW seed N', or "
            "a title such as 'kd on resnet56:resnet20, seed 1'."
        )
    if len(found) > 1:
        each = [f"{title_of(records[0])} of {records[0]['suite']} ({key[:12]})" for key, records in found.items()]
        raise UserError(f"{shown(wanted)} stands for {len(found)} trials; say which: {listed(sorted(each), 6)}.")
    (records,) = found.values()
    return next((record for record in records if store.weights_path(kept_sha256(record)).is_file()), records[0])


def kept_sha256(record: Mapping[str, Any]) -> str:
    """The digest of the weights of the epoch that ranks; empty where the record has none.

    Earlier records have no digest but that of the last epoch, which ranks unless their protocol says otherwise.
    """
    return str(record.get("selected_weights_sha256") or record.get("weights_sha256") or "")


def kept_weights_of(store: Store, record: Mapping[str, Any]) -> Path:
    """Where the weights of ``record`` lie; CheckpointError where there are none says what makes them again."""
    sha256 = kept_sha256(record)
    path = store.weights_path(sha256)
    if sha256 and path.is_file():
        return path
    raise CheckpointError(
        f"{title_of(record)} ({record['key'][:12]}) has no weights in {path.parent}; they are made again by "
        f"{training_again(record, store.root)}."
    )


def training_again(record: Mapping[str, Any], results: Path) -> str:
    """The command that trains the row of ``record`` again."""
    plan = installed_suite(record["suite"])
    suite = plan.asked if plan else f"FILE, the file of {record['suite']},"
    words = ["--method", record["label"], "--again", record["label"]]
    words += ["--pair", record["pair"]] if record["teacher_model"] else []
    words += [] if results == Path("results") else ["--results", str(results)]
    return f"kdbench run --suite {suite} {shlex.join(words)}"
