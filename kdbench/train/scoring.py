"""What a training is judged by: an epoch's sums, the curve, and the predictions of its last and best epochs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdbench.data import Dataset
from kdbench.data.files import ImageFiles
from kdbench.data.spec import Images
from kdbench.measure.evaluate import Predictions, arrays_of, leads_of, logits_of, scores_of, summarise, top1_of

#: The test set, and the held-out images of the training set.
SPLITS = ("test", "val")


class Diverged(Exception):
    """The loss or the logits stopped being finite. Carries the 1-based epoch in which it was seen."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the loss was no longer finite in epoch {epoch}")
        self.epoch = epoch


@dataclass(frozen=True)
class Figures:
    """What a step adds to its epoch's sums: how many were right, and each term times the samples, on the device."""

    correct: Tensor
    losses: Mapping[str, Tensor]

    @classmethod
    def of(cls, terms: Mapping[str, Tensor], logits: Tensor, y: Tensor) -> Figures:
        right = (logits.detach().argmax(1) == y).sum()
        return cls(right, {name: value.detach().double() * len(y) for name, value in terms.items()})


@dataclass
class EpochSums:
    """What an epoch adds up, on the device, without waiting for it."""

    samples: int = 0
    correct: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)

    def add(self, figures: Figures, samples: int) -> None:
        """Count a step on so many ``samples``; copies of its ``figures``, which the next step may write over."""
        right = figures.correct
        self.correct = right.clone() if self.correct is None else self.correct + right
        for name, value in figures.losses.items():
            self.losses[name] = self.losses[name] + value if name in self.losses else value.clone()
        self.samples += samples

    def finite(self) -> bool:
        return all(bool(torch.isfinite(value)) for value in self.losses.values())

    def means(self) -> dict[str, float]:
        """Mean of each term over the samples so far."""
        return {name: float(value) / self.samples for name, value in self.losses.items()}


class Scoring:
    """Scores one student after every epoch of ``epochs`` and keeps what its record will say.

    ``val``: places of the held-out images in the training set; ``teacher_logits`` [N,K] on the test images or None;
    ``left_out``: classes that the student is never shown.
    """

    def __init__(
        self,
        dataset: Dataset,
        val: NDArray[np.int64],
        epochs: int,
        device: torch.device,
        teacher_logits: Tensor | None,
        left_out: NDArray[np.int64] | None = None,
    ) -> None:
        self.left_out = left_out if left_out is not None else np.zeros(0, np.int64)
        self.dataset, self.val, self.epochs, self.device = dataset, val, epochs, device
        self.teacher_logits = teacher_logits
        self.sums = EpochSums()
        self.curve: list[dict[str, Any]] = []
        self.kept: dict[str, tuple[int, float, Predictions]] = {}
        self.seconds = 0.0
        #: What is called between two batches of images: a Pulse's beat.
        self.beat: Callable[[], object] = lambda: None
        self._seen: defaultdict[str, list[tuple[Tensor, float]]] = defaultdict(list)

    def images(self, split: str) -> Images | ImageFiles:
        """Those of ``split``, one of SPLITS."""
        return self.dataset.test_images if split == "test" else self.dataset.train_images[self.val]

    def check(self, epoch: int) -> None:
        """Diverged where the loss of 1-based ``epoch`` was not finite."""
        if not self.sums.finite():
            raise Diverged(epoch)

    def look(self, network: nn.Module, split: str, images: Tensor) -> None:
        """Show ``network`` the next images of ``split`` in this epoch, a batch uint8 [N,C,H,W]."""
        self._seen[split].append(logits_of(network, images, self.device))

    def _logits(self, network: nn.Module, split: str) -> tuple[Tensor, float]:
        """Of all images of ``split``, those of this epoch if it has looked; and the seconds they took."""
        seen = self._seen.pop(split, [])
        if not seen:
            return logits_of(network, self.images(split), self.device, self.beat)
        return torch.cat([logits for logits, _ in seen]), sum(seconds for _, seconds in seen)

    def close_epoch(
        self, epoch: int, network: nn.Module, rate: float, wall_seconds: float, *, trained_is_scored: bool
    ) -> dict[str, Any]:
        """Score ``network`` after 1-based ``epoch``, extend the curve, keep it if it is the best or the last.

        Without ``trained_is_scored`` the training batches' logits are another network's: their accuracy is not kept.
        Diverged where the logits are not finite.
        """
        logits, self.seconds = self._logits(network, "test")
        if not bool(torch.isfinite(logits).all()):
            raise Diverged(epoch)
        val_top1, held_out = None, None
        if len(self.val):
            held_out = self._logits(network, "val")[0], self.dataset.train_labels[self.val]
            val_top1 = top1_of(*held_out)
        correct = 0 if self.sums.correct is None else int(self.sums.correct)
        point = {
            "epoch": epoch,
            "lr": rate,
            "losses": self.sums.means(),
            "train_top1": correct / max(self.sums.samples, 1) * 100 if trained_is_scored else None,
            "val_top1": val_top1,
            "test_top1": top1_of(logits, self.dataset.test_labels),
            "seconds": wall_seconds,
        }
        self.curve.append(point)
        self.sums = EpochSums()
        self._keep(point, logits, held_out)
        return point

    def close_phase_epoch(self, epoch: int) -> None:
        """End an epoch of a phase before the main training: nothing is scored. Diverged where it is not finite."""
        self.check(epoch)
        self.sums = EpochSums()

    def _keep(
        self, point: Mapping[str, Any], logits: Tensor, held_out: tuple[Tensor, NDArray[np.integer]] | None
    ) -> None:
        epoch, candidates = point["epoch"], {"best_val": point["val_top1"], "best_test": point["test_top1"]}
        better = [
            name
            for name, value in candidates.items()
            if value is not None and (name not in self.kept or value > self.kept[name][1])
        ]  # an equal later epoch does not replace an earlier one
        if epoch == self.epochs:
            better.append("last")
            candidates["last"] = point["test_top1"]
        if better:
            predictions = summarise(logits, self.dataset.test_labels, self.teacher_logits)
            if len(self.left_out) and held_out is not None:
                found = leads_of(self.left_out, (logits, self.dataset.test_labels), held_out)
                predictions = replace(predictions, leads=found)
            self.kept.update({name: (epoch, candidates[name], predictions) for name in better})

    def scores(self) -> dict[str, Any]:
        """The record's ``scores`` of a finished training."""
        found: dict[str, Any] = {"last": None, "best_val": None, "best_test": None}
        for name, (epoch, _, predictions) in self.kept.items():
            found[name] = scores_of(predictions, self.dataset.test_labels, epoch, self.curve[epoch - 1]["val_top1"])
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of the record's prediction file."""
        return arrays_of({name: kept[2] for name, kept in self.kept.items()}, self.dataset.test_labels)

    def state(self) -> dict[str, Any]:
        """Everything a resume needs, as tensors and plain data."""
        return {
            "sums": dict(vars(self.sums)),
            "curve": self.curve,
            "kept": {name: [epoch, value, _pack(kept)] for name, (epoch, value, kept) in self.kept.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        sums = state["sums"]
        correct = None if sums["correct"] is None else sums["correct"].to(self.device)
        self.sums = EpochSums(sums["samples"], correct, {k: v.to(self.device) for k, v in sums["losses"].items()})
        self.curve = state["curve"]
        self.kept = {name: (epoch, value, _unpack(kept)) for name, (epoch, value, kept) in state["kept"].items()}


def _pack(predictions: Predictions) -> dict[str, Any]:
    packed = vars(predictions) | predictions.leads
    del packed["leads"]
    return {n: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for n, value in packed.items()}


def _unpack(packed: Mapping[str, Any]) -> Predictions:
    values = {name: v.numpy() if isinstance(v, Tensor) else v for name, v in packed.items()}
    own = {name: values.pop(name) for name in list(values) if name in Predictions.__dataclass_fields__}
    return Predictions(**own, leads=values)
