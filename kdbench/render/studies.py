"""The pages of studies: each claim, what was measured, and the verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from kdbench.errors import UserError
from kdbench.render.address import href, place_anchor, row_page, study_page
from kdbench.render.catalogue import Catalogue
from kdbench.render.clouds import cloud_of
from kdbench.render.lines import plot_of
from kdbench.render.plane import Plane, plane_of
from kdbench.render.plot import Figure, Tick
from kdbench.stats.claims import Verdict
from kdbench.studies import STUDIES, Judged, Study, get_study, judge, plotted, related
from kdbench.studies.check import suites_of
from kdbench.studies.judge import ON
from kdbench.studies.study import Claim
from kdbench.studies.words import claimed, counted, measured, missing_text, mixed_text
from kdbench.suites import Suite

#: Pixels of a claim's plot, and of its bar alone, under which the bounds are written.
WIDTH, HEIGHT, BAR, MARGIN = 240, 38, 24, 8
#: What stands before a negative number, and no hyphen of a name.
_MINUS = re.compile(r"(?<![\w-])-(?=\d)")
#: The same before what is rounded to zero, which has no sign.
_OF_ZERO = re.compile(r"(?<![\w-])-(?=0(?:\.0+)?(?!\.?\d))")


@dataclass(frozen=True)
class Plot:
    """A claim's interval beside where it should lie, in pixels; None for an end that lies outside the plot."""

    left: float
    right: float
    x: float
    region_left: float
    region_right: float
    bounds: tuple[Tick, ...]
    title: str


@dataclass(frozen=True)
class ClaimView:
    """A claim as its page shows it."""

    judged: Judged
    claimed: str
    measured: str
    missing: tuple[str, ...]
    #: That its rows had different teachers, or nothing.
    mixed: str
    plot: Plot | None
    #: The rows that it is judged by, with the page of each.
    rows: tuple[tuple[str, str], ...] = ()

    @property
    def badge(self) -> str:
        """The CSS class of its verdict."""
        kinds = {Verdict.AGREES: "good", Verdict.CONTRADICTS: "bad"}
        return kinds.get(self.judged.verdict, "warn")


@dataclass(frozen=True)
class StudyView:
    study: Study
    suites: tuple[Suite, ...]
    claims: tuple[ClaimView, ...]
    counts: tuple[tuple[str, int], ...]
    plane: Plane | None
    plots: tuple[Figure, ...]
    #: The rows that its plots show, with the page of each.
    drawn: tuple[tuple[str, str], ...] = ()
    #: From each row and pair, as its clouds of dots name them, to where it stands, seen from the study's page.
    links: Mapping[str, str] = field(default_factory=dict)
    #: What its records warn of, each once: other files than the official ones, say.
    warned: tuple[str, ...] = ()


def study_views(catalogue: Catalogue) -> Iterator[StudyView]:
    """Every study that can be read and of which there is a record, whether or not any claim can be judged yet."""
    for name in STUDIES:
        try:
            study = get_study(name)
            suites = suites_of(study)
        except UserError:  # its own command says what is wrong with it
            continue
        found = judge(study, suites, catalogue.records, catalogue.seen.right)
        if any(suite.id in catalogue.suites for suite in suites.values()):
            plots = (
                *map(plot_of, plotted(study, suites, catalogue.records)),
                *map(cloud_of, related(study, suites, catalogue.records)),
            )
            plane = plane_of(study, suites, catalogue.records)
            view = _view(study, suites, found, plane, plots, _shown(catalogue))
            yield replace(view, warned=tuple(_warned(catalogue, {suite.id for suite in suites.values()})))


def _warned(catalogue: Catalogue, suites: Collection[str]) -> dict[str, None]:
    """The warnings of the records that ``suites`` show, each once."""
    warnings = (record["warnings"] for record in catalogue.measured if record["suite"] in suites)
    return dict.fromkeys(chain.from_iterable(warnings))


def _shown(catalogue: Catalogue) -> frozenset[tuple[str, ...]]:
    """Each suite and label that has a page, and with data set and pair each that has a place on it."""
    lines = [(table, line.cell.label) for table in catalogue.tables.values() for line in table.lines]
    places = ((table.suite, label, table.dataset, table.pair) for table, label in lines)
    return frozenset((*places, *((table.suite, label) for table, label in lines)))


def _view(
    study: Study,
    suites: Mapping[str, Suite],
    found: list[Judged],
    plane: Plane | None,
    plots: tuple[Figure, ...],
    shown: frozenset[tuple[str, ...]],
) -> StudyView:
    claims = tuple(
        ClaimView(
            judged=each,
            claimed=_written(claimed(each)),
            measured=_written(measured(each)),
            missing=tuple(map(missing_text, each.missing)),
            mixed=mixed_text(each.mixed),
            plot=_plot(each),
            rows=tuple(_rows(suites[each.claim.suite], each.claim, shown)),
        )
        for each in found
    )
    rows = {
        (suites[plot.suite].id, name.partition(ON)[0]): None
        for plot in study.plots
        for line in plot.lines
        for name in line.rows
    }
    drawn = tuple((label, row_page(suite, label)) for suite, label in rows if (suite, label) in shown)
    page, own = study_page(study.name), {suite.id for suite in suites.values()}
    links = {
        f"{label}{ON}{pair}": f"{href(page, row_page(suite, label))}#{place_anchor(dataset, pair)}"
        for suite, label, dataset, pair in (place for place in shown if len(place) == 4)
        if suite in own
    }
    return StudyView(study, tuple(suites.values()), claims, tuple(counted(found)), plane, plots, drawn, links)


def _rows(suite: Suite, claim: Claim, shown: frozenset[tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """The rows that ``claim`` names with their pages, and on these the pair where it names one."""
    datasets = {pair.name: pair.dataset for pair in suite.pairs}
    for name in dict.fromkeys(claim.named):
        label, _, pair = name.partition(ON)
        pair = pair or claim.pair
        if (suite.id, label) in shown:
            page = row_page(suite.id, label)
            dataset = datasets.get(pair, "")
            there = (suite.id, label, dataset, pair) in shown
            yield name, f"{page}#{place_anchor(dataset, pair)}" if there else page


def _written(text: str) -> str:
    """``text`` with true minus signs, and none before a zero."""
    return _MINUS.sub("\u2212", _OF_ZERO.sub("", text))


def _plot(judged: Judged) -> Plot | None:
    """The interval and the claimed region on one axis, which shows both ends of the interval; None without one."""
    finding, bounds = judged.finding, judged.claim.bounds
    if finding is None or not (math.isfinite(finding.low) and math.isfinite(finding.high)):
        return None
    marks = [finding.low, finding.high, *filter(math.isfinite, (bounds.low, bounds.high))]
    low, high = min(marks), max(marks)
    room = (high - low) * 0.1 or 1.0
    low, high = low - room, high + room

    def place(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return round(MARGIN + share * (WIDTH - 2 * MARGIN), 1)

    return Plot(
        left=place(finding.low),
        right=place(finding.high),
        x=place(finding.estimate),
        region_left=place(bounds.low),
        region_right=place(bounds.high),
        bounds=tuple(Tick(place(at), _written(f"{at:g}")) for at in filter(math.isfinite, (bounds.low, bounds.high))),
        title=_written(f"{measured(judged)}; claimed: {claimed(judged)}"),
    )
