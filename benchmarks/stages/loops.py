"""Images a second: kdbench against the peers' loop and against its convolutions alone, as ratios of one run.

Both loops' batches are at hand in the rounds; what the peers' loader does to theirs is said once a pair. Convolutions
are replayed as a CUDA graph where there are any, one after the other, while students of a cohort may overlap: their
share can exceed 1. Rows follow one another by what they are worth knowing, as many as there is time for.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from convolutions import recorded, replay
from engine import SUITE, Engine
from pairs import Pair
from peer import Peer
from rounds import FEWEST, Ratio, Rounds

from kdbench.errors import described
from kdbench.models.precision import native
from kdbench.train import graphs
from kdbench.train.lockstep import Lockstep
from stages import Say, Setting

ROUNDS = 7
#: Seconds that a task takes at least in a round, and that the rounds of a row take at most.
SHORTEST, LONGEST = 0.05, 10.0
#: Processes of the peers' loader on a machine with a GPU, and steps after which what they have made ahead is used up.
WORKERS, SUSTAINED = 8, 300
#: Batches that the peers' loop then goes round.
KEPT = 16


@dataclass(frozen=True)
class Row:
    """How many students, and how they run; ``compile`` is the protocol's, ``graphs`` kdbench's own CUDA graphs."""

    students: int
    precision: str = "float32"
    compile: str = "none"
    graphs: bool = False

    def __str__(self) -> str:
        how = self.compile if self.compile != "none" else ""
        words = (f"{self.students} students", self.precision, how, "graphs" * self.graphs)
        return ", ".join(word for word in words if word)

    @property
    def methods(self) -> list[str]:
        return [SUITE[number % len(SUITE)] for number in range(self.students)]


def rows(setting: Setting) -> Iterator[Row]:
    ways = [False, True] if setting.graphs else [False]
    precisions = ["float32", "bf16"] if native(torch.device(setting.device)) and not setting.tiny else ["float32"]
    counts = (1, 2) if setting.tiny else (1, 8, 32)
    for precision in precisions:
        yield from (Row(count, precision, graphs=way) for count in counts for way in ways)
    if setting.tiny:
        return
    for precision in precisions:
        for count in (1, 8):
            yield from (Row(count, precision, "default", way) for way in ways)
            yield Row(count, precision, "reduce-overhead")


def run(setting: Setting, say: Say, until: float) -> None:
    timed = [_Timed(setting, pair) for pair in setting.pairs()]
    for each in timed:
        each.sustained(say)
    for row in rows(setting):
        for each in timed:
            if time.monotonic() > until - 2 * LONGEST and not setting.tiny:
                say("not measured, for want of time", from_row=f"{each.pair.name}, {row}")
                return
            try:
                figures = each.figures(row)
            except Exception as error:  # a mode that this torch or this GPU does not have
                figures = {"error": described(error)}
            say(f"{each.pair.name}, {row}", **figures)
            gc.collect()


class _Timed:
    """A pair, its images, and the loops that are compared on them."""

    def __init__(self, setting: Setting, pair: Pair) -> None:
        self.setting, self.pair = setting, pair
        self.dataset = pair.dataset(Path())
        self.peer = Peer(pair, self.dataset, setting.device, 1 if setting.tiny else WORKERS)
        self._bounds: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {}

    def sustained(self, say: Say) -> None:
        """How fast the peers' loop is with its loader, and without."""
        goes = 4 if self.setting.tiny else SUSTAINED
        self.peer.step()
        loaded = self.setting.seconds(self.peer.step, goes)
        self.peer.keep(4 if self.setting.tiny else KEPT)
        alone = self.setting.seconds(self.peer.step, goes)
        figures = {"images_per_s": self.pair.batch / loaded, "images_per_s_without_loader": self.pair.batch / alone}
        say(f"{self.pair.name}, peers' loop", **figures, loader_workers=1 if self.setting.tiny else WORKERS)

    def figures(self, row: Row) -> dict[str, Any]:
        engine = Engine(self.pair, self.dataset, self.setting.device)
        cohort = engine.cohort(row.methods, mode=row.compile, precision=row.precision, graphs=row.graphs)
        step = partial(engine.step, cohort)
        first = self.setting.seconds(step, 1)
        for _ in range(2):  # what is captured, is in the second
            step()
        teacher, student = self._bound(row.precision)
        works = {"peer": self.peer.step, "kdbench": step, "teacher": teacher, "student": student}
        goes = {name: self._goes(work) for name, work in works.items()}
        rounds = Rounds({name: partial(_repeat, work, goes[name]) for name, work in works.items()}, self.setting.clock)
        for _ in range(rounds.fitting(FEWEST if self.setting.tiny else ROUNDS, LONGEST)):
            rounds.turn()
        seconds = {name: [each / goes[name] for each in times] for name, times in rounds.seconds.items()}
        bound = [t + row.students * s for t, s in zip(seconds["teacher"], seconds["student"], strict=True)]
        images = row.students * self.pair.batch
        return {
            "images_per_s": images / statistics.median(seconds["kdbench"]),
            "over_peers": Ratio.of([row.students * s for s in seconds["peer"]], seconds["kdbench"]).quartiles,
            "peers_images_per_s": self.pair.batch / statistics.median(seconds["peer"]),
            "share_of_convolutions": Ratio.of(bound, seconds["kdbench"]).quartiles,
            "convolutions_images_per_s": images / statistics.median(bound),
            "first_step_s": first,
            "rounds": len(seconds["kdbench"]),
            "not_captured": unrepeatable(cohort) or None,
        }

    def _goes(self, work: Callable[[], object]) -> int:
        return 1 if self.setting.tiny else max(1, round(SHORTEST / self.setting.seconds(work, 1)))

    def _bound(self, precision: str) -> tuple[Callable[[], object], Callable[[], object]]:
        """The convolutions of the teacher, and those of a student."""
        if precision not in self._bounds:
            teacher, student = convolutions(self.setting, self.pair, self.dataset, precision)
            self._bounds[precision] = played(self.setting, teacher), played(self.setting, student)
        return self._bounds[precision]


def convolutions(setting: Setting, pair: Pair, dataset: Any, precision: str) -> tuple[Any, Any]:
    """Those of a teacher's pass and of a student's step, as they are called."""
    engine = Engine(pair, dataset, setting.device)
    cohort = engine.cohort(SUITE[:1], precision=precision)
    teacher = recorded(partial(engine.share, cohort))
    return teacher, recorded(partial(cohort.members[0].step, *engine.share(cohort)))


def played(setting: Setting, calls: Any) -> Callable[[], object]:
    """What runs ``calls``: as a graph where there are any, or it would be their launches that take time."""
    run = replay(calls)
    run()
    if not setting.graphs:
        return run
    with torch.inference_mode():
        recording = graphs.Recording(run)
    return torch.inference_mode()(recording.replay)


def unrepeatable(cohort: Lockstep) -> str:
    """Which students' steps are not replayed though asked to be, and why."""
    found = {m.trial.method: m.unrepeatable for m in cohort.members if isinstance(m, graphs.ReplayedMember)}
    return "; ".join(f"{method}: {why or 'never met a second batch'}" for method, why in found.items() if why != "")


def _repeat(work: Callable[[], object], goes: int) -> None:
    for _ in range(goes):
        work()
