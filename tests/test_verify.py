"""A record is believed as far as its stored predictions bear it out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import render_records as rr
from bench import ROOT

from kdbench.render import build
from kdbench.render.verify import verify


def _verified(change):
    arrays = rr.predictions(0.5, 1)
    record = rr.record(arrays=arrays)
    record["predictions"] = {"file": "x", "sha256": "0" * 64}
    record, arrays = change(record, arrays)
    return verify([record], lambda _: arrays)


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


def test_other_test_labels_than_the_suites_are_refused():
    def arrays(record):
        found = rr.predictions(0.5, record["seed"])
        if record["seed"] == 2:
            for name in ("labels", "last_top5", "best_test_top5"):
                found[name] = (found[name] + 1) % rr.CLASSES
        return found

    records = [{**rr.record(seed=s), "predictions": {"file": "x", "sha256": "0" * 64}} for s in range(3)]
    records = [{**r, "scores": rr.record(seed=r["seed"], arrays=arrays(r))["scores"]} for r in records]
    kept, (problem,) = verify(records, arrays)
    assert [r["seed"] for r in kept] == [0, 1]
    assert "seed 2" in problem.text
    assert "test labels" in problem.text


def test_the_records_of_this_checkout_are_borne_out(tmp_path: Path) -> None:
    assert build(ROOT / "results", tmp_path / "site").problems == []
