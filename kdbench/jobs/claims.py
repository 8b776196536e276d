"""Claims: who is at work on a trial, for runs that share a cache folder, on one machine or on many.

A claim is a lease. It saves work: two runs do not train the same trial at once, as long as each sees the other's claim.
Nothing rests on it. Where it fails, as its owner was stopped for longer than it lasts or the file system tells old
news, a trial is trained twice and leaves two equal records: the names of files in the store see to that.

File locks do not hold on every shared file system; that a file is created by one alone, and that a name is changed at
once, do. Whether a claim has expired is told by the clock of the file server, from the times that it gave two files.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from kdbench.errors import reason

#: Seconds between two signs of an owner, and without one for how long a claim lasts.
HEARTBEAT = 5.0
EXPIRY = 60.0
#: Seconds between two looks at a claim that is waited for.
LOOK = 1.0

END = ".claim"
#: Bytes of a claim that are read.
MOST = 10_000


@dataclass(frozen=True)
class Owner:
    """A process: ``started`` tells it from an earlier one of its number, ``token`` one claim of it from another."""

    host: str
    pid: int
    started: str
    token: str


@dataclass(frozen=True)
class Found:
    """A claim as it was read: its owner, None where that cannot be read, and the time of its last sign."""

    owner: Owner | None
    seen: float


class Claim:
    """The claim file ``path``, held by this process until ``release``."""

    def __init__(self, path: Path, owner: Owner, file: int) -> None:
        self.path, self.owner, self._file = path, owner, file

    def beat(self) -> None:
        """Give a sign. It touches the file that was made here, and no other that may have its name by now."""
        with contextlib.suppress(OSError):
            os.utime(self._file)

    def release(self) -> None:
        """Give it up; that of another, who took it over, stays."""
        os.close(self._file)
        with contextlib.suppress(OSError):
            _remove(self.path, lambda found: found.owner == self.owner)


@contextlib.contextmanager
def claimed(
    folder: Path, names: Iterable[str], say: Callable[[str], None], wait: Callable[[float], object] = time.sleep
) -> Iterator[None]:
    """Hold claims in ``folder`` on ``names``, which everybody takes in one order, so that no two wait for each other.

    ``say`` is told in a sentence that others are waited for, or that nothing can be claimed there, which costs no more
    than work done twice. ``wait`` lets seconds go by, and may raise.
    """
    held: list[Claim] = []
    over = threading.Event()
    heart = threading.Thread(target=_give_signs, args=(held, over), daemon=True)
    heart.start()
    try:
        _take_all(folder, sorted(names), held, say, wait)
        yield
    finally:
        over.set()
        heart.join()
        for claim in held:
            claim.release()


def any_held(folder: Path) -> bool:
    """Whether somebody holds a claim in ``folder``."""
    found = ((path, _read(path)) for path in folder.glob(f"*{END}"))
    return any(claim is not None and not _over(path, claim) for path, claim in found)


def _take_all(
    folder: Path, names: Sequence[str], held: list[Claim], say: Callable[[str], None], wait: Callable[[float], object]
) -> None:
    told = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            while (claim := _take(folder / f"{name}{END}")) is None:
                if not told:
                    say("another run is at work on it; waiting for that")
                    told = True
                wait(LOOK)
            held.append(claim)
    except OSError as error:  # a full disk, say
        say(f"nothing can be claimed in {folder} ({reason(error)}), so another run may do the same work; going on")


def _take(path: Path) -> Claim | None:
    """The claim ``path`` where nobody holds it: it is not there, has expired, or its owner is gone. Else None.

    Of two that find it expired, one changes its name. The other one does that to nothing, or to a claim that is not
    what it found, and puts that back.
    """
    claim = _create(path)
    if claim is not None:
        return claim
    found = _read(path)
    if found is None:  # given up meanwhile
        return _create(path)
    if _over(path, found) and _remove(path, lambda removed: removed == found):
        return _create(path)
    return None


def _give_signs(held: Sequence[Claim], over: threading.Event) -> None:
    while not over.wait(HEARTBEAT):
        for claim in tuple(held):
            claim.beat()


def _create(path: Path) -> Claim | None:
    """A new claim of this process; None where there is one already."""
    owner = Owner(host(), os.getpid(), started(os.getpid()) or "", _token())
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return None
    with contextlib.suppress(OSError):  # on a full disk it stays empty, which is a claim until it expires
        os.write(file, json.dumps(asdict(owner)).encode())
    return Claim(path, owner, file)


def _read(path: Path) -> Found | None:
    """What the claim file ``path`` says; None where there is none."""
    content = b""
    try:
        with path.open("rb") as file:  # opened anew, as a client of NFS may keep what it knows of a file for a while
            seen = os.fstat(file.fileno()).st_mtime
            content = file.read(MOST)
    except FileNotFoundError:
        return None
    except OSError:
        try:
            seen = path.lstat().st_mtime
        except FileNotFoundError:
            return None
    try:
        said = json.loads(content)
        return Found(Owner(str(said["host"]), int(said["pid"]), str(said["started"]), str(said["token"])), seen)
    except (ValueError, TypeError, LookupError, RecursionError):  # not one of ours, or not written yet
        return Found(None, seen)


def _over(path: Path, found: Found) -> bool:
    """Whether nobody holds any more what was ``found`` at ``path``."""
    owner = found.owner
    if owner is not None and owner.host == host() and started(owner.pid) != owner.started:
        return True
    return _now(path) - found.seen > EXPIRY


def _now(path: Path) -> float:
    """The time by the clock that gives files beside ``path`` theirs."""
    probe = _own(path)
    file = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(file).st_mtime
    finally:
        os.close(file)
        probe.unlink(missing_ok=True)


def _remove(path: Path, wanted: Callable[[Found], bool]) -> bool:
    """Whether a ``wanted`` claim is removed from ``path``; any other that is met there is left, or put back."""
    found = _read(path)
    if found is None or not wanted(found):
        return False
    aside = _own(path)
    try:
        path.rename(aside)
    except FileNotFoundError:  # by another one
        return False
    found = _read(aside)
    if found is not None and not wanted(found):
        _put_back(aside, path)
        return False
    with contextlib.suppress(OSError):
        aside.unlink()
    return found is not None


def _put_back(aside: Path, path: Path) -> None:
    """Give the claim ``aside`` its name again, unless there is another one by now: its owner goes on all the same."""
    try:
        os.link(aside, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without such links
        aside.rename(path)
    with contextlib.suppress(OSError):
        aside.unlink()


def _own(path: Path) -> Path:
    """A name beside ``path`` that nobody else has."""
    return path.with_name(f".{path.name}.{_token()}")


def _token() -> str:
    return os.urandom(8).hex()


@cache
def host() -> str:
    """What tells this machine, since it was started, and this container from any other: where a process id counts."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def started(pid: int) -> str | None:
    """When the process ``pid`` of this machine began, in the system's own count, empty where that does not say.

    None where it has ended.
    """
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (OSError, OverflowError):
        return None
    try:
        # "man 5 proc": after the name, which stands in brackets and may hold anything, the state and 19 fields more
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()
