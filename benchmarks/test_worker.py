"""A worker as ``kdbench run`` starts it, for eight resnet20 students of a resnet56 on data of CIFAR-100's size.

How long until it trains, what it then holds in memory, and that the training images are not among that: they are mapped
from their file, which all workers of a machine share. Memory is read from /proc, so this is for Linux.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import SUITE
from report import Report
from safetensors.torch import save_file

from kdbench.data import DATASETS, identify
from kdbench.jobs.worker import run
from kdbench.models.factory import create
from kdbench.plan.expand import Selection, expand
from kdbench.plan.task import Task
from kdbench.suites.suite import parse_suite

#: Seconds until the first progress is said, which is up to a second after the first step.
SECONDS = 8.0
BYTES = 3 * 2**30
ROUNDS = 3
CORES = 2

TEXT = """
name = "worker"
version = 1
title = "Worker"
summary = "For a benchmark."
dataset = "cifar100"
seeds = [0]

[protocol]
epochs = 4
batch = 64
lr = 0.1
schedule = "onecycle"

[teachers.teacher]
kind = "checkpoint"
model = "resnet56"
files = ["teacher.safetensors"]

[[pairs]]
teacher = "teacher"
student = "resnet20"

"""


@dataclass
class Worker:
    """The process, started again and again."""

    task: Path
    seconds: list[float] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait until it says that it trains."""
        started = time.monotonic()
        command = [sys.executable, "-m", "kdbench.worker", str(self.task)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.progress()
        self.seconds.append(time.monotonic() - started)

    def progress(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if json.loads(line)["event"] == "progress":
                return
        raise RuntimeError(f"the worker ended with exit code {self.process.wait()}; its standard error says why")

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def of_proc(self, name: str) -> str:
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/{name}").read_text(encoding="utf-8")

    @property
    def peak(self) -> int:
        """The most bytes that were resident, those of mapped files included."""
        return _kilobytes(self.of_proc("status"), "VmHWM") * 1024

    def copied(self, path: Path) -> int:
        """Bytes of the mapping of ``path`` that are this process's own."""
        _, _, mapping = self.of_proc("smaps").partition(f"{path}\n")
        return _kilobytes(mapping, "Anonymous") * 1024


def _kilobytes(text: str, name: str) -> int:
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:"))


def _write_data(root: Path) -> Path:
    """Noise in the files of CIFAR-100's binary version; that of the training images."""
    spec = DATASETS.get("cifar100")
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    for name, size in (("test", spec.test_size), ("train", spec.train_size)):
        rows = np.random.default_rng(0).integers(0, 256, (size, 2 + 3 * 32 * 32), dtype=np.uint8)
        rows[:, 0] %= 20
        rows[:, 1] = np.arange(size) % spec.classes
        path = folder / f"{name}.bin"
        rows.tofile(path)
    return path


def _write_teacher(root: Path) -> None:
    network = create("resnet56", classes=100, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    save_file(network.body.state_dict(), root / "teacher.safetensors")


def _task(root: Path) -> Task:
    """The cohort's, its teacher made ready."""
    rows = "".join(f'[[methods]]\nname = "{name}"\n' for name in SUITE)
    digest, _ = identify("cifar100", root / "data")
    trials = expand(parse_suite(TEXT + rows, "test_worker.py"), Selection(), digest)
    folders: dict[str, Any] = {"results": root / "results", "data_root": root / "data", "cache": root / "cache"}
    task = Task("worker", "worker", (), trials[0].teacher, "cifar100", digest, "worker@1", device="cpu", **folders)
    run(task, lambda event: None)
    return replace(task, trials=tuple(trials), cores=CORES)


def test_worker(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    train = _write_data(tmp_path / "data")
    _write_teacher(tmp_path / "data")
    place = tmp_path / "task.json"
    place.write_text(_task(tmp_path).to_json(), encoding="utf-8")
    worker = Worker(place)
    try:
        report.benchmark.pedantic(worker.start, setup=worker.end, rounds=ROUNDS)
        for _ in range(2):
            worker.progress()
        peak, copied, seconds = worker.peak, worker.copied(train), statistics.median(worker.seconds)
    finally:
        worker.end()
    report.add("start", seconds, f"{seconds:.1f} s until it trains")
    report.add("peak", peak, f"{peak / 2**20:.0f} MiB at most, images included")
    report.add("copied", copied, f"{copied} bytes of {train.stat().st_size} bytes of training images copied")
    assert copied == 0
    assert peak < BYTES
    assert seconds < SECONDS
