"""Verdicts against a baseline: their rules, their exit codes, and the forms in which they are told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from bench import ROOT, copy_first_digits
from test_cli import Cli, cli  # noqa: F401
from test_intervals import _record

from kdbench.errors import UserError
from kdbench.regress import baseline as baselines
from kdbench.regress import report
from kdbench.regress.judge import Judgement, Verdict, judge
from kdbench.regress.side import Side, Taught, Training, sides
from kdbench.regress.speed import judge_speed

IDENTITY = {
    "engine": 1,
    "data": {"name": "digits", "sha256": "0"},
    "protocol": {"epochs": 4, "selection": "last"},
    "student": {"model": "s"},
    "teacher": {"kind": "trained", "recipe": "f" * 64},
    "supervision": "full",
    "method": {"name": "kd", "version": 1, "config": {"temperature": 4.0}},
    "stream": 0,
}


def side(label: str = "kd", scores: Any = (70.0, 70.2, 69.8), **changes: Any) -> Side:
    made = [Training(seed, score, "", f"{seed:064d}") for seed, score in enumerate(scores)]
    plain = Side("t:s", label, 0, IDENTITY, ("torch 2, a CPU, AVX2",), Taught("a" * 64, 80.0), tuple(made), ())
    return replace(plain, **changes)


def other(label: str = "kd", scores: Any = (70.0, 70.2, 69.8), **changes: Any) -> Side:
    """A side whose bits are no baseline's."""
    found = side(label, scores, **changes)
    return replace(found, trainings=tuple(replace(t, weights=f"{9 - t.seed:064d}") for t in found.trainings))


def verdicts(old: list[Side], new: list[Side], margin: float = 0.5) -> Judgement:
    return judge("s@1", "b.json", {s.place: s for s in old}, {s.place: s for s in new}, margin)


def only(old: Side, new: Side | None) -> Any:
    (found,) = verdicts([old], [] if new is None else [new]).cells
    return found


def test_equal_bits_pass_at_once_whatever_their_spread() -> None:
    found = only(side(scores=(60, 80, 70)), side(scores=(60, 80)))
    assert (found.verdict, found.why) == (Verdict.PASS, "equal bits")


def test_a_drop_fails_and_none_passes() -> None:
    assert only(side(), other(scores=(68.0, 68.2, 67.8))).verdict is Verdict.FAIL
    found = only(side(), other())
    assert found.verdict is Verdict.PASS
    assert found.most < 0.5


def test_a_drop_that_is_shown_but_small_is_no_regression() -> None:
    many = tuple(70 + 0.01 * (seed % 3) for seed in range(10))
    found = only(side(scores=many), other(scores=[score - 0.2 for score in many]))
    assert found.verdict is Verdict.PASS


def test_an_open_verdict_says_how_many_seeds_would_decide() -> None:
    wide = tuple(70 + spread for spread in (-0.6, 0.6, 0, -0.3, 0.3, -0.6, 0.6, 0, -0.3, 0.3) * 3)
    found = only(side(scores=wide), other(scores=(69.5, 70.4, 69.8)))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.needed is not None
    assert found.needed[0] == 30
    assert found.why == f"{found.needed[1]} new seeds should tell; there are 3"
    few = only(side(scores=wide[:3]), other(scores=(69.5, 70.4, 69.8)))
    assert "seeds on either side should tell; the baseline has 3" in few.why
    assert only(side(scores=(70,)), other(scores=(60,))).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("protocol", {"epochs": 5, "selection": "last"}),
        ("protocol", {"epochs": 4, "selection": "best_val"}),
        ("data", {"name": "digits", "sha256": "1"}),
        ("teacher", {"kind": "trained", "recipe": "e" * 64}),
        ("student", {"model": "other"}),
    ],
)
def test_what_answers_another_question_is_incomparable(part: str, value: Any) -> None:
    found = only(side(), other(identity={**IDENTITY, part: value}))
    assert found.verdict is Verdict.INCOMPARABLE
    assert found.why.startswith(part)
    assert ", now " in found.why


def test_a_plugins_architecture_with_other_code_is_the_same_question() -> None:
    student = {**IDENTITY["student"], "source": "a" * 64}
    changed = {**student, "source": "b" * 64}
    found = only(side(identity={**IDENTITY, "student": student}), other(identity={**IDENTITY, "student": changed}))
    assert found.verdict is Verdict.PASS


def test_a_pair_on_several_data_sets_is_one_on_each() -> None:
    """Each was once judged by the newer of the two."""
    made = [
        _record("kd", "a:b", seed, top1, dataset=data, teacher=None, weights_sha256="1", predictions=None)
        for data, top1 in (("digits", 97.0), ("mnist", 90.0))
        for seed in range(2)
    ]
    for record in made:
        record["provenance"] = {"created": record["dataset"]}
        record["numerics"]["device_name"] = "x"
        record["cost"] = {"train_images_per_s": None}
    both = sides(made, "s@1")
    assert {place: found.scores for place, found in both.items()} == {
        ("a:b on digits", "kd"): [97.0, 97.0],
        ("a:b on mnist", "kd"): [90.0, 90.0],
    }
    some = [record for record in made if record["dataset"] == "mnist"]
    assert set(sides(some, "s@1")) == {("a:b", "kd")}
    assert set(sides(some, "s@1", both)) == {("a:b on mnist", "kd")}


def test_another_method_is_compared_and_said() -> None:
    method = {"name": "kd", "version": 2, "config": {"temperature": 1.0}}
    found = only(
        side(),
        other(identity={**IDENTITY, "method": method}, numerics=("another",), teacher=Taught("b" * 64, 79.0)),
    )
    assert found.verdict is Verdict.PASS
    assert found.changes == (
        "method config temperature: 4.0, now 1.0",
        "method version: 1, now 2",
        "numerics: torch 2, a CPU, AVX2, now another",
        "the teacher has other weights: its own top-1 was 80.00, now 79.00",
    )


def test_divergence_is_a_regression_where_it_is_no_chance() -> None:
    assert only(side(), other(scores=(), diverged=(0, 1, 2))).verdict is Verdict.FAIL
    many = side(scores=[70.0 + 0.1 * (n % 2) for n in range(20)])
    assert only(many, other(scores=(70.0, 70.1), diverged=(2, 3))).verdict is Verdict.FAIL
    assert only(side(diverged=(3, 4)), other(scores=(70.0, 70.1), diverged=(2,))).verdict is not Verdict.FAIL


def test_what_is_missing_and_what_is_new_is_named() -> None:
    found = verdicts([side()], [other("dkd")])
    assert [cell.verdict for cell in found.cells] == [Verdict.MISSING]
    assert found.unknown == ("dkd on t:s",)
    assert "not in the baseline: dkd on t:s" in report.text(found)


def test_a_row_that_got_more_seeds_is_held_to_the_second_look() -> None:
    """What p < 0.03 on three seeds shows, p < 0.02 on all may not, and either is a FAIL."""
    old = [side("a", (70, 70.5, 69.5) * 4), side("b", (70, 70.5, 69.5) * 4)]
    dropped = (69.0, 69.4, 68.8)
    first = verdicts(old, [other("a", dropped), other("b")])
    assert {cell.label: cell.verdict for cell in first.cells}["a"] is Verdict.FAIL
    more = verdicts(old, [other("a", (*dropped, 70.4, 70.3, 70.5)), other("b")])
    assert {cell.label: cell.verdict for cell in more.cells}["a"] is Verdict.FAIL


# Speed


def timed(label: str, speeds: Any, stream: int = 0) -> Side:
    made = [Training(seed, 70.0, "", "", speed, 100.0 + seed) for seed, speed in enumerate(speeds)]
    return replace(side(label), trainings=tuple(made), stream=stream)


def of(*sides: Side) -> dict[Any, Side]:
    return {s.place: s for s in sides}


def speed_verdicts(old: dict[Any, Side], new: dict[Any, Side]) -> dict[str, Verdict]:
    return {cell.label: cell.verdict for cell in judge_speed(old, new)}


STEADY = (1.0, 1.01, 0.99, 1.0, 1.01, 0.99)


def test_a_slower_training_fails_where_aa_rows_show_that_timing_is_steady() -> None:
    old = of(timed("kd", STEADY), timed("again", STEADY, stream=1))
    slower = of(timed("kd", [s / 1.5 for s in STEADY]), timed("again", [s / 1.5 for s in STEADY], stream=1))
    assert speed_verdicts(old, old) == {"kd speed": Verdict.PASS, "again speed": Verdict.PASS}
    assert set(speed_verdicts(old, slower).values()) == {Verdict.FAIL}


def test_speed_is_left_open_without_processes_or_a_control_or_where_the_control_differs() -> None:
    old = of(timed("kd", STEADY), timed("again", STEADY, stream=1))
    few = of(timed("kd", STEADY[:4]), timed("again", STEADY[:4], stream=1))
    unsteady = of(timed("kd", STEADY), timed("again", [s * 1.2 for s in STEADY], stream=1))
    alone = of(timed("kd", STEADY))
    for new in (few, unsteady, alone):
        assert set(speed_verdicts(old, new).values()) == {Verdict.INCONCLUSIVE}
    one = replace(old["t:s", "kd"], trainings=tuple(replace(t, process=1.0) for t in old["t:s", "kd"].trainings))
    assert judge_speed(of(one), of(one))[0].why.startswith("it was timed by 1 of the 5")


# The frozen file and the command


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The committed records of digits, and nothing else."""
    copy_first_digits(tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def frozen(cli: Cli, results: Path) -> Path:  # noqa: F811
    ended = cli("baseline", "freeze", "digits", "--out", "b.json")
    assert ended.code == 0, ended.err
    assert "digits@1, 10 rows, 3 seeds each." in ended.out
    assert "nine times in ten" in ended.out
    return results.parent / "b.json"


def edit(path: Path, change: Any) -> Path:
    document = json.loads(path.read_text())
    for cell in document["cells"]:
        change(cell)
    path.write_text(json.dumps(document))
    return path


def without_bits(cell: dict[str, Any]) -> None:
    """The same accuracies of other networks."""
    cell["trainings"] = [{**training, "weights": "", "predictions": ""} for training in cell["trainings"]]


def near_perfect(cell: dict[str, Any]) -> None:
    """A baseline that is hard to keep up with."""
    without_bits(cell)
    for number, training in enumerate(cell["trainings"]):
        training["top1"] = 99.9 - 0.1 * number


def test_a_frozen_baseline_is_read_as_it_was_written(frozen: Path, results: Path) -> None:
    again = baselines.read(frozen)
    assert again.sides == baselines.from_records(results, "digits")[0].sides
    assert frozen.stat().st_size < 50_000


def test_freeze_keeps_what_is_asked_for(cli: Cli, results: Path) -> None:  # noqa: F811
    ended = cli("baseline", "freeze", "digits@1", "--method", "ce", "--method", "k*", "--pair", "tiny*")
    assert ended.code == 0, ended.err
    kept = baselines.read(results / "baselines" / "digits@1.json")
    assert {label for _, label in kept.sides} == {"ce", "kd", "kd-again"}
    assert cli("baseline", "freeze", "digits", "--method", "nope").code == 2
    assert "nearest" in cli("baseline", "freeze", "digits", "--method", "dk").err


def test_each_exit_code(cli: Cli, frozen: Path, results: Path) -> None:  # noqa: F811
    def code(*more: str) -> int:
        return cli("regress", "results", "--against", "b.json", *more).code

    assert code() == 0
    assert cli("regress", "results", "--against", "results").code == 0
    assert code("--margin", "0") == 2
    assert code("--write", "verdicts.pdf") == 2
    assert cli("regress", "nowhere", "--against", "b.json").code == 2
    assert cli("regress", "results", "--against", "nothing.json").code == 3
    text = frozen.read_text()
    edit(frozen, without_bits)
    assert code() == 0
    assert code("--strict") == 4
    assert code("--strict", "--margin", "50") == 0
    edit(frozen, lambda cell: cell["identity"]["protocol"].update(epochs=99))
    assert code() == 5
    frozen.write_text(text)
    edit(frozen, near_perfect)
    assert code() == 1
    frozen.write_text(text)
    for path in (results / "v1" / "digits@1").glob("*.json"):
        if json.loads(path.read_text())["label"] == "at":
            path.unlink()
    assert code() == 3


def test_all_forms_say_the_same(cli: Cli, frozen: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: F811
    edit(frozen, near_perfect)
    plain = cli("regress", "results", "--against", "b.json", "--write", "v.md", "--write", "v.json", "--write", "v.xml")
    assert plain.code == 1
    found = json.loads(Path("v.json").read_text())
    failed = [cell["label"] for cell in found["cells"] if cell["verdict"] == "FAIL"]
    assert failed
    assert Path("v.md").read_text().count("| FAIL |") == len(failed) == plain.out.count("\nFAIL")
    suite = ElementTree.parse("v.xml").getroot()
    assert suite.get("failures") == str(len(failed))
    assert suite.get("tests") == "10"
    assert {case.get("name") for case in suite if case.find("failure") is not None} == set(failed)
    assert json.loads(cli("regress", "results", "--against", "b.json", "--format", "json").out) == found
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    on_github = cli("regress", "results", "--against", "b.json")
    assert on_github.out.count("::error title=FAIL") == len(failed)
    assert (tmp_path / "summary.md").read_text() == Path("v.md").read_text() + "\n"


def test_other_peoples_words_stay_words() -> None:
    hostile = replace(side(), label="a|b", pair="<x>:y")
    found = verdicts([hostile], [])
    evil = replace(found.cells[0], why="100 %\n::error::x `|`", changes=("\x1b[2Jgone",))
    told = replace(found, cells=(evil,))
    assert "\x1b" not in report.text(told)
    assert "a\\|b" in report.markdown(told)
    assert report.github(told).count("\n") == 0
    assert "100 %25 ::error::x" in report.github(told)
    assert ElementTree.fromstring(report.junit(told))[0].get("name") == "a|b"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"cells": []}', "not JSON", '{"schema_version": 1, "suite": "x@1", "cells": [{"pair": 3}]}'],
)
def test_a_damaged_baseline_is_one_sentence(cli: Cli, results: Path, text: str) -> None:  # noqa: F811
    (results.parent / "b.json").write_text(text)
    ended = cli("regress", "results", "--against", "b.json")
    assert ended.code == 2
    assert ended.err.startswith("kdbench: The baseline b.json ")
    assert len(ended.err.splitlines()) == 1


def test_a_folder_without_records_or_with_several_suites_says_so(tmp_path: Path, results: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no records of any suite"):
        baselines.from_records(tmp_path / "empty")
    shutil.copytree(ROOT / "results" / "v1" / "precision@1", results / "v1" / "precision@1")
    with pytest.raises(UserError, match="digits@1, precision@1; name one"):
        baselines.from_records(results)
    assert baselines.from_records(results, "precision")[0].suite == "precision@1"
