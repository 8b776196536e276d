"""Presets, sums and wrappers: how they are written, what they are made of, and that they compute what they say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import TEACHER_WIDTHS, build, fake_outputs, leaves, run, total

from kdbench.errors import UserError
from kdbench.methods import METHODS
from kdbench.methods.expression import parse
from kdbench.methods.zoo.lskd import standardise
from kdbench.models.outputs import Outputs
from kdbench.plan.expand import chosen_rows
from kdbench.suites import get_suite


@pytest.mark.parametrize("text", ["kd", "kd@t1-half", "wttm+dist", "lskd(kd)", "lskd(dkd)+rkd", "lskd(kd@t1-half)"])
def test_one_written_form(text: str) -> None:
    assert "+".join(map(str, parse(text))) == text


@pytest.mark.parametrize(
    "text", ["", "kd+", "+kd", "kd@", "lskd(", "lskd(kd", "lskd()", "kd)", "kd kd", "kd@a@b", "kd//x"]
)
def test_malformed_is_said_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match="is no method"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kd+kd", "names one method twice"),
        ("kd+ce", "adds nothing to a sum"),
        ("kd(dkd)", "cannot be put around"),
        ("lskd", "changes another method"),
        ("lskd+kd", "changes another method"),
        ("kd@nope", "no preset 'nope'; it has crd, t1-half, t4-one"),
        ("kd+nope", "no method named 'nope'"),
    ],
)
def test_what_makes_no_sense_is_said(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        METHODS.resolve(text)


def test_a_preset_is_the_method_with_its_values() -> None:
    rows, added = chosen_rows(get_suite("digits"), ["kd@t1-half"])
    assert added == ["kd@t1-half"]
    assert (rows[0].label, rows[0].method) == ("kd@t1-half", "kd")
    assert rows[0].config == {"ce_weight": 0.5, "kd_weight": 0.5, "temperature": 1.0}


def test_a_sum_keeps_the_knobs_of_its_parts_apart() -> None:
    spec = METHODS.get("wttm+kd")
    assert {"wttm.gamma", "kd.temperature"} <= set(spec.hyperparameters)
    config = spec.config("resnet56:resnet20", {"kd.temperature": 2.0}, "test")
    assert (config["wttm.gamma"], config["kd.temperature"]) == (0.3, 2.0)
    assert spec.version != METHODS.get("kd+wttm").version or spec.name != METHODS.get("kd+wttm").name


@pytest.mark.parametrize(
    ("text", "pair", "want"),
    [
        ("wttm+crd", "vgg13:vgg8", {"wttm.gamma": 0.2, "wttm.beta": 4.0, "crd.weight": 0.8}),
        ("wttm+crd", "wrn_40_2:shufflenetv1", {"wttm.gamma": 0.2, "wttm.beta": 0.16, "crd.weight": 0.8}),
        ("wttm+itrd", "resnet110:resnet32", {"wttm.gamma": 0.3, "wttm.beta": 0.015, "itrd.mutual_weight": 1.0}),
        ("wttm+itrd", "resnet50:vgg8", {"wttm.gamma": 0.1, "wttm.beta": 1.0, "itrd.mutual_weight": 0.0}),
        ("wttm+rkd", "vgg13:vgg8", {"wttm.gamma": 0.1, "wttm.beta": 2.25}),
        ("lskd(mlkd)", "resnet34:resnet18", {"lskd.weight": 9.0, "mlkd.weight": 1.0, "mlkd.temperature": 2.0}),
        ("lskd(kd)", "resnet34:resnet18", {"kd.ce_weight": 1.0, "kd.kd_weight": 1.0, "kd.temperature": 2.0}),
        ("lskd(kd)", "resnet50:mobilenetv2", {"lskd.weight": 1.0, "kd.ce_weight": 0.1, "kd.temperature": 3.0}),
        ("lskd(dkd)", "resnet56:resnet20", {"lskd.weight": 18.0, "dkd.beta": 2.0, "dkd.temperature": 3.0}),
        ("lskd(dkd)", "vgg13:vgg8", {"lskd.weight": 15.0, "dkd.beta": 2.0, "dkd.temperature": 2.0}),
    ],
)
def test_a_sum_has_the_values_printed_for_it_and_else_those_of_its_parts(
    text: str, pair: str, want: dict[str, float]
) -> None:
    spec, fixed = METHODS.resolve(text)
    config = spec.config(pair, fixed, "test")
    assert {name: config[name] for name in want} == want


@pytest.mark.parametrize("text", ["wttm+crd", "wttm+itrd"])
def test_wttm_prints_its_sums_for_the_13_pairs(text: str) -> None:
    assert set(METHODS.get("wttm").compositions[text]) == {pair.name for pair in get_suite("cifar100").pairs}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name in METHODS for text in METHODS.get(name).compositions]
)
def test_what_a_card_prints_for_a_composition_reaches_it(name: str, text: str) -> None:
    spec, _ = METHODS.resolve(text)
    assert (spec.name, spec.parts[0].name) == (text, name)
    for pair, values in METHODS.get(name).compositions[text].items():
        config = spec.config("" if pair == "*" else pair, {}, "test")
        assert {knob: config[knob] for knob in values} == values


def _both() -> tuple[Outputs, Outputs]:
    return fake_outputs(1), fake_outputs(2, widths=TEACHER_WIDTHS)


def test_cross_entropy_counts_once_and_every_distillation_term_counts() -> None:
    parts = {name: run(name, *_both()) for name in ("wttm", "rkd")}
    whole = run("wttm+rkd", *_both())
    assert set(whole) == {"ce", "wttm", "distance", "angle"} == set(METHODS.get("wttm+rkd").terms)
    for name, part in (("ce", "wttm"), ("wttm", "wttm"), ("distance", "rkd"), ("angle", "rkd")):
        assert torch.equal(whole[name], parts[part][name])


def test_parts_of_a_sum_whose_terms_share_a_name_are_told_apart() -> None:
    terms = METHODS.get("dkd+kd").terms
    assert len(terms) == 4
    assert sum(role == "task" for role in terms.values()) == 1
    assert set(run("dkd+kd", *_both())) == set(terms)


@settings(max_examples=25)
@given(st.floats(0.1, 20), st.floats(-50, 50), st.booleans())
def test_standardised_logits_ignore_positive_affine_maps(scale: float, shift: float, unbiased: bool) -> None:
    z = torch.randn(5, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(standardise(scale * z + shift, unbiased), standardise(z, unbiased), rtol=1e-5, atol=1e-6)


def test_standardised_logits_have_mean_zero_and_deviation_one() -> None:
    z = torch.randn(4, 10, dtype=torch.float64)
    for unbiased in (False, True):
        scaled = standardise(z, unbiased)
        assert scaled.mean(1).abs().max() < 1e-9
        assert (scaled.std(1, unbiased=unbiased) - 1).abs().max() < 1e-5


def test_logits_are_constant_where_their_precision_tells_no_difference() -> None:
    z = 3 + 1e-8 * torch.randn(4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert standardise(z, unbiased=True).abs().amax(1).min() > 0.05
    assert (standardise(z.float(), unbiased=True) == 0).all()
    assert (standardise(torch.full_like(z, 0.1), unbiased=True) == 0).all()


def test_lskd_leaves_cross_entropy_alone_and_scales_the_rest() -> None:
    knobs = {"kd.ce_weight": 0.1, "kd.kd_weight": 1.0, "kd.temperature": 2.0}
    heavy, light = (run("lskd(kd)", *_both(), **knobs, **{"lskd.weight": w}) for w in (9.0, 3.0))
    plain = run("kd", *_both(), ce_weight=0.1, kd_weight=1.0, temperature=2.0)
    assert torch.equal(heavy["ce"], plain["ce"])
    torch.testing.assert_close(heavy["kd"], 3 * light["kd"])
    assert not torch.allclose(light["kd"], 3 * plain["kd"])


@pytest.mark.parametrize("method", ["lskd(kd)", "lskd(dkd)"])
def test_lskd_on_equal_logits_has_a_finite_gradient(method: str) -> None:
    student, teacher = _both()
    with torch.no_grad():
        student.logits.fill_(3.0)
        teacher.logits.fill_(-1.0)
    total(run(method, student, teacher)).backward()
    assert all(bool(torch.isfinite(leaf.grad).all()) for leaf in leaves(student) if leaf.grad is not None)


def test_a_composition_trains_what_its_parts_and_it_itself_own() -> None:
    whole = build("lskd(kd)", *_both())
    whole.scale = torch.nn.Parameter(torch.ones(1))
    trained = {id(p) for group in whole.parameter_groups() for p in group.parameters}
    assert trained == {id(whole.scale)}
    fitted = build("kd+fitnet", *_both())
    groups = [p for group in fitted.parameter_groups() for p in group.parameters]
    assert {id(p) for p in groups} == {id(p) for p in fitted.parameters()}
    assert len(groups) == len({id(p) for p in groups})


def test_lskd_refuses_what_compares_no_logits() -> None:
    with pytest.raises(UserError, match="logit method only"):
        build("lskd(rkd)", *_both())
