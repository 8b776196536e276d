"""What prediction files say: each is scored once, and then remembered by its sha256."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from kdbench.data import DATASETS
from kdbench.records.memory import Memory
from kdbench.records.store import Store
from kdbench.records.verify import Scored, score


class Scorer:
    """Scores the prediction files of a ``store``. Every file's sha256 is computed, whatever ``memory`` knows."""

    def __init__(self, store: Store, memory: Memory) -> None:
        self._store, self._memory = store, memory

    def __call__(self, record: Mapping[str, Any]) -> Scored:
        """What the prediction file of ``record`` says; UserError where it cannot be used."""
        packed = self._store.packed(record)
        name = f"scores {record['predictions']['sha256']} {record['dataset']}"
        if (known := self._memory.recall(name)) is not None:
            with contextlib.suppress(ValueError, TypeError, AttributeError):
                return _checked(Scored(**json.loads(known)))
        dataset = record["dataset"]
        classes = DATASETS.get(dataset).classes if dataset in DATASETS else None
        found = score(self._store.unpacked(packed, record), classes)
        self._memory.keep(name, json.dumps(vars(found)))
        return found


def _checked(found: Scored) -> Scored:
    """``found`` where it has the form of a Scored; else ValueError, TypeError or AttributeError."""
    numbers = [value for scores in found.scores.values() for value in scores.values()]
    texts = [found.labels, *found.right.values(), *found.binned.values()]
    if found.scores.keys() != found.right.keys() or found.scores.keys() != found.binned.keys():
        raise ValueError("its parts are of different selections")
    if not all(type(each) in (int, float) for each in (found.images, *numbers)) or not all(
        type(text) is str for text in texts
    ):
        raise TypeError("a part of it is none")
    return found
