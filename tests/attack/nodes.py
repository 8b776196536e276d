"""Clusters that are attacked, too: their nodes go and come back, their jobs are cancelled."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any, Protocol

from bench import wait_until
from clusters import add_node, told


class Nodes(Protocol):
    """A cluster of two nodes that runs are on, by the flags ``backend``."""

    backend: Sequence[str]

    def remove_one(self, rng: random.Random) -> None:
        """Let a node be gone, and come back, or another one in its place, a little later."""

    def cancel_one(self, rng: random.Random) -> bool:
        """Cancel a job, as an administrator may; False where there is none."""

    def settle(self) -> None:
        """End whatever runs of which the coordinator is gone have left."""


class RayNodes:
    """Ray, whose tasks end with whoever started them, and cannot be cancelled by others."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.backend = ["--backend", "ray", "--ray-address", str(cluster.address)]

    def remove_one(self, rng: random.Random) -> None:
        node = rng.choice(sorted(self._cluster.worker_nodes, key=lambda node: node.node_id))
        self._cluster.remove_node(node, allow_graceful=False)
        time.sleep(rng.uniform(0.5, 3.0))
        add_node(self._cluster, 1, 0)

    def cancel_one(self, rng: random.Random) -> bool:
        return False

    def settle(self) -> None:
        return


class SlurmNodes:
    """Slurm, which SLURM_CONF names."""

    backend = ("--backend", "slurm", "--slurm", "time=30")

    def remove_one(self, rng: random.Random) -> None:
        name = f"nodename={rng.choice(['n1', 'n2'])}"
        told("scontrol", "update", name, "state=down", "reason=attack")
        time.sleep(rng.uniform(0.5, 3.0))
        told("scontrol", "update", name, "state=resume")

    def cancel_one(self, rng: random.Random) -> bool:
        jobs = told("squeue", "--noheader", "--array", "--format=%i").split()
        if jobs:
            told("scancel", rng.choice(jobs))
        return bool(jobs)

    def settle(self) -> None:
        told("scancel", "--user=root")
        wait_until(lambda: not told("squeue", "--noheader"))
