"""The bias of classes that were left out: found exactly, chosen apart from where it is judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from bench import Bench, suite_text
from numpy.typing import NDArray

from kdbench.errors import UserError
from kdbench.measure.evaluate import leads_of
from kdbench.records.inventory import take_inventory
from kdbench.records.predictions import pack
from kdbench.records.verify import score
from kdbench.stats.bias import LEFT_OUT, SHOWN, Leads, best_bias, corrected, leads
from kdbench.studies.measures import MEASURES
from kdbench.suites import Suite

MakeSuite = Callable[[str], Suite]


def made(lead: list[float], right: list[int]) -> Leads:
    return Leads(np.array(lead, np.float16), np.array(right, np.int8))


def test_leads_say_which_class_wins_under_any_bias() -> None:
    rng = np.random.default_rng(0)
    z, labels = rng.normal(0, 3, (200, 7)), rng.integers(0, 7, 200)
    z = np.round(z * 8) / 8  # leads that float16 holds exactly
    for away in ([3], [0, 1, 2, 4, 5], [6, 2]):
        found = leads(z, labels, np.array(away))
        for bias in (-4.0625, 0.0, 0.0625, 3.5625):
            raised = z.copy()
            raised[:, away] += bias
            unclear = np.sort(raised, axis=1)[:, -1] == np.sort(raised, axis=1)[:, -2]
            assert abs(found.errors(bias) - int((raised.argmax(1) != labels).sum())) <= unclear.sum()


@pytest.mark.parametrize(
    ("lead", "right", "bias", "errors"),
    [
        ([-3.0, -5.0, -9.0], [LEFT_OUT, LEFT_OUT, SHOWN], 7.0, 0),  # the middle of 5 and 9
        ([1.0, -1.0], [LEFT_OUT, SHOWN], 0.0, 0),  # as it is, nothing is better
        ([2.0, 4.0], [SHOWN, SHOWN], -5.0, 0),  # beyond the last
        ([-2.0, -2.0, -2.0], [LEFT_OUT, SHOWN, LEFT_OUT], 3.0, 1),
        ([-1.0, -1.0], [LEFT_OUT, SHOWN], 0.0, 1),  # one as good as the other
        ([0.0], [0], 0.0, 1),
        ([0.0], [LEFT_OUT], 1.0, 0),  # a tie is for the class that was shown
    ],
)
def test_the_best_bias_of_hand_made_cases(lead: list[float], right: list[int], bias: float, errors: int) -> None:
    found = made(lead, right)
    assert best_bias(found) == bias
    assert found.errors(bias) == errors


def test_no_bias_of_a_fine_grid_is_better() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        found = Leads(rng.normal(-4, 3, 60).astype(np.float16), rng.integers(0, 3, 60).astype(np.int8))
        best = found.errors(best_bias(found))
        assert best == min(found.errors(bias) for bias in np.arange(-12, 20, 0.01))


def test_the_honest_bias_is_chosen_without_the_test_images() -> None:
    arrays = {
        "labels": np.zeros(3, np.int16),
        "last_lead": np.array([-1.0, -1.5, -8.0], np.float16),
        "last_right": np.array([LEFT_OUT, LEFT_OUT, SHOWN], np.int8),
        "last_held_out_lead": np.array([-1.0, -1.25], np.float16),
        "last_held_out_right": np.array([LEFT_OUT, SHOWN], np.int8),
    }
    found = corrected(arrays, "last")
    assert found == {
        "errors_uncorrected": 2,
        "bias": 1.125,
        "errors_corrected": 1,
        "bias_on_test": 4.75,
        "errors_corrected_on_test": 0,
    }
    assert corrected({"labels": arrays["labels"]}, "last") == {}


def test_what_a_record_keeps_are_the_leads_of_both_sets() -> None:
    z, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), np.array([0, 1, 2, 3, 0, 1])
    found = leads_of(np.array([3]), (z, labels), (z[:4] * 2, labels[:4]))
    assert {name: array.dtype.name for name, array in found.items()} == {
        "lead": "float16",
        "right": "int8",
        "held_out_lead": "float16",
        "held_out_right": "int8",
    }
    assert np.allclose(found["held_out_lead"], 2 * found["lead"][:4], rtol=2e-3)


@pytest.fixture
def trained(bench: Bench, make_suite: MakeSuite) -> Bench:
    left = '{ kind = "transfer-set", without = [3, 5] }'
    rows: list[Any] = [{"name": "kd", "config": {"ce_weight": 0.0}}, "ce"]
    text = suite_text(rows, epochs=3).replace('dataset = "digits"\n', f'dataset = "digits"\nsupervision = {left}\n')
    bench.train(bench.trials(make_suite(text)))
    return bench


def test_a_network_that_never_saw_a_class_is_corrected_where_pages_read_it(trained: Bench) -> None:
    (record,) = [r for r in take_inventory(trained.store).rows if r["label"] == "kd"]
    arrays = trained.store.predictions(record)
    test = Leads(arrays["last_lead"], arrays["last_right"])
    assert len(arrays["last_held_out_lead"]) == 97
    before = round((1 - record["scores"]["last"]["top1"] / 100) * len(test.lead))
    assert abs(test.errors(0.0) - before) <= 1  # a lead that float16 rounds to nothing
    read = {name: MEASURES[name].read(record, "last") for name in MEASURES}
    assert read["errors_corrected"] == test.errors(record["scores"]["last"]["bias"])
    assert read["errors_corrected_on_test"] <= min(read["errors_corrected"], test.errors(0.0))
    assert read["optimism"] == read["errors_corrected"] - read["errors_corrected_on_test"]
    assert read["removed_on_test"] == pytest.approx(100 * (1 - read["errors_corrected_on_test"] / test.errors(0.0)))
    stored = json.loads((trained.store.root / record["file"]).read_text(encoding="utf-8"))
    assert "bias" not in stored["scores"]["last"], "what follows from predictions is said once"


def test_where_nothing_was_left_out_there_is_nothing_to_correct(bench: Bench, make_suite: MakeSuite) -> None:
    record = bench.train(bench.trials(make_suite(suite_text(["ce"], epochs=1))))["ce"]
    assert set(bench.store.predictions(record)) == {
        "labels",
        *(f"{s}_{part}" for s in ("last", "best_val", "best_test") for part in ("top5", "log_p_true", "top_p")),
    }
    assert MEASURES["errors_corrected"].read(record, "last") == MEASURES["errors"].read(record, "last")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("last_lead", None),
        ("last_held_out_right", None),
        ("last_lead", np.array([np.nan, 1, 1], np.float16)),
        ("last_lead", np.ones(4, np.float16)),
        ("last_right", np.ones(3, np.float16)),
        ("last_held_out_lead", np.zeros((2, 1), np.float16)),
    ],
)
def test_leads_that_are_not_sound_cost_their_record(name: str, array: NDArray[Any] | None) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "labels": np.zeros(3, np.int16),
        "last_top5": np.zeros((3, 5), np.int16),
        "last_log_p_true": np.zeros(3, np.float16),
        "last_top_p": np.ones(3, np.float16),
        **{f"last_{part}lead": np.ones(n, np.float16) for part, n in (("", 3), ("held_out_", 2))},
        **{f"last_{part}right": np.ones(n, np.int8) for part, n in (("", 3), ("held_out_", 2))},
    }
    assert score(arrays).scores["last"]["errors_corrected"] == 0
    if array is None:
        del arrays[name]
    else:
        arrays[name] = array
    with pytest.raises(UserError, match="lacks sound leads"):
        score(arrays)


def test_the_leads_outlive_a_checkpoint(trained: Bench) -> None:
    """A resume restores what was kept of the best epochs; the files of equal trainings are equal."""
    from kdbench.measure.evaluate import Predictions
    from kdbench.train.scoring import _pack, _unpack

    nothing = np.zeros(1, np.int16)
    kept = Predictions(nothing, nothing, nothing, 0.0, None, None, {"lead": np.ones(2, np.float16)})
    back = _unpack(_pack(kept))
    assert (back.leads.keys(), back.agreement) == ({"lead"}, None)
    assert back.leads["lead"].dtype == np.float16
    assert pack({"a": back.leads["lead"]}) == pack({"a": kept.leads["lead"]})
    assert _unpack({name: value for name, value in _pack(kept).items() if name != "lead"}).leads == {}
