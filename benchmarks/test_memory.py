"""The most memory that a loss holds at a time, forward and backward, against the tensors that it must do without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from report import Report
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from kdbench.methods.zoo.nst import mean_discrepancy
from kdbench.methods.zoo.rkd import angle_loss, distance_loss

MIB = 2**20
FLOAT = 4


def _peak(loss: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> int:
    """Bytes that torch's allocator holds at most while ``loss`` of two inputs and its gradient are made, without them.

    The profiler's own record of each allocation on the CPU: what a kernel takes and frees within itself is part of it.
    """
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(shape, generator=generator, requires_grad=True)
    teacher = torch.randn(shape, generator=generator)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        torch.autograd.grad(loss(student, teacher), student)
    recorded = seen.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted((e for e in recorded if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _compare(report: Report, loss: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...], naive: int) -> float:
    """The share of ``naive`` bytes that ``loss`` holds."""
    torch.set_num_threads(1)
    peak = report.benchmark.pedantic(_peak, args=(loss, shape), rounds=1)
    report.add("peak", peak, f"{peak / MIB:.1f} MiB, {peak / naive:.4f} x {naive / MIB:.0f} MiB")
    return peak / naive


@pytest.mark.parametrize(("batch", "limit"), [(256, 1 / 2), (512, 1 / 16)])
def test_rkd_without_the_cube_of_the_batch(report: Report, batch: int, limit: float) -> None:
    """B^3 angles; the limits leave no room for growth between the two batches."""

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return distance_loss(student, teacher) + angle_loss(student, teacher)

    assert _compare(report, loss, (batch, 256), FLOAT * batch**3) <= limit


def test_nst_without_products_of_whole_channels(report: Report) -> None:
    """C^2 H W for each sample, where every two channels are multiplied position by position."""
    batch, channels, side = 64, 256, 16
    naive = FLOAT * batch * channels**2 * side**2
    assert _compare(report, mean_discrepancy, (batch, channels, side, side), naive) <= 1 / 32
