"""The plane of a study: teachers where their degrees are, students' accuracies beside them, and a table of all that."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from render_records import record

from kdbench.errors import UserError
from kdbench.records.literature import Literature
from kdbench.render.address import study_page
from kdbench.render.catalogue import Catalogue
from kdbench.render.content import load_content
from kdbench.render.pages import Page
from kdbench.render.plane import LEFT, SIDE, plane_of
from kdbench.render.site import _rendered
from kdbench.render.studies import StudyView
from kdbench.shipped import shipped
from kdbench.studies import get_study, parse_study
from kdbench.studies.check import suites_of
from kdbench.studies.study import STUDIES

#: Teacher: unreliability, ambiguity, and the accuracies of its students.
KNOWN = {"good": (0.05, 0.7, [90.0, 91.0]), "r1-u0.8": (0.8, 0.25, [40.0, 42.0]), "skilful": (0.0, 0.125, [88.0, 89.0])}


def rows(degrees: bool = True) -> list[dict[str, Any]]:
    made = []
    for teacher, (unreliable, ambiguous, students) in KNOWN.items():
        facts = {"unreliability": unreliable, "ambiguity": ambiguous, "top_k": 2, "top1": 50.0, "name": teacher}
        if degrees:
            facts["degrees"] = [
                {"top_k": k, "unreliability": unreliable / k, "ambiguity": ambiguous} for k in (1, 2, 3, 4)
            ]
        for seed, top1 in enumerate(students):
            row = record("kd", f"{teacher}:resnet8", seed, label="kd-alone", suite="study-biased-teachers@1")
            row["teacher"] = {**row["teacher"], **facts}
            row["scores"] = {name: {"top1": top1, "top5": 99.0} for name in row["scores"]}
            made.append(row)
    return made


def test_points_lie_where_the_degrees_say() -> None:
    study = get_study("biased-teachers")
    plane = plane_of(study, suites_of(study), rows())
    assert plane is not None
    assert [(p.teacher, p.top1, p.n) for p in plane.points] == [
        ("good", 90.5, 2),
        ("skilful", 88.5, 2),
        ("r1-u0.8", 41.0, 2),
    ]
    point = plane.points[2]
    assert (point.x, point.burden) == (LEFT + 0.8 * SIDE, pytest.approx(1.05))
    assert (plane.points[0].shade, point.shade) == (1.0, 0.1)
    assert (plane.swept, plane.top_k) == ((1, 2, 3), 2)
    assert point.swept == ((0.8, 0.25), (0.4, 0.25), (pytest.approx(0.8 / 3), 0.25))
    assert "2 teachers below the line" in plane.description
    assert "88.5 to 90.5 %" in plane.description
    assert "1 teachers on it or beyond" in plane.description


def test_there_is_no_plane_without_trials_or_where_a_study_asks_for_none() -> None:
    study = get_study("biased-teachers")
    assert plane_of(study, suites_of(study), []) is None
    diverged = [{**row, "status": "diverged"} for row in rows()]
    assert plane_of(study, suites_of(study), diverged) is None
    other = get_study("ijckd")
    assert plane_of(other, suites_of(other), rows()) is None
    text = STUDIES.get("biased-teachers")[0].replace('plane = "kd-alone"', 'plane = "kd"')
    with pytest.raises(UserError, match="plane must be a row of study-biased-teachers@1, not 'kd'"):
        suites_of(parse_study(text, "x.toml"))


@pytest.mark.parametrize("degrees", [True, False])
def test_the_page_draws_it_and_has_a_table_of_its_numbers(degrees: bool) -> None:
    study = get_study("biased-teachers")
    suites = suites_of(study)
    view = StudyView(study, tuple(suites.values()), (), (), plane_of(study, suites, rows(degrees)), ())
    page = Page(study_page(study.name), "study.html", study.title, {"view": view, "width": 1, "height": 1})
    catalogue = Catalogue([], [], Literature([], []), 0)
    shared = {"site": load_content(shipped("site")), "results_name": "results", "catalogue": catalogue}
    text = _rendered(page, {**shared, "version": "0", "csp": "default-src 'none'"})
    (drawn,) = re.findall(r'<svg class="plane".*?</svg>', text, re.DOTALL)
    svg = ElementTree.fromstring(drawn)
    assert svg.attrib["role"] == "img"
    assert [child.tag for child in svg[:2]] == ["title", "desc"]
    circles = [(float(c.attrib["cx"]), float(c.attrib["fill-opacity"])) for c in svg.iter("circle")]
    assert (LEFT + 0.8 * SIDE, 0.1) in circles
    assert len(circles) == 3
    assert {"90.5", "88.5", "41.0"} <= {each.text for each in svg.iter("text")}
    cells = re.findall(r'<td class="num">(.*?)</td>', text)
    assert cells[:3] == ["50.00", "90.50", "2"]
    assert "0.80 + 0.25" in cells, "at k = 1, or at the only k there is"
    assert ("0.40 + 0.25" in cells) == degrees
    assert "2, as drawn" in text
