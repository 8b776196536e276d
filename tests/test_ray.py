"""The backend for Ray passes the conformance suite on a real cluster of two nodes, and what is its own."""

from __future__ import annotations

import builtins
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attack.faults import kill_relay
from bench import Bench, wait_until
from clusters import HAS_RAY, add_node, parent_of, ray_cluster
from executor_conformance import SAVER, WATCHFUL, ExecutorConformance, alive, leaves_the_same_records, on_a_cluster

from kdbench.errors import UserError
from kdbench.plan.fleet import Device, Fleet
from kdbench.plan.task import Task
from kdbench.schedule import Choice, Coordinator, Executor, find_backend
from kdbench.schedule import ray as ray_backend
from kdbench.schedule.ray import RayLauncher

pytestmark = pytest.mark.skipif(not HAS_RAY, reason="needs pip install 'kdbench[ray]'")


@pytest.fixture(scope="module", autouse=True)
def _own_print() -> Iterator[None]:
    """Ray replaces ``print`` when it connects, which tests that follow in this process must not find."""
    own = builtins.print
    yield
    builtins.print = own


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with two GPUs each, and this process connected by way of the head."""
    with ray_cluster(2, 2) as made:
        import ray

        try:
            ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
            made.wait_for_nodes()
            yield made
        finally:
            ray.shutdown()


@on_a_cluster
@pytest.mark.usefixtures("cluster")
class TestRay(ExecutorConformance):
    devices, alike = ("0", "1"), 2
    faults = (kill_relay,)

    def make(self, fleet: Fleet, folder: Path, command: Callable[[Path], list[str]], **options: Any) -> Executor:
        launcher = RayLauncher(fleet, folder, command, share=0.1, look=0.05, lag=2.0)
        return Coordinator(fleet, launcher, **options)

    def test_a_cluster_without_nodes_ends_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ray_backend, "COUNTING", 0.1)
        monkeypatch.setattr(ray_backend, "ALONE", 0.5)
        monkeypatch.setattr("ray.nodes", list)
        with pytest.raises(UserError, match="no node left"):
            self.run(1, self.task("t", "sleep:20"))

    def test_a_node_that_goes_costs_an_attempt_and_no_more(
        self, cluster: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Its worker ends with it, and another goes on elsewhere; Ray itself prints nothing of that."""
        nodes = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
        (self.folder / "actor.py").write_text(WATCHFUL)
        runs: list[dict[str, Any]] = []

        def remove(_: str, event: dict[str, Any]) -> None:
            if event["event"] == "ready" and not runs:
                runs.append(event)
                cluster.remove_node(nodes[parent_of(event["parent"])], allow_graceful=False)

        try:
            report = self.run(1, self.task("t", "ok"), watch=remove)
        finally:
            add_node(cluster, 2, 2)
        assert [task.attempt for task in report.finished] == [2]
        assert "gone with its node" in self.said("retried")[0]["text"]
        first, second = self.said("ready")
        wait_until(lambda: not alive(first["pid"]))
        assert first["parent"] != second["parent"]
        assert capsys.readouterr() == ("", "")

    def test_a_worker_is_told_to_save_before_it_is_ended(self) -> None:
        (self.folder / "actor.py").write_text(SAVER)

        def interrupt(_: str, event: dict[str, Any]) -> None:
            if event["event"] == "ready":
                signal.raise_signal(signal.SIGINT)

        assert self.run(1, self.task("t", "ok"), watch=interrupt).interrupted
        assert self.said("stopped")

    def test_what_waits_for_a_node_is_cancelled(self) -> None:
        """Two want all there is, and Ray has the third one wait."""
        fleet = Fleet("cpu", (Device(),) * 3)
        ready: list[str] = []

        def interrupt(task: Task, event: dict[str, Any]) -> None:
            if event["event"] == "ready":
                ready.append(task.id)
                if len(ready) == 2:
                    signal.raise_signal(signal.SIGINT)

        launcher = RayLauncher(fleet, self.folder / "runs", self.command, share=2.0, look=0.05)
        tasks = [self.task(f"t{number}", "parent") for number in range(3)]
        assert Coordinator(fleet, launcher).run(tasks, interrupt).interrupted
        assert len(self.journal("start")) == 2


def test_a_run_on_ray_leaves_the_records_of_any_other(cluster: Any, bench: Bench) -> None:
    leaves_the_same_records(
        bench, "--backend", "ray", "--ray-address", cluster.address, "--slots", "2", "--device", "cpu"
    )


@pytest.mark.slow  # a cluster takes its time to start
def test_a_run_makes_a_cluster_of_its_own(bench: Bench) -> None:
    leaves_the_same_records(bench, "--backend", "ray")


def test_the_devices_of_a_cluster(cluster: Any) -> None:
    wait_until(lambda: find_backend(Choice("ray")).fleet(1).slots == 4)  # nodes that went are known for a while
    assert find_backend(Choice("ray", "auto")).fleet(1) == Fleet("cuda", (Device(),) * 4, elsewhere=True)
    assert find_backend(Choice("ray", "cuda", slots=6)).fleet(1).slots == 6
    assert find_backend(Choice("ray", "cpu")).fleet(1) == Fleet("cpu", (Device(slots=2),) * 2)
    assert find_backend(Choice("ray", "cpu", slots=3)).fleet(1) == Fleet("cpu", (Device(slots=2), Device(slots=1)))


def test_an_address_that_does_not_answer_is_said_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port where nobody listens, and one where somebody does who is no Ray."""
    monkeypatch.setattr(ray_backend, "PATIENCE", 3.0)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        for listening in (False, True):
            if listening:
                deaf.listen()
            with pytest.raises(UserError, match="no Ray cluster answers" if listening else "nobody answers there"):
                ray_backend._check(address)
    for wrong in ("somewhere", "ray://host:10001", ":1"):
        with pytest.raises(UserError, match="--ray-address must be HOST:PORT"):
            ray_backend._check(wrong)
