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
from kdbench.methods.zoo.dml import lesson
from kdbench.methods.zoo.ipwd import inverse_propensity
from kdbench.methods.zoo.kd import kd_loss
from kdbench.methods.zoo.luminet import luminet_loss
from kdbench.methods.zoo.nkd import label_mask, others_cross_entropy
from kdbench.methods.zoo.ofa import ofa_loss, stage_head
from kdbench.methods.zoo.rld import masked_correlation, sample_confidence
from kdbench.methods.zoo.skd_direction import cosines, direction_loss, mahalanobis
from kdbench.methods.zoo.tf_kd_reg import virtual_teacher
from kdbench.methods.zoo.uskd import named, target_weights, unnamed_log_softmax, zipf_labels
from kdbench.methods.zoo.wkd_l import class_similarity, transport_cost
from kdbench.methods.zoo.wsld import sample_weights, weighted_soft_label_loss
from kdbench.models.outputs import Outputs

quick = settings(max_examples=10)
OURS = (
    *("abkd", "abkd_dkd", "bkd", "ctkd", "dml", "ipwd", "logit_mse", "luminet", "nkd", "ofa", "rld", "skd_direction"),
    *("tekap", "tf_kd_reg", "tf_kd_self", "uskd", "wkd_l", "wsld"),
)
#: The epoch at which a knob acts, and the other values that it needs to act.
WHERE = {
    ("abkd", "variant"): (120, {"alpha": 0.0}),
    ("abkd_dkd", "warm_up"): (1, {}),
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


POWERS = [(1.3, -0.4), (-0.3, 1.2), (-0.3, -0.5), (0.7, -0.7), (-0.7, 0.7), (0.0, -0.5), (-0.5, 0.0)]


@quick
@given(seeds, st.sampled_from(POWERS))
def test_abkd_with_a_negative_power_is_a_divergence_too(seed, powers):
    log_p, log_q = (F.log_softmax(torch.randn(4, 9, generator=rng(seed + i)).double(), 1) for i in (0, 1))
    (alpha, beta), (p, q) = powers, (log_p.exp(), log_q.exp())
    got = divergence(log_p, log_q, alpha, beta)
    near = alpha or 1e-6
    total = (near + (beta or 1e-6)) or 1e-6
    mixed = (near * p**total + (total - near) * q**total) / total
    want = (mixed - p**near * q ** (total - near)).sum(1) / (near * (total - near))
    same(got, want, rel=1e-3)
    assert got.min() > 0
    assert divergence(log_p, log_p, alpha, beta).abs().max() < 1e-10
    scale = {alpha == 0: beta, beta == 0: alpha, alpha + beta == 0: alpha}.get(True, 1.0)
    same(divergence(log_p, log_q, alpha, beta, "official"), scale * got)


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize(("alpha", "beta"), [*POWERS, (-10.0, -10.0), (10.0, -10.0), (-10.0, 0.0)])
def test_abkd_makes_nothing_of_infinity_times_zero(alpha, beta, variant):
    z, v = (1e4 * (2 * F.one_hot(torch.arange(8) + shift, 10) - 1).float() for shift in (0, 1))
    for student in (z, v):
        student = student.clone().requires_grad_()
        terms = run("abkd", Outputs(student), Outputs(v), alpha=alpha, beta=beta, variant=variant)
        assert terms["divergence"].isfinite()
        assert gradient(terms["divergence"], student).isfinite().all()


@quick
@given(logit_pairs(), temperatures, st.sampled_from([(1.0, 0.0), (0.8, 0.3), (1.2, -0.2)]))
def test_abkd_dkd_compares_the_classes_that_are_not_the_label_alone(batch, t, powers):
    z, v, y = batch
    terms = run("abkd_dkd", Outputs(z), Outputs(v), y, temperature=t, alpha=powers[0], beta=powers[1], nckd_weight=1.0)
    tckd, nckd = decoupled_kl(z, v, y, t)
    same(terms["tckd"], t**2 * tckd.mean(), floor=1e-8)
    others = ~label_mask(z, y)
    log_p, log_q = (F.log_softmax(x[others].view(len(z), -1) / t, 1) for x in (v, z))
    same(terms["nckd"], t**2 * divergence(log_p, log_q, *powers).mean(), floor=1e-8)
    if powers == (1.0, 0.0):
        same(terms["nckd"], t**2 * nckd.mean(), floor=1e-8)


@quick
@given(seeds, st.floats(0.1, 10), st.floats(0.01, 2))
def test_skd_direction_is_a_mahalanobis_distance_that_sees_neither_length_nor_rotation(seed, scale, tikhonov):
    z, v = (torch.randn(6, 9, generator=rng(seed + i)).double() for i in (0, 1))
    rotation, _ = torch.linalg.qr(torch.randn(9, 9, generator=rng(seed + 2)).double())
    lengths = scale * (0.5 + torch.rand(6, 1, generator=rng(seed + 3)).double())
    got = direction_loss(z, v, tikhonov)
    same(direction_loss(lengths * z @ rotation, v, tikhonov), got, rel=1e-8)
    rows = cosines(z) - cosines(v)
    centred = rows - rows.mean(0)
    inverse = torch.linalg.inv(centred.mT @ centred / 5 + tikhonov * torch.eye(6).double())
    same(got, torch.stack([(row @ inverse @ row).sqrt() for row in rows]).mean(), rel=1e-6)
    same(direction_loss(2 * v, v, tikhonov), torch.zeros(()).double(), floor=1e-12)


def test_skd_direction_has_no_gradient_where_there_is_nothing_to_learn_and_none_where_there_is_no_number():
    v = torch.randn(6, 9, generator=rng(1)).double()
    z = v.clone().requires_grad_()
    assert gradient(direction_loss(z, v, 0.1), z).abs().max() == 0
    assert mahalanobis(torch.full((6, 6), torch.nan), 0.1).isnan().all()


def test_skd_with_torchdistills_values_is_kd_without_temperature_squared_and_its_direction():
    spec, fixed = METHODS.resolve("skd_direction+kd")
    config = spec.config("resnet34:resnet18", fixed, "test")
    student, teacher = pair()
    whole = run("skd_direction+kd", student, teacher, **config)
    assert whole["ce"].item() == 0
    kl = F.kl_div(F.log_softmax(student.logits / 4, 1), F.softmax(teacher.logits / 4, 1), reduction="batchmean")
    same(whole["kd"], kl)
    same(whole["direction"], direction_loss(student.logits, teacher.logits, 0.1))


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


def test_tf_kd_reg_teacher_is_exact_in_the_logits_precision():
    got = virtual_teacher(torch.zeros(1, 10).double(), torch.tensor([3]), 0.99, 0.05)[0]
    rest = math.log(math.exp((0.99 - 0.01 / 9) / 0.05) + 9)
    assert got[0].item() == pytest.approx(-rest, rel=1e-15)
    assert got[3].item() == pytest.approx((0.99 - 0.01 / 9) / 0.05 - rest, rel=1e-12)


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


@quick
@given(seeds, st.floats(0.05, 0.95), st.integers(3, 20))
def test_uskd_mixed_labels_name_two_classes_and_neither_comes_first(seed, share, classes):
    z, weak = (3 * torch.randn(5, classes, generator=rng(seed + i)).double() for i in (0, 1))
    a = torch.randint(classes, (5,), generator=rng(seed + 2))
    b = (a + torch.randint(1, classes, (5,), generator=rng(seed + 3))) % classes
    rows = torch.arange(5)
    mixed = torch.zeros(5, classes).double()
    mixed[rows, a], mixed[rows, b] = share, 1 - share
    assert {frozenset(pair) for pair in named(mixed)[0].tolist()} == {
        frozenset(p) for p in zip(a.tolist(), b.tolist(), strict=True)
    }
    same(named(mixed)[1].sum(1), torch.ones(5).double())
    same(target_weights(z, mixed).mean(0).sum(), torch.ones(()).double())
    u = zipf_labels(z, weak, mixed)
    assert (u[rows, a] == 0).all()
    assert (u[rows, b] == 0).all()
    if classes > 2:
        same(u.sum(1), torch.ones(5).double())
    others = unnamed_log_softmax(z, mixed).exp().masked_fill(mixed > 0, 0)
    want = z.exp().masked_fill(mixed > 0, 0)
    same(others, want / want.sum(1, keepdim=True))


def test_uskd_of_an_image_that_is_not_mixed_weighs_its_label_as_ever():
    student, teacher = pair()
    y = torch.arange(8)
    pure = F.one_hot(y, 10).double()
    hard, mixed = (run("uskd", student, teacher, labels) for labels in (y, pure))
    for term in ("ce", "target", "weak"):
        same(mixed[term], hard[term])
    assert hard["others"] != mixed["others"]  # a second class, whose share is 0, goes unranked


def test_uskd_of_two_classes_that_are_both_named_has_nothing_else_to_learn():
    student = fake_outputs(1, classes=2)
    terms = run("uskd", student, student, torch.tensor([[0.3, 0.7]]).expand(8, 2).double())
    assert terms["others"] == 0
    assert gradient(total(terms), student.logits).isfinite().all()


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


def test_dml_peers_teach_one_another_and_each_has_weights_of_its_own():
    student, teacher = pair()
    method = build("dml", student, teacher, peers=3, weight=0.7)
    peers = [method.peer, *method.others]
    assert len({peer.body.fc.weight.sum().item() for peer in peers}) == 3
    step = make_step(student, None)
    terms = method.loss(step)
    outputs = [student.logits, *(peer(step.x).logits for peer in peers)]

    def divergences(i: int) -> Tensor:
        logs = [F.log_softmax(logits, 1) for logits in outputs]
        others = [log for j, log in enumerate(logs) if j != i]
        return sum(F.kl_div(logs[i], p, reduction="batchmean", log_target=True) for p in others) / 3

    same(terms["mutual"], 0.7 * divergences(0))
    same(terms["peer_mutual"], 0.7 * (divergences(1) + divergences(2) + divergences(3)))
    same(terms["peer_ce"], sum(F.cross_entropy(logits, step.y) for logits in outputs[1:]))
    same(terms["ce"], F.cross_entropy(outputs[0], step.y))
    for term, reached in (("peer_mutual", True), ("mutual", False)):
        grads = torch.autograd.grad(
            terms[term], [peer.body.fc.weight for peer in peers], retain_graph=True, allow_unused=True
        )
        assert [g is not None for g in grads] == [reached] * 3, term


@quick
@given(seeds)
def test_dml_lesson_of_two_networks_is_kd_from_the_other(seed):
    a, b = (torch.randn(4, 9, generator=rng(seed + i)).double() for i in (0, 1))
    same(lesson(0, [a, b]), kd_loss(a, b, 1.0))
    same(lesson(0, [a, b, b]), kd_loss(a, b, 1.0))


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
