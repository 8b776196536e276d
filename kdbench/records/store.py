"""The results folder: one record and one prediction file a trial, named by its key, each written atomically."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.errors import UserError, reason
from kdbench.folders import check_writable, leftovers, write_atomically
from kdbench.records.agreement import disagreement, home, origin
from kdbench.records.pins import read_pins, write_pin
from kdbench.records.reading import LARGEST, printable, read_file, read_json
from kdbench.records.validate import check

Record = dict[str, Any]


#: The folders of a results folder that are filled here and by runs.
FOLDERS = ("v1", "runs", "pins", "baselines")

#: A trial is done when it ended by itself; a crash or a time-out is tried again.
DONE = frozenset({"finished", "diverged", "inapplicable"})


class Store:
    """Records under ``root/v1/<suite>/``; every trained teacher's own record under ``root/v1/teachers/``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check_writable(self, suite: str) -> None:
        """UserError where what a run of ``suite`` writes could not be written; nothing is left behind."""
        for name in ("v1/teachers", f"v1/{suite}", "runs", f"pins/{suite.rpartition('@')[0]}"):
            check_writable(self.root / name, f"The results folder {self.root}")

    def tidy(self) -> None:
        """Remove the temporary files that killed processes have left here."""
        for folder in (self.root, self.root / "runs", *self.root.glob("v1/*"), *self.root.glob("pins/*")):
            for path in leftovers(folder, "tmp"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def folder(self, record: Mapping[str, Any]) -> Path:
        return self.root / "v1" / home(record)

    def put(self, record: Record, predictions: Mapping[str, NDArray[Any]] | None = None) -> Path:
        """Write ``record`` and its predictions, and say where.

        An equal key with an equal result changes nothing; with another result, both stay: the newcomer becomes the
        replicate ``<key>.<origin>.json``, origin being the digest of its numerics and weights. A failed attempt is
        replaced.
        """
        folder = self.folder(record)
        stem = record["key"]
        earlier = self._load_quietly(folder / f"{stem}.json")
        if earlier is not None and earlier["status"] in DONE:
            if record["status"] not in DONE or earlier["weights_sha256"] == record["weights_sha256"]:
                return folder / f"{stem}.json"
            stem = f"{stem}.{origin(record)}"
        if predictions is not None:
            data = npz(predictions)
            record = {**record, "predictions": {"file": f"{stem}.npz", "sha256": hashlib.sha256(data).hexdigest()}}
        path = folder / f"{stem}.json"
        _check(record, path, str(path))
        for place in (path, *([] if predictions is None else [path.with_suffix(".npz")])):
            if place.is_dir():
                raise UserError(
                    f"{place} is a folder where a file belongs; move it away, and the same command goes on."
                )
        if predictions is not None:
            write_atomically(folder / f"{stem}.npz", data)
        write_atomically(path, json.dumps(record, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n")
        return path

    def statuses(self, keys: Iterable[str], suite: str) -> dict[str, str]:
        """The status of each of ``keys`` that has a record under ``suite``, a replicate's as good as the first's.

        ``suite`` may be a pattern of folders, such as every_version() gives.
        """
        wanted: set[str] = set(keys)
        found: dict[str, str] = {}
        for path in self._files(suite):
            stem = path.name.split(".")[0]
            if stem in wanted and found.get(stem) not in DONE:
                record = self._load_quietly(path)
                if record is not None:
                    found[stem] = str(record["status"])
        return found

    def status(self, key: str, suite: str) -> str | None:
        """The status of the trial ``key``, as ``statuses`` has it; None where it has no record."""
        return self.statuses([key], suite).get(key)

    def find(self, key: str, suite: str) -> list[Record]:
        """The records of the trial ``key`` under ``suite``, replicates last; damaged ones are left out."""
        paths = sorted(self._files(suite, key), key=lambda path: len(path.name))
        return [record for path in paths if (record := self._load_quietly(path)) is not None]

    def forget(self, key: str, suite: str) -> None:
        """Remove all that is recorded of the trial ``key`` under ``suite``: of what can be made again."""
        for path in (self.root / "v1" / suite).glob(f"{key}*"):
            path.unlink(missing_ok=True)

    def done(self, keys: Iterable[str], suite: str) -> set[str]:
        """Those of ``keys`` whose trial ``suite`` need not run again."""
        return {key for key, status in self.statuses(keys, suite).items() if status in DONE}

    def take_over(self, places: Mapping[str, Mapping[str, str]], suite: str) -> set[str]:
        """Keep under ``suite`` what other versions of it have recorded of trials that it has not; their keys.

        ``places``: suite, label and pair of each trial by its key, which take the place of those in the record. All
        else stays as it was measured.
        """
        wanted = set(places) - self.done(places, suite)
        taken: set[str] = set()
        for path in sorted(self._files(every_version(suite)), key=lambda path: len(path.name)):  # replicates last
            key = path.name.split(".")[0]
            record = self._load_quietly(path) if key in wanted and path.parent.name != suite else None
            if record is None or record["status"] not in DONE:
                continue
            try:
                predictions = None if record["predictions"] is None else self.predictions(record)
            except UserError:  # damaged: the trial is run again
                continue
            self.put({**record, **places[key]}, predictions)
            taken.add(key)
        return taken

    def read(self) -> tuple[list[Record], list[str]]:
        """Every valid record, and a sentence for each file that is not one: damage stays where it is."""
        records: list[Record] = []
        problems: list[str] = []
        for path in self._files():
            try:
                records.append(self.load(path))
            except UserError as error:
                problems.append(str(error))
        return records, problems

    def load(self, path: Path) -> Record:
        """The record at ``path``; UserError says what is wrong with it."""
        where = printable(path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path))
        try:
            record = read_json(path)
        except ValueError as error:
            raise UserError(f"The record {where} cannot be read ({reason(error)}); restore it or delete it.") from None
        _check(record, path, f"The record {where} is damaged")
        return record  # type: ignore[no-any-return]

    def predictions(self, record: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """The arrays of a record's prediction file; UserError when it is missing or not the file that was recorded."""
        if record["predictions"] is None:
            raise UserError(f"The record {record['key'][:12]} has no prediction file.")
        path = self.folder(record) / record["predictions"]["file"]
        try:
            data = read_file(path)
            if hashlib.sha256(data).hexdigest() != record["predictions"]["sha256"]:
                raise ValueError("its sha256 is not the recorded one")
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                if sum(member.file_size for member in arrays.zip.infolist()) > LARGEST:
                    raise ValueError(f"it unpacks to more than {LARGEST >> 20} MiB")
                return {name: arrays[name] for name in arrays.files}
        except Exception as error:  # a damaged archive raises a dozen types; each costs this one file only
            raise UserError(
                f"The prediction file {path.name} cannot be used ({reason(error)}); its row is left out."
            ) from None

    def pins(self, suite: str) -> dict[str, str]:
        """Teacher name -> digest of its weights, as recorded at first use for teachers that ``suite`` does not pin."""
        return read_pins(self.root, suite)

    def pin(self, suite: str, teacher: str, weights_sha256: str) -> None:
        """Record the weights a teacher of ``suite`` had at its first use."""
        write_pin(self.root, suite, teacher, weights_sha256)

    def _files(self, suite: str = "*", key: str = "") -> Iterator[Path]:
        return iter(sorted((self.root / "v1").glob(f"{suite}/{key}*.json")))

    def _load_quietly(self, path: Path) -> Record | None:
        try:
            return self.load(path)
        except UserError:
            return None


def _check(record: Record, path: Path, where: str) -> None:
    """UserError unless ``record`` is valid, all that it says twice agrees, and it belongs at ``path``."""
    check("record", record, where)
    reason = disagreement(record, path.parent.name, path.stem)
    if reason:
        raise UserError(f"{where}: {reason}.")


def every_version(suite: str) -> str:
    """The pattern that matches the folders of all versions of ``suite``, which is ``name@version``."""
    return f"{suite.rpartition('@')[0]}@*"


def npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A compressed .npz, equal bytes for equal arrays."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: arrays[name] for name in sorted(arrays)})  # type: ignore[arg-type]
    return buffer.getvalue()
