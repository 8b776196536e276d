"""What the pages of suites and pairs say of the records that come with kdbench."""

from __future__ import annotations

import pytest

from kdbench.records import Store
from kdbench.render.answers import answers
from kdbench.render.catalogue import Catalogue
from kdbench.render.site import gather
from kdbench.render.suiteview import suite_view
from kdbench.shipped import shipped


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return gather(Store(shipped("results")))


def test_students_of_labels_of_their_own_make_no_row_incomplete(catalogue: Catalogue) -> None:
    view = suite_view(catalogue, "study-biased-teachers@1")
    assert [table.pair for table in view.others] == ["none:resnet8"]
    (row,) = [row for row in view.rows if row.label == "kd-alone"]
    assert row.covered == view.planned == len(view.tables)
    assert row.standing is not None


def test_rows_over_a_student_alone_of_their_own_follow_those_that_share_one(catalogue: Catalogue) -> None:
    rows = suite_view(catalogue, "study-hinton@2").rows
    apart = [row.standing is None for row in rows if row.covered == rows[0].covered]
    assert True in apart, "or this could not be told"
    assert apart == sorted(apart)


def test_as_many_rows_may_be_the_best_on_the_page_of_a_pair_as_of_its_suite(catalogue: Catalogue) -> None:
    views = {name: suite_view(catalogue, name) for name in catalogue.suites}
    found = [verdict for answer in answers(catalogue, views).values() for verdict in answer.suites]
    assert any(len(verdict.best) == 1 < verdict.tied for verdict in found), "or this could not be told"
    for verdict in found:
        first = {row.label for row in verdict.standings.rows if row.rank[0] == 1}
        assert verdict.tied == len(first)
        assert {measured.standing.label for _, measured in verdict.best} <= first
