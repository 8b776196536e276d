"""Plots in their SVG: each dot stands where its data say, the numbers stand beneath, and hostile names stay text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import render_records as rr

from kdbench.records.curve import accuracies, compact
from kdbench.records.gains import History, histories
from kdbench.records.literature import Literature, Reported, Source
from kdbench.records.store import Store
from kdbench.records.verify import Seen, score
from kdbench.render.against import Met, against, met
from kdbench.render.answers import answers
from kdbench.render.calibration import calibration
from kdbench.render.curves import LONGEST, curves
from kdbench.render.measured import Line, table
from kdbench.render.places import critical, profiles
from kdbench.render.plot import BENEATH, HEIGHT, Dot, Figure, Scale, uncrowded
from kdbench.render.site import gather
from kdbench.render.suiteview import suite_view
from kdbench.render.svg import figure
from kdbench.render.years import by_year
from kdbench.stats.aggregate import Cell, Spread, cells
from kdbench.stats.calibration import reliability
from kdbench.stats.intervals import Interval
from kdbench.stats.placing import Placing, placing
from kdbench.stats.ranks import stretches
from kdbench.stats.scores import binned, ece
from kdbench.stats.standings import Standings, standings, whole_rows

HOSTILE = '"><img src=x onerror=alert(1)>'


def drawn(plot: Figure) -> ElementTree.Element:
    """The figure as its page has it; what is no well-formed XML raises."""
    text = figure(plot, "x")
    assert "style=" not in text
    assert "<script" not in text
    return ElementTree.fromstring(text.replace(" open>", ">"))


def value_at(scale: Scale, place: str | float) -> float:
    """What lies at ``place`` of a linear ``scale``: the geometry read backwards."""
    return scale.low + (float(place) - scale.start) / (scale.end - scale.start) * (scale.high - scale.low)


def dots(plot: Figure, kind: str = "mean") -> list[tuple[float, float]]:
    """The values that the drawn circles of ``kind`` stand at."""
    svg = drawn(plot).find("svg")
    assert svg is not None
    found = [each for each in svg.iter("circle") if each.attrib["class"] == kind]
    return [(value_at(plot.across.scale, c.attrib["cx"]), value_at(plot.up.scale, c.attrib["cy"])) for c in found]


def paths(plot: Figure) -> list[list[tuple[float, float]]]:
    """The values that the drawn lines go through."""
    svg = drawn(plot).find("svg")
    assert svg is not None
    points = [[place.split(",") for place in line.attrib["points"].split()] for line in svg.iter("polyline")]
    return [[(value_at(plot.across.scale, x), value_at(plot.up.scale, y)) for x, y in line] for line in points]


def near(plot: Figure) -> Mapping[str, float]:
    """As exact as a tenth of a pixel is."""
    up = plot.up.scale
    return {"rel": 0, "abs": 0.2 * abs((up.high - up.low) / (up.end - up.start)) + 0.2}


def beneath(plot: Figure) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in drawn(plot).findall(".//tbody/tr")]


# Accuracy by epoch.


def trained(*trainings: list[float], val: list[float] | None = None, ranked: int = 0) -> Cell:
    """A cell of trainings with these accuracies by epoch, the ``ranked`` one of which ranks."""
    made = []
    for seed, test in enumerate(trainings):
        points = [{"test_top1": t, "val_top1": None if val is None else val[n]} for n, t in enumerate(test)]
        record = {**rr.record(seed=seed), "curve": compact(points)}
        record["scores"] = {**record["scores"], "last": {"epoch": ranked, "top1": 1.0} if ranked else None}
        made.append(record)
    return cells(made)[0]


def test_a_curve_goes_through_its_accuracies_and_the_epoch_that_ranks_is_marked() -> None:
    plot = curves(trained([10.0, 40.0, 60.0, 55.0], [12.0, 45.0, 50.0, 65.0], ranked=3), "last")
    assert plot is not None
    expected = [[(1, 10), (2, 40), (3, 60), (4, 55)], [(1, 12), (2, 45), (3, 50), (4, 65)]]
    for line, wanted in zip(paths(plot), expected, strict=True):
        assert [x for x, _ in line] == pytest.approx([x for x, _ in wanted], abs=0.01)
        assert [y for _, y in line] == pytest.approx([y for _, y in wanted], **near(plot))
    assert [(round(x), round(y)) for x, y in dots(plot)] == [(3, 60), (3, 50)]
    assert beneath(plot)[2] == ["3", "60.00", "50.00"]


def test_held_out_images_have_a_line_of_their_own_and_the_legend_tells_which() -> None:
    plot = curves(trained([10.0, 20.0], val=[90.0, 80.0]), "best_val")
    assert plot is not None
    assert [round(line[0][1]) for line in paths(plot)] == [90, 10]
    assert [series.title for series in plot.legend] == ["held-out images", "test set"]
    assert beneath(plot)[0] == ["1", "10.00", "90.00"]
    assert plot.table.head[2] == "seed 0, held out, %"


def test_a_training_that_ended_early_has_a_shorter_line_and_dashes_in_the_table() -> None:
    plot = curves(trained([10.0, 20.0, 30.0], [11.0, 12.0], ranked=3), "last")
    assert plot is not None
    assert [len(line) for line in paths(plot)] == [3, 2]
    assert len(dots(plot)) == 1
    assert beneath(plot)[2] == ["3", "30.00", "–"]


@pytest.mark.parametrize("values", [[], [50.0]])
def test_fewer_than_two_epochs_make_no_curve(values: list[float]) -> None:
    assert curves(trained(values), "last") is None


def test_a_curve_that_never_moves_is_drawn_within_its_axes() -> None:
    plot = curves(trained([0.0, 0.0]), "last")
    assert plot is not None
    assert plot.up.scale.low < paths(plot)[0][0][1] < plot.up.scale.high


def test_the_table_of_a_long_training_has_the_last_epoch_and_the_one_that_ranks() -> None:
    plot = curves(trained([float(n % 100) for n in range(240)], ranked=101), "last")
    assert plot is not None
    shown = [row[0] for row in beneath(plot)]
    assert {"101", "240"} <= set(shown)
    assert len(shown) <= LONGEST + 1


def test_a_curve_is_kept_as_it_was_but_for_single_precision(tmp_path: Any) -> None:
    points = [{"test_top1": 12.34, "val_top1": None}, {"test_top1": None, "val_top1": None}]
    kept = compact(points)
    assert list(kept) == ["test_top1"]
    first, second = accuracies(kept, "test_top1")
    assert first == pytest.approx(12.34, rel=1e-6)
    assert math.isnan(second)
    assert not len(accuracies(kept, "val_top1"))
    store = Store(tmp_path)
    rr.put(store, 0.5)
    ours = [gather(store).records[0]["curve"] for _ in range(2)]
    assert ours[0] == ours[1], "read, and remembered"
    whole = next(iter(store.read()[0]))["curve"]
    assert accuracies(ours[0], "test_top1") == pytest.approx([point["test_top1"] for point in whole], rel=1e-6)


# Calibration.


def sure(*networks: tuple[list[float], list[bool]]) -> tuple[Line, Seen]:
    """A line of networks that are so sure of each image, and right of it or not."""
    seen, made = Seen(), []
    for seed, (confidence, right) in enumerate(networks):
        labels = np.zeros(len(right), np.int16)
        top = np.where(np.array(right)[:, None], np.arange(5), np.arange(1, 6)).astype(np.int16)
        p = np.array(confidence, np.float16)
        true = np.log(np.where(right, p, 0.01))
        arrays = {"labels": labels, "last_top5": top, "last_top_p": p, "last_log_p_true": true}
        record = rr.record(seed=seed, arrays=arrays)
        record["predictions"] = {"sha256": f"{seed:064}", "classes": 10}
        seen.keep(record, score(arrays))
        made.append(record)
    return table(cells(made), ("cifar100", "resnet56", "resnet20"), "last", frozenset()).lines[0], seen


def test_a_bin_stands_at_its_mean_confidence_and_at_how_often_it_is_right() -> None:
    line, seen = sure(([0.75, 0.75, 0.97, 0.97], [True, False, True, True]), ([0.78, 0.74], [False, False]))
    plot = calibration(line, "last", seen)
    assert plot is not None
    found = dots(plot)
    assert [x for x, _ in found] == pytest.approx([75.5, 97.0], abs=0.3)
    assert [y for _, y in found] == pytest.approx([25.0, 100.0], abs=0.3)
    assert beneath(plot)[0] == ["73.3 to 80.0", "4", "75.5", "25.0"]
    svg = drawn(plot).find("svg")
    assert svg is not None
    heights = [float(each.attrib["height"]) for each in svg.iter("rect")]
    assert heights == pytest.approx([242 * 4 / 6, 242 * 2 / 6], abs=0.2)


def test_a_bin_of_few_images_has_a_small_dot() -> None:
    line, seen = sure(([0.95] * 200 + [0.1], [True] * 201))
    plot = calibration(line, "last", seen)
    assert plot is not None
    assert (len(dots(plot)), len(dots(plot, "seed"))) == (1, 1)


def test_without_predictions_there_is_no_calibration() -> None:
    line, _ = sure(([0.5], [True]))
    assert calibration(line, "last", Seen()) is None
    assert calibration(line, "best_val", sure(([0.5], [True]))[1]) is None


def test_the_bins_have_the_calibration_error_in_them() -> None:
    rng = np.random.default_rng(0)
    confidence, right = rng.random(1000), rng.random(1000) < 0.5
    bins = reliability([binned(confidence[:300], right[:300]), binned(confidence[300:], right[300:])])
    error = sum(each.share * abs(each.accuracy - each.confidence) for each in bins) / 1e4
    assert error == pytest.approx(ece(confidence, right))
    assert sum(each.images for each in bins) == 1000


# Places.


def standings_of(rows: Mapping[str, list[float]]) -> tuple[Placing | None, Standings]:
    """The places, if there are any, and standings of rows with these accuracies by seed, on one pair."""
    made = [
        {**rr.record("kd", seed=seed, label=label), "scores": {"last": {"top1": value}, "best_val": None}}
        for label, values in rows.items()
        for seed, value in enumerate(values)
    ]
    found = cells(made)
    stands = standings(found, "last")
    whole = whole_rows(found)
    return placing({row.label: whole[row.label] for row in stands.rows}, "last", stands.comparisons), stands


def suite_of(rows: Mapping[str, list[float]]) -> tuple[Placing, Standings]:
    placed, stands = standings_of(rows)
    assert placed is not None
    return placed, stands


#: The first is above the others by far, and these are not told apart.
ROWS = {
    HOSTILE: [90.0, 90.1, 90.2, 90.1],
    "second": [60.4, 60.1, 60.3, 60.2],
    "third": [60.3, 60.2, 60.2, 60.1],
    "last": [60.1, 60.3, 60.1, 60.0],
}


def test_a_row_stands_at_its_mean_place_and_a_bar_joins_what_is_not_told_apart() -> None:
    placed, stands = suite_of(ROWS)
    assert placed.rows == (HOSTILE, "second", "third", "last")
    assert placed.places == (1.0, 2.5, 3.0, 3.5)
    assert placed.groups == (("second", "third", "last"),)
    plot = critical(placed, stands)
    assert [x for x, _ in dots(plot)] == pytest.approx(placed.places, abs=0.02)
    assert [y for _, y in dots(plot)] == pytest.approx([-1, -2, -3, -4], abs=0.02)
    svg = drawn(plot).find("svg")
    assert svg is not None
    (bar,) = [each for each in svg.iter("line") if each.attrib["class"] == "group"]
    ends = [plot.up.scale(-2) - 5, plot.up.scale(-4) + 5]
    assert [float(bar.attrib["y1"]), float(bar.attrib["y2"])] == pytest.approx(ends, abs=0.1)
    assert float(bar.attrib["x1"]) > plot.across.scale.end
    assert beneath(plot)[:2] == [[HOSTILE, "1.00", "1", "–"], ["second", "2.50", "2–4", "last"]]


def test_bars_that_overlap_stand_beside_one_another() -> None:
    order, apart = [0, 1, 2, 3, 4], np.zeros((5, 5), bool)
    apart[0, 3] = apart[3, 0] = apart[1, 4] = apart[4, 1] = apart[0, 4] = apart[4, 0] = True
    assert stretches(order, apart) == [(0, 1, 2), (1, 2, 3), (2, 3, 4)]
    placed, stands = suite_of(ROWS)
    a, b, c, d = placed.rows
    plot = critical(replace(placed, groups=((a, b), (b, c), (c, d))), stands)
    xs = [rule.begin[0] for rule in plot.rules]
    assert xs[0] == xs[2] < xs[1] < plot.width


def test_a_profile_rises_where_a_row_comes_within_reach_of_the_best() -> None:
    placed, stands = suite_of({"a": [10.0, 10.0], "b": [10.0, 8.0], "c": [9.0, 8.0]})
    plot = profiles(placed, stands)
    lines = [[(round(x, 1), round(y)) for x, y in line] for line in paths(plot)]
    assert lines[0] == [(0, 100), (2, 100)]
    assert lines[1] == [(0, 50), (2, 50), (2, 100), (2, 100)]
    assert lines[2] == [(0, 0), (1, 0), (1, 50), (2, 50), (2, 100), (2, 100)]
    assert beneath(plot) == [
        ["a", "100", "100", "100", "100"],
        ["b", "50", "50", "50", "100"],
        ["c", "0", "0", "50", "100"],
    ]


def test_one_row_a_thousand_times_worse_flattens_no_profile() -> None:
    rows = {f"r{n}": [60.0 + n / 10, 60.1 + n / 10] for n in range(5)}
    usual, far = (profiles(*suite_of(each)) for each in (rows, {**rows, "failed": [0.05, 0.06]}))
    assert far.across.scale.high == usual.across.scale.high
    assert len(far.series) == 6
    assert dots(critical(*suite_of({**rows, "failed": [0.05, 0.06]})))[-1][0] == pytest.approx(6.0, abs=0.02)


def test_a_row_with_fewer_trainings_than_usual_has_no_place_and_is_named() -> None:
    placed, stands = suite_of({"a": [3.0, 3.0], "b": [2.0, 2.0], "c": [1.0, 1.0], "once": [9.0]})
    assert placed.rows == ("a", "b", "c")
    assert "once." in critical(placed, stands).described


@pytest.mark.parametrize("rows", [{}, {"a": [1.0, 2.0]}, {"a": [1.0], "b": [2.0], "c": [3.0]}])
def test_too_few_rows_or_trainings_have_no_places(rows: dict[str, list[float]]) -> None:
    assert standings_of(rows)[0] is None


# Reported gains.


def printed(method: str, year: int, value: float, **changes: Any) -> tuple[Reported, Source]:
    """A row of a source of its own, whose student alone reaches 70 %."""
    name = f"{method}-{year}-{value}"
    row = Reported(
        "cifar100", "resnet56", "resnet20", method, "top1", value, None, "last", "ran", 72.0, 70.0, name, "table 1", "",
        f"{value}", "",
    )  # fmt: skip
    return replace(row, **changes), Source(name, "A source", "", "", "", year)


def history_of(*rows: tuple[Reported, Source]) -> History:
    (found,) = histories([row for row, _ in rows], {source.source: source for _, source in rows})
    return found


def test_a_method_stands_at_its_first_year_and_the_line_goes_through_the_best_so_far() -> None:
    history = history_of(
        printed("kd", 2020, 71.0),
        printed("kd", 2020, 72.0),
        printed("kd", 2022, 79.0),
        printed(HOSTILE, 2021, 73.0),
        printed("dull", 2022, 70.5),
        printed("new", 2023, 74.0),
        printed("quote", 2020, 79.0, provenance="quoted"),
        printed("apart", 2020, 79.0, apart="another task"),
        printed("ce", 2020, 79.0),
        printed("other", 2021, 99.0, student_baseline=60.0),
    )
    assert history.sources == 6
    assert [first.method for first in history.records] == ["kd", HOSTILE, "new"]
    assert len(history.weak) == 1
    plot = by_year(history)
    expected = {(2020, 1.5), (2021, 3.0), (2023, 4.0)}
    assert {(round(x, 1), round(y, 1)) for x, y in dots(plot)} == expected
    assert [(round(x, 1), round(y, 1)) for x, y in dots(plot, "seed")] == [(2022, 0.5)]
    line = [(round(x), round(y, 1)) for x, y in paths(plot)[0]]
    assert line == [(2020, 1.5), (2021, 1.5), (2021, 3.0), (2023, 3.0), (2023, 4.0), (2023, 4.0)]
    rows = {row[0]: row for row in beneath(plot)}
    assert rows["kd"] == ["kd", "2020", "+1.50", "kd-2020-71.0, kd-2020-72.0"]
    assert HOSTILE in rows


def test_one_gain_a_thousand_times_the_others_stands_at_the_edge() -> None:
    usual = [printed(f"m{n}", 2020 + n, 71.0 + n) for n in range(5)]
    plot = by_year(history_of(*usual, printed("far", 2021, 5000.0)))
    assert plot.up.scale.high < 10
    assert [round(x) for x, _ in dots(plot, "beyond")] == [2021]
    assert dots(plot, "beyond")[0][1] == pytest.approx(plot.up.scale.high)


def test_a_single_year_makes_no_history() -> None:
    row, source = printed("kd", 2020, 71.0)
    assert histories([row], {source.source: source}) == []
    assert histories([], {}) == []


def gains(method: str = "kd", reported: float = 1.0, measured: float = 2.0, short: bool = False) -> Met:
    spread = Spread(reported, reported - 0.5, reported + 0.5)
    interval = Interval(3, measured, measured - 0.4, measured + 0.4)
    return Met(method, "a \u2192 b, c", "suite@1", short, spread, interval, ("source",), method)


def test_a_gain_stands_where_it_is_reported_and_measured_with_both_intervals() -> None:
    plot = against([gains(HOSTILE), gains("dkd", 3.0, -1.0, short=True)])
    assert plot is not None
    assert [(round(x, 1), round(y, 1)) for x, y in dots(plot)[:2]] == [(1.0, 2.0), (3.0, -1.0)]
    svg = drawn(plot).find("svg")
    assert svg is not None
    across, up = [each.attrib for each in svg.iter("line") if each.attrib["class"] == "reach"][:2]
    x, y = plot.across.scale, plot.up.scale
    assert [value_at(x, across["x1"]), value_at(x, across["x2"])] == pytest.approx([0.5, 1.5], abs=0.02)
    assert [value_at(y, up["y1"]), value_at(y, up["y2"])] == pytest.approx([1.6, 2.4], abs=0.02)
    (diagonal,) = plot.rules
    for place in (diagonal.begin, diagonal.end):
        assert value_at(x, place[0]) == pytest.approx(value_at(y, place[1]), abs=0.02)
    assert beneath(plot)[0] == [
        HOSTILE,
        "a \u2192 b, c",
        "+1.00",
        "+0.50",
        "+1.50",
        "+2.00 ± 0.40",
        "suite@1",
        "source",
    ]
    assert [series.title for series in plot.legend] == ["suites of full length", "short suites"]
    assert "no forecast" in plot.described


def test_one_gain_alone_and_one_beyond_all_others() -> None:
    assert against([]) is None
    alone = against([gains()])
    assert alone is not None
    assert [(round(x, 1), round(y, 1)) for x, y in dots(alone)] == [(1.0, 2.0)]
    far = against([*(gains(f"m{n}", 1 + n / 10) for n in range(5)), gains("far", 1000.0)])
    assert far is not None
    assert far.across.scale.high < 5
    assert len(dots(far, "beyond")) == 1


def test_labels_stand_where_they_cover_neither_one_another_nor_a_dot() -> None:
    crowd = [Dot(200 + 9 * n, 94) for n in range(1, 5)]
    one, two, *_ = uncrowded([Dot(200, 100, label="one"), Dot(203, 100, label="two"), *crowd])
    assert (one.label, one.spot.kind) == ("one", "before"), "what lies after it is full of dots"
    boxes = [dot.spot.box(dot) for dot in (one, two)]
    assert two.label == "two"
    assert not boxes[0].meets(boxes[1])
    assert not any(box.covers(dot) for box in boxes for dot in crowd)


def test_a_label_for_which_no_place_is_left_is_left_out() -> None:
    found = uncrowded([Dot(200, 100, label="as long as it gets") for _ in range(9)])
    shown = [dot for dot in found if dot.label]
    assert 1 <= len(shown) <= 6
    assert len({dot.spot for dot in shown}) == len(shown)


def test_no_label_leaves_its_plot() -> None:
    (found,) = uncrowded([Dot(470, 100, label="teacher")])
    assert found.spot.kind == "before"
    (low,) = uncrowded([Dot(470, HEIGHT - BENEATH, label="teacher")])
    assert low.spot.box(low).bottom <= HEIGHT - BENEATH, "where the axis has its numbers"


def test_a_label_that_would_cover_a_dot_wherever_it_stood_is_left_out() -> None:
    crowd = [Dot(150 + 12 * x, 60 + 12 * y) for x in range(9) for y in range(7)]
    (found,) = [dot for dot in uncrowded([Dot(200, 98, "kd: all of it", label="teacher"), *crowd]) if dot.said]
    assert (found.label, found.said) == ("", "kd: all of it")


def test_reported_and_measured_gains_meet_where_both_are_known(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    row, source = printed("kd", 2020, 72.0)
    other = replace(row, method="at")
    monkeypatch.setattr("kdbench.render.site.load", lambda **_: Literature((row, other), {source.source: source}))
    store = Store(tmp_path)
    for seed in range(2):
        rr.put(store, 0.52, "ce", "none:resnet20", seed, images=100)
        for method in ("kd", "dkd"):
            rr.put(store, 0.6, method, "resnet56:resnet20", seed, images=100)
    catalogue = gather(store)
    (found,) = met(answers(catalogue, {name: suite_view(catalogue, name) for name in catalogue.suites}).values())
    assert (found.method, found.reported.middle, found.sources, found.short) == ("kd", 2.0, (source.source,), True)
    by_seed = catalogue.tables["cifar100-short@1", "cifar100", "resnet56:resnet20"]
    gain = next(line.gain for line in by_seed.lines if line.cell.method == "kd")
    assert gain is not None
    assert found.measured.mean == pytest.approx(gain.mean)
