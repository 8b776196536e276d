"""The plots of studies: what is drawn of which records, where it is drawn, and the same numbers as a table."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import render_records as rr
from scipy import stats
from test_render import Html

from kdbench.errors import UserError
from kdbench.records import Store
from kdbench.records.inventory import take_inventory
from kdbench.render import build
from kdbench.render.clouds import cloud_of
from kdbench.render.lines import plot_of
from kdbench.render.plot import LABEL, Figure, Series
from kdbench.shipped import shipped
from kdbench.stats.intervals import t_interval
from kdbench.studies import STUDIES, Drawn, Related, get_study, judge, parse_study, plotted, related
from kdbench.studies.check import suites_of
from kdbench.studies.plots import Line, Plot

PAIR = "resnet56:resnet20"
STUDY = """
name = "small"
title = "Small"
summary = "A study."
suites = ["cifar100-short"]
differs = []
[paper]
title = "Of small things"
authors = "A. Uthor"
venue = "Journal"
year = 2020
url = "https://example.org/a"
[[claims]]
name = "gain"
text = "Distillation helps."
source = "table 1"
statistic = "difference"
of = "kd on resnet56:resnet20"
versus = "ce on resnet56:resnet20"
above = 0
[[plots]]
title = "Accuracy by <b>weight</b>"
x = "weight"
[[plots.lines]]
title = "our method"
pair = "resnet56:resnet20"
rows = ["ce", "kd", "wttm"]
at = [0, 1, 10]
[[plots.lines]]
title = "theirs"
rows = ["dkd on resnet56:resnet20"]
at = [5]
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('x = "weight"', 'x = "weight"\nmeasure = "charm"', "measure must be one of"),
        ('x = "weight"', 'x = "weight"\nlog = true', "greater than 0 where log is true"),
        ('x = "weight"', 'x = "weight"\nsuite = "digits"', "suite must be one of the study's"),
        ('x = "weight"', 'x = "weight"\nkind = "pie"', "unknown field 'kind'"),
        ("at = [5]", "at = [5, 6]", "a number of its own for each of rows"),
        ("at = [0, 1, 10]", "at = [0, 1, 1]", "a number of its own for each of rows"),
        ("at = [5]", "at = ['five']", "at must be a list of numbers"),
        ("at = [5]", "at = [inf]", "at must be a list of numbers"),
        ('title = "theirs"', 'titel = "theirs"', "'title' is missing"),
    ],
)
def test_what_is_wrong_in_a_plot_is_said_with_its_place(old: str, new: str, words: str) -> None:
    assert old in STUDY
    with pytest.raises(UserError, match=r"small\.toml: plots\[0\]") as error:
        parse_study(STUDY.replace(old, new), "small.toml")
    assert words in str(error.value)


def test_a_plot_without_lines_and_one_with_too_many_are_refused() -> None:
    line = '[[plots.lines]]\ntitle = "x"\nrows = ["kd"]\nat = [1]\n'
    for text in (STUDY.partition("[[plots.lines]]")[0] + "lines = []\n", STUDY + line * 5):
        with pytest.raises(UserError, match="1 to 6 lines"):
            parse_study(text, "small.toml")


def test_a_plot_of_a_row_or_a_pair_that_is_not_there_is_refused() -> None:
    for old, new, words in (("dkd on", "nonsense on", "no row"), ("dkd on resnet56:resnet20", "dkd on a:b", "no pair")):
        with pytest.raises(UserError, match=words):
            suites_of(parse_study(STUDY.replace(old, new), "small.toml"))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = Store(tmp_path / "results")
    for seed in range(3):
        rr.put(store, 0.52, "ce", "none:resnet20", seed)
        for method, accuracy in (("kd", 0.55), ("wttm", 0.58)):
            rr.put(store, accuracy, method, PAIR, seed)
    return store.root


@pytest.fixture
def study() -> Iterator[None]:
    STUDIES.add("small", (STUDY, "small.toml"), "a test")
    yield
    del STUDIES._items["small"], STUDIES._origins["small"]


@pytest.mark.usefixtures("study")
def test_a_plot_stands_on_the_page_with_its_numbers(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdbench.render.site.load", lambda **_: rr.FEW)
    build(results, tmp_path / "out")
    text = (tmp_path / "out" / "studies" / "small.html").read_text(encoding="utf-8")
    page = Html(text)
    assert not page.attributes("style")
    assert "Accuracy by &lt;b&gt;weight&lt;/b&gt;" in text
    records = [record for record in Store(results).read()[0] if record["method"] == "kd"]
    expected = t_interval([record["scores"]["last"]["top1"] for record in records])
    rows = {row[0]: row[1:] for row in page.rows}
    assert rows["1"] == [f"{expected.mean:.2f} ± {expected.half:.2f}", "–"]
    assert rows["5"] == ["–", "–"]
    assert list(rows)[-4:] == ["0", "1", "5", "10"]
    named = {attrs.get("id") for _, attrs in page.tags}
    for _, attrs in (tag for tag in page.tags if "aria-labelledby" in tag[1]):
        assert set((attrs["aria-labelledby"] or "").split()) <= named
    assert re.search(rf"<desc[^>]*>Means over seeds of accuracy by weight\. .*{expected.mean:.2f} at 1", text)
    assert text.count('class="seed"') == 9


def test_a_study_without_any_value_has_no_plot() -> None:
    study = parse_study(STUDY, "small.toml")
    assert plotted(study, suites_of(study), []) == []


def test_a_correlation_has_a_dot_for_each_training_that_has_both_numbers() -> None:
    study = get_study("ijckd")
    claim = next(each for each in study.claims if each.name == "teachers-error")
    values = {"srrl": [[0.1, 2000.0], [0.2, 2500.0]], "simkd": [[0.3, 4000.0]]}
    made = cloud_of(Related(claim, tuple((name, np.array(each)) for name, each in values.items())))
    (series,) = made.series
    assert [dot.said for dot in series.dots] == ["srrl: 0.1000, 2000", "srrl: 0.2000, 2500", "simkd: 0.3000, 4000"]
    assert all(one.x < other.x and one.y > other.y for one, other in itertools.pairwise(series.dots))
    assert made.table.rows == (("srrl", "0.1500", "2250"), ("simkd", "0.3000", "4000"))
    assert f"3 trainings of 2 rows, a dot each. Claim: {claim.text}" == made.described


def test_a_correlation_of_which_no_training_holds_a_number_is_not_drawn_and_breaks_no_site(tmp_path: Path) -> None:
    store, shown = Store(tmp_path / "results"), Store(shipped("results"))
    for record in take_inventory(shown).results:
        if record["suite"] == "study-ijckd@1":
            whole = shown.load(shown.root / record["file"])
            store.put_packed({**whole, "diagnostics": {}}, shown.packed(whole))
    assert len(list(store.files())) > 60
    study = get_study("ijckd")
    rows = take_inventory(store).rows
    assert {each.claim.name for each in related(study, suites_of(study), rows)} == {"teachers-error"}
    report = build(store.root, tmp_path / "site")
    assert not report.problems
    text = (tmp_path / "site" / "studies" / "ijckd.json").read_text()
    assert "NaN" not in text


def test_the_numbers_behind_a_correlation_are_those_of_the_records() -> None:
    study = get_study("ijckd")
    suites = suites_of(study)
    rows = take_inventory(Store(shipped("results"))).rows
    found = related(study, suites, rows)
    assert [each.claim.name for each in found] == [
        claim.name for claim in study.claims if claim.statistic == "rank-correlation"
    ]
    for each in found:
        every = np.concatenate([values for _, values in each.rows])
        (judged,) = [one for one in judge(study, suites, rows) if one.claim is each.claim]
        assert judged.finding is not None
        assert judged.finding.n == len(every)
        assert judged.finding.estimate == pytest.approx(stats.spearmanr(*every.T).statistic)
    assert related(study, suites, []) == []


# Geometry.


def points(curve: Series) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (place.split(",") for place in curve.path.split())]


def view(values: dict[float, list[float]], log: bool = False, measure: str = "top1") -> Figure:
    line = Line("line", tuple(f"row-{at}" for at in values), tuple(values))
    plot = Plot("Plot", measure, "setting", (line,), "s", log)
    return plot_of(Drawn(plot, ((line, tuple(np.array(each) for each in values.values())),)))


@pytest.mark.parametrize(
    "values",
    [
        {1.0: [50.0, 51.0], 2.0: [70.0]},
        {4.0: [50.0]},
        {1.0: [0.0, 0.0], 20.0: [0.0]},
        {1.0: [1e-9], 2.0: [3e-9]},
        {1.0: [-5.0], 2.0: [9000.0], 3.0: []},
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_everything_lies_within_the_axes(values: dict[float, list[float]], log: bool) -> None:
    made = view(values, log)
    (curve,) = made.series
    across, up = made.across.scale, made.up.scale
    for x, y in (*points(curve), *((dot.x, dot.y) for dot in curve.dots)):
        assert across.start <= x <= across.end
        assert up.end <= y <= up.start
    assert sum(dot.kind == "seed" for dot in curve.dots) == sum(map(len, values.values()))
    assert len(made.up.ticks) >= 2
    assert all(up.end <= tick.place <= up.start for tick in made.up.ticks)
    assert len({tick.label for tick in made.up.ticks}) == len(made.up.ticks)


def test_higher_values_lie_higher_and_a_logarithm_spreads_alike() -> None:
    (curve,) = view({10.0: [3.0], 1.0: [1.0], 100.0: [2.0]}, log=True).series
    (x1, y1), (x2, y2), (x3, y3) = points(curve)
    assert y2 < y3 < y1
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert x1 < x2


def test_labels_of_close_settings_do_not_overlap() -> None:
    made = view({at: [1.0] for at in (0.0, 0.1, 0.2, 50.0, 100.0)})
    said = [tick.place for tick in made.across.ticks if tick.label]
    assert min(b - a for a, b in itertools.pairwise(said)) >= LABEL
    assert len(made.across.ticks) == 5


def test_digits_are_those_of_the_measure() -> None:
    assert view({1.0: [100.2, 101.2]}, measure="errors").table.rows[0][1].startswith("101 ± ")
    assert view({1.0: [0.12345]}, measure="entropy").table.rows == (("1", "0.1235"),)


@pytest.mark.parametrize("name", list(STUDIES))
def test_each_plot_of_our_own_can_be_drawn(name: str) -> None:
    """By made-up values: the rows, pairs and settings are those of its suites."""
    study = parse_study(*STUDIES.get(name))
    suites_of(study)
    for plot in study.plots:
        rows: Any = tuple((line, tuple(np.array([at, at + 1]) for at in line.at)) for line in plot.lines)
        made = plot_of(Drawn(plot, rows))
        assert all(math.isfinite(x + y) for curve in made.series for x, y in points(curve))
        assert len(made.described) < 2000


def test_a_negative_mean_has_a_true_minus_sign_and_a_zero_has_none() -> None:
    claim = next(each for each in get_study("ijckd").claims if each.name == "teachers-error")
    made = cloud_of(Related(claim, (("kd", np.array([[-0.25, 1.0], [-0.00001, 2.0]])),)))
    assert [dot.said for dot in made.series[0].dots] == ["kd: \u22120.2500, 1", "kd: 0.0000, 2"]
