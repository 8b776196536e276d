"""IJCKD: its loss computed again from the written formula, and what ties it to SimKD and to its classifier."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import TEACHER_WIDTHS, build, fake_network, fake_outputs, make_step, rng, run
from torch import Tensor, nn

from kdbench.methods import METHODS
from kdbench.methods.base import Method
from kdbench.models.outputs import Outputs

SIDES = [(2, 2), (4, 2), (2, 4), (1, 3)]
quick = settings(max_examples=20)
seeds = st.integers(0, 2**16)
sides = st.sampled_from(SIDES)


def maps(seed: int, channels: int, side: int) -> Tensor:
    return torch.randn(8, channels, side, side, generator=rng(seed)).double().relu()


def pair(seed: int, own: int, taught: int) -> tuple[Outputs, Outputs]:
    """Outputs of student and teacher whose last maps have the sides ``own`` and ``taught``."""
    student, teacher = fake_outputs(seed), fake_outputs(seed + 1, widths=TEACHER_WIDTHS)
    last, pooled_map = maps(seed + 2, 8, own), maps(seed + 3, 12, taught)
    return (
        replace(student, stages=(*student.stages[:-1], last.requires_grad_())),
        replace(teacher, pooled_map=pooled_map, pooled=pooled_map.mean((2, 3))),
    )


def agreeing(teacher: Outputs, head: nn.Module) -> Outputs:
    """``teacher`` with the logits that its classifier ``head`` gives."""
    return replace(teacher, logits=head(teacher.pooled).detach())


def convolved(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """x [N,C,H,W] with weight [O,C,k,k], zeros around it, the size kept."""
    k, (h, w) = weight.shape[2], x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    return sum(
        np.einsum("nchw,oc->nohw", padded[:, :, i : i + h, j : j + w], weight[:, :, i, j])
        for i in range(k)
        for j in range(k)
    )


def projected(method: Method, x: np.ndarray) -> np.ndarray:
    """1x1 down, 3x3, 1x1 up, each followed by batch norm with the batch's statistics and ReLU."""
    state = {name: value.numpy() for name, value in method.projector.state_dict().items()}
    for conv in (0, 3, 6):
        x = convolved(x, state[f"{conv}.weight"])
        scale, shift = (state[f"{conv + 1}.{part}"][:, None, None] for part in ("weight", "bias"))
        mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
        x = np.maximum(scale * (x - mean) / np.sqrt(variance + 1e-5) + shift, 0)
    return x


def shrunk(x: np.ndarray, side: int) -> np.ndarray:
    n, c, size, _ = x.shape
    return x.reshape(n, c, side, size // side, side, size // side).mean((3, 5))


@quick
@given(seeds, sides, st.tuples(*[st.floats(0, 9)] * 3), st.sampled_from([1, 2, 5]))
def test_the_loss_is_the_written_formula(seed, size, weights, factor):
    student, teacher = pair(seed, *size)
    head = fake_network("teacher", teacher).head
    knobs = dict(zip(("ce_weight", "weight", "logit_weight"), weights, strict=True))
    method = build("ijckd", student, teacher, **knobs, factor=factor)
    for norm in (module for module in method.projector if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight, 1, generator=rng(seed))
        nn.init.normal_(norm.bias, generator=rng(seed + 1))
    step = make_step(student, teacher, teacher_head=head)
    terms = method.loss(step)

    last, target = student.stages[-1].detach().numpy(), teacher.pooled_map.numpy()
    led = projected(method, shrunk(last, min(size)))
    assert method.projector[0].weight.shape == (12 // factor, 8, 1, 1)
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    u, v = led.mean((2, 3)) @ weight.T + bias, teacher.logits.detach().numpy()
    surprise = np.log(np.exp(u).sum(1)) - u[np.arange(8), step.y.numpy()]
    want = {
        "ce": weights[0] * surprise.mean(),
        "feature": weights[1] * ((led - shrunk(target, min(size))) ** 2).mean(),
        "logit": weights[2] * ((u - v) ** 2).mean(),
    }
    assert {term: value.item() for term, value in terms.items()} == pytest.approx(want, rel=1e-9)


@quick
@given(seeds, sides)
def test_without_labels_and_logits_it_is_simkd(seed, size):
    student, teacher = pair(seed, *size)
    ours, simkd = run("ijckd", student, teacher, ce_weight=0.0, logit_weight=0.0), run("simkd", student, teacher)
    assert {term: ours[term].item() for term in simkd} == {term: value.item() for term, value in simkd.items()}
    assert ours["logit"] == 0


@quick
@given(seeds, sides)
def test_a_projection_that_is_the_teachers_map_costs_cross_entropy_alone(seed, size):
    student, teacher = pair(seed, *size)
    method, head = build("ijckd", student, teacher), fake_network("teacher", teacher).head
    led = method.projector(method.shrink(student.stages[-1])).detach()
    equal = agreeing(replace(teacher, pooled_map=led, pooled=led.mean((2, 3))), head)
    terms = method.loss(make_step(student, equal, teacher_head=head))
    assert terms["feature"] == 0
    assert terms["logit"].item() == pytest.approx(0, abs=1e-24)
    assert terms["ce"] > 0


@quick
@given(seeds, sides, st.floats(0.1, 10))
def test_the_maps_bound_the_logits_by_the_classifiers_norm(seed, size, scale):
    student, teacher = pair(seed, *size)
    method, head = build("ijckd", student, teacher), fake_network("teacher", teacher).head
    with torch.no_grad():
        head.weight.mul_(scale)
    terms = method.loss(make_step(student, agreeing(teacher, head), teacher_head=head))
    classes, channels = head.weight.shape
    bound = torch.linalg.matrix_norm(head.weight, 2).square() * channels / classes * terms["feature"]
    assert terms["logit"] <= bound * (1 + 1e-9)


@quick
@given(seeds, st.sampled_from([(2, 2), (4, 2)]))
def test_positions_matter_to_the_maps_alone(seed, size):
    student, teacher = pair(seed, *size)
    turned = replace(teacher, pooled_map=teacher.pooled_map.flip(2))
    plain, other = run("ijckd", student, teacher), run("ijckd", student, turned)
    assert plain["ce"] == other["ce"]
    assert plain["logit"] == other["logit"]
    assert not torch.isclose(plain["feature"], other["feature"], rtol=1e-6)


def test_the_students_own_classifier_has_no_part():
    student, teacher = pair(5, 2, 2)
    sum(run("ijckd", student, teacher).values()).backward()
    assert student.logits.grad is None
    assert student.stages[-1].grad.abs().max() > 0


def test_the_card_says_what_is_deployed_and_where_each_default_was_printed():
    spec = METHODS.get("ijckd")
    assert not spec.reconstruction
    assert spec.budget.deployed == METHODS.get("simkd").budget.deployed != "student"
    assert spec.config("", {}, "test") == {"ce_weight": 1.0, "weight": 1.0, "logit_weight": 1.0, "factor": 2}
    assert all("train_imagenet_distillation.py" in knob.source for knob in spec.hyperparameters.values())
