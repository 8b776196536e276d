"""What of the benchmarks is no measurement: the page they write, what they replay, what they compare with."""

from __future__ import annotations

import importlib
import os
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from bench import ROOT
from test_intervals import _record
from torch.utils.flop_counter import FlopCounterMode

from kdbench.methods.zoo.kd import kd_loss
from kdbench.models import precision
from kdbench.models.factory import create

Import = Callable[[str], ModuleType]


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Import:
    """A module of the benchmarks, by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_they_can_be_imported(benchmarks: Import, path: Path) -> None:
    """Under another name, as the tests have modules of the same."""
    assert runpy.run_path(str(path), run_name=f"benchmarks_{path.stem}")


@pytest.mark.slow
def test_they_can_be_collected_with_pytest_benchmark() -> None:
    options = ["--collect-only", "-q", "--benchmark-only", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "benchmarks", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_has_each_block_and_writing_it_keeps_the_rest(benchmarks: Import) -> None:
    table = benchmarks("table")
    page = table.PAGE.read_text(encoding="utf-8")
    for name in table.BLOCKS:
        written = table.replaced(page, name, "| new |")
        before, _, rest = page.partition(f"<!-- {name}: begin -->")
        after = rest.partition(f"<!-- {name}: end -->")[2]
        assert written.startswith(before)
        assert written.endswith(after)
        assert written[len(before) : len(written) - len(after)].splitlines()[1:-1] == ["", "| new |", ""]
        assert table.replaced(written, name, "| new |") == written


@pytest.mark.parametrize(
    "page",
    [
        "no marks\n",
        "<!-- cores: begin -->\n",
        "<!-- cores: end -->\n<!-- cores: begin -->\n",
        "<!-- cores: begin -->\n<!-- cores: end -->\n" * 2,
    ],
)
def test_a_page_without_the_block_is_not_written(benchmarks: Import, page: str) -> None:
    with pytest.raises(ValueError, match="does not have the block 'cores' exactly once"):
        benchmarks("table").replaced(page, "cores", "new")


def test_the_table_shows_each_row_and_the_machine(benchmarks: Import) -> None:
    table = benchmarks("table")
    row = {
        "students": 8,
        "fold": True,
        "compile": "none",
        "first": 2.4,
        "precision": "bf16",
        "batch": 64,
        "rounds": 7,
        "peer": 101.23,
        "kdbench": 303.7,
        "bound": 350.0,
    }
    row |= {"ratio": [2.9, 3.0, 3.1], "share": [0.8, 0.87, 0.9]}
    timed = {"params": {"name": "a:b"}, "extra_info": {"8 students (fold)": row}, "name": "test_loops[a:b]"}
    started = {"name": "test_command[list methods]", "stats": {"median": 0.1234}}
    lines = [*table.loops([timed]), *table.waits([started])]
    how = "| 64 | 8 | `bf16` | true | `none` | 2 s | 7"
    assert f"{how} | 101 | 304 | 3.00 (2.90 to 3.10) | 350 | 0.87 (0.80 to 0.90) |" in lines
    assert "| `kdbench list methods` | 0.12 s |" in lines
    info = {"kdbench": {"device_name": "A CPU", "cores": 2, "isa": "AVX2", "torch": "9.9"}}
    assert table.machine(info, "x") == "Made on A CPU, 2 cores, AVX2, torch 9.9, by `x`."


def test_equivalence_is_of_the_same_method_in_another_precision(
    benchmarks: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    equivalence = benchmarks("equivalence")
    records = [
        {
            **_record(method=method, seed=seed, top1=top1, label=label, suite="precision@1"),
            "identity": identity,
            "numerics": {"isa": "AVX"},
        }
        for label, method, kind, scores in (
            ("kd", "kd", "float32", (50.0, 51.0, 52.0)),
            ("kd-bf16", "kd", "bf16", (50.1, 51.0, 52.05)),
            ("ce", "ce", "float32", (40.0, 41.0, 42.0)),
            ("ce-bf16", "ce", "bf16", (41.0, 42.1, 43.0)),
        )
        for seed, top1 in enumerate(scores)
        for identity in [{"protocol": {"precision": kind}, "method": method, "seed": seed}]
    ]
    monkeypatch.setattr(equivalence.Store, "read", lambda self: (records, []))
    assert list(equivalence.table(ROOT))[2:] == [
        "| `precision@1` | AVX | `a:b` | `ce-bf16` | 3 | 41.00 | 42.03 | +1.03 | 0.06 | +0.94 to +1.13 | not shown |",
        "| `precision@1` | AVX | `a:b` | `kd-bf16` | 3 | 51.00 | 51.05 | +0.05 | 0.05 | -0.03 to +0.13 | within 0.4 |",
    ]


def test_the_page_on_precision_says_what_the_records_say(benchmarks: Import) -> None:
    equivalence = benchmarks("equivalence")
    page = equivalence.PAGE.read_text(encoding="utf-8")
    found = "\n".join(equivalence.table(ROOT / "results"))
    assert found.count("\n") > 1
    assert equivalence.replaced(page, "equivalence", found) == page


def test_the_bound_of_a_reduced_precision_is_in_that_precision(
    benchmarks: Import, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(precision, "native", lambda device: True)
    pair = benchmarks("pairs").Pair("resnet8", "resnet8", batch=8, classes=10)
    engine = benchmarks("engine").Engine(pair, pair.dataset(tmp_path))
    cohort = engine.cohort(("kd",), True, "none", "bf16")
    engine.step(cohort)
    calls = benchmarks("convolutions").recorded(partial(engine.share, cohort))
    inputs = Counter(arguments[0].dtype for _, arguments in calls)
    assert inputs == {torch.float32: 1, torch.bfloat16: len(calls) - 1}


def test_what_bounds_a_step_is_all_of_its_convolutions_as_they_are_laid_out(benchmarks: Import) -> None:
    convolutions = benchmarks("convolutions")
    norm = ((0.5,) * 3, (0.25,) * 3)
    network = create("shufflenetv1_cifar", classes=10, image_shape=(3, 32, 32), mean=norm[0], std=norm[1])
    network.to(memory_format=torch.channels_last)
    images = torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)

    def work() -> None:
        with torch.inference_mode():
            network.eval()(images)
        network.train()(images).logits.square().sum().backward()

    calls = convolutions.recorded(work)
    again = convolutions.replay(calls)
    assert convolutions.recorded(again) == calls
    assert _flops(again) == _flops(work) != {}


def _flops(work: Callable[[], None]) -> dict[str, int]:
    """Operations of the convolutions of ``work``, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        work()
    counts = counter.get_flop_counts()["Global"]
    return {str(operator): count for operator, count in counts.items() if "convolution" in str(operator)}


def test_the_peers_loss_is_kd(benchmarks: Import) -> None:
    student, teacher, labels = torch.randn(8, 10), torch.randn(8, 10), torch.arange(8)
    ours = 0.1 * torch.nn.functional.cross_entropy(student, labels) + 0.9 * kd_loss(student, teacher, 4.0)
    torch.testing.assert_close(benchmarks("peer").kd_loss(student, teacher, labels), ours)
