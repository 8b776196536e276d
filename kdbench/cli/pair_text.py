"""What ``show`` says of a pair: who trains it, what is printed for it."""

from __future__ import annotations

from collections.abc import Iterator

from kdbench.cli.fields import section, values
from kdbench.errors import UnknownName
from kdbench.methods import METHODS
from kdbench.records.literature import Reported, load
from kdbench.suites import parsed_suites


def names() -> set[str]:
    """Every pair that a suite has, that a card has values for, or that the literature prints numbers of."""
    suites = {pair.name for suite in parsed_suites() for pair in suite.pairs}
    specs = [METHODS.get(name) for name in METHODS]
    cards = {pair for spec in specs for pairs in (spec.pairs, *spec.compositions.values()) for pair in pairs}
    return suites | cards - {"*"} | {_name(row) for row in load().rows if row.teacher != "none"}


def lines(name: str) -> Iterator[str]:
    """What is known of the pair ``name``, teacher:student under the literature's names."""
    known = [
        *section("suites", _suites(name)),
        *section("values printed for it", _printed(name)),
        *section("numbers of the literature", _reported(name)),
    ]
    if not known:
        raise UnknownName("pair", name, names())
    yield f"pair {name}"
    yield from known


def _suites(name: str) -> Iterator[str]:
    for suite in parsed_suites():
        for pair in suite.pairs:
            if pair.name == name:
                teacher = suite.teacher_of(pair)
                yield f"{suite.id}: {pair.student} under {teacher.name}, a {teacher.model} ({teacher.kind})"


def _printed(name: str) -> Iterator[str]:
    for method in METHODS:
        spec = METHODS.get(method)
        if name in spec.pairs:
            yield f"{method}: {values(spec.pairs[name])} [{spec.pairs_source}]"
        for whole, pairs in spec.compositions.items():
            if name in pairs:
                yield f"{whole}: {values(pairs[name])} [{spec.pairs_source}]"


def _reported(name: str) -> Iterator[str]:
    rows = [row for row in load().rows if _name(row) == name]
    for dataset in sorted({row.dataset for row in rows}):
        here = [row for row in rows if row.dataset == dataset]
        methods, sources = {row.method for row in here}, sorted({row.source for row in here})
        yield f"{dataset}: {len(here)}, of {len(methods)} methods, in {', '.join(sources)}"


def _name(row: Reported) -> str:
    return f"{row.teacher}:{row.student}"
