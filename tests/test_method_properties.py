"""Identities and invariances of the losses, over random logits, temperatures and class counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import TEACHER_WIDTHS, fake_outputs, rng, run
from torch import Tensor
from torch.nn import functional as F

from kdbench.errors import UserError
from kdbench.methods.zoo.at import attention_loss
from kdbench.methods.zoo.dist import correlation_gaps, pearson
from kdbench.methods.zoo.dkd import decoupled_kl
from kdbench.methods.zoo.fitnet import regressor
from kdbench.methods.zoo.kd import kd_loss
from kdbench.methods.zoo.rkd import angle_loss, distance_loss
from kdbench.methods.zoo.ttm import ttm_loss
from kdbench.methods.zoo.wttm import power_sum, wttm_loss
from kdbench.models.outputs import Outputs

quick = settings(max_examples=25)
seeds = st.integers(0, 2**16)
temperatures = st.floats(1.25, 20)


@st.composite
def logit_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits, teacher logits and labels of a random batch in float64."""
    n, classes = draw(st.integers(1, 6)), draw(st.integers(2, 30))
    generator = rng(draw(seeds))
    z, v = (draw(st.floats(0.1, 30)) * torch.randn(n, classes, generator=generator).double() for _ in range(2))
    return z, v, torch.randint(classes, (n,), generator=generator)


def same(a: Tensor, b: Tensor, rel: float = 1e-9, floor: float = 1e-11) -> None:
    torch.testing.assert_close(a, b, rtol=rel, atol=floor)


@quick
@given(logit_pairs(), temperatures)
def test_ttm_is_kd_plus_a_renyi_entropy(batch, t):
    z, v, _ = batch
    renyi = (F.log_softmax(z, 1) / t).logsumexp(1) / (1 - 1 / t)
    p = F.softmax(v / t, 1)
    shannon = -(p * F.log_softmax(v / t, 1)).sum(1)
    same(ttm_loss(z, v, 1 / t), kd_loss(z, v, t) / t - (t - 1) * (renyi - shannon).mean(), floor=1e-9)


@quick
@given(logit_pairs())
def test_gamma_one_reduces_ttm_and_wttm_to_the_plain_divergence(batch):
    z, v, _ = batch
    same(power_sum(v, 1.0), torch.ones(len(v)).double())
    same(wttm_loss(z, v, 1.0), kd_loss(z, v, 1.0))
    same(ttm_loss(z, v, 1.0), kd_loss(z, v, 1.0))


@quick
@given(logit_pairs(), st.floats(0.05, 1))
def test_wttm_weighs_each_sample_by_the_power_sum(batch, gamma):
    z, v, _ = batch
    one_by_one = torch.stack([ttm_loss(z[i : i + 1], v[i : i + 1], gamma) for i in range(len(z))])
    same(wttm_loss(z, v, gamma), (power_sum(v, gamma) * one_by_one).mean())


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("classes", [2, 100, 1000])
def test_power_sum_is_one_for_a_certain_teacher_and_largest_for_a_uniform_one(gamma, classes):
    certain = torch.full((1, classes), -1e4)
    certain[0, 1] = 1e4
    assert power_sum(certain, gamma).item() == 1
    assert power_sum(torch.zeros(1, classes), gamma).item() == pytest.approx(classes ** (1 - gamma), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("std", [6.0, 12.0])
def test_half_precision_logits_lose_no_underflowing_probability(dtype, std):
    z, v = ((std * torch.randn(64, 100, generator=rng(seed))).to(dtype) for seed in (1, 2))
    assert wttm_loss(z, v, 0.1).item() == pytest.approx(wttm_loss(z.double(), v.double(), 0.1).item(), rel=1e-5)


@quick
@given(logit_pairs(), temperatures)
def test_dkd_parts_add_up_to_kd(batch, t):
    z, v, y = batch
    tckd, nckd = decoupled_kl(z, v, y, t)
    others = 1 - F.softmax(v / t, 1).gather(1, y[:, None])[:, 0]
    same(t**2 * (tckd + others * nckd).mean(), kd_loss(z, v, t), floor=1e-9)


def test_dkd_distills_half_as_hard_half_way_through_its_warm_up():
    student, teacher = fake_outputs(1), fake_outputs(2, widths=TEACHER_WIDTHS)
    half, whole = (run("dkd", student, teacher, epoch=epoch) for epoch in (10, 20))
    for term, factor in (("ce", 1.0), ("tckd", 0.5), ("nckd", 0.5)):
        same(half[term], factor * whole[term])


def test_pearson_is_the_correlation():
    a, b = torch.randn(5, 40, generator=rng(1)).double(), torch.randn(5, 40, generator=rng(2)).double()
    want = [np.corrcoef(x, y)[0, 1] for x, y in zip(a.numpy(), (a + b).numpy(), strict=True)]
    np.testing.assert_allclose(pearson(a, a + b).numpy(), want, rtol=1e-7)


@quick
@given(logit_pairs(), st.floats(0.5, 8))
def test_dist_ignores_a_shift_of_a_sample_and_a_batch_of_one_has_no_intra_gradient(batch, tau):
    z, v, _ = batch
    shift = torch.randn(len(z), 1, generator=rng(3)).double() * 10
    for moved, plain in zip(correlation_gaps(z + shift, v, tau), correlation_gaps(z, v, tau), strict=True):
        same(moved, plain, floor=1e-7)
    one = z[:1].clone().requires_grad_()
    intra = correlation_gaps(one, v[:1], tau)[1]
    intra.backward()
    assert intra.item() == pytest.approx(tau**2)
    assert (one.grad == 0).all()


def test_dist_gives_no_exploding_gradient_to_a_student_that_starts_at_zero():
    z = torch.zeros(16, 100, requires_grad=True)
    sum(correlation_gaps(z, torch.randn(16, 100, generator=rng(1)), 1.0)).backward()
    assert z.grad.abs().max() < 1


@quick
@given(seeds, st.floats(0.1, 10))
def test_rkd_ignores_rotation_shift_and_scale(seed, scale):
    e, t = torch.randn(5, 7, generator=rng(seed)).double(), torch.randn(5, 4, generator=rng(seed + 1)).double()
    rotation, _ = torch.linalg.qr(torch.randn(7, 7, generator=rng(seed + 2)).double())
    moved = scale * e @ rotation + torch.randn(7, generator=rng(seed + 3)).double()
    for loss in (distance_loss, angle_loss):
        same(loss(moved, t), loss(e, t), rel=1e-6)
        assert loss(moved, e).item() == pytest.approx(0, abs=1e-12)


def test_rkd_angles_in_turns_give_the_same_loss_and_gradient_in_bounded_memory():
    student = torch.randn(24, 7, generator=rng(1)).double().requires_grad_()
    teacher = torch.randn(24, 5, generator=rng(2)).double()
    chunk = 5 * 24 * 24
    stored: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        stored.append(tensor.numel())
        return tensor

    whole = angle_loss(student, teacher)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        turns = angle_loss(student, teacher, at_once=chunk, turn=chunk)
    assert max(stored, default=0) < chunk
    same(turns, whole)
    same(*(torch.autograd.grad(loss, student)[0] for loss in (turns, whole)))


@quick
@given(seeds, st.floats(0.01, 100), st.sampled_from(["official", "paper"]), st.sampled_from([1, 2, 4]))
def test_at_ignores_the_scale_of_a_map_and_its_number_of_channels(seed, scale, variant, p):
    student = torch.randn(3, 5, 4, 4, generator=rng(seed)).double()
    teacher = torch.randn(3, 9, 4, 4, generator=rng(seed + 1)).double()
    same(attention_loss(scale * student, teacher, p, variant), attention_loss(student, teacher, p, variant))
    doubled = torch.cat([student, -student], dim=1)
    assert attention_loss(doubled, student, p, variant).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("larger", "smaller"), [((8, 8), (4, 4)), ((7, 9), (3, 4))])
def test_at_pools_whichever_map_is_larger(larger, smaller):
    big, small = (torch.randn(2, 3, *size, generator=rng(sum(size))).double() for size in (larger, smaller))
    pooled = F.adaptive_avg_pool2d(big, smaller)
    same(attention_loss(big, small), attention_loss(pooled, small))
    same(attention_loss(small, big), attention_loss(small, pooled))


@pytest.mark.parametrize("teacher_size", [4, 8, 16, 5])
def test_fitnet_regressor_reaches_the_teachers_shape(teacher_size):
    made = regressor((3, 8, 8), (7, teacher_size, teacher_size))
    assert made(torch.zeros(2, 3, 8, 8)).shape == (2, 7, teacher_size, teacher_size)


def test_fitnet_says_what_does_not_fit():
    student, teacher = fake_outputs(1), fake_outputs(2, widths=TEACHER_WIDTHS)
    with pytest.raises(UserError, match="3 stages; hint_layer 4 is beyond them"):
        run("fitnet", student, teacher, hint_layer=4)
    with pytest.raises(UserError, match="8x8 map to the teacher's 9x9; choose another hint_layer"):
        regressor((3, 8, 8), (7, 9, 9))


def test_at_says_that_the_stages_do_not_pair_up():
    student, teacher = fake_outputs(1), fake_outputs(2, widths=TEACHER_WIDTHS)
    with pytest.raises(UserError, match="student has 2 stages and teacher has 3"):
        run("at", Outputs(student.logits, stages=student.stages[:2], pooled=student.pooled), teacher)


@pytest.mark.parametrize(
    ("name", "weights"),
    [("kd", {"ce": 0.1}), ("ttm", {"ce": 1}), ("wttm", {"ce": 1}), ("dkd", {"ce": 1}), ("rkd", {"ce": 1})],
)
def test_cross_entropy_has_its_published_weight(name, weights):
    student, teacher = fake_outputs(1), fake_outputs(2, widths=TEACHER_WIDTHS)
    y = torch.arange(8)
    p_y = student.logits.softmax(1)[y, y]
    want = weights["ce"] * -math.fsum(p_y.log().tolist()) / 8
    assert run(name, student, teacher, y)["ce"].item() == pytest.approx(want)
