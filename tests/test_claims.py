"""Claims on trials: one worker at a time, and whatever becomes of it, the next one soon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench import PATIENCE, ROOT, wait_until

from kdbench.jobs import claims
from kdbench.jobs.claims import any_held, claimed

DAY = 86400.0
#: Holds the claims that it is told, writes down when, and gives them up when it is told to.
HOLDER = """
import sys, time
from pathlib import Path
from kdbench.jobs import claims
folder, expiry, *names = sys.argv[1:]
claims.EXPIRY, claims.HEARTBEAT, claims.LOOK = float(expiry), 0.05, 0.01
with claims.claimed(Path(folder), names, lambda text: print(text, flush=True)):
    print("held", flush=True)
    sys.stdin.readline()
print("given up", flush=True)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Start]:
    """Start a process that holds claims on names in the test's folder."""
    begun: list[subprocess.Popen[str]] = []
    watchdogs: list[threading.Timer] = []

    def start(*names: str, expiry: float = PATIENCE) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path / "claims"), str(expiry), *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        begun.append(process)
        watchdog = threading.Timer(PATIENCE, process.kill)  # whose output a test would wait for
        watchdog.daemon = True
        watchdog.start()
        watchdogs.append(watchdog)
        return process

    yield start
    for watchdog in watchdogs:
        watchdog.cancel()
    for process in begun:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(claims, "LOOK", 0.01)
    monkeypatch.setattr(claims, "HEARTBEAT", 0.05)
    return tmp_path / "claims"


def at_once(folder: Path, *names: str) -> None:
    """Claim ``names`` in this process, which must not have to wait."""
    with claimed(folder, names, lambda text: None, lambda seconds: pytest.fail("it had to wait")):
        assert all((folder / f"{name}.claim").exists() for name in names)


def test_claims_are_held_and_given_up_and_leave_nothing(folder: Path) -> None:
    said: list[str] = []
    with claimed(folder, ["b", "a"], said.append), claimed(folder, ["c"], said.append):
        assert sorted(path.name for path in folder.iterdir()) == ["a.claim", "b.claim", "c.claim"]
        assert any_held(folder)
    at_once(folder, "a", "b", "c")
    assert said == []
    assert list(folder.iterdir()) == []
    assert not any_held(folder)


def test_another_process_waits_its_turn_and_says_so_once(folder: Path, hold: Start) -> None:
    first = hold("a", "b")
    assert line(first) == "held"
    second = hold("b", "c")
    assert line(second) == "another run is at work on it; waiting for that"
    assert any_held(folder)
    assert not (folder / "c.claim").exists()
    first.communicate("\n")
    assert line(second) == "held"
    assert sorted(path.name for path in folder.iterdir()) == ["b.claim", "c.claim"]


def test_what_a_killed_process_held_is_free_at_once(folder: Path, hold: Start) -> None:
    owner = hold("a")
    assert line(owner) == "held"
    owner.kill()
    owner.wait()
    assert not any_held(folder)
    at_once(folder, "a")


def test_another_process_of_that_number_is_not_the_owner(folder: Path, hold: Start) -> None:
    """Process ids come round again: the time of its start tells one from another."""
    owner = hold("a")
    assert line(owner) == "held"
    said = json.loads((folder / "a.claim").read_text())
    assert said["started"] == claims.started(owner.pid)
    (folder / "a.claim").write_text(json.dumps({**said, "started": "1"}))
    at_once(folder, "a")


def test_a_stopped_owner_loses_its_claim_and_goes_on_without_harm(folder: Path, hold: Start) -> None:
    """Its lease has run out. It does not take the claim away from whoever has it by then."""
    owner = hold("a", expiry=0.3)
    assert line(owner) == "held"
    owner.send_signal(signal.SIGSTOP)
    other = hold("a", expiry=0.3)
    said = [line(other)]
    if said != ["held"]:  # by the time that it began, the claim may have expired
        said.append(line(other))
    assert said[-1] == "held"
    theirs = (folder / "a.claim").read_text()
    owner.send_signal(signal.SIGCONT)
    owner.communicate("\n")
    assert owner.returncode == 0
    assert (folder / "a.claim").read_text() == theirs
    other.communicate("\n")
    assert list(folder.iterdir()) == []


def test_signs_keep_a_claim_beyond_its_expiry(folder: Path, hold: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = hold("a")
    assert line(owner) == "held"
    first = (folder / "a.claim").stat().st_mtime
    wait_until(lambda: (folder / "a.claim").stat().st_mtime > first + 0.2)


#: Counts up in turns; whoever meets another one inside says so. Signs come often enough for a busy machine.
CONTENDER = """
import os, sys
from pathlib import Path
from kdbench.jobs import claims
folder, turns = Path(sys.argv[1]), int(sys.argv[2])
claims.LOOK = 0.002
for turn in range(turns):
    with claims.claimed(folder / "claims", ["a", "b"] if turn % 2 else ["b"], lambda text: None):
        inside = os.open(folder / "inside", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        count = int((folder / "count").read_text())
        (folder / "count").write_text(str(count + 1))
        os.close(inside)
        os.unlink(folder / "inside")
"""


@pytest.mark.parametrize("left", [None, b"", b"{not json", "dead"])
def test_eight_processes_take_turns(tmp_path: Path, left: bytes | str | None) -> None:
    """Also where the first thing that all of them meet is a claim of somebody who is gone, or nobody's."""
    (tmp_path / "count").write_text("0")
    if left is not None:
        claim = tmp_path / "claims" / "b.claim"
        claim.parent.mkdir()
        dead = {"host": claims.host(), "pid": 2**22 + 1, "started": "1", "token": "0"}
        claim.write_bytes(json.dumps(dead).encode() if left == "dead" else left)  # type: ignore[arg-type]
        long_ago = time.time() - DAY
        os.utime(claim, (long_ago, long_ago))
    command = [sys.executable, "-S", "-c", CONTENDER, str(tmp_path), "20"]
    running = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(8)]
    errors = [process.communicate(timeout=PATIENCE)[1] for process in running]
    assert errors == [b""] * 8
    assert (tmp_path / "count").read_text() == "160"
    assert list((tmp_path / "claims").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"hello", b"[]", b"null", b'{"host": 3}', b"\xff" * 20_000, b"[" * 9_000])
def test_a_claim_that_cannot_be_read_lasts_until_it_expires(
    folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """It may be one that is just being written, or of a later version."""
    folder.mkdir()
    (folder / "a.claim").write_bytes(content)
    assert any_held(folder)
    waited: list[float] = []

    def until_it_expires(seconds: float) -> None:
        waited.append(seconds)
        monkeypatch.setattr(claims, "EXPIRY", -1.0 if len(waited) > 2 else 60.0)

    with claimed(folder, ["a"], lambda text: None, until_it_expires):
        assert len(waited) == 3


def test_a_folder_in_the_place_of_a_claim_expires_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a.claim").mkdir(parents=True)
    assert any_held(folder)
    monkeypatch.setattr(claims, "EXPIRY", -1.0)
    at_once(folder, "a")


@pytest.mark.parametrize("skew", [-DAY, DAY])
def test_no_clock_but_the_file_servers_counts(folder: Path, monkeypatch: pytest.MonkeyPatch, skew: float) -> None:
    """The owner is on another machine; the clocks of both may be wrong."""
    folder.mkdir()
    other = {"host": "another", "pid": os.getpid(), "started": claims.started(os.getpid()), "token": "0"}
    (folder / "a.claim").write_text(json.dumps(other))
    here = time.time
    monkeypatch.setattr(time, "time", lambda: here() + skew)
    assert any_held(folder)
    now = (folder / "a.claim").stat().st_mtime
    os.utime(folder / "a.claim", (now, now - claims.EXPIRY - 1))
    assert not any_held(folder)
    at_once(folder, "a")


def test_a_taker_that_comes_late_puts_back_what_it_took(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two find a claim expired. One takes it over between the other's look and its deed."""
    folder.mkdir()
    path = folder / "a.claim"
    path.write_text("left behind")
    os.utime(path, (0, 0))
    rename = Path.rename
    first: list[claims.Claim] = []

    def late(self: Path, target: Path) -> Path:
        if not first:
            monkeypatch.setattr(Path, "rename", rename)
            first.extend(claim for claim in [claims._take(path)] if claim is not None)
            assert first
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert claims._take(path) is None
    assert json.loads(path.read_text())["token"] == first[0].owner.token
    before = path.stat().st_mtime
    time.sleep(0.01)
    first[0].beat()
    assert path.stat().st_mtime > before, "its signs still reach its file"
    first[0].release()
    assert list(folder.iterdir()) == []


def test_where_nothing_can_be_claimed_work_goes_on(folder: Path) -> None:
    """A claim saves work and guards nothing. Whoever waits for it alone would wait for ever."""
    folder.write_text("in its place")
    said: list[str] = []
    with claimed(folder, ["a"], said.append):
        assert len(said) == 1
    assert "nothing can be claimed in" in said[0]


def test_who_waits_can_be_stopped(folder: Path, hold: Start) -> None:
    owner = hold("b")
    assert line(owner) == "held"

    def stopped(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), claimed(folder, ["a", "b"], lambda text: None, stopped):
        pass
    assert [path.name for path in folder.iterdir()] == ["b.claim"]
    assert threading.active_count() < 50
