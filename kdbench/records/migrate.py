"""Records of earlier versions, named by key and kept once a suite, under the names and in the form of this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.canonical import digest
from kdbench.errors import reason
from kdbench.folders import write_atomically
from kdbench.records.listings import Place, write_listing
from kdbench.records.pins import bring_over_pins
from kdbench.records.predictions import digest_of
from kdbench.records.reading import read_file, read_json
from kdbench.records.store import LISTINGS, PREDICTIONS, Store, file_name, written


class Migrated(NamedTuple):
    """``records`` were renamed; ``copies`` were another suite's copy of one, and are listings now."""

    records: int
    copies: int
    problems: list[str]


def migrate(store: Store) -> Migrated:
    """Bring over every record that an earlier version wrote; no result is lost, whenever the process is killed.

    What is new is written before what is old goes. A file that cannot be used stays where it is, and is named.
    """
    bring_over_pins(store.root)
    kept: dict[str, Place] = {}
    copies: dict[str, list[tuple[str, Place]]] = {}
    old: list[Path] = []
    problems: list[str] = []
    for path, record in _earlier(store, problems):
        place = Place(record["suite"], record["label"], record["pair"])
        content = digest({**record, **place._asdict(), "suite": "", "label": "", "pair": ""})
        try:
            predictions = _predictions(store, path, record)
        except ValueError as error:
            problems.append(
                f"{_shown(store, path)}: its predictions cannot be used ({reason(error)}); it stays as it is."
            )
            continue
        record["predictions"] = None if predictions is None else {"sha256": digest_of(predictions)}
        if content in kept:
            copies.setdefault(place.suite, []).append((record["key"], place))
        else:
            kept[content] = place
            if predictions is not None:
                name = f"{record['predictions']['sha256']}.npz"
                write_atomically(store.root / "v1" / PREDICTIONS / name, predictions)
            data = written(record)
            write_atomically(path.with_name(file_name(record["key"], data)), data)
        old += [path, path.with_suffix(".npz")]
    for suite, trials in copies.items():
        write_listing(store.root / "v1" / LISTINGS, suite, trials)
    for path in old:
        path.unlink(missing_ok=True)
    return Migrated(len(kept), len(old) // 2 - len(kept), problems)


def _earlier(store: Store, problems: list[str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The records that an earlier version wrote, the first suite's first; their names say so, or their predictions."""
    for path in sorted((store.root / "v1").glob("*/*.json")):
        if path.parent.name == LISTINGS:
            continue
        try:
            record = read_json(path)
            named = path.name == file_name(record["key"], path.read_bytes())
        except (ValueError, TypeError, KeyError) as error:
            problems.append(f"{_shown(store, path)} cannot be read ({reason(error)}); it stays as it is.")
            continue
        if not named and path.name.partition(".")[0] == record["key"]:
            yield path, record


def _predictions(store: Store, path: Path, record: Mapping[str, Any]) -> bytes | None:
    """The bytes of an earlier record's prediction file, which lies beside it unless its name alone is an earlier one.

    ValueError where they are not the recorded ones.
    """
    if record["predictions"] is None:
        return None
    beside = "file" in record["predictions"]
    name = f"{record['predictions']['sha256']}.npz"
    data = read_file(path.with_suffix(".npz") if beside else store.root / "v1" / PREDICTIONS / name)
    if digest_of(data) != record["predictions"]["sha256"]:
        raise ValueError("the sha256 is not the recorded one")
    return data


def _shown(store: Store, path: Path) -> str:
    return path.relative_to(store.root).as_posix()
