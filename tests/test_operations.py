"""What a run leaves for whoever looks from outside: its live file, its manifest, its logs; and trying again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from bench import Bench, registries_kept, suite_text, wait_until
from test_cli import RUN, Cli, Fake, cli, make_plugin_suite, trained  # noqa: F401

from kdbench.cli import live, manifest, status
from kdbench.cli.following import Following
from kdbench.plan.task import Task
from kdbench.records.inspection import inspect
from kdbench.records.merge import merge
from kdbench.records.runs import live_path, live_paths, manifest_paths, read_live, read_manifest
from kdbench.records.store import Store
from kdbench.records.validate import schema
from kdbench.schedule import Report, Watch
from kdbench.schedule.local import LocalBackend
from kdbench.suites import SUITES, Suite

MakeSuite = Callable[[str], Suite]


def the_manifest(bench: Bench, which: int = -1) -> dict[str, Any]:
    return read_manifest(manifest_paths(bench.store.root)[which])


def failed(manifest: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Label -> how and why, of what failed."""
    labels = {entry["key"]: entry["label"] for entry in manifest["planned"]}
    return {labels[entry["key"]]: (entry["status"], entry["detail"]) for entry in manifest["failed"]}


class Looking(Fake):
    """A backend under which ``look`` is called after the events, and whose run then ends as ``ending`` has it."""

    def __init__(self, events: Sequence[dict[str, Any]], look: Callable[[], object]) -> None:
        super().__init__(Report(interrupted=True), events)
        self.look = look

    def run(self, tasks: Sequence[Task], watch: Watch) -> Report:
        report = super().run(tasks, watch)
        self.look()
        return report


STARTED = {"event": "started", "slot": 1, "pid": 77, "attempt": 2, "host": "node7", "device": "3", "log": "/logs/a.log"}
PROGRESS = {"event": "progress", "epoch": 1, "step": 3, "steps": 6, "loss": 2.5, "images_per_s": 99.0, "members": 2}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BEAT", 0.05)


@pytest.mark.usefixtures("quick")
def test_the_live_file_says_what_runs_where_and_is_gone_at_the_end(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_suite(suite_text(["ce", "kd"], epochs=1, teacher='kind = "trained"\nmodel = "tiny_cnn_s"\nseed = 100'))
    found: dict[str, Any] = {}

    def look() -> None:
        (path,) = live_paths(bench.store.root)
        found.update(wait_until(lambda: (d := read_live(path))["running"] and d["running"][0]["memory"] and d))
        found["shown"] = list(status.lines(status.look(bench.store.root), bench.store.root))
        found["problems"] = inspect(bench.store).problems
        found["strays"] = [w.file for w in inspect(bench.store).warnings]
        merge(Store(bench.folder / "other"), [bench.store])

    epoch = {"event": "epoch", "key": "k", "title": "t", "epoch": 1, "losses": {}, "test_top1": 12.5}
    events = [STARTED, {"event": "waiting", "text": "for room"}, PROGRESS, epoch, {"event": "memory", "peak": 2**30}]
    monkeypatch.setattr(LocalBackend, "executor", Looking(events, look))
    assert cli(*RUN).code == 130
    assert (found["pid"], found["trials"]["planned"], found["trials"]["failed"]) == (os.getpid(), 2, 0)
    cohort = next(task for task in found["running"] if task["students"])
    wanted = {"host": "node7", "device": "3", "slot": 1, "pid": 77, "attempt": 2, "log": "/logs/a.log", "waiting": ""}
    wanted |= {"epoch": 1, "step": 3, "steps": 6, "loss": 2.5, "top1": 12.5, "images_per_s": 99.0, "memory": 2**30}
    assert {name: cohort[name] for name in wanted} == wanted
    assert cohort["students"] == ["ce on tiny_cnn_s, seed 0", "kd on tiny_cnn_s:tiny_cnn_s, seed 0"]
    line = next(line for line in found["shown"] if cohort["title"] in line and "students" in line)
    for part in ("node7 GPU 3 process 77", "attempt 2", "epoch 1, step 3/6", "top-1 12.50", "1.0 GiB", "2 students"):
        assert part in line
    assert not found["problems"]
    assert not found["strays"]
    assert not live_paths(bench.folder / "other"), "what is under way is nobody else's"
    assert not manifest_paths(bench.folder / "other")
    assert not live_paths(bench.store.root)


def test_a_disk_that_is_full_costs_the_live_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench, make_suite: MakeSuite
) -> None:
    """And a loss that is no number is no reason for a file that nobody can read."""
    (task,) = bench.tasks(bench.trials(make_suite(suite_text(["ce"]))))
    following = Following([task])
    following.watch(task, {"event": "started"})
    following.watch(task, {**PROGRESS, "loss": float("nan")})
    head = {"schema_version": 1, "run": "r", "suites": ["tiny@1"], "began": "2026-01-01T00:00:00+00:00", "logs": ""}
    file = live.LiveFile(tmp_path / "r.live.json", {**head, **live.here()}, following)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(live, "write_atomically", full)
        file.write()
    assert not file.path.exists()
    file.write()
    assert read_live(file.path)["running"][0]["loss"] is None
    gone = live.LiveFile(tmp_path / "gone" / "r.live.json", file.head, following)
    gone.write()
    assert not gone.path.parent.exists()


@pytest.fixture
def at_work(bench: Bench) -> dict[str, Any]:
    """A live file of this process."""
    head = {"schema_version": 1, "run": "r", "suites": ["tiny@1"], "began": "2026-01-01T00:00:00+00:00", "logs": ""}
    (bench.store.root / "runs").mkdir(parents=True)
    live.LiveFile(bench.store.root / "runs" / "r.live.json", {**head, **live.here()}, Following([])).write()
    return live.live_runs(bench.store.root)[0]


LONG_AGO = "2020-01-01T00:00:00+00:00"


def test_a_run_that_was_killed_is_told_from_one_that_lives(
    bench: Bench, at_work: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK", 0.2)
    monkeypatch.setattr(live, "BEAT", 0.1)
    with subprocess.Popen(["true"]) as gone:
        pass
    elsewhere = {"host": "another"}
    for change, expected in (
        ({}, "running"),
        ({"heartbeat": LONG_AGO}, "silent"),
        ({"pid": gone.pid}, "stopped"),
        ({"process": at_work["process"] + "1"}, "stopped"),
        (elsewhere, "running"),
        ({**elsewhere, "heartbeat": LONG_AGO}, "stopped"),
    ):
        run = {**at_work, **change}
        live_paths(bench.store.root)[0].write_text(json.dumps(run))
        assert live.standing(bench.store.root, run) == expected, change


def test_a_run_on_a_node_whose_clock_is_wrong_lives_while_its_heart_beats(
    bench: Bench, at_work: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "BEAT", 0.1)
    path = bench.store.root / "runs" / "r.live.json"
    slow = {**at_work, "host": "another", "heartbeat": LONG_AGO}
    path.write_text(json.dumps(slow))

    def later(_: float) -> None:
        path.write_text(json.dumps({**slow, "heartbeat": "2020-01-01T00:00:02+00:00"}))

    monkeypatch.setattr(time, "sleep", later)
    assert live.standing(bench.store.root, slow) == "running"


def test_a_manifest_is_true_after_failures(cli: Cli, bench: Bench) -> None:  # noqa: F811
    """And everything that failed is tried again by one command, which needs nothing else."""
    unless = "if not os.path.exists('mended'): "
    plugin = bench.plugin("flaky", loss=f"{unless}raise ValueError('no luck')")
    other = bench.plugin("nan", loss=f"{unless}terms['ce'] = terms['ce'] * float('nan')")
    SUITES.add("tiny", (suite_text(["ce", "flaky", "nan"], epochs=1), "tiny.toml"), "test")
    first = cli(*RUN, "--plugin", plugin, "--plugin", os.path.relpath(other), "--out", "mine")
    assert first.code == 3
    manifest = the_manifest(bench)
    ran = {"outcome": "done", "backend": "local", "device": "cpu", "slots": 1}
    assert {name: manifest[name] for name in ran} == ran
    assert failed(manifest)["flaky"] == ("crashed", "ValueError: no luck")
    assert failed(manifest)["nan"][0] == "diverged"
    assert len(manifest["recorded"]) == 2, "what diverged is recorded"
    assert len(manifest["left"]) == 1
    assert manifest["ended"] >= manifest["began"]
    trained_by = {key: task["id"] for task in manifest["tasks"] for key in task["trials"]}
    assert set(trained_by) == {entry["key"] for entry in manifest["planned"]}

    said = cli("status")
    assert said.code == 3
    assert "ValueError: no luck" in said.out
    assert "kdbench retry '*' tries them again" in said.out
    assert "1 to train" in cli("retry", "flaky", "--dry-run").out
    assert "2 to train" in cli("retry", "*", "--dry-run").out
    assert cli("retry", "ce").out.startswith("Nothing to do: ")
    none = cli("retry", "nothing")
    assert (none.code, "whose rows are ce, flaky, nan" in none.err) == (2, True)

    (bench.folder / "mended").touch()
    again = cli("retry", "fl*")
    assert (again.code, again.err) == (0, "")
    assert bench.records()["flaky"]["status"] == "finished"
    assert the_manifest(bench)["request"]["retries"] == manifest["run"]
    assert the_manifest(bench)["request"]["out"] == str(bench.folder / "mine")
    assert "1 to train" in cli("retry", "*").out, "what diverged is still what failed in that run"
    assert bench.store.status(next(e["key"] for e in manifest["planned"] if e["label"] == "nan")) is not None
    assert cli("retry", "*").out.startswith("Nothing to do: ")
    assert cli("status").code == 0


def test_what_failed_is_tried_again_with_a_plugin_that_was_mended(cli: Cli, bench: Bench) -> None:  # noqa: F811
    """Its trials have other keys then; what has a result by the last retry is done."""
    suite = (suite_text(["ce", "flaky"], epochs=1), "tiny.toml")
    plugin = bench.plugin("flaky", loss="terms['ce'] = terms['ce'] * float('nan')")
    with registries_kept():
        SUITES.add("tiny", suite, "test")
        assert cli(*RUN, "--plugin", plugin).code == 3
    first = the_manifest(bench)
    bench.plugin("flaky")
    SUITES.add("tiny", suite, "test")
    assert cli("retry", "*").code == 0
    assert [entry["label"] for entry in the_manifest(bench)["planned"]] == ["flaky"]
    assert the_manifest(bench)["planned"][0]["key"] not in {entry["key"] for entry in first["planned"]}
    assert cli("retry", "*").out.startswith("Nothing to do: ")


def test_a_trial_that_was_not_begun_is_left_with_the_reason(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_suite(suite_text(["kd"], epochs=1))
    event = {"event": "failed", "text": "The weights are gone.", "refused": True}
    monkeypatch.setattr(LocalBackend, "executor", Fake(Report(), [{"event": "started"}, event]))
    assert cli(*RUN).code == 3
    assert failed(the_manifest(bench)) == {"kd": ("left", "The weights are gone.")}
    assert "The weights are gone." in cli("status").out


@pytest.mark.parametrize(
    ("error", "outcome", "detail"),
    [(KeyboardInterrupt(), "interrupted", ""), (OSError(28, "full"), "failed", "OSError: full")],
)
def test_a_manifest_is_true_after_an_error_in_the_coordinator(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    outcome: str,
    detail: str,
) -> None:
    make_suite(suite_text(["ce"], epochs=1))

    def raises(*_: object) -> None:
        raise error

    monkeypatch.setattr(LocalBackend, "executor", raises)
    assert cli(*RUN).code == (130 if outcome == "interrupted" else 3)
    manifest = the_manifest(bench)
    assert (manifest["outcome"], manifest["detail"], manifest["recorded"]) == (outcome, detail, [])
    assert manifest["left"] == [entry["key"] for entry in manifest["planned"]]
    assert not live_paths(bench.store.root)
    assert cli("status").code == 3


def test_a_manifest_that_could_not_be_written_at_the_end_is_finished_by_the_next_run(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_suite(suite_text(["ce"], epochs=1))

    def full(path: Path, data: bytes) -> None:
        if b'"ended"' in data:
            raise OSError(28, "No space left on device")
        original(path, data)

    original = manifest.write_atomically
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write_atomically", full)
        ended = cli(*RUN)
    assert (ended.code, "No space left on device" in ended.err) == (3, True)
    assert len(live_paths(bench.store.root)) == 1
    monkeypatch.setattr(live, "_there", lambda _: False)
    assert "stopped without a word" in cli("status").out
    assert "Nothing to do" in cli(*RUN).out
    finished = the_manifest(bench)
    assert (finished["outcome"], finished["failed"], len(finished["recorded"])) == ("killed", [], 1)
    assert not live_paths(bench.store.root)


def test_a_run_with_real_workers_seen_from_outside_and_killed(cli: Cli, bench: Bench) -> None:  # noqa: F811
    """Its status and its log while it runs; kill -9; what status says then; and the next run, which finishes it."""
    loss = "time.sleep(1000 if step.progress > 0.6 and 'SLOW' in os.environ else 0)"
    plugin = bench.plugin("slow", top="import time", loss=loss, setup="print('hello')")
    text = suite_text(["slow"], epochs=2)
    environment = bench.environment(bench.install_suite(text))
    flags = ["run", "--suite", "tiny", "--plugin", plugin, "--slots", "1", "--device", "cpu", "--summary", "none"]

    def start(*words: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "kdbench", *words],
            cwd=bench.folder,
            env={**environment, **more},
            stdout=subprocess.PIPE,
            text=True,
        )

    run = start(*flags, SLOW="yes")
    try:
        wait_until(lambda: manifest_paths(bench.store.root))
        follow = start("logs", "slow seed 0", "-f")
        (task,) = wait_until(lambda: [task for each in live.live_runs(bench.store.root) for task in each["running"]])
        wait_until(lambda: "epoch 1: " in cli("logs", task["task"]).out)
        said = cli("status")
        assert said.code == 0
        assert f"process {task['pid']}" in said.out
        assert "is at work" in cli("retry", "*").err
    finally:
        run.kill()
        run.wait()
    assert re.match(r"hello\n[\d :-]{19} slow on .*, seed 0: epoch 1: ce .*\n$", follow.communicate()[0])
    assert follow.returncode == 0
    assert "stopped without a word" in cli("status").out
    stopped = cli("status", "--json")
    assert (stopped.code, json.loads(stopped.out)["live"][0]["state"]) == (3, "stopped")
    (path,) = manifest_paths(bench.store.root)
    assert "ended" not in read_manifest(path)
    SUITES.add("tiny", (text, "tiny.toml"), "test")
    assert cli(*flags).code == 0, "in this process, which builds no site"
    killed = read_manifest(path)
    assert (killed["outcome"], killed["recorded"], len(killed["left"])) == ("killed", [], 1)
    assert the_manifest(bench)["outcome"] == "done"
    assert not live_path(path).exists()
    assert cli("status").code == 0


def test_epochs_are_printed_where_they_are_asked_for(cli: Cli, make_suite: MakeSuite) -> None:  # noqa: F811
    make_suite(suite_text(["ce"], epochs=1))
    assert "seed 0: epoch 1: ce " not in cli(*RUN).out
    assert "seed 0: epoch 1: ce " in cli(*RUN, "--again", "*", "-v").out


def test_an_added_seed_that_failed_is_tried_again_alone(
    cli: Cli,  # noqa: F811
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its request is that of the look in which it failed, and no further look follows."""
    loss = "if not os.path.exists('mended') and os.path.exists('late'): raise ValueError('no luck')"
    plugin = bench.plugin("flaky", loss=loss)
    SUITES.add("tiny", (suite_text(["ce", "flaky"], epochs=1, seeds=[0, 1]), "tiny.toml"), "test")
    first = cli(*RUN, "--plugin", plugin)
    assert first.code == 0
    (bench.folder / "late").touch()
    assert cli(*RUN, "--plugin", plugin, "--until-decided", "3").code == 3
    asked = the_manifest(bench)["request"]
    assert (asked["seeds"], asked["looks"]) == (3, [2, 3])
    (bench.folder / "mended").touch()
    labels = trained(monkeypatch)
    assert cli("retry", "*").code == 0
    assert set(labels) == {"flaky"}
    (key,) = {entry["key"] for entry in the_manifest(bench)["planned"]}
    assert bench.store.status(key) == "finished"


def test_what_takes_its_time_beats_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BEAT", 0.001)
    calls: list[str] = []

    def slow() -> None:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        calls.append("slow")

    with live.beating(slow, lambda: calls.append("quick")):
        wait_until(lambda: calls.count("quick") > 30)
    assert calls[:2] == ["slow", "quick"], "both at once"
    assert calls.count("slow") < calls.count("quick") / 3


def test_words_that_name_no_log_or_several(cli: Cli, bench: Bench, make_suite: MakeSuite) -> None:  # noqa: F811
    make_suite(suite_text(["ce", "kd"], epochs=1, seeds=[0, 1]))
    empty = cli("status")
    assert (empty.code, "There is no run in results" in empty.err) == (2, True)
    cli(*RUN[:-1], "2")
    manifest = the_manifest(bench)
    assert "No run in results has begun a trial or a task 'dkd'" in cli("logs", "dkd").err
    tasks = {key: task["id"] for task in manifest["tasks"] for key in task["trials"]}
    assert len(set(tasks.values())) == 2, "a cohort a seed, or the next line tests nothing"
    several = cli("logs", "kd")
    assert several.code == 2
    assert "'kd on tiny_cnn_s:tiny_cnn_s, seed 0', 'kd on tiny_cnn_s:tiny_cnn_s, seed 1'" in several.err
    folder = Path(manifest["logs"])
    for name in set(tasks.values()):
        (folder / f"{name}.log").write_text(f"\x1b[31mlog\x1b[0m of {name}")
    for entry in manifest["planned"]:
        for word in (entry["key"][:12], entry["title"], f"{entry['label']} seed {entry['seed']}", tasks[entry["key"]]):
            assert cli("logs", word).out == f"log of {tasks[entry['key']]}\n"
    gone = cli("logs", "teacher tutor")
    assert (gone.code, "cannot be read (No such file or directory)" in gone.err) == (2, True)


def test_what_earlier_versions_wrote_is_read(cli: Cli, bench: Bench) -> None:  # noqa: F811
    """Manifests had no version, and named one suite."""
    folder = bench.store.root / "runs"
    folder.mkdir(parents=True)
    old = {"run": "20260101T000000Z-tiny@1-0000", "suite": "tiny@1", "began": LONG_AGO, "planned": []}
    (folder / f"{old['run']}.json").write_text(json.dumps(old))
    assert not inspect(bench.store).problems
    assert cli("status").code == 3
    assert "an earlier version's" in cli("retry", "*").err
    (folder / f"{old['run']}.json").write_text(json.dumps({**old, "schema_version": 1}))
    (problem,) = inspect(bench.store).problems
    assert "is damaged" in problem.text


@pytest.mark.parametrize("kind", ["run", "live"])
def test_the_schemas_are_sound(kind: str) -> None:
    jsonschema.Draft7Validator.check_schema(schema(kind))


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"run": 3}',
        '{"run": "x", "began": "never"}',
        '{"schema_version": 1}',
        "[]",
        "{",
        '{"run": "x", "outcome": 3}',
    ],
)
def test_a_damaged_manifest_is_named_and_hides_no_other(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    text: str,
) -> None:
    make_suite(suite_text(["ce"], epochs=1))
    assert cli(*RUN).code == 0
    damaged = bench.store.root / "runs" / "99991231T000000.000Z-tiny@1-dead.json"
    damaged.write_text(text)
    for words, said in ((("status",), "recorded, 0 left"), (("retry", "*"), "Nothing to do")):
        ended = cli(*words)
        assert ended.code == 0
        assert said in ended.out
        assert ended.err.count(damaged.name) == 1
    logs = cli("logs", "ce")  # that of the sound run, of which no worker of its own left one here
    assert logs.err.count(damaged.name) == 1
    assert ".log cannot be read" in logs.err


@pytest.mark.parametrize(
    "change", [{"machine": {}}, {"suites": []}, {"machine": None}, {"suites": [3]}, {"pairs": "x"}], ids=str
)
def test_a_request_that_no_run_writes_is_refused(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
) -> None:
    make_suite(suite_text(["ce"], epochs=1))
    monkeypatch.setattr(LocalBackend, "executor", Fake(Report(), []))
    assert cli(*RUN).code == 3
    (path,) = manifest_paths(bench.store.root)
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "request": {**manifest["request"], **change}}))
    ended = cli("retry", "*")
    assert ended.code == 2
    assert "request" in ended.err
