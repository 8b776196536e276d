"""Two cohorts at a time on one device, each in a process of its own, against one."""

from __future__ import annotations

import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from engine import SUITE, Engine
from limited import Running, Tell

from stages import Say, Setting

#: Students of each cohort, and seconds for which they train alone and together.
STUDENTS, SECONDS = 8, 4.0


def run(setting: Setting, say: Say, until: float) -> None:
    for graphs in [False, True] if setting.graphs else [False]:
        if time.monotonic() < until - 6 * SECONDS or setting.tiny:
            _packed(setting, say, until, graphs)


def _packed(setting: Setting, say: Say, until: float, graphs: bool) -> None:
    pair, seconds = setting.pairs()[0], 0.2 if setting.tiny else SECONDS
    both = [Running(partial(_train, setting, graphs), setting.log) for _ in range(2)]
    try:
        told = [running.heard(until) for running in both]
        for each in told:
            next(each)  # it has taken its first steps
        both[0].connection.send(seconds)
        alone = next(told[0])
        for running in both:
            running.connection.send(seconds)
        together = [next(each) for each in told]
    except StopIteration:
        raise RuntimeError(f"a cohort ended: {[running.ended for running in both if running.ended]}") from None
    finally:
        for running in both:
            running.kill()
    say(
        f"{pair.name}, two cohorts of {1 if setting.tiny else STUDENTS}{', graphs' * graphs}",
        one_images_per_s=alone,
        both_images_per_s=sum(together),
        gain=sum(together) / alone,
    )


def _train(setting: Setting, graphs: bool, tell: Tell, connection: Connection) -> None:
    """Tell that it trains, then, whenever it is told for how long, the images a second of that time."""
    pair = setting.pairs()[0]
    engine = Engine(pair, pair.dataset(Path()), setting.device)
    cohort = engine.cohort(SUITE[: 1 if setting.tiny else STUDENTS], graphs=graphs)
    for _ in range(4):
        engine.step(cohort)
    setting.wait()
    tell("ready")
    while True:
        seconds, began, steps = connection.recv(), setting.clock(), 0
        while time.perf_counter() < began + seconds:
            engine.step(cohort)
            steps += 1
            setting.wait()
        tell(steps * pair.batch * len(cohort.members) / (setting.clock() - began))
