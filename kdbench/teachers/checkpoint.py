"""Which weights a checkpoint's file holds, remembered as long as the file looks the same. Imports no torch before."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from kdbench.canonical import digest
from kdbench.data.spec import DatasetSpec
from kdbench.folders import write_atomically
from kdbench.paths import cache_dir
from kdbench.trials.teacher import Teacher

#: Raised when a look finds something else in the same file.
_VERSION = 2


def checkpoint_digest(teacher: Teacher, spec: DatasetSpec, path: Path) -> str:
    """The digest of the weights of ``teacher`` in ``path``; CheckpointError unless they fit its network."""
    return checkpoint_facts(teacher, spec, path)[0]


def checkpoint_facts(teacher: Teacher, spec: DatasetSpec, path: Path) -> tuple[str, bool]:
    """The digest of the weights of ``teacher`` in ``path``, and whether a classifier is among them.

    CheckpointError unless they fit its network.
    """
    stat = path.stat()
    like = [teacher.model, teacher.key, dict(teacher.model_code), spec.classes, list(spec.image_shape)]
    like += [] if teacher.kind == "checkpoint" else [teacher.kind, teacher.head]
    like += [said] if (said := teacher.build.identity()) else []
    looks = digest([_VERSION, str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino, like])
    entry = cache_dir() / "identity" / f"weights-{digest([str(path.resolve()), like])[:24]}.json"
    with suppress(OSError, ValueError, LookupError, TypeError):
        raw = json.loads(entry.read_bytes())
        if raw["looks"] == looks and raw["sha256"] == digest([looks, raw["weights"], raw["head"]]):
            return str(raw["weights"]), bool(raw["head"])
    from kdbench.teachers.ready import has_head, imported
    from kdbench.teachers.weights import weights_digest

    state = imported(teacher, spec, path)
    weights, head = weights_digest(state), has_head(teacher, spec, state)
    with suppress(OSError):  # it only costs the time to look again
        known = {"looks": looks, "weights": weights, "head": head, "sha256": digest([looks, weights, head])}
        write_atomically(entry, json.dumps(known).encode())
    return weights, head
