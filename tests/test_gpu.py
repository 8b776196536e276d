"""The script for minutes on a GPU, on a CPU: every stage at a tiny size, with graphs as a CPU can make them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from bench import PATIENCE, ROOT, wait_until
from executor_conformance import alive

from kdbench.data import DATASETS, identify, load
from kdbench.errors import UserError
from kdbench.models.factory import create
from kdbench.records import Store

Import = Callable[[str], ModuleType]
TRAIN, TEST = 320, 20


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Import:
    """A module of the benchmarks, by name."""
    import importlib

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with noise in the files of a CIFAR-100 of few images, and weights of the teacher."""
    spec = replace(DATASETS.get("cifar100"), train_size=TRAIN, test_size=TEST, digest=None, sha1={})
    monkeypatch.setitem(DATASETS._items, "cifar100", spec)
    folder = tmp_path / "root" / "cifar-100-binary"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("train", TRAIN), ("test", TEST)):
        rows = rng.integers(0, 256, (size, 2 + 3 * 32 * 32), dtype=np.uint8)
        rows[:, 1] = rng.permutation(size) % 100
        rows.tofile(folder / f"{name}.bin")
    network = create("resnet56", classes=100, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    weights = tmp_path / "root" / "weights" / "resnet56_vanilla" / "ckpt_epoch_240.pth"
    weights.parent.mkdir(parents=True)
    torch.save({"model": network.body.state_dict()}, weights)
    return tmp_path / "root"


def packed(benchmarks: Import, root: Path, room: int) -> tuple[Path, list[str]]:
    """The part of ``root`` that fits into ``room`` bytes beside the weights."""
    folder = root.parent / "packed"
    return folder, list(benchmarks("part").pack(root, folder, room + size(root / "weights")))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_is_packed_is_what_there_was_as_far_as_it_fits(benchmarks: Import, small: Path) -> None:
    """Noise cannot be packed: an image takes 3,072 bytes and some."""
    room = (TEST + 250) * 3_200
    folder, said = packed(benchmarks, small, room)
    assert said[-1].startswith(
        f"All {TEST} test images and 200 of {TRAIN} training images, which leaves out 120 are in"
    )
    assert size(folder) <= room + size(small / "weights")
    spec = benchmarks("part").register(folder)
    assert spec.name != "cifar100"
    part, whole = load(spec.name, folder), load("cifar100", small)
    assert np.array_equal(part.test_images, whole.test_images)
    assert np.array_equal(part.test_labels, whole.test_labels)
    assert np.bincount(part.train_labels).tolist() == [2] * 100
    for label in (0, 99):
        of_whole = whole.train_images[whole.train_labels == label][:2]
        assert np.array_equal(part.train_images[part.train_labels == label], of_whole)
    assert identify(spec.name, folder)[0] == part.digest != whole.digest


def test_a_part_that_nobody_packed_is_one_sentence(benchmarks: Import, small: Path, tmp_path: Path) -> None:
    part = benchmarks("part")
    (tmp_path / part.FILE).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"cannot be read .*; write it anew with --pack\."):
        part.register(tmp_path)
    with pytest.raises(UserError, match=r"The test images alone take .* MiB; give --mib more than that\."):
        packed(benchmarks, small, TEST * 3_000)


def run(out: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script with graphs as a CPU can make them."""
    start = "import eager_graph, sys; eager_graph.install(); import gpu; sys.exit(gpu.main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, "--tiny", "--device", "cpu", "--out", str(out), *words]
    places = os.pathsep.join(str(ROOT / name) for name in ("benchmarks", "tests", "."))
    variables = {**os.environ, "PYTHONPATH": places, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=variables, cwd=out.parent)


def test_every_stage_from_its_start_to_its_table(benchmarks: Import, small: Path, tmp_path: Path) -> None:
    folder, _ = packed(benchmarks, small, (TEST + 110) * 3_200)
    out = tmp_path / "out"
    done = run(out, "--minutes", str(PATIENCE / 60 * 10), "--data", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr + (out / "log.txt").read_text()
    stages = json.loads((out / "results.json").read_text())["stages"]
    assert list(stages) == list(benchmarks("stages").STAGES)
    assert {stage["status"] for stage in stages.values()} == {"finished"}
    found = {name: stage["findings"] for name, stage in stages.items()}
    assert all(figures["is_float32"] for name, figures in found["machine"].items() if "float32" in name)
    promises = found["promises"]
    assert {name: figures["equal"] for name, figures in promises.items()} == dict.fromkeys(promises, True)
    assert promises["killed and resumed"]["resumed"] is True
    assert promises["as graphs, in a cohort"]["trials"] == 3
    methods = {name: figures for name, figures in found["methods"].items() if name != "all"}
    for asked in ("finite", "same_twice", "same_as_graph"):
        assert {name: figures[asked] for name, figures in methods.items()} == dict.fromkeys(methods, True)
    timed = [figures for figures in found["loops"].values() if "over_peers" in figures]
    assert len(timed) == 4
    assert not any(figures["not_captured"] for figures in timed)
    assert all(figures["kernels"] > 100 for name, figures in found["where"].items() if "students" in name)
    assert found["memory"]["tiny_cnn_l:tiny_cnn_s, planned"]["planned_step_bytes"] > 0
    assert all(figures["gain"] > 0 for figures in found["packing"].values())
    assert found["board"]["graphs"]["same_bits"] is True
    page = (out / "table.md").read_text()
    assert all(f"## {name}\n" in page for name in stages)
    with zipfile.ZipFile(out / "records.zip") as archive:
        archive.extractall(tmp_path / "records")
    records, problems = Store(tmp_path / "records").read()
    assert not problems
    assert {record["label"] for record in records} == {"ce", "kd"}
    assert {record["dataset"] for record in records} == {"cifar100-part"}
    assert {record["suite"] for record in records} == {"cifar100-gpu@1"}


def _finds(tell: Callable[[Any], None]) -> None:
    for number in range(3):
        tell(number)


def _breaks(tell: Callable[[Any], None]) -> None:
    tell("begun")
    raise ValueError("no luck")


def _dies(tell: Callable[[Any], None]) -> None:
    tell("begun")
    os._exit(7)


def _hangs(tell: Callable[[Any], None]) -> None:
    sleeper = subprocess.Popen(["sleep", "1000"])
    tell(sleeper.pid)
    time.sleep(1000)


@pytest.mark.parametrize(
    ("work", "status", "detail"),
    [
        (_finds, "finished", ""),
        (_breaks, "failed", "ValueError: no luck"),
        (_dies, "failed", "its process ended with code 7"),
        (_hangs, "out of time", ""),
    ],
)
def test_a_stage_that_fails_costs_itself(
    benchmarks: Import, tmp_path: Path, work: Callable[[Any], None], status: str, detail: str
) -> None:
    heard: list[Any] = []
    ended = benchmarks("limited").limited(work, 5.0 if work is _hangs else PATIENCE, tmp_path / "log", heard.append)
    assert (ended.status, ended.detail) == (status, detail)
    assert len(heard) == (3 if work is _finds else 1)
    if work is _hangs:
        wait_until(lambda: not alive(heard[0]))
    if work is _breaks:
        assert "ValueError: no luck" in (tmp_path / "log").read_text()


def test_a_kill_leaves_what_was_found_and_no_process(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, sys, time
            from pathlib import Path
            from findings import Findings, Stage
            from limited import limited

            def work(tell):
                tell(os.getpid())
                time.sleep(1000)

            here = Path(sys.argv[1])
            found = Findings(here, {})
            found.stages["only"] = Stage()
            limited(work, 1000, here / "log", lambda pid: found.say("only", "process", {"pid": pid}))
            """
        )
    )
    places = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env={**os.environ, "PYTHONPATH": places})
    kept, table = tmp_path / "results.json", tmp_path / "table.md"

    def pid() -> int:
        stages = json.loads(kept.read_text())["stages"] if table.exists() else {}  # which is written after it
        return int(stages.get("only", {}).get("findings", {}).get("process", {}).get("pid", 0))

    worker = wait_until(pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(partial(_gone, worker))
    assert "| process |" in table.read_text()


def _gone(process: int) -> bool:
    return not alive(process)
