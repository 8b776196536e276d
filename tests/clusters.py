"""Clusters on the loopback of this machine, for the tests of their backends and for the attack."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from bench import ROOT, wait_until

MEGABYTE = 2**20
#: Whether a cluster can be made here.
HAS_RAY = find_spec("ray") is not None
HAS_SLURM = os.geteuid() == 0 and all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch", "srun")))

SLURM_CONF = """
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


@contextmanager
def ray_cluster(cpus: int, gpus: int) -> Iterator[Any]:
    """A head without work, and two nodes of so many cores and of GPUs that are not there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")
        from ray.cluster_utils import Cluster

        soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
        made = Cluster()
        try:
            _start(made, num_cpus=0, num_gpus=0, _system_config=soon, include_dashboard=False)
            for _ in range(2):
                add_node(made, cpus, gpus)
            yield made
        finally:
            made.shutdown()


def add_node(cluster: Any, cpus: int, gpus: int) -> Any:
    return _start(cluster, num_cpus=cpus, num_gpus=gpus, node_ip_address="127.0.0.1")


def _start(cluster: Any, tries: int = 10, **options: Any) -> Any:
    """A node, which Ray gives half a minute to start: not enough on a machine that is busy with other things."""
    try:
        return cluster.add_node(object_store_memory=80 * MEGABYTE, **options)
    except Exception:  # a bare one, of Ray's
        if tries == 1:
            raise
        return _start(cluster, tries - 1, **options)


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[Path]:
    """Two nodes, ``n1`` and ``n2``, with two GPUs each, which are not there; all its files are in ``folder``."""
    for name in ("state", "n1", "n2"):
        (folder / name).mkdir()
    for number in range(2):  # Slurm wants device nodes: these are like /dev/null
        os.mknod(folder / f"gpu{number}", 0o666 | 0o020000, os.makedev(1, 3))
    text = SLURM_CONF.format(folder=folder, host=socket.gethostname().partition(".")[0], ports=free_ports(3))
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
            told("scancel", "--user=root")
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody has now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def told(*command: str) -> str:
    """What a command prints, which may fail."""
    return subprocess.run(command, capture_output=True, text=True).stdout


def states() -> list[str]:
    """The states of the nodes of a Slurm."""
    return told("sinfo", "--noheader", "--Node", "--format=%T").split()


def parent_of(pid: int) -> int:
    """The process that started ``pid``; 0 where there is none any more."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
