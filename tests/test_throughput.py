"""Speed is measured beside a reference and against a ceiling, once for all who share a network.

How large it is no test looks at.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import render_records as rr
import torch
from bench import Bench, suite_text
from torch import Tensor, nn

from kdbench.errors import UserError
from kdbench.measure import throughput as module
from kdbench.measure.cost import forget_peak, peak_memory
from kdbench.measure.throughput import Throughput, ceiling, throughput
from kdbench.models.factory import create
from kdbench.records import check
from kdbench.records.validate import schema
from kdbench.render.speeds import TIMED
from kdbench.suites import Suite
from kdbench.train import account
from kdbench.train.device import set_up

CPU = torch.device("cpu")
MakeSuite = Callable[[str], Suite]


class Sized(nn.Module):
    """A network that remembers the batches it saw, and has room for so many images."""

    def __init__(self, room: int = 1000) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.room = room
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError
        assert not self.training
        assert x.is_contiguous(memory_format=torch.channels_last)
        self.seen.append(len(x))
        return x * self.weight


def test_a_network_is_timed_by_batch_size_and_left_as_it_was() -> None:
    network = create("tiny_cnn_s", classes=10, image_shape=(1, 8, 8), mean=(0.3,), std=(0.4,)).train()
    before = copy.deepcopy(network.state_dict())
    torch.manual_seed(5)
    drawn = torch.random.get_rng_state()
    found = throughput(network, (1, 8, 8))
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert 1 in found.by_batch
    assert all(value > 0 for value in (*found.by_batch.values(), found.reference))
    assert found.best == max(found.by_batch.values()) == found.by_batch[found.best_batch]


def test_larger_batches_are_tried_while_there_is_memory_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCHES", (1, 4, 16))
    monkeypatch.setattr(module, "LONG", float("inf"))
    assert set(throughput(Sized(), (3, 8, 8)).by_batch) == {1, 4, 16}
    network = Sized(room=7)
    assert set(throughput(network, (3, 8, 8)).by_batch) == {1, 4} == set(network.seen)
    with pytest.raises(torch.OutOfMemoryError):
        throughput(Sized(room=0), (3, 8, 8))
    monkeypatch.setattr(module, "LONG", 0.0)
    assert set(throughput(Sized(), (3, 8, 8)).by_batch) == {1}


def test_what_is_compared_is_timed_in_turn_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    works = [(1, lambda: order.append("a"), 1.0), (2, lambda: order.append("b"), 1.0)]
    monkeypatch.setattr(module, "ROUNDS", 3)
    monkeypatch.setattr(module, "LIMIT", float("inf"))
    assert len(module._in_turn(works)) == 2
    assert "".join(order) == "ababab"
    order.clear()
    monkeypatch.setattr(module, "LIMIT", 0.0)
    module._in_turn(works)
    assert "".join(order) == "ab", "one round whatever it takes"


def test_the_best_batch_is_that_of_the_most_images_a_second() -> None:
    found = Throughput({1: 10.0, 4: 30.0, 16: 20.0}, 5.0)
    assert (found.best_batch, found.best) == (4, 30.0)


def test_the_ceiling_is_measured_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 0.0)
    monkeypatch.setattr(module, "TRIES", 1)
    module._ceiling.cache_clear()
    first = ceiling(CPU, torch.float32)
    assert first > 0
    monkeypatch.setattr(module, "_seconds", lambda *_: pytest.fail("measured again"))
    assert ceiling(CPU, torch.float32) == first
    module._ceiling.cache_clear()


def test_the_ceilings_operations_are_counted() -> None:
    assert module._flops(module._product(CPU, torch.float32, 0)) == 2 * 256**3
    assert module._flops(module._convolution(CPU, torch.float32, 1)) == 4 * 2 * 64 * 64 * 9 * 32 * 32


def test_a_cohort_measures_what_it_deploys_once(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """simkd deploys more than the student, everybody else the student."""
    timed = itertools.count()

    def counted(network: nn.Module, shape: tuple[int, int, int]) -> Throughput:
        return Throughput({1: 1.0, 4: 2.0 + next(timed)}, 3.0)

    monkeypatch.setattr(account, "throughput", counted)
    trials = bench.trials(make_suite(suite_text(["ce", "kd", "fitnet", "simkd"], epochs=1)))
    records = bench.train(trials)
    costs = {label: record["cost"] for label, record in records.items()}
    best = {label: cost["inference_images_per_s_best"] for label, cost in costs.items()}
    assert best["ce"] == best["kd"] == best["fitnet"] != best["simkd"]
    assert next(timed) == 3, "the teacher, the student, and simkd's"
    assert costs["simkd"]["flops"] > costs["ce"]["flops"]
    for cost in costs.values():
        most = cost["ceiling_gflops_per_s"] * 1e9
        assert cost["inference_fraction"] == pytest.approx(cost["flops"] * cost["inference_images_per_s_best"] / most)
        trained = 3 * costs["ce"]["flops"] * cost["train_images_per_s"]
        assert cost["train_fraction"] == pytest.approx(trained / most)
        assert (cost["inference_images_per_s_single"], cost["inference_best_batch"]) == (1.0, 4)
        assert cost["reference_images_per_s"] == 3.0


def test_a_network_that_cannot_be_timed_costs_no_record(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "throughput", lambda *_: 1 / 0)
    cost = bench.train(bench.trials(make_suite(suite_text(["ce"], epochs=1))))["ce"]["cost"]
    assert "inference_images_per_s_best" not in cost
    assert cost["ratio_to_ce"] == 1.0


def test_records_with_and_without_speeds_are_valid() -> None:
    old = rr.record()
    check("record", old, "here")
    check("record", {**old, "cost": {**old["cost"], **rr.SPEEDS}}, "here")
    for wrong in ({"inference_best_batch": 0}, {"train_fraction": -0.1}, {"reference_images_per_s": None}, {"x": 1}):
        with pytest.raises(UserError, match=r"^here: cost"):
            check("record", {**old, "cost": {**old["cost"], **rr.SPEEDS, **wrong}}, "here")


def test_the_pages_know_every_field_of_a_speed() -> None:
    assert rr.SPEEDS.keys() == TIMED
    section = schema("record")["properties"]["cost"]
    assert section["properties"].keys() - set(section["required"]) == TIMED


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can forget a peak")
def test_a_cohorts_peak_is_its_own() -> None:
    set_up("cpu", 1)  # which lets glibc keep what is freed
    held = torch.ones(2**26)
    high = peak_memory(CPU)
    del held
    forget_peak(CPU)
    assert peak_memory(CPU) < high - 2**27
