"""What was found out about files, remembered by their sha256: a file of this content is like that for ever."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
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

    It is begun anew where another version of the code that judges has written it. One that is damaged, locked or on a
    full disk is done without.
    """

    def __init__(self) -> None:
        self._path = cache_dir() / FILE
        self._known: dict[str, str] = {}
        self._new: dict[str, str] = {}
        if self._path.is_file():
            with contextlib.suppress(sqlite3.Error), _opened(self._path) as file:
                self._known = dict(file.execute("SELECT name, text FROM known"))  # which is quicker than one by one

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._new:
            with contextlib.suppress(sqlite3.Error, OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with _opened(self._path) as file:
                    file.executemany("INSERT OR REPLACE INTO known VALUES (?, ?)", self._new.items())

    def recall(self, name: str) -> str | None:
        """What is remembered by ``name``; None where nothing is."""
        return self._known.get(name)

    def keep(self, name: str, text: str = "") -> None:
        self._known[name] = self._new[name] = text


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The file at ``path``, empty where it is not this code's; what was written is there once the block has ended."""
    with contextlib.closing(sqlite3.connect(path, timeout=1.0)) as file, file:
        file.execute("PRAGMA synchronous = OFF")  # what is lost is found out again
        file.execute("CREATE TABLE IF NOT EXISTS code (digest TEXT)")
        if file.execute("SELECT digest FROM code").fetchall() != [(_code(),)]:
            file.execute("DROP TABLE IF EXISTS known")
            file.execute("DELETE FROM code")
            file.execute("INSERT INTO code VALUES (?)", (_code(),))
        file.execute("CREATE TABLE IF NOT EXISTS known (name TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID")
        yield file


@cache
def _code() -> str:
    """The digest of the code that judges, and of the schema that it judges by."""
    files = [Path(str(module.__file__)) for module in JUDGES]
    schemas = sorted(Path(str(validate.__file__)).with_name("schema").glob("*.json"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in (*files, *schemas))).hexdigest()
