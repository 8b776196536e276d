"""The unit of work every backend starts: one process that trains a cohort or makes a teacher ready."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from kdbench.canonical import plain
from kdbench.errors import UserError, shown
from kdbench.trials.teacher import Teacher, teacher_from_json
from kdbench.trials.trial import Trial

#: Exit code of a worker whose task cannot be done and should not be tried again; its last event says why.
EXIT_REFUSED = 4
#: Exit code of a worker whose GPU failed: another one may go on, with one trial at a time.
EXIT_DEVICE = 5


@dataclass(frozen=True)
class Task:
    """What ``python -m kdbench.worker FILE`` is told.

    ``teacher`` alone: make it ready; with ``trials``: train them under it. ``cores``: slots of a CPU it fills, stepping
    the students of a cohort side by side; ``share``: what of the device's free memory it may plan with.
    """

    id: str
    title: str
    trials: tuple[Trial, ...]
    teacher: Teacher | None
    dataset: str
    data_digest: str
    suite: str
    results: Path
    data_root: Path
    cache: Path
    device: str
    plugins: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    cost: float = 0.0
    attempt: int = 1
    cores: int = 1
    share: float = 1.0

    @property
    def threads(self) -> int:
        protocol = self.trials[0].protocol if self.trials else self.teacher.protocol if self.teacher else None
        return 1 if protocol is None else protocol.threads

    def to_json(self) -> str:
        folders = {name: str(getattr(self, name)) for name in ("results", "data_root", "cache")}
        return json.dumps({**plain(self), **folders, "trials": [trial.to_json() for trial in self.trials]})

    @classmethod
    def from_json(cls, text: str) -> Task:
        """The task that ``to_json`` wrote; UserError for anything else."""
        try:
            raw = json.loads(text)
            for name in ("results", "data_root", "cache"):
                raw[name] = Path(raw[name])
            for name in ("plugins", "warnings", "after"):
                raw[name] = tuple(raw[name])
            raw["trials"] = tuple(Trial.from_json(trial) for trial in raw["trials"])
            raw["teacher"] = None if raw["teacher"] is None else teacher_from_json(raw["teacher"])
            return cls(**raw)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise UserError(f"The task file cannot be read ({shown(str(error))}); kdbench run writes them.") from None
