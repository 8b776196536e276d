"""Goldens of methods with connectors or with classifiers applied to maps (entries with adapter ``feature``)."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from steps import fake_network, make_step
from test_method_goldens import FOLDER, INDEX
from torch import Tensor, nn

from kdbench.methods import METHODS, load_class
from kdbench.methods.zoo.reviewkd import context_loss
from kdbench.models.outputs import DataSpec, NetworkSpec, Outputs

HCL = "hcl/reviewkd/samec"  # a part of reviewkd without parameters
CASES = [case for case in INDEX if case.get("adapter") == "feature" and case["id"] != HCL]
#: What the published implementations call their parameters, and what kdbench does; the heads stay apart.
NAMES = (
    (r"^con\.(Connectors|transfer)", "connect"),
    (r"^proj\.transfer", "projector"),
    (r"^c\.connectors", "connectors"),
    (r"^conv_reg\.conv", "project.0"),
    (r"^conv_reg\.bn", "project.1"),
    (r"^layer31", "expand"),
    (r"^d\.abfs", "fusions"),
    (r"\.conv1\.", ".narrow."),
    (r"\.conv2\.", ".widen."),
    (r"\.att_conv\.0", ".attention"),
    (r"^a\.query_(\d)\.linear1", r"queries.\1.0"),
    (r"^a\.query_(\d)\.linear2", r"queries.\1.2"),
    (r"^a\.key_(\d)\.linear1", r"keys.\1.0"),
    (r"^a\.key_(\d)\.linear2", r"keys.\1.2"),
    (r"^a\.regressor(\d)(\d)\.regressor", r"projectors.\1.\2"),
)
#: SemCKD's embeddings carry a second network that its loss does not use.
UNUSED = re.compile(r"(query|key)_\d\.regressor")
#: The terms that the golden covers, where these are not all the distilling ones; and the 1-based epoch.
TERMS = {"nd": ["nd"], "semckd": ["feature"]}
EPOCHS = {"reviewkd": 1, "norm": 31}


def _ours(name: str) -> str:
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _maps(inputs: dict[str, Tensor], side: str) -> tuple[Tensor, ...]:
    numbered = sorted(key for key in inputs if re.fullmatch(rf"f{side}\d", key))
    return tuple(inputs[key] for key in numbered or [key for key in inputs if key == f"f{side}"])


def _outputs(inputs: dict[str, Tensor], side: str, classes: int) -> Outputs:
    """The Outputs of one side, ``s`` or ``t``; what is not given is derived, and logits are zero."""
    maps = _maps(inputs, side) or (torch.zeros(*inputs[f"p{side}"].shape, 1, 1).double(),)
    pooled = inputs.get(f"p{side}", maps[-1].mean((2, 3)))
    logits = torch.zeros(len(pooled), classes).double()
    return Outputs(logits, stages=maps, preacts=maps, pooled=pooled, pooled_map=maps[-1])


def _with_head(outputs: Outputs, network: NetworkSpec) -> Outputs:
    return replace(outputs, logits=network.head(outputs.pooled.detach()).detach())


def _set(head: nn.Linear, state: dict[str, np.ndarray], name: str) -> None:
    """Load the golden's classifier ``name``; class activation maps are given as they are, the identity makes them."""
    weight, bias = state.get(f"param/{name}.weight"), state.get(f"param/{name}.bias")
    with torch.no_grad():
        head.weight.copy_(torch.eye(*head.weight.shape) if weight is None else torch.from_numpy(weight))
        head.bias.copy_(torch.zeros(len(head.bias)) if bias is None else torch.from_numpy(bias))


def _close(got: Tensor, want: np.ndarray) -> None:
    """Equal to 1e-7 of the largest entry; the floor is for gradients zero in theory (a bias before batch norm)."""
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=1e-7 * np.abs(want).max() + 1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_loss_and_gradients_agree_with_the_published_implementation(case):
    name = case["method"]
    spec = METHODS.get(name)
    with np.load(FOLDER / case["file"]) as file:
        golden = {key: value for key, value in file.items() if not UNUSED.search(key)}
    inputs = {key[3:]: torch.from_numpy(value) for key, value in golden.items() if key.startswith("in/")}
    graded = {key[5:]: inputs[key[5:]].requires_grad_() for key in golden if key.startswith("grad/")}
    classes = 32 if name == "cat_kd" else 10
    student, teacher = _outputs(inputs, "s", classes), _outputs(inputs, "t", classes)
    own, taught = fake_network("student", student), fake_network("teacher", teacher)
    _set(own.head, golden, "fc_s")
    _set(taught.head, golden, "cls_t" if "param/cls_t.weight" in golden else "fc_t")
    data = DataSpec("fake", classes, 64, (3, 8, 8), torch.arange(64) % classes, len(student.logits))
    method = load_class(spec).build(spec, spec.config("", case["hyperparameters"], "test"), own, taught, data).double()
    state = {
        _ours(key.split("/")[1]): torch.from_numpy(value)
        for key, value in golden.items()
        if key.startswith(("param/", "buffer/")) and not key.startswith(("param/cls_t", "param/fc_"))
    }
    if "margin" in inputs:
        state["margin0"] = inputs["margin"].flatten()
    if "centers" in inputs:
        state["centres"] = inputs["centers"]
    left = method.load_state_dict(state, strict=False)
    assert not left.unexpected_keys
    assert all(key.startswith("contract") for key in left.missing_keys)  # NORM's way back is no part of its loss

    step = make_step(
        _with_head(student, own),
        _with_head(teacher, taught),
        inputs.get("target"),
        epoch=EPOCHS.get(name, 120),
        teacher_head=taught.head,
    )
    terms = method.loss(step)
    distilled = TERMS.get(name, [term for term, role in spec.terms.items() if role == "distill"])
    loss = torch.stack([terms[term] for term in distilled]).sum()
    loss.backward()

    assert loss.item() == pytest.approx(float(golden.get("out/loss_kd", golden["out/loss"])), rel=1e-9)
    for key, leaf in graded.items():
        _close(leaf.grad, golden[f"grad/{key}"])
    parameters = dict(method.named_parameters()) | {f"fc_s.{key}": p for key, p in own.head.named_parameters()}
    after = method.state_dict()
    for key, want in golden.items():
        if key.startswith("grad_param/"):
            _close(parameters[_ours(key.split("/")[1])].grad, want)
        if key.startswith("buffer_after/"):
            _close(after[_ours(key.split("/")[1])], want)


def test_context_loss_agrees_with_the_published_implementation():
    case = next(case for case in INDEX if case["id"] == HCL)
    with np.load(FOLDER / case["file"]) as golden:
        student = [torch.from_numpy(golden[f"in/fs{i}"]).requires_grad_() for i in (1, 2, 3)]
        teacher = [torch.from_numpy(golden[f"in/ft{i}"]) for i in (1, 2, 3)]
        loss = torch.stack([context_loss(s, t) for s, t in zip(student, teacher, strict=True)]).sum()
        loss.backward()
        assert loss.item() == pytest.approx(float(golden["out/loss"]), rel=1e-9)
        for i, leaf in enumerate(student, start=1):
            _close(leaf.grad, golden[f"grad/fs{i}"])
