"""What was found out about files, remembered by their sha256: a file of this content is like that for ever."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from functools import cache
from pathlib import Path
from types import TracebackType

from kdbench import canonical
from kdbench.data import spec
from kdbench.paths import cache_dir
from kdbench.records import agreement, curve, predictions, reading, store, validate, verify
from kdbench.stats import calibration, scores

#: The file in the cache folder.
FILE = "records.sqlite"
#: What decides whether a record is sound, and what its predictions score.
JUDGES = (canonical, spec, calibration, scores, agreement, curve, predictions, reading, store, validate, verify)

_COLUMNS = "name TEXT PRIMARY KEY, text TEXT, digest TEXT"


class Memory:
    """Names and what is remembered by them, in a file of the cache folder.

    It is begun anew where it is damaged, or where another version of the code that judges has written it. One that is
    locked or on a full disk is done without. What its digest does not bear out counts as not there.
    """

    def __init__(self) -> None:
        self._path = cache_dir() / FILE
        self._file: sqlite3.Connection | None = None
        self._new: dict[str, str] = {}
        if self._path.is_file():
            with contextlib.suppress(sqlite3.Error):
                self._file = _opened(self._path)
                self._file.execute("BEGIN")  # or each thing that is recalled would lock the file for itself

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(sqlite3.Error, OSError):
            if self._new:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._file or _opened(self._path)
                self._file.rollback()  # what was read is let go, so that two that have read can both write
                with self._file:
                    rows = ((name, text, _digest(name, text)) for name, text in sorted(self._new.items()))
                    self._file.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?)", rows)
        if self._file is not None:
            self._file.close()

    def recall(self, name: str) -> str | None:
        """What is remembered by ``name``; None where nothing is."""
        with contextlib.suppress(sqlite3.Error):
            row = self._file and self._file.execute("SELECT text, digest FROM known WHERE name = ?", (name,)).fetchone()
            if row and isinstance(row[0], str) and row[1] == _digest(name, row[0]):
                return row[0]
        return self._new.get(name)

    def keep(self, name: str, text: str) -> None:
        self._new[name] = text


def _opened(path: Path) -> sqlite3.Connection:
    """The file at ``path``, empty where it is not this code's."""
    file = sqlite3.connect(path, timeout=1.0)
    try:
        with file:
            file.execute("PRAGMA synchronous = OFF")  # what is lost is found out again
            file.execute("CREATE TABLE IF NOT EXISTS code (digest TEXT)")
            if file.execute("SELECT digest FROM code").fetchall() != [(_code(),)]:
                file.execute("DROP TABLE IF EXISTS known")
                file.execute("DELETE FROM code")
                file.execute("INSERT INTO code VALUES (?)", (_code(),))
            file.execute(f"CREATE TABLE IF NOT EXISTS known ({_COLUMNS}) WITHOUT ROWID")
    except sqlite3.Error as error:
        file.close()
        if not isinstance(error, sqlite3.OperationalError):  # it is damaged, and not locked or on a full disk
            path.unlink(missing_ok=True)
        raise
    return file


def _digest(name: str, text: str) -> str:
    """What tells that ``text`` is what was remembered by ``name``, and not another one or damaged."""
    return hashlib.sha256(f"{name}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()


@cache
def _code() -> str:
    """The digest of the code that judges and remembers, and of the schema that it judges by."""
    files = [Path(__file__), *(Path(str(module.__file__)) for module in JUDGES)]
    schemas = sorted(Path(str(validate.__file__)).with_name("schema").glob("*.json"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in (*files, *schemas))).hexdigest()
