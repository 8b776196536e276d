"""From a suite and the user's filters to the trials it asks for."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdbench.canonical import canonical, digest
from kdbench.composition import COMPOSITIONS
from kdbench.data import DATASETS, DatasetSpec
from kdbench.errors import UnknownName, UserError, shown
from kdbench.methods import METHODS, MethodSpec
from kdbench.methods.applicability import not_applicable
from kdbench.methods.expression import is_expression
from kdbench.models import MODELS
from kdbench.models.build import AS_NAMED
from kdbench.names import check_name
from kdbench.plugins import source_of
from kdbench.registry import OURS, Registry
from kdbench.suites import PAIRS, Pair, Row, Suite, added_pair, added_row, check_seeds
from kdbench.supervision import SUPERVISIONS
from kdbench.trials.teacher import Normalisation, Teacher
from kdbench.trials.trial import Trial

#: What one plan holds in memory without trouble; nobody waits for more.
MOST_TRIALS = 1_000_000
#: Characters of a pattern; matching takes a time that grows with the square of some.
LONGEST_GLOB = 1000
_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class Selection:
    """What of a suite is asked for; empty means all of it."""

    pairs: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: int | None = None
    train_teachers: bool = False
    settings: tuple[str, ...] = ()


def with_settings(suites: Sequence[Suite], selection: Selection) -> tuple[tuple[Suite, ...], Selection]:
    """``suites``, each with a row more for each setting of ``selection`` (``kd.temperature=2``), which chooses it."""
    for setting in selection.settings:
        suites = [added_row(suite, setting) for suite in suites]
    added = [row.label for suite in suites for row in suite.rows[len(suite.rows) - len(selection.settings) :]]
    methods = tuple(dict.fromkeys((*selection.methods, *added))) if selection.methods else ()
    return tuple(suites), replace(selection, methods=methods)


def with_pairs(suites: Sequence[Suite], globs: Sequence[str]) -> tuple[list[Suite], list[str]]:
    """``suites`` with the registered pairs that an exact name among ``globs`` adds to each, and the names of those.

    UnknownName where a glob matches no pair of any suite and is none that is registered.
    """
    names = [pair.name for suite in suites for pair in suite.pairs]
    added = [glob for glob, found in _matches(names, globs).items() if not found]
    for glob in added:
        if glob not in PAIRS:
            raise UnknownName(f"pair in {' or '.join(suite.id for suite in suites)}", glob, {*names, *PAIRS.names()})
    for name in added:
        suites = [added_pair(suite, name) for suite in suites]
    return list(suites), added


def chosen_pairs(suite: Suite, globs: Sequence[str]) -> list[Pair]:
    """The pairs that match any of ``globs``, and those that one of them has added."""
    if not globs:
        return list(suite.pairs)
    wanted = set().union(*_matches([pair.name for pair in suite.pairs], globs).values())
    return [pair for pair in suite.pairs if pair.name in wanted or pair.added in globs]


def chosen_rows(suite: Suite, globs: Sequence[str]) -> tuple[list[Row], list[str]]:
    """The rows that match any of ``globs``, and the registered methods outside the suite that an exact name added."""
    if not globs:
        return list(suite.rows), []
    labels = [row.label for row in suite.rows]
    matched = _matches(labels, globs)
    wanted = set().union(*matched.values())
    rows = [row for row in suite.rows if row.label in wanted]
    added = [glob for glob, found in matched.items() if not found]
    for glob in added:
        if glob not in METHODS and not is_expression(glob):
            raise UnknownName(f"method or row of suite {suite.id}", glob, {*labels, *METHODS.names()})
        method, fixed = METHODS.resolve(glob)
        rows.append(Row(label=check_name("label", glob, "--method"), method=method.name, config=fixed))
    return rows, added


def matched(names: Collection[str], globs: Sequence[str], noun: str) -> set[str]:
    """Those of ``names``, each of a ``noun``, that any of ``globs`` matches; UnknownName where a glob matches none."""
    by_glob = _matches(names, globs)
    for glob, found in by_glob.items():
        if not found:
            raise UnknownName(noun, glob, names)
    return set().union(*by_glob.values())


def _matches(names: Collection[str], globs: Sequence[str]) -> dict[str, set[str]]:
    """Each of ``globs``, and those of ``names`` that it matches; one without a wildcard is only looked up."""
    known = set(names)
    if long := next((glob for glob in globs if len(glob) > LONGEST_GLOB), None):
        raise UserError(f"{shown(long)} is too long: a pattern has at most {LONGEST_GLOB:,} characters.")
    return {
        glob: set(fnmatch.filter(names, glob)) if _WILDCARDS & set(glob) else known & {glob}
        for glob in dict.fromkeys(globs)
    }


def chosen_seeds(suite: Suite, count: int | None) -> tuple[int, ...]:
    """The suite's first ``count`` seeds, continued by the next whole numbers when it has fewer."""
    if count is None:
        return suite.seeds
    if not 1 <= count <= MOST_TRIALS:
        bound = "least 1" if count < 1 else f"most {MOST_TRIALS:,}"
        raise UserError(f"--seeds must be at {bound}, not {shown(count)}.")
    seeds = suite.seeds[:count]
    after = max(seeds) + 1
    return *seeds, *range(after, after + count - len(seeds))


def inapplicable(suite: Suite, selection: Selection) -> list[tuple[str, str, str]]:
    """(label, pair, reason) of every row that cannot be trained on a pair: planned around, and said."""
    rows, _ = chosen_rows(suite, selection.methods)
    reasons = ((row, pair, _reason(suite, pair, row)) for pair in chosen_pairs(suite, selection.pairs) for row in rows)
    return [(row.label, pair.name, reason) for row, pair, reason in reasons if reason]


def _reason(suite: Suite, pair: Pair, row: Row) -> str:
    method = METHODS.get(row.method)
    teacher = suite.teacher_of(pair) if method.needs_teacher else None
    if teacher is not None and teacher.composition is not None:
        if features := sorted(method.needs - {"teacher"}):
            return f"it needs {', '.join(features)}, and a teacher of kind {teacher.kind} has logits alone"
        teacher = None
    supervision = row.supervision or suite.supervision
    if supervision.WEAK and not method.applies.weak_labels:
        return f"it reads one label of each image, and under {supervision.kind} some have none, or several"
    model = None if teacher is None else teacher.model
    build = AS_NAMED if teacher is None else teacher.build
    return not_applicable(method, pair.student, model, pair.dataset, row.protocol_for(pair), build)


def expand(
    suite: Suite,
    selection: Selection,
    data: str | Mapping[str, str],
    pins: Mapping[str, str] | None = None,
) -> list[Trial]:
    """Every trial asked for and possible, each once.

    A method that needs no teacher is one trial for all pairs with its student. ``data`` is the digest of the suite's
    data set, or of each that its pairs have, by name.

    ``pins`` maps a checkpoint teacher without a pinned digest to the one recorded at its first use.
    """
    digests = {suite.dataset: data} if isinstance(data, str) else data
    rows, _ = chosen_rows(suite, selection.methods)
    pairs = chosen_pairs(suite, selection.pairs)
    seeds = chosen_seeds(suite, selection.seeds)
    asked = len(pairs) * len(rows) * len(seeds)
    if asked > MOST_TRIALS:
        raise UserError(
            f"{suite.id}: the selection is of {asked:,} trials, a plan of at most {MOST_TRIALS:,}; "
            "ask for fewer seeds, rows or pairs."
        )
    trials: dict[str, Trial] = {}
    for pair in pairs:
        spec = DATASETS.get(pair.dataset)
        own = Normalisation(tuple(spec.mean), tuple(spec.std))
        teacher = suite.teacher_of(pair)
        teacher = trained_instead(teacher, suite, spec) if selection.train_teachers else pinned(teacher, pins or {})
        teacher = _with_code(teacher)
        check_seeds(teacher, pair.student, seeds, suite.id)
        student = pair.name.partition(":")[2]
        for row in rows:
            if _reason(suite, pair, row):
                continue
            method = METHODS.get(row.method)
            first = Trial(
                suite=suite.id,
                dataset=pair.dataset,
                data_digest=digests[pair.dataset],
                protocol=row.protocol_for(pair),
                student=pair.student,
                normalisation=own,
                pair=pair.name if method.needs_teacher else f"none:{student}",
                teacher=teacher if method.needs_teacher else None,
                method=method.name,
                method_version=method.version,
                config=method.config(pair.name, row.config, f"{suite.id} {row.label}"),
                seed=seeds[0],
                label=row.label,
                stream=row.stream,
                plugin_sha256=_method_source(method),
                student_code=_model_code(pair.student),
                supervision=(supervision := row.supervision or suite.supervision),
                supervision_sha256=_source(SUPERVISIONS, supervision.kind),
                diagnostics=suite.diagnostics,
                init=None if pair.init is None else _with_code(pinned(pair.init, pins or {})),
            )
            for seed in seeds:
                trial = replace(first, seed=seed)
                trials.setdefault(trial.key, trial)
    return list(trials.values())


def pinned(teacher: Teacher, pins: Mapping[str, str]) -> Teacher:
    """``teacher``, and each that it is made of or starts from, with the digest its suite pins.

    Or else the one recorded at its first use.
    """
    if teacher.parts:
        return replace(teacher, parts=tuple(pinned(part, pins) for part in teacher.parts))
    if teacher.parent is not None or teacher.init is not None:
        parent = None if teacher.parent is None else pinned(teacher.parent, pins)
        found = replace(teacher, parent=parent, init=None if teacher.init is None else pinned(teacher.init, pins))
        return teacher if found == teacher else found  # the one that knows its recipes
    if teacher.kind not in ("checkpoint", "init") or teacher.weights_sha256 or teacher.name not in pins:
        return teacher
    return replace(teacher, weights_sha256=pins[teacher.name])


def trained_instead(teacher: Teacher, suite: Suite, data: DatasetSpec) -> Teacher:
    """``teacher`` trained on ``data`` under the suite's own protocol where the suite would import it.

    Another teacher, by another name.
    """
    if teacher.parts:
        parts = tuple(trained_instead(part, suite, data) for part in teacher.parts)
        return teacher if parts == teacher.parts else replace(teacher, parts=parts)
    if teacher.kind != "checkpoint" and teacher.init is None:
        return teacher
    return Teacher(
        name=check_name("teacher", f"{teacher.name}-trained", "--train-teachers"),
        kind="trained",
        model=teacher.model,
        normalisation=Normalisation(tuple(data.mean), tuple(data.std)),
        protocol=suite.protocol,
    )


def _with_code(teacher: Teacher) -> Teacher:
    """``teacher`` with what tells the code of plugins that it and those before it are made of."""
    if teacher.composition is not None:
        parts = tuple(map(_with_code, teacher.parts))
        return replace(teacher, parts=parts, plugin_sha256=_source(COMPOSITIONS, teacher.composition.kind))
    found = replace(
        teacher,
        parent=None if teacher.parent is None else _with_code(teacher.parent),
        init=None if teacher.init is None else _with_code(teacher.init),
        plugin_sha256=_method_source(METHODS.get(teacher.method)),
        model_code=_model_code(teacher.model),
        supervision_sha256=_source(SUPERVISIONS, teacher.supervision.kind),
    )
    return teacher if found == teacher else found  # the one that knows its recipes


def _method_source(method: MethodSpec) -> str | None:
    """The digest of the plugin behind ``method``, or of those behind the parts of a composition; None of kdbench's."""
    if method.parts:
        found = [_method_source(part) for part in method.parts]
        return digest(found) if any(found) else None
    return _source(METHODS, method.name)


def _source(registry: Registry[Any], name: str) -> str | None:
    """The digest of the plugin that the item ``name`` of ``registry`` comes from; None of kdbench's own."""
    origin = registry.origin(name)
    return None if origin == OURS else source_of(origin).sha256 or None


def _model_code(name: str) -> dict[str, Any]:
    """What tells the code of a plugin's architecture: the digest of the plugin, and the options it is built with.

    Of kdbench's own, timm's and torchvision's there is none, as their options follow from their name.
    """
    if name not in MODELS or MODELS.origin(name) == OURS:
        return {}
    source = {"source": source_of(MODELS.origin(name)).sha256 or None}
    options = json.loads(canonical(dict(MODELS.get(name).options)))
    return {**source, "options": options} if options else source
