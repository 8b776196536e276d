"""Tuning: equal draws for every method, halving by held-out images, and rows that are chosen by records alone."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from bench import Bench, suite_text
from test_cli import Cli, cli  # noqa: F401
from test_studies import STUDY

from kdbench.cli import retry
from kdbench.errors import UserError
from kdbench.methods import METHODS
from kdbench.methods.reading import spec_from
from kdbench.methods.search import drawn
from kdbench.records import Store
from kdbench.studies import STUDIES
from kdbench.suites import Suite, get_suite, parse_suite
from kdbench.suites.rungs import best, candidates, course, outlook
from kdbench.suites.suite import Row
from kdbench.suites.tuning import Tuning

MakeSuite = Callable[[str], Suite]

TUNE = """
[tune]
methods = ["kd", "lskd(kd)"]
configs = 4
keep = [2]
epochs = [1, 2]
seed = 7
"""
AT = ("--device", "cpu", "--slots", "1")


def tuned_text(tune: str = TUNE, **more: Any) -> str:
    return suite_text(["ce"], seeds=[0, 1], extra=tune, **more)


def tuning_of(suite: Suite) -> Tuning:
    assert suite.tuning is not None
    return suite.tuning


# Draws.


def test_a_draw_belongs_to_seed_method_and_number_alone() -> None:
    kd = METHODS.get("kd")
    assert drawn(kd, 0, 3, "here") == drawn(kd, 0, 3, "here")
    assert len({str(drawn(kd, seed, number, "")) for seed in (0, 1) for number in range(20)}) == 40
    assert drawn(METHODS.get("ttm"), 0, 3, "")["gamma"] != drawn(METHODS.get("wttm"), 0, 3, "")["gamma"]
    assert drawn(kd, 0, 3, "") == {"ce_weight": 0.171, "temperature": 1.74}  # the same on every machine


@pytest.mark.parametrize("name", ["kd", "ttm", "wttm", "dist", "dkd", "lskd(kd)"])
def test_draws_fill_the_range_of_the_card(name: str) -> None:
    spec, _ = METHODS.resolve(name)
    draws = [drawn(spec, 0, number, "here") for number in range(200)]
    for knob, value in draws[0].items():
        search = spec.hyperparameters[knob].search
        assert search is not None
        assert isinstance(value, float)
        values = sorted(float(draw[knob]) for draw in draws)
        assert search.low <= values[0]
        assert values[-1] <= search.high
        middle = (search.low * search.high) ** 0.5 if search.log else (search.low + search.high) / 2
        assert 70 <= sum(value < middle for value in values) <= 130  # 100 and four deviations
    spec.config("", draws[0], "here")


def test_whole_numbers_stay_whole_and_even_draws_are_even() -> None:
    knob = {"type": "int", "default": 2, "source": "ours", "search": {"low": 1, "high": 9, "source": "ours"}}
    raw = {**_card(), "hyperparameters": {"k": knob}}
    values = [drawn(spec_from(raw, "here"), 0, number, "here")["k"] for number in range(400)]
    assert {type(value) for value in values} == {int}
    assert set(values) == set(range(1, 10))
    assert sum(map(int, values)) / 400 == pytest.approx(5, abs=0.5)


def _card() -> dict[str, Any]:
    return {
        "name": "own",
        "title": "Own",
        "version": 1,
        "family": "logit",
        "summary": "For tests.",
        "implementation": "own:Own",
        "unpublished": True,
        "terms": {"ce": "task"},
    }


@pytest.mark.parametrize(
    ("knob", "words"),
    [
        ({"type": "str", "default": "a", "search": {"low": 0, "high": 1, "source": ""}}, "search is for numbers"),
        ({"type": "float", "default": 1.0, "search": {"low": 2, "high": 1, "source": ""}}, "a low below its high"),
        ({"type": "float", "default": 1.0, "search": {"low": 0, "high": 1, "log": True, "source": ""}}, "above 0"),
        ({"type": "float", "default": 1.0, "max": 2, "search": {"low": 1, "high": 3, "source": ""}}, "must lie in"),
        ({"type": "float", "default": 1.0, "search": {"low": 1, "high": 3}}, "lacks 'source'"),
        ({"type": "float", "default": 1.0, "search": {"low": 1, "high": 3, "source": "", "x": 1}}, "unknown field 'x'"),
        ({"type": "float", "default": 1.0, "search": 3}, "search must be a dict"),
    ],
)
def test_a_range_that_cannot_be_is_refused(knob: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=r"own\.toml") as error:
        spec_from({**_card(), "hyperparameters": {"k": {"source": "ours", **knob}}}, "own.toml")
    assert words in str(error.value)


# The table of a suite.


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"kd", "lskd(kd)"', '"kd", "fitnet"', "'fitnet' cannot be tuned, as its card gives no range"),
        ('"kd", "lskd(kd)"', '"kd", "kd"', "different methods"),
        ('"kd", "lskd(kd)"', '"kd", "nonsense"', "nonsense"),
        ("keep = [2]", "keep = [4]", "fall from 4"),
        ("keep = [2]", "keep = [0]", "fall from 4"),
        ("epochs = [1, 2]", "epochs = [1]", "2 whole numbers"),
        ("epochs = [1, 2]", "epochs = [2, 1]", "must rise"),
        ("epochs = [1, 2]", "epochs = [1, 200000]", "epochs must be at most 100,000"),
        ("seed = 7", "seed = 1", "seed 1 is one of the suite's"),
        ("configs = 4", "configs = 1", "configs must be at least 2"),
        ("seed = 7", "seed = 7\nbudget = 1", "unknown field 'budget'"),
    ],
)
def test_what_is_wrong_in_tune_is_said_with_its_place(old: str, new: str, words: str) -> None:
    assert old in TUNE
    with pytest.raises(UserError, match=r"tiny\.toml") as error:
        parse_suite(tuned_text(TUNE.replace(old, new)), "tiny.toml")
    assert words in str(error.value)


def test_tuning_needs_held_out_images_and_one_pair() -> None:
    with pytest.raises(UserError, match="give the protocol a holdout"):
        parse_suite(tuned_text().replace("holdout = 97", "holdout = 0"), "tiny.toml")
    pair = '[[pairs]]\nteacher = "tutor"\nstudent = "tiny_cnn_m"\n'
    with pytest.raises(UserError, match="has one pair, not 2"):
        parse_suite(tuned_text(pair + TUNE), "tiny.toml")
    with pytest.raises(UserError, match="'tuned-kd' occurs twice"):
        parse_suite(tuned_text().replace('name = "ce"', 'name = "ce"\nlabel = "tuned-kd"'), "tiny.toml")


# Halving.


def test_the_best_of_each_method_go_on_and_of_equals_those_drawn_first() -> None:
    rows = [Row(f"{method}-{number}", method, {}) for method in ("a", "b") for number in range(3)]
    scores = {"a-0": 1.0, "a-1": 3.0, "a-2": 3.0, "b-0": 9.0, "b-1": -float("inf"), "b-2": 8.0}
    assert [row.label for row in best(rows, scores, 2)] == ["a-1", "a-2", "b-0", "b-2"]


def recorded(suite: Suite, score: Callable[[str], float | None], created: str = "2020") -> list[dict[str, Any]]:
    """Made-up results of the rows of a rung."""
    (pair,) = suite.pairs
    return [
        {
            "suite": suite.id,
            "label": row.label,
            "seed": suite.seeds[0],
            "config": METHODS.get(row.method).config(pair.name, row.config, ""),
            "identity": {"protocol": pair.protocol.identity()},
            "status": "finished" if score(row.label) is not None else "diverged",
            "scores": {"last": None if score(row.label) is None else {"val_top1": score(row.label), "top1": 1.0}},
            "provenance": {"created": created},
        }
        for row in suite.rows
    ]


def test_a_course_goes_from_rung_to_rung_by_held_out_accuracy() -> None:
    suite = parse_suite(tuned_text(), "tiny.toml")
    tuning = tuning_of(suite)
    begun = course(suite, tuning, [])
    (first,) = begun.rungs
    assert (first.suite.id, len(first.suite.rows), first.suite.seeds) == ("tiny-rung-1@1", 8, (7,))
    assert first.suite.pairs[0].protocol.epochs == first.suite.protocol.epochs == 1
    assert not first.complete
    reached = {"kd-1": 50.0, "kd-3": 60.0, "lskd(kd)-0": 10.0}
    records = recorded(first.suite, lambda label: reached.get(label, 5.0 if label != "lskd(kd)-1" else None))
    assert len(course(suite, tuning, records[:-1]).rungs) == 1, "a rung is left when all of it has ended"
    second = course(suite, tuning, records).rungs[1]
    assert [row.label for row in second.suite.rows] == ["kd-3", "kd-1", "lskd(kd)-0", "lskd(kd)-2"]
    assert second.suite.pairs[0].protocol.epochs == 2
    records += recorded(second.suite, lambda label: {"kd-1": 70.0, "kd-3": 60.0}.get(label, 1.0))
    chosen = course(suite, tuning, records).chosen
    assert [row.label for row in chosen] == ["tuned-kd", "tuned-lskd(kd)"]
    drawn_first = {row.label: row.config for row in candidates(suite, tuning)}
    assert [row.config for row in chosen] == [drawn_first["kd-1"], drawn_first["lskd(kd)-0"]]


def test_what_another_machine_adds_later_changes_no_choice_and_no_other_trial_counts() -> None:
    suite = parse_suite(tuned_text(), "tiny.toml")
    tuning = tuning_of(suite)
    (first,) = course(suite, tuning, []).rungs
    records = recorded(first.suite, lambda label: float(label[-1]))
    later = recorded(first.suite, lambda label: -float(label[-1]), created="2021")
    assert course(suite, tuning, [*later, *records]).rungs[1] == course(suite, tuning, records).rungs[1]
    for strange in ({"config": {}}, {"seed": 0}, {"identity": {"protocol": {}}}, {"status": "crashed"}):
        assert not course(suite, tuning, [{**record, **strange} for record in records]).rungs[0].scores


def test_the_outlook_has_as_many_trials_as_there_will_be() -> None:
    suite = parse_suite(tuned_text(), "tiny.toml")
    ahead = outlook(suite, tuning_of(suite), course(suite, tuning_of(suite), []))
    assert [len(each.rows) for each in ahead] == [8, 4, 3]
    assert [each.pairs[0].protocol.epochs for each in ahead] == [1, 2, 2]
    assert ahead[-1].seeds == suite.seeds


# The command.


@pytest.fixture
def study() -> Iterator[None]:
    claim = STUDY.replace('of = "kd"', 'of = "tuned-kd"').replace('versus = "dkd"', 'versus = "tuned-lskd(kd)"')
    STUDIES.add("small", (claim, "small.toml"), "a test")
    yield
    del STUDIES._items["small"], STUDIES._origins["small"]


@pytest.mark.usefixtures("study")
def test_a_study_trains_rungs_and_then_what_they_chose(cli: Cli, bench: Bench, make_suite: MakeSuite) -> None:  # noqa: F811
    suite = make_suite(tuned_text())
    dry = cli("tune", "tiny", "--dry-run", *AT)
    assert dry.code == 3
    assert "tiny-rung-1@1: 8 trials" in dry.out
    assert "in all." in dry.out
    assert "go on by: kdbench tune tiny\n" in dry.out
    assert not list(bench.folder.glob("results/v1/tiny*"))
    before = cli("study", "small", "--dry-run", *AT)
    assert before.code == 3
    assert re.search(r"missing: tuned-kd on .* in tiny@1, seeds 0, 1", before.out)
    judged = cli("study", "small", *AT)
    assert judged.code == 0, judged.err
    assert "incomplete" not in judged.out
    done = cli("tune", "tiny", *AT, "--rows", str(bench.folder / "rows.toml"))
    assert (done.code, done.err) == (0, "")
    assert "0 to train" in done.out
    records = Store(bench.folder / "results").read()[0]
    held_out = {
        (record["suite"], record["label"]): record["scores"]["last"]["val_top1"]
        for record in records
        if record["label"] != "teacher"
    }
    assert sum(suite == "tiny-rung-1@1" for suite, _ in held_out) == 8
    last = {label: value for (suite, label), value in held_out.items() if suite == "tiny-rung-2@1"}
    assert len(last) == 4
    written = tomllib.loads((bench.folder / "rows.toml").read_text(encoding="utf-8"))
    assert len(written["tried"]) == 12
    for row in written["methods"]:
        of_method = {label: value for label, value in last.items() if label.rpartition("-")[0] == row["name"]}
        tried = {each["label"]: each for each in written["tried"] if each["rung"] == 2}
        winner = max(of_method, key=lambda label: of_method[label])
        assert of_method[winner] == tried[winner]["held_out"]
        assert any(each["config"] == row["config"] and each["held_out"] == of_method[winner] for each in tried.values())
        judged = [record for record in records if record["label"] == row["label"]]
        assert {record["seed"] for record in judged} == set(suite.seeds)
        assert all(row["config"].items() <= record["config"].items() for record in judged)
        assert row["label"] in done.out
    told = cli("results", "validate", "results")
    assert (told.code, told.err) == (0, "")
    # The rows can stand in a suite, and nothing was trained a second time.
    rows = (bench.folder / "rows.toml").read_text(encoding="utf-8").partition("[[tried]]")[0]
    pasted = parse_suite(suite_text(["ce"], extra=rows), "pasted.toml")
    assert [row.label for row in pasted.rows] == ["ce", "tuned-kd", "tuned-lskd(kd)"]
    assert len(Store(bench.folder / "results").read()[0]) == len(records)


def test_a_rung_is_tried_again_by_its_own_command() -> None:
    with pytest.raises(UserError, match="a rung of kdbench tune; give that command again"):
        retry._suite("tiny-rung-1@1")


def test_a_suite_that_is_not_tuned_is_refused(cli: Cli) -> None:  # noqa: F811
    told = cli("tune", "digits", "--dry-run", *AT)
    assert told.code == 2
    assert "Suite digits@1 has no [tune]" in told.err
    assert "study-ttm-tuned" in told.err


def test_a_method_that_does_not_apply_is_not_left_out_in_silence(cli: Cli, bench: Bench, make_suite: MakeSuite) -> None:  # noqa: F811
    extra = 'supervision = { kind = "few-labels", images = 5 }\n'
    text = tuned_text(TUNE.replace('"lskd(kd)"', '"dkd"')).replace(
        'dataset = "digits"\n', f'dataset = "digits"\n{extra}'
    )
    make_suite(text)
    told = cli("tune", "tiny", *AT)
    assert told.code == 2
    assert "dkd-0 cannot be tuned" in told.err
    assert not list(bench.folder.glob("results/v1/tiny*"))


def test_the_shipped_study_draws_as_many_for_each_method() -> None:
    suite = get_suite("study-ttm-tuned")
    rows = candidates(suite, tuning_of(suite))
    counts = {method: sum(row.method == method for row in rows) for method in tuning_of(suite).methods}
    assert set(counts.values()) == {20}
    assert replace(suite, tuning=None).labels == tuple(row.label for row in suite.rows)
