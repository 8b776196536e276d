"""What prediction files say, remembered by their sha256: a file is named by its content, so it is scored once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import kdbench.records.verify
import kdbench.stats.scores
from kdbench.records.store import Store
from kdbench.records.verify import Scored, score


class Scorer:
    """Scores the prediction files of a ``store``, with a memory in the file ``memory``, or without any.

    A memory that is damaged, locked or on a full disk is done without. Every file's sha256 is computed, warm or cold.
    """

    def __init__(self, store: Store, memory: Path | None) -> None:
        self.store = store
        self._memory = None if memory is None else _open(memory)

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._memory is not None:
            with contextlib.suppress(sqlite3.Error):
                self._memory.commit()
            self._memory.close()

    def __call__(self, record: Mapping[str, Any]) -> Scored:
        """What the prediction file of ``record`` says; UserError where it cannot be used."""
        packed = self.store.packed(record)
        name = f"{record['predictions']['sha256']} {record['dataset']}"
        if (known := self._recall(name)) is not None:
            return known
        found = score(self.store.unpacked(packed, record))
        self._keep(name, found)
        return found

    def _recall(self, name: str) -> Scored | None:
        if self._memory is None:
            return None
        with contextlib.suppress(sqlite3.Error, ValueError, TypeError, KeyError):
            row = self._memory.execute("SELECT said FROM scored WHERE name = ?", (name,)).fetchone()
            return None if row is None else Scored(**json.loads(row[0]))
        return None

    def _keep(self, name: str, found: Scored) -> None:
        if self._memory is not None:
            said = json.dumps({"scores": found.scores, "labels": found.labels})
            with contextlib.suppress(sqlite3.Error):
                self._memory.execute("INSERT OR REPLACE INTO scored VALUES (?, ?)", (name, said))


def _open(path: Path) -> sqlite3.Connection | None:
    """The memory at ``path``, emptied where another version of the code that scores has filled it."""
    with contextlib.suppress(sqlite3.Error, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        memory = sqlite3.connect(path, timeout=1.0)
        with contextlib.suppress(sqlite3.Error):
            memory.execute("PRAGMA synchronous = OFF")  # what is lost is computed again
            memory.execute("CREATE TABLE IF NOT EXISTS code (digest TEXT)")
            row = memory.execute("SELECT digest FROM code").fetchone()
            if row is None or row[0] != _code():
                memory.executescript("DROP TABLE IF EXISTS scored; DELETE FROM code;")
                memory.execute("INSERT INTO code VALUES (?)", (_code(),))
            memory.execute("CREATE TABLE IF NOT EXISTS scored (name TEXT PRIMARY KEY, said TEXT)")
            memory.commit()
            return memory
        memory.close()
    return None


@cache
def _code() -> str:
    """The digest of the code that scores."""
    files = (kdbench.records.verify.__file__, kdbench.stats.scores.__file__)
    return hashlib.sha256(b"\0".join(Path(file).read_bytes() for file in files)).hexdigest()
