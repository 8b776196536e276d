"""What is said of a training's time before anybody has timed its like here."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import Bench, made_foreign, suite_text

from kdbench.measure.cost import flops
from kdbench.models import MODELS, ModelSpec
from kdbench.models.factory import create
from kdbench.models.facts import FACTS, UNKNOWN_MFLOPS
from kdbench.plan import counted, speeds
from kdbench.plan.cost import forward_gflops, trial_seconds
from kdbench.plan.counted import counted_mflops
from kdbench.plan.speeds import Recipe, Speed, Speeds
from kdbench.suites import parse_suite
from kdbench.train import speed

SHAPE = (3, 32, 32)

#: A network of somebody else.
OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

def build(classes, image_shape):
    return Net(classes)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An architecture of a plugin, and an empty folder for what is counted."""
    (tmp_path / "estimates_plugin.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    MODELS.add("own", ModelSpec("own", "own", "For tests.", "estimates_plugin:build", 8), "test")
    made_foreign(MODELS, "own", "0" * 64)
    return tmp_path / "costs"


def truth(name: str, shape: tuple[int, int, int]) -> float:
    network = create(name, classes=10, image_shape=shape, mean=(0.5,) * shape[0], std=(0.5,) * shape[0])
    return flops(network, shape) / 1e6


def test_a_network_that_no_table_has_is_counted_once(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = truth("own", (1, 8, 8))
    before = torch.get_rng_state()
    assert counted_mflops(own, "own", (1, 8, 8), 10) == expected
    assert torch.equal(torch.get_rng_state(), before)
    counted._counted.cache_clear()
    monkeypatch.setattr("kdbench.measure.cost.counted", lambda *_: pytest.fail("it was counted again"))
    assert counted_mflops(own, "own", (1, 8, 8), 10) == expected
    made_foreign(MODELS, "own", "1" * 64)
    with pytest.raises(pytest.fail.Exception):
        counted_mflops(own, "own", (1, 8, 8), 10)


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"mflops": "many"}'])
def test_a_damaged_count_is_made_again(own: Path, damage: bytes) -> None:
    expected = counted_mflops(own, "own", (1, 8, 8), 10)
    (place,) = own.iterdir()
    place.write_bytes(damage)
    counted._counted.cache_clear()
    assert counted_mflops(own, "own", (1, 8, 8), 10) == expected
    assert json.loads(place.read_text())["mflops"] == expected


def test_a_network_that_cannot_be_built_is_taken_for_a_large_one(own: Path) -> None:
    MODELS.add("broken", ModelSpec("broken", "own", "For tests.", "estimates_plugin:nothing", 8), "test")
    assert counted_mflops(own, "broken", (1, 8, 8), 10) == UNKNOWN_MFLOPS
    assert not own.exists()


def test_what_is_counted_is_what_the_table_says(tmp_path: Path) -> None:
    """Of a built-in network, as if it had no entry."""
    for name in ("resnet20", "mobilenetv2_cifar"):
        assert counted_mflops(tmp_path, name, SHAPE, 100) == pytest.approx(FACTS[name].mflops, rel=0.01)


@pytest.mark.parametrize(("precision", "compile"), [("float32", "none"), ("bf16", "none"), ("float32", "default")])
def test_a_probe_times_this_machine(monkeypatch: pytest.MonkeyPatch, precision: str, compile: str) -> None:
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    monkeypatch.setattr(speed, "BATCH", 4)
    found = Speed(**speed.probe(torch.device("cpu"), precision, compile))
    assert 0.001 < found.gflops < 1e5
    assert 0 < found.step < 60


def test_a_cohort_leaves_its_speed_for_the_next_plan(bench: Bench) -> None:
    trials = bench.trials(parse_suite(suite_text(["ce"], epochs=5), "tiny.toml"))
    bench.train(trials)
    folder = bench.folder / "cache" / "costs"
    (path,) = folder.glob("speed-*.json")
    (kept,) = Speeds("cpu", [], folder)._kept
    assert (kept.student, kept.dataset, kept.recipe) == ("tiny_cnn_s", "digits", Recipe())
    record = bench.records()["ce"]
    assert kept.gflops == pytest.approx(Speeds("cpu", [record], folder)._recorded[0].gflops)
    assert Speeds("cuda", [], folder)._kept == []
    path.unlink()
    bench.again("short").train(bench.trials(parse_suite(suite_text(["ce"], epochs=2), "tiny.toml")))
    assert not list((bench.folder / "short" / "cache").glob("costs/speed-*")), "of so few steps it says nothing"


def test_a_tiny_network_of_a_plugin_is_estimated_within_a_factor_of_five(
    bench: Bench, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its arithmetic and a probe, where nothing like it was ever timed. As a ResNet-18 it would take hours.

    In seconds of the processor, as nobody knows what else a machine does that runs tests.
    """
    monkeypatch.setattr(time, "perf_counter", time.process_time)

    def here(*_: Any) -> Speed:
        return Speed(**speed.probe(torch.device("cpu"), "float32", "none"))

    monkeypatch.setattr(speeds, "probed", here)
    monkeypatch.setattr(speeds, "WORTH_PROBING", 0.0)
    (trial,) = bench.trials(parse_suite(suite_text(["ce"], epochs=15, student="own"), "tiny.toml"))
    trial = replace(trial, plugin_sha256=None)
    said = trial_seconds(trial, Speeds("cpu", [], own))
    record = bench.train([trial])["ce"]
    took = record["cost"]["seconds"]
    assert took / 5 < said < took * 5
    known = trial_seconds(trial, Speeds("cpu", [record], own))
    assert took / 5 < known < took * 5
    forward = forward_gflops("own", (1, 8, 8), 10)
    assert forward * 1e9 == pytest.approx(record["cost"]["flops"])
    assert forward < UNKNOWN_MFLOPS / 1000 / 1000


def test_the_plan_of_a_run_that_has_nothing_to_do_counts_nothing(
    bench: Bench, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench.plan.expand import Selection
    from kdbench.plan.fleet import cpu
    from kdbench.plan.plan import Request, make_plan

    suite = parse_suite(suite_text(["ce"], epochs=1), "tiny.toml")
    bench.train(bench.trials(suite))
    for name in ("counted_mflops", "speed_of"):
        monkeypatch.setattr(f"kdbench.plan.cost.{name}", lambda *_: pytest.fail("it estimated"))
    request = Request((suite,), Selection((), (), None), bench.folder / "data")
    assert make_plan(request, bench.store, cpu(1)).tasks == []
    assert "kdbench.plan.counted" in sys.modules
