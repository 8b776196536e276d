"""Data sets in folders of classes: ``train/<class>/*`` and ``val/<class>/*``, as torchvision's ImageFolder reads them.

Labels follow the sorted names of the class folders, and images the sorted names of their files. ILSVRC 2012 as
torchvision's ImageNet class unpacks it has this layout.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdbench.data.checks import missing
from kdbench.data.files import ImageFiles
from kdbench.data.spec import DatasetSpec, Part, Source
from kdbench.errors import DataError, UserError

PARTS = ("train", "val")

#: What torchvision takes for an image; what is inside is another matter: ImageNet has a PNG named .JPEG.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def imagefolder(spec: DatasetSpec, root: Path) -> Source:
    """The copy in the folder ``spec.name`` of ``root``, or in ``root`` itself. Its files are the folders of classes.

    A folder's modification time changes with every file that comes, goes or is renamed, so the digest is remembered by
    two thousand folders and not by a million files. DataError when folders are missing.
    """
    channels, height, width = spec.image_shape
    if height != width or channels not in (1, 3):
        raise UserError(
            f"data set {spec.name!r}: files are decoded to squares of 1 or 3 channels, as image_shape must be."
        )
    homes = (root / spec.name, root)
    home = next((home for home in homes if all((home / part).is_dir() for part in PARTS)), None)
    if home is None:
        raise missing(spec, root, next((p for p in (root / spec.name / part for part in PARTS) if _beside(p)), None))
    train, val = home / "train", home / "val"
    classes = _class_names(train, spec)
    if _class_names(val, spec) != classes:
        raise DataError(f"{train} and {val} have class folders of different names; unpack {spec.title} again.")
    return Source(
        tuple(folder / name for folder in (train, val) for name in classes),
        lambda: (_find(spec, train, classes, spec.train_size), _find(spec, val, classes, spec.test_size)),
    )


def _beside(folder: Path) -> bool:
    """Whether ``folder`` is missing where the other one is."""
    return folder.parent.is_dir() and not folder.is_dir()


def _class_names(folder: Path, spec: DatasetSpec) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        names = tuple(sorted(entry.name for entry in entries if entry.is_dir()))
    if len(names) != spec.classes:
        raise DataError(
            f"{folder} holds {len(names)} class folders, not {spec.classes}; unpack {spec.title} again, each image "
            "into the folder of its class."
        )
    return names


def _find(spec: DatasetSpec, folder: Path, classes: Sequence[str], size: int) -> Part:
    """The files of one part; DataError unless there are ``size`` of them."""
    names: list[bytes] = []
    counts = []
    nested = ""
    for name in classes:
        with os.scandir(folder / name) as entries:
            inside = sorted((entry.name, entry.is_dir()) for entry in entries)
        found = [inner for inner, is_folder in inside if is_image(inner) and not is_folder]
        nested = nested or next((f"{name}/{inner}" for inner, is_folder in inside if is_folder), "")
        names += map(os.fsencode, found)
        counts.append(len(found))
    if len(names) != size:
        where = f", not counting what is in folders below those of the classes, like {nested}" if nested else ""
        raise DataError(f"{folder} holds {len(names)} images, not {size}{where}; unpack {spec.title} again.")
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    return Part(ImageFiles(folder, tuple(classes), np.array(names), labels, spec.image_shape), labels)


def is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")
