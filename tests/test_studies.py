"""Studies: what a claim is judged by, when there is no verdict, and where it is shown."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import render_records as rr
import torch
from bench import Bench, suite_text
from scipy import stats
from test_cli import Cli, cli  # noqa: F401
from test_intervals import _record
from torch.nn import functional as F

from kdbench.cli.study_text import lines
from kdbench.errors import UserError
from kdbench.methods.zoo.kd import kd_loss
from kdbench.methods.zoo.kd_renyi import KDRenyi, renyi_entropy
from kdbench.methods.zoo.ttm import ttm_loss
from kdbench.records import Store
from kdbench.records.inventory import take_inventory
from kdbench.records.results import fold, placed
from kdbench.records.standing import Standing
from kdbench.shipped import shipped
from kdbench.stats import claims
from kdbench.stats.claims import Bounds, Finding, Verdict, difference, family_level
from kdbench.studies import STUDIES, get_study, judge, parse_study
from kdbench.studies.check import suites_of
from kdbench.suites import SUITES, Suite, get_suite

MakeSuite = Callable[[str], Suite]

# Statistics.


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.5, Verdict.AGREES),
        (-0.1, 0.5, Verdict.OPEN),
        (-0.5, -0.1, Verdict.CONTRADICTS),
        (-math.inf, math.inf, Verdict.OPEN),
    ],
)
def test_a_claim_is_told_where_all_of_its_interval_is_on_one_side(low: float, high: float, verdict: Verdict) -> None:
    assert Bounds(low=0.0).judge(Finding(0.2, low, high, 3)) is verdict
    assert Bounds(high=0.0).judge(Finding(0.2, -high, -low, 3)) is verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.1, 0.1, Verdict.AGREES), (0.2, 0.6, Verdict.OPEN), (0.6, 0.9, Verdict.CONTRADICTS), (-1, 1, Verdict.OPEN)],
)
def test_equality_is_told_by_an_interval_within_its_margins(low: float, high: float, verdict: Verdict) -> None:
    assert Bounds(-0.5, 0.5).judge(Finding(0.0, low, high, 3)) is verdict


def test_a_slope_is_that_of_a_regression_with_a_mean_for_each_seed() -> None:
    """Against ordinary least squares with a column a seed."""
    rng = np.random.default_rng(0)
    x = np.array([0.1, 0.25, 0.5, 1.0])
    scores = 3 * x[:, None] + rng.normal(0, 0.2, (4, 3)) + np.array([0.0, 5.0, -2.0])
    found = claims.slope(x, scores, 0.95)
    design = np.column_stack([np.repeat(x, 3), np.tile(np.eye(3), (4, 1))])
    fit, residual, *_ = np.linalg.lstsq(design, scores.ravel(), rcond=None)
    error = math.sqrt(residual[0] / 8 * np.linalg.inv(design.T @ design)[0, 0])
    half = stats.t.ppf(0.975, 8) * error
    assert (found.estimate, found.low, found.high) == pytest.approx((fit[0], fit[0] - half, fit[0] + half))
    assert found.n == 12


def test_a_share_has_the_coverage_of_its_interval() -> None:
    """Fieller's interval holds the true ratio in as many draws as it says."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(2000):
        noise = rng.normal(0, 0.3, (3, 5))
        found = claims.share(80.8 + noise[0], 80.0 + noise[1], 81.6 + noise[2], 0.9)
        held += found.low <= 0.5 <= found.high
    assert held / 2000 == pytest.approx(0.9, abs=0.03)


def test_a_share_of_no_gain_is_not_told() -> None:
    found = claims.share([1.0, 2.0, 3.0], [1.0, 2.1, 3.0], [1.1, 2.0, 3.0], 0.95)
    assert math.isinf(found.low)


def test_a_rank_correlation_is_spearmans_and_its_interval_holds() -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(0, 9, 40).astype(float)  # with ties
    y = x + rng.normal(0, 3, 40)
    found = claims.rank_correlation(x, y, 0.95)
    assert found.estimate == pytest.approx(stats.spearmanr(x, y).statistic)
    held = 0
    truth = 6 / math.pi * math.asin(0.7 / 2)  # of a normal pair with correlation 0.7
    for _ in range(1000):
        a, b = rng.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], 40).T
        one = claims.rank_correlation(a, b, 0.95)
        held += one.low <= truth <= one.high
    assert held / 1000 == pytest.approx(0.95, abs=0.025)


def test_a_proportion_has_wilsons_interval() -> None:
    found = claims.proportion(0.1755, 10000, 0.95)
    wanted = stats.binomtest(1755, 10000).proportion_ci(0.95, "wilson")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert (found.n, found.images) == (1, 10000)
    percent = found.scaled(0, 100)
    assert (percent.estimate, percent.low) == pytest.approx((17.55, 100 * wanted.low))
    none = claims.proportion(0.0, 100, 0.95)
    assert none.low == pytest.approx(0, abs=1e-12)
    assert none.high > 0.03


def test_an_interval_ends_where_nothing_can_lie() -> None:
    found = claims.mean([0.98, 1.0, 1.0], 0.95)
    assert found.high > 1
    assert found.within(0, 1).high == 1
    assert found.within(0, 1).low == found.low
    alone = claims.mean([0.5], 0.95).within(0, 1)
    assert math.isinf(alone.low), "what is not known stays so"


def test_what_too_few_values_say_has_no_interval() -> None:
    one = claims.mean([3.0], 0.95)
    assert (one.estimate, one.low, one.high) == (3.0, -math.inf, math.inf)
    assert math.isnan(claims.mean([], 0.95).estimate)
    assert math.isinf(claims.slope([0.0, 1.0], [[1.0], [2.0]], 0.95).low)
    assert math.isnan(claims.slope([1.0, 1.0], [[1.0], [2.0]], 0.95).estimate)
    assert claims.rank_correlation([1, 2, 3], [1, 2, 3], 0.95).high == math.inf


# The decomposition that the study of TTM is about.


@pytest.mark.parametrize("temperature", [1.5, 2.0, 4.0, 10.0])
def test_kd_with_the_renyi_entropy_is_ttm_but_for_a_constant(temperature: float) -> None:
    torch.manual_seed(0)
    z, v = (torch.randn(8, 20, dtype=torch.float64) * 3 for _ in range(2))
    z.requires_grad_()
    y = torch.arange(8) % 20
    method = KDRenyi.__new__(KDRenyi)
    torch.nn.Module.__init__(method)
    method.ce_weight, method.beta, method.temperature, method.renyi_weight = 1.0, 36.0, temperature, 1.0

    class Step:
        student = type("S", (), {"logits": z})
        taught = type("T", (), {"logits": v})

    Step.y = y  # type: ignore[attr-defined]
    mine = sum(method.loss(Step).values())  # type: ignore[arg-type]
    theirs = F.cross_entropy(z, y) + 36.0 * ttm_loss(z, v, 1 / temperature)
    p = F.softmax(v / temperature, 1)
    constant = 36.0 * (temperature - 1) * -(p * p.log()).sum(1).mean()
    assert (theirs - (mine + constant)).abs() < 1e-9
    (one,), (other,) = torch.autograd.grad(mine, z, retain_graph=True), torch.autograd.grad(theirs, z)
    assert (one - other).abs().max() < 1e-9
    method.renyi_weight = 0.0
    assert (
        method.loss(Step)["kd"] - 36.0 / temperature * kd_loss(z, v, temperature)  # type: ignore[arg-type]
    ).abs() < 1e-12


def test_the_renyi_entropy_of_a_uniform_output_is_that_of_its_classes_and_of_a_sure_one_none() -> None:
    assert renyi_entropy(torch.zeros(3, 7, dtype=torch.float64), 0.25) == pytest.approx(math.log(7))
    sure = torch.tensor([[1000.0, 0.0, 0.0]], dtype=torch.float64)
    assert renyi_entropy(sure, 0.5) == pytest.approx(0.0, abs=1e-9)


# A study as a file.

STUDY = """
name = "small"
title = "Small"
summary = "A study."
suites = ["tiny"]
differs = ["Everything."]
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
of = "kd"
versus = "ce"
above = 0
full = "at length"
[[claims]]
name = "entropy"
text = "It makes students unsure."
source = "table 2"
statistic = "difference"
measure = "entropy"
of = "kd"
versus = "dkd"
above = 0
"""


@pytest.mark.parametrize("name", list(STUDIES))
def test_each_study_of_our_own_can_be_judged(name: str) -> None:
    study = get_study(name)
    suites = suites_of(study)
    assert all(suite.short for suite in suites.values()) <= bool(study.differs)
    found = judge(study, suites, [])
    assert {each.verdict for each in found} == {Verdict.INCOMPLETE}
    assert all(each.finding is None and each.missing for each in found)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('statistic = "difference"', 'statistic = "gut"', "statistic must be one of"),
        ('measure = "entropy"', 'measure = "charm"', "measure must be one of"),
        ("above = 0\nfull", "full", "above or below"),
        ("above = 0\nfull", "above = 1\nbelow = 0\nfull", "above must be less than below"),
        ('name = "entropy"', 'name = "gain"', "two claims are named 'gain'"),
        ('url = "https://', 'url = "javascript:', "must begin with https://"),
        ('suites = ["tiny"]', "suites = []", "suites must name one"),
        ('of = "kd"', 'off = "kd"', "'of' is missing"),
        ("year = 2020", "year = 2020\nyears = 1", "unknown field 'years'"),
        ('versus = "dkd"', 'versus = "dkd"\nsuite = "other"', "suite must be one of the study's"),
    ],
)
def test_what_is_wrong_in_a_study_is_said_with_its_place(old: str, new: str, words: str) -> None:
    assert old in STUDY
    with pytest.raises(UserError, match=r"small\.toml") as error:
        parse_study(STUDY.replace(old, new, 1), "small.toml")
    assert words in str(error.value)


def test_a_claim_about_a_row_that_is_not_there_is_refused(make_suite: MakeSuite) -> None:
    make_suite(suite_text(["ce", "kd"]))
    with pytest.raises(UserError, match="no row 'dkd'"):
        suites_of(parse_study(STUDY, "small.toml"))
    with pytest.raises(UserError, match="no pair 'a:b'"):
        suites_of(parse_study(STUDY.replace('"dkd"', '"ce"').replace('of = "kd"', 'of = "kd on a:b"'), "small.toml"))


# From the command to the verdict.


@pytest.fixture
def study(make_suite: MakeSuite) -> Any:
    make_suite(suite_text(["ce", "kd", "dkd"], seeds=[0, 1], epochs=1))
    twin = suite_text(["ce"], seeds=[0, 1], epochs=1).replace('name = "tiny"', 'name = "twin"')
    SUITES.add("twin", (twin, "twin.toml"), "a test")
    STUDIES.add("small", (STUDY.replace('["tiny"]', '["tiny", "twin"]'), "small.toml"), "a test")
    yield
    del SUITES._items["twin"], SUITES._origins["twin"]
    del STUDIES._items["small"], STUDIES._origins["small"]


@pytest.mark.usefixtures("study")
def test_a_study_trains_what_it_needs_and_gives_its_verdicts(cli: Cli, bench: Bench) -> None:  # noqa: F811
    at = ("--device", "cpu", "--slots", "1")
    before = cli("study", "small", "--dry-run", *at)
    assert before.code == 3
    assert "incomplete: Distillation helps." in before.out
    assert re.search("missing: kd on .*:tiny_cnn_. in tiny@1, seeds 0, 1", before.out)
    assert "trained by: kdbench study small" in before.out
    assert not list(bench.folder.glob("results/v1/tiny@1/*"))
    done = cli("study", "small", *at)
    assert done.code == 0
    assert "2 claims: " in done.out
    assert "incomplete" not in done.out
    assert "measured: " in done.out
    store = Store(bench.folder / "results")
    shared = [
        r["seed"] for r in placed(fold(store.read()[0])[0], store.listings()[0], Standing()) if r["suite"] == "twin@1"
    ]
    assert sorted(shared) == [0, 1], "what two suites of one run share is shown in both"
    told = json.loads(cli("study", "small", "--format", "json", *at).out)
    records = {(r["label"], r["seed"]): r for r in store.read()[0]}
    for claim, name in zip(told["claims"], ("top1", "entropy"), strict=True):
        a, b = ("kd", "ce") if name == "top1" else ("kd", "dkd")
        scores = {key: record["scores"]["last"][name] for key, record in records.items() if key[0] != "teacher"}
        expected = np.mean([scores[a, seed] - scores[b, seed] for seed in (0, 1)])
        assert claim["estimate"] == pytest.approx(expected)
        assert claim["verdict"] in done.out
        assert claim["level"] == family_level(2) == 0.975


@pytest.mark.usefixtures("study")
def test_what_another_suite_has_recorded_is_judged_by_too(cli: Cli, bench: Bench) -> None:  # noqa: F811
    text = suite_text(["ce", "kd", "dkd"], seeds=[0, 1], epochs=1)
    SUITES.add("other", (text.replace('name = "tiny"', 'name = "other"'), "other.toml"), "test")
    results = str(bench.folder / "my results")
    at = ("--device", "cpu", "--slots", "1", "--results", results)
    assert cli("run", "--suite", "other", *at).code == 0
    told = cli("study", "small", "--dry-run", *at)
    assert told.code == 0
    assert "incomplete" not in told.out
    assert "6 trials, 6 recorded" in told.out
    missing = cli("study", "small", "--dry-run", *at[:-1], "my other results")
    assert "trained by: kdbench study small --results 'my other results'" in missing.out


def verdicts(gain: float, seeds: int = 3) -> list[Any]:
    """The verdicts of a study on made-up records: what kd gains over ce, and as much in entropy over dkd."""
    study = parse_study(STUDY.replace('suites = ["tiny"]', 'suites = ["digits"]'), "small.toml")
    rows = []
    for seed in range(seeds):
        for label, more in (("ce", 0.0), ("kd", gain), ("dkd", 0.0)):
            pair = "none:tiny_cnn_m" if label == "ce" else "tiny_cnn_l:tiny_cnn_m"
            noise = 0.05 * ((seed * len(label) + ord(label[0])) % 4)
            row = _record(label, pair, seed, 90 + more + noise, suite="digits@1")
            row["scores"]["last"]["entropy"] = 0.5 + (more + noise) / 10
            rows.append(row)
    return judge(study, {"digits": get_suite("digits")}, rows)


def test_a_claim_says_at_which_seeds_its_rows_had_different_teachers() -> None:
    study = get_study("ttm")
    records = take_inventory(Store(shipped("results"))).rows
    found = {judged.claim.name: judged for judged in judge(study, suites_of(study), records)}
    mixed = {name: judged.mixed for name, judged in found.items()}
    assert set(mixed.values()) == {(), (0,)}
    wttm_and_dist = next(each for each in found.values() if each.claim.named == ("wttm-g0.25-b1", "dist"))
    assert mixed[wttm_and_dist.claim.name] == (0,)
    text = "\n".join(lines(study, list(found.values())))
    assert "teachers: at seed 0 its rows were taught by different trainings of their teacher" in text


def test_a_row_without_a_teacher_is_compared_once_however_many_pairs_show_it() -> None:
    """Its differences from itself are no sign of how little differences vary."""
    study = parse_study(BIASED, "biased.toml")
    suite = get_suite("study-biased-teachers")
    drawn = 80 + np.random.default_rng(0).normal(size=(1 + len(suite.pairs), len(suite.seeds)))
    rows = []
    for number, seed in enumerate(suite.seeds):
        rows.append(_record("ce", "none:resnet8", seed, drawn[0, number], suite=suite.id))
        for pair, values in zip(suite.pairs, drawn[1:], strict=True):
            rows.append(_record("kd-alone", pair.name, seed, values[number], suite=suite.id))
    (judged,) = judge(study, {suite.name: suite}, rows)
    of = 1 + [pair.name for pair in suite.pairs].index("skilful:resnet8")
    once, often = (difference(np.concatenate([drawn, *more]), of, 0, 0.95) for more in ([], [drawn[:1]] * 14))
    assert judged.finding is not None
    found = [judged.finding.estimate, judged.finding.low, judged.finding.high]
    assert found == pytest.approx([once.estimate, once.low, once.high])
    assert abs(once.high - often.high) > 0.1, "or this could not be told"


def test_a_row_without_a_teacher_is_of_every_pair_of_its_student_whatever_it_was_shown() -> None:
    """Of students alone that have labels of their own, no pair's student has as much in common as its data."""
    study = parse_study(BIASED.replace("ce on skilful", "ce-few on skilful"), "biased.toml")
    suite = get_suite("study-biased-teachers")
    rows = []
    for number, seed in enumerate(suite.seeds):
        few = _record("ce-few", "none:resnet8", seed, 60 + number, suite=suite.id)
        few["identity"] = {**few["identity"], "supervision": "few"}
        rows += [few, _record("kd-alone", "skilful:resnet8", seed, 70 + 2 * number, suite=suite.id)]
    (judged,) = judge(study, {suite.name: suite}, rows)
    assert judged.finding is not None, judged.missing
    assert judged.finding.estimate == pytest.approx(11)
    alone = [row for row in rows if row["label"] == "ce-few"]
    other, fewer = (
        [{**row, "identity": {**row["identity"], **changed}} for row in alone]
        for changed in ({"data": "other"}, {"supervision": "fewer"})
    )
    for several in ([*other, *(row for row in rows if row not in alone)], [*rows, *fewer]):
        (judged,) = judge(study, {suite.name: suite}, several)
        assert judged.verdict is Verdict.INCOMPLETE, "a student on other data, or one of two, is nobody's"


BIASED = (
    STUDY.replace('suites = ["tiny"]', 'suites = ["study-biased-teachers"]').split("[[claims]]")[0]
    + """
[[claims]]
name = "skilful"
text = "A skilful teacher."
source = "here"
statistic = "difference"
of = "kd-alone on skilful:resnet8"
versus = "ce on skilful:resnet8"
above = -3
"""
)


def test_students_alone_are_of_the_planned_pair_where_a_suite_has_no_other_rows() -> None:
    text = BIASED.replace("kd-alone on skilful:resnet8", "ce-few").replace("ce on skilful:resnet8", "ce")
    study = parse_study(text, "biased.toml")
    suite = get_suite("study-biased-teachers")
    pair = next(pair for pair in suite.pairs if pair.name == "skilful:resnet8")
    suite = replace(suite, pairs=(pair,))
    rows = [
        {**_record(label, "none:resnet8", seed, top1 + number / 10, suite=suite.id), "dataset": "fashion_mnist"}
        for number, seed in enumerate(suite.seeds)
        for label, top1 in (("ce", 80.0), ("ce-few", 70.0))
    ]
    (judged,) = judge(study, {suite.name: suite}, rows)
    assert judged.finding is not None, judged.missing
    assert judged.finding.estimate == pytest.approx(-10)


def test_a_teacher_that_taught_every_seed_is_one_value_and_its_images_many() -> None:
    text = BIASED.replace('statistic = "difference"', 'statistic = "mean"\nmeasure = "teacher_top1"')
    text = text.replace('versus = "ce on skilful:resnet8"\nabove = -3', "below = 30")
    study = parse_study(text, "biased.toml")
    suite = get_suite("study-biased-teachers")
    rows = []
    for seed in suite.seeds:
        row = _record("kd-alone", "skilful:resnet8", seed, 50.0, suite=suite.id)
        row["teacher"] = {**rr.record()["teacher"], "top1": 17.55}
        rows.append({**row, "dataset": "fashion_mnist"})
    (judged,) = judge(study, {suite.name: suite}, rows)
    assert judged.finding is not None
    assert (judged.finding.n, judged.finding.images) == (1, 10000)
    level = family_level(1)
    assert judged.finding.low == pytest.approx(100 * stats.binomtest(1755, 10000).proportion_ci(level, "wilson").low)
    rows[0]["teacher"] = {**rows[0]["teacher"], "top1": 19.0, "weights_sha256": "b" * 64}
    (judged,) = judge(study, {suite.name: suite}, rows)
    assert judged.finding is not None
    assert (judged.finding.n, judged.finding.images, judged.finding.estimate) == (2, 0, pytest.approx(18.275))


def test_a_refuted_claim_is_told_as_plainly_as_one_that_holds() -> None:
    assert [each.verdict for each in verdicts(2.0)] == [Verdict.AGREES] * 2
    assert [each.verdict for each in verdicts(-2.0)] == [Verdict.CONTRADICTS] * 2


def test_there_is_no_verdict_by_half_of_the_trials() -> None:
    for judged in verdicts(2.0, seeds=2):
        assert judged.verdict is Verdict.INCOMPLETE
        assert judged.finding is None
        assert {missing.seeds for missing in judged.missing} == {(2,)}
