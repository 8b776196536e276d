"""The backend inline: every task in this process, so that a debugger stops where it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from bench import ROOT, Bench, same_bits, suite_text
from test_cli import RUN, Cli, cli  # noqa: F401
from test_queue import task

from kdbench import environment
from kdbench.cli import main
from kdbench.errors import UserError
from kdbench.plan.fleet import cpu
from kdbench.plan.task import Task
from kdbench.records import Store
from kdbench.schedule.inline import InlineExecutor
from kdbench.suites import Suite

MakeSuite = Callable[[str], Suite]


def run(*tasks: Task, **ends: BaseException) -> tuple[Any, list[tuple[str, str]]]:
    """The report of a run whose tasks end as ``ends`` says, and what was told of each."""
    told: list[tuple[str, str]] = []

    def work(one: Task, emit: Callable[[dict[str, Any]], None]) -> None:
        emit({"event": "progress"})
        if one.id in ends:
            raise ends[one.id]

    watch = lambda one, event: told.append((one.id, event["event"]))  # noqa: E731
    return InlineExecutor(cpu(), work).run(tasks, watch), told


def test_tasks_run_in_their_order_and_after_what_they_wait_for() -> None:
    report, told = run(task("student", after=("teacher",)), task("other"), task("teacher"))
    assert [done.id for done in report.finished] == ["other", "teacher", "student"]
    assert told[:3] == [("other", "started"), ("other", "progress"), ("other", "ended")]


def test_what_fails_costs_itself_and_what_waits_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    report, _ = run(
        task("teacher"),
        task("student", after=("teacher",)),
        task("t"),
        task("u"),
        teacher=UserError("no."),
        t=KeyError("x"),
    )
    assert report.failed["teacher"] == report.failed["student"] == "no."
    assert "raised KeyError" in report.failed["t"]
    assert [done.id for done in report.finished] == ["u"]
    assert "Traceback" in capsys.readouterr().err, "it is for whoever debugs"


def test_a_ctrl_c_ends_the_run() -> None:
    def interrupt(one: Task, _: object) -> None:
        if one.id == "u":
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    report = InlineExecutor(cpu(), interrupt).run([task("t"), task("u"), task("v")], lambda *_: None)
    assert report.interrupted
    assert [done.id for done in report.finished] == ["t"]
    assert signal.getsignal(signal.SIGINT) == before


def test_a_plugin_that_interrupts_costs_its_own_task() -> None:
    report, _ = run(task("t"), task("u"), t=KeyboardInterrupt())
    assert "raised KeyboardInterrupt" in report.failed["t"]
    assert [done.id for done in report.finished] == ["u"]


def test_its_records_are_those_of_any_backend(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite = make_suite(suite_text(["ce", "kd"], epochs=1))
    monkeypatch.setattr(environment, "pin", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cli(*RUN, "--backend", "inline").code == 0
    other = bench.again("other")
    expected = other.train(other.trials(suite))
    records = {record["label"]: record for record in Store(bench.folder / "results").read()[0]}
    assert same_bits(records["ce"], expected["ce"])
    assert same_bits(records["kd"], expected["kd"])


@pytest.mark.usefixtures("cli")
def test_a_plugin_that_raises_a_ctrl_c_costs_its_own_trial_and_no_log_is_promised(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = bench.plugin("quits", loss="raise KeyboardInterrupt")
    make_suite(suite_text(["ce"], epochs=1))
    monkeypatch.setattr(environment, "pin", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = ("--backend", "inline", "--plugin", plugin, "--method", "ce", "--method", "quits")
    assert main([*RUN, *words]) == 3
    ended = capsys.readouterr()
    assert "raised KeyboardInterrupt" in ended.err
    assert "tiny@1: 1 trial recorded, 1 left for the next run.\n" in ended.out
    assert bench.records()["ce"]["status"] == "finished"


@pytest.mark.slow
def test_it_computes_by_the_environment_of_a_worker(bench: Bench) -> None:
    """The whole command, in a shell whose variables would move bits: it replaces itself before it loads torch."""
    command = [sys.executable, "-m", "kdbench", "run", "--suite", "digits", "--method", "ce", "--seeds", "1"]
    for name, more in (("inline", {"OMP_DYNAMIC": "true", "ATEN_CPU_CAPABILITY": "default"}), ("local", {})):
        folders = ["--results", str(bench.folder / name), "--out", str(bench.folder / f"site-{name}")]
        plain = {k: v for k, v in os.environ.items() if not k.startswith("ATEN_")}
        env = {**plain, "PYTHONPATH": str(ROOT), "ATEN_CPU_CAPABILITY": "default", **more}
        subprocess.run([*command, *folders, "--backend", name], env=env, check=True, capture_output=True)
    (one,), (other,) = (Store(bench.folder / name).read()[0] for name in ("inline", "local"))
    assert same_bits(one, other)
