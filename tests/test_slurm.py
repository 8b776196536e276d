"""The backend for Slurm passes the conformance suite on a real Slurm of two nodes, and what is its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attack.faults import cancel_a_job, kill_relay
from attack.nodes import SlurmNodes
from bench import Bench, wait_until
from clusters import HAS_SLURM, slurm_cluster, told
from executor_conformance import SAVER, WATCHFUL, ExecutorConformance, alive, leaves_the_same_records, on_a_cluster

from kdbench.errors import UserError
from kdbench.plan.fleet import Fleet
from kdbench.schedule import Choice, Coordinator, Executor, find_backend
from kdbench.schedule.slurm import SlurmLauncher

pytestmark = pytest.mark.skipif(not HAS_SLURM, reason="needs root and slurmctld, slurmd, slurm-client and munge")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as folder:
        yield folder


@on_a_cluster
@pytest.mark.usefixtures("slurm")
class TestSlurm(ExecutorConformance):
    devices, alike = ("0", "1"), 2
    faults, nodes = (kill_relay, cancel_a_job), SlurmNodes()

    def make(self, fleet: Fleet, folder: Path, command: Callable[[Path], list[str]], **options: Any) -> Executor:
        quick = {"look": 0.05, "lag": 2.0, "gather": 0.2, "ask": 0.5}
        return Coordinator(fleet, SlurmLauncher(folder, fleet.kind == "cuda", {}, command, **quick), **options)

    def test_what_starts_together_is_one_array(self) -> None:
        self.run(3, *(self.task(f"t{n}", "meet:3") for n in range(3)))
        assert len(list((self.folder / "runs" / "slurm").glob("*_submission.sh"))) == 1

    def test_a_node_that_goes_down_costs_an_attempt_and_no_more(self) -> None:
        (self.folder / "actor.py").write_text(WATCHFUL)

        def down(_: str, event: dict[str, Any]) -> None:
            if event["event"] == "ready" and event["attempt"] == 1:
                told("scontrol", "update", f"nodename={event['node']}", "state=down", "reason=test")

        try:
            report = self.run(1, self.task("t", "ok"), watch=down)
        finally:
            told("scontrol", "update", "nodename=n1,n2", "state=resume")
        assert [task.attempt for task in report.finished] == [2]
        first, second = self.said("ready")
        assert first["node"] != second["node"]
        assert "by the cluster" in self.said("retried")[0]["text"]
        wait_until(lambda: not told("squeue", "--noheader"))
        assert not alive(first["pid"])

    def test_a_job_that_dies_without_a_word_takes_its_worker_along_and_another_goes_on(self) -> None:
        (self.folder / "actor.py").write_text(WATCHFUL)

        def kill(_: str, event: dict[str, Any]) -> None:
            if event["event"] == "ready" and event["attempt"] == 1:
                os.kill(event["parent"], signal.SIGKILL)

        report = self.run(1, self.task("t", "ok"), watch=kill)
        assert [task.attempt for task in report.finished] == [2]
        assert "gone with its node" in self.said("retried")[0]["text"]
        assert not alive(self.said("ready")[0]["pid"])

    def test_a_worker_that_is_preempted_saves_and_another_goes_on(self) -> None:
        (self.folder / "actor.py").write_text(SAVER)

        def preempt(_: str, event: dict[str, Any]) -> None:
            if event["event"] == "ready" and event["attempt"] == 1:
                (job,) = told("squeue", "--noheader", "--format=%i").split()
                told("scontrol", "requeue", job)

        report = self.run(1, self.task("t", "ok"), watch=preempt)
        assert [task.attempt for task in report.finished] == [2]
        assert self.said("stopped")
        wait_until(lambda: not told("squeue", "--noheader"))

    def test_what_slurm_does_not_take_is_submitted_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kdbench.schedule.slurm.AGAIN", 0.1)
        sbatch = self.folder / "sbatch"
        sbatch.write_text("#!/bin/sh\necho no luck >&2\nexit 1\n")
        sbatch.chmod(0o755)
        monkeypatch.setenv("PATH", str(self.folder), prepend=":")

        def repair(_: str, event: dict[str, Any]) -> None:
            if event["event"] == "waiting":
                sbatch.unlink()

        assert len(self.run(1, self.task("t", "ok"), watch=repair).finished) == 1
        (waiting,) = self.said("waiting")
        assert "no luck" in waiting["text"]

    def test_a_node_without_kdbench_ends_the_run_with_its_own_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", str(self.folder))
        (self.folder / "submitit.py").write_text("raise ImportError('not on this node')")
        with pytest.raises(UserError, match="not on this node"):
            self.run(1, self.task("t", "ok"))


@pytest.mark.usefixtures("slurm")
def test_a_run_on_slurm_leaves_the_records_of_any_other(bench: Bench) -> None:
    leaves_the_same_records(bench, "--backend", "slurm", "--slurm", "time=10,comment=a,b", "--device", "cpu")


@pytest.mark.usefixtures("slurm")
def test_what_slurm_would_refuse_is_said_before_anything_starts() -> None:
    with pytest.raises(UserError, match="sbatch says: sbatch: error: invalid partition"):
        find_backend(Choice("slurm", slurm={"partition": "nowhere"}))
    assert find_backend(Choice("slurm", device="auto")).fleet(1).kind == "cuda"
    fleet = find_backend(Choice("slurm", device="cpu", slots=3)).fleet(1)
    assert (fleet.kind, fleet.slots) == ("cpu", 3)
