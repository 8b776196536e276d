"""What a card says a method is not defined for is planned around, with a reason, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdbench.data import DATASETS
from kdbench.data.randaugment import GREY
from kdbench.methods import METHODS, Applicability
from kdbench.methods.applicability import not_applicable
from kdbench.methods.card import VIEW_CHANNELS
from kdbench.plan.expand import Selection, expand, inapplicable
from kdbench.suites import get_suite

SUITE = get_suite("cifar100")


@pytest.mark.parametrize(
    ("applies", "student", "teacher", "reason"),
    [
        (Applicability(equal_channels=True), "wrn_16_2", "wrn_40_2", ""),
        (Applicability(equal_channels=True), "wrn_40_1", "wrn_40_2", "equal width"),
        (Applicability(equal_stages=True), "vgg8", "resnet56", "vgg8 has 4 and resnet56 has 3"),
        (Applicability(equal_stages=True), "vgg8", "vgg13", ""),
        (Applicability(stages=4), "resnet20", "resnet56", "4 stages, resnet20 has 3"),
        (Applicability(maps=True), "mlp_800_800", "mlp_1200_1200", "single pixel"),
        (Applicability(maps=True), "resnet20", "resnet56", ""),
        (Applicability(min_batch=128), "resnet20", "resnet56", "128 images"),
        (Applicability(min_batch=64), "resnet20", "resnet56", ""),
        (Applicability(equal_channels=True), "timm/resnet18", "resnet56", ""),  # known only once it is built
    ],
)
def test_reason(applies: Applicability, student: str, teacher: str, reason: str) -> None:
    method = replace(METHODS.get("kd"), applies=applies)
    said = not_applicable(method, student, teacher, "cifar100", SUITE.protocol)
    assert (reason in said) if reason else said == ""


@pytest.mark.parametrize("name", ["simkd", "cat_kd", "sdd_kd", "sdd_dkd", "sdd_nkd", "norm", "srrl", "ijckd"])
def test_a_convolution_after_the_last_stage_excludes_no_method(name: str) -> None:
    for pair in ("vgg13:mobilenetv2_cifar", "resnet32x4:shufflenetv2_cifar", "shufflenetv2_cifar:resnet8x4"):
        teacher, student = pair.split(":")
        assert not_applicable(METHODS.get(name), student, teacher, "cifar100", SUITE.protocol) == "", pair


def test_maps_shrink_with_the_images() -> None:
    method = replace(METHODS.get("kd"), applies=Applicability(maps=True))
    assert not_applicable(method, "resnet20", "vgg8", "digits", SUITE.protocol)


def test_views_are_of_grey_and_of_colour_images() -> None:
    DATASETS.add("spectra", replace(DATASETS.get("cifar100"), name="spectra", image_shape=(4, 32, 32)), "test")
    assert tuple(sorted(GREY)) == VIEW_CHANNELS
    for name, dataset, reason in (
        ("mlkd", "spectra", "these have 4 channels"),
        ("mlkd", "digits", ""),
        ("kd", "spectra", ""),
    ):
        said = not_applicable(METHODS.get(name), "timm/resnet18", "timm/resnet34", dataset, SUITE.protocol)
        assert (reason in said) if reason else said == "", (name, dataset)


def test_a_row_that_does_not_apply_is_no_trial_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = replace(METHODS.get("dist"), applies=Applicability(equal_channels=True))
    monkeypatch.setitem(METHODS._items, "dist", narrow)
    selection = Selection(pairs=("wrn_40_2:wrn_*",), methods=("dist", "kd"), seeds=1)
    pins = {"wrn_40_2": "0" * 64}
    trials = {(t.label, t.pair) for t in expand(SUITE, selection, "0" * 64, pins)}
    assert ("dist", "wrn_40_2:wrn_16_2") in trials
    assert ("dist", "wrn_40_2:wrn_40_1") not in trials
    assert ("kd", "wrn_40_2:wrn_40_1") in trials
    assert [(label, pair) for label, pair, _ in inapplicable(SUITE, selection)] == [("dist", "wrn_40_2:wrn_40_1")]
