"""The node's side of a cluster's backends: it starts the worker of a task and writes what it says into a file.

The scheduler of the cluster decides where a relay runs, and is told nothing. What the worker says and how it ends are
lines of a file in the run's folder, on a file system that the nodes share; kdbench.schedule.remote reads them.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from kdbench.schedule.base import Event, Grant
from kdbench.schedule.local import GRACE, Command, events_of, kill_group, variables

#: Seconds between two looks at whether the worker is to end.
LOOK = 0.2
#: Seconds until lines are written again that could not be: a disk is full, or a server is away.
AGAIN = 5.0
#: Seconds after which a worker that was killed is said to have been: where its node goes, so does the relay by then,
#: and nobody blames the worker.
AFTERMATH = 2.0
#: Seconds for which the last lines are tried to be written.
LAST_WORDS = 600.0
#: Variables that a worker has from whoever runs kdbench, besides those of its node.
CARRIED = ("KDBENCH_", "PYTHONPATH")


@dataclass(frozen=True)
class Launch:
    """What a relay is told: a worker for the task in ``file``, by the ``arguments`` of Python.

    ``slot``: the number that its slot has in the run. ``cores``: what it may use of its node. ``cuda``: whether it has
    the GPUs that are visible where it is started; else none. ``variables``: of the environment, ``folder``: the current
    one, where there is one of that name.
    """

    file: str
    log: str
    arguments: list[str]
    slot: int
    attempt: int
    threads: int
    cores: int
    cuda: bool
    folder: str
    variables: dict[str, str]

    @classmethod
    def of(cls, grant: Grant, folder: Path, command: Command, cores: int, cuda: bool) -> Launch:
        """The launch for ``grant``, whose files lie in ``folder``."""
        task, folder = grant.task, folder.absolute()
        file = folder / f"{task.id}.{grant.id}.json"
        variables = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
        return cls(
            file=str(file),
            log=str(folder / f"{task.id}.log"),
            arguments=command(file)[1:],
            slot=grant.slots[0],
            attempt=task.attempt,
            threads=task.threads,
            cores=cores,
            cuda=cuda,
            folder=os.getcwd(),
            variables=variables,
        )

    def write(self, grant: Grant) -> Path:
        """Write the task's file and that of the launch, which is returned."""
        file = Path(self.file)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(grant.task.to_json(), encoding="utf-8")
        told = file.with_suffix(".launch")
        told.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return told

    @classmethod
    def read(cls, told: Path) -> Launch:
        return cls(**json.loads(told.read_text("utf-8")))


def relay(told: Path, stop: Callable[[], bool]) -> int:
    """Start the worker of the launch in the file ``told``, and write what it says until it has ended; its exit code.

    When ``stop`` says so, it is to save and end, and is killed when it takes too long. When this process dies, its
    standard input closes, and it ends.
    """
    launch = Launch.read(told)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if launch.cuda else ""
    writer = _Writer(_own_file(told))
    with open(launch.log, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, *launch.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=variables({**os.environ, **launch.variables}, launch.threads, visible, launch.cores * launch.cuda),
            cwd=launch.folder if os.path.isdir(launch.folder) else None,
            start_new_session=True,
        )
        writer.say(
            {"event": "started", "slot": launch.slot, "pid": process.pid, "attempt": launch.attempt}
            | {"host": _host(), "device": visible, "log": launch.log}
        )
        try:
            _follow(process, writer, stop)
        finally:
            kill_group(process, signal.SIGKILL)
            code = process.wait()
    if code == -signal.SIGKILL and not stop():
        time.sleep(AFTERMATH)
    writer.say({"event": "exit", "code": code, "told": stop()})
    writer.finish()
    return code


def obedient(told: str) -> int:
    """``relay`` in a job of a batch system, which says by a signal that its time is over."""
    over = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(sign, lambda *_: over.set())
    return relay(Path(told), over.is_set)


def _follow(process: subprocess.Popen[bytes], writer: _Writer, stop: Callable[[], bool]) -> None:
    """Write what ``process`` says until it has ended or been killed."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    deadline: float | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        speaks = True
        while process.poll() is None:
            if speaks and selector.select(LOOK):
                speaks = writer.copy(process.stdout.fileno())
            elif not speaks:
                time.sleep(LOOK)
            writer.flush()
            if deadline is None and stop():
                process.send_signal(signal.SIGTERM)  # to it alone: to save it may need those that decode for it
                deadline = time.monotonic() + GRACE
            elif deadline is not None and time.monotonic() > deadline:
                kill_group(process, signal.SIGKILL)
    kill_group(process, signal.SIGKILL)  # whatever the worker left behind in its process group
    while writer.copy(process.stdout.fileno()):
        continue


class _Writer:
    """Appends events to a file, opened anew each time, as a shared file system shows others what is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rest = b""
        self._lines: list[bytes] = []
        self._later = 0.0

    def say(self, event: Event) -> None:
        self._lines.append(json.dumps(event).encode() + b"\n")
        self.flush()

    def copy(self, stream: int) -> bool:
        """Take in what can be read of ``stream``; whether there was any."""
        try:
            read = os.read(stream, 1 << 16)
        except BlockingIOError:
            return False
        *lines, self._rest = (self._rest + (read or b"\n")).split(b"\n")
        self._lines += [json.dumps(event).encode() + b"\n" for event in events_of(lines)]
        return bool(read)

    def flush(self) -> bool:
        """Write what there is; whether nothing is left."""
        if not self._lines or time.monotonic() < self._later:
            return not self._lines
        try:
            with self.path.open("ab") as stream:
                stream.write(b"".join(self._lines))
        except OSError:  # it is tried again, behind what may be the half of a line
            self._later = time.monotonic() + AGAIN
            self._lines[0] = b"\n" + self._lines[0].lstrip()
            return False
        self._lines = []
        return True

    def finish(self) -> None:
        """Write the last lines, also where that takes some time."""
        end = time.monotonic() + LAST_WORDS
        while not self.flush() and time.monotonic() < end:
            time.sleep(LOOK)


def _host() -> str:
    """The name of this node, as its scheduler has it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def events_file(told: Path, number: int) -> Path:
    """Where the relay of that ``number`` writes among those of one launch."""
    return told.with_suffix(f".{number}.events")


def _own_file(told: Path) -> Path:
    """A new file for the events of this relay: an earlier one, whose node was given up, may still be at work."""
    number = 0
    while True:
        try:
            events_file(told, number).touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return events_file(told, number)
