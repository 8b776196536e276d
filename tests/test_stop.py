"""A worker that is told to end saves its students first, wherever it is; whoever goes on ends with the same bits."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import PATIENCE, PHASED, STEPS, Bench, add_drop_net, registries_kept, same_bits, suite_text, wait_until
from test_worker import start, with_plugin

from kdbench.jobs import cohort, worker
from kdbench.plan.task import EXIT_STOPPED, Task
from kdbench.plugins import load_plugins
from kdbench.records import Record
from kdbench.suites import Suite, parse_suite
from kdbench.train import checkpoint
from kdbench.train.device import numerics
from kdbench.train.lockstep import Lockstep
from kdbench.train.member import Member
from kdbench.train.pulse import Pulse, Stopped
from kdbench.train.scoring import Scoring

METHODS = ("ce", "fitnet", "phased")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, Suite, dict[str, Record]]]:
    """A suite whose student draws random numbers, its teacher, and the records nobody disturbed."""
    with registries_kept(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.plan.cohorts.foreign", lambda trial: frozenset())
        add_drop_net()
        bench = Bench(tmp_path_factory.mktemp("undisturbed"))
        load_plugins([bench.plugin("phased", **PHASED)])
        suite = parse_suite(suite_text(METHODS, student="drop_net"), "tiny.toml")
        yield bench, suite, bench.train(bench.trials(suite))


@pytest.fixture
def taught(bench: Bench, undisturbed: tuple[Bench, Suite, dict[str, Record]]) -> Bench:
    """A bench on which that teacher is ready, and nothing else."""
    shutil.copytree(undisturbed[0].folder / "cache" / "teachers", bench.folder / "cache" / "teachers")
    return bench


def states(bench: Bench) -> dict[str, dict[str, Any]]:
    """What is saved, by method."""
    machine = numerics(torch.device("cpu"))
    files = (bench.folder / "cache" / "checkpoints").glob("*.ckpt")
    return {file.stem: found for file in files if (found := checkpoint.load(file, machine)) is not None}


@pytest.mark.usefixtures("plugins_in_company")
@pytest.mark.parametrize(("every", "cores"), [(17, 1), (31, 1), (19, 2)])
def test_stopped_again_and_again_it_has_the_same_bits(
    taught: Bench,
    undisturbed: tuple[Bench, Suite, dict[str, Record]],
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    cores: int,
) -> None:
    """At every so many beats: between two steps, between two students of a step, in a sweep, within the scoring."""
    _, suite, expected = undisturbed
    taught.cores = cores
    trials = taught.trials(suite)
    whole = Pulse.beat
    stops = 0
    while len(taught.records()) < len(METHODS):
        beats = itertools.count(1)

        def beat(pulse: Pulse, beats: Iterator[int] = beats) -> None:
            if next(beats) > every:
                raise Stopped
            whole(pulse)

        with monkeypatch.context() as patch:
            patch.setattr(Pulse, "beat", beat)
            try:
                taught.train(trials)
            except Stopped:
                stops += 1
        assert stops < 100
    records = taught.records()
    assert all(same_bits(records[label], expected[label]) for label in METHODS)
    assert stops >= 3


def test_what_was_done_since_the_last_checkpoint_is_not_lost(
    taught: Bench, undisturbed: tuple[Bench, Suite, dict[str, Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each student goes on from the very step that it had reached."""
    trials = taught.trials(undisturbed[1], "ce", "fitnet")
    monkeypatch.setattr(cohort, "CHECKPOINT_SECONDS", 1e9)
    share = Lockstep._share
    with monkeypatch.context() as patch:

        def stopping(lockstep: Lockstep, step: int, due: Any) -> Any:
            if step == STEPS + 3:
                lockstep.pulse._stopping.set()
            return share(lockstep, step, due)

        patch.setattr(Lockstep, "_share", stopping)
        with pytest.raises(Stopped):
            taught.train(trials)
    assert {state["position"] for state in states(taught).values()} == {STEPS + 3}
    steps: list[int] = []
    train = Member._train
    monkeypatch.setattr(Member, "_train", lambda self, *rest: (steps.append(self.position), train(self, *rest))[1])
    records = taught.train(trials)
    assert min(steps) == STEPS + 3
    assert all(same_bits(records[label], undisturbed[2][label]) for label in records)


@pytest.mark.parametrize(("number", "closed"), [(0, [0, 0]), (1, [0, 1]), (3, [1, 2])])
def test_a_student_that_was_being_scored_is_scored_first(
    taught: Bench,
    undisturbed: tuple[Bench, Suite, dict[str, Record]],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    closed: list[int],
) -> None:
    """A large test set is not waited for; one student may have been scored, and another one not."""
    trials = taught.trials(undisturbed[1], "ce", "fitnet")
    with monkeypatch.context() as patch:
        scored = itertools.count()
        close = Scoring.close_epoch

        def stopping(scoring: Scoring, *rest: Any, **more: Any) -> Any:
            if next(scored) == number:
                raise Stopped  # as the first beat does that it meets
            return close(scoring, *rest, **more)

        patch.setattr(Scoring, "close_epoch", stopping)
        with pytest.raises(Stopped):
            taught.train(trials)
    left = states(taught).values()
    assert {state["position"] for state in left} == {STEPS * (1 + number // 2)}
    assert sorted(len(state["curve"]) for state in left) == closed
    records = taught.train(trials)
    assert all(same_bits(records[label], undisturbed[2][label]) for label in records)


def test_whoever_fails_as_the_worker_stops_is_not_to_blame(
    taught: Bench, undisturbed: tuple[Bench, Suite, dict[str, Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler, say, that the same signal ended. Its half-done step is not saved."""
    trials = taught.trials(undisturbed[1], "ce", "fitnet")
    with monkeypatch.context() as patch:

        def failing(self: Member, *rest: Any) -> Any:
            if self.position == 3 and self.trial.method == "fitnet":
                lockstep_pulse[0]._stopping.set()
                raise RuntimeError("the compiler was killed")
            return learn(self, *rest)

        learn = Member.learn
        lockstep_pulse: list[Pulse] = []
        begin = Lockstep._run
        patch.setattr(Lockstep, "_run", lambda self, live: (lockstep_pulse.insert(0, self.pulse), begin(self, live))[1])
        patch.setattr(Member, "learn", failing)
        with pytest.raises(Stopped):
            taught.train(trials)
    assert taught.records() == {}
    (left,) = states(taught).values()
    assert left["key"] == next(trial.key for trial in trials if trial.method == "ce")
    records = taught.train(trials)
    assert all(same_bits(records[label], undisturbed[2][label]) for label in records)


SLOW = {"top": "import time", "loss": "time.sleep(float(os.environ.get('SLOW', 0)))"}


@pytest.fixture
def slow(bench: Bench) -> tuple[Task, Path]:
    """A task whose steps take a moment, and where its checkpoint will be."""
    plugin = bench.plugin("slow", **SLOW)
    load_plugins([plugin])
    trials = bench.trials(parse_suite(suite_text(["slow"], epochs=3, batch=16), "tiny.toml"))
    (task,) = bench.tasks(trials, [plugin])
    return task, bench.folder / "cache" / "checkpoints" / f"{trials[0].key}.ckpt"


@pytest.mark.parametrize("how", ["SIGTERM", "its run is gone"])
def test_a_real_worker_saves_itself(
    bench: Bench, slow: tuple[Task, Path], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    task, path = slow
    monkeypatch.setenv("SLOW", "0.05")
    process = start(bench, task)
    assert process.stdout is not None
    while b'"progress"' not in process.stdout.readline():  # at work
        assert process.poll() is None
    assert not path.exists()
    if how == "SIGTERM":
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read().endswith(b'{"event": "stopped"}\n')
        assert process.wait(PATIENCE) == EXIT_STOPPED
    else:
        process.communicate()
        assert process.returncode == worker.EXIT_ALONE
    state = checkpoint.load(path, numerics(torch.device("cpu")))
    assert state is not None
    assert state["position"] > 0
    monkeypatch.setenv("SLOW", "0")
    record = bench.train(task.trials)["slow"]
    assert record["provenance"]["resumed"] == 1
    assert same_bits(record, bench.again("reference").train(task.trials)["slow"])


def test_a_second_sigterm_ends_it_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the main thread is at: a step that takes for ever. The first one waits for it."""
    mark = bench.folder / "begun"
    endless = f"len(step.y) == 16 and (open({str(mark)!r}, 'w').close(), time.sleep(600))"
    plugin = bench.plugin("endless", top="import time", loss=endless)
    load_plugins([plugin])
    trials = bench.trials(parse_suite(suite_text(["endless"], batch=16), "tiny.toml"))
    process = start(bench, *bench.tasks(trials, [plugin]))
    wait_until(mark.exists)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == EXIT_STOPPED


def test_where_nothing_can_be_saved_nobody_waits(bench: Bench, slow: tuple[Task, Path]) -> None:
    mark = bench.folder / "loaded"
    loading = f"import time\nopen({str(mark)!r}, 'w')\ntime.sleep(600)\n"
    process = start(bench, with_plugin(bench, slow[0], loading))
    wait_until(mark.exists)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.read() == b'{"event": "stopped"}\n'
    assert process.wait(PATIENCE) == EXIT_STOPPED


def test_the_watchdog_ends_what_does_not_stop() -> None:
    endless = """
import time
from kdbench.train.pulse import Pulse
pulse = Pulse(print)
with pulse.saving():
    pulse.stop(7, 0.2)
    time.sleep(600)
"""
    assert subprocess.run([sys.executable, "-c", endless], timeout=PATIENCE, check=False).returncode == 7


def test_decoders_outlive_a_sigterm_to_their_whole_group() -> None:
    """Else a training on images in files would meet a broken pool where it was to save itself."""
    code = """
import os, signal
from kdbench.data.decoders import _pool
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: None)
    pool = _pool(1)
    child = pool.submit(os.getpid).result()
    os.killpg(0, signal.SIGTERM)
    assert pool.submit(os.getpid).result() == child
    signal.raise_signal(signal.SIGTERM)  # which this process hears as ever
    os._exit(5)
"""
    ended = subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, check=False, start_new_session=True)
    assert ended.returncode == 5


def test_signs_of_life_come_once_a_second_and_not_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("kdbench.train.pulse.time.monotonic", lambda: now[0])
    said: list[dict[str, Any]] = []
    pulse = Pulse(said.append)
    for _ in range(10):
        now[0] += 0.25
        pulse.beat()
    assert said == [{"event": "alive"}] * 2
    pulse({"event": "progress"})
    now[0] += 0.75
    pulse.beat()
    assert len(said) == 3


def test_work_without_beats_is_alive_for_as_long_as_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.train.pulse.ALIVE_EVERY", 0.05)
    said: list[dict[str, Any]] = []
    with Pulse(said.append).at_work():
        began = time.monotonic()
        while not said and time.monotonic() - began < PATIENCE:
            sum(range(10_000))
        spoken = len(said)
        time.sleep(0.2)  # one more may have been due
        assert 1 <= spoken <= len(said) <= spoken + 1
    assert set(map(str, said)) == {"{'event': 'alive'}"}


def test_scoring_and_remembering_say_that_they_live(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two batches of the test set, which has 500 images, and of the 1,200 that the teacher is asked about."""
    monkeypatch.setattr("kdbench.train.pulse.ALIVE_EVERY", 0.0)
    monkeypatch.setattr("kdbench.train.lockstep.PROGRESS_EVERY", 1e9)
    row = {"name": "kd", "protocol": {"augmentation": "none", "batch": 200, "epochs": 2}}
    bench.train(bench.trials(parse_suite(suite_text([row]), "tiny.toml")))
    kinds = [event["event"] for event in bench.events]
    teacher = kinds.index("teacher")
    assert kinds[teacher - 2 : teacher] == ["alive"] * 2
    remembering = kinds.index("note") + 1
    assert kinds[remembering : remembering + 6] == ["alive"] * 6
    first, last = (place for place, kind in enumerate(kinds) if kind == "epoch" and place > teacher)
    assert kinds[first + 1 : last] == ["alive"] * (last - first - 1)
    assert last - first > STEPS + 2
