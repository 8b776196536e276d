"""The backend for Ray: workers are started by tasks on the nodes of a cluster, or of one made on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdbench.errors import UserError, described, reason, shown
from kdbench.plan.fleet import Device, Fleet
from kdbench.plan.task import EXIT_MEMORY
from kdbench.schedule.backends import Choice
from kdbench.schedule.base import Ending, Event, Executor, Grant
from kdbench.schedule.coordinator import Coordinator
from kdbench.schedule.devices import check_slots, dealt
from kdbench.schedule.devices import cores as cores_here
from kdbench.schedule.local import Command, worker
from kdbench.schedule.relay import relay
from kdbench.schedule.remote import LAG, LOOK, Placed, RemoteLauncher

#: Seconds in which a cluster has to answer.
PATIENCE = 15.0
#: A slot asks for so much of a CPU at least, which is the smallest part that Ray knows.
LEAST = 1e-4


#: Seconds between two looks at the nodes of a cluster, and after which a run ends that has none.
COUNTING, ALONE = 10.0, 90.0


class RayBackend:
    """A cluster of Ray: the one at ``address``, the running one for ``auto``, or one on this machine for this run."""

    def __init__(self, choice: Choice) -> None:
        check_slots(choice.slots)
        self.choice = choice
        if choice.address is None:
            # By itself Ray would listen to the whole network, where a cluster of one machine has no business.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
            os.environ.setdefault("RAY_worker_niceness", "0")  # as local workers have it
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what is visible is set for each worker
        try:
            import ray
        except ImportError:
            raise UserError("--backend ray needs Ray: pip install 'kdbench[ray]'.") from None
        if not ray.is_initialized():
            _connect(choice.address)
        self.nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.cuda = choice.device != "cpu" and any(node.get("GPU") for node in self.nodes)
        if choice.device == "cuda" and not self.cuda:
            raise UserError("--device cuda: no node of the Ray cluster has a GPU; use --device cpu.")

    def fleet(self, threads: int) -> Fleet:
        """A device for each GPU or, without GPUs, for each node that has CPUs; which one a worker gets is up to Ray."""
        if self.cuda:
            gpus = [Device() for node in self.nodes for _ in range(int(node.get("GPU", 0)))]
            return replace(dealt(gpus, self.choice.slots), elsewhere=True)
        cpus = [int(node["CPU"]) for node in self.nodes if node.get("CPU", 0) >= 1]
        if not cpus:
            raise UserError("--backend ray: no node of the Ray cluster has a CPU to start workers on.")
        if self.choice.slots is None:
            return Fleet("cpu", tuple(Device(slots=max(n // threads, 1)) for n in cpus))
        return replace(dealt([Device() for _ in cpus], self.choice.slots), kind="cpu")

    def executor(self, fleet: Fleet, folder: Path) -> Executor:
        launcher = RayLauncher(fleet, folder, share=self._share(fleet))
        return Coordinator(fleet, launcher, limit=self.choice.timeout)

    def _share(self, fleet: Fleet) -> float:
        """The CPUs that a slot asks for: as many as the cluster has for each, and one at most."""
        cpus = sum(float(node.get("CPU", 0.0)) for node in self.nodes)
        return max(min(cpus / fleet.slots, 1.0), LEAST)


class RayLauncher(RemoteLauncher):
    """Has Ray start workers. Each slot asks for ``share`` of a CPU, and on GPUs for its part of one."""

    def __init__(
        self,
        fleet: Fleet,
        folder: Path,
        command: Command = worker,
        *,
        share: float,
        look: float = LOOK,
        lag: float = LAG,
    ) -> None:
        import ray

        # Ray prints of each process that dies, and what becomes of its task is said by the run.
        ray._private.worker._worker_logs_enabled = False
        super().__init__(folder, fleet.kind == "cuda", command, look, lag)
        self.fleet, self.share = fleet, share
        self._relayed = ray.remote(_relayed)
        self._waited_at = 0.0
        self._counted_at = self._alone_since = time.monotonic()

    def cores(self, grant: Grant) -> int:
        return max(int(self.share * len(grant.slots)), 1)

    def place(self, new: Sequence[Placed]) -> None:
        for one in new:
            options = {"max_retries": 0, "name": one.grant.task.title, **self._asked(one.grant)}
            one.job = self._relayed.options(**options).remote(str(one.told))

    def _asked(self, grant: Grant) -> dict[str, float]:
        """What a task asks Ray for: parts of a CPU or a GPU, or several CPUs, which are not divided."""
        slots = self.fleet.devices[grant.device].slots
        cpus = self.share * (slots if grant.task.exclusive and not self.cuda else len(grant.slots))
        asked = {"num_cpus": float(int(cpus)) if cpus > 1 else round(max(cpus, LEAST), 4)}
        if self.cuda:
            most = max(device.slots for device in self.fleet.devices)
            asked["num_gpus"] = 1.0 if grant.task.exclusive else int(1e4 / most) / 1e4
        return asked

    def attend(self) -> Iterator[tuple[Grant, Event]]:
        import ray

        now = time.monotonic()
        waiting = {one.job: one for one in self.placed.values() if one.gone is None}
        if waiting and now - self._waited_at >= self.look:
            self._waited_at = now
            done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0, fetch_local=False)
            for job in done:
                waiting[job].gone = now
        if waiting and now - self._counted_at >= COUNTING:
            self._counted_at = now
            if any(node["Alive"] and node["Resources"].get("CPU") for node in ray.nodes()):
                self._alone_since = now
            elif now - self._alone_since > ALONE:
                raise UserError(
                    "The Ray cluster has no node left to start workers on; add one, and give the same command again: "
                    "it goes on from the last checkpoints."
                )
        yield from ()

    def cancel(self, some: Sequence[Placed]) -> None:
        import ray

        for one in some:
            try:
                _stop_file(one.told).touch()
                heeds = one.started
            except OSError:  # the disk is full
                heeds = False
            if not heeds:  # or it may wait for a node
                ray.cancel(one.job)

    def fate(self, one: Placed) -> Ending:
        import ray

        error = _raised(one.job)
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            return Ending(EXIT_MEMORY, "was ended by Ray, as its node ran out of memory", one.launch.log)
        return super().fate(one)

    def blame(self, one: Placed) -> str:
        import ray

        error = _raised(one.job)
        if isinstance(error, ray.exceptions.RayTaskError):
            return f"its node says: {described(error.cause or error)}"
        return super().blame(one) if error is None else ""


def _relayed(told: str) -> int:
    """What a task of Ray does on its node."""
    return relay(Path(told), _stop_file(Path(told)).exists)


def _stop_file(told: Path) -> Path:
    """The file that tells a relay to stop."""
    return told.with_suffix(".stop")


def _raised(job: Any) -> Exception | None:
    """What the task ``job``, which has ended, raised, or what Ray raises in its place."""
    import ray

    try:
        ray.get(job, timeout=PATIENCE)
    except Exception as error:
        return error
    return None


def _connect(address: str | None) -> None:
    """Connect to the cluster at ``address``, or make one of this machine; UserError where that fails."""
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        ray.init(address="local", num_cpus=cores_here(), include_dashboard=False, **quiet)
        return
    _check(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"--ray-address {address}: {reason(error)}; see ray status.") from None


def _check(address: str) -> None:
    """UserError where no Ray answers at ``address``, which Ray itself would wait two minutes for."""
    if address == "auto":
        _check_health(address, [])
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        raise UserError(f"--ray-address must be HOST:PORT of a cluster's head, or auto, not {shown(address)}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--ray-address {address}: nobody answers there ({reason(error)}); see ray status.") from None
    _check_health(address, ["--address", address])


def _check_health(address: str, flags: list[str]) -> None:
    """UserError unless Ray says in time that the cluster is well."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", *flags]
    try:
        healthy = subprocess.run(command, capture_output=True, timeout=PATIENCE).returncode == 0
    except subprocess.TimeoutExpired:
        healthy = False
    if not healthy:
        raise UserError(
            f"--ray-address {address}: no Ray cluster answers there, or it asks for a token (RAY_AUTH_MODE=token); see "
            "ray status on its head."
        )
