"""Random images as a data set, for trainings whose accuracy nobody asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from kdbench.data import DATASETS
from kdbench.data.spec import DatasetSpec, Part, Source

NAME = "noise"
TESTED = 50


def register(images: int) -> None:
    """Make the data set ``noise`` known, of ``images`` training images in the shape of CIFAR-100's."""
    spec = replace(
        DATASETS.get("cifar100"),
        name=NAME,
        title="Noise",
        train_size=images,
        test_size=TESTED,
        loader=f"{__name__}:noise",
        digest=None,
        torchvision=None,
        sha1={},
    )
    DATASETS.add(NAME, spec, "benchmarks")


def noise(spec: DatasetSpec, root: Path) -> Source:
    return Source((), lambda: (_part(spec, spec.train_size, 0), _part(spec, spec.test_size, 1)))


def _part(spec: DatasetSpec, count: int, seed: int) -> Part:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *spec.image_shape), dtype=np.uint8)
    return Part(pixels, np.arange(count, dtype=np.int64) % spec.classes)
