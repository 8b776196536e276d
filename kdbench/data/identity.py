"""The content digest of a data set, what it is compared with, and what is remembered of both."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdbench.canonical import digest as digest_of
from kdbench.data.files import ImageFiles
from kdbench.data.spec import DatasetSpec, Images, Part, Source
from kdbench.paths import cache_dir

#: Bytes hashed at a time: few enough to stay in the processor's own memory when they had to be copied.
_CHUNK = 2**18

#: Of images in files that are other than at the first look, though their paths and sizes, and so the digest, are not.
MODIFIED = (
    "{}: image files were modified since they were first looked at and have the sizes that they had; whether they hold "
    "the same pictures was not checked. If they do, delete {}."
)


class Known(NamedTuple):
    """What is remembered of a copy: its content, what distinguishes that from the official one, and its files.

    ``stamp`` is of the files' sizes and modification times. ``modified`` is of the modification times of image files at
    the first look; empty where the images are an array.
    """

    digest: str
    warnings: tuple[str, ...]
    stamp: str
    modified: str = ""


def content_digest(train: Part, test: Part, times: Any = None) -> str:
    """sha256 of shape, content and little-endian int64 labels of train, then of test.

    The content is the images' bytes, whatever the container, or of images in files their paths and sizes, as
    reading ImageNet takes hours, and digests of them where somebody has. ``times``, another hash, is given the
    modification times of these.
    """
    digest = hashlib.sha256()
    for name, (images, labels) in (("train", train), ("test", test)):
        shape = "x".join(map(str, images.shape))
        digest.update(f"kdbench data 1 {name} {images.dtype.name} {shape} int64\n".encode())
        if isinstance(images, ImageFiles) and images.view is not None:
            digest.update(f"kdbench view 1 {list(images.view)}\n".encode())
        for piece in _listing(images, times) if isinstance(images, ImageFiles) else _bytes(images):
            digest.update(piece)
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def _listing(images: ImageFiles, times: Any) -> Iterator[bytes]:
    for path, size, modified in images.listing():
        if times is not None:
            times.update(b"%d\0" % modified)
        yield b"%s\0%d\0" % (path, size)
    if images.marks is not None:
        yield from (bytes(mark) for mark in images.marks)


def _bytes(images: Images) -> Iterator[memoryview]:
    rows = max(_CHUNK // max(images[:1].nbytes, 1), 1)
    for start in range(0, len(images), rows):
        yield np.ascontiguousarray(images[start : start + rows]).data


def look(spec: DatasetSpec, source: Source, parts: tuple[Part, Part], known: Known | None, now: str) -> Known:
    """What there is to know of ``parts``, which ``source`` gave; remembered where it is news beside ``known``.

    ``now`` is the stamp of the files from before they were read: who changes them meanwhile makes it an old one.
    """
    times = hashlib.sha256()
    digest = content_digest(*parts, times)
    same = known is not None and known.digest == digest
    warnings = known.warnings if known and same else (*differences(spec, source, digest), *source.notes)
    modified = times.hexdigest() if isinstance(parts[0].images, ImageFiles) else ""
    marked = isinstance(parts[0].images, ImageFiles) and parts[0].images.marks is not None  # their bytes are known
    if known and same and known.modified != modified and not marked:
        warnings = tuple(dict.fromkeys((*warnings, MODIFIED.format(spec.title, _entry(spec, source)))))
        modified = known.modified  # the first look's, so that every record says so
    found = Known(digest, warnings, now, modified)
    if found != known:
        remember(spec, source, found)
    return found


def differences(spec: DatasetSpec, source: Source, digest: str) -> tuple[str, ...]:
    """What distinguishes this copy from the official one, in a sentence; empty for the official one."""
    if digest == spec.digest or (spec.digest is None and source.verified):
        return ()
    pinned = [path for path in source.files if path.name in spec.sha1]
    differing = [(path, found) for path in pinned if (found := _sha1(path)) != spec.sha1[path.name]]
    if differing:
        path, found = differing[0]
        names = ", ".join(path.name for path, _ in differing)
        which = f"{names} differs from the official file; it"
        if len(differing) > 1:
            which = f"{len(differing)} files differ from the official ones: {names}; the first"
        return (f"{spec.title}: {which} has sha1 {found} and should have {spec.sha1[path.name]}.",)
    if spec.digest is not None:
        return (f"{spec.title}: the content digest is {digest[:16]}, the official one is {spec.digest[:16]}.",)
    if pinned:
        return ()
    return (f"{spec.title}: no official digest is known, so this copy ({digest[:16]}) cannot be verified.",)


def _sha1(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()


def stamp(source: Source) -> str:
    """A digest of size and modification time of each of the files; empty where there is nothing to go by."""
    try:
        stats = [path.stat() for path in source.files]
    except OSError:
        return ""
    return digest_of([(stat.st_size, stat.st_mtime_ns) for stat in stats]) if stats else ""


def recall(spec: DatasetSpec, source: Source) -> Known | None:
    """What is remembered of the copy at this place, whatever has become of its files; None where that is not whole."""
    try:
        raw = json.loads(_entry(spec, source).read_text(encoding="utf-8"))
        found = Known(raw["digest"], tuple(raw["warnings"]), raw["stamp"], raw["modified"])
        return found if raw["sha256"] == digest_of(found) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def remember(spec: DatasetSpec, source: Source, known: Known) -> None:
    """Store what ``recall`` returns; a cache folder that cannot be written only costs the time to look again."""
    with suppress(OSError):
        entry = _entry(spec, source)
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=entry.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({**known._asdict(), "sha256": digest_of(known)}, file)
            Path(temporary).replace(entry)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _entry(spec: DatasetSpec, source: Source) -> Path:
    named = repr((2, spec, [str(path.resolve()) for path in source.files]))
    return cache_dir() / "identity" / f"{spec.name}-{hashlib.sha256(named.encode()).hexdigest()[:24]}.json"
