"""What is looked at before anything is trained: code that is there, networks that can be built and trained."""

from __future__ import annotations

from collections.abc import Sequence

from kdbench.data import DATASETS
from kdbench.errors import UserError
from kdbench.methods import METHODS, leaves, load_class
from kdbench.models import MODELS
from kdbench.models.build import AS_NAMED
from kdbench.registry import OURS
from kdbench.supervision import FULL
from kdbench.trials.trial import Trial, teacher_trial


def check_code(trials: Sequence[Trial]) -> None:
    """UserError where other people's method or network is not there to train with: said now, and not by each record."""
    for name in {part.name for trial in trials for part in leaves(METHODS.get(trial.method))}:
        if METHODS.origin(name) != OURS:
            load_class(METHODS.get(name))
    generations = (each for trial in trials if trial.teacher for each in trial.teacher.lineage)
    names = {trial.student for trial in trials} | {each.model for each in generations if each.composition is None}
    for name in sorted(name for name in names if name not in MODELS or MODELS.origin(name) != OURS):
        from kdbench.models.factory import check_available  # torch, which built-in networks do not need to plan

        check_available(name)
    built = {(each.name, trial.dataset): each for trial in trials if trial.teacher for each in trial.teacher.lineage}
    for (_, dataset), each in built.items():
        if each.build != AS_NAMED:
            from kdbench.models.factory import check_build

            data = DATASETS.get(dataset)
            check_build(each.model, data.classes, data.image_shape, each.build)


def check_lone_images(trials: Sequence[Trial]) -> None:
    """UserError where the last batch of an epoch is of one image, and a network cannot be trained on that."""
    teachers = (each for trial in trials if trial.teacher for each in trial.teacher.lineage if each.trained)
    made = [teacher_trial(each, trials[0].dataset, trials[0].data_digest) for each in teachers]
    seen = {
        (t.student, t.dataset, t.protocol): t for t in (*trials, *made) if METHODS.get(t.method).applies.min_batch < 2
    }
    for trial in seen.values():
        data = DATASETS.get(trial.dataset)
        images = data.train_size - max(trial.protocol.holdout, data.val_size)
        if images % trial.protocol.batch != 1 or trial.supervision != FULL:
            continue
        from kdbench.measure.cost import needs_company  # torch

        if needs_company(trial.student, data.image_shape, data.classes, trial.build):
            raise UserError(
                f"{trial.suite or trials[0].suite}: an epoch of {images} images in batches of {trial.protocol.batch} "
                f"ends with a single image, on which the batch normalisation of {trial.student} cannot be trained; "
                "give the protocol another batch."
            )
