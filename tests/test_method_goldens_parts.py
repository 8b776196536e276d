"""Goldens of one part of a method's loss (a single stage, one embedding): against the function that computes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from steps import build, make_step
from test_method_goldens import FOLDER, INDEX
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.zoo.at import attention_loss
from kdbench.methods.zoo.cc import neighbour_loss
from kdbench.methods.zoo.nst import mean_discrepancy
from kdbench.methods.zoo.rkd import angle_loss, distance_loss
from kdbench.models.outputs import Outputs

CASES = [case for case in INDEX if case.get("adapter") == "part"]


def _rkd_of_unit_vectors(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = F.normalize(student), F.normalize(teacher)
    return 25 * distance_loss(s, t) + 50 * angle_loss(s, t)


def _hint_without_regressor(student: Tensor, teacher: Tensor) -> Tensor:
    logits = torch.zeros(len(student), 10).double()
    sides = [Outputs(logits, stages=(maps,), pooled=maps.mean((2, 3))) for maps in (student, teacher)]
    method = build("fitnet", *sides, hint_layer=1, weight=1.0)
    method.regressor = nn.Identity()
    return method.loss(make_step(*sides))["hint"]


#: Method -> the function, and the names of its two inputs.
PARTS = {
    "at": (attention_loss, "fs2", "ft2"),
    "nst": (mean_discrepancy, "fs3", "ft3"),
    "rkd": (_rkd_of_unit_vectors, "ps", "pt"),
    "cc": (neighbour_loss, "ps", "pt"),
    "fitnet": (_hint_without_regressor, "fs2", "ft2"),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_value_and_gradient_agree_with_the_published_implementation(case):
    with np.load(FOLDER / case["file"]) as file:
        golden = dict(file)
    part, *names = PARTS[case["method"]]
    student, teacher = (torch.from_numpy(golden[f"in/{name}"]) for name in names)
    student.requires_grad_()
    loss = part(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(float(golden["out/loss"]), rel=1e-9)
    want = golden[f"grad/{names[0]}"]
    np.testing.assert_allclose(student.grad.numpy(), want, rtol=0, atol=1e-7 * np.abs(want).max() + 1e-15)
