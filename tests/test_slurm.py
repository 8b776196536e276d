"""The backend for Slurm passes the conformance suite on a real Slurm of two nodes, and what is its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import ROOT, wait_until
from executor_conformance import ExecutorConformance, on_a_cluster

from kdbench.plan.fleet import Fleet
from kdbench.schedule import Coordinator, Executor
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
ReturnToService=2
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
