"""Records within a time: a cohort that turns out too slow for it goes on with fewer students, the others follow."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kdbench.train.member import Member

#: Parts of the time after which the pace is looked at: early, as what is put off has been trained in vain of the time
#: until then, and again, as the first steps of a process are slow.
LOOKS = (0.02, 0.1, 0.3)
#: Steps that must have been taken before a look says anything.
STEPS = 5


@dataclass
class Landing:
    """Whether the students of a cohort will be done ``within`` so many seconds from now."""

    within: float
    clock: Callable[[], float] = time.monotonic
    _began: float = field(init=False)
    _since: float = field(init=False)
    _steps: int = 0
    _looks: int = 0

    def __post_init__(self) -> None:
        self._began = self._since = self.clock()

    def too_many(self, live: Sequence[Member], left: int) -> list[Member]:
        """Those of ``live`` to put off, the last ones; to be called after each step, with ``left`` steps to come.

        Time is taken to be in proportion to the number of students, though the teacher's is not.
        """
        now = self.clock()
        self._steps += 1
        if self._looks == len(LOOKS) or self._steps < STEPS or now - self._began < LOOKS[self._looks] * self.within:
            return []
        self._looks += 1
        needed, time_left = left * (now - self._since) / self._steps, self.within - (now - self._began)
        if needed <= time_left:
            return []
        self._since, self._steps = now, 0
        return list(live[max(int(len(live) * time_left / needed), 1) :])
