"""The backend for Slurm: workers are jobs, and those that start together are one array of jobs."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kdbench.errors import UserError, reason, shown
from kdbench.plan.fleet import Device, Fleet
from kdbench.schedule.backends import Choice
from kdbench.schedule.base import Event, Executor, Grant
from kdbench.schedule.coordinator import Coordinator
from kdbench.schedule.devices import check_slots
from kdbench.schedule.local import Command, last_line, worker
from kdbench.schedule.relay import obedient
from kdbench.schedule.remote import LAG, LOOK, Placed, RemoteLauncher

#: Jobs at a time, waiting ones included, where nobody says how many.
JOBS = 16
#: Seconds for which what is to start is gathered into one array.
GATHER = 10.0
#: Seconds between two questions to Slurm about the jobs of a run.
ASK = 10.0
#: The same at the end of a run, when all of them were cancelled.
CLOSING = 2.0
#: Seconds until a job is submitted again that Slurm has not taken.
AGAIN = 30.0
#: Seconds before the time limit of a job at which its worker is told to save.
NOTICE = 90
#: Seconds in which Slurm has to answer.
PATIENCE = 15.0
#: Options of sbatch that are kdbench's own.
OWN = (
    *(
        "array",
        "chdir",
        "error",
        "export",
        "gpus",
        "gpus-per-task",
        "input",
        "job-name",
        "no-requeue",
        "nodes",
        "ntasks",
    ),
    *("ntasks-per-node", "open-mode", "output", "parsable", "requeue", "signal", "test-only", "wait", "wrap"),
)
#: Why a job never starts, in Slurm's words: its node failed before it, and it waits to be released.
_HELD = "launch failed requeued held"


def options_of(texts: Sequence[str]) -> dict[str, str]:
    """Options of sbatch from ``key=value,key=value``; a piece without ``=`` goes on with the value before it."""
    options: dict[str, str] = {}
    for text in texts:
        name = ""
        for piece in text.split(","):
            key, equals, value = piece.partition("=")
            if not equals and name:
                options[name] += f",{piece}"
                continue
            name = key.strip().removeprefix("--")
            if not re.fullmatch(r"[a-z][a-z-]*[a-z]", name) or not (value or not equals):
                raise UserError(f"--slurm takes options of sbatch as key=value[,key=value], not {shown(text)}.")
            if name in OWN:
                raise UserError(f"--slurm {name}: kdbench sets this option of sbatch itself; leave it out.")
            options[name] = value
    return options


class SlurmBackend:
    """A cluster on which Slurm starts jobs."""

    def __init__(self, choice: Choice) -> None:
        check_slots(choice.slots)
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise UserError("--backend slurm needs submitit: pip install 'kdbench[slurm]'.") from None
        for command in ("sbatch", "srun", "squeue", "scancel", "sinfo"):
            if shutil.which(command) is None:
                raise UserError(f"--backend slurm: there is no {command} here; start kdbench where jobs are submitted.")
        self.choice, self.options = choice, dict(choice.slurm)
        self.cuda = choice.device != "cpu" and self._has_gpus()
        if choice.device == "cuda" and not self.cuda:
            raise UserError("--device cuda: sinfo lists no node with a GPU; use --device cpu, or name a partition.")
        _answer(["sbatch", "--test-only", *_flags(self.options, self.cuda), "--wrap=true"])

    def _has_gpus(self) -> bool:
        partition = [f"--partition={self.options['partition']}"] if "partition" in self.options else []
        return "gpu" in _answer(["sinfo", "--noheader", "--format=%G", *partition])

    def fleet(self, threads: int) -> Fleet:
        """As many places as there may be jobs; Slurm knows where they are."""
        return Fleet("cuda" if self.cuda else "cpu", (Device(),) * (self.choice.slots or JOBS), elsewhere=True)

    def executor(self, fleet: Fleet, folder: Path) -> Executor:
        return Coordinator(fleet, SlurmLauncher(folder, self.cuda, self.options), limit=self.choice.timeout)


class SlurmLauncher(RemoteLauncher):
    """Has Slurm start workers. What becomes ready within ``gather`` seconds is one array; ``ask``: see ASK."""

    def __init__(
        self,
        folder: Path,
        cuda: bool,
        options: Mapping[str, str],
        command: Command = worker,
        *,
        look: float = LOOK,
        lag: float = LAG,
        gather: float = GATHER,
        ask: float = ASK,
    ) -> None:
        super().__init__(folder, cuda, command, look, lag)
        self.options, self.gather, self.ask = options, gather, ask
        self.name = f"kdbench-{self.folder.name}".replace(",", "-")
        self._gathered: list[Placed] = []
        self._submitted_at, self._asked_at = -gather, 0.0
        #: Jobs whose worker has ended, and when.
        self._left: dict[object, float] = {}
        self._said_refused = False

    def cores(self, grant: Grant) -> int:
        own = self.options.get("cpus-per-task", "")
        return int(own) if own.isdecimal() else grant.task.threads

    def place(self, new: Sequence[Placed]) -> None:
        self._gathered += new

    def attend(self) -> Iterator[tuple[Grant, Event]]:
        now = time.monotonic()
        if self._gathered and now - self._submitted_at >= self.gather:
            self._submitted_at = now
            yield from self._submit()
        if now - self._asked_at >= self.ask:
            self._asked_at = now
            self._take_note(now)

    def _submit(self) -> Iterator[tuple[Grant, Event]]:
        """One array of all that were gathered and ask for the same cores."""
        for cores in sorted({one.launch.cores for one in self._gathered}):
            array = [one for one in self._gathered if one.launch.cores == cores]
            try:
                jobs = self._array([str(one.told) for one in array], cores)
            except Exception as error:  # submitit's own, or the system's: there may be too many jobs, or no room
                self._submitted_at += AGAIN
                if not self._said_refused:
                    text = f"Slurm has not taken it ({reason(error)}); the run tries again by itself"
                    yield array[0].grant, {"event": "waiting", "text": text}
                self._said_refused = True
                return
            self._said_refused = False
            for one, job in zip(array, jobs, strict=True):
                one.job = job
                self._gathered.remove(one)

    def _array(self, told: Sequence[str], cores: int) -> list[str]:
        """Submit a job for each file; their names."""
        from submitit import SlurmExecutor

        executor = SlurmExecutor(self.folder / "slurm")
        extra = {name.replace("-", "_"): value or True for name, value in self.options.items()}
        executor.update_parameters(
            job_name=self.name,
            time=None,  # that of the partition, and not submitit's
            wckey=None,
            nodes=1,
            ntasks_per_node=1,
            cpus_per_task=cores,
            gpus_per_node=1 if self.cuda and "gres" not in extra else None,
            array_parallelism=len(told),
            signal_delay_s=NOTICE,
            stderr_to_stdout=True,
            srun_args=[f"--cpus-per-task={cores}"],  # which srun does not take over from sbatch since 22.05
            additional_parameters={"requeue": True, **extra},
        )
        with contextlib.redirect_stderr(io.StringIO()):  # what sbatch prints is in the exception, too
            return [job.job_id for job in executor.map_array(obedient, told)]

    def _take_note(self, now: float) -> None:
        """Ask for all jobs of the run at once: those that are not there are gone."""
        try:
            lines = _ask(
                ["squeue", "--noheader", "--array", f"--user={os.getuid()}", f"--name={self.name}", "--format=%i %T %r"]
            )
        except (OSError, subprocess.SubprocessError):  # it may be down for a while, which says nothing of the jobs
            return
        jobs = {
            job: (state, why) for job, state, why in ((*line.split(None, 2), "", "")[:3] for line in lines.splitlines())
        }
        held = [job for job, (_, why) in jobs.items() if why.strip() == _HELD]
        for one in self.placed.values():
            # Slurm lets one that it has put back wait for minutes; a new one starts at once.
            back = one.started and jobs.get(str(one.job), ("", ""))[0] == "PENDING"
            there = one.job is None or (one.job in jobs and one.job not in held and not back)
            one.gone = None if there else one.gone or now
        # One that was put back into the queue though its worker went on, or that does not end with its worker.
        spare = [
            job for job, since in self._left.items() if job in jobs and (jobs[job][0] == "PENDING" or now - since > LAG)
        ]
        self._left = {job: since for job, since in self._left.items() if job in jobs}
        _cancel([*held, *spare])

    def release(self, one: Placed) -> None:
        if one.job is not None:
            self._left[one.job] = time.monotonic()

    def cancel(self, some: Sequence[Placed]) -> None:
        for one in some:
            if one in self._gathered:
                self._gathered.remove(one)
                one.gone = time.monotonic()
        _cancel([str(one.job) for one in some if one.job is not None])

    def close(self) -> None:
        self.ask = min(self.ask, CLOSING)
        super().close()
        self._take_note(time.monotonic())

    def blame(self, one: Placed) -> str:
        """What it printed last, where Slurm could write that."""
        log = self.folder / "slurm" / f"{one.job}_0_log.out"
        said = last_line(log, besides=("srun: ", "slurmstepd: "))
        return f"its last words are{said}, the rest is in {log}" if said else super().blame(one)


def _flags(options: Mapping[str, str], cuda: bool) -> list[str]:
    flags = [f"--{name}={value}" if value else f"--{name}" for name, value in options.items()]
    return flags if not cuda or {"gres", "gpus-per-node"} & options.keys() else [*flags, "--gpus-per-node=1"]


def _ask(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


def _answer(command: Sequence[str]) -> str:
    """What ``command`` prints; UserError where it fails, or Slurm does not answer."""
    try:
        return _ask(command)
    except subprocess.TimeoutExpired:
        raise UserError(f"Slurm does not answer ({command[0]} took more than {PATIENCE:.0f} s); see sinfo.") from None
    except subprocess.CalledProcessError as error:
        if "configuration source" in error.stderr:  # the last of several lines
            raise UserError(
                f"--backend slurm: {command[0]} finds no cluster; start kdbench where it does, or name the "
                "cluster's slurm.conf in SLURM_CONF."
            ) from None
        raise UserError(f"--backend slurm: {command[0]} says: {reason(error.stderr)}.") from None
    except OSError as error:
        raise UserError(f"--backend slurm: {command[0]} cannot be started ({reason(error)}).") from None


def _cancel(jobs: Sequence[object]) -> None:
    """Have Slurm end ``jobs``, if it can be reached; those that have ended are none of its business."""
    if jobs:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["scancel", "--quiet", *map(str, jobs)], capture_output=True, timeout=PATIENCE)
