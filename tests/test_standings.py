"""A suite's rows beside one another, and the words in which a run ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import ROOT
from render_records import predictions, record
from test_intervals import _record

from kdbench.cli.standings_text import lines
from kdbench.records import Store
from kdbench.render import build
from kdbench.stats.across import across
from kdbench.stats.aggregate import cells
from kdbench.stats.standings import Standings, looks_of, open_comparisons, standings, whole_rows


def records(**scores: list[float]) -> list[dict[str, Any]]:
    """Records of rows on one pair, a seed each; ``ce`` belongs to no teacher, ``NAME_again`` repeats a row."""
    made = []
    for label, values in scores.items():
        method, _, again = label.partition("_")
        for seed, top1 in enumerate(values):
            pair = "none:b" if method == "ce" else "a:b"
            cost = {"ratio_to_ce": 1.0 + 0.1 * len(method), "seconds": 60.0}
            made.append(_record(method, pair, seed, top1, label=label, stream=int(bool(again)), cost=cost))
    return made


def stand(**scores: list[float]) -> Standings:
    return standings(cells(records(**scores)), "last")


GOOD = {"ce": [70.0, 70.2, 69.9], "kd": [72.0, 72.3, 71.9], "at": [65.0, 65.1, 64.8], "kd_again": [72.1, 72.0, 72.2]}


def test_rows_that_are_not_told_apart_share_a_rank() -> None:
    found = stand(**GOOD)
    assert [row.label for row in found.rows] == ["kd_again", "kd", "ce", "at"]
    assert [row.rank for row in found.rows] == [(1, 2), (1, 2), (3, 3), (4, 4)]
    assert [row.kind for row in found.rows] == ["aa", "measured", "baseline", "measured"]
    kd = found.rows[1]
    assert kd.gain is not None
    assert kd.gain.mean == pytest.approx(2.0333, abs=1e-3)
    assert found.rows[2].gain is None


def test_the_yardstick_is_the_half_width_of_the_aa_difference() -> None:
    found = stand(**GOOD)
    ((label, twin, difference),) = found.twins
    assert (label, twin) == ("kd_again", "kd")
    assert found.noise == difference.half > abs(difference.mean)


def test_without_an_aa_row_it_is_the_usual_half_width() -> None:
    found = stand(ce=GOOD["ce"], kd=GOOD["kd"])
    assert found.noise == pytest.approx(float(found.comparisons.halves()[0]))


def test_one_seed_tells_nothing_of_seeds_and_something_of_two_networks() -> None:
    made = records(ce=[70.0], kd=[80.0])
    right = {"ce": np.arange(100) < 60, "kd": np.arange(100) < 80}
    found = standings(cells(made), "last", lambda record: right[record["label"]])
    assert [row.rank for row in found.rows] == [(1, 2), (1, 2)]
    assert found.noise is None
    assert found.rows[0].mcnemar is not None
    assert found.rows[0].mcnemar < 1e-5
    text = "\n".join(lines(found, "s@1", "last"))
    assert "One seed says nothing of other seeds" in text
    assert "kdbench run --suite s --seeds 3" in text
    assert "On these very images kd is told apart from the student alone" in text


def test_what_is_within_the_margin_is_not_open_and_aa_rows_never_are() -> None:
    found = stand(**GOOD)
    assert open_comparisons(found, 0.5) == []
    wide = stand(ce=[70, 72, 69], kd=[71, 73, 70.5], at=[60, 60.5, 61], kd_again=[70, 72, 71])
    assert open_comparisons(wide, 0.5) == [("kd", "ce")]
    assert open_comparisons(wide, 0.5, versus="at") == []


def test_a_row_without_all_pairs_or_with_two_configurations_has_no_rank() -> None:
    made = records(ce=[70.0, 71], kd=[71.0, 72])
    made += [
        _record("dkd", "c:b", 0, 50.0),
        _record("at", "a:b", 0, 1.0),
        _record("at", "a:b", 0, 2.0, config={"T": 8}),
    ]
    assert set(whole_rows(cells(made))) == {"ce"}
    found = standings(cells(made), "last")
    assert [row.label for row in found.rows] == ["ce"]
    assert found.apart == ("at", "dkd", "kd")
    assert "or a protocol or a supervision of their own: at, dkd, kd." in "\n".join(lines(found, "s@1", "last"))


def test_a_row_with_a_protocol_of_its_own_is_not_ranked_beside_the_student_alone() -> None:
    longer = {"epochs": 240}
    made = records(**GOOD) + [_record("dkd", "a:b", seed, 90.0 + seed, protocol=longer) for seed in range(3)]
    found = standings(cells(made), "last")
    assert "dkd" not in [row.label for row in found.rows]
    assert found.apart == ("dkd",)
    without = [record for record in made if record["method"] != "ce"]
    assert next(row.label for row in standings(cells(without), "last").rows) == "dkd"


def test_someone_elses_records_have_no_rank() -> None:
    made = records(**GOOD)
    made += [_record("kd", "a:b", seed, 99.0, evidence="contributed") for seed in range(3)]
    assert stand(**GOOD).comparisons.difference == pytest.approx(standings(cells(made), "last").comparisons.difference)


def test_replicates_of_a_seed_count_once_in_accuracy_and_images() -> None:
    made = [*records(ce=[50.0, 52.0], kd=[60.0, 62.0]), _record("kd", "a:b", 0, 70.0)]
    right = {50.0: 50, 52.0: 52, 60.0: 60, 62.0: 62, 70.0: 70}
    found = standings(cells(made), "last", lambda r: np.arange(100) < right[r["scores"]["last"]["top1"]])
    (kd,) = [row for row in found.rows if row.label == "kd"]
    assert kd.gain is not None
    assert kd.gain_on_images is not None
    assert kd.gain.mean == pytest.approx(kd.gain_on_images.mean) == pytest.approx(12.5)


def test_the_pareto_front_leaves_out_what_costs_more_for_less() -> None:
    assert {row.label for row in stand(**GOOD).rows if row.efficient} == {"kd"}


def test_added_seeds_are_known_by_the_records_and_said() -> None:
    made = records(**GOOD)
    for each in made:
        each["provenance"] = {"looks": [3, 5]} if each["label"] == "kd" else {}
    found = standings(cells(made), "last")
    assert found.looks == (3, 5)
    assert {cell.label for cell in cells(made) if looks_of(cell)} == {"kd"}
    assert "looks at 3, 5 seeds" in "\n".join(lines(found, "s@1", "last"))


def test_a_run_ends_with_a_table_as_text_or_markdown() -> None:
    found = stand(**GOOD)
    text = list(lines(found, "s@1", "last"))
    assert text[0] == "s@1 on a:b: top-1 at the last epoch, 3 seeds."
    assert text[2].split() == ["rank", "row", "top-1", "gain", "on", "other", "images", "cost", "time"]
    assert text[3].startswith("1–2   kd_again (A/A)  72.10  +2.07 ± ")
    marked = list(lines(found, "s@1", "last", "markdown"))
    assert marked[0] == "**s@1 on a:b: top-1 at the last epoch, 3 seeds.**"
    assert marked[3].count("|") == marked[4].count("|") == 8
    assert list(lines(standings([], "last"), "s@1", "last")) == []


def test_committed_suites_stand_as_their_predictions_say() -> None:
    store = Store(ROOT / "results")
    made = [
        record for record in store.read()[0] if record["suite"] == "fashion_mnist@1" and record["label"] != "teacher"
    ]

    def right(record: Any) -> Any:
        arrays = store.predictions(record)
        return arrays["last_top5"][:, 0] == arrays["labels"]

    found = standings(cells(made), "last", right)
    assert found.images == 10_000
    assert [row.label for row in found.rows if row.rank[0] == 1] == ["dist", "wttm"]
    for row in found.rows:
        if row.gain:
            assert row.gain_on_images is not None
            assert row.gain_on_images.mean == pytest.approx(row.gain.mean, abs=1e-6)
    assert any("3 seeds do not tell" in line for line in lines(found, "fashion_mnist@1", "last"))


def test_six_pairs_are_summed_up_and_five_are_not() -> None:
    rng = np.random.default_rng(0)
    for pairs in (5, 6):
        made = []
        for number in range(pairs):
            for label, above in (("ce", 0.0), ("kd", 2.0), ("dkd", 2.2)):
                for seed in range(3):
                    top1 = 60 + 2 * number + above + float(rng.normal(0, 0.3))
                    made.append(_record(label, f"a:s{number}", seed, top1))
        found = across(whole_rows(cells(made)), "last", "ce")
    assert found is not None
    assert set(found.rows) == {"ce", "kd", "dkd"}
    assert found.rows[2] == "ce"
    assert found.wins[2].tolist() == [0, 0, 0]
    assert found.gains[2] is None
    gain = found.gains[0]
    assert gain is not None
    assert gain.low is not None
    assert 1 < gain.low < gain.mean < 3
    assert ("dkd", "kd") in [tuple(sorted(clique)) for clique in found.cliques]
    assert across({}, "last", None) is None


def test_the_page_of_a_suite_with_six_pairs_has_the_table(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    students = ("resnet20", "resnet32", "resnet8x4", "wrn_16_2", "wrn_40_1", "vgg8")
    for number, student in enumerate(students):
        for method, teacher in (("ce", "none"), ("kd", "resnet56")):
            for seed in range(2):
                arrays = predictions(0.5 + 0.05 * number + 0.02 * (method == "kd"), 10 * number + seed)
                store.put(record(method, f"{teacher}:{student}", seed, suite="six@1", arrays=arrays), arrays)
    build(tmp_path / "results", tmp_path / "site")
    (page,) = (tmp_path / "site" / "suites").glob("*.html")
    text = page.read_text(encoding="utf-8")
    assert "Over pairs" in text
    assert "Mean place" in text


def test_the_page_says_what_a_rank_is_and_that_seeds_were_added(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    for method, pair in (("ce", "none:resnet20"), ("kd", "resnet56:resnet20")):
        for seed in range(2):
            arrays = predictions(0.5 + 0.1 * (method == "kd"), seed)
            made = record(method, pair, seed, arrays=arrays)
            store.put({**made, "provenance": {**made["provenance"], "looks": [2, 5]}}, arrays)
    build(tmp_path / "results", tmp_path / "site")
    (page,) = (tmp_path / "site" / "suites").glob("*.html")
    text = page.read_text(encoding="utf-8")
    assert "rows share one where neither is shown to be better" in text
    assert "with looks at 2, 5 seeds" in text
    assert "★ no row costs as little" in text


def test_a_pair_on_two_data_sets_counts_twice_and_keeps_no_row_out() -> None:
    made = [
        _record(method, "none:b" if method == "ce" else "a:b", seed, top1 + seed / 10, dataset=data)
        for data in ("digits", "mnist")
        for method, top1 in (("ce", 90.0), ("kd", 92.0))
        for seed in range(3)
    ]
    found = standings(cells(made), "last")
    assert [row.label for row in found.rows] == ["kd", "ce"]
    assert (found.pairs, found.apart) == (("a:b", "a:b"), ())
