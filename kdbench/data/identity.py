"""The content digest of a data set, what it is compared with, and a cache that makes both instant the second time."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from kdbench.data.files import ImageFiles
from kdbench.data.spec import DatasetSpec, Images, Part, Source
from kdbench.paths import cache_dir

_CHUNK = 2048


def content_digest(train: Part, test: Part) -> str:
    """sha256 of shape, content and little-endian int64 labels of train, then of test.

    The content is the images' bytes, whatever the container, or of images in files their paths and sizes, as
    reading ImageNet takes hours.
    """
    digest = hashlib.sha256()
    for name, (images, labels) in (("train", train), ("test", test)):
        shape = "x".join(map(str, images.shape))
        digest.update(f"kdbench data 1 {name} {images.dtype.name} {shape} int64\n".encode())
        for piece in images.listing() if isinstance(images, ImageFiles) else _bytes(images):
            digest.update(piece)
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def _bytes(images: Images) -> Iterator[memoryview]:
    for start in range(0, len(images), _CHUNK):
        yield np.ascontiguousarray(images[start : start + _CHUNK]).data


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


def recall(spec: DatasetSpec, source: Source) -> tuple[str, tuple[str, ...]] | None:
    """(digest, warnings) as remembered for exactly these files (path, size, modification time), or None."""
    try:
        raw = json.loads(_entry(spec, source).read_text(encoding="utf-8"))
        return str(raw["digest"]), tuple(map(str, raw["warnings"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(spec: DatasetSpec, source: Source, digest: str, warnings: tuple[str, ...]) -> None:
    """Store what ``recall`` returns; a cache folder that cannot be written only costs the time to hash again."""
    with suppress(OSError):
        entry = _entry(spec, source)
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=entry.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"digest": digest, "warnings": warnings}, file)
        Path(temporary).replace(entry)


def _entry(spec: DatasetSpec, source: Source) -> Path:
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in source.files]
    stamp = repr((2, spec, stats))
    return cache_dir() / "identity" / f"{spec.name}-{hashlib.sha256(stamp.encode()).hexdigest()[:24]}.json"
