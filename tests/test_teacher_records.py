"""A trained teacher's own record: whatever is killed, and whichever results folder asks, it is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bench import TRAINED, Bench, suite_text
from test_cli import RUN, Cli, cli  # noqa: F401
from test_kill_resume import Killed

from kdbench.errors import UserError
from kdbench.jobs import teacher as teacher_job
from kdbench.jobs.worker import run
from kdbench.records import Record, Store
from kdbench.suites import Suite

MakeSuite = Callable[[str], Suite]
DIVERGING = TRAINED.replace("protocol = {", "protocol = {lr = 1e30, schedule = 'constant', ").replace("'", '"')


def own(bench: Bench) -> list[Record]:
    return [record for record in bench.store.read()[0] if record["label"] == "teacher"]


def kills(call: Callable[..., Any], before: bool) -> Callable[..., Any]:
    def deadly(*arguments: Any, **keywords: Any) -> Any:
        if not before:
            call(*arguments, **keywords)
        raise Killed

    return deadly


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("place", ["write_weights", "Store.put"])
def test_a_kill_around_weights_and_record_loses_neither(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch, place: str, before: bool
) -> None:
    (prepare, train) = bench.tasks(bench.trials(make_suite(suite_text(["kd"], epochs=1))))
    owner, name = (Store, "put") if place == "Store.put" else (teacher_job, place)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, kills(getattr(owner, name), before))
        with pytest.raises(Killed):
            run(prepare, bench.events.append)
    bench.events.clear()
    run(prepare, bench.events.append)
    assert not [event for event in bench.events if event["event"] == "epoch"]  # from its last checkpoint, or not at all
    (record,) = own(bench)
    assert record["status"] == "finished"
    run(train, bench.events.append)
    assert bench.records()["kd"]["status"] == "finished"


def test_a_second_results_folder_has_the_record_too(bench: Bench, make_suite: MakeSuite) -> None:
    from dataclasses import replace

    (prepare, _) = bench.tasks(bench.trials(make_suite(suite_text(["kd"], epochs=1))))
    run(prepare, bench.events.append)
    other = Store(bench.folder / "other")
    bench.events.clear()
    run(replace(prepare, results=other.root), bench.events.append)
    assert not [event for event in bench.events if event["event"] == "epoch"]
    (first,), ((second,), problems) = own(bench), other.read()
    assert (first, problems) == (second, [])
    assert other.predictions(second).keys() == bench.store.predictions(first).keys()


@pytest.mark.parametrize("ending", ["json", "npz"])
def test_a_record_that_is_damaged_on_the_shelf_is_made_anew(bench: Bench, make_suite: MakeSuite, ending: str) -> None:
    (prepare, _) = bench.tasks(bench.trials(make_suite(suite_text(["kd"], epochs=1))))
    run(prepare, bench.events.append)
    (before,) = own(bench)
    (path,) = (bench.folder / "cache" / "teachers").glob(f"*/record/v1/*/*.{ending}")
    path.write_bytes(path.read_bytes()[:-9])
    shutil.rmtree(bench.folder / "results")
    run(prepare, bench.events.append)
    (after,) = own(bench)
    assert (after["weights_sha256"], after["predictions"]) == (before["weights_sha256"], before["predictions"])
    assert bench.store.predictions(after)


def test_a_teacher_that_diverged_is_refused_and_not_trained_again(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
) -> None:
    """Trials that need no teacher are trained all the same."""
    make_suite(suite_text(["ce", "kd"], epochs=1, teacher=DIVERGING))
    first = cli(*RUN)
    assert first.code == 3
    assert "tutor did not finish its training (diverged, see its record)" in first.err
    assert {label: record["status"] for label, record in bench.records().items()} == {"ce": "finished"}
    (record,) = own(bench)
    assert record["status"] == "diverged"
    second = cli(*RUN)
    assert second.code == 3
    assert "teacher: diverged" not in second.out  # what is known already is not found out again
    assert own(bench) == [record]


def test_a_teacher_whose_outputs_are_not_finite_is_refused_by_name(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    (prepare, _) = bench.tasks(bench.trials(make_suite(suite_text(["kd"], epochs=1))))

    def nan(*arguments: Any) -> tuple[torch.Tensor, float]:
        return torch.full((500, 10), torch.nan), 0.0

    monkeypatch.setattr(teacher_job, "logits_of", nan)
    with pytest.raises(UserError, match="The teacher tutor gives outputs that are not finite"):
        run(prepare, bench.events.append)
