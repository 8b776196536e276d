"""The pairs whose trainings are timed, and made-up images for them: in memory, or JPEG files of ImageNet's size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from kdbench.data import Dataset
from kdbench.data.files import ImageFiles
from kdbench.train.conformance import random_images

#: Batches in an epoch, whose order and crops kdbench draws at once.
BATCHES = 16
#: Width and height of the files, as most of ImageNet's have them.
SIZE = (500, 375)


@dataclass(frozen=True)
class Pair:
    """Two architectures and their images, ``batch`` at a time and so many ``batches`` an epoch.

    Those of more than 32 pixels are in files.
    """

    teacher: str
    student: str
    batch: int = 64
    side: int = 32
    classes: int = 100
    batches: int = BATCHES

    @property
    def name(self) -> str:
        return f"{self.teacher}:{self.student}"

    @property
    def in_files(self) -> bool:
        return self.side > 32

    @property
    def images(self) -> int:
        return self.batches * self.batch

    def dataset(self, folder: Path) -> Dataset:
        """The images as kdbench takes them; files lie below ``folder``, as torchvision's ImageFolder wants them."""
        made = random_images(self.images, self.classes)
        if not self.in_files:
            return made
        classes, labels = ("a", "b"), made.train_labels % 2
        names = np.array([b"%d.jpeg" % (number % self.batch) for number in range(self.images)])
        shape = (3, self.side, self.side)
        _write_photographs(folder, classes, self.batch)
        files = ImageFiles(folder, classes, names, labels, shape)
        return Dataset(replace(made.spec, image_shape=shape), files, labels, files[:1], labels[:1], made.digest)


#: By what they are called everywhere. The batch of the last one is what fits its step into seconds on a CPU.
PAIRS = {
    pair.name: pair
    for pair in (
        Pair("resnet32x4", "resnet8x4"),
        Pair("wrn_40_2", "wrn_16_2"),
        Pair("resnet56", "resnet20"),
        Pair("resnet34", "resnet18", batch=16, side=224, classes=1000),
    )
}


def _write_photographs(folder: Path, classes: tuple[str, ...], count: int) -> None:
    """Smooth noise, image ``number`` in the folder of class ``number`` modulo their count."""
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / classes[number % len(classes)] / f"{number}.jpeg"
        place.parent.mkdir(exist_ok=True)
        coarse = rng.integers(0, 256, (SIZE[1] // 4, SIZE[0] // 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(place, quality=90)
