"""CIFAR-10 and CIFAR-100, from the official binary version (memory-mapped) or the official python one.

Format: https://www.cs.toronto.edu/~kriz/cifar.html. A binary record is the label bytes (CIFAR-100: coarse, fine) and
3,072 pixels in C,H,W order. Pickles are read only after their md5 was found equal to the official one.
"""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdbench.data.checks import check_labels, missing
from kdbench.data.spec import DatasetSpec, Images, Labels, Part, Source
from kdbench.errors import DataError

#: md5 of the official pickles, as torchvision's CIFAR10 and CIFAR100 classes carry them.
PICKLE_MD5 = {
    "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
    "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
    "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
    "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
    "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}


def cifar10(spec: DatasetSpec, root: Path) -> Source:
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return _locate(spec, root, "cifar-10-batches-bin", "cifar-10-batches-py", names, 1, "labels")


def cifar100(spec: DatasetSpec, root: Path) -> Source:
    return _locate(spec, root, "cifar-100-binary", "cifar-100-python", ["train", "test"], 2, "fine_labels")


def cifar10h(spec: DatasetSpec, root: Path) -> Source:
    """The test images of CIFAR-10, which people labelled: the first to train on, the rest to test."""
    binary, pickled = root / "cifar-10-batches-bin" / "test_batch.bin", root / "cifar-10-batches-py" / "test_batch"

    def parts(whole: Part) -> tuple[Part, Part]:
        first = spec.train_size
        return Part(whole.images[:first], whole.labels[:first]), Part(whole.images[first:], whole.labels[first:])

    if binary.is_file():
        count = spec.train_size + spec.test_size
        return Source((binary,), lambda: parts(read_records(binary, count, spec, 1)))
    if pickled.is_file():
        md5 = PICKLE_MD5["cifar-10-batches-py/test_batch"]
        return Source((pickled,), lambda: parts(read_pickle(pickled, spec, "labels", md5)), verified=True)
    raise missing(spec, root)


def _locate(
    spec: DatasetSpec, root: Path, binary: str, pickled: str, names: Sequence[str], label_bytes: int, field: str
) -> Source:
    """The copy under ``root``, the binary version first; the last of ``names`` is the test set."""
    batches = len(names) - 1
    counts = [spec.train_size // batches] * batches + [spec.test_size]
    bins = tuple(root / binary / f"{name}.bin" for name in names)
    pickles = tuple(root / pickled / name for name in names)
    if all(path.is_file() for path in bins):
        sized = tuple(zip(bins, counts, strict=True))
        return Source(bins, lambda: _join([read_records(path, count, spec, label_bytes) for path, count in sized]))
    if all(path.is_file() for path in pickles):
        return Source(
            pickles,
            lambda: _join([read_pickle(p, spec, field, PICKLE_MD5[f"{pickled}/{p.name}"]) for p in pickles]),
            verified=True,
        )
    raise missing(spec, root, next((p for p in bins + pickles if p.parent.is_dir() and not p.is_file()), None))


def _join(parts: list[Part]) -> tuple[Part, Part]:
    """(train, test); a training set that lies in one file stays a view of it."""
    *train, test = parts
    if len(train) == 1:
        return train[0], test
    return Part(np.concatenate([p.images for p in train]), np.concatenate([p.labels for p in train])), test


def read_records(path: Path, count: int, spec: DatasetSpec, label_bytes: int) -> Part:
    """Map ``count`` binary records of ``path``; the last label byte is the label. The images are a view of the file."""
    record = label_bytes + math.prod(spec.image_shape)
    size = path.stat().st_size
    if size != count * record:
        raise DataError(
            f"{path} holds {size} bytes, not the {count * record} of {count} records of {record} bytes; "
            f"it is truncated or not a file of {spec.title}: fetch it again."
        )
    # Copy on write: as safe for the file as a read-only mapping, and torch takes it without a warning.
    raw = np.memmap(path, dtype=np.uint8, mode="c", shape=(count, record))
    labels = raw[:, label_bytes - 1].astype(np.int64)
    check_labels(labels, spec, path)
    return Part(raw[:, label_bytes:].reshape(count, *spec.image_shape), labels)


def read_pickle(path: Path, spec: DatasetSpec, field: str, md5: str) -> Part:
    """Unpickle ``path`` if, and only if, its bytes have the official ``md5``."""
    data = path.read_bytes()
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"{path} has md5 {found}, the official file has {md5}, and a pickle from elsewhere is not opened; "
            "fetch it again or use the binary version."
        )
    batch = pickle.loads(data, encoding="latin1")
    images: Images = batch["data"].reshape(-1, *spec.image_shape)
    labels: Labels = np.asarray(batch[field], dtype=np.int64)
    return Part(images, labels)
