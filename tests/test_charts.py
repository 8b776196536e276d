"""The plots of a suite: one row that failed flattens no other, and what is drawn is what the table says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import render_records as rr

from kdbench.records.store import Store
from kdbench.render.charts import MOST, costs, forest
from kdbench.render.dots import MARGIN, WIDTH, axis
from kdbench.render.plot import Scale, steps, typical
from kdbench.render.site import gather
from kdbench.render.suiteview import SuiteView, suite_view
from kdbench.stats.intervals import Interval


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> SuiteView:
    root = tmp_path_factory.mktemp("charts") / "results"
    rr.fill(Store(root), ("resnet56:resnet20", "resnet110:resnet20"), seeds=3, images=100)
    return suite_view(gather(Store(root)), "cifar100-short@1")


def test_a_row_that_failed_stands_at_the_edge_and_flattens_no_other():
    rows = [Interval(3, mean, mean - 0.2, mean + 0.2) for mean in (60.0, 60.5, 61.0, 61.5, 62.0)]
    failed = Interval(3, 10.0, 9.0, 11.0)
    usual, shared = axis(rows, 60.2), axis([*rows, failed], 60.2)
    assert (shared.low, shared.high) == (usual.low, usual.high)
    dot = shared.dot(failed, "measured")
    assert (dot.x, dot.left, dot.beyond) == (MARGIN, None, -1)
    assert all(shared.dot(row, "measured").beyond == 0 for row in rows)
    assert shared.dot(rows[-1], "measured").x - shared.dot(rows[0], "measured").x > WIDTH / 2


def test_what_is_typical_is_told_from_the_middle_half():
    assert typical([1.0, 2.0, 50.0]) == [1.0, 2.0, 50.0], "of three nothing is told"
    assert typical([1.0, 1.1, 1.2, 1.3, 4.0, -9.0]) == [1.0, 1.1, 1.2, 1.3, 4.0]


@pytest.mark.parametrize(("low", "high"), [(-0.3, 3.2), (0.0, 100.0), (-17.0, -1.0), (0.001, 0.009)])
def test_ticks_are_round_and_inside(low, high):
    found = steps(low, high)
    assert 3 <= len(found) <= 9
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)
    step = round(found[1] - found[0], 9)
    assert f"{step:.0e}"[0] in "125"


def test_the_forest_draws_every_gain_of_the_table_its_seeds_and_chance(view):
    chart = forest(view)
    rows = [row for row in view.rows if row.gain]
    assert [mark.label for mark in chart.marks] == [row.label for row in rows]
    assert all(len(mark.seeds) == 3 and not mark.beyond for mark in chart.marks)
    order = sorted(chart.marks, key=lambda mark: -mark.x)
    assert [mark.label for mark in order] == [mark.label for mark in chart.marks], "the larger gain is further right"
    assert all(mark.ends[0] <= mark.x <= mark.ends[1] for mark in chart.marks)
    assert chart.band[0] < chart.zero < chart.band[1]
    assert "+0.00" not in [text for _, text in chart.ticks]


def test_a_row_beyond_the_forest_is_marked_and_too_many_are_counted(view):
    row = next(row for row in view.rows if row.gain)
    rows = [replace(row, label=f"r{n}", gain=Interval(1, 1.0 + n / 50)) for n in range(MOST + 2)]
    chart = forest(replace(view, rows=(*rows[:5], replace(row, label="failed", gain=Interval(1, -60.0)))))
    assert {mark.label: mark.beyond for mark in chart.marks}["failed"] == -1
    assert forest(replace(view, rows=tuple(rows))).more == 2
    assert forest(replace(view, rows=())) is None


def test_gain_beside_cost_names_the_front(view):
    chart = costs(view)
    assert {mark.label for mark in chart.marks} == {r.label for r in view.rows if r.gain and r.standing}
    efficient = {r.label for r in view.rows if r.gain and r.standing and r.standing.efficient}
    assert {mark.label for mark in chart.marks if mark.named} <= efficient, "but for names that others stand on"
    assert costs(replace(view, rows=view.rows[:1])) is None


def test_a_scale_ends_at_its_ends():
    scale = Scale(-1.0, 1.0, 10.0, 110.0)
    assert [scale(value) for value in (-5.0, 0.0, 5.0)] == [10.0, 60.0, 110.0]
    assert [scale.beyond(value) for value in (-5.0, 0.0, 5.0)] == [-1, 0, 1]


def test_both_plots_stand_on_the_page_with_title_and_description(view, tmp_path, monkeypatch):
    from kdbench.render import build

    monkeypatch.setattr("kdbench.render.site.load", lambda: rr.FEW)
    rr.fill(Store(tmp_path / "results"), ("resnet56:resnet20",), seeds=2, images=50)
    build(tmp_path / "results", tmp_path / "out")
    text = Path(tmp_path / "out/suites/cifar100-short@1.html").read_text(encoding="utf-8")
    for name in ("forest", "cost"):
        assert f'aria-labelledby="{name}-title {name}-text"' in text
        assert f'<title id="{name}-title">' in text
        assert f'<desc id="{name}-text">' in text


def test_gains_of_nothing_are_drawn_too(tmp_path):
    """Networks that all guess are equally good, and a plot of them has no width of its own."""
    store = Store(tmp_path / "results")
    arrays = rr.predictions(0.5, 1, images=200)
    for method, pair in (("ce", "none:resnet20"), ("kd", "resnet56:resnet20"), ("dkd", "resnet56:resnet20")):
        store.put(rr.record(method, pair, arrays=arrays), arrays)
    found = suite_view(gather(store), "cifar100-short@1")
    chart = forest(found)
    assert chart is not None
    assert {mark.x for mark in chart.marks} == {chart.zero}
