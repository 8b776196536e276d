"""Methods that see a weak and a strong view: published values, mathematics, and what the engine shows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from steps import build, fake_network, fake_outputs, make_step, rng, total
from test_method_goldens import FOLDER, INDEX
from test_method_properties import same, seeds

from kdbench.errors import UserError
from kdbench.methods import METHODS, load_class, parse_card
from kdbench.methods.base import Step
from kdbench.methods.card import VIEWS
from kdbench.methods.zoo.crld import confident
from kdbench.methods.zoo.kd import kd_loss
from kdbench.methods.zoo.mlkd import correlation, divergence, share_below_median
from kdbench.models.outputs import DataSpec, Outputs
from kdbench.train import batches
from kdbench.train.conformance import make_bench

quick = settings(max_examples=10)
CASES = [case for case in INDEX if case.get("adapter") == "views"]
CORRELATIONS = [case for case in INDEX if case.get("adapter") == "correlation"]


def _golden(case):
    with np.load(FOLDER / case["file"]) as file:
        golden = dict(file)
    return golden, {key[3:]: torch.from_numpy(value) for key, value in golden.items() if key.startswith("in/")}


def _close(got, want):
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=1e-7 * np.abs(want).max() + 1e-15)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_loss_and_gradients_agree_with_the_published_implementation(case):
    golden, inputs = _golden(case)
    sides = {key: Outputs(inputs[f"logit_{key}"]) for key in ("s_weak", "t_weak", "s_strong", "t_strong")}
    for key in ("s_weak", "s_strong"):
        inputs[f"logit_{key}"].requires_grad_()
    method = build(case["method"], sides["s_weak"], sides["t_weak"], **case["hyperparameters"])
    views = {"strong": (sides["s_strong"], sides["t_strong"])}

    terms = method.loss(make_step(sides["s_weak"], sides["t_weak"], inputs["target"], views=views))
    total(terms).backward()

    assert total(terms).item() == pytest.approx(float(golden["out/loss"]), rel=1e-9)
    assert terms["ce"].item() == pytest.approx(float(golden["out/loss_ce"]), rel=1e-9)
    for key in ("s_weak", "s_strong"):
        _close(inputs[f"logit_{key}"].grad, golden[f"grad/logit_{key}"])


@pytest.mark.parametrize("case", CORRELATIONS, ids=lambda case: case["id"])
def test_correlations_agree_with_the_published_implementation(case):
    golden, inputs = _golden(case)
    z = inputs["logit_s_weak"].requires_grad_()
    p, q = (inputs["logit_t_weak"] / 4).softmax(1), (z / 4).softmax(1)
    loss = correlation(p, q) if case["part"] == "batch" else correlation(p.T, q.T)
    loss.backward()
    assert loss.item() == pytest.approx(float(golden["out/loss"]), rel=1e-9)
    _close(z.grad, golden["grad/logit_s_weak"])


def _pairs(seed, n=8, classes=10):
    return [(fake_outputs(seed + i, n, classes), fake_outputs(seed + i + 50, n, classes)) for i in range(2)]


def _terms(name, main, strong, **overrides):
    step = make_step(*main, views={"strong": strong})
    return build(name, *main, **overrides).loss(step)


@given(seeds)
@quick
def test_crld_across_equals_within_when_both_views_are_one(seed):
    main, _ = _pairs(seed)
    terms = _terms("crld", main, main, weak_threshold=0.0, strong_threshold=0.0)
    student, teacher = main
    kd = kd_loss(student.logits, teacher.logits, 4.0)
    same(terms["within"] / 2.0, 2 * kd)
    same(terms["across"] / 0.5, 2 * kd)


@given(seeds)
@quick
def test_crld_unsure_teachers_teach_nothing(seed):
    main, strong = _pairs(seed)
    unsure = Outputs(torch.zeros_like(strong[1].logits))
    terms = _terms("crld", main, (strong[0], unsure))
    assert terms["across"] == 0
    assert 0 <= confident(main[1].logits, 0.5).mean() <= 1


@given(seeds)
@quick
def test_mlkd_is_zero_beside_cross_entropy_where_the_student_is_the_teacher(seed):
    (_, teacher), (_, strong) = _pairs(seed)
    terms = _terms("mlkd", (teacher, teacher), (strong, strong))
    assert all(terms[name].abs() < 1e-12 for name in ("kd", "batch", "class"))


@given(seeds)
@quick
def test_mlkd_correlations_do_not_see_the_order_of_samples_or_classes(seed):
    main, strong = _pairs(seed)
    order, classes = torch.randperm(8, generator=rng(seed)), torch.randperm(10, generator=rng(seed))
    shuffled = [tuple(Outputs(o.logits[order][:, classes]) for o in view) for view in (main, strong)]
    before, after = _terms("mlkd", main, strong), _terms("mlkd", *shuffled)
    for term in ("kd", "batch", "class"):
        same(before[term], after[term])


@given(seeds)
@quick
def test_mlkd_class_correlations_are_those_of_the_definition_on_both_sides(seed):
    for rows, columns in ((4, 9), (9, 4)):
        p, q = (torch.rand(rows, columns, generator=rng(seed + i), dtype=torch.float64).softmax(0) for i in range(2))
        direct = sum((p[i] @ p[j] - q[i] @ q[j]) ** 2 for i in range(rows) for j in range(rows)) / rows
        same(correlation(p, q), direct)


def test_half_of_an_even_batch_is_at_most_the_median():
    assert share_below_median(torch.tensor([1.0, 4.0, 2.0, 3.0])) == 0.5
    assert share_below_median(torch.ones(6)) == 1
    assert divergence(torch.zeros(2, 3), torch.zeros(2, 3), 4.0) == 0


def test_lskd_standardises_mlkds_divergences_in_both_views_and_leaves_its_correlations():
    main, strong = _pairs(3)
    spec, fixed = METHODS.resolve("lskd(mlkd)")
    config = spec.config("", fixed, "test")
    assert config["lskd.raw"] == "batch class"
    data = DataSpec("fake", 10, 64, (3, 8, 8), torch.arange(64) % 10, 8)
    method = load_class(spec).build(spec, config, fake_network("s", main[0]), fake_network("t", main[1]), data)
    scaled = [tuple(Outputs(3 * o.logits + 1) for o in view) for view in (main, strong)]
    plain = method.loss(make_step(*main, views={"strong": strong}))
    after = method.loss(make_step(*scaled[0], views={"strong": scaled[1]}))
    same(plain["kd"], after["kd"], rel=1e-6)
    assert not torch.allclose(plain["batch"], after["batch"])


def test_every_view_of_a_card_can_be_made():
    assert tuple(batches.VIEWS) == VIEWS


@pytest.mark.parametrize("name", ["mlkd", "crld"])
def test_the_engine_shows_both_networks_the_same_strong_view(name, monkeypatch):
    bench = make_bench(name)
    seen: list[Step] = []
    cls = type(bench.member(name).method)
    loss = cls.loss
    monkeypatch.setattr(cls, "loss", lambda self, step: seen.append(step) or loss(self, step))
    member = bench.member(name)
    batch = bench.batch(0, member)
    member.step(batch, bench.taught(batch, member))
    view = seen[0].views["strong"]
    assert view.x is batch.views["strong"]
    assert not torch.equal(view.x, batch.x)
    assert torch.equal(view.taught.logits, bench.network(view.x, frozenset()).logits)


@pytest.mark.parametrize("norm", ["separate", "joint"])
def test_batch_norm_sees_a_view_as_the_card_says(norm):
    bench = make_bench("crld")
    member = bench.member("crld")
    member.spec.views["strong"] = norm
    try:
        batch = bench.batch(0, member)
        outputs, views = member.forward(batch)
    finally:
        member.spec.views["strong"] = "separate"
    network = bench.member("crld").network
    if norm == "joint":
        both = network(torch.cat([batch.x, batch.views["strong"]]), frozenset()).logits
        assert torch.equal(torch.cat([outputs.logits, views["strong"].logits]), both)
    else:
        assert torch.equal(outputs.logits, network(batch.x, frozenset()).logits)
        assert torch.equal(views["strong"].logits, network(batch.views["strong"], frozenset()).logits)


def test_a_sum_sees_the_views_of_its_parts_and_costs_as_much():
    spec = METHODS.resolve("crld+fitnet")[0]
    assert spec.views == {"strong": "separate"}
    assert spec.budget.views == 2


CARD = """
name = "twice"
title = "Twice"
version = 1
family = "logit"
summary = "Sees two views."
implementation = "twice:Twice"
needs = ["teacher"]
[terms]
kd = "distill"
[views]
{views}
[budget]
views = {count}
[paper]
title = "T"
authors = "A"
venue = "V"
year = 2020
url = "https://example.org"
bibtex = "@misc{{a}}"
"""


@pytest.mark.parametrize(
    ("views", "count", "said"),
    [
        ('weak = "separate"', 2, "views must map strong to separate or joint"),
        ('strong = "own"', 2, "views must map strong to separate or joint"),
        ('strong = "joint"', 1, "views must be 2"),
    ],
)
def test_a_card_whose_views_cannot_be_is_refused(views, count, said):
    with pytest.raises(UserError, match=said):
        parse_card(CARD.format(views=views, count=count), "twice.toml")
