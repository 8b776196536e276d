"""Students of one cohort side by side on several cores: the bits of one after the other, and who may not be."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from bench import PHASED, Bench, same_bits, suite_text

from kdbench.methods import METHODS
from kdbench.plugins import load_plugins
from kdbench.suites import Suite
from kdbench.train import conformance

MakeSuite = Callable[[str], Suite]


@pytest.mark.slow
@pytest.mark.parametrize("cores", [2, 3])
def test_side_by_side(bench: Bench, make_suite: MakeSuite, cores: int) -> None:
    """Of these, nd has dropout and phased is a plugin: both are stepped alone, as they are in test_same_bits.py."""
    load_plugins([bench.plugin("phased", **PHASED)])
    suite = make_suite(suite_text(("ce", "kd", "fitnet", "crld", "nd", "phased", "dot(kd)")))
    one = bench.train(bench.trials(suite))
    beside = bench.again("beside")
    shutil.copytree(bench.folder / "cache" / "teachers", beside.folder / "cache" / "teachers")
    beside.cores = cores
    many = beside.train(beside.trials(suite))
    assert {record["status"] for record in one.values()} == {"finished"}
    assert all(same_bits(one[label], many[label]) for label in one)


@pytest.mark.parametrize("name", [name for name in METHODS if not METHODS.get(name).wraps])
def test_who_may_be_stepped_beside_others_draws_nothing_that_threads_share(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformance, "SIDE", 8)  # small images will do
    bench = conformance.make_bench(name)
    member = bench.member()
    batch = bench.batch(0, member)
    taught = bench.taught(batch, member)
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    member.step(batch, taught)
    assert torch.equal(before, torch.random.get_rng_state()) == member.self_contained
    assert member.self_contained or name == "nd"


def test_a_bad_method_beside_others_costs_its_own_trial_only(bench: Bench, make_suite: MakeSuite) -> None:
    bench.cores = 2
    suite = make_suite(suite_text(["ce", "kd", {"name": "kd", "label": "wild", "config": {"kd_weight": 1e38}}]))
    records = bench.train(bench.trials(suite))
    assert {label: record["status"] for label, record in records.items()} == {
        "ce": "finished",
        "kd": "finished",
        "wild": "diverged",
    }
