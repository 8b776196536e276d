"""The page of the literature: every printed number, and what the numbers say of how numbers are printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from kdbench.records import reported
from kdbench.records.literature import Literature, Source
from kdbench.records.reported import METRICS, Contradiction, Difference, Number, Spread, Tier, Year
from kdbench.render.reported import by_metric, links

Record = Mapping[str, Any]

#: Where the page lies.
PAGE = "literature.html"


@dataclass(frozen=True)
class Claim:
    """What a teacher's source says of it, and what was measured of its weights."""

    name: str
    claimed: float
    measured: float
    weights: str


@dataclass(frozen=True)
class LiteratureView:
    """All that the page shows. ``numbers`` are by metric, a quote folded into what it quotes."""

    numbers: tuple[tuple[str, str, tuple[Number, ...]], ...]
    contradictions: tuple[Contradiction, ...]
    tiers: tuple[tuple[Tier, int], ...]
    best: tuple[Difference, ...]
    logged: tuple[Difference, ...]
    spreads: tuple[Spread, ...]
    years: tuple[Year, ...]
    claims: tuple[Claim, ...]
    recipes: tuple[tuple[str, str], ...]
    sources: tuple[tuple[Source, list[tuple[str, str]]], ...]

    @property
    def count(self) -> int:
        return sum(len(numbers) for _, _, numbers in self.numbers)


def literature_view(literature: Literature, records: Iterable[Record]) -> LiteratureView:
    rows = literature.rows
    contradictions = reported.contradictions(rows)
    used = {row.recipe for row in rows}
    return LiteratureView(
        numbers=tuple((metric, METRICS[metric][0], tuple(numbers)) for metric, numbers in by_metric(rows)),
        contradictions=tuple(c for c in contradictions if c.tier is Tier.UNEXPLAINED),
        tiers=tuple((tier, sum(c.tier is tier for c in contradictions)) for tier in Tier),
        best=tuple(reported.best_against_last(rows)),
        logged=tuple(reported.claimed_against_logged(rows, literature.sources)),
        spreads=tuple(reported.many_values(rows)),
        years=tuple(reported.gain_by_year(rows, literature.sources)),
        claims=tuple(_claims(records)),
        recipes=tuple((name, text) for name, text in reported.RECIPES.items() if name in used),
        sources=tuple(
            (literature.sources[name], links(literature.sources[name])) for name in sorted(literature.sources)
        ),
    )


def _claims(records: Iterable[Record]) -> list[Claim]:
    """Each teacher once whose source claims an accuracy, the largest difference first."""
    found: dict[str, Claim] = {}
    for record in records:
        facts = record["teacher"]
        if facts is not None and facts["claimed_top1"] is not None:
            weights = facts["weights_sha256"]
            found[weights] = Claim(facts["name"], facts["claimed_top1"], facts["top1"], weights)
    return sorted(found.values(), key=lambda c: (c.measured - c.claimed, c.name, c.weights))


def summary(differences: Sequence[Difference]) -> tuple[float, float, float, float]:
    """Mean, median, smallest and largest of ``differences``, of which there must be some."""
    values = [difference.better for difference in differences]
    return mean(values), median(values), min(values), max(values)
