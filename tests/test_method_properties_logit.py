"""What each logit method's own mathematics promises, over random logits, temperatures and class counts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import TEACHER_WIDTHS, build, fake_outputs, make_step, only, rng, run, total
from test_method_properties import logit_pairs, same, seeds, temperatures
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods import METHODS
from kdbench.methods.zoo.abkd import divergence
from kdbench.methods.zoo.dkd import decoupled_kl
from kdbench.methods.zoo.ipwd import inverse_propensity
from kdbench.methods.zoo.kd import kd_loss
from kdbench.methods.zoo.luminet import luminet_loss
from kdbench.methods.zoo.nkd import label_mask, others_cross_entropy
from kdbench.methods.zoo.ofa import ofa_loss, stage_head
from kdbench.methods.zoo.rld import masked_correlation, sample_confidence
from kdbench.methods.zoo.tf_kd_reg import virtual_teacher
from kdbench.methods.zoo.uskd import target_weights, zipf_labels
from kdbench.methods.zoo.wkd_l import class_similarity, transport_cost
from kdbench.methods.zoo.wsld import sample_weights, weighted_soft_label_loss
from kdbench.models.outputs import Outputs

quick = settings(max_examples=10)
OURS = (
    *("abkd", "bkd", "ctkd", "dml", "ipwd", "logit_mse", "luminet", "nkd", "ofa", "rld"),
    *("tekap", "tf_kd_reg", "tf_kd_self", "uskd", "wkd_l", "wsld"),
)
#: The epoch at which a knob acts, and the other values that it needs to act.
WHERE = {
    ("abkd", "variant"): (120, {"alpha": 0.0}),
    ("luminet", "warm_up"): (1, {}),
    ("rld", "warm_up"): (1, {}),
    ("wkd_l", "decay"): (200, {}),
}
KNOBS = [
    (name, knob)
    for name in OURS
    for knob in METHODS.get(name).hyperparameters
    if (name, knob) not in {("ctkd", "reversal"), ("ctkd", "curriculum")}  # they act on a gradient alone
]


def pair() -> tuple[Outputs, Outputs]:
    return fake_outputs(1), fake_outputs(2, widths=TEACHER_WIDTHS)


def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize(("name", "knob"), KNOBS)
def test_every_hyper_parameter_changes_the_loss(name, knob):
    it, (epoch, others) = METHODS.get(name).hyperparameters[knob], WHERE.get((name, knob), (120, {}))
    if it.choices:
        values: list[object] = list(it.choices)
    else:
        values = [it.default, it.default + 1 if it.type == "int" else it.default / 20]
    losses = [total(run(name, *pair(), epoch=epoch, **{**others, knob: value})).item() for value in values]
    assert len({f"{loss:.7g}" for loss in losses}) == len(losses)


@pytest.mark.parametrize("name", ["ctkd", "dml", "ipwd", "ofa", "uskd"])
def test_a_methods_own_parameters_get_a_finite_gradient_where_all_is_certain(name):
    student, teacher = pair()
    certain = 1e4 * (2 * F.one_hot(torch.arange(8), 10) - 1)
    student = Outputs(certain.float(), stages=tuple(100 * s.detach().float() for s in student.stages))
    student = Outputs(student.logits, stages=student.stages, pooled=100 * fake_outputs(3).pooled.detach().float())
    teacher = Outputs(certain.roll(1, 0).float(), stages=student.stages, pooled=student.pooled)
    method = build(name, student, teacher)
    total(method.loss(make_step(student, teacher))).backward()
    gradients = [parameter.grad for parameter in method.parameters()]
    assert gradients
    assert all(g is not None and g.isfinite().all() for g in gradients)


@quick
@given(logit_pairs(), temperatures)
def test_nkd_is_the_non_target_part_of_dkd_up_to_a_constant(batch, t):
    z, v, y = batch
    got = others_cross_entropy(z, v, y, t) - others_cross_entropy(v, v, y, t)
    same(got, decoupled_kl(z, v, y, t)[1].mean(), floor=1e-8)


@quick
@given(logit_pairs(), temperatures)
def test_wsld_weighs_samples_without_a_gradient(batch, t):
    z, v, y = batch
    weights = sample_weights(z, v, y)
    assert ((weights >= 0) & (weights <= 1)).all()
    z = z.requires_grad_()
    soft = F.cross_entropy(z / t, F.softmax(v / t, 1), reduction="none")
    want = t**2 * (weights * soft).mean()
    got = weighted_soft_label_loss(z, v, y, t)
    same(got, want)
    same(gradient(got, z), gradient(want, z))


def test_wsld_weight_is_one_half_where_the_cross_entropies_have_the_ratio_log_two():
    v = torch.tensor([[0.0, 3.0]]).double()
    cross_entropy = F.cross_entropy(v, torch.tensor([0])).item()
    z = torch.tensor([[0.0, math.log(math.expm1(math.log(2) * cross_entropy))]]).double()
    assert sample_weights(z, v, torch.tensor([0])).item() == pytest.approx(0.5, rel=1e-6)


@quick
@given(logit_pairs(), temperatures)
def test_rld_is_dkd_where_the_teacher_is_right(batch, t):
    z, v, _ = batch
    y = v.argmax(1)
    tckd, nckd = decoupled_kl(z, v, y, t)
    same(sample_confidence(z, v, y, t), t**2 * tckd.mean(), floor=1e-8)
    same(masked_correlation(z, v, y, t), t**2 * nckd.mean(), floor=1e-8)


@quick
@given(logit_pairs(), seeds)
def test_rld_leaves_out_the_classes_that_the_teacher_prefers_to_the_label(batch, seed):
    z, v, y = batch
    preferred = v >= v.gather(1, y[:, None])
    noise = 10 * torch.randn(z.shape, generator=rng(seed)).double()
    same(masked_correlation(z + noise * preferred, v, y, 4.0), masked_correlation(z, v, y, 4.0), floor=1e-9)
    lowest = masked_correlation(z, v, v.argmin(1), 4.0)
    assert lowest.item() == 0


@quick
@given(logit_pairs(), seeds)
def test_luminet_ignores_an_offset_of_a_class_and_a_batch_of_one_teaches_nothing(batch, seed):
    z, v, _ = batch
    offset = 10 * torch.randn(1, z.shape[1], generator=rng(seed)).double()
    same(luminet_loss(z + offset, v, 4.0), luminet_loss(z, v, 4.0), floor=1e-9)
    one = z[:1].clone().requires_grad_()
    assert gradient(luminet_loss(one, v[:1], 4.0), one).abs().max() == 0


@quick
@given(logit_pairs(), st.floats(0.1, 1.5), st.floats(0.1, 1.5))
def test_abkd_has_kl_and_reverse_kl_at_its_ends_and_is_zero_for_equal_networks(batch, alpha, beta):
    log_p, log_q = (F.log_softmax(logits / 4, 1) for logits in batch[:2])
    same(divergence(log_p, log_q, 1.0, 0.0).mean(), F.kl_div(log_q, log_p, reduction="batchmean", log_target=True))
    same(divergence(log_p, log_q, 0.0, 1.0).mean(), F.kl_div(log_p, log_q, reduction="batchmean", log_target=True))
    assert divergence(log_p, log_p, alpha, beta).abs().max() < 1e-12
    assert divergence(log_p, log_q, alpha, beta).min() > -1e-12


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.5), (0.5, 0.0), (0.0, 0.0)])
def test_abkd_is_continuous_in_the_papers_variant_and_scaled_by_the_power_in_the_official_one(alpha, beta):
    log_p, log_q = (F.log_softmax(torch.randn(4, 9, generator=rng(seed)).double(), 1) for seed in (1, 2))
    limit = divergence(log_p, log_q, alpha, beta)
    near = divergence(log_p, log_q, alpha or 1e-5, beta or 1e-5)
    same(near, limit, rel=1e-3)
    same(divergence(log_p, log_q, alpha, beta, "official"), limit * ((alpha + beta) or 1.0))


@quick
@given(logit_pairs())
def test_logit_mse_is_the_limit_of_kd_at_a_high_temperature(batch):
    z, v = (logits - logits.mean(1, keepdim=True) for logits in batch[:2])
    student, teacher = Outputs(z), Outputs(v)
    mse = run("logit_mse", student, teacher, torch.zeros(len(z), dtype=torch.int64), weight=0.5)["mse"]
    same(kd_loss(z, v, 1e5), mse, rel=1e-2, floor=1e-4)


def test_bkd_pulls_every_logit_towards_the_teachers_probability():
    student, teacher = pair()
    got = gradient(run("bkd", student, teacher)["binary"], student.logits)
    same(got, (student.logits.sigmoid() - teacher.logits.softmax(1)) / student.logits.numel())


@quick
@given(logit_pairs(), st.floats(0.2, 50))
def test_tf_kd_reg_teacher_is_a_distribution_that_prefers_the_label(batch, t):
    z, _, y = batch
    p = virtual_teacher(z, y, 0.99, t).exp()
    same(p.sum(1), torch.ones(len(z)).double())
    others = p.masked_fill(label_mask(z, y), 0).max(1).values
    assert (p.gather(1, y[:, None])[:, 0] > others).all()
    same(virtual_teacher(z, y, 1 / z.shape[1], t).exp(), torch.full_like(z, 1 / z.shape[1]))


def test_tf_kd_self_is_kd_with_other_weights():
    student, teacher = pair()
    ours = run("tf_kd_self", student, teacher, alpha=0.6, multiplier=20.0, temperature=6.0)
    kd = run("kd", student, teacher, ce_weight=0.4, kd_weight=0.6 * 20 / 10, temperature=6.0)
    same(total(ours), total(kd))


@quick
@given(logit_pairs(), seeds)
def test_uskd_weights_average_to_one_and_labels_follow_zipfs_law(batch, seed):
    z, weak, y = batch
    same(target_weights(z, y).mean(), torch.ones(()).double())
    u = zipf_labels(z, weak, y)
    same(u.sum(1), torch.ones(len(z)).double())
    assert (u.gather(1, y[:, None]) == 0).all()
    order = torch.randperm(z.shape[1], generator=rng(seed))
    same(zipf_labels(z[:, order], weak[:, order], order.argsort()[y]), u[:, order])
    best = z.masked_fill(label_mask(z, y), -torch.inf).argmax(1)
    same(zipf_labels(z, z, y).gather(1, best[:, None]), zipf_labels(z, z, y).max(1, keepdim=True).values)


def test_tekap_without_noise_is_kd_counted_as_often_as_there_are_copies():
    student, teacher = pair()
    terms = run("tekap", student, teacher, noise=0.0)
    same(terms["kd"], run("kd", student, teacher)["kd"])
    same(terms["copies"], 3 * 0.8 * terms["kd"])
    noise = build("tekap", student, teacher).draw(make_step(student, teacher))
    assert noise.shape == (3, 8, 10)
    assert noise.unique().numel() == noise.numel()


@quick
@given(logit_pairs(), temperatures, st.floats(1.01, 3))
def test_ofa_is_cross_entropy_with_an_enhanced_target(batch, t, epsilon):
    z, v, y = batch
    same(ofa_loss(z, v, y, 1.0, t), F.cross_entropy(z / t, F.softmax(v / t, 1)), floor=1e-9)
    z = z.clone().requires_grad_()
    weight_of_label = ((1 + F.softmax(v / t, 1).gather(1, y[:, None])) ** epsilon - 1)[:, 0]
    others = (F.softmax(v / t, 1) ** epsilon * ~label_mask(z, y)).sum(1)
    got = gradient(ofa_loss(z, v, y, epsilon, t), z).gather(1, y[:, None])[:, 0]
    q_y = F.softmax(z / t, 1).gather(1, y[:, None])[:, 0]
    same(got, ((weight_of_label + others) * q_y - weight_of_label) / (t * len(z)), floor=1e-8)


@pytest.mark.parametrize(("channels", "size", "following"), [(16, 32, 2), (64, 8, 0), (9, 1, 3), (24, 7, 1)])
def test_ofa_head_classifies_maps_of_any_size(channels, size, following):
    head = stage_head(channels, following, 48, 10)
    assert head(torch.randn(2, channels, size, size)).shape == (2, 10)
    assert sum(getattr(layer, "stride", (1, 1)) == (2, 2) for layer in head) == following


@pytest.mark.parametrize(("epoch", "share"), [(1, 0.0245), (5, 0.5), (10, 1.0), (200, 1.0)])
def test_ctkd_climbs_the_loss_by_more_and_more_of_the_temperatures_gradient(epoch, share):
    student, teacher = pair()
    method = build("ctkd", student, teacher, ce_weight=0.0)
    got = gradient(method.loss(make_step(student, teacher, epoch=epoch))["kd"], method.theta)

    def kd(theta: float) -> float:
        t = 1 + 20 / (1 + math.exp(-theta))
        return 0.9 * kd_loss(student.logits, teacher.logits, t).item()

    slope = (kd(1 + 1e-5) - kd(1 - 1e-5)) / 2e-5
    assert got.item() == pytest.approx(-share * slope, rel=1e-2)
    assert method.temperature(make_step(student, teacher)).item() == pytest.approx(15.6212, rel=1e-5)


def test_dml_each_term_teaches_one_of_two_networks_that_see_the_same_images():
    student, teacher = pair()
    method = build("dml", student, teacher)
    before = torch.random.get_rng_state()
    terms = method.loss(make_step(student, None))
    assert torch.equal(torch.random.get_rng_state(), before)
    peer = method.peer.body.fc.weight
    for term, mine in (("ce", True), ("mutual", True), ("peer_ce", False), ("peer_mutual", False)):
        reached = torch.autograd.grad(terms[term], [student.logits, peer], retain_graph=True, allow_unused=True)
        assert [g is not None for g in reached] == [mine, not mine], term
    assert (method.peer.mean == 0.5).all()
    assert (method.peer.std == 0.25).all()


@quick
@given(seeds, st.floats(0.2, 2))
def test_wkd_similarity_is_that_of_linear_cka(seed, scale):
    x = torch.randn(3, 40, 6, generator=rng(seed)).double()
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=rng(seed + 1)).double())
    x[2] = 0
    moved = torch.stack([scale * x[0] @ rotation + 1, x[0], x[1], x[2]])
    similarity = class_similarity(moved.clone())
    same(similarity[0, 1], torch.ones(()).double())
    same(similarity[0, 2], similarity[1, 2])
    assert (similarity[3, :3] == 0).all()
    assert ((similarity >= 0) & (similarity <= 1 + 1e-12)).all()


@quick
@given(logit_pairs(), temperatures)
def test_wkd_moves_all_of_the_students_mass(batch, t):
    z, v, y = batch
    label = label_mask(z, y)
    s, goal = (F.softmax(logits.masked_fill(label, -torch.inf) / t, 1) for logits in (z, v))
    start = (~label).double() / (z.shape[1] - 1)
    same(
        transport_cost(s, goal, start, torch.full((z.shape[1],) * 2, 0.3).double(), 0.05, 3).mean(),
        torch.tensor(0.3).double(),
        rel=1e-3,
    )
    free = torch.ones(z.shape[1], z.shape[1]).double().fill_diagonal_(0)
    near = transport_cost(s, goal, start, free, 0.08, 200)
    total_variation = (s - goal).abs().sum(1) / 2  # optimal transport at a cost of 0 or 1
    assert ((near > total_variation - 0.01) & (near < total_variation + 0.1)).all()


def test_wkd_fades_from_its_epoch_on_and_scales_with_the_training():
    student, teacher = pair()
    method = build("wkd_l", student, teacher)
    fades = [method.fading(make_step(student, teacher, epoch=e, epochs=240)) for e in (1, 150, 195, 240)]
    assert fades == pytest.approx([1, 1, 0.5, 0])
    assert method.fading(make_step(student, teacher, epoch=13, epochs=16)) == pytest.approx(0.5)
    assert build("wkd_l", student, teacher, decay=240.0).fading(make_step(student, teacher, epoch=240)) == 1


@pytest.mark.parametrize("cost", ["cka", "cka_logits"])
def test_wkd_costs_depend_on_neither_the_batches_of_the_sweep_nor_classes_without_images(cost):
    student, teacher = pair()
    seen = fake_outputs(5, n=40, widths=TEACHER_WIDTHS).detach()
    labels = torch.arange(40) % 8  # classes 8 and 9 have no image

    def sweep(size: int):
        for at in range(0, 40, size):
            part = slice(at, at + size)
            yield (
                Outputs(seen.logits[part], stages=tuple(s[part] for s in seen.stages)),
                labels[part],
                torch.arange(40)[part],
            )

    costs = []
    for size in (40, 7):
        method = build("wkd_l", student, teacher, cost=cost)
        method.prepare(lambda size=size: sweep(size))
        costs.append(method.costs.clone())
    same(costs[0], costs[1])
    assert (costs[0].diagonal() <= 1e-7).all()
    assert (costs[0][8, :8] == costs[0][9, :8]).all()
    same(costs[0][8, 0], torch.tensor(-math.expm1(-1)).double(), rel=1e-6)


def test_wkd_takes_its_costs_from_the_teachers_classifier():
    student, teacher = pair()
    torch.manual_seed(3)
    method = build("wkd_l", student, teacher, cost="fc", sharpen=0.0)
    assert method.costs.shape == (10, 10)
    same(method.costs, method.costs.mT)
    assert method.costs.max() <= 2
    assert method.costs[~torch.eye(10, dtype=torch.bool)].min() > 0.1


@quick
@given(logit_pairs(), st.floats(1, 20))
def test_ipwd_weighs_a_sample_by_how_much_better_the_distilled_classifier_fits_it(batch, most):
    z, h, y = batch
    weights = inverse_propensity(z, h, y, most)
    assert ((weights >= 1) & (weights <= 1 + most)).all()
    same(inverse_propensity(z, z, y, most), torch.full((len(z),), 2.0).double())
    sure = z + 100 * F.one_hot(y, z.shape[1])
    assert (inverse_propensity(sure, z, y, 1e9) >= inverse_propensity(z, z, y, 1e9) - 1e-9).all()


def test_ipwd_second_classifier_learns_and_leaves_the_student_alone():
    student, teacher = pair()
    method = build("ipwd", student, teacher)
    terms = method.loss(make_step(only(student, ["pooled"]), teacher))
    own = method.classifier.weight
    reached = torch.autograd.grad(terms["cls"], [own, student.pooled], retain_graph=True, allow_unused=True)
    assert [g is not None for g in reached] == [True, False]
    reached = torch.autograd.grad(terms["kd"], [own, student.logits], allow_unused=True)
    assert [g is not None for g in reached] == [False, True]
