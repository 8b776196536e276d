"""A randomised attack: kills, damage, concurrent runs and misbehaving plugins over digits, against a quiet run's bits.

``python tests/attack/attack.py --minutes 60 --seed 1`` attacks for an hour and prints what was done and found. A round
is one suite in an empty results folder: one or two runs of it at a time beside misbehaving plugins, faults in random
order at random moments, and at the end one run that nobody disturbs. Then every trial of kdbench's own methods has to
have the weights, predictions, scores and curve of the quiet run, in each record that there is of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[number]) for number in (1, 2)]  # this checkout, and no other

from bench import Bench, plugin_text, suite_text  # noqa: E402
from clusters import ray_cluster, slurm_cluster  # noqa: E402

from attack.faults import Scene, possible, stopped  # noqa: E402
from attack.nodes import Nodes, RayNodes, SlurmNodes  # noqa: E402
from attack.plugins import MISBEHAVING  # noqa: E402
from kdbench.records.results import fold  # noqa: E402

#: Rows, seeds and epochs of the suite: seconds of training, with maps, logits, parts of its own, and no teacher.
ROWS = ("ce", "kd", "fitnet", "crd")
SUITE = suite_text(ROWS, epochs=3, batch=100, seeds=(0, 1))
#: Runs after which a round that is not complete counts as a failure.
TRIES = 4
IMPATIENT = Path(__file__).with_name("impatient.py")
#: Bytes of a disk that can be filled: a round needs some 60 MB.
DISK = 400 * 2**20
PATIENCE = 1800.0
#: Seconds without a word after which a run gives a worker up, at least: many times what it takes to start.
SILENCE = 45.0


@dataclass
class Report:
    """What was done, and everything that was not as promised."""

    rounds: int = 0
    runs: int = 0
    trials: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    plugins: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        counts = [f"{self.rounds} rounds, {self.runs} runs, {self.trials} trials compared"]
        faults = [f"  {count:>5}  {name}" for name, count in self.faults.most_common()]
        plugins = [f"  {count:>5}  plugin that {name}" for name, count in self.plugins.most_common()]
        exits = ", ".join(f"{code}: {count}" for code, count in sorted(self.exits.items()))
        failures = [f"FAILED {text}" for text in self.failures] or ["0 failures"]
        return [*counts, *faults, *plugins, f"exit codes of the runs: {exits}", *failures]


def bits(record: dict[str, Any]) -> list[Any]:
    """What must not differ: weights, predictions, scores, and the curve but for its seconds."""
    curve = [{name: value for name, value in point.items() if name != "seconds"} for point in record["curve"]]
    return [record["weights_sha256"], record["predictions"]["sha256"], record["scores"], curve]


def mounted(folder: Path) -> bool:
    """Whether ``folder`` is a small disk of its own now."""
    return not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)], capture_output=True
    ).returncode


def mountable(folder: Path) -> bool:
    """Whether such a disk can be had here."""
    place = folder / "disk"
    place.mkdir(parents=True)
    found = mounted(place)
    if found:
        subprocess.run(["umount", str(place)], check=True)
    return found


class Attack:
    """``folder`` holds the quiet run's cache and results, and each round's while it lasts.

    ``pause``: the most seconds between two faults. ``disk``: whether each round has a disk of its own, which root may
    mount. ``nodes``: the cluster that all runs are on, but for the quiet one.
    """

    def __init__(
        self, folder: Path, seed: int, pause: float = 6.0, disk: bool = False, nodes: Nodes | None = None
    ) -> None:
        self.folder, self.rng, self.report, self.pause = folder, random.Random(seed), Report(), pause
        self.disk = disk and mountable(folder)
        self.nodes = nodes
        self.backend: list[str] = []
        self.quiet = Bench(folder / "quiet")
        self.quiet.folder.mkdir(parents=True)
        self.packages = self.quiet.install_suite(SUITE)
        self.silence = PATIENCE
        began = time.monotonic()
        run = self._start(self.quiet.folder, [])
        _, errors = run.communicate(timeout=PATIENCE)
        if run.returncode != 0:
            raise RuntimeError(f"the quiet run ended with {run.returncode}: {errors.decode()}")
        self.silence = max(SILENCE, time.monotonic() - began)  # other work may make this machine slow
        if nodes is not None:
            self.backend = [*nodes.backend]
        self.expected = {key: bits(record) for key, record in self._records(self.quiet.folder)[0]}
        assert len(self.expected) == len(ROWS) * 2 + 1  # and the teacher

    def _start(self, folder: Path, words: list[str]) -> subprocess.Popen[bytes]:
        bench = Bench(folder)
        command = [
            sys.executable,
            str(IMPATIENT),
            str(self.silence),
            "run",
            "--suite",
            "tiny",
            "--results",
            str(folder / "results"),
        ]
        return subprocess.Popen(
            [
                *command,
                "--out",
                str(folder / f"site-{self.rng.random()}"),
                "--device",
                "cpu",
                "--slots",
                "2",
                *self.backend,
                *words,
            ],
            env=bench.environment(self.packages, KDBENCH_CHECKPOINT_SECONDS="0.3"),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def _records(self, folder: Path) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
        records, problems = Bench(folder).store.read()
        results, contradictions = fold(record for record in records if record["method"] in ROWS)
        return [(record["key"], record) for record in results], [*problems, *(text for _, text in contradictions)]

    def round(self, faults: int) -> None:
        """One suite, ``faults`` faults, and the comparison."""
        number = self.report.rounds
        folder = self.folder / f"round-{number}"
        folder.mkdir()
        small = mounted(folder) if self.disk else False
        if self.rng.random() < 0.5:  # with a cache that has seen something, or with none
            shutil.copytree(self.quiet.folder / "cache", folder / "cache")
        names = self.rng.sample(sorted(MISBEHAVING), self.rng.choice([0, 1, 1, 2]))
        plugins = [folder / f"{name}_plugin.py" for name in names]
        for name, path in zip(names, plugins, strict=True):
            path.write_text(plugin_text(name, **MISBEHAVING[name]), encoding="utf-8")
            self.report.plugins[name] += 1
        words = [w for n, p in zip(names, plugins, strict=True) for w in ("--plugin", str(p), "--method", n)]
        words += [word for row in ROWS for word in ("--method", row)] if names else []
        scene = Scene(folder, plugins, self.rng)
        scene.small_disk = small
        scene.nodes = self.nodes
        try:
            self._disturb(scene, words, faults)
            self._compare(scene, words)
            self._end_leftovers(scene)
        finally:
            if self.nodes is not None:
                self.nodes.settle()
            if small:
                subprocess.run(["umount", "-l", str(folder)], check=True)
        self.report.rounds += 1
        if not any(text.startswith(f"round {number}:") for text in self.report.failures):
            shutil.rmtree(folder)

    def _disturb(self, scene: Scene, words: list[str], faults: int) -> None:
        """Runs, one or two at a time, under ``faults`` faults."""
        running: list[subprocess.Popen[bytes]] = []
        chances = possible(scene)
        done = 0
        while done < faults:
            running = [run for run in running if not self._over(scene, run)]
            while len(running) < self.rng.choice([1, 1, 2]):
                running.append(self._start(scene.folder, words))
                self.report.runs += 1
            scene.runs = [run.pid for run in running]
            time.sleep(self.rng.uniform(0.2, self.pause))
            (fault,) = self.rng.choices(list(chances), list(chances.values()))
            if fault.make(scene):
                self.report.faults[fault.name] += 1
                done += 1
        for run in running:
            run.terminate()
            self._over(scene, run, wait=True)

    def _end_leftovers(self, scene: Scene) -> None:
        """End workers that a fault has stopped and whose run was killed; none that can run outlives its run."""
        limit = time.monotonic() + PATIENCE / 10
        while running := [pid for pid in scene.workers() if not stopped(pid)]:
            if time.monotonic() > limit:
                self._fail(f"{len(running)} workers outlived their runs")
                break
            time.sleep(0.5)
        for pid in scene.workers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _over(self, scene: Scene, run: subprocess.Popen[bytes], wait: bool = False) -> bool:
        if not wait and run.poll() is None:
            return False
        try:
            output, errors = run.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            run.kill()
            output, errors = run.communicate()
            self._fail(f"a run did not end: {errors.decode()[-500:]}")
        self.report.exits[str(run.returncode)] += 1
        if b"Traceback" in output + errors:
            self._fail(f"a traceback: {(output + errors).decode()[-1500:]}")
        if run.returncode not in (0, 2, 3, 130, -9, -2, -15):
            self._fail(f"exit code {run.returncode}: {errors.decode()[-500:]}")
        return True

    def _compare(self, scene: Scene, words: list[str]) -> None:
        """A quiet run to the end, of kdbench's own rows alone, and whether all is as it would have been."""
        for attempt in range(TRIES):
            run = self._start(scene.folder, [word for row in ROWS for word in ("--method", row)])
            self.report.runs += 1
            output, errors = run.communicate(timeout=PATIENCE)
            self.report.exits[str(run.returncode)] += 1
            if run.returncode == 0:
                break
            if attempt == TRIES - 1:
                self._fail(f"exit code {run.returncode} of a quiet run: {(output + errors).decode()[-1500:]}")
        records, problems = self._records(scene.folder)
        if len(problems) > scene.damaged:
            self._fail(f"{scene.damaged} records were damaged, and more are unreadable: {' '.join(problems)}")
        for key, record in records:
            self.report.trials += 1
            if key not in self.expected:
                self._fail(f"the trial {key[:12]} was never planned: {record['label']} seed {record['seed']}")
            elif record["status"] != "finished" or bits(record) != self.expected[key]:
                self._fail(
                    f"{record['label']} seed {record['seed']} is {record['status']} with other bits: {record['detail']}"
                )
        for key in self.expected.keys() - {key for key, _ in records}:
            self._fail(f"the trial {key[:12]} has no record")
        for path in (scene.cache / "checkpoints").glob("*.tmp"):
            self._fail(f"{path.name} was left lying")

    def _fail(self, text: str) -> None:
        self.report.failures.append(f"round {self.report.rounds}: {text}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=6, help="faults a round")
    parser.add_argument("--pause", type=float, default=6.0, help="the most seconds between two faults")
    parser.add_argument("--disk", action="store_true", help="fill disks, too, which root may mount")
    parser.add_argument("--backend", choices=("local", "ray", "slurm"), default="local", help="where its nodes go, too")
    parser.add_argument("--keep", type=Path, help="a folder that keeps the rounds that failed")
    options = parser.parse_args()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        nodes: Nodes | None = None
        if options.backend == "ray":
            nodes = RayNodes(stack.enter_context(ray_cluster(1, 0)))
        elif options.backend == "slurm":
            stack.enter_context(slurm_cluster(Path(stack.enter_context(TemporaryDirectory()))))
            nodes = SlurmNodes()
        attack = Attack(Path(folder), options.seed, options.pause, options.disk, nodes)
        end = time.monotonic() + options.minutes * 60
        with suppress(KeyboardInterrupt):
            while time.monotonic() < end:
                attack.round(options.faults)
                done = {"rounds": attack.report.rounds, "faults": attack.report.faults.total()}
                print(json.dumps({**done, "failures": len(attack.report.failures)}), flush=True)
        print("\n".join(attack.report.lines()))
        if options.keep and attack.report.failures:
            shutil.copytree(folder, options.keep, dirs_exist_ok=True)
    return 1 if attack.report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
