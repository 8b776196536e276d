"""Images that no file holds as they are, for they are packed, pickled or in several files: written out, then mapped.

So they lie in memory once for all workers of a machine, as those do that are mapped from their own file.
"""

from __future__ import annotations

import mmap
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.data.files import ImageFiles
from kdbench.data.identity import content_digest
from kdbench.data.spec import DatasetSpec, Images, Part
from kdbench.data.whole import remove, whole_folder
from kdbench.paths import cache_dir

#: Bytes of images that are not worth a file.
SMALL = 16 * 2**20
#: Of the disk's free space, what one data set may take.
SHARE = 0.5

Parts = tuple[Part, Part]
_PARTS = ("train", "test")


def keep(spec: DatasetSpec, digest: str, parts: Parts) -> Parts:
    """``parts``, (train, test), written into the cache folder and mapped from there, in place of what it has.

    As they came where they are mapped already or small, or where the folder cannot take them: it costs memory only.
    """
    whole = [part.images for part in parts if not isinstance(part.images, ImageFiles)]
    size = sum(images.nbytes for images in whole)
    if len(whole) < len(parts) or size < SMALL or all(map(_is_mapped, whole)):
        return parts
    found = opened(spec, digest)  # by now, another worker may have been first
    with suppress(OSError):
        if found is None:
            folder = _folder(spec, digest)
            remove(folder)
            _write(folder, parts, size)
            found = opened(spec, digest)
    return found or parts


def opened(spec: DatasetSpec, digest: str) -> Parts | None:
    """The parts that ``keep`` wrote for the content ``digest``; None where they are not there, or have another content.

    All of it is hashed, once a process: it takes a tenth of a second for CIFAR's 184 MB, and nothing else is proof.
    """
    folder = _folder(spec, digest)
    try:
        train, test = (
            Part(
                _array(folder / f"{part}_images.npy", np.uint8),
                np.array(_array(folder / f"{part}_labels.npy", np.int64)),
            )
            for part in _PARTS
        )
        return (train, test) if content_digest(train, test) == digest else None
    except Exception:  # what is no array makes numpy's reader raise whatever its bytes happen to say
        return None


def _array(path: Path, dtype: type[np.generic]) -> NDArray[Any]:
    # Copy on write: as safe for the file as a read-only mapping, and torch takes it without a warning.
    array = np.load(path, mmap_mode="c", allow_pickle=False)
    if array.dtype != dtype:
        raise ValueError(f"{path} holds {array.dtype}")
    return array


def _folder(spec: DatasetSpec, digest: str) -> Path:
    return cache_dir() / "images" / f"{spec.name}-{digest[:24]}"


def _write(folder: Path, parts: Parts, size: int) -> None:
    """All of it or nothing: OSError where it does not fit."""
    with whole_folder(folder) as unfinished:
        if size > SHARE * shutil.disk_usage(unfinished).free:
            raise OSError(f"{folder.parent} has no room for {size} bytes")
        for name, (images, labels) in zip(_PARTS, parts, strict=True):
            _save(unfinished / f"{name}_images.npy", images)
            _save(unfinished / f"{name}_labels.npy", labels)


def _save(path: Path, array: ImageFiles | NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def _is_mapped(images: Images) -> bool:
    base: object = images
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, mmap.mmap)
