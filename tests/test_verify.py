"""A record is believed as far as its stored predictions bear it out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import render_records as rr
from bench import ROOT

from kdbench.data import DATASETS, load
from kdbench.data.builtin import BUILTIN
from kdbench.data.spec import labels_digest
from kdbench.errors import UserError
from kdbench.records.verify import score, verify
from kdbench.render import build


def _verified(change):
    arrays = rr.predictions(0.5, 1)
    record = rr.record(arrays=arrays)
    record["predictions"] = {"sha256": "0" * 64}
    record, arrays = change(record, arrays)
    return verify([record], lambda _: score(arrays))


def _said(field, value):
    def change(record, arrays):
        record["scores"]["last"][field] = value
        return record, arrays

    return change


@pytest.mark.parametrize(("field", "value"), [("top1", 99.0), ("top5", 1.0), ("nll", 0.1), ("ece", 0.9)])
def test_a_record_that_its_predictions_do_not_bear_out_is_named_and_left_out(field, value):
    kept, (problem,) = _verified(_said(field, value))
    assert not kept
    assert f"the record says last {field} {value:.4f}" in problem.text
    assert problem.suite == "cifar100-short@1"


def test_rounding_to_float16_is_no_mismatch():
    def exact(record, arrays):
        record["scores"]["last"]["nll"] *= 1.0004
        return record, arrays

    (kept,), problems = _verified(exact)
    assert not problems
    assert kept["scores"]["last"]["top1"] == rr.score_predictions(rr.predictions(0.5, 1), "last")["top1"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("labels", np.zeros((3, 3), int)),
        ("last_top5", np.zeros((2, 5), int)),
        ("last_top_p", np.full(rr.IMAGES, np.nan)),
        ("last_log_p_true", np.array(["x"] * rr.IMAGES)),
    ],
)
def test_unsound_arrays_are_a_problem_by_name(name, value):
    kept, (problem,) = _verified(lambda record, arrays: (record, {**arrays, name: value}))
    assert not kept
    assert "lacks sound arrays for last" in problem.text


def _flat(value: float, top_p: float) -> dict[str, np.ndarray]:
    images = np.ones(rr.IMAGES)
    return {"last_log_p_true": value * images, "last_top_p": top_p * images}


@pytest.mark.parametrize(
    "arrays",
    [_flat(100.0, 1.0), _flat(0.0, 1.0), _flat(-1.0, 0.0), _flat(-1.0, 1.5), _flat(-9.0, 0.9)],
    ids=["above one", "sure of what is wrong", "a zero", "more than one", "unsure of what is right"],
)
def test_what_no_network_can_say_is_no_prediction(arrays):
    kept, (problem,) = _verified(lambda record, own: (record, own | arrays))
    assert not kept
    assert "the probabilities in its prediction file are none for last" in problem.text


def test_no_class_is_likelier_than_the_likeliest_and_none_is_beyond_the_datas():
    even = rr.predictions(0.5, 1) | _flat(-9.0, 0.01)
    even["last_top5"] = even["last_top5"] * 0 + (even["labels"][:, None] + 1) % rr.CLASSES
    assert score(even, 100).scores["last"]["top1"] == 0
    with pytest.raises(UserError, match="probabilities in its prediction file are none for last"):
        score(even, rr.CLASSES)
    with pytest.raises(UserError, match="names classes for last that its data has not"):
        score(rr.predictions(0.5, 1), rr.CLASSES - 1)


def test_an_epoch_that_is_best_and_last_is_judged_once_and_by_its_own_arrays():
    arrays = rr.predictions(0.5, 1)
    parts = ("top5", "top_p", "log_p_true")
    twins = arrays | {f"best_test_{part}": arrays[f"last_{part}"] for part in parts}
    copies = arrays | {f"best_test_{part}": arrays[f"last_{part}"].copy() for part in parts}
    assert score(twins) == score(copies)
    sure = {**twins, "best_test_top_p": (arrays["last_top_p"] * 1.01).astype(np.float16)}
    assert score(sure).scores["best_test"]["ece"] != score(twins).scores["best_test"]["ece"], "one array is another"


def _with_labels(shift, seed, data="d" * 64, evidence="measured"):
    """A record whose predictions and test labels are those of other records, shifted; and its arrays."""
    arrays = rr.predictions(0.5, seed)
    for name in ("labels", "last_top5", "best_test_top5"):
        arrays[name] = (arrays[name] + shift) % rr.CLASSES
    record = rr.record(seed=seed, arrays=arrays, evidence=evidence)
    record["identity"]["data"]["sha256"] = data
    return {**record, "predictions": {"sha256": f"{seed:064}"}}, arrays


def _kept(*made):
    arrays = {record["predictions"]["sha256"]: found for record, found in made}
    kept, problems = verify([r for r, _ in made], lambda record: score(arrays[record["predictions"]["sha256"]]))
    return [record["seed"] for record in kept], [problem.text for problem in problems]


def test_the_data_sets_own_labels_decide_and_no_majority(monkeypatch):
    """31 records with false labels once evicted 30 honest ones."""
    spec = DATASETS.get("cifar100")
    monkeypatch.setitem(DATASETS._items, "cifar100", replace(spec, test_labels=labels_digest(rr.LABELS)))
    made = [_with_labels(int(seed < 31), seed, spec.digest) for seed in range(61)]
    seeds, problems = _kept(*made)
    assert seeds == list(range(31, 61))
    assert len(problems) == 31
    assert all("test labels are not those of cifar100" in text for text in problems)


def test_where_nobody_knows_the_labels_contributed_records_evict_no_measured_one():
    seeds, problems = _kept(
        _with_labels(0, 0), *(_with_labels(1, seed, evidence="contributed") for seed in range(1, 9))
    )
    assert seeds == [0]
    assert len(problems) == 8
    assert all("disagree on the test labels" in text for text in problems)


def test_measured_records_that_disagree_on_unknown_labels_are_all_left_out():
    seeds, problems = _kept(_with_labels(0, 0), _with_labels(0, 1), _with_labels(1, 2), _with_labels(1, 3, "e" * 64))
    assert seeds == [3], "which is of other data"
    assert len(problems) == 3


@pytest.mark.parametrize("name", ["digits"])
def test_the_labels_of_a_built_in_data_set_are_those_of_its_specification(name, tmp_path):
    assert labels_digest(load(name, tmp_path).test_labels) == DATASETS.get(name).test_labels


def test_every_built_in_data_set_says_what_its_test_labels_are():
    assert all(spec.test_labels for spec in BUILTIN)
    assert DATASETS.get("imagenet").test_labels == labels_digest(np.repeat(np.arange(1000), 50))


def test_the_records_of_this_checkout_are_borne_out(tmp_path: Path) -> None:
    assert build(ROOT / "results", tmp_path / "site").problems == []
