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
from kdbench.records import agreement, predictions, reading, store, validate, verify
from kdbench.stats import scores

#: The file in the cache folder.
FILE = "records.sqlite"
#: What decides whether a record is sound, and what its predictions score.
JUDGES = (canonical, spec, scores, agreement, predictions, reading, store, validate, verify)


class Memory:
    """Names and what is remembered by them, in a file of the cache folder.

    It is emptied where another version of the code that judges has filled it. One that is damaged, locked or on a full
    disk is done without.
    """

    def __init__(self) -> None:
        self._file = _open(cache_dir() / FILE)
        self._known: dict[str, str] = {}
        self._new: dict[str, str] = {}
        if self._file is not None:
            with contextlib.suppress(sqlite3.Error):  # all at once, which is quicker than one by one
                self._known = dict(self._file.execute("SELECT name, text FROM known"))

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with contextlib.suppress(sqlite3.Error), self._file:
                self._file.executemany("INSERT OR REPLACE INTO known VALUES (?, ?)", self._new.items())
            self._file.close()

    def recall(self, name: str) -> str | None:
        """What is remembered by ``name``; None where nothing is."""
        return self._known.get(name)

    def keep(self, name: str, text: str = "") -> None:
        self._known[name] = self._new[name] = text


def _open(path: Path) -> sqlite3.Connection | None:
    with contextlib.suppress(sqlite3.Error, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        memory = sqlite3.connect(path, timeout=1.0)
        with contextlib.suppress(sqlite3.Error), memory:
            memory.execute("PRAGMA synchronous = OFF")  # what is lost is found out again
            memory.execute("CREATE TABLE IF NOT EXISTS code (digest TEXT)")
            row = memory.execute("SELECT digest FROM code").fetchone()
            if row is None or row[0] != _code():
                memory.execute("DROP TABLE IF EXISTS known")
                memory.execute("DELETE FROM code")
                memory.execute("INSERT INTO code VALUES (?)", (_code(),))
            memory.execute("CREATE TABLE IF NOT EXISTS known (name TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID")
            return memory
        memory.close()
    return None


@cache
def _code() -> str:
    """The digest of the code that judges, and of the schema that it judges by."""
    files = [Path(str(module.__file__)) for module in JUDGES]
    schemas = sorted(Path(str(validate.__file__)).with_name("schema").glob("*.json"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in (*files, *schemas))).hexdigest()
