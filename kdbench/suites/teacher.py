"""The teachers of a suite: imported weights, networks trained here, earlier generations, and what is made of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from kdbench.composition import COMPOSITIONS, NETWORKS
from kdbench.data import DatasetSpec
from kdbench.errors import UnknownName, UserError, shown
from kdbench.kinds import read_kind
from kdbench.methods import METHODS, MethodSpec
from kdbench.methods.applicability import not_applicable
from kdbench.models import get_spec
from kdbench.models.build import AS_NAMED
from kdbench.names import LONGEST_TEXT, check_name
from kdbench.protocol import Protocol, parse_protocol
from kdbench.registry import Registry
from kdbench.suites.start import check_files, named, parse_build, parse_head, parse_init
from kdbench.suites.supervised import parse_supervision
from kdbench.suites.table import Table
from kdbench.supervision import FULL
from kdbench.toml import parse_toml
from kdbench.trials.teacher import Normalisation, Teacher

#: Each is a training of its own, and a key in the key of the next.
MOST_GENERATIONS = 32
#: The kinds of teacher whose weights are there.
IMPORTED = ("checkpoint", "student")
#: Teachers that may stand behind one that is made of others, each counted as often as it is named.
MOST_BEHIND = 256

#: From the name of a teacher to what it is, for those that are made of others.
Lookup = Callable[[str], Teacher]

#: Name -> (TOML text, where it lies) of the teachers that plugins offer: what a suite has under [teachers.NAME].
TEACHERS: Registry[tuple[str, str]] = Registry("teacher")


def parse_teacher(
    name: str,
    raw: object,
    data: DatasetSpec,
    base: Protocol,
    where: str,
    others: Lookup | None = None,
    home: Path | None = None,
) -> Teacher:
    """The teacher that the table ``raw`` describes; one that is trained is so under ``base`` and what it changes.

    ``others`` finds those that it is made of. ``home``: the folder of a suite's own file, whose weights may lie outside
    the data root.
    """
    table = Table(raw, where)
    kind = table.take("kind", str)
    if kind in COMPOSITIONS and others is not None:
        return _composed(name, kind, table, data, base, others)
    if kind not in NETWORKS:
        known = [*NETWORKS, *COMPOSITIONS]
        raise UserError(f"{where}: kind must be {', '.join(known[:-1])} or {known[-1]}, not {shown(kind)}.")
    foreign = [field for field in ("mean", "std", "files", "url", "sha256", "weights_sha256") if field in table.raw]
    if kind == "student" and foreign:
        raise UserError(f"{where}: kind student takes no {foreign[0]!r}, as its record says it; leave it out.")
    foreign += ["key"] if kind not in IMPORTED and "key" in table.raw else []
    if kind == "self" and foreign:
        raise UserError(
            f"{where}: kind self takes no {foreign[0]!r}, as it is the student, trained here; leave it out."
        )
    model = get_spec(table.take("model", str)).name
    head = parse_head(table) if kind == "checkpoint" else ""
    start = table.take("init", (str, dict), None) if kind == "trained" else None
    made = kind not in IMPORTED or bool(head)
    build = parse_build(table, model) if kind in ("checkpoint", "trained") else AS_NAMED
    teacher = Teacher(
        name=name,
        kind=kind,
        model=model,
        normalisation=_normalisation(table, data),
        seed=table.count("seed", 0, 0),
        protocol=parse_protocol(table.take("protocol", dict, {}), f"{where} [protocol]", base) if made else None,
        files=tuple(table.take("files", list, [])),
        key=table.take("key", str, "") if kind == "checkpoint" else "",
        head=head,
        build=build,
        url=table.take("url", str, ""),
        sha256=table.take("sha256", str, ""),
        weights_sha256=table.take("weights_sha256", str, ""),
        claimed_top1=table.take("claimed_top1", (float, int), None),
        source=table.take("source", str, ""),
    )
    if kind == "student":
        teacher = replace(teacher, trial=_trial(table, teacher.seed))
    if made:
        supervision = parse_supervision(table.take("supervision", dict, {}), f"{where} supervision", data)
        teacher = replace(teacher, supervision=supervision)
    if kind == "self":
        teacher = _generations(table, teacher, data, others)
    table.finish()
    _check(teacher, where, home is not None)
    if start is not None:
        teacher = _starting(teacher, parse_init(start, model, data, where, home, build))
    return _fine_tuned(teacher, data) if head else teacher


def _fine_tuned(teacher: Teacher, data: DatasetSpec) -> Teacher:
    """The checkpoint ``teacher``, whose classifier is new: it is trained here, and starts from those weights."""
    init = replace(teacher, kind="init", protocol=None, claimed_top1=None, supervision=FULL)
    trained = replace(teacher, kind="trained", files=(), key="", head="", url="", sha256="", weights_sha256="")
    return _starting(trained, named(init, [teacher.name], data))


def _starting(teacher: Teacher, init: Teacher) -> Teacher:
    """``teacher``, which is trained from the weights of ``init`` on."""
    source = teacher.source or f"trained here from the weights in {Path(init.files[0]).name}"
    return replace(teacher, init=init, source=source[:LONGEST_TEXT])


def registered_teacher(name: str, data: DatasetSpec, base: Protocol, others: Lookup | None = None) -> Teacher:
    """The teacher that a plugin offers as ``name``, read as if the suite had its table."""
    text, where = TEACHERS.get(name)
    return parse_teacher(name, parse_toml(text, where), data, base, where, others)


def resolved(name: str, where: str) -> tuple[MethodSpec, dict[str, Any]]:
    """The method written as ``name`` and what its presets fix; UserError begins with ``where``."""
    try:
        return METHODS.resolve(name)
    except UnknownName:  # the whole suite's reader says where
        raise
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_seeds(teacher: Teacher, student: str, seeds: Sequence[int], where: str) -> None:
    """UserError where a ``student`` would start from the weights that a generation, or a part, started from."""
    if teacher.kind in ("trained", *IMPORTED):
        return
    shared = sorted({each.seed for each in teacher.lineage if each.trained and each.model == student} & set(seeds))
    if shared:
        which = "generation" if teacher.kind == "self" else "part"
        raise UserError(
            f"{where}: a {which} of teacher {teacher.name!r} and a student would both have the seed {shared[0]}, "
            "and with it the same initial weights; give the teacher a seed away from the students'."
        )


def _composed(name: str, kind: str, table: Table, data: DatasetSpec, base: Protocol, others: Lookup) -> Teacher:
    """The teacher that is made of those in ``of``, each as it is or trained with each of the ``seeds``."""
    where = table.where
    least, most = COMPOSITIONS.get(kind).PARTS
    names, seeds = table.take("of", list) if most else [], table.take("seeds", list, []) if most else []
    source, claimed = table.take("source", str, ""), table.take("claimed_top1", (float, int), None)
    makes = bool(COMPOSITIONS.get(kind).MAKER and most)
    own, seed = (table.take("protocol", dict, {}), table.count("seed", 0, 0)) if makes else ({}, 0)
    composition = read_kind(COMPOSITIONS, {"kind": kind, **table.raw}, where)
    if any(type(each) is not str for each in names) or len(set(names)) != len(names):
        raise UserError(f"{where}: of must be a list of different names of teachers, not {shown(names)}.")
    if any(type(seed) is not int or seed < 0 for seed in seeds) or len(set(seeds)) != len(seeds):
        raise UserError(f"{where}: seeds must be a list of different whole numbers from 0, not {shown(seeds)}.")
    parts = tuple(map(others, names))
    if seeds:
        if other := next((part for part in parts if part.kind != "trained"), None):
            raise UserError(
                f"{where}: seeds are those that teachers are trained with, and {other.name!r} is of kind {other.kind}; "
                "leave them out, and name each teacher in 'of'."
            )
        parts = tuple(_with_seed(part, each, where) for part in parts for each in seeds)
    if not least <= len(parts) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise UserError(f"{where}: a teacher of kind {kind} is made of {wanted} teachers, not {len(parts)}.")
    if makes and (other := next((part for part in parts if part.composition), None)):
        raise UserError(
            f"{where}: a teacher of kind {kind} is made of networks, and {other.name!r} is of kind {other.kind}."
        )
    if (behind := sum(len(part.lineage) for part in parts)) > MOST_BEHIND:
        raise UserError(f"{where}: it is made of {behind} teachers in all, and {MOST_BEHIND} is the most.")
    teacher = Teacher(
        name=name,
        kind=kind,
        seed=seed,
        protocol=parse_protocol(own, f"{where} [protocol]", parts[0].protocol or base) if makes else None,
        model="+".join(dict.fromkeys(part.model for part in parts)) or kind,
        normalisation=parts[0].normalisation if parts else Normalisation(tuple(data.mean), tuple(data.std)),
        claimed_top1=claimed,
        source=source or (f"{kind} of {', '.join(part.name for part in parts)}" if parts else kind)[:LONGEST_TEXT],
        composition=composition,
        parts=parts,
    )
    _check(teacher, where)
    return teacher


def _trial(table: Table, seed: int) -> tuple[str, str, str]:
    """Which trial left the weights, as ``kdbench.records.find.find`` takes it: by its key, or by row and seed."""
    key, row = table.take("key", str, ""), table.take("row", str, "")
    if bool(key) == bool(row):
        raise UserError(
            f"{table.where}: a student is named by 'key', or by 'row', 'seed' and 'suite'; give one of both."
        )
    suite, pair = table.take("suite", str, ""), table.take("pair", str, "")
    return key or f"{row} seed {seed}", suite, pair


def _with_seed(teacher: Teacher, seed: int, where: str) -> Teacher:
    """``teacher`` trained with another ``seed``, under a name of its own."""
    if seed == teacher.seed:
        return teacher
    return replace(teacher, name=check_name("teacher", f"{teacher.name}-{seed}", where), seed=seed)


def _normalisation(table: Table, data: DatasetSpec) -> Normalisation:
    channels = len(data.mean)
    mean, std = table.take("mean", list, list(data.mean)), table.take("std", list, list(data.std))
    if len(mean) != channels or len(std) != channels:
        raise UserError(f"{table.where}: mean and std need {channels} number{'s' * (channels > 1)} each.")
    if any(type(v) not in (int, float) or not isfinite(v) for v in [*mean, *std]) or min(std) <= 0:
        raise UserError(f"{table.where}: mean must hold numbers, and std numbers greater than 0.")
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))


def _generations(table: Table, last: Teacher, data: DatasetSpec, others: Lookup | None) -> Teacher:
    """``last`` with the generations before it, whose seeds are the whole numbers from its own on."""
    count, under = table.count("generations", 1, 1, MOST_GENERATIONS), table.take("under", str, "")
    if count == 1 and not under and {"method", "config"} & set(table.raw):
        raise UserError(f"{table.where}: method and config are those of generations after the first; there is none.")
    source = "generation 1, trained on the labels alone"
    teacher = replace(last, name=f"{last.name}-1", claimed_top1=None, source=source)
    above = others(under) if under and others else None
    method, config = _lesson(table, last, data, above) if count > 1 or above else ("", {})
    if above is not None:
        taught = f"generation 1, trained by {method} under {above.name}"
        teacher = replace(teacher, source=taught, method=method, config=config, parent=above)
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


def _lesson(table: Table, last: Teacher, data: DatasetSpec, above: Teacher | None) -> tuple[str, dict[str, Any]]:
    """The method, and all its hyper-parameters, by which a generation learns from the one before.

    ``above``: the teacher of the first one, where it has one.
    """
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
    if last.supervision.WEAK and not method.applies.weak_labels:
        raise UserError(
            f"{where}: method {method.name!r} reads one label of each image, and under {last.supervision.kind} some "
            "have none, or several."
        )
    if above is not None and above.composition and (features := sorted(method.needs - {"teacher"})):
        raise UserError(
            f"{where}: method {method.name!r} needs {', '.join(features)}, and {above.name!r}, of kind {above.kind}, "
            "has logits alone; choose another method."
        )
    models = {spec.name, *([above.model] if above is not None and above.composition is None else ())}
    for model in sorted(models):
        if last.protocol and (reason := not_applicable(method, spec.name, model, data.name, last.protocol)):
            raise UserError(f"{where}: method {method.name!r} cannot train a generation: {reason}.")
    return method.name, config


def _check(teacher: Teacher, where: str, anywhere: bool = False) -> None:
    """UserError for what no single field shows; ``anywhere``: its files may be outside the data root."""
    if teacher.kind == "checkpoint" and not teacher.files:
        raise UserError(f"{where}: a checkpoint names the files it may be in, in 'files'.")
    check_files(teacher, where, anywhere)
    if teacher.claimed_top1 is not None and not 0 <= teacher.claimed_top1 <= 100:
        raise UserError(f"{where}: claimed_top1 is a percentage, not {shown(teacher.claimed_top1)}.")
