"""What every student and teacher returns, and what a method is told about a network before training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import itemgetter

from torch import Tensor, nn

#: The parts of Outputs, beside the logits, that a method may ask for in its card's ``needs``.
PARTS = frozenset({"stem", "stages", "preacts", "pooled", "pooled_map"})


@dataclass(frozen=True, slots=True)
class Outputs:
    """One forward pass; ``None`` or ``()`` where a part was not asked for.

    logits [N,K]; stem [N,C,H,W] after the stem's activation; stages: a map [N,C,H,W] after each stage's last ReLU;
    preacts: the same maps before that ReLU; pooled [N,D]: what the classifier reads; pooled_map [N,D,H,W]: the map of
    which that is the average over positions, dropout aside, ``None`` also where the network pools otherwise. It is the
    last stage, unless a convolution follows that (MobileNetV2, ShuffleNetV2).
    """

    logits: Tensor
    stem: Tensor | None = None
    stages: tuple[Tensor, ...] = ()
    preacts: tuple[Tensor, ...] = ()
    pooled: Tensor | None = None
    pooled_map: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """All that is there."""
        parts = (self.logits, self.stem, *self.stages, *self.preacts, self.pooled, self.pooled_map)
        return [part for part in parts if part is not None]

    def map(self, change: Callable[[Tensor], Tensor]) -> Outputs:
        """``change`` done to all that is there."""
        return Outputs(
            change(self.logits),
            None if self.stem is None else change(self.stem),
            tuple(change(part) for part in self.stages),
            tuple(change(part) for part in self.preacts),
            None if self.pooled is None else change(self.pooled),
            None if self.pooled_map is None else change(self.pooled_map),
        )

    def detach(self) -> Outputs:
        """The same values, cut from the graph."""
        return self.map(Tensor.detach)

    def split(self, size: int) -> list[Outputs]:
        """The Outputs of each ``size`` samples in turn."""
        return [self.map(itemgetter(slice(start, start + size))) for start in range(0, len(self.logits), size)]


Shape = tuple[int, int, int]


@dataclass(frozen=True)
class NetworkSpec:
    """A network as a method's ``build`` sees it: shapes without the batch axis, and the modules themselves.

    ``pooled_map`` is (0, 0, 0) where the network has none. ``head`` maps pooled vectors [N,D] to logits [N,K]; for a
    student it is the live module, for a teacher the frozen one.
    """

    name: str
    classes: int
    stem: Shape
    stages: tuple[Shape, ...]
    preacts: tuple[Shape, ...]
    pooled: int
    pooled_map: Shape
    head: nn.Module = field(repr=False)
    module: nn.Module = field(repr=False)


@dataclass(frozen=True)
class DataSpec:
    """The training data as a method's ``build`` sees it; ``labels`` [train_size] int64 in sample-index order.

    ``batch`` is the protocol's; the last batch of an epoch may be shorter.
    """

    name: str
    classes: int
    train_size: int
    image_shape: Shape
    labels: Tensor = field(repr=False)
    batch: int


def check_parts(parts: Iterable[str]) -> frozenset[str]:
    """Return ``parts`` as a set, or raise ValueError naming the unknown ones."""
    wanted = frozenset(parts)
    if wanted - PARTS:
        raise ValueError(f"unknown parts {sorted(wanted - PARTS)}; a network offers {sorted(PARTS)}")
    return wanted
