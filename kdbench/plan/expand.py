"""From a suite and the user's filters to the trials it asks for."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kdbench.canonical import digest
from kdbench.data import DATASETS
from kdbench.errors import UnknownName, UserError, shown
from kdbench.methods import METHODS, MethodSpec
from kdbench.methods.applicability import not_applicable
from kdbench.methods.expression import is_expression
from kdbench.names import check_name
from kdbench.suites import Pair, Row, Suite, check_seeds
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


def chosen_pairs(suite: Suite, globs: Sequence[str]) -> list[Pair]:
    """The pairs that match any of ``globs``; UnknownName where a glob matches none."""
    if not globs:
        return list(suite.pairs)
    names = [pair.name for pair in suite.pairs]
    matched = _matches(names, globs)
    for glob, found in matched.items():
        if not found:
            raise UnknownName(f"pair in suite {suite.id}", glob, names)
    wanted = set().union(*matched.values())
    return [pair for pair in suite.pairs if pair.name in wanted]


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


def _matches(names: Sequence[str], globs: Sequence[str]) -> dict[str, set[str]]:
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
    teacher = suite.teachers[pair.teacher].model if method.needs_teacher else None
    return not_applicable(method, pair.student, teacher, suite.dataset, row.protocol_for(pair))


def expand(
    suite: Suite,
    selection: Selection,
    data_digest: str,
    pins: Mapping[str, str] | None = None,
    plugin_sources: Mapping[str, str] | None = None,
) -> list[Trial]:
    """Every trial asked for and possible, each once.

    A method that needs no teacher is one trial for all pairs with its student.

    ``pins`` maps a checkpoint teacher without a pinned digest to the one recorded at its first use; ``plugin_sources``
    maps a method that is not a released package's to the sha256 of its source.
    """
    spec = DATASETS.get(suite.dataset)
    own = Normalisation(tuple(spec.mean), tuple(spec.std))
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
        teacher = suite.teachers[pair.teacher]
        teacher = trained_instead(teacher, suite) if selection.train_teachers else pinned(teacher, pins or {})
        teacher = _with_sources(teacher, plugin_sources or {})
        check_seeds(teacher, seeds, suite.id)
        student = pair.name.partition(":")[2]
        for row in rows:
            if _reason(suite, pair, row):
                continue
            method = METHODS.get(row.method)
            first = Trial(
                suite=suite.id,
                dataset=suite.dataset,
                data_digest=data_digest,
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
                plugin_sha256=_source(method, plugin_sources or {}),
            )
            for seed in seeds:
                trial = replace(first, seed=seed)
                trials.setdefault(trial.key, trial)
    return list(trials.values())


def pinned(teacher: Teacher, pins: Mapping[str, str]) -> Teacher:
    """``teacher`` with the digest its suite pins or, failing that, the one recorded at its first use."""
    if teacher.kind != "checkpoint" or teacher.weights_sha256 or teacher.name not in pins:
        return teacher
    return replace(teacher, weights_sha256=pins[teacher.name])


def trained_instead(teacher: Teacher, suite: Suite) -> Teacher:
    """``teacher`` trained under the suite's own protocol where the suite would import it.

    Another teacher, by another name.
    """
    if teacher.kind != "checkpoint":
        return teacher
    own = DATASETS.get(suite.dataset)
    return Teacher(
        name=check_name("teacher", f"{teacher.name}-trained", "--train-teachers"),
        kind="trained",
        model=teacher.model,
        normalisation=Normalisation(tuple(own.mean), tuple(own.std)),
        protocol=suite.protocol,
    )


def _with_sources(teacher: Teacher, sources: Mapping[str, str]) -> Teacher:
    """``teacher`` with the digests of the plugin files that its generations' methods come from."""
    if teacher.parent is None:
        return teacher
    source = _source(METHODS.get(teacher.method), sources)
    return replace(teacher, parent=_with_sources(teacher.parent, sources), plugin_sha256=source)


def _source(method: MethodSpec, sources: Mapping[str, str]) -> str | None:
    """The digest of the plugin file behind ``method``, or of those behind the parts of a composition."""
    if not method.parts:
        return sources.get(method.name)
    found = [_source(part, sources) for part in method.parts]
    return digest(found) if any(found) else None
