"""Images made of patches, each class with two features that tell it by themselves: Allen-Zhu and Li's distribution.

Definitions 3.1 to 3.3 of arXiv:2012.09816 with whole numbers in the place of their asymptotics. An image is a column
of patches, each a row of pixels. Feature number f is the f-th axis of a patch; class j has the features 2j and 2j + 1,
or 2j alone. Of an image of class y, drawn from raw words of a counter's stream and computed in whole numbers:

* its own features have strengths from ``own``; a single-view image, which only the test set has, lacks one of the two;
* of 100 images ``others`` have the features of any other class, too, with strengths from ``other``;
* each feature lies in a patch of its own, at random;
* each pixel has noise: a sum of eight random bytes, scaled to ``noise`` grey levels.

Strengths and noise are in grey levels, and ``UNIT`` of them count as 1; ``NOTHING`` is the level of an empty pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdbench.data.spec import BOTH, ClassViews, DatasetSpec, Part, Source
from kdbench.data.splits import philox

Whole = NDArray[np.int64]

UNIT, NOTHING = 102, 51
#: Variance of a byte drawn evenly, times the eight of a sum, and its root; and the mean of that sum.
_DEVIATION, _MEAN = (8 * (256**2 - 1) / 12) ** 0.5, 8 * 255 // 2


@dataclass(frozen=True)
class Setting:
    """The finite numbers of a distribution.

    ``features``: how many tell a class, 2 or 1. ``single``: of so many test images of a class one shows the first view
    alone, and one the second. Training images show both.
    """

    features: int
    single: int = 3
    own: tuple[int, int] = (102, 143)
    other: tuple[int, int] = (20, 41)
    others: int = 40
    noise: int = 3


SETTINGS = {
    "multiview": Setting(2),
    "one_feature": Setting(1, noise=20),
}


def multiview(spec: DatasetSpec, root: Path) -> Source:
    """The images of the data set of this name in SETTINGS; nothing is read."""
    setting = SETTINGS[spec.name]

    def read() -> tuple[Part, Part]:
        return drawn(spec, setting, "train"), drawn(spec, setting, "test")

    return Source((), read)


def views(spec: DatasetSpec) -> ClassViews:
    """What each test image shows of its class."""
    labels = _labels(spec, spec.test_size)
    return ClassViews(labels, _shown(labels, spec.classes, SETTINGS[spec.name].single))


def drawn(spec: DatasetSpec, setting: Setting, split: str) -> Part:
    """The images of ``split``, train or test, from a stream that belongs to it and to the data set alone."""
    n = spec.train_size if split == "train" else spec.test_size
    _, patches, pixels = spec.image_shape
    labels = _labels(spec, n)
    shown = np.full(n, BOTH) if split == "train" else _shown(labels, spec.classes, setting.single)
    draws = _Draws(f"{spec.name}-{split}")
    images = NOTHING + draws.noise(setting.noise, n, patches, pixels)
    places = draws.order(n, patches)
    for feature, strength in enumerate(_strengths(setting, labels, shown, spec.classes, draws).T):
        axis = feature if setting.features == 2 else feature // 2 * 2
        images[np.arange(n), places[:, feature], axis] += strength
    return Part(np.clip(images, 0, 255).astype(np.uint8).reshape(n, *spec.image_shape), labels)


def _strengths(setting: Setting, labels: Whole, shown: Whole, classes: int, draws: _Draws) -> Whole:
    """How strong each feature is in each image [N, 2 * classes], in grey levels."""
    n = len(labels)
    there = draws.below(100, n, classes) < setting.others
    found = _between(setting.other, draws, n, classes, 2) * there[:, :, None]
    own = _between(setting.own, draws, n, 2)
    own[shown == 1, 1] = own[shown == 2, 0] = 0
    found[np.arange(n), labels] = own
    return found.reshape(n, 2 * classes)


def _between(ends: tuple[int, int], draws: _Draws, *shape: int) -> Whole:
    low, high = ends
    return low + draws.below(high - low + 1, *shape)


def _labels(spec: DatasetSpec, n: int) -> Whole:
    return np.arange(n, dtype=np.int64) % spec.classes


def _shown(labels: Whole, classes: int, single: int) -> Whole:
    """Which view each image shows, BOTH, 1 or 2: of ``single`` images of a class in turn, one shows 1 and one 2."""
    number = np.arange(len(labels)) // classes % single
    return np.where(number < 2, number + 1, BOTH)


class _Draws:
    """Random whole numbers, from the raw words of the stream of ``purpose``: the same with every release of numpy."""

    def __init__(self, purpose: str) -> None:
        self._stream = philox(purpose, 0)

    def below(self, n: int, *shape: int) -> Whole:
        """Numbers from 0 to ``n`` - 1, each as likely but for one part in 2**32."""
        return np.asarray(((self._words(*shape) >> 32) * np.uint64(n)) >> 32, np.int64)

    def order(self, n: int, count: int) -> Whole:
        """[n, count]: the numbers from 0 to ``count`` - 1 in random order, ``n`` times."""
        return np.argsort(self._words(n, count), axis=1, kind="stable")

    def noise(self, levels: int, *shape: int) -> Whole:
        """Whole numbers about 0 with a standard deviation of about ``levels``."""
        summed = self._words(*shape)[..., None].view(np.uint8).sum(-1, dtype=np.int64) - _MEAN
        return np.rint(summed * (levels / _DEVIATION)).astype(np.int64)

    def _words(self, *shape: int) -> NDArray[np.uint64]:
        return np.asarray(self._stream.random_raw(math.prod(shape)), np.uint64).reshape(shape)
