"""run --again: what is recorded is trained anew, and nothing of it is deleted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from bench import Bench, same_bits, suite_text
from test_cli import RUN, Cli, cli, trained  # noqa: F401

from kdbench.jobs.worker import run
from kdbench.suites import Suite

MakeSuite = Callable[[str], Suite]


def test_only_the_rows_that_match_are_trained_again_and_nothing_is_deleted(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warm = {"name": "kd", "label": "kd-warm", "config": {"temperature": 8.0}}
    make_suite(suite_text(["ce", "kd", warm], epochs=1, seeds=[0, 1]))
    assert cli(*RUN, "--seeds", "1").code == 0
    files = {path: path.read_bytes() for path in (bench.folder / "results" / "v1").rglob("*.*")}
    labels = trained(monkeypatch)
    planned = cli(*RUN, "--seeds", "1", "--again", "kd*", "--dry-run").out
    assert "3 trials, 3 recorded in results, 2 to train." in planned
    assert "Of the recorded ones, 2 to train again; the older records stay." in planned
    assert labels == []
    said = cli(*RUN, "--again", "kd*")
    assert (said.code, said.err) == (0, "")
    assert "6 trials, 3 recorded in results, 5 to train." in said.out
    assert "tiny@1: 5 trials recorded." in said.out
    assert set(labels) == {"ce", "kd", "kd-warm"}, "the second seed's"
    assert all(path.read_bytes() == content for path, content in files.items())
    records, problems = bench.store.read()
    assert not problems
    count = {(r["label"], r["seed"]): [s for s in records if s["key"] == r["key"]] for r in records}
    assert {place: len(found) for place, found in count.items()} == {
        ("ce", 0): 1,
        ("kd", 0): 2,
        ("kd-warm", 0): 2,
        ("ce", 1): 1,
        ("kd", 1): 1,
        ("kd-warm", 1): 1,
        ("teacher", 100): 1,
    }
    assert all(same_bits(*found) for found in count.values() if len(found) == 2)
    assert "Nothing to do" in cli(*RUN).out
    for _ in range(2):
        assert cli(*RUN, "--seeds", "1", "--again", "kd").code == 0
    assert len(bench.store.find(count["kd", 0][0]["key"])) == 4


def test_a_glob_that_matches_no_row_of_the_selection_is_a_mistake(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
) -> None:
    make_suite(suite_text(["ce", "kd"], epochs=1))
    for flags in (["--again", "kb"], ["--again", "d*"], ["--method", "ce", "--again", "kd"], ["--again", "teacher"]):
        said = cli(*RUN, *flags)
        assert said.code == 2
        assert "There is no row in what is asked for named" in said.err
    assert bench.records() == {}


def test_a_worker_that_is_started_anew_goes_on_and_trains_none_of_them_twice(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = bench.tasks(bench.trials(make_suite(suite_text(["ce"], epochs=1))))
    (key,) = [trial.key for trial in task.trials]
    run(task, bench.events.append)
    task = replace(task, again={key: 1})
    labels = trained(monkeypatch)
    run(task, bench.events.append)
    assert labels
    labels.clear()
    run(replace(task, attempt=2), bench.events.append)
    assert not labels
    assert bench.store.endings([key]) == {key: 2}


def test_a_trial_whose_again_failed_keeps_its_record_and_is_left(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_suite(suite_text(["ce"], epochs=1))
    assert cli(*RUN).code == 0

    def fails(*_: object) -> None:
        raise RuntimeError("no luck")

    with monkeypatch.context() as patch:
        patch.setattr("kdbench.train.member.Member.step", fails)
        said = cli(*RUN, "--again", "ce")
    assert said.code == 3
    assert "0 trials recorded, 1 left for the next run" in said.out
    assert [record["status"] for record in bench.store.read()[0]].count("finished") == 1
    assert "Nothing to do" in cli(*RUN).out
