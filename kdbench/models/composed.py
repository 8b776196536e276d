"""A network made of networks, which says one thing of an image: the logits that a rule makes of what each says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdbench.models.outputs import NetworkSpec, Outputs, Shape


@dataclass(frozen=True)
class Told:
    """What is known of a batch's images beside what they show.

    labels [N] int64: the true ones; places [N] int64: theirs in the whole ``split``, which is ``train`` or ``test``.
    """

    labels: Tensor
    places: Tensor
    split: str


#: From each part's logits [N,K], and what is known of the images, to the logits [N,K] of the whole.
Rule = Callable[[Sequence[Tensor], Told], Tensor]


class Composed(nn.Module):
    """``parts``, and the ``rule`` by which they speak as one. It has logits and nothing else, and is never trained.

    ``study`` says which images are shown from then on; they are then known by their ``index``.
    """

    labels: Tensor
    places: Tensor

    def __init__(self, parts: Iterable[nn.Module], rule: Rule, classes: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.rule, self.classes = rule, classes
        self.split = "test"
        for name in ("labels", "places"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64), persistent=False)

    def study(self, labels: NDArray[np.int64], places: NDArray[np.int64], split: str) -> None:
        """Be told of the images that follow: their true ``labels`` [n], and ``places`` [n] in the whole ``split``."""
        device = self.labels.device
        self.split = split
        self.labels = torch.from_numpy(np.array(labels)).to(device)
        self.places = torch.from_numpy(np.array(places)).to(device)
        for part in self.parts:
            if isinstance(part, Composed):
                part.study(labels, places, split)

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset(), *, index: Tensor) -> Outputs:
        """Of images ``x`` [N,C,H,W] in [0,1], which are those at ``index`` [N] of what was studied."""
        if parts:
            raise ValueError(f"a composed teacher has logits alone, and not {', '.join(sorted(parts))}")
        said = [outputs_of(part, x, index=index).logits for part in self.parts]
        return Outputs(self.rule(said, Told(self.labels[index], self.places[index], self.split)))

    def spec(self, name: str, image_shape: Shape) -> NetworkSpec:
        """Logits, for images of any ``image_shape``, and no stages, maps or head."""
        none = (0, 0, 0)
        return NetworkSpec(name, self.classes, none, (), (), 0, none, nn.Identity(), self)


def changed(network: nn.Module, change: Callable[[Any], nn.Module]) -> nn.Module:
    """``network`` after ``change``, or one of its parts after it, which has studied nothing yet."""
    if not isinstance(network, Composed):
        return change(network)
    parts = [changed(part, change) for part in network.parts]
    return Composed(parts, network.rule, network.classes).to(network.labels.device).eval()


def outputs_of(network: nn.Module, x: Tensor, parts: frozenset[str] = frozenset(), *, index: Tensor) -> Outputs:
    """What ``network`` says of images ``x``; one that is composed is told which they are."""
    outputs: Outputs = network(x, parts, index=index) if isinstance(network, Composed) else network(x, parts)
    return outputs


class InOrder(nn.Module):
    """``network`` for who shows it all that it has studied, in order, and does not count."""

    def __init__(self, network: Composed) -> None:
        super().__init__()
        self.network, self.seen = network, 0

    def forward(self, x: Tensor) -> Outputs:
        index = torch.arange(self.seen, self.seen + len(x), device=x.device)
        self.seen += len(x)
        outputs: Outputs = self.network(x, index=index)
        return outputs
