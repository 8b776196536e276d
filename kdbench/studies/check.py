"""Whether a study can be judged at all: its suites have the pairs and the rows that its claims name."""

from __future__ import annotations

from collections.abc import Mapping

from kdbench.errors import UserError, listed, shown
from kdbench.studies.judge import ON, TEACHER
from kdbench.studies.measures import MEASURES, of_teacher
from kdbench.studies.study import Study
from kdbench.suites import Suite, get_suite


def suites_of(study: Study) -> dict[str, Suite]:
    """The suites of ``study``, by the name that it calls them; UserError where a claim names what they do not have."""
    suites = {name: get_suite(name) for name in study.suites}
    _check(study, suites)
    return suites


def _check(study: Study, suites: Mapping[str, Suite]) -> None:
    first = suites[study.suites[0]]
    if study.plane and study.plane not in {row.label for row in first.rows}:
        raise UserError(f"Study {study.name}: plane must be a row of {first.id}, not {shown(study.plane)}.")
    named = [(f"claim {claim.name}", claim.suite, claim.pair, claim.named, claim.measure) for claim in study.claims]
    for plot in study.plots:
        named += [(f"plot {plot.title}", plot.suite, line.pair, line.rows, plot.measure) for line in plot.lines]
    for what, where, common, names, measure in named:
        suite = suites[where]
        pairs, labels = {pair.name for pair in suite.pairs}, set(suite.labels)
        for name in names:
            label, _, pair = name.partition(ON)
            if label == TEACHER and of_teacher(measure) not in MEASURES:
                raise UserError(
                    f"Study {study.name}, {what}: of a teacher the measure must be top1, not "
                    f"{shown(measure)}; name a row instead of {TEACHER!r} or change the measure."
                )
            if label not in labels | {TEACHER}:
                raise UserError(
                    f"Study {study.name}, {what}: the suite {suite.id} has no row {shown(label)}; its rows "
                    f"are {listed(sorted(labels))}."
                )
            if (wanted := pair or common) and wanted not in pairs:
                raise UserError(
                    f"Study {study.name}, {what}: the suite {suite.id} has no pair {shown(wanted)}; its "
                    f"pairs are {listed(sorted(pairs))}."
                )
