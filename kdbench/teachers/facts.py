"""What is known of a ready teacher: its weights, its measured accuracy, its logits on the test set.

Kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.canonical import digest
from kdbench.folders import write_atomically
from kdbench.records.store import Store
from kdbench.trials.teacher import Teacher
from kdbench.trials.trial import teacher_identity, teacher_key

#: Points by which a measured accuracy may differ from the claimed one before every record says so.
CLAIM_TOLERANCE = 0.1


@dataclass(frozen=True)
class TeacherFacts:
    """Measured once for each teacher, data set and numerics. Accuracies in percent on the test images.

    ``degrees``: unreliability and ambiguity for each k of a sweep; facts without them are measured again.
    """

    weights_sha256: str
    top1: float
    top5: float
    unreliability: float
    ambiguity: float
    top_k: int
    degrees: list[dict[str, Any]]

    def section(self, teacher: Teacher) -> dict[str, Any]:
        """The ``teacher`` section of a student's record."""
        return {
            **asdict(self),
            "name": teacher.name,
            "kind": teacher.kind,
            "model": teacher.model,
            "claimed_top1": teacher.claimed_top1,
            "source": teacher.source,
        }

    def warnings(self, teacher: Teacher) -> list[str]:
        """A loud sentence when the teacher is not as good, or not as bad, as its source claims."""
        if teacher.claimed_top1 is None or abs(self.top1 - teacher.claimed_top1) <= CLAIM_TOLERANCE:
            return []
        return [
            f"Teacher {teacher.name} scores {self.top1:.2f} here, but its source claims {teacher.claimed_top1:.2f}: "
            "these may not be the published weights, or not the published normalisation."
        ]


class TeacherShelf:
    """The cache folder of one teacher on one data set under one numerics, by whatever name it was first made."""

    def __init__(self, cache: Path, teacher: Teacher, dataset: str, data_digest: str, numerics: dict[str, Any]) -> None:
        identity = [teacher_identity(teacher, dataset, data_digest), data_digest, numerics]
        shelves, name = cache / "teachers", digest(identity)[:20]
        self.folder = min(shelves.glob(f"*-{name}"), default=shelves / f"{teacher.name}-{name}")
        self._whose = [teacher_key(teacher, dataset, data_digest), numerics["device"]]
        self._of = partial(TeacherShelf, cache, dataset=dataset, data_digest=data_digest, numerics=numerics)

    def of(self, part: Teacher) -> TeacherShelf:
        """That of another teacher on the same data under the same numerics."""
        return self._of(part)

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def logits(self) -> Path:
        return self.folder / "test_logits.npy"

    @property
    def _facts(self) -> Path:
        return self.folder / "facts.json"

    @property
    def store(self) -> Store:
        """The record of the training that made the teacher here; each run copies it into its own results folder."""
        return Store(self.folder / "record")

    def facts(self) -> TeacherFacts | None:
        """None until the teacher is ready, or when what is said of it is damaged."""
        found = self._finished()
        return None if found is None else found[0]

    def test_logits(self) -> NDArray[np.float32] | None:
        """The logits [N,K] of the test images; None where they are not those that were measured."""
        found = self._finished()
        try:
            content = self.logits.read_bytes()
            if found is None or hashlib.sha256(content).hexdigest() != found[1]:
                return None
            return np.load(io.BytesIO(content), allow_pickle=False)  # type: ignore[no-any-return]
        except OSError:
            return None

    def finish(self, facts: TeacherFacts, logits: NDArray[np.float32]) -> None:
        """Keep the test ``logits`` [N,K] and say that the teacher is ready; its weights are in place by now."""
        buffer = io.BytesIO()
        np.save(buffer, logits)
        write_atomically(self.logits, buffer.getvalue())
        said = [asdict(facts), hashlib.sha256(buffer.getvalue()).hexdigest()]
        content = {"said": said, "sha256": digest(said), "whose": self._whose}
        write_atomically(self._facts, json.dumps(content, indent=1).encode())

    def _finished(self) -> tuple[TeacherFacts, str] | None:
        """The facts, and the sha256 of the test logits' file."""
        try:
            raw = json.loads(self._facts.read_bytes())
            facts, logits = raw["said"]
            return (TeacherFacts(**facts), str(logits)) if digest([facts, logits]) == raw["sha256"] else None
        except (OSError, ValueError, TypeError, KeyError):
            return None


def made_ready(cache: Path, key: str, device: str) -> bool:
    """Whether the teacher with this ``teacher_key`` was made ready on such a device.

    It may have been under other numerics, which nobody can tell without torch: good for an estimate.
    """

    def says(path: Path) -> bool:
        try:
            return bool(json.loads(path.read_bytes())["whose"] == [key, device])
        except (OSError, ValueError, TypeError, KeyError):
            return False

    return any(map(says, cache.glob("teachers/*/facts.json")))
