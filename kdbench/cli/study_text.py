"""A study's verdicts in words, and as data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from kdbench.cli.fields import field, section
from kdbench.cli.say import many
from kdbench.stats.claims import Finding, Verdict
from kdbench.studies import Claim, Judged, Study, get_study
from kdbench.studies.words import claimed, counted, criterion, measured, missing_text, mixed_text


def lines(study: Study, found: Sequence[Judged], form: str = "text", flags: str = "") -> Iterator[str]:
    """What came out of each claim, what it was judged by and what would decide it; ``flags``: of the command again."""
    mark = "**" if form == "markdown" else ""
    paper = study.paper
    yield f"{mark}{study.title}{mark}: {paper.authors}, {paper.title}, {paper.venue} {paper.year}."
    for judged in found:
        yield ""
        yield f"{mark}{judged.verdict.value}{mark}: {judged.claim.text}"
        for line in _details(judged):
            yield f"  {line}"
    yield ""
    said = ", ".join(f"{count} {words}" for words, count in counted(found))
    yield f"{many(len(found), 'claim')}: {said}. All intervals hold together in 95 of 100 studies."
    for text in study.differs:
        yield f"Not as in the paper: {text}"
    if any(each.verdict is Verdict.INCOMPLETE for each in found):
        yield f"What is missing is trained by: kdbench study {study.name}{flags}"


def _details(judged: Judged) -> Iterator[str]:
    claim = judged.claim
    yield f"claimed ({claim.source}): {claimed(judged)}"
    if judged.finding is not None:
        yield f"measured: {measured(judged)}"
    if judged.mixed:
        yield f"teachers: {mixed_text(judged.mixed)}"
    for missing in judged.missing:
        yield f"missing: {missing_text(missing)}"
    if judged.verdict is not Verdict.AGREES and claim.full:
        yield f"at full size: {claim.full}"


def card(name: str) -> Iterator[str]:
    """What the study ``name`` is of, and what it claims."""
    study = get_study(name)
    paper = study.paper
    yield f"study {study.name}: {study.title}"
    yield study.summary
    yield ""
    yield field("paper", f"{paper.title}. {paper.authors}. {paper.venue} {paper.year}. {paper.url}")
    yield field("suites", ", ".join(study.suites))
    yield from section("not as in the paper", study.differs)
    for claim in study.claims:
        yield from section(f"claim {claim.name}: {claim.text}", _criterion(claim))


def _criterion(claim: Claim) -> Iterator[str]:
    yield f"holds if: {criterion(claim)} [{claim.source}]"
    if claim.statistic == "rank-correlation":
        yield f"rows: {', '.join(claim.rows)}"
    if claim.full:
        yield f"at full size: {claim.full}"


def document(study: Study, found: Sequence[Judged]) -> dict[str, Any]:
    """The verdicts as plain data; what is not known is null."""
    return {
        "study": study.name,
        "suites": list(study.suites),
        "claims": [
            {
                "name": each.claim.name,
                "text": each.claim.text,
                "source": each.claim.source,
                "verdict": each.verdict.value,
                "statistic": each.claim.statistic,
                "measure": each.claim.measure,
                "above": _plain(each.claim.bounds.low),
                "below": _plain(each.claim.bounds.high),
                "level": each.level,
                **_estimate(each.finding),
                "mixed_teachers_at_seeds": list(each.mixed),
                "missing": [missing_text(missing) for missing in each.missing],
            }
            for each in found
        ],
    }


def _estimate(finding: Finding | None) -> dict[str, Any]:
    if finding is None:
        return {"estimate": None, "low": None, "high": None, "n": 0}
    values = {"estimate": finding.estimate, "low": finding.low, "high": finding.high}
    return {**{name: _plain(value) for name, value in values.items()}, "n": finding.n}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
