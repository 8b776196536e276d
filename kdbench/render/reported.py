"""The literature's rows as pages show them: one table a metric, its rows by context, each linked to its source."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from kdbench.records.literature import Reported, Source
from kdbench.records.reported import METRICS, Context, Number, contexts, folded


@dataclass(frozen=True)
class Table:
    """The numbers of one metric: those of each context, and those that are set ``apart``."""

    metric: str
    title: str
    larger_is_better: bool
    contexts: tuple[Context, ...]
    apart: tuple[Context, ...]

    @property
    def selections(self) -> list[str]:
        return sorted({context.selection for context in self.contexts})


def tables(rows: Iterable[Reported]) -> list[Table]:
    """The tables of ``rows``, which are of one pair, a metric each."""
    out = []
    for metric, numbers in by_metric(rows):
        title, larger = METRICS[metric]
        apart = tuple(contexts(number for number in numbers if number.row.apart))
        beside = tuple(contexts(number for number in numbers if not number.row.apart))
        out.append(Table(metric, title, larger, beside, apart))
    return out


def by_metric(rows: Iterable[Reported]) -> list[tuple[str, list[Number]]]:
    """The numbers of ``rows`` once each, by metric: two metrics never share a column."""
    found: dict[str, list[Number]] = defaultdict(list)
    for number in folded(rows):
        found[number.row.metric].append(number)
    return [(metric, found[metric]) for metric in METRICS if metric in found]


def printed_values(rows: Iterable[Reported], field: str) -> list[tuple[float, list[str]]]:
    """The different top-1 values of ``field`` (teacher_value or student_baseline) and the sources that print each."""
    found: dict[float, set[str]] = defaultdict(set)
    for row in rows:
        value = getattr(row, field)
        if row.metric == "top1" and value is not None:
            found[value].add(row.source)
    return [(value, sorted(sources)) for value, sources in sorted(found.items(), reverse=True)]


def by_source(rows: Iterable[Reported], fewest: int = 3) -> list[tuple[str, list[Reported]]]:
    """What each source prints of one pair, best first, of sources that found a number and print a few of them."""
    found: dict[str, list[Reported]] = defaultdict(list)
    for row in rows:
        if row.metric == "top1" and not row.apart:
            found[row.source].append(row)
    own = {name for name, several in found.items() if any(row.provenance != "quoted" for row in several)}
    return [
        (name, sorted(several, key=lambda row: (-row.value, row.method)))
        for name, several in sorted(found.items())
        if name in own and len(several) >= fewest
    ]


def links(source: Source) -> list[tuple[str, str]]:
    """(text, https address) for the parts of a source whose form says where they point; anything else stays text."""
    out = []
    paper = re.fullmatch(r"arXiv:([0-9]{4}\.[0-9]{4,5})", source.identifier)
    if paper:
        out.append((source.identifier, f"https://arxiv.org/abs/{paper[1]}"))
    if re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9_.-]+", source.repository):
        address = f"https://github.com/{source.repository}"
        issue = re.fullmatch(r"issue ([0-9]+)", source.identifier)
        if issue:
            out.append((f"{source.repository} {source.identifier}", f"{address}/issues/{issue[1]}"))
        elif re.fullmatch(r"[0-9a-f]{7,40}", source.commit):
            out.append((f"{source.repository} at {source.commit}", f"{address}/tree/{source.commit}"))
        else:
            out.append((source.repository, address))
    return out
