"""A disk that is full, read-only or gone: what must be written waits for it, what need not is done without."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, same_bits, suite_text

from kdbench.folders import PASSING, patiently, write_atomically
from kdbench.records import Store
from kdbench.suites import parse_suite
from kdbench.teachers.weights import write_weights
from kdbench.train import checkpoint
from kdbench.train.pulse import Pulse

MIB = 2**20


def fails(times: int, number: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """``call``, which fails so often before it works."""
    left = iter([True] * times)

    def failing(*arguments: Any, **keywords: Any) -> Any:
        if next(left, False):
            raise OSError(number, os.strerror(number))
        return call(*arguments, **keywords)

    return failing


@pytest.mark.parametrize("number", sorted(PASSING))
def test_what_may_pass_is_waited_for_and_told_once(number: int) -> None:
    said: list[str] = []
    waited: list[float] = []
    write = fails(3, number, lambda: "written")
    made = patiently(write, "the record", said.append, lambda text: said.append(f"then {text}"), waited.append)
    assert made == "written"
    assert len(waited) == 3
    first, then = said
    assert first.startswith("the record cannot be written (")
    assert first.endswith(", and the run goes on by itself")
    assert ("free some room" in first) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert then == "then the record could be written by now; going on"


def test_what_does_not_pass_is_an_error_and_what_works_is_silent() -> None:
    nothing: list[Any] = []
    for number in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG):
        with pytest.raises(OSError, match=os.strerror(number)):
            patiently(fails(1, number, int), "it", nothing.append, nothing.append, nothing.append)
    assert patiently(lambda: 3, "it", nothing.append, nothing.append, nothing.append) == 3
    assert nothing == []


PLACES = {
    "the record of": (Store, "put"),
    "the teacher tutor": ("kdbench.jobs.teacher", "write_weights"),
    "the record of the teacher tutor": (Store, "adopt"),
}


@pytest.mark.parametrize("what", PLACES)
def test_records_and_teachers_wait_for_room(bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    trials = bench.trials(parse_suite(suite_text(["ce", "kd"]), "tiny.toml"))
    owner, name = PLACES[what]
    call = write_weights if name == "write_weights" else getattr(owner, name)
    target = f"{owner}.{name}" if isinstance(owner, str) else None
    failing = fails(2, errno.ENOSPC, call)
    if target is not None:
        monkeypatch.setattr(target, failing)
    else:
        monkeypatch.setattr(owner, name, lambda *rest: failing(*rest))
    waited: list[float] = []
    monkeypatch.setattr(Pulse, "wait", lambda pulse, seconds: waited.append(seconds))
    records = bench.train(trials)
    told = [event["text"] for event in bench.events if event["event"] == "waiting"]
    assert len(waited) == 2
    assert len(told) == 1
    assert told[0].startswith(what)
    assert {label: record["status"] for label, record in records.items()} == {"ce": "finished", "kd": "finished"}


def test_a_checkpoint_is_not_waited_for_and_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.jobs.cohort.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(Pulse, "wait", lambda pulse, seconds: pytest.fail("it waited"))
    tried: list[int] = []
    save = fails(5, errno.ENOSPC, checkpoint.save)
    monkeypatch.setattr(checkpoint, "save", lambda *rest: (tried.append(1), save(*rest))[1])
    trials = bench.trials(parse_suite(suite_text(["ce"]), "tiny.toml"))
    record = bench.train(trials)["ce"]
    (note,) = (event["text"] for event in bench.events if event["event"] == "note")
    assert note.startswith("no checkpoint can be written (No space left on device)")
    assert len(tried) > 5
    assert same_bits(record, bench.again("roomy").train(trials)["ce"])


def test_a_results_folder_that_is_gone_is_not_made_anew(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may lie on a disk that is away, whose records would then be on another one."""
    trials = bench.trials(parse_suite(suite_text(["ce"], epochs=1), "tiny.toml"))
    away = bench.folder / "away"

    def taken_away(event: dict[str, Any]) -> None:
        bench.events.append(event)
        if event["event"] == "epoch":
            bench.store.root.rename(away)

    def brought_back(pulse: Pulse, seconds: float) -> None:
        assert not bench.store.root.exists()
        away.rename(bench.store.root)

    monkeypatch.setattr(Pulse, "wait", brought_back)
    (task,) = bench.tasks(trials)
    from kdbench.jobs.worker import run

    run(task, taken_away)
    (told,) = (event["text"] for event in bench.events if event["event"] == "waiting")
    assert "is gone" in told
    assert bench.records()["ce"]["status"] == "finished"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_on_a_disk_that_is_really_full_a_run_waits_and_loses_nothing(
    bench: Bench, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records and checkpoints, and later the room for them."""
    trials = bench.trials(parse_suite(suite_text(["ce", "kd"], seeds=[0]), "tiny.toml"))
    expected = bench.train(trials)
    there = Bench(tiny_disk)
    filler = tiny_disk / "filler"

    def fill() -> None:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    rounds: list[float] = []

    def until_there_is_room(pulse: Pulse, seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) % 3 == 0:
            filler.unlink()

    monkeypatch.setattr(Pulse, "wait", until_there_is_room)
    monkeypatch.setattr("kdbench.jobs.cohort.CHECKPOINT_SECONDS", 0.0)
    from kdbench.jobs.worker import run

    for task in there.tasks(trials):
        fill()
        run(task, there.events.append)
    kinds = [event["event"] for event in there.events]
    assert kinds.count("waiting") >= 2
    assert all(same_bits(record, expected[label]) for label, record in there.records().items())
    assert set(there.records()) == {"ce", "kd"}


def test_a_full_disk_leaves_no_half_file(tiny_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tiny_disk / "file", bytes(MIB), bytes(MIB))
    assert list(tiny_disk.iterdir()) == []


def test_what_is_printed_does_not_end_a_worker_whose_log_is_on_a_full_disk(tiny_disk: Path) -> None:
    code = """
import os, sys
from kdbench.jobs.worker import _claim_stdout
events = _claim_stdout()
for _ in range(30_000):
    print("x" * 100, file=sys.stderr)
    print("y" * 100)
events.write("done")
events.close()
"""
    with (tiny_disk / "log").open("wb") as log:
        ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=log, check=False)
    assert ended.stdout == b"done"
    assert ended.returncode == 0
