"""Stages of two networks side by side: what the methods that compare them one by one share."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kdbench.errors import UserError
from kdbench.methods.base import full
from kdbench.models.outputs import NetworkSpec


def check_paired(method: str, student: NetworkSpec, teacher: NetworkSpec) -> None:
    """UserError unless both networks have equally many stages."""
    if len(student.stages) != len(teacher.stages):
        raise UserError(
            f"{method}: {student.name} has {len(student.stages)} stages and {teacher.name} has {len(teacher.stages)}; "
            "they are compared one by one, so choose networks with equally many."
        )


def match_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [N,C,H,W] of two networks in full precision, the larger averaged down to the smaller's height and width."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return _fitted(full(a), size), _fitted(full(b), size)


def _fitted(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[2:] == size else shrink(maps, size)


def shrink(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average maps [N,C,H,W] down to ``size``.

    Where it divides H and W, as on all published pairs, the pooling's gradient is deterministic on CUDA too.
    """
    (height, width), (h, w) = maps.shape[2:], size
    if height % h or width % w:
        return F.adaptive_avg_pool2d(maps, size)
    return F.avg_pool2d(maps, (height // h, width // w))
