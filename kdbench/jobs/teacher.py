"""Making a teacher ready: import or train it, measure it, and keep its logits on the test set."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn

from kdbench.data import Dataset
from kdbench.errors import CheckpointError, UserError
from kdbench.jobs.cohort import planned_data, train_cohort
from kdbench.measure.evaluate import TOP_K, degrees, logits_of, summarise, top1_of
from kdbench.models.composed import InOrder
from kdbench.plan.task import Task
from kdbench.records.store import DONE, Record, Store
from kdbench.stats.scores import top_k_accuracy
from kdbench.teachers.facts import TeacherFacts, TeacherShelf
from kdbench.teachers.find import find_checkpoint
from kdbench.teachers.ready import imported, maker_for, network_of, other_weights
from kdbench.teachers.weights import kept_weights, weights_digest, write_weights
from kdbench.train.device import numerics, set_up
from kdbench.train.member import Member
from kdbench.train.pulse import Pulse
from kdbench.trials.teacher import Teacher
from kdbench.trials.trial import teacher_trial


def prepare(task: Task, pulse: Pulse) -> None:
    """Make ``task.teacher`` ready unless it is: its folder then holds weights, test logits and measured facts.

    One that is trained here has its record there, too, whatever is killed when, and in the run's results folder.
    """
    teacher = task.teacher
    if teacher is None:
        raise ValueError("a teacher's task names no teacher")
    device = set_up(task.device, task.threads)
    shelf = TeacherShelf(task.cache, teacher, task.dataset, task.data_digest, numerics(device))
    pulse.patiently(partial(shelf.folder.mkdir, parents=True, exist_ok=True), f"the teacher {teacher.name}")
    if teacher.trained:
        _train_unless_done(task, teacher, shelf, pulse)
    if teacher.composition is not None:
        _compose(task, teacher, shelf, device, pulse)
    elif not (_weights_sound(shelf) and shelf.test_logits() is not None):
        with pulse.at_work():
            dataset = planned_data(task)
        if not teacher.trained:
            _import(task, teacher, shelf, dataset, pulse)
        network = network_of(teacher, dataset.spec, kept_weights(shelf.weights), device, shelf.weights)
        _measure(teacher, network, network.body, shelf, dataset, device, pulse)
    facts = shelf.facts()
    if facts is None:
        raise CheckpointError(f"The teacher {teacher.name} could not be kept in {shelf.folder}; look at the disk.")
    pulse({"event": "teacher", "name": teacher.name, "top1": facts.top1, "warnings": facts.warnings(teacher)})


def _weights_sound(shelf: TeacherShelf) -> bool:
    """Whether the kept weights can be read and are, as far as that is known, those that were measured."""
    facts = shelf.facts()
    try:
        found = weights_digest(kept_weights(shelf.weights))
    except CheckpointError:
        return False
    return facts is None or found == facts.weights_sha256


def _import(task: Task, teacher: Teacher, shelf: TeacherShelf, dataset: Dataset, pulse: Pulse) -> None:
    path = find_checkpoint(teacher, task.data_root)
    state = imported(teacher, dataset.spec, path)  # whether they fit is said before they are kept
    if teacher.weights_sha256 and (found := weights_digest(state)) != teacher.weights_sha256:
        raise CheckpointError(other_weights(path, found, teacher))
    pulse.patiently(partial(write_weights, state, shelf.weights), f"the teacher {teacher.name}")


def _train_unless_done(task: Task, teacher: Teacher, shelf: TeacherShelf, pulse: Pulse) -> None:
    """Train ``teacher`` unless its weights and its record are on the shelf, and copy the record to the results.

    The record is written after the weights, and the last checkpoint goes after the record: a kill in between costs the
    writing and nothing else. UserError where the training did not finish, of which one that diverged is not repeated.
    """
    trial = teacher_trial(teacher, task.dataset, task.data_digest, task.suite)
    results = Store(task.results)
    if not all(_has_its_predictions(shelf.store, record) for record in shelf.store.find(trial.key)):
        shelf.store.clear()  # damaged: made anew
    ended = shelf.store.status(trial.key)
    recorded = "finished" in (ended, results.status(trial.key)) and _weights_sound(shelf)
    if not recorded and ended not in DONE - {"finished"}:

        def keep(member: Member) -> None:
            weights = member.network.body.state_dict()
            pulse.patiently(partial(write_weights, weights, shelf.weights), f"the teacher {teacher.name}")

        train_cohort(replace(task, results=shelf.store.root), (trial,), pulse, keep)
    for path in shelf.store.paths([trial.key]).get(trial.key, ()):
        pulse.patiently(partial(results.adopt_quietly, path, shelf.store), f"the record of the teacher {teacher.name}")
    ended = shelf.store.status(trial.key)
    if not recorded and ended != "finished":
        raise UserError(
            f"The teacher {teacher.name} did not finish its training ({ended}, see its record), so nobody can learn "
            "from it; change its protocol in the suite."
        )


def _has_its_predictions(store: Store, record: Record) -> bool:
    try:
        return record["predictions"] is None or bool(store.predictions(record))
    except UserError:
        return False


def _compose(task: Task, teacher: Teacher, shelf: TeacherShelf, device: torch.device, pulse: Pulse) -> None:
    """Make and measure ``teacher``, whose parts are ready, unless what was measured is of these parts."""
    with pulse.at_work():
        dataset, facts = planned_data(task), shelf.facts()
        maker = maker_for(shelf, teacher, dataset, device)
    maker.make(device, task.data_root, pulse)
    network = maker.composed(device).to(device).eval()
    if facts is None or shelf.test_logits() is None or weights_digest(network.state_dict()) != facts.weights_sha256:
        network.study(dataset.test_labels, np.arange(len(dataset.test_labels)), "test")
        _measure(teacher, InOrder(network), network, shelf, dataset, device, pulse)


def _measure(
    teacher: Teacher,
    network: nn.Module,
    weights: nn.Module,
    shelf: TeacherShelf,
    dataset: Dataset,
    device: torch.device,
    pulse: Pulse,
) -> None:
    """Put on the shelf what is to know of ``teacher``, a ``network`` that holds ``weights``."""
    logits, _ = logits_of(network, dataset.test_images, device, pulse.beat)
    if not bool(torch.isfinite(logits).all()):
        raise UserError(
            f"The teacher {teacher.name} gives outputs that are not finite on the test images of {dataset.spec.name}, "
            "so nobody can learn from it; look at its weights and its normalisation."
        )
    labels, classes = dataset.test_labels, dataset.spec.classes
    top = summarise(logits, labels, None).top
    k = min(TOP_K, max(classes // 4, 1))
    swept = degrees(logits, labels)
    of_k = next(each for each in swept if each["top_k"] == k)
    facts = TeacherFacts(
        weights_sha256=weights_digest(weights.state_dict()),
        top1=top1_of(logits, labels),
        top5=top_k_accuracy(top, labels, 5),
        **of_k,
        degrees=swept,
    )
    pulse.patiently(partial(shelf.finish, facts, logits.numpy()), f"the teacher {teacher.name}")
