"""Files from the web: gone on with where they were cut, checked before they are there, and unpacked without trust."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tarfile
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.error import HTTPError, URLError

from kdbench.errors import UserError, listed, plain, reason
from kdbench.folders import locked, temporary

#: Bytes read at a time, and at most of a file: more than any network that somebody distils.
PIECE, LARGEST = 2**20, 64 * 2**30
#: Seconds without a byte after which a connection is given up, and how often it is made anew without one.
SILENCE, TRIES = 30.0, 4
#: Seconds between two of these.
PAUSE = 2.0
#: Members of an archive that are looked at.
MOST_MEMBERS = 100_000
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")


def download(url: str, path: Path, sha256: str, wait: Callable[[float], object] = time.sleep) -> None:
    """Fetch ``url`` to ``path``, unless the file is there, if its digest begins with ``sha256``.

    Where that is empty, standard error says what the digest is. What was fetched of it stays beside ``path`` when it is
    cut, and the next call goes on from there. UserError says what is wrong; nothing is at ``path`` then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with locked(path.with_name(f".{path.name}.lock"), f"fetching {path.name}"):
        if path.is_file():
            return
        resumed = _length(part) > 0
        _whole(url, part, wait)
        found = _digest(part)
        if resumed and not found.startswith(sha256):  # what was there may have been of another file
            part.unlink()
            _whole(url, part, wait)
            found = _digest(part)
        if not found.startswith(sha256):
            part.unlink()
            raise UserError(
                f"What {url} gives is not the file that was published: its sha256 begins with {found[:16]}, wanted is "
                f"{sha256[:16]}; get {path.name} by other means."
            )
        if not sha256:
            print(f"kdbench: the sha256 of {plain(url)}, which nobody has said, is {found}.", file=sys.stderr)
        part.replace(path)


def _whole(url: str, part: Path, wait: Callable[[float], object]) -> None:
    """Fetch what ``part`` lacks of ``url``, over as many connections as that takes."""
    tries = 0
    while True:
        before = _length(part)
        cut = _some(url, part, before)
        if cut is None:
            return
        tries = 0 if _length(part) > before else tries + 1
        if tries >= TRIES:
            raise UserError(f"{url} was cut after {_size(_length(part))} ({cut}); the same command goes on from there.")
        wait(PAUSE)


def _some(url: str, part: Path, start: int) -> str | None:
    """One connection's worth of ``url``, from the byte ``start`` on; why it was cut, None where nothing is missing."""
    request = urllib.request.Request(url, headers={"User-Agent": "kdbench", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        with urllib.request.urlopen(request, timeout=SILENCE) as answer, _writable(part) as file:
            total, follows = _range(answer, start)
            if not follows:  # the whole file, whatever was asked for, or another part of it
                file.seek(0)
                file.truncate()
                if answer.status == 206:
                    return "the server gave another part than was asked for"
            done, told = file.tell(), _Progress(part.name[1 : -len(".part")], total)
            while piece := answer.read(PIECE):
                done += len(piece)
                if done > (LARGEST if total is None else total):
                    raise UserError(f"{url} gives more than it says, or than anybody wants; get it by other means.")
                _write(file, piece, part)
                told(done)
            told.end(done)
            return None if total is None or done == total else "the connection ended early"
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:  # nothing is missing, or what is there is of another file
            return None
        if error.code in (408, 429) or error.code >= 500:
            return f"the server says {error.code} {plain(error.reason)}"
        raise UserError(
            f"{url} is not there: the server says {error.code} {plain(error.reason)}; get the file by other means."
        ) from None
    except URLError as error:
        raise UserError(f"{url} cannot be reached ({reason(error.reason)}); look at the network.") from None
    except (OSError, HTTPException) as error:
        return reason(error)


def _writable(part: Path) -> IO[bytes]:
    try:
        return part.open("ab")
    except OSError as error:
        raise UserError(f"{part.parent} cannot be written ({reason(error)}); name another data root.") from None


def _write(file: IO[bytes], piece: bytes, part: Path) -> None:
    try:
        file.write(piece)
    except OSError as error:
        raise UserError(
            f"{part.parent} cannot take {part.name[1:-5]} ({reason(error)}); make room, and the same command goes on."
        ) from None


def _range(answer: Any, start: int) -> tuple[int | None, bool]:
    """The bytes of the whole file, if the server says it; and whether what comes follows those before ``start``."""
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        return (int(found[2]), True) if found and int(found[1]) == start else (None, False)
    length = answer.headers.get("Content-Length", "")
    return (int(length) if length.isdigit() else None), False


class _Progress:
    """A line on standard error that says how much has come, where that is a terminal; else one in the end."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name, self.total, self.told = plain(name), total, 0.0

    def __call__(self, done: int) -> None:
        if sys.stderr.isatty() and (now := time.monotonic()) - self.told > 0.2:
            self.told = now
            print(f"\r{self._text(done)}", end="", file=sys.stderr, flush=True)

    def end(self, done: int) -> None:
        print(f"{chr(13) if sys.stderr.isatty() else ''}{self._text(done)}", file=sys.stderr)

    def _text(self, done: int) -> str:
        of = f" of {_size(self.total)}" if self.total else ""
        return f"kdbench: {self.name}: {_size(done)}{of} fetched."


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: Path, name: str, path: Path) -> None:
    """Put the member ``name`` of ``archive``, a path or the end of one, at ``path``, and nothing anywhere else.

    UserError where there is no such file in it, or the archive is damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = temporary(path, "tmp")
    try:
        with _opened(archive) as members:
            seen = []
            for number, (member, size, read) in enumerate(members):
                if number >= MOST_MEMBERS:
                    break
                if member == name or member.endswith(f"/{name}"):
                    _copy(read, size, new, archive)
                    new.replace(path)
                    return
                seen.append(plain(member)[:60])
        raise UserError(f"{archive} holds no file {name}; there are {listed(seen, 5) or 'none'}.")
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[tuple[str, int, Callable[[], IO[bytes] | None]]]]:
    """The plain files in ``archive``: path, size in bytes, and what opens each."""
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as box:
                yield ((i.filename, i.file_size, partial(box.open, i)) for i in box.infolist() if not i.is_dir())
        else:
            with tarfile.open(archive) as tape:
                yield ((str(PurePosixPath(m.name)), m.size, partial(tape.extractfile, m)) for m in tape if m.isreg())
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise UserError(f"{archive} cannot be unpacked ({reason(error)}); delete it and fetch it again.") from None


def _copy(read: Callable[[], IO[bytes] | None], size: int, new: Path, archive: Path) -> None:
    """At most ``size`` bytes, as many as the archive says, and no more than LARGEST."""
    if size > LARGEST:
        raise UserError(f"{archive} holds a file of {_size(size)}, which nobody wants; get the weights by other means.")
    stream = read()
    if stream is None:
        raise UserError(f"{archive} cannot be unpacked; delete it and fetch it again.")
    with stream, new.open("wb") as file:
        left = size
        while left > 0 and (piece := stream.read(min(PIECE, left))):
            left -= len(piece)
            _write(file, piece, new)
        file.flush()
        os.fsync(file.fileno())
    if left:
        raise UserError(f"{archive} is cut off; delete it and fetch it again.")
