"""The unit of work every backend starts: one process that trains a cohort or makes a teacher ready."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kdbench.canonical import plain
from kdbench.data import DatasetSpec
from kdbench.data.spec import spec_from_json
from kdbench.errors import UserError, shown
from kdbench.trials.origins import Plugin
from kdbench.trials.teacher import Teacher, teacher_from_json
from kdbench.trials.trial import Trial

#: Exit code of a worker whose task cannot be done and should not be tried again; its last event says why.
EXIT_REFUSED = 4
#: Exit code of a worker whose GPU failed: another one may go on, with one trial at a time.
EXIT_DEVICE = 5
#: Exit code of a worker that ran out of memory: fewer trials at a time may have enough, or a device of their own.
EXIT_MEMORY = 6
#: Exit code of a worker that was told to stop and has saved its students: another one goes on from there.
EXIT_STOPPED = 7


@dataclass(frozen=True)
class Task:
    """What ``python -m kdbench.worker FILE`` is told.

    ``teacher`` alone: make it ready; with ``trials``: train them under it. ``cores``: slots of a CPU it fills, stepping
    the students of a cohort side by side; ``share``: what of the device's free memory it may plan with; ``plugins``:
    those whose code it runs, as the plan saw them; ``source``: the digest of kdbench's own, empty where nobody asks;
    ``within``: seconds in which a cohort is to leave its records.
    ``again``: the keys of trials that are trained though they are recorded, with how many endings are.
    ``graphs``: whether steps are CUDA graphs, of which bits are not to depend and no plan asks for (benchmarks/gpu.py).
    ``looks``: what the records say of seeds that are added as needed.
    ``memory``: bytes of the device that it is expected to hold, 0 where nobody knows; ``exclusive``: nothing runs
    beside it. ``own``: the data set, where a suite names a folder that no worker knows of.
    ``weights``: whether students are kept.
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
    plugins: tuple[Plugin, ...] = ()
    warnings: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    cost: float = 0.0
    attempt: int = 1
    cores: int = 1
    share: float = 1.0
    source: str = ""
    within: float | None = None
    again: Mapping[str, int] = field(default_factory=dict)
    graphs: bool = False
    looks: tuple[int, ...] = ()
    memory: float = 0.0
    exclusive: bool = False
    own: DatasetSpec | None = None
    weights: bool = True

    @property
    def threads(self) -> int:
        protocol = self.trials[0].protocol if self.trials else self.teacher.protocol if self.teacher else None
        return 1 if protocol is None else protocol.threads

    def without_teacher(self) -> Task | None:
        """Its trials that need no teacher, as a task that waits for none; None where there are no such trials."""
        alone = tuple(trial for trial in self.trials if trial.teacher is None)
        return replace(self, id=f"{self.id}-alone", trials=alone, after=()) if alone else None

    def to_json(self) -> str:
        folders = {name: str(getattr(self, name)) for name in ("results", "data_root", "cache")}
        lists = {"trials": [t.to_json() for t in self.trials], "plugins": [plain(p) for p in self.plugins]}
        return json.dumps({**plain(self), **folders, **lists})

    @classmethod
    def from_json(cls, text: str) -> Task:
        """The task that ``to_json`` wrote; UserError for anything else."""
        try:
            raw = json.loads(text)
            for name in ("results", "data_root", "cache"):
                raw[name] = Path(raw[name])
            for name in ("warnings", "after", "looks"):
                raw[name] = tuple(raw[name])
            raw["plugins"] = tuple(Plugin(**plugin) for plugin in raw["plugins"])
            raw["trials"] = tuple(Trial.from_json(trial) for trial in raw["trials"])
            raw["own"] = None if raw["own"] is None else spec_from_json(raw["own"])
            raw["teacher"] = None if raw["teacher"] is None else teacher_from_json(raw["teacher"])
            return cls(**raw)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise UserError(f"The task file cannot be read ({shown(str(error))}); kdbench run writes them.") from None
