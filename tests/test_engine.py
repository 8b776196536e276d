"""The engine's promise: equal keys and equal numerics give equal bits, and a bad method harms itself only."""

from __future__ import annotations

import re
import shutil
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden_training
import numpy as np
import pytest
import torch
from bench import PHASED, STEPS, Bench, add_drop_net, same_bits, suite_text
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from kdbench.data import load, split
from kdbench.errors import DeviceFailure, UserError
from kdbench.methods.ce import CE
from kdbench.methods.kd import kd_loss
from kdbench.models.factory import create
from kdbench.plan.cohorts import cohorts
from kdbench.plan.cost import measured_rate
from kdbench.plan.protocol import Protocol
from kdbench.plugins import load_plugins
from kdbench.records import Record
from kdbench.render.speeds import speeds
from kdbench.stats.scores import score_predictions
from kdbench.suites import Suite, parse_suite
from kdbench.teachers.facts import TeacherShelf
from kdbench.teachers.weights import read_weights, weights_digest
from kdbench.train import cohort, lockstep, pace
from kdbench.train.account import Account
from kdbench.train.batches import Batches
from kdbench.train.device import numerics
from kdbench.train.lockstep import Lockstep, Shared
from kdbench.train.member import Member
from kdbench.train.rate import learning_rate
from kdbench.train.seeds import seeded
from kdbench.train.taught import Taught, teach

MakeSuite = Callable[[str], Suite]
CPU = torch.device("cpu")
METHOD_ROWS = ("ce", "kd", "fitnet")


def together(bench: Bench, suite: Suite, *methods: str, plugins: tuple[str, ...] = ()) -> dict[str, Record]:
    return bench.train(bench.trials(suite, *methods), plugins)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Record]]:
    """The methods of a suite in good company: their cache, for its teacher, and their records."""
    bench = Bench(tmp_path_factory.mktemp("good"))
    records = together(bench, parse_suite(suite_text(METHOD_ROWS), "tiny.toml"))
    return bench.folder / "cache", records


@pytest.fixture
def taught(bench: Bench, good: tuple[Path, dict[str, Record]]) -> Bench:
    """A bench on which that teacher is ready."""
    shutil.copytree(good[0] / "teachers", bench.folder / "cache" / "teachers")
    return bench


def test_alone_in_company_and_in_any_order(bench: Bench, make_suite: MakeSuite) -> None:
    """With a student that draws random numbers while it trains, and a method that has weights of its own."""
    add_drop_net()
    load_plugins([bench.plugin("phased", **PHASED)])
    rows = ("ce", "fitnet", "phased")
    suite = make_suite(suite_text(rows, student="drop_net"))
    company = together(bench, suite)
    assert {r["status"] for r in company.values()} == {"finished"}
    assert len({r["weights_sha256"] for r in company.values()}) == 3
    for label in rows:
        alone = bench.again(f"alone-{label}")
        shutil.copytree(bench.folder / "cache", alone.folder / "cache")
        assert same_bits(together(alone, suite, label)[label], company[label]), label
    turned = bench.again("turned")
    records = turned.train(list(reversed(turned.trials(suite))))
    assert all(same_bits(records[label], company[label]) for label in rows)


BAD: dict[str, dict[str, Any]] = {
    "nan": {"loss": "if step.epoch == 2: terms['ce'] = terms['ce'] * float('nan')"},
    "infinite": {"loss": "if step.epoch == 2: terms['ce'] = terms['ce'] + float('inf')"},
    "explodes": {"loss": "terms['ce'] = terms['ce'] * 1e38"},
    "raises": {"loss": "if step.progress > 0.2: raise ValueError('no luck')"},
    "setup": {"setup": "raise ValueError('no luck')"},
    "undeclared": {"loss": "terms['extra'] = terms['ce']"},
    "nothing": {"loss": "terms = {}"},
    "vector": {"loss": "terms['ce'] = terms['ce'].repeat(3)"},
    "number": {"loss": "terms['ce'] = 0.5"},
    "detached": {"loss": "terms['ce'] = terms['ce'].detach()"},
    "none": {"loss": "return None"},
    "exits": {"loss": "if step.progress > 0.2: sys.exit(0)"},
    "setupexits": {"setup": "sys.exit('bye')"},
    "backward": {
        "loss": "terms['ce'] = Bad.apply(terms['ce'])",
        "top": """
class Bad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, g): raise ValueError('no luck')
""",
    },
}
ENDS = {
    "nan": ("diverged", "epoch 2"),
    "infinite": ("diverged", "epoch 2"),
    "explodes": ("diverged", "epoch 1"),
    "raises": ("crashed", "ValueError: no luck"),
    "setup": ("crashed", "ValueError: no luck"),
    "undeclared": ("crashed", "['ce', 'extra'], its card declares ['ce']"),
    "nothing": ("crashed", "its card declares ['ce']"),
    "vector": ("crashed", "must be a scalar"),
    "number": ("crashed", "must be a scalar"),
    "detached": ("crashed", "does not require grad"),
    "none": ("crashed", "must return"),
    "exits": ("crashed", "SystemExit"),
    "setupexits": ("crashed", "SystemExit: bye"),
    "backward": ("crashed", "ValueError: no luck"),
}


def test_a_bad_method_costs_its_own_trial_only(
    taught: Bench, good: tuple[Path, dict[str, Record]], make_suite: MakeSuite, capfd: pytest.CaptureFixture[str]
) -> None:
    files = tuple(taught.plugin(name, **parts) for name, parts in BAD.items())
    load_plugins(files)
    names = list(BAD)
    suite = make_suite(suite_text([*names[:7], "ce", *names[7:], "kd"], name="mixed"))
    trials = taught.trials(suite)
    assert len(cohorts(trials)) == 1
    records = taught.train(trials, files)
    for label in ("ce", "kd"):
        assert same_bits(records[label], good[1][label]), label
    for name, (status, words) in ENDS.items():
        assert records[name]["status"] == status, (name, records[name]["detail"])
        assert words in records[name]["detail"], (name, records[name]["detail"])
        assert records[name]["scores"] == {"last": None, "best_val": None, "best_test": None}
        assert records[name]["predictions"] is records[name]["weights_sha256"] is None
    assert len(records["nan"]["curve"]) == 1
    assert "Traceback" not in capfd.readouterr().out
    assert not list((taught.folder / "cache" / "checkpoints").glob("*"))


RUDE: dict[str, dict[str, Any]] = {
    "draws": {
        "loss": "torch.manual_seed(1); torch.rand(9); import random, numpy; random.seed(1); numpy.random.seed(1)"
    },
    "batch": {"loss": "step.x.zero_(); step.y.zero_()"},
    "index": {"loss": "step.index.zero_()"},
    "logits": {"loss": "step.teacher.logits.zero_()", "needs": ["teacher"]},
    "maps": {"loss": "step.teacher.stages[1].zero_()", "needs": ["teacher", "stages"]},
    "keeps": {"setup": "self.teacher = teacher.module", "needs": ["teacher"]},
    "trains": {
        "loss": "self.t.train()",
        "setup": "object.__setattr__(self, 't', teacher.module)",
        "needs": ["teacher"],
    },
    "nograd": {"loss": "torch.set_grad_enabled(False)"},
    "labels": {"setup": "data.labels.zero_()"},
}


@pytest.mark.parametrize("cores", [1, 3])
def test_a_method_that_touches_what_it_shares_changes_no_other(
    taught: Bench, good: tuple[Path, dict[str, Record]], make_suite: MakeSuite, cores: int
) -> None:
    """The rude ones stand first in the cohort; those behind must train as if they were not there."""
    taught.cores = cores
    files = tuple(taught.plugin(name, **parts) for name, parts in RUDE.items())
    load_plugins(files)
    suite = make_suite(suite_text([*RUDE, *METHOD_ROWS], name="mixed"))
    records = together(taught, suite, plugins=files)
    assert torch.is_grad_enabled()
    for label in METHOD_ROWS:
        assert records[label]["status"] == "finished", records[label]["detail"]
        assert same_bits(records[label], good[1][label]), label
    for name in ("batch", "index", "logits", "maps"):
        assert records[name]["status"] == "crashed"
        assert re.search("in ?place", records[name]["detail"])


def test_a_plugin_cannot_reach_the_teacher_that_others_learn_from(
    taught: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On several cores that teacher may be looking at the next batch while the plugin's loss runs."""
    (plugin,) = (taught.plugin("trains", **RUDE["trains"]),)
    load_plugins((plugin,))
    modes: set[bool] = set()
    share = Lockstep._share

    def watched(self: Lockstep, step: int, due: Sequence[Member]) -> Shared:
        assert self.teacher is not None
        modes.add(self.teacher.training)
        return share(self, step, due)

    monkeypatch.setattr(Lockstep, "_share", watched)
    suite = make_suite(suite_text(["trains", "kd"], name="mixed"))
    together(taught, suite, plugins=(plugin,))
    assert modes == {False}


def test_a_batch_made_again_waits_for_the_one_that_is_made_ahead(
    taught: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher with hooks, as all library networks are, would hand one thread what another computes."""
    plugin = taught.plugin("late", loss="if step.epoch == 2: raise RuntimeError('no')")
    load_plugins([plugin])
    inside: list[int] = []
    most = 0

    def alone(*arguments: Any) -> Taught:
        nonlocal most
        inside.append(1)
        most = max(most, len(inside))
        time.sleep(0.02)
        made = teach(*arguments)
        inside.pop()
        return made

    monkeypatch.setattr(lockstep, "teach", alone)
    taught.cores = 3
    records = together(taught, make_suite(suite_text(["late", "kd"])), plugins=(plugin,))
    assert {label: record["status"] for label, record in records.items()} == {"late": "crashed", "kd": "finished"}
    assert most == 1


def test_a_gpu_that_fails_is_no_members_fault(taught: Bench, make_suite: MakeSuite) -> None:
    """Its error comes back from every later call: the worker ends, and everybody goes on elsewhere."""
    plugin = taught.plugin("fatal", loss="raise torch.AcceleratorError('CUDA error: device-side assert triggered')")
    load_plugins([plugin])
    suite = make_suite(suite_text(["kd", "fatal"], epochs=1))
    with pytest.raises(DeviceFailure, match="device-side assert"):
        together(taught, suite, plugins=(plugin,))
    assert taught.records() == {}
    assert together(taught, suite, "kd")["kd"]["status"] == "finished"


def test_a_network_that_cannot_be_counted_costs_its_own_trial(
    taught: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = Account.section

    def fails_once(self: Account, member: Member) -> dict[str, Any]:
        if member.trial.label == "ce":
            raise ValueError("two outputs")
        return section(self, member)

    monkeypatch.setattr(Account, "section", fails_once)
    records = together(taught, make_suite(suite_text(["ce", "kd"], epochs=1)))
    assert (records["ce"]["status"], records["ce"]["detail"]) == ("crashed", "ValueError: two outputs")
    assert records["kd"]["status"] == "finished"


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
    assert measured_rate(records, taught.trials(suite), "cpu") is None


def test_a_method_that_no_batch_is_large_enough_for_is_not_applicable(bench: Bench, make_suite: MakeSuite) -> None:
    (record,) = together(bench, make_suite(suite_text(["semckd"], batch=1400, epochs=1))).values()
    assert record["status"] == "inapplicable"
    assert "batches of 1400 images or more, and there are 1200 training images" in record["detail"]


def test_students_that_memory_parts_train_one_after_the_other_and_make_room(
    taught: Bench, good: tuple[Path, dict[str, Record]], make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those before are gone, or there would be room for fewer and fewer, when the memory for the next is looked up."""
    known: list[weakref.ref[Member]] = []
    alive = []
    build = Member.__init__

    def counted(self: Member, *args: Any, **kwargs: Any) -> None:
        known.append(weakref.ref(self))
        build(self, *args, **kwargs)

    def free(*_: object) -> int:
        alive.append(sum(member() is not None for member in known))
        return 1

    monkeypatch.setattr(Member, "__init__", counted)
    monkeypatch.setattr(cohort, "free_memory", free)
    records = together(taught, make_suite(suite_text(METHOD_ROWS)))
    assert alive == [0, 0, 0]
    assert all(same_bits(records[label], good[1][label]) for label in METHOD_ROWS)
    assert {record["cost"]["cohort_size"] for record in records.values()} == {1}


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


def batches(**fields: Any) -> Batches:
    protocol = Protocol(**{"epochs": 3, "batch": 200, "lr": 0.1, "augmentation": "none", "holdout": 97, **fields})
    return Batches(load("digits", Path("nowhere")), protocol, fields.pop("seed", 0), 0, CPU)


def test_an_epoch_shows_every_training_image_once_and_no_held_out_one() -> None:
    made = batches()
    dataset = load("digits", Path("nowhere"))
    train, held = split(dataset.train_labels, 97, 0)
    assert (made.steps_per_epoch, made.total_steps) == (STEPS, 3 * STEPS)
    epochs = []
    for epoch in range(2):
        seen = torch.cat([made.batch(epoch * STEPS + step).index for step in range(STEPS)])
        assert sorted(seen.tolist()) == list(range(1200))
        epochs.append(seen.tolist())
    assert epochs[0] != epochs[1]
    batch = made.batch(5)
    places = train[batch.index]
    assert not set(places.tolist()) & set(held.tolist())
    assert np.array_equal(batch.x.numpy(), dataset.train_images[places].astype(np.float32) / 255)
    assert np.array_equal(batch.y.numpy(), dataset.train_labels[places])


def test_the_last_batch_of_an_epoch_may_be_short() -> None:
    made = batches(batch=128, holdout=0)
    assert made.steps_per_epoch == 11
    assert len(made.batch(10).y) == 1297 - 10 * 128
    assert len(made.batch(11).y) == 128


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3 * STEPS - 1), min_size=1, max_size=6))
def test_a_batch_is_the_same_in_whatever_order_it_is_asked_for(steps: list[int]) -> None:
    made, fresh = batches(augmentation="crop_flip", pad=1), batches(augmentation="crop_flip", pad=1)
    for step in range(2 * STEPS):
        made.batch(step)
    for step in steps:
        one, other = made.batch(step), fresh.batch(step)
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.index, other.index)


def test_an_augmentation_that_needs_files_is_refused() -> None:
    with pytest.raises(UserError, match="augmentation 'resized_crop_flip' is not offered"):
        batches(augmentation="resized_crop_flip")


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
    assert golden_training.trained(bench) == expected
