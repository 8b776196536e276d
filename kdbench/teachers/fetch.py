"""Published weights that are not there yet, from where their suite says they are. Imports no torch."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from kdbench.download import ARCHIVES, download, unpack
from kdbench.errors import CheckpointError, UserError
from kdbench.paths import cache_dir
from kdbench.teachers.find import published_sha256
from kdbench.trials.teacher import Teacher


def fetch(teacher: Teacher, root: Path) -> Path | None:
    """The file of ``teacher``, fetched into ``root/weights``; None where nobody has said what its digest must be.

    An archive stays in the cache folder for its other files. CheckpointError says what failed.
    """
    sha256 = published_sha256(teacher)
    if not sha256:
        return None
    address = PurePosixPath(urlsplit(teacher.url).path)
    try:
        if not address.name.endswith(ARCHIVES):
            path = root / "weights" / _named(teacher, address)
            download(teacher.url, path, sha256)
            return path
        archive = cache_dir() / "downloads" / f"{sha256[:16]}-{address.name}"
        download(teacher.url, archive, sha256)
        path = root / "weights" / teacher.files[0]
        unpack(archive, PurePosixPath(teacher.files[0]).as_posix(), path)
        return path
    except UserError as error:
        raise CheckpointError(f"The weights of {teacher.name} could not be fetched: {error}") from None


def _named(teacher: Teacher, address: PurePosixPath) -> str:
    """Which of its files the one at ``address`` is: of the same name, or of the same format."""
    alike = [name for name in teacher.files if PurePosixPath(name).name == address.name]
    alike += [name for name in teacher.files if PurePosixPath(name).suffix == address.suffix]
    return (alike or list(teacher.files))[0]
