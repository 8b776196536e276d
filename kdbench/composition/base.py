"""What a composition is: how a teacher is made of other teachers, its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kdbench.kinds import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from kdbench.models.composed import Told


@dataclass(frozen=True)
class Composition(Kind):
    """Base of the kinds of teacher that are made of other teachers, as a frozen dataclass of a suite's fields.

    ``PARTS``: how few and how many teachers it takes, none for one that its MAKER alone makes. It speaks in logits
    alone, so a method that asks for features is not applicable under it.
    """

    PARTS: ClassVar[tuple[int, int]] = (1, 64)
    #: ``module:Class`` of what trains networks of its own (kdbench.teachers.making), under the seed and the protocol of
    #: the teacher's table. Its parts are then networks, and not made of others.
    MAKER: ClassVar[str] = ""

    def networks(self) -> int:
        """How many networks, each as large as its first part, are trained for it."""
        return 0

    def speak(self, said: Sequence[Tensor], told: Told) -> Tensor:
        """The logits [N,K] of the whole, from those of each part [N,K] and what is ``told`` of the images.

        Part of every student's numbers: it depends on its arguments and on the fields alone.
        """
        raise TypeError(f"{type(self).__name__} does not define speak(said, told)")
