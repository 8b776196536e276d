"""The backend for Ray passes the conformance suite on a real cluster of two nodes, and what is its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from bench import ROOT
from executor_conformance import ExecutorConformance, on_a_cluster

from kdbench.plan.fleet import Fleet
from kdbench.schedule import Coordinator, Executor
from kdbench.schedule.ray import RayLauncher

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs pip install 'kdbench[ray]'")

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster on the loopback: a head without work, and two nodes with two GPUs each, which are not there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")
        import ray
        from ray.cluster_utils import Cluster

        small = {"object_store_memory": 80 * MEGABYTE, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, **small})
        try:
            for _ in range(2):
                add_node(made)
            ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=2, num_gpus=2, node_ip_address="127.0.0.1", object_store_memory=80 * MEGABYTE)


@on_a_cluster
@pytest.mark.usefixtures("cluster")
class TestRay(ExecutorConformance):
    devices, alike = ("0", "1"), 2

    def make(self, fleet: Fleet, folder: Path, command: Callable[[Path], list[str]], **options: Any) -> Executor:
        launcher = RayLauncher(fleet, folder, command, share=0.1, look=0.05, lag=2.0)
        return Coordinator(fleet, launcher, **options)
