"""What stands on a page thousands of times, as HTML: links, heads of columns, badges, small plots.

Functions and no macros, which a template takes ten times as long to call. Every text of others is escaped here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache

from markupsafe import Markup

from kdbench.render.address import (
    href,
    method_page,
    pair_page,
    place_anchor,
    quoted,
    root_of,
    row_page,
    study_page,
    suite_page,
)
from kdbench.render.catalogue import PairName, split
from kdbench.render.dots import HEIGHT, WIDTH, Dot
from kdbench.render.measured import Line, Table
from kdbench.render.suiteview import SuiteView
from kdbench.render.texts import bdi, escape, number, pair_names, signed, value
from kdbench.stats.aggregate import Spread
from kdbench.stats.evidence import Evidence


@lru_cache(maxsize=1024)
def th(text: str, kind: str = "", number: bool = True, sorted: str = "") -> Markup:
    """The head of a column that can be sorted: what it is called, and in small letters the unit or the ``kind``."""
    attributes = f' data-sort="{"number" if number else "text"}"' + (' class="num"' if number else "")
    attributes += f' aria-sort="{sorted}"' if sorted else ""
    small = f" <small>{escape(kind)}</small>" if kind else ""
    return Markup(f'<th scope="col"{attributes}>{escape(text)}{small}</th>')


def method_link(page: str, name: str, text: str | None = None) -> Markup:
    """A link from ``page`` to that of the method ``name``, shown as ``text``."""
    return _method_link(root_of(page), name, text or name)


def pair_link(page: str, dataset: str, teacher: str, student: str) -> Markup:
    return _pair_link(root_of(page), (dataset, teacher, student), (teacher, student), "")


def table_link(page: str, table: Table, before: str = "") -> Markup:
    """A link to the pair of ``table`` by the names that its suite has for it."""
    return _pair_link(root_of(page), table.names, split(table.pair), before)


def suite_link(page: str, name: str) -> Markup:
    return _suite_link(root_of(page), name)


# The same from all pages of a folder.


@lru_cache(maxsize=8192)
def _method_link(root: str, name: str, text: str) -> Markup:
    return Markup(f'<a href="{root}{escape(quoted(method_page(name)))}">{bdi(text)}</a>')


@lru_cache(maxsize=8192)
def _pair_link(root: str, names: PairName, shown: tuple[str, str], before: str) -> Markup:
    address = root + escape(quoted(pair_page(*names)))
    return Markup(f'<a href="{address}">{escape(before)}{pair_names(*shown)}</a>')


@lru_cache(maxsize=8192)
def _suite_link(root: str, name: str) -> Markup:
    return Markup(f'<a href="{root}{escape(quoted(suite_page(name)))}">{bdi(name)}</a>')


def top1_link(page: str, table: Table, line: Line) -> Markup:
    """The accuracy of ``line``, which leads to its place on the page of its row."""
    return Markup(f'<a class="value" href="{escape(line_address(page, table, line))}">{value(line.top1)}</a>')


def line_address(page: str, table: Table, line: Line) -> str:
    target = href(page, row_page(table.suite, line.cell.label, line.cell.evidence))
    return f"{target}#{place_anchor(table.dataset, table.pair)}"


def studies_linked(page: str, text: str, studies: Collection[str]) -> Markup:
    """``text`` in which each "study NAME" of ``studies`` leads to its page."""
    parts = re.split(r"(?<=\bstudy )([a-z0-9][a-z0-9-]*)", text)
    return Markup("<bdi>{}</bdi>").format(
        Markup("").join(
            Markup('<a href="{}">{}</a>').format(href(page, study_page(part)), part)
            if at % 2 and part in studies
            else part
            for at, part in enumerate(parts)
        )
    )


def gain_link(page: str, evidence: Evidence) -> Markup:
    """The gain that ``evidence`` is ordered by: a measured one leads to the row's page; of printed ones the range."""
    best = evidence.best
    if evidence.grade.startswith("measured") and best is not None:
        address = href(page, row_page(best.suite, best.standing.label))
        return Markup(f'<a class="value" href="{escape(address)}">{value(best.standing.gain, plus=True)}</a>')
    printed = evidence.reported
    if printed is None:
        return Markup("\u2013")
    reach = f' <span class="half">({signed(printed.low)} to {signed(printed.high)})</span>'
    middle = f'<span class="mean">{signed(printed.middle)}</span>'
    return Markup(middle + (reach if printed.high > printed.low else ""))


def badges(flags: Iterable[tuple[str, str]]) -> Markup:
    """(CSS class, text) of each; the class is ours."""
    return Markup("".join([f' <span class="badge {kind}">{bdi(text)}</span>' for kind, text in flags]))


def superseded(view: SuiteView) -> Markup:
    return Markup(f' <span class="badge warn">superseded by {bdi(view.newer.id)}</span>' if view.newer else "")


def cost(spread: Spread | None) -> Markup:
    """The middle of what was measured, and from where to where it goes if that is worth saying."""
    if spread is None:
        return Markup("\u2013")
    reach = f' <span class="half">{number(spread.low)}\u2013{number(spread.high)}</span>'
    return Markup(number(spread.middle) + (reach if spread.high - spread.low >= 0.005 else ""))


def dot(shown: Dot | None) -> Markup:
    """The small plot of a line of a table; hidden from screen readers, as its numbers stand beside it."""
    if shown is None:
        return Markup("")
    middle = HEIGHT / 2
    parts = [
        f'<svg class="plot {shown.kind}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' aria-hidden="true" focusable="false">\n'
    ]
    if shown.reference is not None:
        parts.append(f'<line class="reference" x1="{shown.reference}" x2="{shown.reference}" y1="0" y2="{HEIGHT}"/>')
    if shown.left is not None:
        parts.append(f'<line class="reach" x1="{shown.left}" x2="{shown.right}" y1="{middle}" y2="{middle}"/>')
    if shown.beyond:
        parts.append(f'<path d="M{shown.x - 4 * shown.beyond} 3l{8 * shown.beyond} 5l{-8 * shown.beyond} 5z"/>')
    else:
        parts.append(f'<circle cx="{shown.x}" cy="{middle}" r="4"/>')
    return Markup("".join([*parts, "</svg>\n"]))
