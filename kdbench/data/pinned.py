"""Files of a suite below the data root, which the suite knows by their sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from kdbench.errors import DataError, reason


def file_problem(file: str, sha256: str, endings: Sequence[str]) -> str:
    """What is wrong with how a suite names a ``file``, in words; empty where nothing is, as where there is no file."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        return "file must be a relative path, which is looked up below the data root"
    if file and path.suffix not in endings:
        return f"file must end in {' or '.join(endings)}"
    if bool(file) != (len(sha256) == 64 and set(sha256) <= set("0123456789abcdef")):
        return "a file, and nothing else, comes with its sha256 of 64 digits of 0-9a-f, as sha256sum prints it"
    return ""


def read_pinned(root: Path, file: str, sha256: str) -> bytes:
    """What ``file`` below ``root`` holds; DataError where it is missing or another one."""
    path = root / file
    if not path.is_file():
        where = "the data root is --data-root or KDBENCH_DATA"
        raise DataError(f"The suite wants labels in {path} ({where}); put the file there.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"The labels in {path} cannot be read: {reason(error)}; look at its permissions.") from None
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataError(
            f"The labels in {path} are not those of the suite: the file's sha256 is {found[:16]}, the suite's "
            f"{sha256[:16]}; fetch the file again."
        )
    return content
