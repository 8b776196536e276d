"""Which pages a site has, and what each template is given."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Any

from kdbench.methods import METHODS, leaves
from kdbench.records.gains import ALONE, histories
from kdbench.records.implementations import implementation, one_name
from kdbench.records.reported import METRICS, contradictions
from kdbench.render import (
    attempts,
    changes,
    charts,
    downloads,
    finding,
    literature,
    parts,
    places,
    reported,
    svg,
    texts,
)
from kdbench.render import studies as studyview
from kdbench.render.address import href, method_page, pair_page, row_page, study_page, suite_page, versus_page
from kdbench.render.against import Met, against, met
from kdbench.render.answers import GRADE_NAMES, NEEDS, Answer, answers
from kdbench.render.bibtex import citable
from kdbench.render.catalogue import Catalogue, PairName, split
from kdbench.render.content import Content
from kdbench.render.downloads import File
from kdbench.render.grid import dataset_grid
from kdbench.render.plot import Figure
from kdbench.render.rows import as_json, row_pages
from kdbench.render.studies import StudyView, study_views
from kdbench.render.suiteview import SuiteView, suite_view
from kdbench.render.teachers import Teachers, teachers
from kdbench.render.versus import MOST, Versus, all_versus, matrix
from kdbench.render.years import by_year
from kdbench.stats.aggregate import NO_TEACHER
from kdbench.stats.evidence import EPOCH, Evidence

#: Rows that the matrix of a suite's page has at most, the best first, and its table over pairs.
LARGEST_MATRIX = 60
MOST_OVER_PAIRS = 100
#: New rows of a day that are named at once; more are folded.
MOST_NEW = 24
#: Rows times pairs of a table, which a browser lays out in a second or two.
MOST_CELLS = 30_000


@dataclass(frozen=True)
class Page:
    path: str
    template: str
    title: str
    context: dict[str, Any] = field(default_factory=dict)


def all_pages(catalogue: Catalogue, content: Content) -> Iterator[Page | File]:
    views = {name: suite_view(catalogue, name) for name in catalogue.suites}
    studies = list(study_views(catalogue))
    answered = answers(catalogue, views)
    found = list(met(answered.values()))
    taught = teachers(catalogue)
    studied = {suite.id for study in studies for suite in study.suites}
    compared = all_versus(catalogue)
    entries = finding.found(catalogue, views.values(), studies)
    changed = changes.changes(catalogue, views.values())
    yield _index(catalogue, content, views, studies, changed)
    yield from _methods(catalogue, [view for view in views.values() if view.judged and view.name not in studied])
    yield from _pairs(catalogue)
    yield Page(changes.PAGE, "changes.html", "What changed", {"changed": changed, "views": views, "most": MOST_NEW})
    yield _choose(answered)
    yield _compare(compared, {name for name, view in views.items() if view.short or view.known is None})
    yield Page("find.html", "find.html", "Find", {"kinds": _by_kind(entries)})
    yield File(finding.FILE, finding.script(entries, compared))
    yield from downloads.files(catalogue)
    yield from downloads.taught(taught)
    yield from downloads.answered(answered.values())
    yield from downloads.compared(compared.values())
    for page in content.pages:
        if page.name != "index":
            yield Page(f"{page.name}.html", "page.html", page.title, {"html": page.html})
    for view in views.values():
        yield _suite(catalogue, view, compared, taught)
        yield from _rows(catalogue, view, taught, view.name in studied)
    yield Page("teachers.html", "teachers.html", "Teachers", {"teachers": taught.every})
    for teacher in taught.every:
        title = f"Teacher {teacher.facts['name']} on {teacher.dataset}"
        yield Page(teacher.page, "teacher.html", title, {"teacher": teacher, "views": views})
    for versus in compared.values():
        yield from _versus(catalogue, versus, views)
    for study in studies:
        yield from downloads.judged(study)
        yield Page(
            study_page(study.study.name),
            "study.html",
            f"Study: {study.study.title}",
            {
                "view": study,
                "studies": {view.study.name for view in studies},
                "width": studyview.WIDTH,
                "height": studyview.HEIGHT,
                "bar": studyview.BAR,
            },
        )
    if catalogue.literature.rows:
        printed = literature.literature_view(catalogue.literature, catalogue.measured)
        context = {
            "view": printed,
            "against": against(found),
            "histories": _histories(catalogue),
            "met": found,
            "teacher_pages": {
                t.facts["weights_sha256"]: t.page for t in taught.every if t.facts["kind"] == "checkpoint"
            },
        }
        yield Page(literature.PAGE, "literature.html", "Literature", context)
    for pair in catalogue.pairs:
        yield _pair(catalogue, pair, views, answered.get(pair), taught)
    for name in catalogue.methods:
        yield _method(catalogue, name, views, found)


def _index(
    catalogue: Catalogue,
    content: Content,
    views: dict[str, SuiteView],
    studies: list[StudyView],
    changed: changes.Changes,
) -> Page:
    taught = [pair for pair in catalogue.pairs if pair[1] != NO_TEACHER]
    return Page(
        "index.html",
        "index.html",
        content.title,
        {
            "suites": list(views.values()),
            "measured_trials": len({r["key"] for r in catalogue.measured if r["status"] == "finished"}),
            "single": _known(catalogue),
            "implemented": sum(name in METHODS for name in _known(catalogue)),
            "taught": taught,
            "measured_pairs": sum(
                any(table.lines for table in catalogue.measured_by_pair.get(pair, ())) for pair in taught
            ),
            "studies": studies,
            "changed": changed,
        },
    )


def _known(catalogue: Catalogue) -> list[str]:
    """The methods, without the student alone and without combinations and settings of others."""
    return [name for name in catalogue.single_methods if name not in ALONE]


def _methods(catalogue: Catalogue, views: Sequence[SuiteView]) -> Iterator[Page | File]:
    """All methods, and the gains of those as they come in the newest of ``views``, which are no study's."""
    rows = Counter(line.cell.method for table in catalogue.tables.values() for line in table.lines)
    methods = [
        (n, catalogue.cards.get(n), rows[n], len(catalogue.reported_by_method.get(n, ()))) for n in catalogue.methods
    ]
    methods.sort(key=lambda m: (-m[2], -m[3], m[0]))
    known = _known(catalogue)
    grid = dataset_grid(catalogue, [view.name for view in views if view.newer is None])
    context = {"methods": methods, "single": len(known), "implemented": sum(name in METHODS for name in known)}
    context |= {"grid": grid, "short": {view.name for view in views if view.short}, "gains_file": downloads.GAINS}
    if grid.rows:
        yield downloads.gains(grid)
    yield Page("methods.html", "methods.html", "Methods", context)
    columns = ("method", "title", "family", "measured_rows", "printed_numbers")
    named = ((name, c.title if c else "", c.family if c else "", *counts) for name, c, *counts in methods)
    yield from downloads.listed("methods.html", columns, (dict(zip(columns, row, strict=True)) for row in named))


def _pairs(catalogue: Catalogue) -> Iterator[Page | File]:
    pairs = []
    for pair in catalogue.pairs:
        printed = catalogue.reported_by_pair.get(pair, [])
        lines = sum(len(table.lines) for table in catalogue.measured_by_pair.get(pair, []))
        pairs.append((pair, lines, len(printed), len(contradictions(printed))))
    pairs.sort(key=lambda p: (-p[1], -p[2], p[0]))
    words = {pair: " ".join(chain.from_iterable(map(finding.aliases, pair[1:]))) for pair in catalogue.pairs}
    yield Page("pairs.html", "pairs.html", "Pairs", {"pairs": pairs, "words": words})
    columns = ("dataset", "teacher", "student", "measured_rows", "printed_numbers", "contradictions")
    rows = (dict(zip(columns, (*pair, *counts), strict=True)) for pair, *counts in pairs)
    yield from downloads.listed("pairs.html", columns, rows)


def _choose(answered: Mapping[PairName, Answer]) -> Page:
    """Pairs with enough evidence first, then by how much there is."""
    found = sorted(answered.values(), key=lambda a: (not a.enough, -len(a.sources), -len(a.options), a.pair))
    parts = zip(*answered, strict=True) if answered else [()] * 3
    choices = [
        (name, sorted(set(values))) for name, values in zip(("dataset", "teacher", "student"), parts, strict=True)
    ]
    options = {answer.pair: _options(answer) for answer in found}
    context = {"answers": found, "choices": choices, "grades": GRADE_NAMES, "options": options}
    return Page("choose.html", "choose.html", "Choose a method", context)


def _gain_text(evidence: Evidence) -> str:
    printed = evidence.reported
    middle = texts.signed(evidence.middle)
    measured = None if evidence.best is None else evidence.best.standing.gain
    if evidence.grade.startswith("measured") and measured is not None and measured.half is not None:
        return f"{middle} \u00b1 {texts.number(measured.half)}"
    if evidence.grade.startswith("measured") or printed is None or printed.high <= printed.low:
        return middle
    return f"{middle} ({texts.signed(printed.low)} to {texts.signed(printed.high)})"


def _options(answer: Answer) -> str:
    """What may be chosen on a pair, best first, for the page's script.

    Of each its name, page, gain, grade, least cost, needs (null where nobody knows), how it stands to the others, and
    whether it helps.
    """
    return _packed(
        [
            (
                option.evidence.label,
                method_page(option.evidence.method),
                _gain_text(option.evidence),
                option.evidence.grade,
                option.least,
                option.needs if option.implemented else None,
                told,
                option.evidence.helps,
            )
            for option, told in zip(answer.options, _told(answer), strict=True)
        ]
    )


def _told(answer: Answer) -> list[tuple[int, tuple[str, ...], tuple[int, ...], tuple[int, ...]]]:
    """Of each option its place, the suites it may be best in, and those it is level with and beaten by."""
    return [(place, told.suites, told.level, told.beaten) for place, told in enumerate(answer.ties)]


def _packed(found: object) -> str:
    return json.dumps(found, separators=(",", ":"))


def _compare(compared: Mapping[tuple[str, str], Versus], short: Collection[str]) -> Page:
    order = sorted(compared.values(), key=lambda two: (-len(two.counted), -len(two.ran), two.one, two.other))
    little = {two for two, v in compared.items() if v.places and all(place.table.suite in short for place in v.places)}
    context = {"versus": order, "most": len(compared) >= MOST, "short": little}
    return Page("compare.html", "compare.html", "Compare two methods", context)


def _versus(catalogue: Catalogue, versus: Versus, views: Mapping[str, SuiteView]) -> Iterator[Page | File]:
    printed = [row for together in versus.printed for row in (together.one, together.other)]
    short = all(views[place.table.suite].short for place in versus.places)
    page = versus_page(versus.one, versus.other)
    cited = {method for method in (versus.one, versus.other) if citable(catalogue, method)}
    context = {"versus": versus, "views": views, "short": short, "cited": cited}
    context["sources"] = _sources(catalogue, printed)
    yield Page(page, "versus.html", f"{versus.one} against {versus.other}", context)
    if cited:
        yield downloads.cited(catalogue, page, cited)


def _by_kind(entries: Iterable[finding.Found]) -> list[tuple[str, list[finding.Found]]]:
    return [(kind, list(group)) for kind, group in groupby(entries, key=lambda entry: entry.kind)]


def _suite(catalogue: Catalogue, view: SuiteView, compared: Mapping[tuple[str, str], Versus], taught: Teachers) -> Page:
    page, labels = suite_page(view.name), [row.label for row in view.standings.rows][:LARGEST_MATRIX]
    context = {
        "suite": view,
        "matrix": matrix(catalogue, view.tables, compared, labels) if view.judged and len(labels) > 1 else [],
        "most": MOST_OVER_PAIRS,
        "most_cells": MOST_CELLS,
        "beyond": len(view.standings.rows) - len(labels),
        "forest": charts.forest(view),
        "costs": charts.costs(view),
        "placing": places.both(view) if view.judged else (),
        "teachers": taught.by_suite.get(view.name, ()),
        "links": {label: href(page, row_page(view.name, label)) for label in (row.label for row in view.rows)},
    }
    return Page(page, "suite.html", f"Suite {view.name}", context)


def _rows(catalogue: Catalogue, view: SuiteView, taught: Teachers, studied: bool) -> Iterator[Page | File]:
    for row in row_pages(catalogue, view.name, view.tables, view.others, studied):
        path = row_page(row.suite, row.label, row.evidence)
        document = path.removesuffix("html") + "json"
        context = {"row": row, "view": view, "document": document.rpartition("/")[2], "teachers": taught}
        yield Page(path, "row.html", f"{row.label} in {row.suite}", context)
        yield File(document, as_json(row.document()))


def _pair(
    catalogue: Catalogue, pair: PairName, views: dict[str, SuiteView], answer: Answer | None, taught: Teachers
) -> Page:
    rows = catalogue.reported_by_pair.get(pair, [])
    tables = catalogue.measured_by_pair.get(pair, [])
    return Page(
        pair_page(*pair),
        "pair.html",
        f"{texts.pair_title(*pair[1:])} on {pair[0]}",
        {
            "pair": pair,
            "answer": answer,
            "told": [] if answer is None else [_packed(each) for each in _told(answer)],
            "grades": GRADE_NAMES,
            "tables": [(table, views[table.suite]) for table in tables],
            "teachers": taught.by_pair.get(pair, ()),
            "reported": reported.tables(rows),
            "contradictions": contradictions(rows),
            "by_source": reported.by_source(rows),
            "teacher_values": reported.printed_values(rows, "teacher_value"),
            "student_values": reported.printed_values(rows, "student_baseline"),
            "sources": _sources(catalogue, rows),
        },
    )


def _method(catalogue: Catalogue, name: str, views: dict[str, SuiteView], found: list[Met]) -> Page:
    lines = [(table, line, views[table.suite]) for table, line in catalogue.lines_by_method.get(name, ())]
    rows = catalogue.reported_by_method.get(name, [])
    trained = implementation(name)
    measured = [line.cell for _, line, _ in lines if line.cell.measured]
    versions = sorted({str(record["method_card"].get("version")) for cell in measured for record in cell.records})
    return Page(
        method_page(name),
        "method.html",
        name,
        {
            "name": name,
            "card": catalogue.card_of(name),
            "has_bib": citable(catalogue, name),
            "lines": [found for found in lines if found[1].cell.measured and found[2].judged],
            "tried": Counter(t.suite for t, line, view in lines if line.cell.measured and not view.judged),
            "contributed": [found for found in lines if not found[1].cell.measured],
            "versions": versions,
            "reported": reported.by_metric(
                sorted(rows, key=lambda r: (r.dataset, r.teacher, r.student, r.source, r.locator))
            ),
            "against": against([each for each in found if each.method == name]),
            "implementation": trained,
            "parts": [spec.name for spec in leaves(METHODS.get(trained))] if trained else [],
            "combinations": catalogue.combinations(name),
            "sources": _sources(catalogue, rows),
        },
    )


def _histories(catalogue: Catalogue) -> list[Figure]:
    return [by_year(history) for history in histories(catalogue.literature.rows, catalogue.literature.sources)]


def _sources(catalogue: Catalogue, rows: list[Any]) -> list[tuple[Any, list[tuple[str, str]]]]:
    used = sorted({row.source for row in rows})
    return [(catalogue.literature.sources[name], reported.links(catalogue.literature.sources[name])) for name in used]


GLOBALS = {
    "beside": downloads.beside,
    "licence": downloads.LICENCE,
    "reported_file": downloads.REPORTED,
    "recorded_file": downloads.RECORDED,
    "records_file": downloads.RECORDS,
    "href": href,
    "method_page": method_page,
    "pair_page": pair_page,
    "suite_page": suite_page,
    "study_page": study_page,
    "row_page": row_page,
    "versus_page": versus_page,
    "method_link": parts.method_link,
    "pair_link": parts.pair_link,
    "table_link": parts.table_link,
    "gain_link": parts.gain_link,
    "needs": NEEDS,
    "epoch": EPOCH,
    "suite_link": parts.suite_link,
    "top1_link": parts.top1_link,
    "th": parts.th,
    "badges": parts.badges,
    "superseded": parts.superseded,
    "line_address": parts.line_address,
    "attempt_scores": attempts.scores,
    "attempt_records": attempts.records,
    "studies_linked": parts.studies_linked,
    "cost": parts.cost,
    "dot": parts.dot,
    "figure": svg.figure,
    "pair_names": texts.pair_names,
    "pair_title": texts.pair_title,
    "value": texts.value,
    "implementation": implementation,
    "one_name": one_name,
    "metric_names": METRICS,
    "summary": literature.summary,
    "split": split,
}
