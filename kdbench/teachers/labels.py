"""What a teacher of kind ``labels`` says: the logarithms of a file's shares, kept beside the teacher's facts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdbench.composition.labels import Labels
from kdbench.data.pinned import read_pinned
from kdbench.errors import CheckpointError, DataError, reason
from kdbench.models.composed import Composed, Told
from kdbench.teachers.making import Maker
from kdbench.teachers.weights import kept_weights, write_weights
from kdbench.train.pulse import Pulse

#: What a class has at least of the whole: the logarithm of nothing is no number.
LEAST = 1e-6


class LabelsMaker(Maker):
    """Keeps ``labels.safetensors``: the logits [images,K] of all training images and then of all test images."""

    def make(self, device: torch.device, data_root: Path, pulse: Pulse) -> None:
        kind = self.teacher.composition
        assert isinstance(kind, Labels), "the kind that names this maker"
        content = read_pinned(data_root, kind.file, kind.sha256)
        images = len(self.dataset.train_labels) + len(self.dataset.test_labels)
        said = logits_in(content, images, self.dataset.spec.classes, data_root / kind.file)
        pulse.patiently(partial(write_weights, {"logits": said}, self._path), f"the teacher {self.teacher.name}")

    def composed(self, device: torch.device) -> Composed:
        logits, first = kept_weights(self._path).get("logits"), len(self.dataset.train_labels)
        if logits is None:
            raise CheckpointError(f"{self._path} holds no labels; remove it, and start the run again.")

        def rule(said: Sequence[Tensor], told: Told) -> Tensor:
            rows = told.places if told.split == "train" else told.places + first
            return logits[rows.cpu()].to(rows.device)

        network = Composed([], rule, self.dataset.spec.classes)
        network.register_buffer("said", logits)  # what its digest is of
        return network

    @property
    def _path(self) -> Path:
        return self.folder / "labels.safetensors"


def logits_in(content: bytes, images: int, classes: int, path: Path) -> Tensor:
    """The logits [images, classes] that the .npy ``content`` of ``path`` stands for; DataError where it is no such."""
    try:
        table = np.load(io.BytesIO(content), allow_pickle=False)
        if not isinstance(table, np.ndarray) or table.dtype.kind not in "iuf":
            raise ValueError("it is no table of numbers")
    except (ValueError, OSError) as error:
        raise DataError(f"{path} holds no labels: {reason(error)}.") from None
    if table.shape != (images, classes):
        shape = " x ".join(map(str, table.shape))
        raise DataError(
            f"{path} holds {shape} numbers, and rows for {images} images of {classes} classes are wanted, those to "
            "train on first."
        )
    shares = table.astype(np.float64)
    if not np.isfinite(shares).all() or shares.min() < 0 or shares.sum(1).min() <= 0:
        raise DataError(
            f"{path} holds rows that are no shares of classes: each needs numbers from 0, and one above it."
        )
    shares = np.maximum(shares / shares.sum(1, keepdims=True), LEAST)
    return torch.from_numpy(np.log(shares / shares.sum(1, keepdims=True)).astype(np.float32))
