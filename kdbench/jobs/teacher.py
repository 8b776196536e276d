"""Making a teacher ready: import or train it, measure it, and keep its logits on the test set."""

from __future__ import annotations

import io

import numpy as np
import torch

from kdbench.data import Dataset
from kdbench.errors import CheckpointError, UserError
from kdbench.jobs.cohort import load_planned, train_cohort
from kdbench.measure.evaluate import TOP_K, ambiguity, logits_of, summarise, top1_of, unreliability
from kdbench.plan.task import Task
from kdbench.records.store import write_atomically
from kdbench.stats.scores import top_k_accuracy
from kdbench.teachers.facts import TeacherFacts, TeacherShelf
from kdbench.teachers.find import find_checkpoint
from kdbench.teachers.ready import network_of
from kdbench.teachers.weights import read_weights, weights_digest, write_weights
from kdbench.train.device import numerics, set_up
from kdbench.train.lockstep import Emit
from kdbench.train.member import Member
from kdbench.trials.teacher import Teacher
from kdbench.trials.trial import teacher_trial


def prepare(task: Task, emit: Emit) -> None:
    """Make ``task.teacher`` ready unless it is: its folder then holds weights, test logits and measured facts."""
    teacher = task.teacher
    if teacher is None:
        raise ValueError("a teacher's task names no teacher")
    device = set_up(task.device, task.threads)
    shelf = TeacherShelf(task.cache, teacher, task.dataset, task.data_digest, numerics(device))
    if not (_weights_sound(shelf) and _logits_sound(shelf) and shelf.facts()):
        shelf.folder.mkdir(parents=True, exist_ok=True)
        dataset = load_planned(task)
        if teacher.kind == "checkpoint":
            _import(task, teacher, shelf, dataset)
        elif not _weights_sound(shelf):
            _train(task, teacher, shelf, emit)
        _measure(teacher, shelf, dataset, device)
    facts = shelf.facts()
    if facts is None:
        raise CheckpointError(f"The teacher {teacher.name} could not be kept in {shelf.folder}; look at the disk.")
    emit({"event": "teacher", "name": teacher.name, "top1": facts.top1, "warnings": facts.warnings(teacher)})


def _weights_sound(shelf: TeacherShelf) -> bool:
    """Whether the kept weights can be read and are, as far as that is known, those that were measured."""
    facts = shelf.facts()
    try:
        found = weights_digest(read_weights(shelf.weights))
    except CheckpointError:
        return False
    return facts is None or found == facts.weights_sha256


def _logits_sound(shelf: TeacherShelf) -> bool:
    try:
        np.load(shelf.logits, allow_pickle=False)
    except Exception:  # whatever is wrong with the file: it is made again
        return False
    return True


def _import(task: Task, teacher: Teacher, shelf: TeacherShelf, dataset: Dataset) -> None:
    path = find_checkpoint(teacher, task.data_root)
    state = read_weights(path)
    found = weights_digest(state)
    if teacher.weights_sha256 and found != teacher.weights_sha256:
        raise CheckpointError(
            f"The weights in {path} are not the pinned ones: their digest is {found[:16]}, pinned is "
            f"{teacher.weights_sha256[:16]}; fetch the file again, or pin the new weights under another teacher name."
        )
    network_of(teacher, dataset.spec, path, torch.device("cpu"))  # whether they fit, said before they are kept
    write_weights(state, shelf.weights)


def _train(task: Task, teacher: Teacher, shelf: TeacherShelf, emit: Emit) -> None:
    trial = teacher_trial(teacher, task.dataset, task.data_digest, task.suite)

    def keep(member: Member) -> None:
        write_weights(member.network.body.state_dict(), shelf.weights)

    train_cohort(task, (trial,), emit, keep)
    if not shelf.weights.exists():
        raise UserError(
            f"The teacher {teacher.name} did not finish its training (see its record), so nobody can learn from it; "
            "change its protocol in the suite."
        )


def _measure(teacher: Teacher, shelf: TeacherShelf, dataset: Dataset, device: torch.device) -> None:
    network = network_of(teacher, dataset.spec, shelf.weights, device)
    logits, _ = logits_of(network, dataset.test_images, device)
    labels, classes = dataset.test_labels, dataset.spec.classes
    top = summarise(logits, labels, None).top
    k = min(TOP_K, max(classes // 4, 1))
    buffer = io.BytesIO()
    np.save(buffer, logits.numpy())
    write_atomically(shelf.logits, buffer.getvalue())
    shelf.finish(
        TeacherFacts(
            weights_sha256=weights_digest(read_weights(shelf.weights)),
            top1=top1_of(logits, labels),
            top5=top_k_accuracy(top, labels, 5),
            unreliability=unreliability(top[:, :k], labels),
            ambiguity=ambiguity(top[:, :k], labels, classes),
            top_k=k,
        )
    )
