"""The batches of a training: order and augmentation from counters, images from memory as uint8."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdbench.data import Dataset, held_out
from kdbench.data.augment import crop_flip_draws, pad_crop_flip, to_float
from kdbench.data.randaugment import StrongDraws, strong_draws, strongly_augmented
from kdbench.errors import UserError
from kdbench.protocol import Protocol
from kdbench.supervision import FULL, Supervision, Truth
from kdbench.train.seeds import philox

T = TypeVar("T")
#: Offsets and flips of every training image in one epoch.
Crops = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Batch:
    """x [N,C,H,W] float32 in [0,1], channels last; y [N] int64; index [N] int64, places in the training split.

    ``views`` are the same images under other augmentations, as ``x`` is. ``weak``: an image may have no label, and y
    then says NO_LABEL, or ``candidates`` [N,K] in its place (kdbench.supervision).
    """

    x: Tensor
    y: Tensor
    index: Tensor
    views: Mapping[str, Tensor] = field(default_factory=dict)
    weak: bool = False
    candidates: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """All that is there."""
        candidates = () if self.candidates is None else (self.candidates,)
        return [self.x, self.y, self.index, *self.views.values(), *candidates]

    def first(self, size: int) -> Batch:
        """A copy of its first ``size`` images, or of all where it has fewer."""
        views = {name: view[:size].clone() for name, view in self.views.items()}
        candidates = None if self.candidates is None else self.candidates[:size].clone()
        x, y, index = (tensor[:size].clone() for tensor in (self.x, self.y, self.index))
        return Batch(x, y, index, views, self.weak, candidates)


class Batches:
    """All batches of one (seed, stream): batch ``step`` is the same whoever asks, whenever, in whatever order.

    They are of what the ``supervision`` shows of the training split; labels in files lie below ``data_root``.
    """

    #: Where the images are, and what can be done to them there.
    KIND = "images held in memory"
    AUGMENTATIONS: tuple[str, ...] = ("none", "crop", "crop_flip")

    def __init__(
        self,
        dataset: Dataset,
        protocol: Protocol,
        seed: int,
        stream: int,
        device: torch.device,
        supervision: Supervision = FULL,
        data_root: Path = Path(),
    ) -> None:
        if protocol.augmentation not in self.AUGMENTATIONS:
            offered = ", ".join(self.AUGMENTATIONS)
            raise UserError(
                f"augmentation {protocol.augmentation!r} is not offered for {self.KIND}; choose one of {offered}."
            )
        self.protocol, self.device = protocol, device
        self.root = (seed, stream)
        own = dataset.spec.val_size
        train, self.val = held_out(dataset.train_labels, own, protocol.holdout, protocol.split_seed)
        lesson = supervision.lesson(Truth(train, dataset.train_labels, dataset.spec.classes, data_root))
        #: Places in the whole training set of the images that are shown.
        self.train = lesson.places
        if not len(self.train):
            raise UserError(f"The supervision {supervision.kind} leaves no image to train on; change its fields.")
        #: Classes of which none of these is.
        self.left_out = np.setdiff1d(np.arange(dataset.spec.classes), dataset.train_labels[self.train])
        self.labels = torch.from_numpy(np.ascontiguousarray(lesson.labels)).to(device)
        self.weak = supervision.WEAK
        self.candidates = None if lesson.candidates is None else torch.from_numpy(lesson.candidates).to(device)
        self.steps_per_epoch = -(-len(self.train) // protocol.batch)
        #: What orders the images of an epoch, of random words of its own; another one may show some more than once.
        self.draw_order: Callable[[np.random.Generator], NDArray[np.int64]] = self._shuffled
        self._kept: dict[tuple[str, int], Any] = {}
        self._hold(dataset)

    def _hold(self, dataset: Dataset) -> None:
        self.images = dataset.train_images
        #: Those of the training split, in its order, where a GPU has them all.
        self.on_device: Tensor | None = None
        if self.device.type != "cpu":
            self.on_device = torch.from_numpy(np.array(self.images[self.train])).to(self.device)

    @property
    def total_steps(self) -> int:
        return self.protocol.epochs * self.steps_per_epoch

    def batch(self, step: int, views: Iterable[str] = ()) -> Batch:
        """The batch of 0-based global ``step``, and these views of it; the last one of an epoch may be short."""
        names = list(views)
        index = self._index(step).clone()
        plain, *others = self._pictures(step, ["augment", *(f"{name} crop" for name in names)])
        epoch = step // self.steps_per_epoch
        x = _network_input(plain)
        seen = zip(names, others, strict=True)
        made = {name: _network_input(VIEWS[name](self, picture, index, epoch)) for name, picture in seen}
        return self._labelled(x, index, made)

    def _drawn(self, purpose: str, epoch: int, draw: Callable[[np.random.Generator], T]) -> T:
        """What ``draw`` makes of the random numbers for ``purpose`` in 0-based ``epoch``; kept for a while."""
        return self._kept_for(epoch, purpose, lambda: draw(philox(*self.root, purpose, epoch)))

    def _kept_for(self, epoch: int, name: str, make: Callable[[], T]) -> T:
        """What ``make`` gives for ``epoch``.

        Two epochs are at hand at a time, as the first batches of the next one are made before this one ends.
        """
        made: T | None = self._kept.get((name, epoch))
        if made is None:
            made = make()
            near = {key: value for key, value in self._kept.items() if abs(key[1] - epoch) <= 1}
            self._kept = {**near, (name, epoch): made}
        return made

    def _places(self, step: int) -> NDArray[np.int64]:
        """Places in the training split of the images of ``step``."""
        epoch, number = divmod(step, self.steps_per_epoch)
        return self._order(epoch)[number * self.protocol.batch : (number + 1) * self.protocol.batch]

    def _index(self, step: int) -> Tensor:
        """The same on the device, where an epoch's order is sent at once."""
        epoch, number = divmod(step, self.steps_per_epoch)
        order = self._kept_for(epoch, "index", lambda: torch.from_numpy(self._order(epoch)).to(self.device))
        return order[number * self.protocol.batch : (number + 1) * self.protocol.batch]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        return self._drawn("order", epoch, self.draw_order)

    def _shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """A sort of raw generator words: numpy promises those for ever, its shuffling algorithms not (NEP 19)."""
        return np.argsort(rng.bit_generator.random_raw(len(self.train)), kind="stable")

    def _pictures(self, step: int, purposes: Sequence[str]) -> list[Tensor]:
        """The images of ``step``, augmented once for each of ``purposes``: uint8 [N,C,H,W] each."""
        index = self._index(step)
        images = self._gather(index)
        if self.protocol.augmentation == "none":
            return [images] * len(purposes)
        epoch = step // self.steps_per_epoch
        crops = (self._drawn(purpose, epoch, self._draw_crops) for purpose in purposes)
        chosen = ((part[index] for part in crop) for crop in crops)
        return [pad_crop_flip(images, offsets, flips, self.protocol.pad) for offsets, flips in chosen]

    def _draw_crops(self, rng: np.random.Generator) -> Crops:
        offsets, flips = crop_flip_draws(rng, len(self.train), self.protocol.pad)
        flips = flips.zero_() if self.protocol.augmentation == "crop" else flips
        return offsets.to(self.device), flips.to(self.device)

    def _strong_view(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        """RandAugment and cutout of ``images``, which have been through the protocol's augmentation a second time."""
        draws = self._drawn("strong", epoch, self._draw_strong)
        return strongly_augmented(images, draws.of(index))

    def _draw_strong(self, rng: np.random.Generator) -> StrongDraws:
        return strong_draws(rng, len(self.train)).to(self.device)

    def plain(self, size: int) -> Iterator[Batch]:
        """The training images as they are, in order, ``size`` at a time."""
        for start in range(0, len(self.train), size):
            yield self.of(torch.arange(start, min(start + size, len(self.train))))

    def of(self, index: Tensor) -> Batch:
        """The training images at the places ``index`` [N] as they are."""
        index = index.to(self.device)
        return self._as_they_are(self._gather(index), index)

    def _as_they_are(self, images: Tensor, index: Tensor) -> Batch:
        index = index.to(self.device)
        return self._labelled(_network_input(images), index, {})

    def _labelled(self, x: Tensor, index: Tensor, views: Mapping[str, Tensor]) -> Batch:
        candidates = None if self.candidates is None else self.candidates[index]
        return Batch(x, self.labels[index], index, views, self.weak, candidates)

    def _gather(self, index: Tensor) -> Tensor:
        if self.on_device is not None:
            return self.on_device[index]
        return torch.from_numpy(np.ascontiguousarray(self.images[self.train[index.numpy()]]))


def _network_input(images: Tensor) -> Tensor:
    return to_float(images).contiguous(memory_format=torch.channels_last)


#: What makes each of the views that a card may name (kdbench.methods.card.VIEWS).
VIEWS = {"strong": Batches._strong_view}
