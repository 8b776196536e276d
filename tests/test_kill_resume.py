"""Killed at any instant and started again, a training ends with the bits of one that nobody disturbed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import PHASED, STEPS, Bench, add_drop_net, registries_kept, same_bits, suite_text, wait_until
from executor_conformance import alive

from kdbench.jobs import clerk, cohort
from kdbench.jobs.worker import run
from kdbench.plugins import load_plugins
from kdbench.records import Record
from kdbench.suites import Suite, parse_suite
from kdbench.train import checkpoint
from kdbench.train.device import numerics
from kdbench.train.lockstep import Lockstep
from kdbench.train.member import Member

pytestmark = pytest.mark.usefixtures("plugins_in_company")

METHODS = ("ce", "fitnet", "phased")


class Killed(KeyboardInterrupt):
    """kill -9 arrives here: nothing that would tidy up runs, nor is it taken for a method's mistake."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, Suite, dict[str, Record]]]:
    """A suite whose student draws random numbers while it trains, its teacher, and the records nobody disturbed."""
    with registries_kept():
        add_drop_net()
        bench = Bench(tmp_path_factory.mktemp("undisturbed"))
        load_plugins([bench.plugin("phased", **PHASED)])
        suite = parse_suite(suite_text(METHODS, student="drop_net"), "tiny.toml")
        yield bench, suite, bench.train(bench.trials(suite))


@pytest.fixture
def at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint at every step."""
    monkeypatch.setattr(cohort, "CHECKPOINT_SECONDS", 0.0)


def at(count: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """``call``, which kills at its ``count``-th time from 0."""
    calls = iter(range(10_000))

    def deadly(*arguments: Any, **keywords: Any) -> Any:
        if next(calls) == count:
            raise Killed
        return call(*arguments, **keywords)

    return deadly


KILLS: dict[str, tuple[object, str, list[int]]] = {
    "before the first step, in a phase, and in epoch 2": (Lockstep, "_share", [0, STEPS + 3, 2 * STEPS + 1]),
    "at the end of a phase, of an epoch, and of the training": (
        Member,
        "_descend",
        [STEPS, STEPS, 3 * STEPS, 3 * (STEPS - 1) - 1],
    ),
    "between the checkpoints of two members": (checkpoint, "save", [3 * 2 + 1, 3 * 9 + 2]),
}


@pytest.mark.usefixtures("at_every_step")
@pytest.mark.parametrize("kill", KILLS)
def test_killed_twice_and_resumed_gives_the_same_bits(
    bench: Bench,
    undisturbed: tuple[Bench, Suite, dict[str, Record]],
    monkeypatch: pytest.MonkeyPatch,
    kill: str,
) -> None:
    whole, suite, expected = undisturbed
    os.symlink(whole.folder / "cache", bench.folder / "cache")
    trials = bench.trials(suite)
    owner, name, counts = KILLS[kill]
    for count in counts:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, at(count, getattr(owner, name)))
            with pytest.raises(Killed):
                bench.train(trials)
        assert bench.records() == {}
    records = bench.train(trials)
    for label in METHODS:
        assert same_bits(records[label], expected[label]), label
        assert records[label]["provenance"]["resumed"] >= 1, label
    assert not list((bench.folder / "cache" / "checkpoints").glob("*.ckpt"))


@pytest.mark.usefixtures("at_every_step")
def test_a_resumed_trial_among_new_ones_and_after_a_lost_checkpoint(
    bench: Bench, undisturbed: tuple[Bench, Suite, dict[str, Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members of one cohort that stand at different places: one resumed, one new, one whose checkpoint was damaged."""
    whole, suite, expected = undisturbed
    os.symlink(whole.folder / "cache", bench.folder / "cache")
    trials = {trial.label: trial for trial in bench.trials(suite)}
    with monkeypatch.context() as patch:
        patch.setattr(Lockstep, "_share", at(STEPS + 3, Lockstep._share))
        with pytest.raises(Killed):
            bench.train([trials["ce"], trials["fitnet"]])
    damaged = bench.folder / "cache" / "checkpoints" / f"{trials['fitnet'].key}.ckpt"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    records = bench.train(list(trials.values()))
    assert {label: records[label]["provenance"]["resumed"] for label in METHODS} == {"ce": 1, "fitnet": 0, "phased": 0}
    assert all(same_bits(records[label], expected[label]) for label in METHODS)


@pytest.mark.usefixtures("at_every_step")
def test_a_batch_made_ahead_for_one_that_left_is_nobody_elses(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """On two cores: a new member crashes while the next batch is made, and the resumed one waits at a later step."""
    bench.cores = 2
    suite = parse_suite(suite_text(["ce", "fitnet"]), "tiny.toml")
    expected = bench.train(bench.trials(suite))
    resumed = bench.again("resumed")
    shutil.copytree(bench.folder / "cache" / "teachers", resumed.folder / "cache" / "teachers")
    resumed.cores = 2
    trials = {trial.label: trial for trial in resumed.trials(suite)}
    with monkeypatch.context() as patch:
        patch.setattr(Lockstep, "_share", at(STEPS + 3, Lockstep._share))
        with pytest.raises(Killed):
            resumed.train([trials["ce"]])
    with monkeypatch.context() as patch:
        patch.setattr("kdbench.methods.zoo.fitnet.FitNet.loss", lambda self, step: 1 / 0)
        records = resumed.train(list(trials.values()))
    assert records["fitnet"]["status"] == "crashed"
    assert records["ce"]["provenance"]["resumed"] == 1
    assert same_bits(records["ce"], expected["ce"])


@pytest.mark.usefixtures("at_every_step")
@pytest.mark.parametrize("part", ["curve", "method", "optimiser", "network"])
def test_a_checkpoint_of_another_version_of_the_code_is_passed_over(
    bench: Bench, undisturbed: tuple[Bench, Suite, dict[str, Record]], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    whole, suite, expected = undisturbed
    shutil.copytree(whole.folder / "cache", bench.folder / "cache")
    trials = bench.trials(suite, "phased")
    with monkeypatch.context() as patch:
        patch.setattr(Lockstep, "_share", at(STEPS + 3, Lockstep._share))
        with pytest.raises(Killed):
            bench.train(trials)
    path = bench.folder / "cache" / "checkpoints" / f"{trials[0].key}.ckpt"
    state = checkpoint.load(path, numerics(torch.device("cpu")))
    assert state is not None
    if part == "curve":
        del state["curve"]
    else:
        state[part] = {"another": torch.zeros(3)}
    checkpoint.save(path, state)
    record = bench.train(trials)["phased"]
    assert record["provenance"]["resumed"] == 0
    assert same_bits(record, expected["phased"])


@pytest.mark.usefixtures("at_every_step")
def test_killed_after_the_last_step_only_the_record_is_made(
    bench: Bench, undisturbed: tuple[Bench, Suite, dict[str, Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, suite, expected = undisturbed
    os.symlink(whole.folder / "cache", bench.folder / "cache")
    trials = bench.trials(suite)
    with monkeypatch.context() as patch:
        patch.setattr("kdbench.jobs.clerk.build_record", at(1, clerk.build_record))
        with pytest.raises(Killed):
            bench.train(trials)
    assert list(bench.records()) == ["ce"]
    with monkeypatch.context() as patch:
        patch.setattr(Lockstep, "_share", at(0, Lockstep._share))
        records = bench.train(trials)
    assert all(same_bits(records[label], expected[label]) for label in METHODS)


LONG = suite_text(["slow"], epochs=3, batch=16)
LONG_STEPS = 75
#: So that the end does not come before the kill, however late that is.
SLOW = {"top": "import time", "loss": "time.sleep(float(os.environ.get('SLOW', 0)))"}


def worker_of(parent: int, other_than: int = 0) -> int:
    """The process id of the worker that ``parent`` has started; 0 while there is none."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        workers = [int(pid) for pid in children if b"kdbench.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    except OSError:  # one of them has just ended
        return 0
    return next((pid for pid in workers if pid != other_than), 0)


def stopped_inside_an_epoch(checkpoint_file: Path, pid: int, after: int) -> int:
    """Stop the worker ``pid`` when its checkpoint lies inside an epoch, beyond step ``after``; 0 while it does not."""
    if not checkpoint_file.exists():
        return 0
    os.kill(pid, signal.SIGSTOP)
    state = checkpoint.load(checkpoint_file, numerics(torch.device("cpu")))
    position = 0 if state is None else int(state["position"])
    if position % LONG_STEPS and position > after:
        return position
    os.kill(pid, signal.SIGCONT)
    return 0


def test_real_processes_killed_with_kill_9(bench: Bench) -> None:
    """The worker twice in the middle of an epoch, the second time by the death of the run that had started it.

    The first time the run starts it again; the second time nothing is left running, and the next run goes on.
    """
    plugin = bench.plugin("slow", **SLOW)
    load_plugins([plugin])
    (trial,) = bench.trials(parse_suite(LONG, "tiny.toml"))
    command = ["run", "--suite", "tiny", "--plugin", plugin, "--slots", "1", "--device", "cpu"]
    run = subprocess.Popen(
        [sys.executable, "-m", "kdbench", *command],
        cwd=bench.folder,
        env=bench.environment(bench.install_suite(LONG), KDBENCH_CHECKPOINT_SECONDS="0.2", SLOW="0.02"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    path = bench.folder / "cache" / "checkpoints" / f"{trial.key}.ckpt"
    try:
        first = wait_until(lambda: worker_of(run.pid))
        reached = wait_until(lambda: stopped_inside_an_epoch(path, first, 0))
        os.kill(first, signal.SIGKILL)
        second = wait_until(lambda: worker_of(run.pid, first))
        wait_until(lambda: stopped_inside_an_epoch(path, second, reached))
    finally:
        run.kill()
        run.wait()
    os.kill(second, signal.SIGCONT)
    wait_until(lambda: not alive(second))
    assert run.stdout is not None
    assert "its worker was ended by SIGKILL" in run.stdout.read().decode()
    assert bench.records() == {}
    record = bench.train([trial])["slow"]
    assert record["provenance"]["resumed"] == 2
    reference = bench.again("reference")
    assert same_bits(record, reference.train([trial])["slow"])


def test_attempts_are_on_the_record(bench: Bench) -> None:
    (task,) = bench.tasks(bench.trials(parse_suite(suite_text(["ce"], epochs=1), "tiny.toml")))
    run(replace(task, attempt=3), bench.events.append)
    assert bench.records()["ce"]["provenance"]["attempts"] == 3


@pytest.mark.parametrize("rows", [["ce", "kd"], ["kd"]])
def test_a_resumed_trainings_ratio_is_of_what_was_timed_together(
    bench: Bench, make_suite: Callable[[str], Suite], monkeypatch: pytest.MonkeyPatch, rows: list[str]
) -> None:
    """An hour that was lost under another load does not make the method dear."""
    monkeypatch.setattr(cohort, "CHECKPOINT_SECONDS", 0.0)
    trials = bench.trials(make_suite(suite_text(rows, epochs=4)))
    with monkeypatch.context() as patch:
        patch.setattr(Lockstep, "_share", at(2 * STEPS + 3, Lockstep._share))  # the teacher takes STEPS
        with pytest.raises(Killed):
            bench.train(trials)
    path = bench.folder / "cache" / "checkpoints" / f"{trials[-1].key}.ckpt"
    state = checkpoint.load(path, numerics(torch.device("cpu")))
    assert state is not None
    checkpoint.save(path, {**state, "seconds": state["seconds"] + 3600.0})
    record = bench.train(trials)["kd"]
    assert record["provenance"]["resumed"] == 1
    assert record["cost"]["seconds"] > 3600
    assert 0 < record["cost"]["ratio_to_ce"] < 1000
