"""Random crops of JPEGs, in images a second of a core, beside torchvision's ImageFolder in a plain DataLoader.

That is what the peers' ImageNet trainings read with: Pillow, RandomResizedCrop, a flip, ToTensor. The files are like
ImageNet's, of 500 x 375 pixels and about 110 kB.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from report import Report
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from kdbench.data.decoders import Decoders
from kdbench.data.files import ImageFiles

SIDE, IMAGES = 224, 128
#: Images a second of a core, over the plain loader's.
LIMIT = 1.5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        place = tmp_path / f"class{number % 2}" / f"{number:03}.JPEG"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(_photograph(rng)).save(place, quality=94)
    return tmp_path


def _photograph(rng: np.random.Generator) -> np.ndarray:
    """Noise that is smooth on several scales, and a little that is not, uint8 [375,500,3]."""
    picture = rng.normal(128, 9, (375, 500, 1)) + rng.normal(0, 6, (375, 500, 3))
    for scale, weight in ((64, 0.5), (16, 0.25), (4, 0.15)):
        coarse = Image.fromarray(rng.integers(0, 256, (375 // scale + 2, 500 // scale + 2, 3), dtype=np.uint8))
        picture += weight * (np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float64) - 128)
    return picture.clip(0, 255).astype(np.uint8)


def test_random_crops(report: Report, folder: Path) -> None:
    torch.set_num_threads(1)
    crop = transforms.Compose(
        [transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )
    plain = datasets.ImageFolder(str(folder), crop)
    labels = np.array(plain.targets)
    names = np.array([Path(path).name.encode() for path, _ in plain.samples])
    files = ImageFiles(folder, tuple(plain.classes), names, labels, (3, SIDE, SIDE))
    words, cpu = np.random.Philox(key=0).random_raw(IMAGES), torch.device("cpu")

    def ours() -> torch.Tensor:
        return Decoders(0).decode(files, words).pictures(cpu)

    def theirs() -> torch.Tensor:
        return next(iter(DataLoader(plain, IMAGES)))[0]

    tasks: dict[str, Callable[[], torch.Tensor]] = {"plain": theirs, "kdbench": ours}
    assert ours().shape == theirs().shape
    ratio = report.ratios(tasks, rounds=15)["kdbench"]
    for name, task in tasks.items():
        started = time.process_time()
        task()
        speed = IMAGES / (time.process_time() - started)
        report.add(f"{name}, images/s a core", speed, f"{speed:.0f}")
    assert ratio.median <= 1 / LIMIT
