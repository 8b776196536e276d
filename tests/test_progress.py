"""Progress: a line for each thing that ends, right counts, and a table that can be drawn at every moment."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench import PHASED, Bench, suite_text

from kdbench.cli.progress import LiveProgress, PlainProgress, Progress, make_progress
from kdbench.cli.say import complain
from kdbench.jobs.worker import run
from kdbench.plan.task import Task
from kdbench.plugins import load_plugins
from kdbench.suites import Suite
from kdbench.train import lockstep

pytestmark = pytest.mark.usefixtures("plugins_in_company")

MakeSuite = Callable[[str], Suite]


@pytest.fixture
def tasks(bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """A teacher with a false claim to be said, and a cohort of which one diverges and one crashes."""
    monkeypatch.setattr(lockstep, "PROGRESS_EVERY", 0.0)
    files = [bench.plugin("nan", loss="terms['ce'] = terms['ce'] * float('nan')"), bench.plugin("bad", setup="1 / 0")]
    files.append(bench.plugin("phased", **PHASED))
    load_plugins(files)
    suite = make_suite(suite_text(["ce", "nan", "kd", "bad", "phased"]))
    suite = replace(suite, teachers={n: replace(t, claimed_top1=99.0) for n, t in suite.teachers.items()})
    return [
        replace(task, cost=cost) for task, cost in zip(bench.tasks(bench.trials(suite), files), (1, 3), strict=True)
    ]


def play(progress: Progress, tasks: list[Task], after: Callable[[], object] = lambda: None) -> None:
    """Run ``tasks`` here, and let ``progress`` watch."""

    def watch(task: Task, event: dict[str, Any]) -> None:
        progress.watch(task, event)
        after()

    for task in tasks:
        watch(task, {"event": "started", "slot": 0, "pid": 1, "attempt": 1})
        run(task, lambda event, task=task: watch(task, event))  # type: ignore[misc]
        watch(task, {"event": "ended"})


def test_plain_lines(tasks: list[Task]) -> None:
    stream = io.StringIO()
    progress = make_progress(tasks, stream, verbose=True)
    assert isinstance(progress, PlainProgress)
    shares: list[float | None] = []
    play(progress, tasks, lambda: shares.append(progress.time_left()))
    lines = stream.getvalue().splitlines()
    for label in ("ce", "kd", "phased"):
        for epoch in (1, 2):
            assert not any(re.search(rf"{label} on .*epoch 0", line) for line in lines)
            assert any(
                re.match(rf"{label} on .*seed 0: epoch {epoch}: ce [\d.e-]+.*, top-1 [\d.]+$", line) for line in lines
            )
        assert any(re.match(rf"{label} on .*seed 0: finished top-1 [\d.]+ \[", line) for line in lines)
    assert any(re.match(r"nan on .*: diverged: .*epoch 1\. \[", line) for line in lines)
    assert any(re.match(r"bad on .*: crashed: ZeroDivisionError.* \[", line) for line in lines)
    assert any(line.startswith("teacher tutor: top-1 ") for line in lines)
    assert any(line.startswith("WARNING: Teacher tutor scores") for line in lines)
    ends = [line for line in lines if re.search(r"\[\d of 5 trials done, ", line)]
    assert re.search(r"\[3 of 5 trials done, 0 running, 2 failed", ends[-1])
    assert progress.counts == {"finished": 3, "diverged": 1, "crashed": 1}
    assert shares[0] is None
    assert shares[-1] == 0
    assert all(left is None or left >= 0 for left in shares)


def test_what_is_piped_is_a_line_a_trial_and_one_a_quiet_minute(
    tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    progress = PlainProgress(tasks, stream)
    play(progress, tasks, progress.beat)
    lines = stream.getvalue().splitlines()
    assert len([line for line in lines if re.search(r"\[\d of 5 trials done, ", line)]) == 5
    assert len(lines) == 7, "teacher and warning beside them"
    monkeypatch.setattr("kdbench.cli.progress.QUIET", 0.0)
    progress.beat()
    assert stream.getvalue().splitlines()[7:] == ["3 of 5 trials done, 0 running, 2 failed, about 0 s left"]


def test_a_note_is_said_once_and_a_crash_names_its_log(tasks: list[Task]) -> None:
    stream = io.StringIO()
    progress = PlainProgress(tasks, stream)
    trial = {"event": "trial", "key": "k", "title": "t", "teacher": False, "top1": None}
    for task in tasks:
        progress.watch(task, {"event": "started", "log": f"/logs/{task.id}.log"})
        progress.watch(task, {"event": "note", "text": "there is memory for 2 students at a time"})
    progress.watch(tasks[1], {**trial, "status": "crashed", "detail": "ValueError: no luck"})
    note, crash = stream.getvalue().splitlines()
    assert note == f"{tasks[0].title}: there is memory for 2 students at a time"
    assert crash.startswith(f"t: crashed: ValueError: no luck; its log is /logs/{tasks[1].id}.log [")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "term", "form"),
    [
        (Terminal(), "xterm-256color", LiveProgress),
        (Terminal(), "dumb", PlainProgress),
        (Terminal(), "unknown", PlainProgress),
        (io.StringIO(), "xterm-256color", PlainProgress),
    ],
)
def test_a_table_is_drawn_where_there_is_a_terminal_that_can(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, term: str, form: type[Progress]
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")  # is about colours, and no table
    assert type(make_progress([], stream)) is form


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failure_stays_on_standard_error_beside_a_table(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """Above the table where both are the terminal, and in the file where standard error is one."""
    from rich.console import Console

    errors, table = Terminal() if terminal else io.StringIO(), Terminal()
    monkeypatch.setattr("sys.stderr", errors)
    progress = LiveProgress([])
    progress._live.console = Console(file=table, force_terminal=True, width=80)
    with progress:
        complain("The weights are gone.")
    said = "kdbench: The weights are gone."
    assert (said in table.getvalue(), said in errors.getvalue()) == (terminal, not terminal)


def test_the_share_done_never_falls_and_ends_whole(tasks: list[Task]) -> None:
    progress = Progress(tasks)
    done: list[float] = []

    def look() -> None:
        done.append(progress._done())

    play(progress, tasks, look)
    assert done == sorted(done)
    assert 0 < done[len(done) // 2] < 4
    assert done[-1] == 4


def test_the_time_left_is_by_what_workers_did_lately(tasks: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that becomes four times as slow halfway is soon said to take four times as long."""
    clock = [0.0]
    monkeypatch.setattr("kdbench.cli.following.time.monotonic", lambda: clock[0])
    teacher, task = tasks
    progress, left = Progress(tasks), {}
    progress.watch(teacher, {"event": "failed", "text": "no.", "dependent": True})  # which nobody waits for
    progress.watch(task, {"event": "started"})
    for second in range(0, 3000, 10):
        clock[0] = float(second)
        done = second if second < 600 else 600 + (second - 600) / 4
        progress.watch(task, progressed(done / 1200, len(task.trials)))
        left[second] = progress.time_left()
    assert left[0] is None
    assert left[590] == pytest.approx(610, rel=0.02)
    assert left[1200] == pytest.approx(4 * 450, rel=0.05)
    assert left[2990] == pytest.approx(10, abs=1)


def progressed(share: float, members: int) -> dict[str, Any]:
    told = {"event": "progress", "epoch": 1, "step": 10000 * share, "steps": 10000, "loss": 1.0, "images_per_s": 1.0}
    return {**told, "members": members}


def test_what_the_backend_says_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    from test_local_executor import TestLocal

    stage = TestLocal()
    stage.folder = Path()
    task = stage.task("t", "title")
    stream = io.StringIO()
    progress = PlainProgress([task], stream)
    for event in (
        {"event": "started"},
        {"event": "retried", "text": "its worker was ended by SIGKILL"},
        {"event": "waiting", "text": "another run is at work on it; waiting for that"},
        {"event": "failed", "text": "no word.", "timed_out": True},
    ):
        progress.watch(task, event)
    progress.watch(replace(task, id="u", title="other"), {"event": "failed", "text": "no word.", "dependent": True})
    assert stream.getvalue().splitlines() == [
        "title: its worker was ended by SIGKILL",
        "title: another run is at work on it; waiting for that",
    ]
    assert capsys.readouterr().err == "kdbench: no word.\n", "once, and not for each of those that wait for it"
    assert [lost.id for lost, _ in progress.lost] == ["t"]


def test_the_table_can_be_drawn_at_every_moment(tasks: list[Task]) -> None:
    from rich.console import Console

    progress = LiveProgress(tasks)
    drawn: list[str] = []

    def draw() -> None:
        console = Console(file=io.StringIO(), width=120)
        console.print(progress._table())
        drawn.append(console.file.getvalue())  # type: ignore[attr-defined]

    progress._live.console = Console(file=io.StringIO(), width=120)
    play(progress, tasks, draw)
    assert "starting" in drawn[0]
    assert any("24/24" in text for text in drawn)
    assert not any("-" in row for text in drawn for row in text.splitlines() if "seed 0" in row)
    assert "3 of 5 trials done, 0 running, 2 failed" in drawn[-1]
    assert "finished top-1" in progress._live.console.file.getvalue()  # type: ignore[attr-defined]
