"""Losses and gradients against values computed once from the published implementations (goldens/methods/index.json)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from steps import build, make_step
from torch import Tensor

from kdbench.methods import METHODS, leaves
from kdbench.models.outputs import Outputs

FOLDER = Path(__file__).parent / "goldens" / "methods"
INDEX = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
CASES = [case for case in INDEX if "adapter" not in case]
#: The others name what runs them: test_method_goldens_*.py, test_methods_two_views.py and test_tekap_f.py.
ADAPTERS = {"", "logit", "relation", "feature", "part", "views", "correlation", "tekap_f"}
#: Methods that kdbench does not have yet and whose published implementations gave reference values, too.
AWAITED = {
    *("ae_kd", "angular_kd", "ca_mkd", "cs_kd", "cskd_vit", "deepkd_loss", "deepkd_opt", "deit_hard", "deit_soft"),
    *("dgkd", "diffkd", "dtkd", "ea_kd", "fcfd", "gkl", "ikl", "manifold", "mgd", "normkd", "pefd", "pld", "ps_kd"),
    *("rsd", "skd_streamlined", "spherical_kd", "taid", "takd", "vkd"),
}
#: Methods that no published implementation gave values of: cross-entropy alone, an optimiser, two without code that
#: could be run, and one that a study is made of.
WITHOUT = {"ce", "dot", "ijckd", "ipwd", "kd_renyi"}
#: Where the published implementations keep FitNet's regressor, and where kdbench does.
PARAMETERS = {"conv_reg.conv": "regressor.0", "conv_reg.bn": "regressor.1"}


def _ours(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    return f"{PARAMETERS[module]}.{leaf}"


def _outputs(inputs: dict[str, Tensor], side: str) -> Outputs:
    """The Outputs of one side, ``s`` or ``t``; parts that the golden lacks are zero."""
    n = len(next(iter(inputs.values())))
    numbers = sorted(int(key.removeprefix(f"f{side}")) for key in inputs if key.startswith(f"f{side}"))
    stages = tuple(inputs.get(f"f{side}{i}", torch.zeros(n, 1, 8, 8)) for i in range(1, max(numbers, default=0) + 1))
    logits = inputs.get(f"logit_{side}", torch.zeros(n, 10, dtype=torch.float64))
    return Outputs(logits, stages=stages, pooled=inputs.get(f"p{side}", torch.zeros(n, 1, dtype=torch.float64)))


def _close(got: Tensor, want: np.ndarray) -> None:
    """Equal to 1e-7 of the largest entry; the floor is for gradients zero in theory (a bias before batch norm)."""
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=1e-7 * np.abs(want).max() + 1e-15)


COVERED = {leaf.name for case in INDEX for leaf in leaves(METHODS.get(case["method"]))}


@pytest.mark.parametrize("name", sorted(AWAITED))
def test_a_method_that_is_awaited_comes_with_its_golden(name):
    if name not in METHODS:
        pytest.skip(f"kdbench has no method {name!r} yet")
    assert name in COVERED


def test_every_method_that_was_published_as_code_has_a_golden_and_every_golden_is_run():
    assert set(METHODS) - COVERED == WITHOUT, "these need a golden, or a place among those without"
    files = sorted(path.name for path in FOLDER.glob("*.npz"))
    assert sorted(case["file"] for case in INDEX) == files
    assert len({case["id"] for case in INDEX}) == len(INDEX)
    assert {case.get("adapter", "") for case in INDEX} <= ADAPTERS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_loss_and_gradients_agree_with_the_published_implementation(case):
    with np.load(FOLDER / case["file"]) as file:
        golden = dict(file)
    inputs = {key[3:]: torch.from_numpy(value) for key, value in golden.items() if key.startswith("in/")}
    graded = {key[5:]: inputs[key[5:]].requires_grad_() for key in golden if key.startswith("grad/")}
    student, teacher = _outputs(inputs, "s"), _outputs(inputs, "t")
    method = build(case["method"], student, teacher, **case["hyperparameters"])
    initial = {key: value for key, value in golden.items() if key.startswith(("param/", "buffer/"))}
    method.load_state_dict({_ours(key.split("/")[1]): torch.from_numpy(value) for key, value in initial.items()})

    terms = method.loss(make_step(student, teacher, inputs.get("target")))
    loss = sum(value for term, value in terms.items() if METHODS.get(case["method"]).terms[term] == "distill")
    loss.backward()

    assert loss.item() == pytest.approx(float(golden["out/loss"]), rel=1e-9)
    for key, leaf in graded.items():
        _close(leaf.grad, golden[f"grad/{key}"])
    after = method.state_dict()
    parameters = dict(method.named_parameters())
    for key, want in golden.items():
        if key.startswith("grad_param/"):
            _close(parameters[_ours(key.removeprefix("grad_param/"))].grad, want)
        if key.startswith("buffer_after/"):
            _close(after[_ours(key.removeprefix("buffer_after/"))], want)
