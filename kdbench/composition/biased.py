"""A biased teacher: another one, whose probabilities change hands among the classes by a rule.

Yuan et al. (NeurIPS 2023, arXiv:2302.08155) train teachers that are wrong and teach well, by a loss that punishes a
right answer, compensates where the true class has left the k likeliest, and fills their other places with labels at
random. This is a reconstruction of what such a teacher says, and not of its training, whose formulas we have not seen:
the rules are applied to what a good teacher says, so that a suite sets unreliability and ambiguity directly.

Which images a rule takes, and the classes it draws, depend on ``seed`` and the image's place in its split, and not on
how it is augmented; who is likeliest is what the teacher under it says of the batch, as the paper's loss has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from kdbench.composition.base import Composition

if TYPE_CHECKING:
    from torch import Tensor

    from kdbench.models.composed import Told

#: Of the generator splitmix64 (Steele, Lea and Flood, OOPSLA 2014), as signed numbers.
_GOLDEN, _FIRST, _SECOND = (number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True)
class Biased(Composition):
    """Rules, in this order, each on its share of the images; ``top_k`` classes count as the likely ones.

    ``random_labels``: the classes beside the true one are dealt anew at random. ``compensation``: a true class beneath
    place ``top_k`` gets that place. ``punishment``: a true class in the first place changes with the second.
    ``unreliability``: the true class gets the last place. ``noise``: the deviation of what is added to each
    probability, normal, before they are scaled to 1 again.
    """

    SUMMARY: ClassVar[str] = "another teacher, whose probabilities change hands by a rule"
    SOURCE: ClassVar[str] = "arXiv:2302.08155"
    RECONSTRUCTION: ClassVar[bool] = True
    PARTS: ClassVar[tuple[int, int]] = (1, 1)
    kind: str = field(init=False, default="biased")
    top_k: int = 5
    random_labels: float = 0.0
    compensation: float = 0.0
    punishment: float = 0.0
    unreliability: float = 0.0
    noise: float = 0.0
    seed: int = 0

    def problem(self) -> str:
        rules = ("random_labels", "compensation", "punishment", "unreliability")
        for name in rules:
            if not 0 <= getattr(self, name) <= 1:
                return f"{name} is a share of the images and must lie in [0, 1], not be {getattr(self, name):g}"
        if self.noise < 0 or self.top_k < 1 or self.seed < 0:
            return "noise and seed must be at least 0, and top_k at least 1"
        if not self.noise and not any(getattr(self, name) for name in rules):
            return f"it changes nothing; give one of {', '.join(rules)} or noise"
        return ""

    def speak(self, said: Sequence[Tensor], told: Told) -> Tensor:
        import torch

        (logits,) = said
        classes = logits.shape[1]
        values, order = logits.sort(dim=1, descending=True, stable=True)
        y = told.labels[:, None]
        place = torch.arange(classes, device=logits.device)

        def chosen(rule: str, share: float) -> Tensor:
            return self._draws(rule, told, 1) < share

        def at(order: Tensor) -> Tensor:
            """The place [N,1] of the true class."""
            return (order == y).int().argmax(1, keepdim=True)

        if self.random_labels:
            keys = self._draws("order", told, classes).scatter(1, y, 2.0)  # the true class comes last
            others, here = keys.argsort(dim=1, stable=True), at(order)
            dealt = others.gather(1, (place - (place > here).long()).clamp(min=0)).scatter(1, here, y)
            order = torch.where(chosen("random", self.random_labels), dealt, order)
        if self.compensation:
            here, last = at(order), min(self.top_k, classes) - 1
            order = torch.where(
                chosen("compensation", self.compensation) & (here > last), _swapped(order, here, last), order
            )
        if self.punishment and classes > 1:
            here = at(order)
            order = torch.where(chosen("punishment", self.punishment) & (here == 0), _swapped(order, here, 1), order)
        if self.unreliability:
            moved = _swapped(order, at(order), classes - 1)
            order = torch.where(chosen("unreliability", self.unreliability), moved, order)
        changed = torch.empty_like(values).scatter(1, order, values)
        return self._noisy(changed, told) if self.noise else changed

    def _noisy(self, logits: Tensor, told: Told) -> Tensor:
        import torch

        u, v = self._draws("noise", told, 2 * logits.shape[1]).clamp(min=2.0**-53).chunk(2, dim=1)
        normal = torch.sqrt(-2 * torch.log(u)) * torch.cos(2 * torch.pi * v)
        p = torch.softmax(logits.double(), 1) + self.noise * normal
        p = p.clamp(min=1e-6)
        return torch.log(p / p.sum(1, keepdim=True)).to(logits.dtype)

    def _draws(self, purpose: str, told: Told, each: int) -> Tensor:
        """Numbers [N, each] in [0, 1), of the seed, the purpose, the split and the place of an image alone.

        Float64 from whole numbers, so that they are the same on every machine.
        """
        import torch

        start = hashlib.sha256(f"kdbench biased {purpose} {told.split} {self.seed}".encode()).digest()
        count = told.places[:, None] * each + torch.arange(1, each + 1, device=told.places.device)
        z = int.from_bytes(start[:8], "little", signed=True) + count * _GOLDEN
        z = (z ^ _shifted(z, 30)) * _FIRST
        z = (z ^ _shifted(z, 27)) * _SECOND
        return _shifted(z ^ _shifted(z, 31), 11).double() * 2.0**-53


def _shifted(z: Tensor, bits: int) -> Tensor:
    """``z`` [...] int64 shifted to the right as if it had no sign."""
    return (z >> bits) & (2 ** (64 - bits) - 1)


def _swapped(order: Tensor, here: Tensor, there: int) -> Tensor:
    """``order`` [N,K] with what is at ``here`` [N,1] and at ``there`` in each other's place."""
    one, other = order.gather(1, here), order[:, there : there + 1]
    swapped = order.scatter(1, here, other)
    swapped[:, there : there + 1] = one
    return swapped
