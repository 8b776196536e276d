"""Intervals against scipy.stats, and the arithmetic from records to cells, gains and A/A differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdbench.stats import aggregate
from kdbench.stats.aggregate import baseline, cells, difference, doubled, mean_gain, students, summary
from kdbench.stats.intervals import equivalent, t_interval


def _record(method="kd", pair="a:b", seed=0, top1=50.0, *, label=None, stream=0, status="finished", **changes):
    identity = {
        "data": "d",
        "protocol": changes.pop("protocol", {"epochs": 4}),
        "student": pair.partition(":")[2],
        "teacher": pair.partition(":")[0],
        "supervision": "full",
        "method": {"name": method, "config": changes.pop("config", {})},
        "seed": seed,
        "stream": stream,
    }
    scores = {"last": {"top1": top1}, "best_val": None, "best_test": {"top1": top1 + 1}}
    made = {
        "suite": "s@1", "dataset": "d", "pair": pair, "label": label or method, "method": method, "stream": stream,
        "evidence": "measured", "identity": identity, "seed": seed, "key": f"{method}{pair}{seed}{stream}",
        "status": status,
        "scores": scores if status == "finished" else {"last": None, "best_val": None, "best_test": None},
        "numerics": {"torch": "2", "device": "cpu", "isa": "x"}, "cost": {"ratio_to_ce": 1.5},
    }  # fmt: skip
    return {**made, **changes}


def _cell(made, label, pair):
    (found,) = [c for c in made if (c.label, c.pair) == (label, pair)]
    return found


@given(st.lists(st.floats(0, 100), min_size=2, max_size=8))
def test_interval_is_scipys(values):
    found = t_interval(values)
    with np.errstate(all="ignore"):
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    if stats.sem(values) > 1e-9:
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values))


def test_level_changes_the_width():
    wide, narrow = t_interval([1, 2, 4], 0.99), t_interval([1, 2, 4], 0.5)
    assert wide.half == pytest.approx(stats.t.ppf(0.995, 2) * stats.sem([1, 2, 4]))
    assert narrow.half == pytest.approx(stats.t.ppf(0.75, 2) * stats.sem([1, 2, 4]))


def test_one_value_has_no_interval():
    found = t_interval([71.5])
    assert (found.n, found.mean, found.low, found.high, found.half) == (1, 71.5, None, None, None)


def test_no_value_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])


def test_gain_is_paired_by_the_seeds_both_finished():
    records = [_record("ce", "none:b", seed, top1) for seed, top1 in ((0, 40.0), (1, 60.0), (3, 10.0))]
    records += [_record("kd", "a:b", seed, top1) for seed, top1 in ((0, 42.0), (1, 63.0), (2, 99.0))]
    made = cells(records)
    kd = _cell(made, "kd", "a:b")
    gain = difference(kd, baseline(kd, students(made)))
    # Unpaired, the spread of the seeds (20 points) would hide the gain.
    assert (gain.n, gain.mean) == (2, 2.5)
    assert gain.half == pytest.approx(stats.t.ppf(0.975, 1) * stats.sem([2.0, 3.0]))


def test_the_student_alone_is_shown_on_every_pair_of_its_student_and_nowhere_else():
    made = cells([_record("ce", "none:b"), _record(pair="a:b"), _record(pair="c:b"), _record(pair="a:z")])
    assert [c.pair for c in made if c.label == "ce"] == ["a:b", "c:b"]
    assert baseline(_cell(made, "kd", "a:z"), students(made)) is None
    assert baseline(_cell(made, "ce", "a:b"), students(made)) is None


def test_a_student_alone_without_a_pair_stays_where_it_is():
    assert [c.pair for c in cells([_record("ce", "none:b"), _record(pair="a:z")])] == ["a:z", "none:b"]


def test_a_baseline_of_another_protocol_is_no_baseline():
    other = {"epochs": 240}
    made = cells([_record("ce", "none:b", protocol=other), _record(pair="a:b"), _record(pair="c:b", protocol=other)])
    assert baseline(_cell(made, "kd", "a:b"), students(made)) is None
    assert baseline(_cell(made, "kd", "c:b"), students(made)).pair == "c:b"


def test_configurations_and_evidence_are_never_pooled():
    records = [
        _record(seed=0, top1=50),
        _record(seed=1, top1=60, config={"T": 8}),
        _record(seed=2, top1=70, evidence="contributed"),
    ]
    assert sorted(summary(c).mean for c in cells(records)) == [50, 60, 70]


def test_selections_are_never_mixed():
    (cell,) = cells([_record(seed=0, top1=50), _record(seed=1, top1=52)])
    assert summary(cell).mean == 51
    assert summary(cell, selection="best_test").mean == 52
    assert summary(cell, selection="best_val") is None


def test_failed_trials_are_counted_and_enter_no_mean():
    (cell,) = cells([_record(seed=0, top1=50), _record(seed=1, status="diverged"), _record(seed=2, status="crashed")])
    assert cell.statuses == {"crashed": 1, "diverged": 1, "finished": 1}
    assert (summary(cell).n, summary(cell).mean) == (1, 50)


def test_replicates_of_a_seed_count_once():
    records = [_record(seed=0, top1=50), _record(seed=0, top1=52), _record(seed=1, top1=61)]
    (cell,) = cells(records)
    assert cell.replicated == (0,)
    assert (summary(cell).n, summary(cell).mean) == (2, 56)


def test_an_aa_row_finds_the_row_it_repeats():
    records = [_record(seed=s, top1=50 + s) for s in range(3)]
    records += [_record(seed=s, top1=51 + s, label="kd-again", stream=1) for s in range(3)]
    records += [_record(seed=0, top1=90, label="kd-hot", config={"T": 8})]
    made = cells(records)
    again = _cell(made, "kd-again", "a:b")
    assert doubled(again, made).label == "kd"
    assert doubled(_cell(made, "kd", "a:b"), made) is None
    assert difference(again, doubled(again, made)).mean == 1


def test_different_numerics_within_a_cell_are_seen():
    gpu = {"torch": "2", "device": "cuda", "isa": "x"}
    (cell,) = cells([_record(seed=0), _record(seed=1, numerics=gpu), _record(seed=2, numerics=None)])
    assert cell.numerics == ("torch 2, cpu, x", "torch 2, cuda, x")


def test_mean_gain_averages_pairs_within_a_seed():
    records = [_record("ce", "none:b", s, 40.0 + s) for s in range(3)]
    records += [_record("kd", "a:b", s, 42.0 + 2 * s) for s in range(3)]
    records += [_record("kd", "c:b", s, 44.0 + s) for s in (0, 1)]
    made = cells(records)
    rows = [_cell(made, "kd", pair) for pair in ("a:b", "c:b")]
    found = mean_gain([(row, baseline(row, students(made))) for row in rows])
    # Seed 0: (2 + 4) / 2, seed 1: (3 + 4) / 2; seed 2 is missing on one pair.
    assert (found.n, found.mean) == (2, 3.25)
    assert mean_gain([]) is None


def test_a_cost_is_a_median_with_its_range_whatever_one_trial_met():
    costs = [{"ratio_to_ce": ratio} for ratio in (1.0, 1.01, 6.2)]
    records = [_record(seed=seed, cost=cost) for seed, cost in enumerate([*costs, None, {"ratio_to_ce": None}])]
    assert aggregate.cost(cells(records), "ratio_to_ce") == aggregate.Spread(1.01, 1.0, 6.2)
    assert aggregate.cost(cells(records[3:]), "ratio_to_ce") is None


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20, unique=True), st.floats(0.01, 1))
def test_equivalence_is_two_one_sided_tests(values: list[float], margin: float) -> None:
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    if abs(max(above, below) - 0.05) > 1e-6:
        assert equivalent(values, margin) == (max(above, below) < 0.05)


def test_one_difference_shows_no_equivalence() -> None:
    assert not equivalent([0.0], 0.4)
    assert equivalent([0.0, 0.0], 0.4)
