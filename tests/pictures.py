"""A data set as small as a thumbnail in ImageNet's layout and with ImageNet's oddities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from kdbench.data.spec import DatasetSpec

CLASSES = ("n01", "n02", "n10")
TRAIN, VAL = 10, 4

PICTURES = DatasetSpec(
    name="pictures",
    title="Pictures",
    classes=len(CLASSES),
    image_shape=(3, 32, 32),
    train_size=TRAIN * len(CLASSES),
    test_size=VAL * len(CLASSES),
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    loader="kdbench.data.imagefolder:imagefolder",
    digest=None,
    files="pictures/{train,val}/<class>/*",
    source="tests/pictures.py",
    url="https://example.org",
    licence="none",
)


def write_pictures(home: Path) -> Path:
    """Write the files of PICTURES into ``home``: JPEGs of 60 to 120 pixels, among them a grey and a CMYK one, and a PNG
    that is named as they are.
    """
    rng = np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("val", VAL)):
        for label, name in enumerate(CLASSES):
            folder = home / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture = photograph(rng, *rng.integers(60, 121, 2), shade=label / 2)
                mode = {(0, 0): "L", (1, 0): "CMYK"}.get((label, number), "RGB")
                container = "PNG" if (label, number) == (2, 0) else "JPEG"
                picture.convert(mode).save(folder / f"{name}_{number}.JPEG", container)
    return home


def photograph(rng: np.random.Generator, width: int, height: int, shade: float = 0.5) -> Image.Image:
    """Smooth noise, darker or lighter by ``shade`` in 0..1, so that there is something to learn."""
    coarse = rng.integers(0, 128, (height // 8 + 2, width // 8 + 2, 3)) + round(127 * shade)
    return Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
