"""The batches of a training whose images lie in files: decoded ahead, from the same counters as any other batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdbench.data import Dataset
from kdbench.data.decoders import Decoders, Pending, decoders, pieces_of
from kdbench.data.files import ImageFiles
from kdbench.protocol import Protocol
from kdbench.supervision import FULL, Supervision
from kdbench.train.batches import Batch, Batches


def make_batches(
    dataset: Dataset,
    protocol: Protocol,
    seed: int,
    stream: int,
    device: torch.device,
    supervision: Supervision = FULL,
    data_root: Path = Path(),
) -> Batches:
    """The batches of ``dataset``, wherever its images are."""
    kind = FileBatches if isinstance(dataset.train_images, ImageFiles) else Batches
    return kind(dataset, protocol, seed, stream, device, supervision, data_root)


class FileBatches(Batches):
    """While one batch is trained on, those that come next are decoded by ``pool``, this process's where none is given.

    An image's crop depends on seed, stream, purpose, epoch and its place in the training split alone.
    """

    KIND = "images in files"
    AUGMENTATIONS = ("none", "resized_crop_flip")

    def __init__(
        self,
        dataset: Dataset,
        protocol: Protocol,
        seed: int,
        stream: int,
        device: torch.device,
        supervision: Supervision = FULL,
        data_root: Path = Path(),
        pool: Decoders | None = None,
    ) -> None:
        self.pool = pool or decoders()
        super().__init__(dataset, protocol, seed, stream, device, supervision, data_root)

    def _hold(self, dataset: Dataset) -> None:
        self.files: ImageFiles = dataset.train_images[self.train]  # type: ignore[assignment]
        self._ahead: dict[tuple[int, str], Pending] = {}

    def _pictures(self, step: int, purposes: Sequence[str]) -> list[Tensor]:
        if self.protocol.augmentation == "none":
            return self._on_their_way(step, [""]) * len(purposes)
        return self._on_their_way(step, purposes)

    def _on_their_way(self, step: int, purposes: Sequence[str]) -> list[Tensor]:
        """The images of ``step``; meanwhile those of the next steps are begun."""
        last = min(step + self.pool.ahead(self.protocol.batch), self.total_steps - 1)
        wanted = [(number, purpose) for number in range(step, last + 1) for purpose in purposes]
        self._ahead = {key: self._ahead.get(key) or self._begin(*key) for key in wanted}
        return [self._ahead[step, purpose].pictures(self.device) for purpose in purposes]

    def _begin(self, step: int, purpose: str) -> Pending:
        places, words = self._places(step), None
        if purpose:
            words = self._drawn(purpose, step // self.steps_per_epoch, self._draw_words)[places]
        return self.pool.decode(self.files[places], words)

    def _draw_words(self, rng: np.random.Generator) -> NDArray[np.uint64]:
        """A raw word for each training image."""
        return rng.bit_generator.random_raw(len(self.train))

    def plain(self, size: int) -> Iterator[Batch]:
        """The crops in the middle of the training images, in order, ``size`` at a time."""
        start = 0
        for images in pieces_of(self.files, size, self.device, pool=self.pool):
            yield self._as_they_are(images, torch.arange(start, start + len(images)))
            start += len(images)

    def _gather(self, index: Tensor) -> Tensor:
        return self.pool.decode(self.files[index.cpu().numpy()]).pictures(self.device)
