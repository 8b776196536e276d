"""The mathematics of the relation methods, and of those that train in phases: one property of each at least."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import TEACHER_WIDTHS, build, fake_network, fake_outputs, make_step, narrowed, rng, run, total
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from kdbench.errors import UserError
from kdbench.methods import METHODS, load_class
from kdbench.methods.base import Method
from kdbench.methods.stages import match_size
from kdbench.methods.zoo.ab import boundary_loss, connector
from kdbench.methods.zoo.cc import gaussian_kernel, neighbour_loss
from kdbench.methods.zoo.crd import contrast
from kdbench.methods.zoo.dcd import consistency
from kdbench.methods.zoo.fsp import flow
from kdbench.methods.zoo.ft import factor_loss
from kdbench.methods.zoo.itrd import correlation_loss, correlations, mutual_loss
from kdbench.methods.zoo.kdsvd import align, singular_loss, singular_vectors
from kdbench.methods.zoo.nst import mean_discrepancy
from kdbench.methods.zoo.pkt import neighbour_probabilities, transfer_loss
from kdbench.methods.zoo.sp import similarity_loss
from kdbench.methods.zoo.srd import correlation_loss as srd_correlation
from kdbench.methods.zoo.srd import difference_loss
from kdbench.methods.zoo.vid import Likelihood
from kdbench.models.outputs import DataSpec, Outputs

quick = settings(max_examples=15)
seeds = st.integers(0, 2**16)
scales = st.floats(0.1, 10)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed)).double()


def rotation(seed: int, size: int) -> Tensor:
    return torch.linalg.qr(draw(seed, size, size))[0]


def same(a: Tensor, b: Tensor, rel: float = 1e-9, floor: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=rel, atol=floor)


def pair() -> tuple[Outputs, Outputs]:
    return fake_outputs(1), fake_outputs(2, widths=TEACHER_WIDTHS)


@quick
@given(seeds, scales)
def test_sp_and_pkt_ignore_rotation_and_scale_of_the_features(seed, scale):
    e, t = draw(seed, 6, 5), draw(seed + 1, 6, 4)
    moved = scale * e @ rotation(seed + 2, 5)
    for loss in (similarity_loss, transfer_loss):
        same(loss(moved, t), loss(e, t), rel=1e-5)
        assert loss(moved, e).item() == pytest.approx(0, abs=1e-12)
        assert loss(e, t) > 0


def test_pkt_compares_distributions():
    rows = neighbour_probabilities(draw(1, 6, 5))
    same(rows.sum(dim=1), torch.ones(6).double())
    assert (rows >= 0).all()


@quick
@given(seeds, st.floats(0.05, 0.4))
def test_cc_kernel_is_a_taylor_series_of_the_gaussian(seed, gamma):
    e = draw(seed, 5, 3)
    distance = torch.cdist(F.normalize(e), F.normalize(e))
    exact = (-gamma * distance.square()).exp()
    rest = (2 * gamma) ** 3 / 6  # what is left after the order 2, at most
    assert (gaussian_kernel(e, gamma) - exact).abs().max() <= rest
    same(gaussian_kernel(e, gamma, order=20), exact, rel=1e-7)


def test_cc_needs_two_neighbours_with_a_gap_each():
    e = draw(1, 4, 3)
    t = e.clone()
    t[[0, 2]] += 1
    assert neighbour_loss(e, t) == 0
    assert neighbour_loss(e[:1], t[:1]) == 0
    t[1] -= 2
    assert neighbour_loss(e, t).item() == pytest.approx((2 * 3 + 2 * 3) / 3)


@quick
@given(seeds, st.floats(0.1, 5))
def test_vid_is_a_gaussian_likelihood_without_its_constant(seed, variance):
    model = Likelihood(3, 3, variance).double()
    model.mean = nn.Identity()
    s, t = draw(seed, 2, 3, 4, 4), draw(seed + 1, 2, 3, 4, 4)
    want = -Normal(s, variance**0.5).log_prob(t).mean() - math.log(2 * math.pi) / 2
    same(model(s, t), want, rel=1e-6)


@quick
@given(seeds, st.integers(1, 6), st.integers(1, 6), st.integers(2, 4))
def test_nst_is_the_kernels_discrepancy_however_it_is_computed(seed, c_s, c_t, side):
    student, teacher = draw(seed, 3, c_s, side, side), draw(seed + 1, 3, c_t, side, side)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        a, b = (F.normalize(maps.flatten(2), dim=2) for maps in (a, b))
        return (a[:, :, None] * b[:, None]).sum(dim=3).square().mean()

    want = kernel(teacher, teacher) + kernel(student, student) - 2 * kernel(student, teacher)
    same(mean_discrepancy(student, teacher), want, floor=1e-9)


def test_nst_makes_no_tensor_of_channels_squared_times_positions():
    made: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        made.append(tensor.numel())
        return tensor

    maps = draw(1, 2, 64, 16, 16).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        mean_discrepancy(maps, draw(2, 2, 64, 16, 16))
    assert max(made) == maps.numel()


def test_kdsvd_vectors_and_their_gradient_are_those_of_the_decomposition():
    maps = draw(1, 2, 3, 4, 5).requires_grad_()
    vectors, values = singular_vectors(maps, 4)
    _, s, v = torch.linalg.svd(maps.flatten(1, 2), full_matrices=False)
    same(values, s[:, :4])
    same(align(vectors, v.mT[:, :, :4]), v.mT[:, :, :4], rel=1e-7)
    weight = draw(2, 2, 5, 4)
    got, want = (torch.autograd.grad((found.square() * weight).sum(), maps)[0] for found in (vectors, v.mT[:, :, :4]))
    same(got, want, rel=1e-5, floor=1e-7)


def test_kdsvd_is_finite_on_equal_singular_values_and_not_on_maps_that_are_not():
    teacher = (draw(1, 2, 3, 4, 4), draw(2, 2, 3, 4, 4))
    student = tuple(torch.eye(4).double().expand(2, 3, 4, 4).clone().requires_grad_() for _ in range(2))
    loss = singular_loss(student, teacher, 1)
    loss.backward()
    assert loss > 0
    assert all(maps.grad.isfinite().all() for maps in student)
    assert singular_loss((student[0] * torch.nan, student[1]), teacher, 1).isnan()


@quick
@given(seeds)
def test_kdsvd_ignores_the_sign_of_a_map_and_vanishes_on_the_teachers_own(seed):
    student = (draw(seed, 2, 3, 4, 4), draw(seed + 1, 2, 6, 2, 2))
    teacher = (draw(seed + 2, 2, 5, 4, 4), draw(seed + 3, 2, 4, 2, 2))
    same(singular_loss((-student[0], student[1]), teacher, 1), singular_loss(student, teacher, 1), rel=1e-6)
    assert singular_loss(teacher, teacher, 1).item() == pytest.approx(0, abs=1e-12)


@quick
@given(seeds, st.floats(0.6, 2), st.integers(3, 9))
def test_itrd_measures_the_correlation_of_each_dimension(seed, alpha, n):
    s, t = draw(seed, n, 4), draw(seed + 1, n, 4)
    correlation = [np.corrcoef(a, b)[0, 1] * (n - 1) / n for a, b in zip(s.T.numpy(), t.T.numpy(), strict=True)]
    want = math.log2(sum(abs(c - 1) ** (2 * alpha) for c in correlation))
    assert correlation_loss(s, t, alpha).item() == pytest.approx(want, rel=1e-6, abs=1e-7)


@quick
@given(seeds, st.floats(-12, 6), st.integers(0, 3))
def test_itrd_and_srd_see_no_scale_however_small_and_nothing_in_a_dimension_that_is_constant(seed, exponent, dead):
    s, t = draw(seed, 6, 4), draw(seed + 1, 6, 4)
    for loss in (lambda s, t: correlation_loss(s, t, 1.01), srd_correlation):
        same(loss(10**exponent * s, t), loss(s, t))
        same(loss(s, 10**exponent * t), loss(s, t))
    s[:, dead] = 0.1
    s.requires_grad_()
    assert correlations(s, t)[dead] == 0
    correlation_loss(s, t, 1.01).backward()
    assert s.grad[:, dead].abs().max() == 0
    assert s.grad.isfinite().all()


def test_itrd_counts_no_sample_whose_embedding_is_zero():
    s, t = draw(1, 6, 5), draw(2, 6, 3)
    s[1] = t[4] = 0
    kept = torch.tensor([0, 2, 3, 5])
    own = F.normalize(s) @ F.normalize(s).mT
    both = F.cosine_similarity(s[kept][:, None], s[kept], dim=2) * F.cosine_similarity(t[kept][:, None], t[kept], dim=2)
    same(mutual_loss(s, t), own.square().sum() / 5**2 - both.square().sum() / 4**2)
    assert mutual_loss(0 * s, t) == 0


def test_itrd_shares_all_information_with_a_teacher_that_sees_every_sample_alike():
    alike = torch.tensor([[1.0], [-2.0], [3.0]]).double() * draw(1, 1, 4)
    assert mutual_loss(draw(2, 3, 5), alike).item() == pytest.approx(0, abs=1e-12)
    assert mutual_loss(draw(2, 3, 5), torch.eye(3).double()) > 0.1


@quick
@given(seeds, scales)
def test_srd_ignores_scale_and_shift_of_every_dimension(seed, scale):
    s, t = draw(seed, 6, 4), draw(seed + 1, 6, 4)
    moved = scale * t * (1 + draw(seed + 2, 4).abs()) + draw(seed + 3, 4)
    for loss in (difference_loss, srd_correlation):
        same(loss(s, 100 * moved), loss(s, 100 * t), rel=1e-3, floor=1e-3)
    assert srd_correlation(t, t).item() == pytest.approx(math.log(1e-5), rel=1e-6)


def test_srd_standardises_a_batch_as_batch_norm_does():
    s, t = draw(1, 6, 4), draw(2, 6, 4)
    norm = nn.BatchNorm1d(4, eps=1e-4, affine=False).double()
    same(difference_loss(s, t), (norm(s) - norm(t)).pow(4).sum().log())


@quick
@given(seeds, st.integers(1, 6))
def test_dcd_is_consistent_where_both_directions_agree(seed, n):
    a = draw(seed, n, n)
    assert consistency(a + a.T).item() == pytest.approx(0, abs=1e-12)
    assert consistency(a) >= 0


def test_dcd_keeps_its_temperature_within_bounds():
    student, teacher = pair()
    method = build("dcd", student, teacher)
    method.theta.data.fill_(50)
    a = method.affinities(student.pooled, teacher.pooled)
    assert a.abs().max() <= 10


def test_rrd_queue_holds_the_last_embeddings_and_wraps():
    method = build("rrd", *pair(), entries=10)
    batches = [draw(seed, n, 128) for seed, n in ((1, 8), (2, 3), (3, 8))]
    for batch in batches:
        method.enqueue(batch)
    kept = {tuple(row) for row in method.queue.tolist()}
    assert kept == {tuple(row) for row in torch.cat(batches)[-10:].tolist()}
    method.enqueue(draw(4, 25, 128))
    assert {tuple(row) for row in method.queue.tolist()} == {tuple(row) for row in draw(4, 25, 128)[-10:].tolist()}


def test_rrd_trains_the_students_embedding_alone():
    method = build("rrd", *pair())
    trained = {id(p) for group in method.parameter_groups() for p in group.parameters}
    assert trained == {id(p) for p in method.embed_s.parameters()}


def test_a_memory_survives_a_backward_pass_after_the_next_batch_and_a_resume():
    student, teacher = pair()
    for name in ("rrd", "crd"):
        method = build(name, student, teacher)
        step = make_step(student, teacher)
        losses = [total(method.loss(step)) for _ in range(2)]
        torch.stack(losses).sum().backward()
        again = build(name, student, teacher)
        again.load_state_dict(method.state_dict())
        assert torch.equal(total(again.loss(step)), total(method.loss(step)))


def crd_method(negatives: int = 16384, classes: int = 10, labels: Tensor | None = None) -> Method:
    student, teacher = pair()
    spec = METHODS.get("crd")
    labels = torch.arange(64) % classes if labels is None else labels
    return load_class(spec).build(
        spec,
        spec.config("", {"negatives": negatives}, "test"),
        fake_network("student", student),
        fake_network("teacher", teacher),
        DataSpec("fake", classes, len(labels), (3, 8, 8), labels, 8),
    )


def test_crd_draws_every_image_of_another_class_equally_often():
    labels = torch.tensor([2, 0, 0, 1, 2, 2, 0, 2])
    method = crd_method(20000, classes=4, labels=labels)  # a fourth class has no image
    index = torch.arange(8)
    drawn = method.draw(index, rng(1))
    assert drawn.shape == (8, 20000)
    for i in index:
        others = (labels != labels[i]).nonzero()[:, 0]
        shares = torch.bincount(drawn[i], minlength=8) / 20000
        assert shares[others].tolist() == pytest.approx([1 / len(others)] * len(others), abs=0.02)
        assert shares[labels == labels[i]].sum() == 0


def test_crd_says_that_there_are_no_negatives():
    with pytest.raises(UserError, match="all training images of fake are of one class"):
        crd_method(labels=torch.zeros(8, dtype=torch.int64))


@quick
@given(seeds, st.floats(-3, 3))
def test_crd_is_noise_contrastive_estimation(seed, log_z):
    scores, size = draw(seed, 3, 6), 40
    p = (scores - log_z).exp()
    noise = 5 / size
    want = -((p[:, 0] / (p[:, 0] + noise)).log().sum() + (noise / (p[:, 1:] + noise)).log().sum()) / 3
    same(contrast(scores, torch.tensor(log_z).double(), size), want, rel=1e-5)


def test_crd_sets_its_constants_once_and_moves_only_the_memories_of_the_batch():
    student, teacher = pair()
    method = build("crd", student, teacher)
    before = method.memory_s.clone()
    index = torch.tensor([3, 5, 8, 13, 21, 34, 55, 60])
    method.loss(replace(make_step(student, teacher), index=index))
    constants = method.log_z.clone()
    assert constants.isfinite().all()
    moved = (method.memory_s != before).any(dim=1).nonzero()[:, 0]
    assert torch.equal(moved, index)
    s = F.normalize(method.embed_s(student.pooled)).detach()
    same(method.memory_s[index], F.normalize(0.5 * before[index] + 0.5 * s))
    method.loss(make_step(student, teacher))
    assert torch.equal(method.log_z, constants)


@quick
@given(seeds)
def test_fsp_matrices_are_inner_products_of_channels(seed):
    lower, upper = draw(seed, 2, 3, 4, 4), draw(seed + 1, 2, 5, 4, 4)
    same(flow(lower, upper), torch.einsum("nchw,ndhw->ndc", lower, upper) / 16)
    shrunk = draw(seed + 1, 2, 5, 2, 2)
    same(flow(lower, shrunk), flow(F.avg_pool2d(lower, 2), shrunk))


def test_fsp_says_that_widths_differ():
    with pytest.raises(UserError, match=r"student have \[4, 4, 6, 8\] channels, teacher has \[6, 6, 8, 12\]"):
        build("fsp", *pair())


def test_ab_asks_for_the_right_side_of_the_margin_only():
    teacher = torch.tensor([[2.0, 0.1, 0.0, -5.0]])
    right = torch.tensor([[1.0, 7.0, -1.0, -9.0]])
    assert boundary_loss(right, teacher, 1.0) == 0
    assert boundary_loss(-right, teacher, 1.0).item() == pytest.approx(4 + 64 + 4 + 100)
    assert boundary_loss(torch.zeros(2, 4), teacher.expand(2, 4), 1.0).item() == pytest.approx(4)


def test_ab_connects_unequal_shapes_and_says_what_does_not_fit():
    assert isinstance(connector((3, 8, 8), (3, 8, 8)), nn.Identity)
    for size in (4, 8, 16):
        assert connector((3, 8, 8), (5, size, size))(torch.zeros(2, 3, 8, 8)).shape == (2, 5, size, size)
    with pytest.raises(UserError, match="ab: no connector leads from the student's 8x8 map to the teacher's 9x9"):
        connector((3, 8, 8), (3, 9, 9))


@quick
@given(seeds, scales)
def test_ft_ignores_the_scale_of_a_factor_and_its_number_of_channels(seed, scale):
    s, t = draw(seed, 3, 4, 4, 4), draw(seed + 1, 3, 6, 4, 4)
    same(factor_loss(scale * s, t.repeat(1, 2, 1, 1)), factor_loss(s, t))
    same(factor_loss(1e-6 * s, 1e-6 * t), factor_loss(s, t))
    assert factor_loss(s, s) == 0


def test_ft_first_trains_the_paraphraser_then_the_translator_alone():
    student, teacher = pair()
    method = build("ft", student, teacher, paraphraser_rate=0.5)
    (phase,) = method.phases()
    assert (phase.epochs(240), phase.student, phase.rate) == (30, False, 0.5)

    def trained(loss: Tensor) -> set[str]:
        method.zero_grad()
        loss.backward()
        return {name.partition(".")[0] for name, p in method.named_parameters() if p.grad is not None}

    step = make_step(student, teacher)
    assert trained(total(phase.loss(step))) == {"encoder", "decoder"}
    assert trained(total(method.loss(step))) == {"translator"}


@pytest.mark.parametrize("name", ["fsp", "ab"])
def test_a_method_that_initialises_distills_in_its_phase_and_trains_on_labels_after(name):
    student, teacher = pair()
    teacher = narrowed(teacher, student)
    method = build(name, student, teacher)
    (phase,) = method.phases()
    assert (phase.epochs(240), phase.student) == (30, True)
    assert set(method.loss(make_step(student, None))) == {"ce"}
    assert METHODS.get(name).budget.epochs == 1 + phase.epochs_of_240 / 240


@pytest.mark.parametrize("name", ["vid", "nst", "kdsvd", "ab"])
def test_unequal_numbers_of_stages_are_refused(name):
    student, teacher = pair()
    short = replace(student, stages=student.stages[:2], preacts=student.preacts[:2])
    with pytest.raises(UserError, match=rf"{name}: student has 2 stages and teacher has 3"):
        build(name, short, teacher)


def test_sizes_are_matched_by_averaging_the_larger_map():
    small, large = draw(1, 2, 3, 2, 2), draw(2, 2, 4, 4, 4)
    for a, b in ((small, large), (large, small)):
        x, y = match_size(a, b)
        same(x, a if a is small else F.avg_pool2d(a, 2))
        same(y, b if b is small else F.avg_pool2d(b, 2))
    assert match_size(small.half(), small.half())[0].dtype == torch.float32


WITHOUT_EFFECT = {("ft", "paraphraser_rate"), ("crd", "momentum")}  # on the first loss
KNOBS = [
    (name, knob)
    for name in ("sp", "cc", "vid", "pkt", "nst", "kdsvd", "itrd", "srd", "dcd", "rrd", "crd", "fsp", "ab", "ft")
    for knob in METHODS.get(name).hyperparameters
    if (name, knob) not in WITHOUT_EFFECT
]


@pytest.mark.parametrize(("name", "knob"), KNOBS)
def test_every_hyper_parameter_changes_the_loss(name, knob):
    it = METHODS.get(name).hyperparameters[knob]
    if it.choices:
        other = next(choice for choice in it.choices if choice != it.default)
    else:
        other = it.default + 1 if it.type == "int" else 10 * it.default
    before, after = (total(run(name, *pair(), **{knob: value})) for value in (it.default, other))
    assert not torch.isclose(before, after, rtol=1e-6)
