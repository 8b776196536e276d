"""Multi-view data: the distribution, the networks that are compared on it, and what records say of views."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_intervals import _record
from test_studies import STUDY
from torch import Tensor
from torch.func import functional_call, jvp

from kdbench import data
from kdbench.data import DATASETS, views_of
from kdbench.data.builtin import MULTIVIEW, ONE_FEATURE
from kdbench.data.multiview import NOTHING, SETTINGS, UNIT, drawn
from kdbench.data.spec import BOTH
from kdbench.errors import UserError
from kdbench.models.factory import create
from kdbench.models.network import Network
from kdbench.models.outputs import PARTS
from kdbench.models.patches import PatchNet, smoothed_relu, smoothed_relu_slope
from kdbench.stats import claims
from kdbench.stats.claims import Verdict
from kdbench.studies import judge, parse_study
from kdbench.studies.check import suites_of
from kdbench.studies.measures import MEASURES, learned
from kdbench.suites import get_suite

# The distribution.


@pytest.mark.parametrize("name", list(SETTINGS))
def test_the_images_are_the_pinned_ones_on_every_machine(name: str) -> None:
    found = data.load(name)
    assert (found.digest, found.warnings) == (DATASETS.get(name).digest, ())


def noiseless(name: str, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strengths by image and axis of what is drawn without noise, the labels, and which view each image shows."""
    spec = DATASETS.get(name)
    images, labels = drawn(spec, replace(SETTINGS[name], noise=0), split)
    found = views_of(spec)
    assert found is not None
    shown = found.shown if split == "test" else np.full(len(labels), BOTH)
    assert isinstance(images, np.ndarray)
    levels = images.astype(int)[:, 0] - NOTHING
    # Features are axes, so they are orthonormal: a patch holds one of them at most.
    assert ((levels != 0).sum(2) <= 1).all()
    return levels.sum(1) / UNIT, labels, shown


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_image_shows_both_features_of_its_class_or_the_one_view(split: str) -> None:
    strength, labels, shown = noiseless("multiview", split)
    rows = np.arange(len(labels))
    first, second = strength[rows, 2 * labels], strength[rows, 2 * labels + 1]
    assert ((first >= 1) == (shown != 2)).all()
    assert ((second >= 1) == (shown != 1)).all()
    assert (first[shown == 2] == 0).all()
    assert (second[shown == 1] == 0).all()
    assert strength.max() <= 1.41
    assert (strength[:, 20:] == 0).all()  # ten classes of two features
    others = np.ones((len(labels), 20), dtype=bool)
    others[rows, 2 * labels] = others[rows, 2 * labels + 1] = False
    rival = strength[:, :20][others].reshape(len(labels), 9, 2)
    assert rival.max() < 0.41
    assert ((rival[:, :, 0] > 0) == (rival[:, :, 1] > 0)).all()
    # Binomial of 9 other classes an image: five standard deviations.
    n = 9 * len(labels)
    assert (rival[:, :, 0] > 0).mean() == pytest.approx(0.4, abs=5 * math.sqrt(0.24 / n))


def test_classes_and_views_come_in_equal_numbers() -> None:
    assert (np.bincount(data.load("multiview").train_labels) == 50).all()
    found = views_of(MULTIVIEW)
    assert found is not None
    assert (found.labels == data.load("multiview").test_labels).all()
    for view in (BOTH, 1, 2):
        assert (np.bincount(found.labels[found.shown == view]) == 30).all()


def test_the_control_has_one_axis_a_class() -> None:
    strength, labels, shown = noiseless("one_feature", "test")
    assert (strength[:, 1:20:2] == 0).all()
    own = strength[np.arange(len(labels)), 2 * labels]
    assert (own[shown == BOTH] >= 2).all()
    assert ((own[shown != BOTH] >= 1) & (own[shown != BOTH] <= 1.41)).all()


@pytest.mark.parametrize("spec", [MULTIVIEW, ONE_FEATURE])
def test_the_noise_has_the_deviation_of_the_setting(spec: Any) -> None:
    images, _ = drawn(spec, SETTINGS[spec.name], "train")
    assert isinstance(images, np.ndarray)
    empty = images[:, 0, :, 20:].astype(int) - NOTHING  # no feature lies on these axes
    assert empty.mean() == pytest.approx(0, abs=0.2)
    assert empty.std() == pytest.approx(SETTINGS[spec.name].noise, rel=0.02)


def test_a_data_set_without_views_has_none() -> None:
    assert views_of(DATASETS.get("digits")) is None


# The networks.


def network(name: str) -> Network:
    torch.manual_seed(0)
    return create(name, classes=4, image_shape=(2, 6, 5), mean=(0.2, 0.2), std=(0.4, 0.4))


def images(n: int = 3) -> Tensor:
    return torch.rand(n, 2, 6, 5, generator=torch.Generator().manual_seed(1))


def test_the_activation_is_the_papers_and_its_slope_the_derivative() -> None:
    z = torch.linspace(-2, 3, 101, dtype=torch.float64, requires_grad=True)
    value = smoothed_relu(z)
    expected = torch.where(z <= 0, torch.zeros_like(z), torch.where(z <= 1, z**3 / 3, z - 2 / 3))
    torch.testing.assert_close(value, expected)
    (slope,) = torch.autograd.grad(value.sum(), z)
    torch.testing.assert_close(slope, smoothed_relu_slope(z))


def test_a_patch_net_adds_up_what_the_filters_of_a_class_say_of_each_patch() -> None:
    net, x = network("patch_net"), images()
    body = net.body
    assert isinstance(body, PatchNet)
    rows = ((x - 0.2) / 0.4).permute(0, 2, 1, 3)  # [N, patches, channels, pixels]
    each = smoothed_relu(torch.einsum("npcd,fcd->npf", rows, body.conv.weight[:, :, 0]))
    expected = each.sum(1).unflatten(1, (4, -1)).sum(2)
    torch.testing.assert_close(net(x).logits, expected)
    assert [name for name, p in net.named_parameters() if p.requires_grad] == ["body.conv.weight"]


@pytest.mark.parametrize("name", ["patch_net", "patch_net_mean5", "patch_net_random", "patch_net_linear"])
def test_its_parts_are_those_of_the_contract(name: str) -> None:
    net = network(name).eval()
    out = net(images(), PARTS)
    torch.testing.assert_close(net.head(out.pooled), out.logits)
    assert torch.equal(out.pooled_map.mean((2, 3)), out.pooled)
    assert out.stages[0].shape == out.preacts[0].shape == out.stem.shape
    assert torch.equal(net(images()).logits, out.logits)


def test_the_mean_of_five_is_the_mean_of_what_five_say() -> None:
    whole = network("patch_net_mean5")
    filters = whole.body.get_parameter("conv.weight").detach().unflatten(0, (4, 5, 5))  # classes, members, filters
    said = []
    for member in range(5):
        alone = network("patch_net")
        alone.body.load_state_dict({"conv.weight": filters[:, member].flatten(0, 1)}, strict=False)
        said.append(alone(images()).logits)
    torch.testing.assert_close(whole(images()).logits, torch.stack(said).mean(0))


def test_random_features_stay_and_the_output_layer_is_trained() -> None:
    net = network("patch_net_random")
    assert [name for name, p in net.named_parameters() if p.requires_grad] == ["body.fc.weight"]
    drawn_as = net.body.get_parameter("conv.weight").clone()
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1.0)
    net(images()).logits.pow(2).sum().backward()
    before = net(images()).logits
    assert torch.equal(before, torch.zeros_like(before))
    (net(images()).logits - 1).pow(2).sum().backward()
    optimiser.step()
    assert torch.equal(net.body.get_parameter("conv.weight"), drawn_as)
    assert not torch.equal(net(images()).logits, before)


def test_the_linearised_network_is_the_tangent_where_it_starts() -> None:
    linear = network("patch_net_linear").double()
    start = linear.body.get_parameter("conv.weight").detach()
    whole = create("patch_net", classes=4, image_shape=(2, 6, 5), mean=(0.2, 0.2), std=(0.4, 0.4)).double()
    body = PatchNet(4, (2, 6, 5), filters=len(start) // 4, std=1.0).double()
    whole.body = body
    x, change = images().double(), torch.randn(start.shape, dtype=torch.float64)

    def said(weight: Tensor) -> Tensor:
        logits: Tensor = functional_call(whole, {"body.conv.weight": weight}, (x,)).logits
        return logits

    f0, slope = jvp(said, (start,), (change,))
    torch.testing.assert_close(linear(x).logits, f0)
    linear.body.get_parameter("change.weight").data.copy_(change)
    torch.testing.assert_close(linear(x).logits, f0 + slope)
    assert [name for name, p in linear.named_parameters() if p.requires_grad] == ["body.change.weight"]


# What records say of views.


def knowing(known: list[list[bool]], dataset: str = "multiview") -> dict[str, Any]:
    """The record of a network that is right on multi-view images, and on those of the views that it knows."""
    found = views_of(MULTIVIEW)
    assert found is not None
    right = found.shown == BOTH
    for label, views in enumerate(known):
        for view, knows in enumerate(views, 1):
            right |= (found.labels == label) & (found.shown == view) & knows
    return {"dataset": dataset, "right": right}


ONE, TWO, ALL, NONE = [True, False], [False, True], [True, True], [False, False]


def test_a_network_knows_a_view_that_it_classifies_alone() -> None:
    record = knowing([ONE, TWO, ALL, NONE, ONE] * 2)
    assert learned(record) is not None
    assert MEASURES["one_view"].read(record, "last") == pytest.approx(0.6)
    assert MEASURES["both_views"].read(record, "last") == pytest.approx(0.2)


def test_networks_complement_one_another_where_they_know_different_views() -> None:
    compare = MEASURES["complement"].between
    assert compare is not None
    a, b = knowing([ONE, TWO, ALL, ONE, NONE] * 2), knowing([TWO, TWO, ONE, ALL, ALL] * 2)
    assert compare(a, b) == compare(b, a) == pytest.approx(0.2)
    assert compare(a, a) == 0


@pytest.mark.parametrize("record", [knowing([ONE] * 10, "digits"), {"dataset": "multiview", "right": None}])
def test_of_other_data_and_without_predictions_nothing_is_said_of_views(record: dict[str, Any]) -> None:
    assert learned(record) is None
    assert math.isnan(MEASURES["one_view"].read(record, "last"))


def test_the_mean_over_pairs_of_seeds_has_an_interval_that_holds() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        signs = rng.choice([-1, 1], (8, 10), p=[0.3, 0.7])  # which view each of 8 seeds knows of each of 10 classes
        pairs = (signs[:, None] != signs[None]).mean(2)
        found = claims.between(pairs, 0.9)
        held += found.low <= 2 * 0.3 * 0.7 <= found.high
        assert found.estimate == pytest.approx(pairs[np.triu_indices(8, 1)].mean())
    assert held / 500 >= 0.87
    assert math.isinf(claims.between([[0, 1], [1, 0]], 0.9).low)
    assert math.isnan(claims.between([[math.nan]], 0.9).estimate)


# Claims about them.


def judged(measure: str, statistic: str, named: str, records: list[dict[str, Any]]) -> Any:
    text = STUDY[: STUDY.index("[[claims]]")].replace('["tiny"]', '["digits"]') + (
        f'[[claims]]\nname = "a"\ntext = "A."\nsource = "b"\nstatistic = "{statistic}"\nmeasure = "{measure}"\n'
        f"{named}\nabove = 0\n"
    )
    study = parse_study(text, "small.toml")
    right = {id(record): record.pop("right", None) for record in records}
    assert suites_of(study)
    (found,) = judge(study, {"digits": get_suite("digits")}, records, lambda _: lambda record: right.get(id(record)))
    return found


def test_claims_are_judged_by_which_images_networks_are_right_on() -> None:
    known = [[ONE] * 10, [TWO] * 10, [ONE] * 5 + [ALL] * 5]
    records = [
        {**_record("ce", "none:tiny_cnn_m", seed, 90.0, suite="digits@1"), **knowing(views)}
        for seed, views in enumerate(known)
    ]
    other = _record("kd", "tiny_cnn_l:tiny_cnn_m", 0, 90.0, suite="digits@1")  # which shows the pair
    records.append({**other, "dataset": "multiview"})
    found = judged("one_view", "mean", 'of = "ce"', [dict(record) for record in records])
    assert found.finding.estimate == pytest.approx((1 + 1 + 0.5) / 3)
    found = judged("complement", "between-seeds", 'of = "ce"', [dict(record) for record in records])
    assert found.finding.estimate == pytest.approx((1 + 0 + 0.5) / 3)


def test_the_teacher_of_a_pair_is_compared_by_what_its_students_records_say() -> None:
    records = []
    for seed in range(3):
        ce = _record("ce", "none:tiny_cnn_m", seed, 90.0 + 0.1 * seed, suite="digits@1")
        records.append({**ce, "teacher": None})
        kd = _record("kd", "tiny_cnn_l:tiny_cnn_m", seed, 92.0, suite="digits@1")
        records.append({**kd, "teacher": {"top1": 94.0, "weights_sha256": "a" * 64}})
    found = judged("top1", "difference", 'of = "teacher"\nversus = "ce"', records)
    assert found.verdict is Verdict.AGREES
    assert found.finding.estimate == pytest.approx(3.9)
    found = judged("top1", "share", 'of = "kd"\nbase = "ce"\ntop = "teacher"', records)
    assert found.finding.estimate == pytest.approx(1.9 / 3.9)
    found = judged("top1", "mean", 'of = "teacher"', records[:-1])
    assert {missing.seeds for missing in found.missing} == {(2,)}


def test_what_cannot_be_asked_of_a_teacher_or_of_one_network_is_refused() -> None:
    with pytest.raises(UserError, match=r"of a teacher the measure must be top1.* not 'entropy'"):
        judged("entropy", "mean", 'of = "teacher"', [])
    with pytest.raises(UserError, match="between-seeds and a measure that compares two networks"):
        judged("complement", "mean", 'of = "ce"', [])
    with pytest.raises(UserError, match="between-seeds and a measure that compares two networks"):
        judged("top1", "between-seeds", 'of = "ce"', [])
