"""As much of CIFAR-100 as may travel: all test images, and of each class as many training images as fit, losslessly.

A file ``cifar100-part.zip`` of strips of STRIP images, one above the other, as lossless WebP, and their labels; the
weights of a teacher lie beside it. It is a data set of another name, ``cifar100-part``, and so are its records.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdbench.data import DATASETS, load
from kdbench.data.spec import DatasetSpec, Images, Labels, Part, Source
from kdbench.errors import DataError, UserError, reason
from kdbench.suites import get_suite
from kdbench.teachers.find import checkpoint_in
from kdbench.trials.teacher import Teacher

NAME, FILE, WHOLE = "cifar100-part", "cifar100-part.zip", "cifar100"
#: Images of a strip, which is what WebP sees at a time. It saves a tenth over images by themselves.
STRIP = 100
#: Suites whose teachers of this network are looked for, in this order.
TEACHER, SUITES = "resnet56", ("cifar100", "cifar100-short")
#: Bytes that a zip takes for its table, and for each file in it.
TABLE, ENTRY = 2**12, 2**8


def teacher(root: Path) -> tuple[Teacher, Path] | None:
    """The first published TEACHER whose weights are below ``root``, and where."""
    suites = map(get_suite, SUITES)
    known = [each for suite in suites for each in suite.teachers.values() if each.model == TEACHER]
    return next(((each, path) for each in known if (path := checkpoint_in(root, each)) is not None), None)


def pack(root: Path, folder: Path, limit: int) -> Iterator[str]:
    """Write what fits into ``limit`` bytes of the data root ``root`` into ``folder``, and say what that is."""
    folder.mkdir(parents=True, exist_ok=True)
    found = teacher(root)
    if found is None:
        yield f"No weights of a {TEACHER} are below {root}, so no method with a teacher can be trained there."
    else:
        place = folder / "weights" / next(name for name in found[0].files if str(found[1]).endswith(name))
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found[1], place)
        limit -= found[1].stat().st_size
        yield f"The teacher is {found[0].name}."
    whole = load(WHOLE, root)
    test = _strips(np.asarray(whole.test_images))
    size = TABLE + len(whole.train_labels) + len(whole.test_labels) + _size(test)
    if size > limit:
        raise UserError(f"The test images alone take {size / 2**20:.1f} MiB; give --mib more than that.")
    order = _by_class(whole.train_labels)
    train: list[bytes] = []
    classes = whole.spec.classes
    for start in range(0, len(order) - classes + 1, classes):  # one more of each class
        strip = _strips(np.asarray(whole.train_images[order[start : start + classes]]))
        size += _size(strip)
        if size > limit:
            break
        train += strip
    chosen = order[: len(train) * classes]
    index = {"train": len(chosen), "of": len(whole.train_labels), "test": len(whole.test_labels)}
    with zipfile.ZipFile(folder / FILE, "w") as archive:
        archive.writestr("index.json", json.dumps(index))
        for name, strips, labels in (("train", train, whole.train_labels[chosen]), ("test", test, whole.test_labels)):
            archive.writestr(f"{name}.labels", labels.astype(np.uint8).tobytes())
            for number, strip in enumerate(strips):
                archive.writestr(f"{name}/{number}.webp", strip)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    yield f"All {len(whole.test_labels):,} test images and {_said(index)} are in {folder}: {total / 2**20:.1f} MiB."


def _size(strips: list[bytes]) -> int:
    return sum(len(strip) + ENTRY for strip in strips)


def _said(index: dict[str, Any]) -> str:
    kept, of = index["train"], index["of"]
    return f"{kept:,} of {of:,} training images, which leaves out {of - kept:,}"


def _by_class(labels: Labels) -> NDArray[np.int64]:
    """Places of the images, the first of every class, then the second of every class, and so on."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.concatenate([order[starts + number] for number in range(counts.min())])


def _strips(images: Images) -> list[bytes]:
    return [_packed(images[start : start + STRIP]) for start in range(0, len(images), STRIP)]


def _packed(images: Images) -> bytes:
    """[N,3,H,W] one above the other."""
    stream = io.BytesIO()
    count, channels, height, width = images.shape
    column = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).reshape(count * height, width, channels)
    Image.fromarray(column).save(stream, "WEBP", lossless=True, exact=True)
    return stream.getvalue()


def _unpacked(data: bytes, shape: tuple[int, int, int]) -> Images:
    channels, height, width = shape
    column = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return column.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)


def register(folder: Path) -> DatasetSpec:
    """Make the data set in ``folder`` known as ``cifar100-part``; UserError where it cannot be read."""
    try:
        with zipfile.ZipFile(folder / FILE) as archive:
            index = json.loads(archive.read("index.json"))
        spec = replace(
            DATASETS.get(WHOLE),
            name=NAME,
            title=f"CIFAR-100, {_said(index)}",
            train_size=index["train"],
            test_size=index["test"],
            loader=f"{__name__}:part",
            digest=None,
            files=FILE,
            torchvision=None,
            sha1={},
        )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder / FILE} cannot be read ({reason(error)}); write it anew with --pack.") from None
    DATASETS.add(NAME, spec, "benchmarks")
    return spec


def part(spec: DatasetSpec, root: Path) -> Source:
    """The loader of ``cifar100-part``."""
    path = root / FILE
    if not path.is_file():
        raise DataError(f"{spec.title} wants {path}; --pack writes it.")
    return Source((path,), lambda: _read(spec, path))


def _read(spec: DatasetSpec, path: Path) -> tuple[Part, Part]:
    try:
        with zipfile.ZipFile(path) as archive:
            return _split(spec, archive, "train"), _split(spec, archive, "test")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read ({reason(error)}); write it anew with --pack.") from None


def _split(spec: DatasetSpec, archive: zipfile.ZipFile, name: str) -> Part:
    labels = np.frombuffer(archive.read(f"{name}.labels"), dtype=np.uint8).astype(np.int64)
    count = sum(member.startswith(f"{name}/") for member in archive.namelist())
    strips = (_unpacked(archive.read(f"{name}/{number}.webp"), spec.image_shape) for number in range(count))
    return Part(np.ascontiguousarray(np.concatenate(list(strips))), labels)
