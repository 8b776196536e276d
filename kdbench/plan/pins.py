"""The published weights that a plan needs: which they are, whether they are there, and still the ones they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from kdbench.data import DATASETS
from kdbench.errors import CheckpointError
from kdbench.paths import cache_dir
from kdbench.records.pins import bring_over_pins
from kdbench.records.store import Store
from kdbench.suites import Suite
from kdbench.teachers.checkpoint import checkpoint_digest
from kdbench.teachers.facts import made_ready
from kdbench.teachers.find import checkpoint_in, find_checkpoint
from kdbench.trials.teacher import Teacher
from kdbench.trials.trial import Trial, teacher_key


def pinned(
    suite: Suite, teachers: Sequence[tuple[Teacher, str]], root: Path, store: Store, dry: bool
) -> dict[str, str]:
    """The recorded digests of the ``teachers`` (each with its data set) that ``suite`` does not pin.

    A first use is recorded here, once the weights are known to fit.
    """
    if not dry:
        bring_over_pins(store.root)
    pins = store.pins(suite.name)
    for teacher, dataset in teachers:
        if teacher.kind != "checkpoint" or teacher.weights_sha256 or teacher.name in pins:
            continue
        if dry and checkpoint_in(root, teacher) is None:
            pins[teacher.name] = "0" * 64
            continue
        weights = checkpoint_digest(teacher, DATASETS.get(dataset), find_checkpoint(teacher, root))
        if dry:
            pins[teacher.name] = weights
            continue
        store.pin(suite.name, teacher.name, weights)
        pins = store.pins(suite.name)  # UserError where another run has pinned it at the same time, to others
    return pins


def wanted(missing: Sequence[Trial], root: Path, device: str) -> Iterator[str]:
    """A sentence for each file that the ``missing`` trials need and that is not there, or holds other weights.

    It is said of these whatever the cache folder has kept. CheckpointError where one cannot be read.
    """
    for teacher, trial in _checkpoints(missing).values():
        path = checkpoint_in(root, teacher)
        if path is None:
            key = teacher_key(teacher, trial.dataset, trial.data_digest)
            if not made_ready(cache_dir(), key, device):
                try:
                    find_checkpoint(teacher, root)
                except CheckpointError as error:
                    yield str(error)
            continue
        found = checkpoint_digest(teacher, DATASETS.get(trial.dataset), path)
        if teacher.weights_sha256.strip("0") and found != teacher.weights_sha256:
            from kdbench.teachers.ready import other_weights

            yield other_weights(path, found, teacher.weights_sha256)


def _checkpoints(trials: Sequence[Trial]) -> dict[tuple[str, str], tuple[Teacher, Trial]]:
    """The checkpoint teachers of ``trials``, each once for a data set, with one of its trials."""
    return {
        (each.name, trial.dataset): (each, trial)
        for trial in trials
        for each in (trial.teacher.lineage if trial.teacher else ())
        if each.kind == "checkpoint"
    }
