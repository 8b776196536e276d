"""A judged claim in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from kdbench.stats.claims import Bounds, Verdict
from kdbench.studies.judge import Judged, Missing
from kdbench.studies.measures import MEASURES
from kdbench.studies.study import Claim

#: What several claims of a verdict do.
_SEVERAL = {Verdict.AGREES: "agree", Verdict.CONTRADICTS: "are contradicted"}


def counted(found: Sequence[Judged]) -> Iterator[tuple[str, int]]:
    """Of each verdict that some claim has, what its claims do and how many they are."""
    for verdict in Verdict:
        if count := sum(each.verdict is verdict for each in found):
            yield verdict.value if count == 1 else _SEVERAL.get(verdict, verdict.value), count


def claimed(judged: Judged) -> str:
    """Where the value lies if the claim holds, and what the paper prints."""
    return criterion(judged.claim)


def criterion(claim: Claim) -> str:
    """Where the value of ``claim`` lies if it holds, and what the paper prints."""
    printed = f"; printed: {claim.printed}" if claim.printed else ""
    where = f" on {claim.pair}" if claim.pair else ""
    return f"{subject(claim)}{where} {_region(claim.bounds)}{printed}"


def subject(claim: Claim) -> str:
    """What is measured, in words."""
    title = MEASURES[claim.measure].title
    if claim.statistic == "mean":
        return f"{title} of {claim.of}"
    if claim.statistic == "difference":
        return f"{title} of {claim.of} less that of {claim.versus}"
    if claim.statistic == "share":
        return f"the part of the difference between {claim.top} and {claim.base} in {title} that {claim.of} has"
    if claim.statistic == "slope":
        return f"change of {title} with each unit of the setting over {', '.join(claim.rows)}"
    if claim.statistic == "between-seeds":
        return f"{title}, of {claim.of} with any two seeds"
    return f"rank correlation of {MEASURES[claim.other].title} and {title} over {_many(len(claim.rows), 'row')}"


def measured(judged: Judged) -> str:
    """The estimate with its interval, or that there is none."""
    finding = judged.finding
    if finding is None or math.isnan(finding.estimate):
        return "nothing, as no finished trial has it"
    unit = unit_of(judged)
    low, high = (_number(judged, value) for value in (finding.low, finding.high))
    around = f"{low} to {high}" if math.isfinite(finding.low) else "no interval, for want of seeds"
    of = f"one teacher, over {finding.images:,} images" if finding.images else _many(finding.n, "value")
    return f"{_number(judged, finding.estimate)}{unit} ({around}), from {of}"


def unit_of(judged: Judged) -> str:
    claim = judged.claim
    if claim.statistic in ("share", "rank-correlation"):
        return ""
    unit = MEASURES[claim.measure].unit
    return f" {unit}" if " to " not in unit else ""


def _number(judged: Judged, value: float) -> str:
    claim = judged.claim
    digits = 2 if claim.statistic in ("share", "rank-correlation") else MEASURES[claim.measure].digits
    sign = "+" if claim.statistic in ("difference", "slope") else ""
    return f"{value:{sign}.{digits}f}"


def _region(bounds: Bounds) -> str:
    if math.isinf(bounds.high):
        return f"above {bounds.low:g}"
    if math.isinf(bounds.low):
        return f"below {bounds.high:g}"
    return f"between {bounds.low:g} and {bounds.high:g}"


def missing_text(missing: Missing) -> str:
    seeds = ", ".join(map(str, missing.seeds))
    return f"{missing.label} on {missing.pair} in {missing.suite}, seed{'s' * (len(missing.seeds) > 1)} {seeds}"


def mixed_text(seeds: Sequence[int]) -> str:
    """That rows are compared whose teachers differ; empty where they do not."""
    if not seeds:
        return ""
    which = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    return f"at {which} its rows were taught by different trainings of their teacher, whose difference is in the value"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
