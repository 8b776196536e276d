"""Tests, ranks and intervals against scipy, against definitions, and by small simulations whose seeds are fixed."""

from __future__ import annotations

import importlib
import math
from itertools import combinations
from types import ModuleType

import numpy as np
import pytest
from bench import ROOT
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtri, polygamma

from kdbench.stats import aggregate, bootstrap
from kdbench.stats.across import across
from kdbench.stats.bootstrap import percentiles, redrawn
from kdbench.stats.comparisons import compare, mcnemar
from kdbench.stats.crossed import crossed_interval
from kdbench.stats.drops import LEVELS, detectable, drops, seeds_needed
from kdbench.stats.intervals import t_interval, t_quantiles, t_tails
from kdbench.stats.moderation import Prior, _trigamma_inverse, common, moderated
from kdbench.stats.multiplicity import bounds, holm, looks_up_to, rejected
from kdbench.stats.profiles import front, profile
from kdbench.stats.ranks import borda, cliques, critical_difference, places, range_quantile, rank_intervals, wins

probabilities = st.lists(st.floats(1e-6, 1), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def simulations() -> ModuleType:
    """The script that makes the tables of docs/statistics.md."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("simulations")


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


# Quantiles


def test_t_quantiles_and_tails_are_scipys():
    df = np.array([1.0, 2.5, 40.0, math.inf])
    expected = [*stats.t.ppf(0.975, df[:3]), stats.norm.ppf(0.975)]
    assert t_quantiles(df, 0.95) == pytest.approx(expected)
    assert t_tails(-2.0, df) == pytest.approx([*(2 * stats.t.sf(2.0, df[:3])), 2 * stats.norm.sf(2.0)])
    assert t_quantiles(0.0, 0.95) == math.inf


# Moderated variances


@given(st.floats(1e-5, 1e6))
def test_trigamma_is_inverted(value: float) -> None:
    assert polygamma(1, _trigamma_inverse(value)) == pytest.approx(value, rel=1e-3)


def test_equal_variances_are_pooled_and_unequal_ones_keep_their_own(random):
    equal = random.chisquare(2, 4000) / 2
    found = common(equal, 2)
    assert found.df > 50
    assert found.variance == pytest.approx(1, rel=0.1)
    unequal = equal * np.exp(random.normal(0, 1, 4000))
    assert 1 < common(unequal, 2).df < 6


def test_a_known_prior_is_found_again(random):
    true = 0.3 * 5 / random.chisquare(5, 20000)
    found = common(true * random.chisquare(4, 20000) / 4, 4)
    assert (found.df, found.variance) == (pytest.approx(5, rel=0.1), pytest.approx(0.3, rel=0.03))


def test_a_moderated_variance_is_an_average_and_has_no_more_degrees_than_there_are():
    variance, df = moderated([1.0, 4.0], [2, 2], Prior(2, 2.0), most=3.0)
    assert (list(variance), list(df)) == ([1.5, 3.0], [3.0, 3.0])
    variance, df = moderated([1.0, 4.0], [2, 2], Prior(math.inf, 2.5), most=4.0)
    assert (list(variance), list(df)) == ([2.5, 2.5], [4.0, 4.0])


def test_cells_without_a_spread_borrow_one_and_where_there_is_none_there_is_no_telling():
    prior = common([0.0, 1.0, 2.0, 1.5], [0, 2, 2, 2])
    variance, df = moderated([0.0, 1.0], [0, 2], prior, 6.0)
    assert variance[0] > 0
    assert df[0] > 0
    assert common([0.0, 0.0], [2, 2]) == Prior(0.0, 0.0)
    assert list(moderated([0.0, 0.0], [2, 2], Prior(0.0, 0.0))[1]) == [0.0, 0.0]
    assert common([3.0], [2]) == Prior(0.0, 3.0)


# Many tests


@given(probabilities)
def test_holm_is_statsmodels(p: list[float]) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


def test_holm_by_hand():
    assert list(holm([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert list(holm([0.9, 0.8])) == [1.0, 1.0]


@given(probabilities, st.floats(0.001, 0.2))
def test_one_look_is_holms_procedure(p: list[float], level: float) -> None:
    adjusted = holm(p)
    if np.abs(adjusted - level).min() > 1e-9:
        assert list(rejected([p], (3,), level) == 0) == list(adjusted < level)


def test_bounds_spend_the_level_over_the_looks(random):
    looks = (3, 5, 8, 12)
    found = bounds(0.05, looks)
    assert found[0] == pytest.approx(0.05 * 0.25**3)
    sums = random.normal(size=(100_000, 12)).cumsum(axis=1)
    crossed = [
        np.abs(sums[:, look - 1]) / math.sqrt(look) > -ndtri(p / 2) for look, p in zip(looks, found, strict=True)
    ]
    assert np.any(crossed, axis=0).mean() == pytest.approx(0.05, abs=0.003)
    shared = stats.multivariate_normal([0, 0], [[1, math.sqrt(0.5)], [math.sqrt(0.5), 1]])
    first, second = (-float(ndtri(p / 2)) for p in bounds(0.05, (4, 8)))
    corners = (shared.cdf([a, b]) * sign for a, b, sign in _corners(first, second))
    assert sum(corners) == pytest.approx(0.95, abs=1e-4)
    assert bounds(0.02, (3,)) == (0.02,)


def _corners(a: float, b: float):
    return [(a, b, 1), (-a, b, -1), (a, -b, -1), (-a, -b, 1)]


def test_a_test_without_a_look_is_not_rejected_there():
    p = [[0.5, np.nan], [1e-9, np.nan]]
    assert list(rejected(p, (3, 6))) == [1, -1]


def test_looks_grow_by_half_up_to_the_limit():
    assert looks_up_to(3, 12) == (3, 5, 8, 12)
    assert looks_up_to(1, 4) == (1, 2, 3, 4)
    assert looks_up_to(5, 5) == (5,)


# Comparisons


def test_two_rows_are_compared_by_a_paired_t_test(random):
    table = random.normal(50, 1, (2, 6))
    found = compare(table)
    expected = stats.ttest_rel(*table)
    assert t_tails(found.difference / found.error, found.df) == pytest.approx(expected.pvalue)
    assert found.halves() == pytest.approx(t_interval(table[0] - table[1]).half)


def test_rows_are_compared_over_the_seeds_both_have():
    found = compare([[1, 2, 3, np.nan], [0, 0, 0, 5], [1, 1, np.nan, np.nan]])
    assert list(found.n) == [3, 2, 2]
    assert list(found.difference) == [2, 0.5, -1]
    assert compare([[1.0], [2.0]]).apart.tolist() == [False]
    assert compare(np.empty((0, 0))).apart.tolist() == []
    assert np.isinf(compare([[1.0, np.nan], [np.nan, 2.0]]).halves()).all()


def test_each_comparison_is_found_by_its_rows(random):
    found = compare(random.normal(size=(5, 3)))
    for one in range(5):
        for other in set(range(5)) - {one}:
            at = found.of(one, other)
            assert {int(found.first[at]), int(found.second[at])} == {one, other}
            assert found.half(at) == found.halves()[at]
    for one, other in ((2, 2), (0, 5), (-1, 3)):
        with pytest.raises(IndexError, match="not compared"):
            found.of(one, other)


def test_what_is_shown_to_be_better_and_what_to_be_equal():
    table = np.array([[50, 51, 52], [50.1, 50.9, 52.1], [40, 41, 42.1]])
    found = compare(table)
    assert found.better.tolist() == [[False, False, True], [False, False, True], [False, False, False]]
    assert found.within(0.5).tolist() == [True, False, False]
    assert rank_intervals(found.better) == [(1, 2), (1, 2), (3, 3)]


def test_mcnemar_is_the_exact_binomial_test():
    mine, theirs = np.array([1] * 12 + [0] * 3 + [1] * 80), np.array([0] * 12 + [1] * 3 + [1] * 80)
    assert mcnemar(mine, theirs) == pytest.approx(stats.binomtest(3, 15).pvalue)
    assert mcnemar(mine, mine) == 1.0


def test_mcnemar_is_statsmodels():
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables", reason="statsmodels is not installed")
    table = [[80, 12], [3, 5]]
    mine, theirs = [1] * 92 + [0] * 8, [1] * 80 + [0] * 12 + [1] * 3 + [0] * 5
    assert mcnemar(mine, theirs) == pytest.approx(contingency.mcnemar(table, exact=True).pvalue)


def test_an_aa_row_ties_with_its_twin_and_two_points_are_told_apart(simulations):
    for unequal, shared in ((0.0, 0.0), (0.0, 0.3), (0.5, 0.0)):
        found = simulations.ranks(10, unequal, shared, runs=300)
        assert found.twins_apart <= 0.05
        assert found.any_apart <= 0.10
        assert found.told >= 0.90


def test_added_seeds_keep_the_error_and_find_more(simulations):
    found = simulations.ranks(6, 0.0, 0.0, runs=300, gap=0.5, most=12)
    assert found.any_apart <= 0.07
    assert found.told >= simulations.ranks(6, 0.0, 0.0, runs=300, gap=0.5).told + 0.3
    assert found.seeds < 12


# Ranks over pairs


def test_places_wins_and_borda():
    scores = np.array([[3, 1, 2], [2, 1, 5], [1, 0, 1]])
    assert places(scores).tolist() == [[1, 1.5, 2], [2, 1.5, 1], [3, 3, 3]]
    assert places(scores)[:, 0].tolist() == list(stats.rankdata(-scores[:, 0]))
    assert wins(scores).tolist() == [[0, 1.5, 3], [1.5, 0, 3], [0, 0, 0]]
    assert borda(scores) == pytest.approx([1.5, 1.5, 3])


def test_places_are_the_ranks_of_scipy():
    scores = np.random.default_rng(0).integers(0, 9, (4, 30, 5)) / 10
    assert (places(scores) == stats.rankdata(-scores, axis=-2)).all()


@pytest.mark.parametrize("count", [2, 3, 10, 61, 500])
def test_the_quantile_of_the_range_is_that_of_scipy(count):
    for level in (0.05, 0.001):
        expected = stats.studentized_range.ppf(1 - level, count, np.inf)
        assert range_quantile(count, level) == pytest.approx(expected, rel=1e-8)


def test_the_critical_difference_is_the_published_one():
    # Demsar 2006, table 5: q(0.05) is 1.960 for two rows, 2.343 for three and 3.164 for ten.
    for rows, q in ((2, 1.960), (3, 2.343), (10, 3.164)):
        expected = q * math.sqrt(rows * (rows + 1) / (6 * 14))
        assert critical_difference(rows, 14, level=0.05) == pytest.approx(expected, rel=1e-3)


def test_cliques_are_the_largest_groups():
    assert cliques([1.0, 1.5, 2.2, 4.0], 1.0) == [(0, 1), (1, 2)]
    assert cliques([3.0, 1.0, 2.0], 5.0) == [(1, 2, 0)]
    assert cliques([1.0, 3.0], 1.0) == []


def test_drawn_again_rows_share_their_pairs_and_seeds(random, monkeypatch):
    scores = random.normal(size=(1, 5, 3))
    both = np.concatenate([scores, scores + 2])
    (whole,) = redrawn(both, 200)
    drawn = whole.over_pairs(whole.means)
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * both.size)
    blocks = list(redrawn(both, 200))
    assert [len(block.which) for block in blocks] == [7] * 28 + [4]
    assert (np.concatenate([block.over_pairs(block.means) for block in blocks]) == drawn).all()
    assert drawn.shape == (200, 2)
    assert drawn[:, 1] - drawn[:, 0] == pytest.approx(2)
    assert whole.means.shape[1] <= 5 * 10  # of three seeds with replacement there are ten choices
    assert whole.over_pairs(places(whole.means)) == pytest.approx(np.array([[2.0, 1.0]] * 200))
    low, high = percentiles(drawn, 5)
    assert (low < both.mean(axis=(1, 2))).all()
    assert (both.mean(axis=(1, 2)) < high).all()


def test_the_bootstrap_over_pairs_holds_what_is_true(simulations):
    for pairs in (6, 13):
        assert 0.92 <= simulations.over_pairs(pairs, runs=300) <= 0.99


def test_few_pairs_are_not_summed_up():
    assert across({}, "last", None) is None


# Seeds and images


def test_the_crossed_interval_is_the_analysis_of_variance(random):
    gaps = random.normal(size=(4, 30)) + random.normal(0, 2, (4, 1)) + random.normal(0, 1, 30)
    n, images = gaps.shape
    by_seed, by_image, mean = gaps.mean(axis=1), gaps.mean(axis=0), gaps.mean()
    rest = ((gaps - by_seed[:, None] - by_image + mean) ** 2).sum() / ((n - 1) * (images - 1))
    total = images * by_seed.var(ddof=1) + n * by_image.var(ddof=1) - rest
    found = crossed_interval(gaps)
    doubt = (images * by_seed.var(ddof=1)) ** 2 / 3 + (n * by_image.var(ddof=1)) ** 2 / 29 + rest**2 / 87
    half = stats.t.ppf(0.975, total**2 / doubt) * math.sqrt(total / (n * images))
    assert (found.mean, found.half) == (pytest.approx(mean), pytest.approx(half))


def test_its_mean_squares_are_statsmodels(random):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    formula = pytest.importorskip("statsmodels.formula.api", reason="statsmodels is not installed")
    anova = pytest.importorskip("statsmodels.stats.anova", reason="statsmodels is not installed")
    gaps = random.normal(size=(3, 8)) + random.normal(0, 1, (3, 1))
    rows = [{"seed": seed, "image": image, "gap": gaps[seed, image]} for seed in range(3) for image in range(8)]
    fitted = formula.ols("gap ~ C(seed) + C(image)", pandas.DataFrame(rows)).fit()
    squares = anova.anova_lm(fitted)["mean_sq"]
    assert squares["C(seed)"] == pytest.approx(8 * gaps.mean(axis=1).var(ddof=1))


def test_one_seed_or_one_image_has_no_crossed_interval():
    assert crossed_interval([[1.0, 0.0, 2.0]]).half is None
    assert crossed_interval([[1.0], [2.0]]).half is None
    assert crossed_interval(np.zeros((3, 5))).half is None


def test_the_crossed_interval_covers_at_three_seeds(simulations):
    for source in simulations.SOURCES:
        found = simulations.coverage(source, seeds=3, images=200, runs=150)
        assert 0.88 <= found.both <= 1.0
        assert 0.88 <= found.moderated <= 1.0
    found = simulations.coverage("images", seeds=3, images=200, runs=150)
    assert found.seeds_alone < found.moderated
    assert found.bootstrap_width > 1.15


# Profiles and costs


def test_a_profile_counts_the_pairs_on_which_a_row_is_close_to_the_best():
    assert profile([[70, 60], [69, 61]], [0, 1]).tolist() == [[0.5, 1.0], [0.5, 1.0]]
    assert profile([[70, 60], [69, 55]], [0, 1]).tolist() == [[1.0, 1.0], [0.0, 0.5]]


def test_the_front_has_what_nothing_beats_in_both():
    assert front([1, 2, 2, 3], [70, 71, 69, 71]).tolist() == [True, True, False, False]
    assert front([1, 1], [70, 70]).tolist() == [True, True]


# Drops


def test_one_cell_is_students_two_sample_test(random):
    old, new = list(random.normal(70, 1, 5)), list(random.normal(69, 1, 4))
    found = drops([old], [new])
    expected = stats.ttest_ind(old, new, alternative="greater")
    assert found.p == pytest.approx(expected.pvalue)
    assert found.most == pytest.approx(stats.ttest_ind(old, new).confidence_interval(0.9).high)


def test_cells_may_have_different_numbers_of_seeds_and_one_seed_borrows_a_spread():
    found = drops([[70, 71, 70.5], [60, 61]], [[70.2], [60.5, 60.1, 60.4]])
    assert list(found.drop) == pytest.approx([0.3, 60.5 - 181 / 3])
    assert (found.df > 0).all()
    alone = drops([[70.0]], [[60.0]])
    assert alone.p[0] == 1.0
    assert not alone.failed().any()
    assert not alone.passed().any()


def test_the_gate_errs_as_rarely_as_it_says(simulations):
    for unequal in (0.0, 0.5):
        found = simulations.gate(60, 3, 0.2, unequal, runs=150)
        assert found.false_fail <= 0.06
        assert found.false_fail_after_run <= 0.08
        assert found.passed <= 0.003
    assert simulations.gate(60, 3, 0.2, 0.0, runs=100).fail >= 0.98
    assert simulations.gate(60, 10, 0.3, 0.0, runs=100).fail >= 0.92


def test_the_seeds_that_are_asked_for_decide(random):
    old, needed = 10, seeds_needed(0.0, 0.4, 100.0, 10, 3, 10)
    assert needed is not None
    assert needed[0] == old
    passed = 0
    for _ in range(200):
        found = drops(random.normal(70, 0.4, (10, old)), random.normal(70, 0.4, (10, needed[1])))
        passed += bool(found.passed()[0])
    assert passed / 200 >= 0.7


def test_a_small_baseline_is_asked_to_grow_and_the_hopeless_is_called_so():
    old, new = seeds_needed(0.1, 0.6, 60.0, 3, 3, 10)
    assert old == new > 3
    assert seeds_needed(0.25, 5.0, 60.0, 3, 3, 10) is None
    assert seeds_needed(1.0, 0.0, 0.0, 1, 1, 1) == (2, 2)


def test_a_detectable_drop_is_detected(random):
    old = random.normal(70, 0.3, (20, 10))
    drop = float(np.median(detectable(old)))
    shown = 0
    for _ in range(200):
        new = random.normal(70, 0.3, (20, 3))
        new[0] -= drop
        old = random.normal(70, 0.3, (20, 10))
        shown += bool(drops(old, new).failed(level=LEVELS[0])[0])
    assert 0.8 <= shown / 200 <= 1.0
    assert math.isinf(detectable([[70.0], [60.0]])[0])


def test_pairs_that_share_the_student_alone_count_as_one() -> None:
    """Six pairs of one student are one problem, seen six times; two of six students are averaged."""
    students = ["s0", "s0", "s1", "s2", "s3", "s4", "s5"]
    rng = np.random.default_rng(0)

    def cell(label: str, student: str, pair: str, values: list[float]) -> aggregate.Cell:
        scores = ({"last": {"top1": value}, "best_val": None, "best_test": None} for value in values)
        records = tuple(
            {"key": f"{label} {student if label == 'ce' else pair} {seed}", "seed": seed, "status": "finished",
             "scores": score, "weights_sha256": f"{seed}", "numerics": None}
            for seed, score in enumerate(scores)
        )  # fmt: skip
        return aggregate.Cell("s@1", "d", pair, label, label, 0, "measured", "", "", records)

    def table(students: list[str]) -> dict[str, dict[tuple[str, str], aggregate.Cell]]:
        alone = {student: list(rng.normal(70, 1, 3)) for student in students}
        pairs = [(f"t{at}:{student}", student) for at, student in enumerate(students)]
        return {
            "ce": {("d", pair): cell("ce", student, pair, alone[student]) for pair, student in pairs},
            "kd": {("d", pair): cell("kd", student, pair, list(rng.normal(71, 1, 3))) for pair, student in pairs},
        }

    found = across(table(students), "last", "ce")
    assert found is not None
    assert (found.pairs, found.averaged) == (6, True)
    assert across(table(["s0"] * 7), "last", "ce") is None
    apart = across(table(students[1:]), "last", "ce")
    assert apart is not None
    assert (apart.pairs, apart.averaged) == (6, False)


def test_two_rows_are_compared_at_the_seeds_that_they_share() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(9, 30))
    scores[rng.random(scores.shape) < 0.6] = np.nan
    scores[4], scores[7, :] = np.nan, np.nan
    scores[7, :3] = 1.0
    found = compare(scores)
    for at, (row, other) in enumerate(combinations(range(9), 2)):
        gaps = (scores[row] - scores[other])[np.isfinite(scores[row]) & np.isfinite(scores[other])]
        assert (found.first[at], found.second[at], found.n[at]) == (row, other, len(gaps))
        assert found.difference[at] == pytest.approx(gaps.mean() if len(gaps) else np.nan, nan_ok=True)


def test_the_seeds_of_other_rows_are_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 60
    scores = np.full((rows, 2 * rows), np.nan)
    for row in range(rows):
        scores[row, 2 * row : 2 * row + 2] = row
    looked_at: list[int] = []
    finite = np.isfinite
    monkeypatch.setattr(np, "isfinite", lambda values: (looked_at.append(values.size), finite(values))[1])
    assert not compare(scores).n.any()
    assert sum(looked_at) <= 4 * rows**2, "each row at its seeds beside each other one, and not at every seed"
