"""What a results folder holds: every record read, verified against its predictions, folded and placed."""

from __future__ import annotations

import gc
import json
import marshal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.errors import UserError
from kdbench.records.curve import compact
from kdbench.records.memory import Memory
from kdbench.records.predictions import digest_of
from kdbench.records.protocols import agreeing
from kdbench.records.reading import printable
from kdbench.records.results import fold, one_teacher, placed
from kdbench.records.scored import Scorer
from kdbench.records.standing import Standing
from kdbench.records.store import Store
from kdbench.records.verify import Problem, Seen, problem, verify

Record = Mapping[str, Any]

#: Parts of a record, of its identity and of its provenance that many have in common, and of which one is kept.
_COMMON = frozenset({"method_card", "numerics", "teacher", "protocol", "packages"})


@dataclass(frozen=True)
class Inventory:
    """What is left of the ``count`` records that were read; ``problems`` name each record and file that is left out.

    ``records`` are those that their predictions bear out, their curves made ``compact``, with the ``file`` they lie in;
    ``results`` what they fold to, and ``rows`` these wherever a suite shows them.
    """

    count: int
    records: list[Record]
    results: list[Record]
    rows: list[Record]
    problems: list[Problem]
    #: On which test images the networks of ``records`` are right.
    seen: Seen


def take_inventory(store: Store) -> Inventory:
    """What ``store`` holds; what is damaged or false is set apart, and the rest is used."""
    reader, seen = _Reader(store), Seen()
    with Memory() as memory, without_collecting():
        kept, problems = verify(reader.records(memory), Scorer(store, memory), seen)
        results, contradictions = fold(kept)
        results, impostors = one_teacher(results)
        listings, damaged = store.listings()
        stands = Standing(results)
        rows, strangers = agreeing(placed(results, listings, stands))
    problems = [
        *reader.problems,
        *(Problem(text) for text in (*damaged, *stands.problems(listings))),
        *problems,
        *(problem(record, f"{text}; it is left out.") for record, text in (*contradictions, *impostors, *strangers)),
    ]
    return Inventory(reader.count, kept, results, rows, problems, seen)


@contextmanager
def without_collecting() -> Iterator[None]:
    """What is read here is no garbage, and to look for some among so much takes half as long as to read it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def measured_rows(store: Store) -> tuple[list[Record], list[str]]:
    """What was measured here, wherever a suite shows it, and a sentence for each record and file that is left out.

    As the records say it: nothing is recomputed from predictions, which are not even looked at.
    """
    records, problems = store.read()
    results, contradictions = fold(record for record in records if record["evidence"] == "measured")
    listings, damaged = store.listings()
    stands = Standing(results)
    rows = list(placed(results, listings, stands))
    problems += [*damaged, *stands.problems(listings)]
    problems += [problem(record, f"{text}; it is left out.").text for record, text in contradictions]
    return rows, problems


class _Reader:
    """Reads records one by one, so that only what is kept of them is in memory at a time."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.problems: list[Problem] = []
        self.count = 0
        #: By their digest.
        self._parts: dict[str, Any] = {}
        #: By themselves, as bytes that are quicker to make than what is remembered.
        self._digests: dict[bytes, str] = {}

    def records(self, memory: Memory) -> Iterator[Record]:
        unread: list[str] = []
        for path in self.store.files(unread):
            try:
                record = self._load(path, memory)
            except UserError as error:
                self.problems.append(Problem(str(error), file=self.store.place(path)))
                continue
            self.count += 1
            record["file"] = self.store.place(path)
            yield record
        self.problems += map(Problem, (*unread, *self.store.misplaced()))

    def _load(self, path: Path, memory: Memory) -> dict[str, Any]:
        """The record at ``path``, its curve made compact; one that was found sound there before is remembered.

        What it has in common with others is the same object.
        """
        data = self.store.content(path)
        name = f"record {digest_of(data)} {printable(f'{path.parent.name}/{path.name}')}"
        if (known := memory.recall(name)) is not None:
            with suppress(ValueError, KeyError, TypeError, AttributeError):  # of another form than is kept
                return _with_parts(json.loads(known), lambda name: self._recalled(name, memory))
        whole = self.store.judged(path, data)
        record = _with_parts({**whole, "curve": compact(whole["curve"])}, lambda part: self._kept(part, memory))
        memory.keep(name, json.dumps(record))
        return _with_parts(record, self._parts.__getitem__)

    def _kept(self, part: Any, memory: Memory) -> str:
        """Remember ``part`` by its digest, which is returned."""
        same = marshal.dumps(part, 2)  # the version that writes equal values alike
        if same not in self._digests:
            text = json.dumps(part)
            name = self._digests[same] = digest_of(text.encode())
            self._parts[name] = part
            memory.keep(f"part {name}", text)
        return self._digests[same]

    def _recalled(self, name: str, memory: Memory) -> Any:
        """The part that is remembered by ``name``; TypeError where none is."""
        if name not in self._parts:
            self._parts[name] = json.loads(memory.recall(f"part {name}"))  # type: ignore[arg-type]
        return self._parts[name]


def _with_parts(record: dict[str, Any], other: Callable[[Any], Any]) -> dict[str, Any]:
    """``record`` with what ``other`` makes of each part that many have in common, in its place."""
    for place in (record, record["identity"], record["provenance"]):
        for name in _COMMON & place.keys():
            place[name] = other(place[name])
    return record
