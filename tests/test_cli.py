"""kdbench run from end to end, with the workers in this process."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import Bench, InlineExecutor, suite_text
from render_records import FEW
from test_teachers import CHECKPOINT, keep, weights

from kdbench.cli import main, site
from kdbench.cli import run as run_command
from kdbench.data import DATASETS
from kdbench.plan.task import Task
from kdbench.records import Store
from kdbench.records.results import fold, placed
from kdbench.records.standing import Standing
from kdbench.schedule import Report, Watch, devices
from kdbench.schedule.local import LocalBackend
from kdbench.suites import SUITES, Suite
from kdbench.train.member import Member

MakeSuite = Callable[[str], Suite]


@dataclass
class Ended:
    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


@pytest.fixture
def cli(bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in the bench's folder: exit code, standard output, standard error. No site is built.

    Where a test has one built all the same, it has little of the literature, whose pages take most of the time.
    """
    monkeypatch.setattr(LocalBackend, "executor", InlineExecutor)
    monkeypatch.setattr(site, "build_and_say", lambda *_: None)
    monkeypatch.setattr("kdbench.render.site.load", lambda **_: FEW)

    def call(*arguments: str) -> Ended:
        try:
            code = main(list(arguments))
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        said = captured.out + captured.err
        assert "Traceback" not in said
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", said), "a control character"
        complaints = [line for line in captured.err.splitlines() if line.startswith("kdbench: ")]
        assert all(re.search(r"[^\s.]\.$", line) for line in complaints)
        assert len(set(complaints)) == len(complaints), "one error is said once"
        return Ended(code, captured.out, captured.err)

    return call


BUILD_AND_SAY, LOCAL = site.build_and_say, LocalBackend.executor
RUN = ("run", "--suite", "tiny", "--device", "cpu", "--slots", "1")


def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the trials that are trained from now on, in the order of their first step."""
    labels: list[str] = []
    step = Member.step

    def counted(self: Member, *arguments: Any) -> None:
        if self.trial.label != "pace":  # stepped for its time alone
            labels.append(self.trial.label)
        step(self, *arguments)

    monkeypatch.setattr(Member, "step", counted)
    return labels


def test_a_run_its_records_its_site_and_the_next_run(
    cli: Cli, bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "build_and_say", BUILD_AND_SAY)
    make_suite(suite_text(["ce", "kd"], epochs=1, seeds=[0, 1]))
    first = cli(*RUN)
    assert (first.code, first.err) == (0, "")
    assert "tiny@1: 4 trials, 0 recorded in results, 4 to train." in first.out
    assert "tiny@1: 4 trials recorded." in first.out
    assert (bench.folder / "site" / "public" / "index.html").exists()
    assert str(bench.folder / "site" / "public" / "index.html") in first.out.splitlines()[-1]
    records, problems = bench.store.read()
    assert not problems
    assert sorted((r["label"], r["seed"]) for r in records) == [
        ("ce", 0),
        ("ce", 1),
        ("kd", 0),
        ("kd", 1),
        ("teacher", 100),
    ]
    (manifest,) = (bench.folder / "results" / "runs").glob("*.json")
    said = json.loads(manifest.read_text())
    assert {entry["key"] for entry in said["planned"]} == set(said["recorded"])
    assert (said["left"], said["outcome"], said["suites"]) == ([], "done", ["tiny@1"])

    before = {p: p.stat().st_mtime_ns for p in (bench.folder / "results").rglob("*") if p.is_file()}
    labels = trained(monkeypatch)
    second = cli(*RUN)
    assert (second.code, second.err, labels) == (0, "", [])
    assert "4 trials, 4 recorded in results, 0 to train." in second.out
    assert "Nothing to do" in second.out
    assert {p: p.stat().st_mtime_ns for p in (bench.folder / "results").rglob("*") if p.is_file()} == before


def test_a_run_that_trains_nothing_builds_a_site_where_there_is_none_or_where_it_is_told_to(
    cli: Cli, bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "build_and_say", BUILD_AND_SAY)
    make_suite(suite_text(["ce"], epochs=1))
    cli(*RUN)
    index = bench.folder / "site" / "public" / "index.html"
    pages = [path.stat().st_ino for path in index.parent.rglob("*")]

    def last_line(*arguments: str) -> str:
        ended = cli(*RUN, *arguments)
        assert (ended.code, ended.err) == (0, "")
        return ended.out.splitlines()[-1]

    again = f"Open {index}, which was built before; kdbench site --results results builds it anew."
    assert last_line() == again
    assert [path.stat().st_ino for path in index.parent.rglob("*")] == pages
    for _ in range(2):  # as a reader of the README types it
        assert last_line("--out", "mine").endswith(f"pages. Open {bench.folder / 'mine' / 'index.html'}")
    assert last_line("--out", "site/public").endswith(f"pages. Open {index}")
    assert [path.stat().st_ino for path in index.parent.rglob("*")] != pages
    index.unlink()
    assert last_line().endswith(f"pages. Open {index}")
    assert last_line() == again
    del SUITES._items["tiny"]
    make_suite(suite_text(["ce"], epochs=1).replace("version = 1", "version = 2"))
    assert last_line().endswith(f"pages. Open {index}"), "the records that a new version shows are new to the site"
    assert last_line() == again


def test_what_is_piped_has_no_colours(cli: Cli, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    """``cli`` looks at it; rich would colour a pipe where FORCE_COLOR is set."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    make_suite(suite_text(["ce"], epochs=1))
    assert "finished" in cli(*RUN).out
    for words in (["run", "--suite", "tiny", "--dry-run"], ["list", "suites"], ["show", "kd"], ["--help"], ["rum"]):
        said = cli(*words)
        assert said.out or said.err


def test_a_new_version_trains_only_what_it_adds(
    cli: Cli, bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_suite(suite_text(["ce"], epochs=1))
    cli(*RUN)
    del SUITES._items["tiny"]
    make_suite(suite_text(["ce", "kd"], epochs=1).replace("version = 1", "version = 2"))
    labels = trained(monkeypatch)
    for dry in (["--dry-run"], []):
        said = cli(*RUN, *dry)
        assert said.code == 0
        assert "tiny@2: 2 trials, 1 recorded in results, 1 to train." in said.out
        assert "1 of the recorded ones were trained for another suite, and are shown in this one as well." in said.out
    assert set(labels) == {"teacher", "kd"}
    assert shown(bench.store, "tiny@1") == ["ce"]
    assert shown(bench.store, "tiny@2") == ["ce", "kd"]
    assert len(list(bench.store.files())) == 3, "each training has one record"
    last = cli(*RUN).out
    assert "tiny@2: 2 trials, 2 recorded in results, 0 to train." in last
    assert "for another suite" not in last


def test_several_suites_are_one_plan_one_run_and_one_site(
    cli: Cli, bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "build_and_say", BUILD_AND_SAY)
    make_suite(suite_text(["ce", "kd"], epochs=1))
    make_suite(suite_text([{"name": "kd", "label": "hinton"}, "ttm"], epochs=1, name="second"))
    labels = trained(monkeypatch)
    ended = cli(*RUN, "--suite", "second", "--suite", "tiny")
    assert (ended.code, ended.err) == (0, "")
    assert "tiny@1, second@1: 3 trials, 0 recorded in results, 3 to train." in ended.out
    assert set(labels) == {"teacher", "ce", "kd", "ttm"}
    assert shown(bench.store, "tiny@1") == ["ce", "kd"]
    assert shown(bench.store, "second@1") == ["hinton", "ttm"]
    for name in ("tiny", "second"):
        assert (bench.folder / "site" / "public" / "suites" / f"{name}@1.html").exists()
    (manifest,) = (bench.folder / "results" / "runs").glob("*.json")
    assert json.loads(manifest.read_text())["suites"] == ["tiny@1", "second@1"]
    assert "3 trials, 3 recorded in results, 0 to train." in cli(*RUN, "--suite", "second").out


def test_a_pair_on_another_data_set_trains_on_that_one(cli: Cli, bench: Bench, make_suite: MakeSuite) -> None:
    twin = replace(DATASETS.get("digits"), name="twin", mean=(0.5,))
    DATASETS.add("twin", twin, "test")
    text = suite_text(["ce", "kd"], epochs=1)
    make_suite(f'{text}\n[[pairs]]\ndataset = "twin"\nteacher = "tutor"\nstudent = "tiny_cnn_s"\n')
    ended = cli(*RUN)
    assert (ended.code, ended.err) == (0, "")
    records, _ = bench.store.read()
    assert sorted((r["dataset"], r["label"]) for r in records) == [
        ("digits", "ce"), ("digits", "kd"), ("digits", "teacher"), ("twin", "ce"), ("twin", "kd"), ("twin", "teacher"),
    ]  # fmt: skip
    assert len({r["key"] for r in records}) == 6
    assert {tuple(r["identity"]["student"]["mean"]) for r in records if r["dataset"] == "twin"} == {(0.5,)}


def test_a_run_starts_from_a_baseline(
    cli: Cli, bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_suite(suite_text(["ce", "kd"], epochs=1))
    cli(*RUN, "--method", "kd", "--results", "before")
    labels = trained(monkeypatch)
    for dry in (["--dry-run"], []):
        ended = cli(*RUN, "--baseline", "before", *dry)
        assert (ended.code, ended.err) == (0, "")
        assert "2 trials, 1 recorded in results, 1 to train." in ended.out
        assert "1 of the recorded ones come from a baseline." in ended.out
    assert set(labels) == {"ce"}
    before = {path.name for path in Store(bench.folder / "before").files()}
    assert len(before) == 2, "the student's and its teacher's"
    assert before < {path.name for path in bench.store.files()}
    assert "2 recorded in results" in cli(*RUN).out
    refused = cli(*RUN, "--baseline", "nowhere")
    assert refused.code == 2
    assert "--baseline nowhere is no results folder" in refused.err


def test_a_folder_of_an_earlier_version_is_not_run_on(cli: Cli, bench: Bench, make_suite: MakeSuite) -> None:
    make_suite(suite_text(["ce"], epochs=1))
    cli(*RUN)
    (path,) = bench.store.files()
    path.rename(path.with_name(f"{path.name.partition('.')[0]}.json"))
    refused = cli(*RUN)
    assert refused.code == 2
    assert "kdbench results migrate results brings its records over" in refused.err
    assert cli("results", "migrate").code == 0
    assert "1 recorded in results, 0 to train" in cli(*RUN).out


@pytest.mark.parametrize("text", ["soon", "0m", "45", "-1h", "1h-", "m", "9999999h"])
def test_a_time_that_is_none_is_refused(cli: Cli, make_suite: MakeSuite, text: str) -> None:
    make_suite(suite_text(["ce"], epochs=1))
    refused = cli(*RUN, f"--land-within={text}")
    assert refused.code == 2
    assert "--land-within takes a time such as 45m, 2h or 1h30m" in refused.err


def test_cohorts_are_cut_to_land(cli: Cli, make_suite: MakeSuite) -> None:
    make_suite(suite_text(["ce", "kd", "ttm", "dist"], epochs=300))
    assert "  1 cohort on" in cli(*RUN, "--dry-run").out
    assert "  1 cohort on" in cli(*RUN, "--dry-run", "--land-within", "1d").out
    assert "  4 cohorts on" in cli(*RUN, "--dry-run", "--land-within", "1s").out


def shown(store: Store, suite: str) -> list[str]:
    """The rows of students that a page of ``suite`` shows."""
    results, refused = fold(store.read()[0])
    assert not refused
    return sorted(
        r["label"]
        for r in placed(results, store.listings()[0], Standing())
        if r["suite"] == suite and r["label"] != "teacher"
    )


def test_filters_train_what_they_name_and_a_wider_call_the_rest(
    cli: Cli, bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_suite(suite_text(["ce", "kd"], epochs=1, seeds=[0, 1]))
    labels = trained(monkeypatch)
    assert "1 trial, 0 recorded in results, 1 to train" in cli(*RUN, "--method", "ce", "--seeds", "1").out
    assert set(labels) == {"ce"}, "no teacher is trained for a student alone"
    wider = cli(*RUN, "--method", "ce", "--method", "ttm", "--seeds", "1")
    assert "2 trials, 1 recorded in results, 1 to train" in wider.out
    assert "ttm is not in tiny@1; it was added because it was named exactly." in wider.out
    assert set(labels) == {"ce", "teacher", "ttm"}
    del labels[:]
    assert "4 trials, 1 recorded in results, 3 to train" in cli(*RUN).out
    assert "teacher" not in labels


@pytest.mark.parametrize(
    ("listed", "visible", "expected"),
    [
        ("", None, ()),
        ("", "0", ()),
        ("GPU 0: H\nGPU 1: H\n", None, ("0", "1")),
        ("GPU 0: H\nGPU 1: H\n", "1", ("1",)),
        ("GPU 0: H\nGPU 1: H\n", "", ()),
        ("GPU 0: H\n", "-1", ()),
        ("GPU 0: H\n  MIG 1g\n", "MIG-a, MIG-b", ("MIG-a", "MIG-b")),
    ],
)
def test_the_gpus_are_those_of_the_driver_that_the_user_made_visible(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, listed: str, visible: str | None, expected: tuple[str, ...]
) -> None:
    """One slot a device follows from this: neither a hidden device nor one that is not there gets a worker."""
    tool = bench.folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{listed}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(bench.folder), prepend=os.pathsep)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert tuple(gpu.name for gpu in devices.gpus.__wrapped__()) == expected


def test_a_dry_run_writes_nothing(cli: Cli, bench: Bench, make_suite: MakeSuite) -> None:
    make_suite(suite_text(["ce", "kd"], teacher=CHECKPOINT))
    made = cli(*RUN, "--dry-run")
    assert made.code == 0
    assert re.search(r"2 trials, 0 recorded in results, 2 to train", made.out)
    assert re.search(r"teacher tutor +about +\d+ s", made.out)
    assert re.search(r"about +\d+ s +ce, kd", made.out)
    assert "Batches are made once a cohort, 1 time instead of 2." in made.out
    make_suite(suite_text(["ce", "kd", "dkd"], name="more", teacher=CHECKPOINT, seeds=[0, 1]))
    made = cli("run", "--suite", "more", "--dry-run")
    assert "once a cohort, 2 times instead of 6, and seen by a teacher 2 times instead of 4." in made.out
    assert not (bench.folder / "results").exists()
    assert not (bench.folder / "site").exists()


def test_a_diverged_trial_is_on_the_record_and_in_the_exit_code(
    cli: Cli, bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = bench.plugin("nan", loss="if step.epoch == 2: terms['ce'] = terms['ce'] * float('nan')")
    make_plugin_suite(plugin, "nan")
    first = cli(*RUN, "--plugin", plugin)
    assert first.code == 3
    records = bench.records()
    assert {label: r["status"] for label, r in records.items()} == {
        "ce": "finished",
        "nan": "diverged",
        "kd": "finished",
    }
    assert "epoch 2" in records["nan"]["detail"]
    assert "1 of these trials diverged" in first.out
    labels = trained(monkeypatch)
    second = cli(*RUN, "--plugin", plugin)
    assert (second.code, labels) == (3, [])
    assert "0 to train" in second.out
    assert "1 of these trials diverged; they stay on the record and are not tried again." in second.out
    assert cli(*RUN, "--plugin", plugin, "--method", "ce").code == 0


def make_plugin_suite(plugin: str, name: str) -> None:
    """Suites are parsed when they are asked for, after the plugins are loaded: this one may name a plugin's method."""
    SUITES.add("tiny", (suite_text(["ce", name, "kd"]), "tiny.toml"), "test")


def test_a_crashed_trial_is_tried_again_by_the_next_run(
    cli: Cli, bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = bench.plugin("flaky", loss="if not os.path.exists('mended'): raise ValueError('no luck')")
    make_plugin_suite(plugin, "flaky")
    first = cli(*RUN, "--plugin", plugin)
    assert first.code == 3
    assert "flaky" in first.out
    assert "ValueError: no luck" in first.out
    (logs,) = (bench.folder / "cache" / "runs").iterdir()
    assert f"2 trials recorded, 1 left for the next run; what the workers printed is in {logs}." in first.out
    assert "no luck" in "".join(path.read_text() for path in logs.iterdir())
    assert bench.records()["flaky"]["status"] == "crashed"
    (bench.folder / "mended").touch()
    labels = trained(monkeypatch)
    assert cli(*RUN, "--plugin", plugin).code == 0
    assert set(labels) == {"flaky"}
    assert bench.records()["flaky"]["status"] == "finished"


class Fake:
    """A backend that ends as it is told."""

    def __init__(self, report: Report, events: Sequence[dict[str, Any]] = ()) -> None:
        self.report, self.events = report, events

    def __call__(self, *_: Any, **__: Any) -> Fake:
        return self

    def run(self, tasks: Sequence[Task], watch: Watch) -> Report:
        for task in tasks:
            for event in self.events:
                watch(task, event)
            if not self.report.interrupted:
                self.report.failed[task.id] = f"{task.title}: its worker was ended by SIGKILL."
        return self.report


@pytest.mark.slow
def test_a_method_that_ends_its_process_costs_its_own_trial(
    cli: Cli, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real workers, of which the plugin has its own. What it prints is in the log alone."""
    loss = "print('noise'); step.progress < 0.3 or (sys.stdout.flush(), os._exit(0))"
    plugin = bench.plugin("fatal", loss=loss)
    make_plugin_suite(plugin, "fatal")
    monkeypatch.setattr(LocalBackend, "executor", LOCAL)
    ended = cli(*RUN, "--plugin", plugin, "--method", "ce", "--method", "fatal")
    assert ended.code == 3
    assert "noise" not in (ended.out + ended.err).splitlines()
    (said,) = ended.err.splitlines()
    assert said.startswith("kdbench: tiny_cnn_s seed 0: its worker ended with code 0 (noise); its log is ")
    records = bench.records()
    assert {label: r["status"] for label, r in records.items()} == {"ce": "finished", "fatal": "crashed"}
    assert said.removeprefix("kdbench: ") == records["fatal"]["detail"]


@pytest.mark.parametrize("silent", [False, True])
def test_a_worker_that_left_no_word_leaves_a_record_nevertheless(
    cli: Cli, bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    make_suite(suite_text(["ce"], epochs=1))
    event = {"event": "failed", "text": "its worker was ended by SIGKILL.", "timed_out": silent}
    monkeypatch.setattr(LocalBackend, "executor", Fake(Report(), [{"event": "started"}, event]))
    ended = cli(*RUN)
    assert ended.code == 3
    assert "its worker was ended by SIGKILL." in ended.err
    assert ended.err.count("\n") == 1
    record = bench.records()["ce"]
    assert record["status"] == ("timed_out" if silent else "crashed")
    assert "SIGKILL" in record["detail"]
    assert record["numerics"] is None


def test_an_interrupted_run_says_how_to_go_on(
    cli: Cli, bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_suite(suite_text(["ce"], epochs=1))
    monkeypatch.setattr(LocalBackend, "executor", Fake(Report(interrupted=True)))
    ended = cli(*RUN)
    assert ended.code == 130
    assert "the same command goes on from the last checkpoints" in ended.out
    assert bench.records() == {}
    (manifest,) = (bench.folder / "results" / "runs").glob("*.json")
    assert json.loads(manifest.read_text())["outcome"] == "interrupted"


def test_ctrl_c_outside_of_training_is_one_line(
    cli: Cli, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    make_suite(suite_text(["ce"]))
    monkeypatch.setattr(run_command, "make_plan", interrupted)
    ended = cli(*RUN)
    assert (ended.code, ended.err) == (130, "kdbench: interrupted.\n")


def test_the_first_use_of_a_teacher_pins_it_and_another_file_is_refused(
    cli: Cli, bench: Bench, make_suite: MakeSuite
) -> None:
    make_suite(suite_text(["ce", "kd"], epochs=1, teacher=CHECKPOINT))
    keep(bench, weights())
    assert cli(*RUN, "--method", "kd").code == 0
    assert bench.store.pins("tiny") == {"tutor": bench.records()["kd"]["teacher"]["weights_sha256"]}
    keep(bench, weights(seed=1))
    assert "0 to train" in cli(*RUN, "--method", "kd").out, "what was trained under the pinned weights stays done"
    refused = cli(*RUN, "--method", "kd", "--seeds", "2")
    assert refused.code == 2, "though the cache folder has the teacher as it was"
    assert "are not the pinned ones" in refused.err
    keep(bench, weights())
    assert cli(*RUN, "--method", "kd", "--seeds", "2").code == 0


def test_weights_that_do_not_fit_are_never_pinned(cli: Cli, bench: Bench, make_suite: MakeSuite) -> None:
    make_suite(suite_text(["ce", "kd"], epochs=1, teacher=CHECKPOINT))
    keep(bench, {"fc.weight": torch.ones(2)})
    refused = cli(*RUN)
    assert refused.code == 2
    assert "do not fit the model" in refused.err
    assert bench.store.pins("tiny") == {}
    keep(bench, weights())
    assert cli(*RUN, "--dry-run").code == 0
    assert bench.store.pins("tiny") == {}, "a dry run pins nothing"


@pytest.mark.parametrize("pinned", ["", f'weights_sha256 = "{"1" * 64}"\n'])
def test_a_plan_says_which_weights_are_missing(cli: Cli, bench: Bench, make_suite: MakeSuite, pinned: str) -> None:
    make_suite(suite_text(["ce", "kd"], epochs=1, teacher=f"{CHECKPOINT.rstrip()}\n{pinned}"))
    said = cli(*RUN, "--dry-run")
    assert said.code == 0
    assert "Teacher tutor wants its weights" in said.out
    refused = cli(*RUN)
    assert refused.code == 2, "at once, and not by a worker"
    assert "Teacher tutor wants its weights" in refused.err
    assert bench.records() == {}


def test_a_full_disk_is_one_sentence_and_costs_nothing(
    cli: Cli, bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records cannot be written; the run is interrupted meanwhile. They are made from the checkpoints at once."""
    from kdbench.records import store
    from kdbench.train.pulse import Pulse

    def interrupted(pulse: Pulse, seconds: float) -> None:
        signal.raise_signal(signal.SIGINT)

    make_suite(suite_text(["ce", "kd"], epochs=1))

    def full(path: Path, data: bytes) -> None:
        if path.parent.name == "tiny@1":
            raise OSError(28, "No space left on device")
        original(path, data)

    original = store.write_atomically
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_atomically", full)
        patch.setattr(Pulse, "wait", interrupted)
        ended = cli(*RUN)
    assert ended.code == 130
    assert "cannot be written (No space left on device): free some room, and the run goes on by itself" in ended.out
    assert not [r for r in bench.records().values() if r["status"] == "finished"]
    labels = trained(monkeypatch)
    assert cli(*RUN).code == 0
    assert labels == []
    assert {r["status"] for r in bench.records().values()} == {"finished"}


def test_an_audience_that_leaves_is_no_error(cli: Cli, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("os.dup2", lambda *_: None)
    monkeypatch.setattr(run_command, "say_plan", gone)
    make_suite(suite_text(["ce"]))
    assert cli(*RUN).err == ""
