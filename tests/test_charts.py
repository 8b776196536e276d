"""The plots of a suite: one row that failed flattens no other, and what is drawn is what the table says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import render_records as rr

from kdbench.records.store import Store
from kdbench.render.charts import MOST, costs, forest
from kdbench.render.dots import MARGIN, WIDTH, axis
from kdbench.render.plot import Figure, Scale, steps, typical
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


def places(chart: Figure, kind: str = "mean") -> dict[str, float]:
    """Where along the lower axis the dots of ``kind`` stand, by what is said of them up to the colon."""
    return {d.said.partition(":")[0]: d.x for series in chart.series for d in series.dots if d.kind == kind}


def test_the_forest_draws_every_gain_of_the_table_its_seeds_and_chance(view):
    chart = forest(view)
    scale, rows = chart.across.scale, [row for row in view.rows if row.gain]
    assert [tick.label for tick in chart.up.ticks] == [row.label for row in rows]
    assert places(chart) == {row.label: scale(row.gain.mean) for row in rows}
    at = {tick.place: row for tick, row in zip(chart.up.ticks, rows, strict=True)}
    dots = [dot for series in chart.series for dot in series.dots]
    for y, row in at.items():
        assert [d.x for d in dots if d.y == y and d.kind == "seed"] == [scale(value) for value in row.seeds]
        assert [d.across for d in dots if d.y == y and d.kind == "mean"] == [
            (scale(row.gain.low), scale(row.gain.high))
        ]
    (band,), (zero,) = chart.bars, chart.rules
    assert band.x < zero.begin[0] == scale(0.0) < band.x + band.width
    assert scale(view.standings.noise) == pytest.approx(band.x + band.width, abs=0.2)
    assert [row[0] for row in chart.table.rows] == [row.label for row in rows]


def test_a_row_beyond_the_forest_is_marked_and_too_many_are_counted(view):
    row = next(row for row in view.rows if row.gain)
    rows = [replace(row, label=f"r{n}", gain=Interval(1, 1.0 + n / 50)) for n in range(MOST + 2)]
    chart = forest(replace(view, rows=(*rows[:5], replace(row, label="failed", gain=Interval(1, -60.0)))))
    assert places(chart, "beyond") == {"failed": chart.across.scale.start}
    assert "2 more rows" in forest(replace(view, rows=tuple(rows))).described
    assert forest(replace(view, rows=())) is None


def test_gain_beside_cost_names_the_front(view):
    chart = costs(view)
    both = {r.label: r for r in view.rows if r.gain and r.standing}
    efficient = {label for label, row in both.items() if row.standing.efficient}
    drawn = places(chart) | places(chart, "seed")
    assert drawn == {label: chart.across.scale(row.standing.cost.middle) for label, row in both.items()}
    assert set(places(chart)) == efficient
    labels = {dot.label for series in chart.series for dot in series.dots} - {""}
    assert labels <= efficient, "but for names that others stand on"
    assert costs(replace(view, rows=view.rows[:1])) is None


def test_a_scale_ends_at_its_ends():
    scale = Scale(-1.0, 1.0, 10.0, 110.0)
    assert [scale(value) for value in (-5.0, 0.0, 5.0)] == [10.0, 60.0, 110.0]
    assert [scale.beyond(value) for value in (-5.0, 0.0, 5.0)] == [-1, 0, 1]


def test_both_plots_stand_on_the_page_with_title_and_description(view, tmp_path, monkeypatch):
    from kdbench.render import build

    monkeypatch.setattr("kdbench.render.site.load", lambda **_: rr.FEW)
    rr.fill(Store(tmp_path / "results"), ("resnet56:resnet20",), seeds=2, images=50)
    build(tmp_path / "results", tmp_path / "out")
    text = Path(tmp_path / "out/suites/cifar100-short@1.html").read_text(encoding="utf-8")
    for name in ("forest", "cost"):
        assert f'aria-labelledby="{name}-title {name}-desc"' in text
        assert f'<title id="{name}-title">' in text
        assert f'<desc id="{name}-desc">' in text


def test_gains_of_nothing_are_drawn_too(tmp_path):
    """Networks that all guess are equally good, and a plot of them has no width of its own."""
    store = Store(tmp_path / "results")
    arrays = rr.predictions(0.5, 1, images=200)
    for method, pair in (("ce", "none:resnet20"), ("kd", "resnet56:resnet20"), ("dkd", "resnet56:resnet20")):
        store.put(rr.record(method, pair, arrays=arrays), arrays)
    found = suite_view(gather(store), "cifar100-short@1")
    chart = forest(found)
    assert chart is not None
    assert set(places(chart).values()) == {chart.across.scale(0.0)}
