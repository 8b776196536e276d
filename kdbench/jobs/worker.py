"""``python -m kdbench.worker TASK.json``: what it does.

The process that trains cohorts, one after the other, or makes one teacher ready.

Events go to standard output, a JSON object a line; everything else that is printed goes to standard error, as its log,
and with it what the events say to people. Standard input is held open by whoever started it: when it closes, the worker
ends, so that no training outlives its run. SIGTERM ends it, too. Either way it saves its students first, which has to
be quick.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import traceback
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from kdbench.data import register
from kdbench.errors import UserError, out_of_memory, plain
from kdbench.jobs.claims import claimed
from kdbench.plan.events import told
from kdbench.plan.task import EXIT_DEVICE, EXIT_MEMORY, EXIT_REFUSED, EXIT_STOPPED, Task
from kdbench.train.pulse import STOPPED, Emit, Pulse, Stopped

#: Exit code of a worker whose run is gone, which nobody reads.
EXIT_ALONE = 3
#: Seconds that a worker may take to save its students when it is told to end, and when its run is gone.
GRACE = 30.0
GRACE_ALONE = 5.0


def main(arguments: list[str]) -> int:
    """Run the task in the file ``arguments[0]``; 0 when each of its trials has a record."""
    events = _claim_stdout()

    def emit(event: dict[str, Any]) -> None:
        for line in told(event):
            print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {plain(line)}", file=sys.stderr)
        try:
            events.write(json.dumps(event) + "\n")
            events.flush()
        except BrokenPipeError:  # nobody listens any more
            if not pulse.stopping:
                pulse.stop(EXIT_ALONE, GRACE_ALONE)

    pulse = Pulse(emit)
    _heed(pulse)
    try:
        task = Task.from_json(Path(arguments[0]).read_text(encoding="utf-8"))
        run(task, pulse)
        emit({"event": "done"})  # an exit code of 0 alone is what any plugin can end the process with
    except UserError as error:
        if type(error).__name__ == "PastMending":  # of this process: another one may go on, with one trial at a time
            print(error, file=sys.stderr)
            return 1
        emit({"event": "refused", "text": str(error)})
        return EXIT_REFUSED
    except Exception as error:
        lost = type(error).__name__ == "AcceleratorError"  # torch's, which a worker that refused has not loaded
        if not lost and not out_of_memory(error):
            raise
        traceback.print_exc()
        return EXIT_DEVICE if lost else EXIT_MEMORY
    except Stopped:
        pulse(STOPPED)
        return pulse.code
    return 0


def run(task: Task, emit: Emit) -> None:
    """Do ``task`` in this process, and say what becomes of it."""
    from kdbench.records.provenance import source_digest

    pulse = emit if isinstance(emit, Pulse) else Pulse(emit)

    if task.source not in ("", source_digest()):
        raise UserError("kdbench itself was changed since the run was planned; start the run again.")
    _load(task, pulse)
    from kdbench.jobs.cohort import train_cohort
    from kdbench.jobs.teacher import prepare
    from kdbench.plan.cohorts import cohorts
    from kdbench.trials.trial import teacher_key

    if task.trials:
        for cohort in cohorts(task.trials):
            with claimed(task.cache / "claims", [trial.key for trial in cohort.trials], pulse.waits, pulse.wait):
                train_cohort(task, cohort.trials, pulse)
            _put_back(task, pulse, "by the time its trials had ended")
    elif task.teacher is not None:
        name = f"teacher-{teacher_key(task.teacher, task.dataset, task.data_digest)[:16]}"
        with claimed(task.cache / "claims", [name], pulse.waits, pulse.wait):
            prepare(task, pulse)


def _load(task: Task, pulse: Pulse) -> None:
    """Load the plugins of ``task``, under the eyes of torch, and what its suite's own data set is."""
    from kdbench.plugins import load_planned

    if task.plugins:
        from kdbench.train import global_state

        global_state.remember()
    load_planned(task.plugins)
    if task.own is not None:
        register(task.own)
    _put_back(task, pulse, "when it was loaded")


def _put_back(task: Task, pulse: Pulse, when: str) -> None:
    """Undo what plugins have changed of what trials share, and say so."""
    if task.plugins:
        from kdbench.train import global_state

        if changed := global_state.differences(thorough=True):
            text = f"a plugin changed what all trials share {when}, which is put back: {', '.join(changed)}"
            pulse.note(text)


class _Log(io.FileIO):
    """A file of what is printed, which may lie on a full disk: what does not fit is lost, and nothing else is."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _claim_stdout() -> IO[str]:
    """Standard output for events alone: whatever a library or a plugin prints goes to standard error."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    log = io.BufferedWriter(_Log(2, "w", closefd=False))
    sys.stdout = sys.stderr = io.TextIOWrapper(log, "utf-8", "backslashreplace", line_buffering=True)
    return events


def _heed(pulse: Pulse) -> None:
    """Hear in threads of their own whether the worker is to end, whatever the main thread is at."""
    if not sys.stdin.isatty():
        threading.Thread(target=_await_end_of_run, args=(pulse,), daemon=True).start()
    heard, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)  # written to at once, where Python's own handlers wait for the main thread
    signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_await_sigterm, args=(heard, pulse), daemon=True).start()


def _await_end_of_run(pulse: Pulse) -> None:
    while sys.stdin.buffer.raw.read(4096):  # type: ignore[attr-defined]
        continue
    pulse.stop(EXIT_ALONE, GRACE_ALONE)


def _await_sigterm(heard: int, pulse: Pulse) -> None:
    told = False
    while number := os.read(heard, 1):
        if number[0] == signal.SIGTERM:
            if told:
                pulse.end()
            told = True
            pulse.stop(EXIT_STOPPED, GRACE)
