"""Folders that kdbench writes into.

Whether it can, one process at a time, what a killed one has left there, and what is done where a disk is full.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO, TypeVar

from kdbench.errors import UserError, reason

T = TypeVar("T")

#: Seconds after which a temporary file is nobody's, even where a process has the number of the one that made it.
OLD = 86400.0

#: What keeps a file from being written that may pass: a disk that is full, over its quota, read-only, failing or gone.
PASSING = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE", "ENOENT", "ENODEV", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN")
    if hasattr(errno, name)
)
#: Seconds between two tries.
AGAIN = 5.0

#: Digits of its own for each process, as another machine or container may have one of the same number.
_MACHINE = f"{secrets.randbelow(10**9):09}"

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<process>[0-9]{1,10})(?:-[0-9]+)?\.(?:tmp|new|old)", re.DOTALL)


def resolved(path: Path) -> Path:
    """``path`` with every link followed, also where one leads nowhere or in a circle."""
    return Path(os.path.realpath(path))


def check_writable(folder: Path, noun: str) -> None:
    """UserError, which begins with ``noun``, unless ``folder`` can be written into or made; nothing is left behind."""
    ground, longest = folder.absolute(), 0
    try:
        while not ground.exists():
            if ground.is_symlink():
                raise UserError(f"{noun} cannot be made: {ground} is a link that leads nowhere; name another folder.")
            longest = max(longest, len(os.fsencode(ground.name)))
            ground = ground.parent
        if not ground.is_dir():
            raise UserError(f"{noun} cannot be made: {ground} is a file; name another folder.")
        if longest > os.pathconf(ground, "PC_NAME_MAX"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        os.rmdir(tempfile.mkdtemp(prefix=".kdbench-", dir=ground))
    except OSError as error:
        raise UserError(f"{noun} cannot be written ({error.strerror}); name another folder.") from None


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Temporary file in the same folder, fsync, rename: a reader sees the whole file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(path, parts)
    except FileNotFoundError:  # another machine, which cannot see this process, took its file for a leftover
        _write(path, parts)


def copy_atomically(source: Path, target: Path) -> None:
    """The same for a file that may be larger than memory."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = temporary(target, "tmp")
    try:
        with source.open("rb") as read, new.open("wb") as stream:
            shutil.copyfileobj(read, stream, 1 << 20)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    new = temporary(path, "tmp")
    try:
        with new.open("wb") as stream:
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def passes(error: OSError) -> bool:
    """Whether what ``error`` says may be otherwise in a while."""
    return error.errno in PASSING


def patiently(
    write: Callable[[], T],
    what: str,
    waits: Callable[[str], object],
    goes_on: Callable[[str], object],
    wait: Callable[[float], object] = time.sleep,
) -> T:
    """What ``write`` gives; where the disk cannot take it, it is tried again until it can.

    ``waits`` is told why in a sentence, once, and ``goes_on`` that it is over. ``what`` begins both: ``the record``.
    ``wait`` lets seconds go by, and may raise.
    """
    told = False
    while True:
        try:
            result = write()
        except OSError as error:
            if not passes(error):
                raise
            if not told:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                remedy = "free some room" if full else "make it writable again"
                waits(f"{what} cannot be written ({reason(error)}): {remedy}, and the run goes on by itself")
                told = True
            wait(AGAIN)
        else:
            if told:
                goes_on(f"{what} could be written by now; going on")
            return result


def temporary(path: Path, end: str) -> Path:
    """A name beside ``path`` for what is to take its place (tmp, new) or was there (old); it says whose it is."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}{_MACHINE}.{end}")


def leftovers(folder: Path, end: str, name: str = "") -> list[Path]:
    """The temporary() paths in ``folder``, of ``name`` alone if one is given, whose process is gone; newest first."""
    found: list[tuple[float, Path]] = []
    for path, made in temporaries(folder, end, name):
        with contextlib.suppress(FileNotFoundError):
            since = path.lstat().st_mtime
            if not _alive(int(made["process"])) or time.time() - since > OLD:
                found.append((since, path))
    return [path for _, path in sorted(found, reverse=True)]


def temporaries(folder: Path, end: str, name: str = "") -> Iterator[tuple[Path, re.Match[str]]]:
    """The temporary() paths in ``folder``, whose process may live, and what each name says."""
    for path in sorted(folder.glob(f".*.{end}")):
        made = _TEMPORARY.fullmatch(path.name)
        if made is not None and name in ("", made["name"]):
            yield path, made


def clear_leftovers(folder: Path) -> None:
    """Remove what processes that are gone have left unfinished in ``folder``."""
    for path in leftovers(folder, "tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return process > 0


@contextlib.contextmanager
def locked(path: Path, work: str) -> Iterator[None]:
    """Hold the lock file ``path`` as soon as nobody else does, for ``work``; in the end the file is gone."""
    while True:
        stream = _lock_file(path)
        _lock(stream.fileno(), work)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(stream.fileno())):
                break
        stream.close()  # whoever held it took it away: another file of the name counts now
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        stream.close()


def _lock_file(path: Path) -> TextIO:
    """The lock file ``path``, open; UserError where something else is there, such as a pipe to wait for."""
    stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666), "w")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise UserError(f"{path} is no regular file, so that it cannot be a lock; delete it.")
    return stream


def _lock(descriptor: int, work: str) -> None:
    with contextlib.suppress(OSError):  # a file system without locks: whoever works there must do so alone
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"kdbench: waiting for another process, which is at {work}.", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
