"""Two rows wherever both were measured, and what speaks for a method on a pair: on numbers made by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from kdbench.records.literature import Literature, Reported, load
from kdbench.render.catalogue import Catalogue
from kdbench.render.versus import Place, Versus, all_versus
from kdbench.stats.evidence import Evidence, Measured, Printed, best_supported, leading, ranked, ties
from kdbench.stats.intervals import Interval, t_quantile
from kdbench.stats.standings import Standing
from kdbench.stats.versus import Meeting, disagreement, pooled


def met(mean: float, error: float, df: float = 4.0) -> Meeting:
    half = t_quantile(df, 0.95) * error
    return Meeting(Interval(3, mean, mean - half, mean + half), error**2, df, apart=abs(mean) > half)


def test_pairs_count_once_each_and_their_errors_add():
    found = pooled([met(2.0, 0.3), met(-1.0, 0.4)])
    assert found is not None
    assert found.n == 2
    assert found.mean == pytest.approx(0.5)
    variance = 0.3**2 + 0.4**2
    df = variance**2 / (0.3**4 / 4 + 0.4**4 / 4)
    assert found.half == pytest.approx(t_quantile(df, 0.95) * math.sqrt(variance) / 2)


@pytest.mark.parametrize(
    ("mean", "apart", "better"), [(2.0, True, "a"), (-2.0, True, "b"), (2.0, False, ""), (0.1, True, "")]
)
def test_a_page_calls_no_method_better_that_no_table_tells_apart(mean, apart, better):
    found = replace(met(mean, 0.3), apart=apart)
    assert Versus("a", "b", (Place(table=None, found=found, twice=False),), ()).better == better


def test_one_pair_pools_to_itself():
    one = met(1.5, 0.2)
    found = pooled([one])
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx(
        (one.difference.mean, one.difference.low, one.difference.high)
    )


def test_without_a_second_seed_there_is_no_interval():
    lonely = Meeting(Interval(1, 3.0), 0.0, 0.0, apart=False)
    assert pooled([lonely, met(1.0, 0.1)]) == Interval(2, 2.0)
    assert pooled([]) is None
    assert disagreement([lonely, met(1.0, 0.1)]) is None


def test_pairs_disagree_where_their_differences_are_far_apart_for_their_errors():
    # Q by hand: weights 1 / 0.25 each, mean 0.25, Q = 4 (1.75^2 + 1.75^2) = 24.5; one degree of freedom.
    assert disagreement([met(2.0, 0.5), met(-1.5, 0.5)]) == pytest.approx(math.erfc(math.sqrt(24.5 / 2)))
    agreeing = disagreement([met(1.0, 0.5), met(1.2, 0.5)])
    assert agreeing is not None
    assert agreeing > 0.5


def standing(label: str, top1: float, rank: tuple[int, int], gain: Interval | None) -> Standing:
    return Standing(label, "measured", 3, top1, rank, gain, None, None, None, efficient=False)


def test_evidence_is_ranked_by_grade_and_then_by_gain():
    full = Measured("full@1", False, 3, standing("a", 70.0, (2, 3), Interval(3, 1.0, 0.5, 1.5)))
    better = Measured("full@1", False, 3, standing("b", 71.0, (1, 1), Interval(3, 2.0, 1.2, 2.8)))
    short = Measured("short@1", True, 2, standing("c", 50.0, (1, 2), Interval(3, 9.0, 8.0, 10.0)))
    printed = {
        "d": [Printed("s1", 3.0, "re-run"), Printed("s2", 1.0, "re-run"), Printed("s3", 9.0, "quoted")],
        "e": [Printed("s1", 7.0, "authors")],
        "f": [Printed("s3", 8.0, "quoted")],
        "a": [Printed("s1", 20.0, "authors")],
    }
    found = ranked({("a", ""): [full], ("b", ""): [better], ("c", ""): [short]}, printed)
    assert [e.method for e in found] == ["b", "a", "d", "c", "e", "f"]
    assert [e.grade for e in found] == ["measured", "measured", "re-run", "measured short", "authors", "quoted"]
    of = {e.method: e for e in found}
    assert of["d"].sources == ("s1", "s2"), "a quote is no source of its own"
    assert (of["d"].reported.middle, of["d"].reported.low, of["d"].reported.high) == (2.0, 1.0, 3.0)
    assert of["f"].reported.middle == 8.0
    assert of["f"].sources == ()
    assert of["a"].gain == 0.5, "of what was measured, the lower end counts"
    assert [e.method for e, _ in best_supported(found, "full@1")] == ["b"]


def test_each_setting_of_a_method_is_evidence_of_its_own_and_has_nothing_printed():
    one = Measured("full@1", False, 2, standing("kd-t4", 71.0, (1, 1), Interval(3, 2.0, 1.2, 2.8)))
    other = Measured("full@1", False, 2, standing("kd-t1", 70.0, (2, 2), Interval(3, 1.0, 0.2, 1.8)))
    measured = {("kd", "kd-t1"): [other], ("kd", "kd-t4"): [one]}
    found = ranked(measured, {"kd": [Printed("s1", 3.0, "authors")]})
    assert [(e.method, e.label, e.grade) for e in found] == [
        ("kd", "kd-t4", "measured"),
        ("kd", "kd-t1", "measured"),
        ("kd", "kd", "authors"),
    ]
    assert [e.sources for e in found] == [(), (), ("s1",)]


def best(found: list[Evidence]) -> list[str]:
    return [found[place].method for place in leading(found, ties(found))]


def test_printed_gains_are_told_apart_by_what_compares_them():
    def ran(by: str = "re-run", **gains: float) -> list[Printed]:
        return [Printed(source, gain, by) for source, gain in gains.items()]

    printed = {
        "a": ran(s1=2.1, s2=2.2, s3=0.6),
        "b": ran(s3=0.5),  # by the one source that ran both it is level, and no other ran it
        "c": ran(s3=0.5, s4=0.4),  # and others found far less
        "d": ran(s5=1.81),
        "e": ran(s5=1.79),
        "f": ran(s3=-0.5),
        "g": [*ran(s6=0.1), *ran("authors", s7=9.0)],  # what its authors found is no re-run
    }
    found = ranked({}, printed)
    assert [e.method for e in found] == ["a", "d", "e", "b", "c", "g", "f"]
    assert best(found) == ["a", "d", "b"], "e is 0.31 below the middle of a"
    assert [e.helps for e in found] == [True] * 6 + [False]
    assert best([]) == []


def test_what_a_source_that_ran_both_prints_ahead_is_not_told_from_nothing():
    """A higher gain of another source leads only where nothing is printed ahead of it."""
    ran = {"a": ["s1", 3.2], "b": ["s1", 4.0], "c": ["s3", 3.0]}
    printed = {name: [Printed(source, gain, "re-run")] for name, (source, gain) in ran.items()}
    printed["b"].append(Printed("s2", 1.9, "re-run"))
    printed["b"].append(Printed("s4", 1.8, "re-run"))
    found = ranked({}, printed)
    assert [e.method for e in found] == ["a", "c", "b"]
    assert best(found) == ["c", "a"], "b is ahead of a where both were run, and c of b"
    assert best(found[:1]) == ["a"]
    told = ties(found)
    assert (told[0].level, told[0].beaten, told[1].beaten, told[2].beaten) == ((1,), (2,), (), (1,))


def test_a_gain_names_the_sources_that_it_is_of():
    found = Evidence("m", (), (Printed("x", 2.9, "authors"), Printed("y", 0.2, "re-run"), Printed("z", 0.4, "re-run")))
    assert (found.behind, found.sources) == (("y", "z"), ("x", "y", "z"))
    assert found.authors is not None
    assert (found.authors.middle, found.reported.middle) == (2.9, pytest.approx(0.3))
    own = Evidence("m", (), (Printed("x", 2.9, "authors"), Printed("q", 9.0, "quoted")))
    assert (own.behind, own.authors) == (("x",), None)


def test_sources_of_one_work_count_once_and_authors_are_no_re_run():
    logs = [Printed("x", 1.0, "authors", "them/x"), Printed("x_logs", 3.0, "authors", "them/x")]
    found = Evidence("m", (), (*logs, Printed("y", 5.0, "re-run"), Printed("z", 9.0, "quoted")))
    assert found.sources == ("x", "y")
    assert found.reported is not None
    assert (found.grade, found.reported.middle, found.reported.high) == ("re-run", 5.0, 5.0)
    alone = Evidence("m", (), tuple(logs))
    assert alone.reported is not None
    assert (alone.grade, alone.reported.middle, alone.reported.high) == ("authors", 2.0, 2.0)


def test_what_was_measured_is_level_where_a_suite_may_have_either_first():
    gained = Interval(3, 2.0, 1.2, 2.8)
    rows = {
        ("a", ""): [Measured("full@1", False, 3, standing("a", 71.0, (1, 2), gained))],
        ("b", ""): [Measured("full@1", False, 3, standing("b", 70.9, (1, 2), Interval(3, 1.9, 1.1, 2.7)))],
        ("c", ""): [Measured("full@1", False, 3, standing("c", 69.0, (3, 3), Interval(3, 0.5, 0.1, 0.9)))],
    }
    assert best(ranked(rows, {})) == ["a", "b"]
    chance = Measured("full@1", False, 3, standing("x", 70.0, (1, 3), Interval(3, 0.5, -0.2, 1.2)))
    assert not Evidence("x", (chance,)).helps


def test_a_row_without_a_gain_is_no_evidence():
    alone = Measured("full@1", False, 3, standing("x", 70.0, (1, 3), None))
    assert ranked({("x", ""): [alone]}, {}) == []
    assert Evidence("x", (alone,), (Printed("s", 1.0, "quoted"),)).grade == "quoted"


def test_what_one_source_prints_of_both_and_is_not_compared_stands_beside_it():
    shipped = load()
    ran = next(row for row in shipped.rows if row.metric == "top1" and row.provenance == "ran" and row.student_baseline)
    ran = replace(ran, apart="", selection="last")
    kd, dkd = (replace(ran, method=name, value=value) for name, value in (("kd", 70.0), ("dkd", 71.0)))
    other = replace(dkd, student="small", selection="best_test")
    rows = (kd, dkd, replace(kd, student="small"), other, replace(dkd, student="tiny", apart="another teacher"))
    versus = all_versus(Catalogue([], [], Literature(rows, shipped.sources), 0))["dkd", "kd"]
    assert [t.pair[2] for t in versus.printed] == [ran.student]
    assert [(t.pair[2], t.one, t.other) for t in versus.beside] == [("small", other, replace(kd, student="small"))]


def test_a_comparison_counts_what_a_source_ran_each_number_once():
    shipped = load()
    rows = [row for row in shipped.rows if row.metric == "top1" and row.teacher != "none"]
    ran = next(row for row in rows if row.provenance == "ran" and row.student_baseline and not row.apart)

    def row(method: str, value: float, **changes: object) -> Reported:
        return replace(ran, method=method, value=value, printed=str(value), **changes)

    quote = {"source": next(name for name in shipped.sources if name != ran.source), "provenance": "quoted"}
    printed = [
        *(row("kd", 70.0), row("dkd", 71.0)),
        *(row("kd", 70.0, **quote), row("dkd", 71.0, **quote)),  # of what stands above: its original's
        row("at", 60.0, **quote),  # of what is not at hand
        row("kd", 72.0, **quote),
        row("simkd", 99.0, apart="another teacher"),
    ]
    found = all_versus(Catalogue([], [], Literature(tuple(printed), shipped.sources), 0))
    assert found.keys() == {("dkd", "kd"), ("at", "kd")}
    assert [t.difference for t in found["dkd", "kd"].ran] == [1.0]
    assert (found["dkd", "kd"].ahead("dkd"), found["dkd", "kd"].ahead("kd")) == (1, 0)
    assert (len(found["at", "kd"].printed), found["at", "kd"].ran, found["at", "kd"].sources) == (1, [], [])
