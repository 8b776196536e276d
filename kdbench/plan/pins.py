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
from kdbench.teachers.checkpoint import checkpoint_digest, checkpoint_facts
from kdbench.teachers.facts import made_ready
from kdbench.teachers.find import checkpoint_in, find_checkpoint
from kdbench.trials.teacher import Teacher
from kdbench.trials.trial import Trial, teacher_key


def pinned(
    suite: Suite,
    teachers: Sequence[tuple[Teacher, str]],
    root: Path,
    store: Store,
    dry: bool,
    download: bool = False,
) -> dict[str, str]:
    """The recorded digests of the published ``teachers`` (each with its data set) that ``suite`` does not pin.

    A first use is recorded here, once the weights are known to fit. ``download``: files that are missing are fetched.
    """
    if not dry:
        bring_over_pins(store.root)
    pins = store.pins(suite.name)
    for teacher, dataset in teachers:
        if teacher.weights_sha256 or teacher.name in pins:
            continue
        if dry and checkpoint_in(root, teacher) is None:
            pins[teacher.name] = "0" * 64
            continue
        path = _there(teacher, root, download) or find_checkpoint(teacher, root)
        weights = checkpoint_digest(teacher, DATASETS.get(dataset), path)
        if dry:
            pins[teacher.name] = weights
            continue
        store.pin(suite.name, teacher.name, weights)
        pins = store.pins(suite.name)  # UserError where another run has pinned it at the same time, to others
    return pins


def _there(teacher: Teacher, root: Path, download: bool) -> Path | None:
    """The teacher's file, fetched where it is missing and that is asked for."""
    path = checkpoint_in(root, teacher)
    if path is None and download:
        from kdbench.teachers.fetch import fetch

        return fetch(teacher, root)
    return path


def wanted(missing: Sequence[Trial], root: Path, device: str, download: bool = False) -> Iterator[str]:
    """A sentence for each file that the ``missing`` trials need and that is not there, or holds other weights.

    ``download``: those that are missing are fetched.

    It is said of these whatever the cache folder has kept. CheckpointError where one cannot be read.
    """
    for teacher, whose, trial in _published(missing):
        path = checkpoint_in(root, teacher)
        if path is None:
            key = None if whose is None else teacher_key(whose, trial.dataset, trial.data_digest)
            if key is not None and made_ready(cache_dir(), key, device):
                continue
            path = _there(teacher, root, download)
        if path is None:
            try:
                find_checkpoint(teacher, root)
            except CheckpointError as error:
                yield str(error)
            continue
        found = checkpoint_digest(teacher, DATASETS.get(trial.dataset), path)
        if teacher.weights_sha256.strip("0") and found != teacher.weights_sha256:
            from kdbench.teachers.ready import other_weights

            yield other_weights(path, found, teacher)


def starts(trials: Sequence[Trial], root: Path) -> Iterator[str]:
    """A sentence for each file that a training of ``trials`` starts from, and is there: whose classifier it has."""
    for init, _, trial in _published(trials):
        path = checkpoint_in(root, init)
        if init.kind == "init" and path is not None:
            taken = checkpoint_facts(init, DATASETS.get(trial.dataset), path)[1]
            head = "with its classifier" if taken else "with a new classifier"
            yield f"{init.model} starts from the weights in {path}, {head}."


def _published(trials: Sequence[Trial]) -> list[tuple[Teacher, Teacher | None, Trial]]:
    """The published weights of ``trials``, each once for a data set, with one of its trials.

    And with the teacher that is made of them, where it is one.
    """
    found: dict[tuple[str, str], tuple[Teacher, Teacher | None, Trial]] = {}
    for trial in trials:
        for one in trial.teacher.lineage if trial.teacher else ():
            for each in one.imports:
                found.setdefault((each.name, trial.dataset), (each, one, trial))
        if trial.init is not None:
            found.setdefault((trial.init.name, trial.dataset), (trial.init, None, trial))
    return list(found.values())
