"""The batches of a training: order and augmentation from counters, images from memory as uint8."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdbench.data import Dataset, split
from kdbench.data.augment import crop_flip_draws, pad_crop_flip, to_float
from kdbench.data.randaugment import StrongDraws, strong_draws, strongly_augmented
from kdbench.errors import UserError
from kdbench.plan.protocol import Protocol
from kdbench.train.seeds import philox

#: Offsets and flips of every training image in one epoch.
Crops = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Batch:
    """x [N,C,H,W] float32 in [0,1], channels last; y [N] int64; index [N] int64, places in the training split.

    ``views`` are the same images under other augmentations, as ``x`` is.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    views: Mapping[str, Tensor] = field(default_factory=dict)


class Batches:
    """All batches of one (seed, stream): batch ``step`` is the same whoever asks, whenever, in whatever order."""

    def __init__(self, dataset: Dataset, protocol: Protocol, seed: int, stream: int, device: torch.device) -> None:
        if protocol.augmentation not in ("none", "crop", "crop_flip"):
            raise UserError(f"augmentation {protocol.augmentation!r} is not offered for images held in memory.")
        self.protocol, self.device = protocol, device
        self.root = (seed, stream)
        self.train, self.val = split(dataset.train_labels, protocol.holdout, protocol.split_seed)
        self.images = dataset.train_images
        self.labels = torch.from_numpy(np.ascontiguousarray(dataset.train_labels[self.train])).to(device)
        self.on_device = None if device.type == "cpu" else torch.from_numpy(np.array(self.images)).to(device)
        self.steps_per_epoch = -(-len(self.train) // protocol.batch)
        self._epoch: int | None = None

    @property
    def total_steps(self) -> int:
        return self.protocol.epochs * self.steps_per_epoch

    def _begin(self, epoch: int) -> None:
        """Draw the order and the crops of 0-based ``epoch``.

        The order is a sort of raw generator words: numpy promises those for ever, its shuffling algorithms not (NEP
        19).
        """
        words = philox(*self.root, "order", epoch).bit_generator.random_raw(len(self.train))
        self._order: NDArray[np.int64] = np.argsort(words, kind="stable")
        self._crops = self._draw_crops("augment", epoch)
        self._strong: tuple[Crops | None, StrongDraws] | None = None
        self._epoch = epoch

    def _draw_crops(self, purpose: str, epoch: int) -> Crops | None:
        if self.protocol.augmentation == "none":
            return None
        offsets, flips = crop_flip_draws(philox(*self.root, purpose, epoch), len(self.train), self.protocol.pad)
        return offsets, flips.zero_() if self.protocol.augmentation == "crop" else flips

    def batch(self, step: int, views: Iterable[str] = ()) -> Batch:
        """The batch of 0-based global ``step``, and these views of it; the last one of an epoch may be short."""
        epoch, number = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._begin(epoch)
        chosen = self._order[number * self.protocol.batch : (number + 1) * self.protocol.batch]
        index = torch.from_numpy(chosen.copy())
        images = self._gather(self.train[chosen])
        x = _network_input(self._cropped(images, self._crops, index))
        others = {name: _network_input(VIEWS[name](self, images, index, epoch)) for name in views}
        index = index.to(self.device)
        return Batch(x, self.labels[index], index, others)

    def _cropped(self, images: Tensor, crops: Crops | None, index: Tensor) -> Tensor:
        if crops is None:
            return images
        offsets, flips = (draws[index].to(self.device) for draws in crops)
        return pad_crop_flip(images, offsets, flips, self.protocol.pad)

    def _strong_view(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        """The protocol's augmentation drawn a second time, then RandAugment and cutout."""
        if self._strong is None:
            draws = strong_draws(philox(*self.root, "strong", epoch), len(self.train))
            self._strong = self._draw_crops("strong crop", epoch), draws
        crops, draws = self._strong
        return strongly_augmented(self._cropped(images, crops, index), draws.of(index).to(self.device))

    def plain(self, size: int) -> Iterator[Batch]:
        """The training images as they are, in order, ``size`` at a time."""
        for start in range(0, len(self.train), size):
            yield self.of(torch.arange(start, min(start + size, len(self.train))))

    def of(self, index: Tensor) -> Batch:
        """The training images at the places ``index`` [N] as they are."""
        x = _network_input(self._gather(self.train[index.numpy()]))
        return Batch(x, self.labels[index.to(self.device)], index.to(self.device))

    def _gather(self, places: NDArray[np.int64]) -> Tensor:
        if self.on_device is not None:
            return self.on_device[torch.from_numpy(places).to(self.device)]
        return torch.from_numpy(np.ascontiguousarray(self.images[places]))


def _network_input(images: Tensor) -> Tensor:
    return to_float(images).contiguous(memory_format=torch.channels_last)


#: What makes each of the views that a card may name (kdbench.methods.card.VIEWS).
VIEWS = {"strong": Batches._strong_view}
