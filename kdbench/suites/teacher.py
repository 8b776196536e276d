"""The teachers of a suite: imported weights, networks trained here, and earlier generations of the student."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from pathlib import PurePosixPath
from typing import Any

from kdbench.data import DatasetSpec
from kdbench.errors import UnknownName, UserError, shown
from kdbench.methods import METHODS, MethodSpec
from kdbench.methods.applicability import not_applicable
from kdbench.models import get_spec
from kdbench.names import LONGEST_TEXT, check_name
from kdbench.protocol import Protocol, parse_protocol
from kdbench.registry import Registry
from kdbench.suites.table import Table
from kdbench.toml import parse_toml
from kdbench.trials.teacher import Normalisation, Teacher

#: Each is a training of its own, and a key in the key of the next.
MOST_GENERATIONS = 32
_DIGEST = re.compile("[0-9a-f]{64}")
KINDS = ("trained", "checkpoint", "self")

#: Name -> (TOML text, where it lies) of the teachers that plugins offer: what a suite has under [teachers.NAME].
TEACHERS: Registry[tuple[str, str]] = Registry("teacher")


def parse_teacher(name: str, raw: object, data: DatasetSpec, base: Protocol, where: str) -> Teacher:
    """The teacher that the table ``raw`` describes; one that is trained is so under ``base`` and what it changes."""
    table = Table(raw, where)
    kind = table.take("kind", str)
    if kind not in KINDS:
        raise UserError(f"{where}: kind must be {', '.join(KINDS[:-1])} or {KINDS[-1]}, not {shown(kind)}.")
    foreign = [field for field in ("mean", "std", "files", "url", "weights_sha256") if field in table.raw]
    if kind == "self" and foreign:
        raise UserError(
            f"{where}: kind self takes no {foreign[0]!r}, as it is the student, trained here; leave it out."
        )
    teacher = Teacher(
        name=name,
        kind=kind,
        model=get_spec(table.take("model", str)).name,
        normalisation=_normalisation(table, data),
        seed=table.count("seed", 0, 0),
        protocol=None
        if kind == "checkpoint"
        else parse_protocol(table.take("protocol", dict, {}), f"{where} [protocol]", base),
        files=tuple(table.take("files", list, [])),
        url=table.take("url", str, ""),
        weights_sha256=table.take("weights_sha256", str, ""),
        claimed_top1=table.take("claimed_top1", (float, int), None),
        source=table.take("source", str, ""),
    )
    if kind == "self":
        teacher = _generations(table, teacher, data)
    table.finish()
    _check(teacher, where)
    return teacher


def registered_teacher(name: str, data: DatasetSpec, base: Protocol) -> Teacher:
    """The teacher that a plugin offers as ``name``, read as if the suite had its table."""
    text, where = TEACHERS.get(name)
    return parse_teacher(name, parse_toml(text, where), data, base, where)


def resolved(name: str, where: str) -> tuple[MethodSpec, dict[str, Any]]:
    """The method written as ``name`` and what its presets fix; UserError begins with ``where``."""
    try:
        return METHODS.resolve(name)
    except UnknownName:  # the whole suite's reader says where
        raise
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_seeds(teacher: Teacher, seeds: Sequence[int], where: str) -> None:
    """UserError where a student would start from the weights that a generation before it started from."""
    if teacher.kind != "self":
        return
    shared = sorted({generation.seed for generation in teacher.lineage} & set(seeds))
    if shared:
        raise UserError(
            f"{where}: a generation of teacher {teacher.name!r} and a student would both have the seed {shared[0]}, "
            "and with it the same initial weights; give the teacher a seed away from the students'."
        )


def _normalisation(table: Table, data: DatasetSpec) -> Normalisation:
    channels = len(data.mean)
    mean, std = table.take("mean", list, list(data.mean)), table.take("std", list, list(data.std))
    if len(mean) != channels or len(std) != channels:
        raise UserError(f"{table.where}: mean and std need {channels} number{'s' * (channels > 1)} each.")
    if any(type(v) not in (int, float) or not isfinite(v) for v in [*mean, *std]) or min(std) <= 0:
        raise UserError(f"{table.where}: mean must hold numbers, and std numbers greater than 0.")
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))


def _generations(table: Table, last: Teacher, data: DatasetSpec) -> Teacher:
    """``last`` with the generations before it, whose seeds are the whole numbers from its own on."""
    count = table.count("generations", 1, 1, MOST_GENERATIONS)
    if count == 1 and {"method", "config"} & set(table.raw):
        raise UserError(f"{table.where}: method and config are those of generations after the first; there is none.")
    source = "generation 1, trained on the labels alone"
    teacher = replace(last, name=f"{last.name}-1", claimed_top1=None, source=source)
    method, config = _lesson(table, last, data) if count > 1 else ("", {})
    for number in range(2, count + 1):
        check_name("teacher", teacher.name, table.where)
        teacher = replace(
            teacher,
            name=f"{last.name}-{number}",
            seed=teacher.seed + 1,
            source=f"generation {number}, trained by {method} under {teacher.name}",
            method=method,
            config=config,
            parent=teacher,
        )
    return replace(teacher, name=last.name, claimed_top1=last.claimed_top1, source=last.source or teacher.source)


def _lesson(table: Table, last: Teacher, data: DatasetSpec) -> tuple[str, dict[str, Any]]:
    """The method, and all its hyper-parameters, by which a generation learns from the one before."""
    where, spec = table.where, get_spec(last.model)
    method, fixed = resolved(table.take("method", str, "kd"), where)
    pair = f"{spec.literature}:{spec.literature}"
    config = method.config(pair, {**fixed, **table.take("config", dict, {})}, where)
    if not method.needs_teacher:
        raise UserError(f"{where}: method {method.name!r} has no teacher, so no generation would learn from another.")
    if method.budget.deployed != "student":
        raise UserError(
            f"{where}: method {method.name!r} ends with more than the student ({method.budget.deployed}), "
            "and a generation has the student's architecture."
        )
    if last.protocol and (reason := not_applicable(method, spec.name, spec.name, data.name, last.protocol)):
        raise UserError(f"{where}: method {method.name!r} cannot train a generation: {reason}.")
    return method.name, config


def _check(teacher: Teacher, where: str) -> None:
    if teacher.kind == "checkpoint" and not teacher.files:
        raise UserError(f"{where}: a checkpoint names the files it may be in, in 'files'.")
    if any(
        type(f) is not str or PurePosixPath(f).is_absolute() or ".." in PurePosixPath(f).parts for f in teacher.files
    ):
        raise UserError(f"{where}: files must be relative paths, which are looked up under the data root.")
    if teacher.weights_sha256 and not _DIGEST.fullmatch(teacher.weights_sha256):
        raise UserError(f"{where}: weights_sha256 must be 64 digits of 0-9a-f, not {shown(teacher.weights_sha256)}.")
    if teacher.url and not teacher.url.startswith("https://"):
        raise UserError(f"{where}: url must begin with https://.")
    if len(teacher.source) > LONGEST_TEXT:
        raise UserError(f"{where}: source has {len(teacher.source)} characters; a record takes {LONGEST_TEXT}.")
    if teacher.claimed_top1 is not None and not 0 <= teacher.claimed_top1 <= 100:
        raise UserError(f"{where}: claimed_top1 is a percentage, not {shown(teacher.claimed_top1)}.")
