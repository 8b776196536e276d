"""MNIST and its descendants: idx files, plain (memory-mapped) or gzipped, laid out as torchvision does.

Format (http://yann.lecun.com/exdb/mnist/): two zero bytes, the type (8: uint8), the number of dimensions, each
dimension as a big-endian 32-bit integer, then the data.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from kdbench.data.checks import check_labels, missing
from kdbench.data.spec import DatasetSpec, Images, Part, Source
from kdbench.errors import DataError, reason

_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def mnist(spec: DatasetSpec, root: Path) -> Source:
    return _locate(spec, root, root / "MNIST" / "raw")


def fashion_mnist(spec: DatasetSpec, root: Path) -> Source:
    return _locate(spec, root, root / "FashionMNIST" / "raw")


def _locate(spec: DatasetSpec, root: Path, folder: Path) -> Source:
    files = []
    for name in _FILES:
        found = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
        if found is None:
            raise missing(spec, root, folder / name if folder.is_dir() else None)
        files.append(found)

    def read() -> tuple[Part, Part]:
        return _part(files[0], files[1], spec, spec.train_size), _part(files[2], files[3], spec, spec.test_size)

    return Source(tuple(files), read)


def _part(images: Path, labels: Path, spec: DatasetSpec, count: int) -> Part:
    classes = read_idx(labels, (count,)).astype(np.int64)
    check_labels(classes, spec, labels)
    return Part(read_idx(images, (count, *spec.image_shape[1:])).reshape(count, *spec.image_shape), classes)


def read_idx(path: Path, shape: tuple[int, ...]) -> Images:
    """The uint8 array of ``shape`` in ``path``; DataError for any other type, shape or length."""
    start = 4 + 4 * len(shape)
    wanted = bytes((0, 0, 8, len(shape))) + np.array(shape, dtype=">u4").tobytes()
    if path.suffix == ".gz":
        try:
            # A bytearray, so that the array is writable like a mapped one.
            data = np.frombuffer(bytearray(gzip.decompress(path.read_bytes())), dtype=np.uint8)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} cannot be unpacked ({reason(error)}); fetch it again.") from None
    else:
        # Copy on write: as safe for the file as a read-only mapping, and torch takes it without a warning.
        data = np.memmap(path, dtype=np.uint8, mode="c") if path.stat().st_size else np.empty(0, dtype=np.uint8)
    head = data[:start].tobytes()
    if head != wanted:
        raise DataError(f"{path} is not an idx file of uint8 {shape}: it begins with {_describe(head)}.")
    if len(data) != start + math.prod(shape):
        raise DataError(
            f"{path} holds {len(data)} bytes, not the {start + math.prod(shape)} of uint8 {shape}; "
            "it is truncated or damaged: fetch it again."
        )
    return data[start:].reshape(shape)


def _describe(head: bytes) -> str:
    if len(head) >= 4 and head[:3] == b"\0\0\x08" and len(head) >= 4 + 4 * head[3]:
        return f"the header of uint8 {tuple(np.frombuffer(head, '>u4', head[3], 4).tolist())}"
    return f"the bytes {head[:4].hex() or '(none)'}"
