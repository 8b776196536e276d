"""The learning rate: where each schedule begins, bends and ends."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdbench.protocol import Protocol
from kdbench.train.rate import learning_rate

PER_EPOCH = 7


def rates(**fields: object) -> list[float]:
    protocol = Protocol(**{"epochs": 10, "batch": 64, "lr": 0.1, **fields})  # type: ignore[arg-type]
    return [learning_rate(protocol, step, PER_EPOCH) for step in range(protocol.epochs * PER_EPOCH)]


def test_a_milestone_is_the_last_epoch_before_the_rate_falls() -> None:
    by_epoch = rates(schedule="multistep", milestones=(3, 5), factor=0.1)[::PER_EPOCH]
    assert by_epoch == pytest.approx([0.1] * 3 + [0.01] * 2 + [0.001] * 5)
    assert by_epoch[2] == 0.1  # exactly: no rounding before the first milestone


def test_multistep_changes_at_epoch_boundaries_only() -> None:
    found = rates(schedule="multistep", milestones=(3,))
    assert [i for i in range(1, len(found)) if found[i] != found[i - 1]] == [3 * PER_EPOCH]


def test_multistep_is_the_schedule_of_torch() -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones=[3, 5], gamma=0.1)
    expected = []
    for _ in range(10):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        reference.step()
    assert rates(schedule="multistep", milestones=(3, 5))[::PER_EPOCH] == pytest.approx(expected)


def test_constant() -> None:
    assert set(rates(schedule="constant")) == {0.1}


def test_cosine_falls_from_the_peak_towards_zero_by_its_formula() -> None:
    found = rates(schedule="cosine")
    assert found[0] == 0.1
    assert found[35] == pytest.approx(0.05)
    assert 0 < found[-1] < 1e-4
    assert found == sorted(found, reverse=True)


def test_onecycle_rises_linearly_and_falls_by_a_cosine() -> None:
    found = rates(schedule="onecycle", warm_up=0.3)
    peak = 21
    assert found[0] == pytest.approx(0.1 / 25)
    assert found[peak] == max(found) == 0.1
    rise = [after - before for before, after in pairwise(found[: peak + 1])]
    assert rise == pytest.approx([rise[0]] * peak)
    low = 0.1 / 25 / 1e4
    assert found[-1] == pytest.approx(low, rel=1e-6)
    middle = (peak + 69) // 2
    assert found[middle] == pytest.approx(low + (0.1 - low) * (1 + math.cos(math.pi * 24 / 48)) / 2)
    assert found[peak:] == sorted(found[peak:], reverse=True)


def test_onecycle_has_the_end_points_of_torch() -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=70, cycle_momentum=False)
    expected = []
    for _ in range(70):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        reference.step() if len(expected) < 70 else None
    found = rates(schedule="onecycle")
    assert (found[0], max(found), found[-1]) == pytest.approx((expected[0], max(expected), expected[-1]))


def test_onecycle_without_warm_up_begins_at_the_peak() -> None:
    assert rates(schedule="onecycle", warm_up=0.0)[0] == 0.1


@given(
    st.sampled_from(["constant", "multistep", "onecycle", "cosine"]),
    st.integers(1, 4),
    st.integers(1, 6),
    st.floats(0, 0.99),
)
def test_the_rate_is_positive_and_never_above_the_peak(
    schedule: str, epochs: int, per_epoch: int, warm_up: float
) -> None:
    protocol = Protocol(epochs=epochs, batch=2, lr=0.1, schedule=schedule, milestones=(1, 2), warm_up=warm_up)
    found = [learning_rate(protocol, step, per_epoch) for step in range(epochs * per_epoch)]
    assert all(0 < rate <= 0.1 * (1 + 1e-12) for rate in found)
