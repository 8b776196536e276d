"""A generalist and specialists, as Hinton, Vinyals and Dean have them (arXiv:1503.02531, section 5).

Each specialist knows a set S of classes that the generalist confuses, and one class more, the dustbin, for all others.
The whole says q, which minimises KL(p_g || q) + the sum of KL(p_m || q) over the specialists m whose set holds one of
the generalist's likeliest classes; there q has as many classes as m has, as those outside S are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from kdbench.composition.base import Composition
from kdbench.data.splits import philox

if TYPE_CHECKING:
    from torch import Tensor

#: Passes over the classes while they are grouped.
PASSES = 20
#: Steps to the minimum. The first one is exact where one specialist speaks.
STEPS = 64


@dataclass(frozen=True)
class Specialists(Composition):
    """``count`` specialists at most; the ``likeliest`` classes of the generalist say which of them speak."""

    SUMMARY: ClassVar[str] = "a generalist, and specialists for the classes that it confuses"
    SOURCE: ClassVar[str] = "arXiv:1503.02531"
    PARTS: ClassVar[tuple[int, int]] = (1, 1)
    MAKER: ClassVar[str] = "kdbench.teachers.specialists:SpecialistsMaker"
    #: 2: classes are grouped by which others they vary with, and not by how much each varies by itself.
    VERSION: ClassVar[int] = 2
    kind: str = field(init=False, default="specialists")
    count: int = 0
    likeliest: int = 1

    def problem(self) -> str:
        if self.count < 1:
            return "count must be at least 1: so many specialists are trained"
        return "" if self.likeliest >= 1 else "likeliest must be at least 1"

    def networks(self) -> int:
        return self.count


def clusters(covariance: NDArray[np.float64], count: int, seed: int) -> NDArray[np.bool_]:
    """At most ``count`` sets [M,K] of classes whose columns of ``covariance`` [K,K] point the same way.

    The paper groups "the columns of the covariance matrix" and does not say how they are scaled. As they are, each is
    far from all others by its own variance, and sets of one class are cut off a set of all the rest (95 of 100 classes
    of CIFAR-100); so the variance is left out, and each column is of length 1.

    MacQueen's k-means: it takes the columns one by one, in an order that ``seed`` draws anew for each pass, and moves
    the nearest centre towards each. The first centre is a column that is drawn, and each further one that which is
    farthest from those before. Each class is in one set; a centre that ends with none is left out.
    """
    columns = np.where(np.eye(len(covariance), dtype=bool), 0.0, covariance).T
    columns = columns / np.maximum(np.linalg.norm(columns, axis=1, keepdims=True), np.finfo(float).tiny)
    words = philox("clusters", seed)
    centres = columns[[int(words.random_raw() % len(columns))]]
    while len(centres) < min(count, len(columns)):
        nearest_centre = ((columns[None] - centres[:, None]) ** 2).sum(2).min(0)
        centres = np.concatenate([centres, columns[[int(nearest_centre.argmax())]]])
    held = np.ones(len(centres))
    for _ in range(PASSES):
        for label in np.argsort(words.random_raw(len(columns)), kind="stable"):
            nearest = int(((centres - columns[label]) ** 2).sum(1).argmin())
            held[nearest] += 1
            centres[nearest] += (columns[label] - centres[nearest]) / held[nearest]
    distances = ((columns[None] - centres[:, None]) ** 2).sum(2)
    members = distances.argmin(0)[None] == np.arange(len(centres))[:, None]
    return members[members.any(1)]


def dustbin_correction(special: int, others: int) -> float:
    """What the dustbin's logit lacks after a training on as many images of the special classes as of the others.

    Of each there are so many in the data: the log of the proportion by which the special ones were seen more often.
    """
    return float(np.log(others / special))


def joint_logits(
    generalist: Tensor, specialists: Sequence[Tensor], lacking: Tensor, members: Tensor, likeliest: int
) -> Tensor:
    """The logits [N,K] of q, from those of the generalist [N,K] and of each specialist [N,|S|+1], the dustbin's last.

    ``lacking`` [M] is added to the dustbins', and ``members`` [M,K] are the sets, which have no class in common. The
    sum of divergences is convex in q, and each step is one of expectation and maximisation: what a dustbin holds is
    dealt to its classes in proportion to q. In float64.
    """
    import torch

    p = torch.softmax(generalist.double(), 1)
    top = p.topk(min(likeliest, p.shape[1]), 1).indices
    speaks = [members[m][top].any(1)[:, None] for m in range(len(members))]
    total = 1 + sum(each.double() for each in speaks)
    whole = [torch.cat([z[:, :-1], z[:, -1:] + more], 1) for z, more in zip(specialists, lacking, strict=True)]
    opinions = [torch.softmax(logits.double(), 1) for logits in whole]
    q = p
    for _ in range(STEPS if likeliest > 1 else 1):
        w = p
        for own, speaking, said in zip(members, speaks, opinions, strict=True):
            rest = q * ~own
            shared = rest / rest.sum(1, keepdim=True).clamp(min=torch.finfo(q.dtype).tiny) * said[:, -1:]
            w = w + speaking * shared.index_copy(1, own.nonzero()[:, 0], said[:, :-1])
        q = w / total
    return torch.log(q.clamp(min=torch.finfo(torch.float32).tiny)).to(generalist.dtype)
