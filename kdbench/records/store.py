"""The results folder: files are named by their content and never changed, so that folders merge by copying."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from kdbench.data import DATASETS
from kdbench.errors import UserError, reason
from kdbench.folders import check_writable, clear_leftovers, write_atomically
from kdbench.records.agreement import disagreement, home
from kdbench.records.listings import Place, Said, read_listings, write_listing
from kdbench.records.pins import read_pins, write_pin
from kdbench.records.predictions import digest_of, pack, unpack
from kdbench.records.reading import LARGEST_JSON, parse_json, printable, read_file, unlisted
from kdbench.records.results import DONE
from kdbench.records.validate import check

Record = dict[str, Any]

#: The folders of a results folder that are filled here and by runs.
FOLDERS = ("v1", "runs", "pins", "weights", "methods", "plugins", "baselines")
#: Card, source and check of the methods of plugins that contributed records are of, each in a folder of its own.
METHODS_FOLDER = "methods"
#: The sources of other plugins that contributed records ran, as of an architecture, each in a folder of its own.
PLUGINS_FOLDER = "plugins"
#: Folders beside those of suites that hold no records.
PREDICTIONS, LISTINGS = "predictions", "listings"
#: The folder of the networks that were trained, which no record needs.
WEIGHTS = "weights"
#: The evidence of somebody else's records.
CONTRIBUTED = "contributed"
#: Test images that a data set may have of which nothing is known here.
MOST_IMAGES = 1_000_000

#: The folders of ``v1`` that hold no records.
_NO_RECORDS = frozenset({PREDICTIONS, LISTINGS})

#: The name of a record's file: its key, and digits of its content.
_RECORD = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{12}\.json", re.IGNORECASE)
_JSON = re.compile(r"[^.].*\.json", re.IGNORECASE | re.DOTALL)
#: Folders inside one another in which misplaced records are looked for.
DEEPEST_FOLDER = 4
#: The name that earlier versions gave a record: its key alone.
_EARLIER = re.compile(r"[0-9a-f]{64}\.json")


class Store:
    """Records under ``root/v1/<suite>/``, those of teachers trained here under ``root/v1/teachers/``.

    A trial has one record, whichever suite asked for it first; ``root/v1/listings/`` says where else it is shown.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._packed = root / "v1" / PREDICTIONS

    def check_writable(self, suites: Iterable[str]) -> None:
        """UserError where what a run of ``suites`` writes could not be written; nothing is left behind."""
        own = (name for suite in suites for name in (f"v1/{suite}", f"pins/{suite.rpartition('@')[0]}"))
        for name in ("v1/teachers", f"v1/{PREDICTIONS}", f"v1/{LISTINGS}", "runs", WEIGHTS, *own):
            check_writable(self.root / name, f"The results folder {self.root}")

    def check_current(self) -> None:
        """UserError where an earlier version has named the records, which are not found by those names any more."""
        if any(_EARLIER.fullmatch(path.name) for path in self.files([])):
            raise UserError(
                f"The results folder {self.root} was written by an earlier version of kdbench; "
                f"kdbench results migrate {self.root} brings its records over and loses none."
            )

    def tidy(self) -> None:
        """Remove the temporary files that killed processes have left here."""
        for folder in (
            self.root,
            self.root / "runs",
            self.root / WEIGHTS,
            *self.root.glob("v1/*"),
            *self.root.glob("pins/*"),
        ):
            clear_leftovers(folder)

    def folder(self, record: Mapping[str, Any]) -> Path:
        return self.root / "v1" / home(record)

    def put(self, record: Record, predictions: Mapping[str, NDArray[Any]] | None = None) -> Path:
        """Write ``record`` and its predictions, and say where.

        Nothing is replaced: another record of the trial lies beside it under another name (results.fold), and the same
        one is there once.
        """
        return self.put_packed(record, None if predictions is None else pack(predictions)[1])

    def put_packed(self, record: Record, packed: bytes | None) -> Path:
        """Write ``record`` and its prediction file ``packed``, and say where."""
        if packed is not None:
            record = {**record, "predictions": {"sha256": digest_of(packed)}}
        data = written(record)
        path = self.folder(record) / file_name(record["key"], data)
        _check(record, path.parent.name, str(path))
        where = None if packed is None else self.predictions_path(record)
        if packed is not None and where is not None:
            write_atomically(where, packed)
        write_atomically(path, data)
        return path

    def adopt(self, path: Path, other: Store, contributed: bool = False) -> bool:
        """Copy the record at ``path`` of the ``other`` store and its predictions, byte by byte; whether it was new.

        What is here and damaged is mended by the copy. ``contributed``: whatever it calls itself, it is called so here,
        unless it is one that was measured here. UserError where it, or its predictions, cannot be used.
        """
        record, data, name = other.load(path), other.content(path), path.name
        if contributed and record["evidence"] != CONTRIBUTED and not _holds(self.folder(record) / name, data):
            record = {**record, "evidence": CONTRIBUTED}
            data = written(record)
            name = file_name(record["key"], data)
        here = self.folder(record) / name
        new = False
        if record["predictions"] is not None and not self._has(record):
            packed = other.packed(record)
            other.unpacked(packed, record)
            write_atomically(self._predictions(record["predictions"]["sha256"]), packed)
            new = True
        if not _holds(here, data):
            write_atomically(here, data)
            new = True
        return new

    def _has(self, record: Mapping[str, Any]) -> bool:
        """Whether the prediction file of ``record`` is here, and is the one that was recorded."""
        try:
            self.packed(record)
        except UserError:
            return False
        return True

    def adopt_quietly(self, path: Path, other: Store) -> bool:
        """Whether the record at ``path`` of the ``other`` store is here now, which one that is damaged is not."""
        try:
            self.adopt(path, other)
            return True
        except UserError:
            return False

    def paths(self, keys: Iterable[str]) -> dict[str, list[Path]]:
        """The files of each of ``keys`` that has any, whatever suite asked for them."""
        wanted = set(keys)
        found: dict[str, list[Path]] = {}
        for path in self.files():
            if (key := path.name.partition(".")[0]) in wanted:
                found.setdefault(key, []).append(path)
        return found

    def find(self, key: str) -> list[Record]:
        """The records of the trial ``key``; damaged ones are left out."""
        found = map(self._load_quietly, self.paths([key]).get(key, ()))
        return [record for record in found if record is not None]

    def statuses(self, keys: Iterable[str]) -> dict[str, str]:
        """The status of each of ``keys`` that was measured: how it ended, where a record says so, else how it failed.

        What somebody contributed saves nobody the measurement.
        """
        found: dict[str, str] = {}
        for key, paths in self.paths(keys).items():
            for path in paths:
                record = None if found.get(key) in DONE else self._load_quietly(path)
                if record is not None and record["evidence"] == "measured":
                    found[key] = str(record["status"])
        return found

    def status(self, key: str) -> str | None:
        """The status of the trial ``key``, as ``statuses`` has it; None where it has no record."""
        return self.statuses([key]).get(key)

    def done(self, keys: Iterable[str], again: Mapping[str, int] | None = None) -> set[str]:
        """Those of ``keys`` whose trial need not run again.

        ``again``: trials that are trained until they have more endings than they had.
        """
        found = {key for key, status in self.statuses(keys).items() if status in DONE}
        now = self.endings(found & (again or {}).keys())
        return {key for key in found if again is None or key not in again or now[key] > again[key]}

    def endings(self, keys: Iterable[str]) -> dict[str, int]:
        """How many records of each of ``keys`` say how its trial ended."""
        wanted = list(keys)
        found = self.paths(wanted) if wanted else {}
        return {key: sum(_ended(self._load_quietly(path)) for path in found.get(key, ())) for key in wanted}

    def clear(self) -> None:
        """Remove everything: of what can be made again."""
        shutil.rmtree(self.root, ignore_errors=True)

    def list_under(self, places: Iterable[tuple[str, Place]], dry: bool = False, contributed: bool = False) -> int:
        """Show the recorded ones among these trials, by key, there as well; how many were not shown there before.

        ``dry``: they are counted alone. ``contributed``: for somebody else's folder.
        """
        wanted = list(places)
        recorded, (listed, _) = self.paths(key for key, _ in wanted), self.listings()
        new: dict[str, set[tuple[str, Place]]] = {}
        for key, place in wanted:
            suites = {path.parent.name for path in recorded.get(key, ())}
            said = listed.get(key, {}).get(place)
            if suites and place.suite not in suites and (said is None or said.contributed > contributed):
                new.setdefault(place.suite, set()).add((key, place))
        for suite, trials in new.items() if not dry else ():
            write_listing(self.root / "v1" / LISTINGS, suite, trials, contributed)
        return sum(map(len, new.values()))

    def listings(self) -> tuple[dict[str, dict[Place, Said]], list[str]]:
        """Key -> where listings show a trial, and which says so; and a sentence for each damaged listing.

        Whether the trial can stand there is not looked at (standing).
        """
        return read_listings(self.root / "v1" / LISTINGS)

    def read(self) -> tuple[list[Record], list[str]]:
        """Every valid record, one a file, and a sentence for each file that is not one: damage stays where it is."""
        records: list[Record] = []
        problems: list[str] = []
        for path in self.files(problems):
            try:
                records.append(self.load(path))
            except UserError as error:
                problems.append(str(error))
        return records, problems

    def load(self, path: Path) -> Record:
        """The record at ``path``; UserError says what is wrong with it."""
        return self.judged(path, self.content(path))

    def content(self, path: Path) -> bytes:
        """The bytes of the record at ``path``."""
        try:
            return read_file(path, LARGEST_JSON)
        except ValueError as error:
            raise self._unreadable(path, error) from None

    def judged(self, path: Path, data: bytes) -> Record:
        """The record that ``data`` is, which lies at ``path``; UserError where it is none, or does not belong there."""
        try:
            record = parse_json(data)
        except ValueError as error:
            raise self._unreadable(path, error) from None
        where = self.place(path)
        if _EARLIER.fullmatch(path.name):
            raise UserError(
                f"The record {where} is named as by an earlier version; kdbench results migrate renames it."
            )
        try:
            _check(record, path.parent.name, f"The record {where} is damaged")
        except UserError as error:
            raise UserError(f"{str(error).rstrip('.')}; restore it or delete it.") from None
        if path.name != (name := file_name(record["key"], data)):
            raise UserError(
                f"The record {where} is damaged: its name is not that of its key and its content, which is {name}; "
                "restore it or delete it."
            )
        return record  # type: ignore[no-any-return]

    def place(self, path: Path) -> str:
        """What a sentence calls ``path``: its place in the results folder."""
        return printable(str(path).removeprefix(f"{self.root}{os.sep}"))

    def _unreadable(self, path: Path, error: ValueError) -> UserError:
        return UserError(f"The record {self.place(path)} cannot be read ({reason(error)}); restore it or delete it.")

    def predictions(self, record: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """The arrays of a record's prediction file; UserError when it is missing or not the file that was recorded."""
        return self.unpacked(self.packed(record), record)

    def packed(self, record: Mapping[str, Any]) -> bytes:
        """A record's prediction file as it is; UserError when it is missing or not the file that was recorded."""
        if record["predictions"] is None:
            raise UserError(f"The record {record['key'][:12]} has no prediction file.")
        sha256 = record["predictions"]["sha256"]
        try:
            data = read_file(self._predictions(sha256))
        except ValueError as error:
            raise _unusable(record, error) from None
        if digest_of(data) != sha256:
            raise _unusable(record, "its sha256 is not the recorded one")
        return data

    def unpacked(self, data: bytes, record: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """The arrays in the prediction file ``data`` of a record; UserError where it is no such file."""
        dataset = record["dataset"]
        try:
            return unpack(data, DATASETS.get(dataset).test_size if dataset in DATASETS else MOST_IMAGES)
        except Exception as error:  # a damaged archive raises a dozen types; each costs this one file only
            raise _unusable(record, error) from None

    def pins(self, suite: str) -> dict[str, str]:
        """Teacher name -> digest of its weights, as recorded at first use for teachers that ``suite`` does not pin."""
        return read_pins(self.root, suite)

    def pin(self, suite: str, teacher: str, weights_sha256: str) -> None:
        """Record the weights a teacher of ``suite`` had at its first use."""
        write_pin(self.root, suite, teacher, weights_sha256)

    def files(self, unread: list[str] | None = None) -> Iterator[Path]:
        """The files of all records, sorted; whether they are sound is not looked at.

        ``unread``: takes a sentence for each folder that cannot be read, which otherwise ends in the system's error.
        """
        home = self.root / "v1"
        folders = [home / name for name in self._listed(home, unread) if name not in _NO_RECORDS]
        for folder in folders:
            if folder.is_dir() or folder.is_symlink():
                names = self._listed(folder, unread)
                yield from (folder / name for name in names if name.endswith(".json") and not name.startswith("."))

    def _listed(self, folder: Path, unread: list[str] | None) -> list[str]:
        try:
            return sorted(os.listdir(folder))
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not folder.is_symlink():
                return []
            if unread is None:
                raise
            unread.append(f"{unlisted(self.place(folder), folder, error)}, so no record in it is used.")
            return []

    def misplaced(self) -> Iterator[str]:
        """A sentence for each folder below the root with JSON files in ``v1``, or records, that nothing looks for.

        Where there are records in their place, others are looked for in the folders beside them alone.
        """
        found = Counter[Path]()
        deepest = 1 if any(self.files([])) else DEEPEST_FOLDER
        for folder, folders, names in os.walk(self.root):
            here = Path(folder)
            parts = here.relative_to(self.root).parts
            inside, depth = parts[:1] == ("v1",), len(parts)
            farthest = DEEPEST_FOLDER if inside or not parts else deepest
            folders[:] = [name for name in folders if not name.startswith(".") and depth < farthest]
            if inside and depth > 1:
                found.update(here / name for name in folders if (here / name).is_symlink())
            if inside and depth == 2 and here.name != PREDICTIONS:  # its files are read
                names = [name for name in names if not name.endswith(".json")]
            like = _JSON if inside else _RECORD
            found[here] += sum(like.fullmatch(name) is not None for name in names)
        for place, count in sorted(found.items()):
            if count:
                what = "the folder" if place.is_symlink() else f"{count} JSON file{'s' * (count > 1)} in the folder"
                where = printable(str(place)) if place == self.root else self.place(place)
                yield (
                    f"Nothing reads {what} {where}: records lie in v1/SUITE of the results folder that is named, and "
                    "nowhere else; move them there, or name another folder."
                )

    def predictions_path(self, record: Mapping[str, Any]) -> Path:
        """Where the predictions of ``record``, which has some, belong."""
        return self._predictions(record["predictions"]["sha256"])

    def weights_path(self, sha256: str) -> Path:
        """Where the weights of this digest are kept, if they are."""
        return self.root / WEIGHTS / f"{sha256}.safetensors"

    def ignore_weights(self) -> None:
        """Keep version control from taking weights for sources."""
        ignored = self.root / WEIGHTS / ".gitignore"
        if not ignored.exists():
            write_atomically(ignored, b"*\n")

    def _predictions(self, sha256: str) -> Path:
        return self._packed / f"{sha256}.npz"

    def _load_quietly(self, path: Path) -> Record | None:
        try:
            return self.load(path)
        except UserError:
            return None


def _ended(record: Record | None) -> bool:
    return record is not None and record["status"] in DONE


def _unusable(record: Mapping[str, Any], why: object) -> UserError:
    name = f"{record['predictions']['sha256']}.npz"
    return UserError(f"The prediction file {name} cannot be used ({reason(why)}); its row is left out.")


def written(record: Mapping[str, Any]) -> bytes:
    """The bytes of a record's file."""
    return json.dumps(record, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def _holds(path: Path, data: bytes) -> bool:
    """Whether ``path`` is a file with this content."""
    try:
        return read_file(path) == data
    except ValueError:
        return False


def file_name(key: str, data: bytes) -> str:
    """The name of a record's file, whose bytes are ``data``."""
    return f"{key}.{hashlib.sha256(data).hexdigest()[:12]}.json"


def _check(record: Record, folder: str, where: str) -> None:
    """UserError unless ``record`` is valid, all that it says twice agrees, and it belongs into ``folder``."""
    check("record", record, where)
    reason = disagreement(record, folder)
    if reason:
        raise UserError(f"{where}: {reason}.")
