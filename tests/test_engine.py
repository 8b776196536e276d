"""The engine's promise: equal keys and equal numerics give equal bits, and a bad method harms itself only."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import golden_training
import numpy as np
import pytest
import torch
from bench import METHOD_ROWS, STEPS, Bench, same_bits, suite_text
from torch.nn import functional as F

from kdbench.data import load
from kdbench.errors import UserError
from kdbench.methods.zoo.ce import CE
from kdbench.methods.zoo.kd import kd_loss
from kdbench.models.factory import create
from kdbench.plan.expand import Selection, inapplicable
from kdbench.plan.speeds import Speeds
from kdbench.records import Record
from kdbench.render.speeds import speeds
from kdbench.stats.scores import score_predictions
from kdbench.suites import Suite
from kdbench.teachers.facts import TeacherShelf
from kdbench.teachers.weights import read_weights, weights_digest
from kdbench.train import pace
from kdbench.train.batches import Batches
from kdbench.train.device import numerics
from kdbench.train.member import Member
from kdbench.train.rate import learning_rate
from kdbench.train.seeds import seeded

MakeSuite = Callable[[str], Suite]
CPU = torch.device("cpu")


def together(bench: Bench, suite: Suite, *methods: str, plugins: tuple[str, ...] = ()) -> dict[str, Record]:
    return bench.train(bench.trials(suite, *methods), plugins)


def test_a_training_whose_every_step_compiled_has_no_speed(
    taught: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Member, "_compiled", lambda self, size: True)
    suite = make_suite(suite_text(["ce", "kd"], epochs=1))
    records = list(together(taught, suite).values())
    for record in records:
        assert (record["status"], record["cost"]["seconds"]) == ("finished", 0)
        for name in ("train_images_per_s", "train_images_per_s_shared", "train_fraction", "ratio_to_ce"):
            assert record["cost"][name] is None
    assert speeds(records)[0].train is None
    assert Speeds("cpu", records, taught.folder / "none")._recorded == []


def test_a_method_that_no_batch_is_large_enough_for_is_not_applicable(bench: Bench, make_suite: MakeSuite) -> None:
    """Said by the plan already; and by the engine, should nobody have planned it."""
    suite = make_suite(suite_text(["semckd"], batch=1400, epochs=1))
    ((_, _, reason),) = inapplicable(suite, Selection())
    assert "1400" in reason
    (trial,) = bench.trials(make_suite(suite_text(["semckd"], name="planned", epochs=1)))
    trial = dataclasses.replace(trial, protocol=dataclasses.replace(trial.protocol, batch=1400))
    record = bench.train([trial])["semckd"]
    assert record["status"] == "inapplicable"
    assert "batches of 1400 images or more, and there are 1200 training images" in record["detail"]


def test_trained_again_gives_the_same_bits_and_other_seeds_and_streams_others(
    bench: Bench, make_suite: MakeSuite
) -> None:
    rows = ["ce", {"name": "ce", "label": "again", "stream": 1}]
    suite = make_suite(suite_text(rows, epochs=1, seeds=[0, 1]))
    trials = bench.trials(suite)
    assert len(trials) == 4
    bench.train(trials)
    first, _ = bench.store.read()
    again = bench.again("again")
    again.train(trials)
    second, _ = again.store.read()
    assert len({r["weights_sha256"] for r in first}) == 4
    assert all(same_bits(*pair) for pair in zip(first, second, strict=True))


def test_a_plain_loop_reaches_the_same_weights(bench: Bench, make_suite: MakeSuite) -> None:
    """The engine adds nothing of its own: a dozen lines of PyTorch, with the documented seeds, give its bits."""
    suite = make_suite(suite_text(["ce", "kd"]))
    records = together(bench, suite)
    dataset = load("digits", bench.folder / "data")
    protocol, norm = suite.protocol, ((0.3057,), (0.3762,))
    batches = Batches(dataset, protocol, 0, 0, CPU)
    shape = dataset.spec.image_shape
    (kd,) = bench.trials(suite, "kd")
    assert kd.teacher is not None
    shelf = TeacherShelf(bench.folder / "cache", kd.teacher, kd.dataset, kd.data_digest, numerics(CPU))
    teacher = create("tiny_cnn_s", classes=10, image_shape=shape, mean=norm[0], std=norm[1])
    teacher.body.load_state_dict(read_weights(shelf.weights))
    teacher.to(memory_format=torch.channels_last).eval()
    for label in ("ce", "kd"):
        with seeded(0, 0, "student"):
            student = create("tiny_cnn_s", classes=10, image_shape=shape, mean=norm[0], std=norm[1])
        student.to(memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
        for step in range(2 * STEPS):
            optimiser.param_groups[0]["lr"] = learning_rate(protocol, step, STEPS)
            batch = batches.batch(step)
            logits = student(batch.x).logits
            if label == "ce":
                loss = F.cross_entropy(logits, batch.y)
            else:
                with torch.no_grad():
                    taught = teacher(batch.x).logits
                config = kd.config
                loss = config["ce_weight"] * F.cross_entropy(logits, batch.y)
                loss = torch.stack([loss, config["kd_weight"] * kd_loss(logits, taught, config["temperature"])]).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert weights_digest(student.state_dict()) == records[label]["weights_sha256"], label


def test_a_record_agrees_with_its_predictions_curve_and_teacher(bench: Bench, make_suite: MakeSuite) -> None:
    suite = make_suite(suite_text(["ce", "kd"], epochs=4))
    records = together(bench, suite)
    for label, record in records.items():
        arrays = bench.store.predictions(record)
        dataset = load("digits", bench.folder / "data")
        assert np.array_equal(arrays["labels"], dataset.test_labels)
        curve, scores = record["curve"], record["scores"]
        assert [point["epoch"] for point in curve] == [1, 2, 3, 4]
        assert [p["lr"] for p in curve] == [learning_rate(suite.protocol, STEPS * e - 1, STEPS) for e in (1, 2, 3, 4)]
        for selection in ("last", "best_val", "best_test"):
            said = {k: scores[selection][k] for k in ("top1", "top5", "nll", "ece")}
            assert said == score_predictions(arrays, selection)
            point = curve[scores[selection]["epoch"] - 1]
            assert (scores[selection]["top1"], scores[selection]["val_top1"]) == (point["test_top1"], point["val_top1"])
        assert scores["last"]["epoch"] == 4
        test, val = [p["test_top1"] for p in curve], [p["val_top1"] for p in curve]
        assert scores["best_test"]["epoch"] == test.index(max(test)) + 1, "the first of equals"
        assert scores["best_val"]["epoch"] == val.index(max(val)) + 1
        cost = record["cost"]
        assert cost["parameters"] == sum(
            p.numel() for p in create("tiny_cnn_s", classes=10, image_shape=(1, 8, 8), mean=(0,), std=(1,)).parameters()
        )
        assert (cost["cohort_size"], cost["ratio_to_ce"] == 1.0) == (2, label == "ce")
        assert cost["train_images_per_s_shared"] < cost["train_images_per_s"]
        operations, most = cost["flops"] / 1e9, cost["ceiling_gflops_per_s"]
        assert cost["inference_fraction"] == pytest.approx(operations * cost["inference_images_per_s_best"] / most)
        assert cost["train_fraction"] == pytest.approx(3 * operations * cost["train_images_per_s"] / most)
        assert (record["teacher"] is None) == (label == "ce")
        assert (scores["last"]["agreement"] is None) == (label == "ce")
    (kd,) = bench.trials(suite, "kd")
    assert kd.teacher is not None
    shelf = TeacherShelf(bench.folder / "cache", kd.teacher, kd.dataset, kd.data_digest, numerics(CPU))
    taught = np.load(shelf.logits).argmax(1)
    mine = bench.store.predictions(records["kd"])["last_top5"][:, 0]
    assert records["kd"]["scores"]["last"]["agreement"] == pytest.approx((taught == mine).mean() * 100)
    facts = shelf.facts()
    assert facts is not None
    assert records["kd"]["teacher"]["top1"] == facts.top1 == pytest.approx((taught == dataset.test_labels).mean() * 100)
    assert "ratio_to_ce" in records["kd"]["cost"]


def test_without_a_plain_student_one_is_stepped_for_its_time_and_no_bit_moves(
    taught: Bench, good: tuple[Path, dict[str, Record]], make_suite: MakeSuite
) -> None:
    suite = make_suite(suite_text(METHOD_ROWS))
    for cores in (1, 2):
        timed = taught.again(f"timed-{cores}")
        shutil.copytree(taught.folder / "cache" / "teachers", timed.folder / "cache" / "teachers")
        timed.cores = cores
        records = together(timed, suite, "kd", "fitnet")
        assert set(records) == {"kd", "fitnet"}
        for label, record in records.items():
            assert record["cost"]["ratio_to_ce"] > 0
            assert record["cost"]["cohort_size"] == 2
            assert same_bits(record, good[1][label])


@pytest.mark.parametrize("constants", [{"STEPS": 3}, {"SECONDS": 0.0, "SHARE": 0.0}])
def test_few_steps_of_a_plain_student_tell_nothing(
    taught: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch, constants: dict[str, float]
) -> None:
    for name, value in constants.items():
        monkeypatch.setattr(pace, name, value)
    records = together(taught, make_suite(suite_text(["kd"], epochs=1)))
    assert records["kd"]["cost"]["ratio_to_ce"] is None


def test_a_plain_student_that_diverges_costs_nobody_anything(
    taught: Bench, good: tuple[Path, dict[str, Record]], make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CE, "loss", lambda self, step: {"ce": step.student.logits.sum() * float("nan")})
    monkeypatch.setattr("kdbench.train.member.FINITE_EVERY", 3)
    record = together(taught, make_suite(suite_text(METHOD_ROWS)), "kd")["kd"]
    assert record["cost"]["ratio_to_ce"] is None
    assert same_bits(record, good[1]["kd"])


def test_all_methods_start_from_one_student_and_see_one_order(bench: Bench, make_suite: MakeSuite) -> None:
    rate = suite_text(METHOD_ROWS, epochs=1).replace("lr = 0.1", "lr = 1e-30").replace("weight_decay = 5e-4", "")
    records = together(bench, make_suite(rate))
    kept = {label: record["curve"][0] for label, record in records.items()}
    assert len({point["train_top1"] for point in kept.values()}) == 1
    assert len({point["test_top1"] for point in kept.values()}) == 1


def test_a_data_set_that_changed_since_the_plan_is_refused(bench: Bench, make_suite: MakeSuite) -> None:
    trials = [replace(trial, data_digest="0" * 64) for trial in bench.trials(make_suite(suite_text(["ce"])))]
    with pytest.raises(UserError, match="changed since the run was planned; start the run again"):
        bench.train(trials)


def test_a_trial_that_is_recorded_is_not_trained_again(bench: Bench, make_suite: MakeSuite) -> None:
    trials = bench.trials(make_suite(suite_text(["ce"], epochs=1)))
    bench.train(trials)
    bench.events.clear()
    bench.train(trials)
    assert bench.events == []


def test_a_short_training_is_the_one_it_was(bench: Bench) -> None:
    """When code that moves numbers changes: raise ENGINE_VERSION or the method's version, and keep the digests anew."""
    expected = golden_training.kept().get(golden_training.platform())
    if expected is None:
        pytest.skip(f"python tests/golden_training.py keeps digests of {golden_training.platform()}; there are none")
    found = golden_training.trained(bench)
    assert {name: found[name] for name in expected} == expected  # a platform may have been asked before a row was there
