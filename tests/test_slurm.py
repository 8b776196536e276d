"""The backend for Slurm passes the conformance suite on a real Slurm of two nodes, and what is its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import ROOT, Bench, wait_until
from executor_conformance import SAVER, WATCHFUL, ExecutorConformance, alive, leaves_the_same_records, on_a_cluster

from kdbench.errors import UserError
from kdbench.plan.fleet import Fleet
from kdbench.schedule import Choice, Coordinator, Executor, find_backend
from kdbench.schedule.slurm import SlurmLauncher

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun")

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, NEEDED)) or os.geteuid() != 0,
    reason="needs root and slurmctld, slurmd, slurm-client and munge",
)

CONFIGURATION = """
ClusterName=kdbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=0
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
GresTypes=gpu
KillWait=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 Gres=gpu:2
PartitionName=p Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody has now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Slurm of two nodes with two GPUs each, which are not there, on the loopback of this machine."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "n1", "n2"):
        (folder / name).mkdir()
    for number in range(2):  # Slurm wants device nodes: these are like /dev/null
        os.mknod(folder / f"gpu{number}", 0o666 | 0o020000, os.makedev(1, 3))
    text = CONFIGURATION.format(folder=folder, host=socket.gethostname().partition(".")[0], ports=free_ports(3))
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n")
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    names = ("key-file", "log-file", "pid-file", "socket", "seed-file")
    munge = [f"--{name}={folder}/munge.{'key' if name == 'key-file' else name.split('-')[0]}" for name in names]
    daemons: list[subprocess.Popen[bytes]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PYTHONPATH", str(ROOT))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        try:
            daemons.append(subprocess.Popen(["munged", "--foreground", "--force", *munge], **quiet))
            wait_until((folder / "munge.socket").exists)
            for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]):
                daemons.append(subprocess.Popen(command, **quiet))
            wait_until(lambda: states() == ["idle", "idle"])
            yield folder
        finally:
            subprocess.run(["scancel", "--user=root"], **quiet)
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait()


def told(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def states() -> list[str]:
    return told("sinfo", "--noheader", "--Node", "--format=%T").split()


@on_a_cluster
@pytest.mark.usefixtures("slurm")
class TestSlurm(ExecutorConformance):
    devices, alike = ("0", "1"), 2

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
