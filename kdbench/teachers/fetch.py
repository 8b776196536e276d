"""Published weights that are not there yet, from where their suite says they are. Imports no torch."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from kdbench.canonical import digest
from kdbench.download import ARCHIVES, download, unpack
from kdbench.errors import CheckpointError, UserError
from kdbench.paths import cache_dir
from kdbench.teachers.find import is_file, published_sha256
from kdbench.trials.teacher import Teacher


def fetch(teacher: Teacher, root: Path) -> Path | None:
    """The file of ``teacher``, fetched into ``root/weights``; None where no file is known to be at its ``url``.

    An archive stays in the cache folder for its other files. Where nobody has said what its digest must be, it is said
    here what it was; the weights are pinned like those that somebody put there. CheckpointError says what failed.
    """
    if not is_file(teacher.url):
        return None
    sha256 = published_sha256(teacher)
    address = PurePosixPath(urlsplit(teacher.url).path)
    try:
        if not address.name.endswith(ARCHIVES):
            path = _place(root, _named(teacher, address))
            download(teacher.url, path, sha256)
            return path
        path = _place(root, teacher.files[0])
        name = sha256[:16] or digest(teacher.url)[:16]
        archive = cache_dir() / "downloads" / f"{name}-{address.name}"
        download(teacher.url, archive, sha256)
        unpack(archive, PurePosixPath(teacher.files[0]).as_posix(), path)
        return path
    except UserError as error:
        raise CheckpointError(f"The weights of {teacher.name} could not be fetched: {error}") from None


def _place(root: Path, name: str) -> Path:
    """Where ``name``, which may be somebody else's word, is put; UserError where that is not below ``root/weights``."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise UserError(f"{name} is not below {root / 'weights'}, and nothing is fetched to elsewhere; put it there.")
    return root / "weights" / name


def _named(teacher: Teacher, address: PurePosixPath) -> str:
    """Which of its files the one at ``address`` is: of the same name, or of the same format."""
    alike = [name for name in teacher.files if PurePosixPath(name).name == address.name]
    alike += [name for name in teacher.files if PurePosixPath(name).suffix == address.suffix]
    return (alike or list(teacher.files))[0]
