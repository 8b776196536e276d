"""The literature in order, on rows made by hand: gains, contexts, quotes, contradictions, and the audit."""

from __future__ import annotations

from typing import Any

import pytest

from kdbench.records.implementations import implementation, one_name
from kdbench.records.literature import Reported, Source, load
from kdbench.records.reported import (
    Tier,
    as_accuracy,
    best_against_last,
    claimed_against_logged,
    comparable,
    contexts,
    contradictions,
    folded,
    gain,
    gain_by_year,
    many_values,
)


def row(value: float, source: str = "one", method: str = "kd", **changes: Any) -> Reported:
    fields: dict[str, Any] = {
        "dataset": "cifar100", "teacher": "big", "student": "small", "method": method, "metric": "top1", "value": value,
        "std": None, "selection": "last", "provenance": "ran", "teacher_value": 75.0, "student_baseline": 70.0,
        "source": source, "locator": "Table 1", "notes": "", "printed": f"{value:.2f}", "printed_std": "",
    }  # fmt: skip
    return Reported(**{**fields, **changes})


def test_a_gain_is_over_the_student_alone_and_positive_where_it_is_better():
    assert gain(row(72.5)) == 2.5
    assert gain(row(28.0, metric="top1_error", student_baseline=30.0)) == 2.0
    assert gain(row(72.5, student_baseline=None)) is None
    assert gain(row(70.0, teacher="none")) is None, "the student alone gains nothing over itself"


def test_a_quote_is_folded_into_what_another_source_ran():
    ran, quote, again = row(72.5, "one"), row(72.5, "two", provenance="quoted"), row(72.5, "three", provenance="quoted")
    other, own = row(71.0, "two", provenance="quoted"), row(72.5, "four")
    found = folded([quote, ran, again, other, own])
    assert [(number.row, number.quotes) for number in found] == [(ran, (quote, again)), (other, ()), (own, ())]


def test_a_quote_of_nothing_that_is_known_stands_for_those_that_print_the_same():
    first, second = row(72.5, "one", provenance="quoted"), row(72.5, "two", provenance="quoted")
    (number,) = folded([first, second])
    assert (number.row, number.quotes) == (first, (second,))
    assert len(folded([first, row(72.5, "two", provenance="quoted", method="at")])) == 2


def test_quotes_over_different_students_alone_are_two_gains_whatever_their_order():
    quotes = [
        row(71.73, name, provenance="quoted", student_baseline=alone) for name, alone in (("a", 70.1), ("b", 69.8))
    ]
    silent = row(71.73, "c", provenance="quoted", student_baseline=None)
    for rows in (quotes, quotes[::-1]):
        assert [(number.row, number.quotes) for number in folded(rows)] == [(each, ()) for each in rows]
        assert len(folded([*rows, silent])) == 2
    ran = row(71.73, "d", student_baseline=69.75)
    assert [number.row for number in folded([*quotes, ran])] == [ran], "whoever ran it knows over what"


def test_a_quote_of_what_is_set_apart_is_set_apart_too():
    apart, quote = row(75.4, "own", apart="KD added"), row(75.4, "two", provenance="quoted")
    other, again = row(72.0, "two", provenance="quoted"), row(75.4, "three")
    assert comparable([apart, quote, other]) == [other]
    assert comparable([apart, quote, again]) == [quote, again], "somebody ran it who does not set it apart"


def test_an_error_is_an_accuracy_with_the_same_gain():
    error = row(28.75, metric="top1_error", teacher_value=23.84, student_baseline=31.13)
    found = as_accuracy(error)
    assert (found.metric, found.value, found.teacher_value) == ("top1", 71.25, 76.16)
    assert gain(found) == pytest.approx(gain(error))
    assert as_accuracy(row(72.0)) == row(72.0)
    assert as_accuracy(row(47.3, metric="test_error_percent")).metric == "test_error_percent"


def test_a_context_is_what_must_be_equal_and_holds_its_best_number_first():
    rows = [row(71.0), row(73.0, method="at"), row(72.0, method="pkt", selection="best_test"), row(74.0, recipe="crd")]
    found = contexts(folded(rows))
    assert [[number.row.value for number in context.numbers] for context in found] == [[73.0, 71.0], [74.0], [72.0]]
    errors = [row(value, metric="top1_error", method=f"m{value}") for value in (30.0, 28.0)]
    assert [number.row.value for number in contexts(folded(errors))[0].numbers] == [28.0, 30.0]


@pytest.mark.parametrize(
    ("changes", "tier", "differ_in"),
    [
        ({}, Tier.UNEXPLAINED, ()),
        ({"recipe": "crd"}, Tier.UNEXPLAINED, ("recipe",)),
        ({"selection": "best_test"}, Tier.EXPLAINED, ("selection",)),
        ({"teacher_value": 76.0}, Tier.EXPLAINED, ("teacher accuracy",)),
        ({"student_baseline": 71.0}, Tier.EXPLAINED, ("student alone",)),
        ({"apart": "other teachers"}, Tier.APART, ()),
    ],
)
def test_a_contradiction_is_told_by_what_else_differs(changes, tier, differ_in):
    (found,) = contradictions([row(71.0, "one"), row(72.0, "two", **changes)])
    assert (found.tier, found.spread, found.differ_in) == (tier, 1.0, differ_in)


def test_two_stated_recipes_explain_a_contradiction():
    (found,) = contradictions([row(71.0, "one", recipe="crd"), row(72.0, "two", recipe="pld")])
    assert found.tier is Tier.EXPLAINED


def test_the_gravest_tier_gives_the_spread_and_one_source_contradicts_nobody():
    rows = [row(71.0, "one"), row(71.5, "two"), row(75.0, "three", selection="best_test")]
    (found,) = contradictions(rows)
    assert (found.tier, found.spread) == (Tier.UNEXPLAINED, 0.5)
    assert not contradictions([row(71.0), row(72.0)])
    assert not contradictions([row(71.004), row(71.0, "two")]), "rounding"


def test_the_audit_of_epochs_and_logs():
    best, last = row(73.0, selection="best_test", provenance="log"), row(72.5, provenance="log")
    claim = row(73.25, "authors", selection="best_test")
    rows = [best, last, claim, row(90.0, "two", method="at")]
    (gap,) = best_against_last(rows)
    assert (gap.claimed, gap.found, gap.better) == (best, last, 0.5)
    log, own, other = best.source, "kd -", "-"
    sources = {
        name: Source(name, "A paper", "", "", "", 2020, proposes)
        for name, proposes in ((log, own), ("authors", "kd"), ("two", other))
    }
    (claimed,) = claimed_against_logged([*rows, row(74.0, "two", selection="best_test")], sources)
    assert (claimed.claimed, claimed.found, claimed.better) == (claim, best, 0.25), "others claim nothing of that log"
    errors = [row(27.0, metric="wer", selection="best_test"), row(27.5, metric="wer")]
    assert best_against_last(errors)[0].better == 0.5, "a smaller error is the better one"


def test_many_values_are_those_of_several_sources_that_ran_them():
    rows = [row(71.0, "one"), row(71.5, "two"), row(72.0, "three"), row(72.0, "four", provenance="quoted")]
    (spread,) = many_values(rows)
    assert ([n.value for n in spread.numbers], spread.low, spread.high) == ([71.0, 71.5, 72.0], 71.0, 72.0)
    (spread,) = many_values([*rows, row(79.0, "five", provenance="quoted")])
    assert spread.high == 72.0, "nor is a quote whose original is not at hand"
    assert not many_values([*rows[:2], row(72.0, "three", apart="other teachers")])


def test_a_year_has_the_middle_of_what_its_sources_ran():
    sources = {name: Source(name, "A paper", "", "", "", year) for name, year in (("one", 2020), ("two", None))}
    rows = [row(70.0 + gain, method=f"m{gain}") for gain in (0.0, 1.0, 2.0, 3.0, 9.0)]
    (year,) = gain_by_year([*rows, row(99.0, "two"), row(99.0, apart="no"), row(99.0, provenance="quoted")], sources)
    assert (year.year, year.sources, year.numbers) == (2020, 1, 5)
    assert (year.low, year.middle, year.high) == (1.0, 2.0, 3.0)
    assert not gain_by_year(rows[:3], sources), "of three numbers no middle is told"


@pytest.mark.parametrize(
    ("printed", "trained"),
    [
        ("kd+lskd", "lskd(kd)"),
        ("kd+lskd(T=2,w_kd=9.0)", "lskd(kd)"),
        ("kd+ctkd+lskd", "lskd(ctkd)"),
        ("kd+ctkd", "ctkd"),
        ("kd+dot", "dot(kd)"),
        ("wttm+crd", "wttm+crd"),
        ("baseline_ce", "ce"),
        ("kd(T=20)", "kd"),
        ("kd++", "nd"),
        ("vitkd+nkd", None),
        ("lskd", "lskd"),
        ("", None),
        ("a+(b", None),
    ],
)
def test_a_printed_name_resolves_to_what_is_trained(printed, trained):
    assert implementation(printed) == trained


@pytest.mark.parametrize(
    ("printed", "known"),
    [("kd+lskd", "lskd(kd)"), ("kd++", "nd"), ("kd(T=2,w_kd=9.0)", "kd(T=2,w_kd=9.0)"), ("wttm_no_ce", "wttm_no_ce"),
     ("dkd", "dkd"), ("nobody", "nobody")],
)  # fmt: skip
def test_another_word_for_a_method_is_its_name_and_another_setting_is_none(printed, known):
    assert one_name(printed) == known


def test_what_the_shipped_numbers_say():
    """Counts of the committed rows, so that a change of them is seen."""
    rows = load().rows
    tiers = [found.tier for found in contradictions(rows)]
    assert [tiers.count(tier) for tier in Tier] == [45, 86, 71]
    assert all(found.better > 0 for found in best_against_last(rows))
