"""Teachers that are students of other suites: found among the records, and known by their weights from then on."""

from __future__ import annotations

from dataclasses import replace

from kdbench.errors import UserError
from kdbench.records import Store
from kdbench.records.find import find, kept_weights_of, title_of
from kdbench.suites import Suite
from kdbench.trials.teacher import Teacher, normalisation_from_json


def with_students(suite: Suite, store: Store) -> Suite:
    """``suite`` with the weights of each teacher that is a student in ``store``.

    UserError where one is not there, or has left no weights.
    """
    teachers = {name: _found(teacher, store) for name, teacher in suite.teachers.items()}
    elsewhere = {place: _found(teacher, store) for place, teacher in suite.elsewhere.items()}
    return replace(suite, teachers=teachers, elsewhere=elsewhere)


def _found(teacher: Teacher, store: Store) -> Teacher:
    if teacher.parts:
        return replace(teacher, parts=tuple(_found(part, store) for part in teacher.parts))
    if teacher.kind != "student":
        return teacher
    try:
        record = find(store, *teacher.trial)
        path = kept_weights_of(store, record)
    except UserError as error:
        raise UserError(f"Teacher {teacher.name}: {error}") from None
    if record["student_model"] != teacher.model:
        raise UserError(
            f"Teacher {teacher.name}: {title_of(record)} is of {record['student_model']}, so its model must not be "
            f"{teacher.model}."
        )
    from kdbench.teachers.weights import read_weights, weights_digest  # torch

    return replace(
        teacher,
        files=(str(path.absolute()),),
        weights_sha256=weights_digest(read_weights(path)),
        normalisation=normalisation_from_json(record["identity"]["student"]),
        source=teacher.source or f"{title_of(record)} of {record['suite']}, {record['key'][:12]}",
    )
