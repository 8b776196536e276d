"""What can go wrong while kdbench runs, each done to a run from outside by a random draw."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clusters import parent_of

from attack.nodes import Nodes

#: Files of the cache that a fault may damage, by the folder they lie in.
CACHED = ("checkpoints/*", "teachers/*/*.*", "teachers/*/record/v1/*/*", "outputs/*/*", "images/*/*", "identity/*")


class Scene:
    """One attacked run: where its files lie and which processes belong to it."""

    def __init__(self, folder: Path, plugins: list[Path], rng: random.Random) -> None:
        self.folder, self.plugins, self.rng = folder, plugins, rng
        self.runs: list[int] = []
        self.damaged = 0
        #: Whether its folder is a disk of its own, small enough to be filled.
        self.small_disk = False
        #: The cluster that its runs are on, if they are.
        self.nodes: Nodes | None = None

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def workers(self) -> list[int]:
        """The process ids of all workers on tasks of the scene, whoever has started them."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if b"kdbench.worker" in words and any(str(self.folder).encode() in word for word in words):
                    found.append(int(process.name))
        return found

    def some_file(self, folder: Path, *patterns: str) -> Path | None:
        files = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
        return self.rng.choice(files) if files else None


def _signal(pids: list[int], number: int, rng: random.Random) -> bool:
    if not pids:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(pids), number)
    return True


def kill_worker(scene: Scene) -> bool:
    return _signal(scene.workers(), signal.SIGKILL, scene.rng)


def kill_run(scene: Scene) -> bool:
    return _signal(scene.runs, signal.SIGKILL, scene.rng)


def end_run(scene: Scene) -> bool:
    return _signal(scene.runs, scene.rng.choice([signal.SIGTERM, signal.SIGINT]), scene.rng)


def stop_for_a_while(scene: Scene) -> bool:
    pids = [*scene.workers(), *scene.runs]
    if not pids:
        return False
    pid = scene.rng.choice(pids)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(scene.rng.uniform(0.1, 1.5))
        os.kill(pid, signal.SIGCONT)
    return True


def _damage(path: Path, rng: random.Random) -> None:
    """One bit, the end, the beginning, all of it, or the file itself."""
    with contextlib.suppress(OSError):
        content = bytearray(path.read_bytes())
        how = rng.choice(["flip", "flip", "flip", "cut", "zero", "garbage", "empty", "remove"])
        if how == "remove":
            path.unlink()
            return
        if how == "flip" and content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        elif how == "cut":
            del content[rng.randrange(len(content) + 1) :]
        elif how == "zero" and content:
            start = rng.randrange(len(content))
            content[start : start + 512] = bytes(len(content[start : start + 512]))
        elif how == "garbage":
            content = bytearray(rng.randbytes(min(len(content), 4096)))
        elif how == "empty":
            content.clear()
        stamps = path.stat()
        # Copied and exchanged, as a mapped file that shrinks kills whoever reads it, which no program can survive.
        other = path.with_name(f"{path.name}.damaged")
        other.write_bytes(content)
        os.utime(other, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
        other.replace(path)


def damage_cache(scene: Scene) -> bool:
    path = scene.some_file(scene.cache, *CACHED)
    if path is not None:
        _damage(path, scene.rng)
    return path is not None


def damage_record(scene: Scene) -> bool:
    """It stays where it is, and its trial is run again; a teacher's is only when somebody is to learn from it."""
    path = scene.some_file(scene.results, "v1/tiny@1/*.json")
    if path is not None:
        _damage(path, scene.rng)
        scene.damaged += 1
    return path is not None


def leave_a_half_written_file(scene: Scene) -> bool:
    place = scene.rng.choice([scene.cache / "checkpoints", scene.results / "v1" / "tiny@1", scene.cache / "teachers"])
    if not place.is_dir():
        return False
    (place / f".half.{scene.rng.randrange(4_000_000, 4_194_000)}.tmp").write_bytes(scene.rng.randbytes(100))
    return True


def edit_a_plugin(scene: Scene) -> bool:
    path = scene.rng.choice(scene.plugins)
    path.write_text(path.read_text(encoding="utf-8") + f"# {scene.rng.random()}\n", encoding="utf-8")
    return True


def stopped(pid: int) -> bool:
    """Whether a signal has stopped the process, which then ends by no other than SIGKILL; or it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TZ"
    except OSError:
        return True


def hang_worker(scene: Scene) -> bool:
    """It stands still until the run takes notice and ends it (attack/impatient.py: after seconds)."""
    return _signal(scene.workers(), signal.SIGSTOP, scene.rng)


def take_its_memory(scene: Scene) -> bool:
    """A worker may have little more memory than it has at that moment, so that a later step finds none."""
    for pid in scene.rng.sample(workers := scene.workers(), len(workers)):
        with contextlib.suppress(OSError, StopIteration, ValueError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            size = next(int(line.split()[1]) for line in lines if line.startswith("VmSize")) * 1024
            _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
            resource.prlimit(pid, resource.RLIMIT_AS, (size + scene.rng.randrange(2**20), hard))
            return True
    return False


def fill_the_disk(scene: Scene) -> bool:
    """For a while there is no room for another byte; on a small disk of the scene's own alone (Attack.disk)."""
    filler = scene.folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as stream:
        while True:
            stream.write(bytes(2**16))
            stream.flush()
    time.sleep(scene.rng.uniform(0.5, 3.0))
    filler.unlink(missing_ok=True)
    return True


def kill_relay(scene: Scene) -> bool:
    """What started a worker on its node; the worker is to end by itself."""
    return _signal(
        list({parent for pid in scene.workers() if (parent := parent_of(pid)) > 1}), signal.SIGKILL, scene.rng
    )


def remove_a_node(scene: Scene) -> bool:
    assert scene.nodes is not None
    scene.nodes.remove_one(scene.rng)
    return True


def cancel_a_job(scene: Scene) -> bool:
    assert scene.nodes is not None
    return scene.nodes.cancel_one(scene.rng)


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong: ``make`` does it, and says whether there was anything to do it to."""

    name: str
    make: Callable[[Scene], bool]
    weight: int = 1


FAULTS = (
    Fault("worker killed", kill_worker, 3),
    Fault("worker hung", hang_worker),
    Fault("memory gone", take_its_memory),
    Fault("run killed", kill_run, 2),
    Fault("run ended by a signal", end_run),
    Fault("process stopped for a while", stop_for_a_while),
)
AT_REST = (
    Fault("file in the cache damaged", damage_cache, 5),
    Fault("record damaged", damage_record, 2),
    Fault("half-written file left", leave_a_half_written_file),
)
ON_A_CLUSTER = (
    Fault("relay killed", kill_relay, 2),
    Fault("node removed", remove_a_node, 3),
    Fault("job cancelled", cancel_a_job, 2),
)
ON_A_DISK = Fault("disk full", fill_the_disk)
IN_PLUGINS = Fault("plugin edited", edit_a_plugin)


def possible(scene: Scene) -> dict[Fault, int]:
    """What can go wrong in ``scene``, and how often beside the others."""
    found = [*FAULTS, *AT_REST]
    found += ON_A_CLUSTER if scene.nodes is not None else ()
    found += [ON_A_DISK] if scene.small_disk else []
    found += [IN_PLUGINS] if scene.plugins else []
    return {fault: fault.weight for fault in found}
