"""``python -m kdbench.worker TASK.json``: what it does.

The process that trains cohorts, one after the other, or makes one teacher ready.

Events go to standard output, a JSON object a line; everything else that is printed goes to standard error, as its log,
and with it what the events say to people. Standard input is held open by whoever started it: when it closes, the worker
ends at once, so that no training outlives its run.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from kdbench.errors import UserError, plain
from kdbench.plan.events import told
from kdbench.plan.task import EXIT_DEVICE, EXIT_REFUSED, Task


def main(arguments: list[str]) -> int:
    """Run the task in the file ``arguments[0]``; 0 when each of its trials has a record."""
    events = _claim_stdout()

    def emit(event: dict[str, Any]) -> None:
        _log(event)
        events.write(json.dumps(event) + "\n")
        events.flush()

    if not sys.stdin.isatty():
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        task = Task.from_json(Path(arguments[0]).read_text(encoding="utf-8"))
        run(task, emit)
        emit({"event": "done"})  # an exit code of 0 alone is what any plugin can end the process with
    except UserError as error:
        if type(error).__name__ == "PastMending":  # of this process: another one may go on, with one trial at a time
            print(error, file=sys.stderr)
            return 1
        emit({"event": "refused", "text": str(error)})
        return EXIT_REFUSED
    except Exception as error:
        if type(error).__name__ != "AcceleratorError":  # torch's, which a worker that refused has not loaded
            raise
        traceback.print_exc()
        return EXIT_DEVICE
    return 0


def run(task: Task, emit: Any) -> None:
    """Do ``task`` in this process."""
    from kdbench.records.provenance import source_digest

    if task.source not in ("", source_digest()):
        raise UserError("kdbench itself was changed since the run was planned; start the run again.")
    _load(task, emit)
    from kdbench.jobs.cohort import train_cohort
    from kdbench.jobs.teacher import prepare
    from kdbench.plan.cohorts import cohorts
    from kdbench.trials.trial import teacher_key

    if task.trials:
        for cohort in cohorts(task.trials):
            with locked(task.cache / "locks", [trial.key for trial in cohort.trials], emit):
                train_cohort(task, cohort.trials, emit)
            _put_back(task, emit, "by the time its trials had ended")
    elif task.teacher is not None:
        name = f"teacher-{teacher_key(task.teacher, task.dataset, task.data_digest)[:16]}"
        with locked(task.cache / "locks", [name], emit):
            prepare(task, emit)


def _load(task: Task, emit: Any) -> None:
    """Load the plugins of ``task``, under the eyes of torch."""
    from kdbench.plugins import load_planned

    if task.plugins:
        from kdbench.train import global_state

        global_state.remember()
    load_planned(task.plugins)
    _put_back(task, emit, "when it was loaded")


def _put_back(task: Task, emit: Any, when: str) -> None:
    """Undo what plugins have changed of what trials share, and say so."""
    if task.plugins:
        from kdbench.train import global_state

        if changed := global_state.differences(thorough=True):
            text = f"a plugin changed what all trials share {when}, which is put back: {', '.join(changed)}"
            emit({"event": "note", "text": text})


@contextmanager
def locked(folder: Path, names: list[str], emit: Any) -> Iterator[None]:
    """Hold the locks ``names``, which everybody takes in one order: two runs never train the same trial at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for name in sorted(names):
            stream = stack.enter_context((folder / f"{name}.lock").open("w"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                emit({"event": "waiting", "text": "another run is at work on it; waiting for that"})
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _log(event: dict[str, Any]) -> None:
    """Print what ``event`` says to people; where that cannot be written, as on a full disk, it is no reason to end."""
    with suppress(OSError):
        for line in told(event):
            print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {plain(line)}", file=sys.stderr)


def _claim_stdout() -> IO[str]:
    """Standard output for events alone: whatever a library or a plugin prints goes to standard error."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def _end_with_parent() -> None:
    while sys.stdin.buffer.raw.read(4096):  # type: ignore[attr-defined]
        continue
    os._exit(3)
