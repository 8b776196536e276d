"""A plot as HTML: its SVG, its legend and the table of its numbers.

Python and no template, which would look up and escape each of a plot's hundreds of coordinates: a large site has many
thousands of plots. Every text of a ``Figure`` is escaped here; its numbers are not, being ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from markupsafe import Markup

from kdbench.render.plot import LETTERS, Axis, Bar, Dot, Figure, Rule, Series, Table
from kdbench.render.texts import bdi, escape

#: What needs no escaping, has one direction and breaks no box.
_PLAIN = re.compile(r"[\w .,:%/()+\u2212\u00b1\u2013-]{0,24}", re.ASCII)

#: Pixels that the radius of a dot has.
SMALL, USUAL = 2.5, 4


def figure(plot: Figure, id: str, open: bool = False, links: Mapping[str, str] | None = None) -> Markup:
    """``plot`` under the ``id``, which must be ours and unique on the page; its numbers are folded unless ``open``.

    ``links``: where what lines of its table begin with leads to.
    """
    description, numbers = bdi(plot.described), _numbers(plot.table, id, links or {})
    if not open:
        numbers = (
            f'<p class="quiet">{description}</p>\n<details><summary>Numbers of this plot</summary>\n{numbers}</details>'
        )
    return Markup(
        f'<figure class="lines">\n<figcaption><h3 id="{id}">{bdi(plot.title)}</h3>'
        f'<span class="quiet">{escape(plot.up.title)}</span></figcaption>\n'
        f"{_svg(plot, id)}\n{_legend(plot)}{numbers}\n</figure>\n"
    )


def _svg(plot: Figure, id: str) -> str:
    across, up = plot.across.scale, plot.up.scale
    middle = (across.start + across.end) / 2
    parts = [
        f'<svg role="img" aria-labelledby="{id}-title {id}-desc" viewBox="0 0 {plot.width} {plot.height}">'
        f'<title id="{id}-title">{escape(plot.title)}</title><desc id="{id}-desc">{escape(plot.described)}</desc>',
        "".join(map(_bar, plot.bars)),
        _up(plot.up, across.start, across.end),
        _across(plot.across, up.start),
        f'<text class="across" x="{middle}" y="{plot.height - 8}">{escape(plot.across.title)}</text>',
        "".join(map(_rule, plot.rules)),
        *map(_series, plot.series),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


def _bar(bar: Bar) -> str:
    return f'<rect class="bar" x="{bar.x}" y="{bar.y}" width="{bar.width}" height="{bar.height}"/>'


def _rule(rule: Rule) -> str:
    (x, y), (end_x, end_y) = rule.begin, rule.end
    return f'<line class="{rule.kind}" x1="{x}" x2="{end_x}" y1="{y}" y2="{end_y}"/>'


@lru_cache(maxsize=256)
def _up(axis: Axis, start: float, end: float) -> str:
    """Many plots have the same axes: those of calibration all do."""
    parts = []
    for tick in axis.ticks:
        parts.append(f'<line class="grid" x1="{start}" x2="{end}" y1="{tick.place}" y2="{tick.place}"/>')
        if tick.label:
            parts.append(f'<text class="up" x="{start - 10}" y="{tick.place + 4}">{escape(tick.label)}</text>')
    return "".join(parts)


@lru_cache(maxsize=256)
def _across(axis: Axis, bottom: float) -> str:
    parts = []
    for tick in axis.ticks:
        parts.append(f'<line class="tick" x1="{tick.place}" x2="{tick.place}" y1="{bottom}" y2="{bottom + 4}"/>')
        if tick.label:
            parts.append(f'<text class="across" x="{tick.place}" y="{bottom + 18}">{escape(tick.label)}</text>')
    return "".join(parts)


def _series(series: Series) -> str:
    line = f'<polyline points="{series.path}"/>' if series.path else ""
    return f'<g class="{series.kind}">{line}{"".join(map(_dot, series.dots))}</g>'


def _dot(dot: Dot) -> str:
    reach = label = ""
    if dot.across:
        reach += f'<line class="reach" x1="{dot.across[0]}" x2="{dot.across[1]}" y1="{dot.y}" y2="{dot.y}"/>'
    if dot.up:
        reach += f'<line class="reach" x1="{dot.x}" x2="{dot.x}" y1="{dot.up[0]}" y2="{dot.up[1]}"/>'
    if dot.label:
        side, across, down = dot.spot
        shown = dot.label if len(dot.label) <= LETTERS else f"{dot.label[: LETTERS - 1]}…"
        label = f'<text class="{side}" x="{dot.x + across}" y="{dot.y + down}">{escape(shown)}</text>'
    radius = SMALL if dot.kind == "seed" else USUAL
    drawn = f'{reach}<circle class="{dot.kind}" cx="{dot.x}" cy="{dot.y}" r="{radius}"/>{label}'
    return f"<g><title>{escape(dot.said)}</title>{drawn}</g>" if dot.said else drawn


def _legend(plot: Figure) -> str:
    if not plot.legend:
        return ""
    return '<ul class="legend">\n' + "".join(map(_key, plot.legend)) + "</ul>\n"


def _key(series: Series) -> str:
    line = '<polyline points="0,5 28,5"/>' if series.path else ""
    dot = f'<circle class="mean" cx="14" cy="5" r="{USUAL}"/>' if series.dots else ""
    picture = (
        f'<svg class="{series.kind}" width="28" height="10" viewBox="0 0 28 10" aria-hidden="true" focusable="false">'
        f"{line}{dot}</svg>"
    )
    return f"<li>{picture} {bdi(series.title)}</li>\n"


def _numbers(table: Table, id: str, links: Mapping[str, str]) -> str:
    first, *others = table.head
    head = f'<th scope="col">{bdi(first)}</th>' + "".join(
        f'<th scope="col" class="num">{bdi(name)}</th>' for name in others
    )
    rows = "".join([_row(row, links.get(row[0])) for row in table.rows])
    return (
        f'<div class="scroll across" role="region" tabindex="0" aria-labelledby="{id}"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )


def _row(row: tuple[str, ...], link: str | None) -> str:
    cells = "".join([f'<td class="num">{_cell(text)}</td>' for text in row[1:]])
    first = f'<a href="{escape(link)}">{_cell(row[0])}</a>' if link else _cell(row[0])
    return f'<tr><th scope="row">{first}</th>{cells}</tr>\n'


@lru_cache(maxsize=8192)
def _cell(text: str) -> str:
    """``text`` as it is where it is a number or another short plain one: large tables have many thousands of them."""
    return text if _PLAIN.fullmatch(text) else bdi(text)
