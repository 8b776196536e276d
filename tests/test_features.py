"""Connectors and heads of methods that lead features, and what is measured of these: on cases whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from bench import Bench, suite_text
from steps import TEACHER_WIDTHS, build, fake_outputs, rng, run

from kdbench.errors import NotApplicable, UserError
from kdbench.methods import METHODS, load_class
from kdbench.models.factory import create
from kdbench.models.outputs import DataSpec
from kdbench.records.validate import check
from kdbench.stats.discrepancy import h_divergence, joint_error, mmd
from kdbench.studies.measures import MEASURES
from kdbench.suites import Suite

MakeSuite = Callable[[str], Suite]
DRAWN = np.random.default_rng(0)
ROWS, CLASSES = 4000, 4


def clouds(spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Rows [N,D] around a corner for each class, and their labels."""
    labels = DRAWN.integers(CLASSES, size=ROWS)
    return np.eye(CLASSES)[labels] + spread * DRAWN.normal(size=(ROWS, CLASSES)), labels


def test_equal_features_cannot_be_told_apart() -> None:
    source, labels = clouds()
    assert (h_divergence(source, source.copy()), mmd(source, source.copy())) == (0, 0)
    assert joint_error(source, source.copy(), labels, CLASSES) == 0


def test_features_elsewhere_are_told_apart_and_one_classifier_may_serve_both() -> None:
    source, labels = clouds()
    beside = np.concatenate([source, np.ones((ROWS, 1))], 1)
    source = np.concatenate([source, np.zeros((ROWS, 1))], 1)
    assert h_divergence(source, beside) == 2
    assert mmd(source, beside) > 0.3
    assert joint_error(source, beside, labels, CLASSES) == 0


def test_no_classifier_serves_features_that_mean_another_class() -> None:
    """Each class of the one lies where the next class of the other does: a classifier is right of one at most."""
    source, labels = clouds()
    turned = np.roll(source, 1, axis=1)
    assert joint_error(source, turned, labels, CLASSES) == pytest.approx(1, abs=0.1)
    assert h_divergence(source, turned) < 0.5, "as sets they lie in the same places"


def test_noise_has_the_error_of_chance() -> None:
    noise, other = DRAWN.normal(size=(2, 4000, 3))
    labels = DRAWN.integers(CLASSES, size=4000)
    assert h_divergence(noise, other) < 0.15
    assert mmd(noise, other) < 0.06
    assert joint_error(noise, other, labels, CLASSES) == pytest.approx(2 * (1 - 1 / CLASSES), abs=0.1)


def test_half_of_the_rows_elsewhere_lie_half_as_far() -> None:
    source = DRAWN.normal(size=(4000, 2)) * 0.01
    moved = source + np.array([1.0, 0.0]) * (np.arange(4000) // 2 % 2)[:, None]
    assert h_divergence(source, moved) == pytest.approx(1, abs=0.1)


def test_features_that_never_change_are_no_error() -> None:
    flat = np.ones((40, 3))
    assert mmd(flat, flat) == 0
    assert h_divergence(flat, flat) == 0


@pytest.mark.parametrize("name", ["simkd", "ijckd", "srrl"])
@pytest.mark.parametrize("kind", ["bottleneck", "1x1", "mlp"])
def test_every_connector_leads_into_the_teachers_space(name: str, kind: str) -> None:
    if name == "srrl":
        kind = {"1x1": "map"}.get(kind, kind)
    student, teacher = fake_outputs(0), fake_outputs(1, widths=TEACHER_WIDTHS)
    method = build(name, student, teacher, connector=kind)
    led = method.connected(student)
    assert led is not None
    assert led.shape == teacher.pooled.shape
    assert all(torch.isfinite(value) for value in run(name, student, teacher, connector=kind).values())


@pytest.mark.parametrize("name", ["simkd", "ijckd", "srrl"])
def test_no_connector_needs_maps_of_equal_width(name: str) -> None:
    student, equal = fake_outputs(0), fake_outputs(1)
    method = build(name, student, equal, connector="none")
    assert not list(method.parameters())
    own = student.stages[-1] if name != "srrl" else student.pooled_map
    torch.testing.assert_close(method.connected(student), own.mean((2, 3)))
    with pytest.raises((NotApplicable, UserError), match="without a connector the maps must be of equal width"):
        build(name, student, fake_outputs(1, widths=TEACHER_WIDTHS), connector="none")


def test_defaults_are_in_no_configuration_and_other_values_are() -> None:
    for name in ("simkd", "ijckd", "srrl"):
        spec = METHODS.get(name)
        newer = {knob.name: knob.default for knob in spec.hyperparameters.values() if knob.newer}
        assert newer
        assert not newer.keys() & spec.config("", {}, "test").keys()
        assert spec.config("", newer, "test") == spec.config("", {}, "test")
        other = {"simkd": {"head": "student", "ce_weight": 1.0}}.get(name, {"head": "student"})
        if name == "srrl":
            other = {"head": "teacher"}
        assert other.items() <= spec.config("", other, "test").items()


def test_labels_are_taught_to_the_head_that_is_deployed() -> None:
    student, teacher = fake_outputs(0), fake_outputs(1, widths=TEACHER_WIDTHS)
    own = run("ijckd", student, teacher, head="student")
    reused = run("ijckd", student, teacher)
    assert own["ce"] != reused["ce"]
    assert (own["feature"], own["logit"]) == (reused["feature"], reused["logit"])
    torch.testing.assert_close(own["ce"], run("srrl", student, teacher)["ce"])
    with pytest.raises((NotApplicable, UserError), match="nothing teaches the student's own head"):
        build("simkd", student, teacher, head="student")


@pytest.mark.parametrize("connector", ["map", "pooled", "bottleneck"])
def test_srrl_deploys_the_teachers_classifier_where_it_is_asked_to(connector: str) -> None:
    norm: dict[str, Any] = {"mean": (0.5,), "std": (0.25,), "seed_state": rng(0).get_state()}
    student, teacher = (
        create(model, classes=10, image_shape=(1, 8, 8), **norm).eval() for model in ("tiny_cnn_s", "tiny_cnn_m")
    )
    specs = student.spec("student", (1, 8, 8)), teacher.spec("teacher", (1, 8, 8))
    spec = METHODS.get("srrl")
    data = DataSpec("digits", 10, 20, (1, 8, 8), torch.zeros(20, dtype=torch.int64), 20)
    method = (
        load_class(spec)
        .build(spec, spec.config("", {"head": "teacher", "connector": connector}, "test"), *specs, data)
        .eval()
    )
    x = torch.rand(5, 1, 8, 8, generator=rng(1))
    with torch.no_grad():
        said = method.deployed(student).eval()(x).logits
        led = method.connected(student(x, frozenset({"pooled", "pooled_map"})))
        torch.testing.assert_close(said, teacher.head(led))


def test_a_suite_has_features_measured_and_a_record_says_them(bench: Bench, make_suite: MakeSuite) -> None:
    rows = ["ce", "kd", "srrl", "simkd"]
    trials = bench.trials(
        make_suite(
            suite_text(rows, epochs=1).replace('dataset = "digits"', 'dataset = "digits"\ndiagnostics = ["features"]')
        )
    )
    plain = bench.trials(make_suite(suite_text(rows, epochs=1, name="plain")))
    assert [t.key for t in trials] == [t.key for t in plain], "they are in no key"
    bench.train(trials)
    records = bench.records()
    for record in records.values():
        check("record", record, "here")
    assert records["ce"]["diagnostics"] == records["kd"]["diagnostics"] == {"features": None}
    found = records["simkd"]["diagnostics"]["features"]
    top1 = records["simkd"]["scores"]["last"]["top1"]
    assert found["reused_error"] == pytest.approx(1 - top1 / 100), "it deploys the teacher's classifier"
    assert 0 < found["h_divergence"] <= 2
    read = MEASURES["bound"].read(records["srrl"], "last")
    parts = records["srrl"]["diagnostics"]["features"]
    teacher = 1 - records["srrl"]["teacher"]["top1"] / 100
    assert read == pytest.approx(teacher + parts["h_divergence"] / 2 + parts["joint_error"])


def test_a_diagnostic_that_there_is_not_is_a_sentence(make_suite: MakeSuite) -> None:
    with pytest.raises(UserError, match="diagnostics may list features, not 'hessian'"):
        make_suite(suite_text(["ce"]).replace('dataset = "digits"', 'dataset = "digits"\ndiagnostics = ["hessian"]'))
