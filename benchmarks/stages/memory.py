"""What a student of a cohort takes of the device's memory, and what kdbench plans with."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from engine import SUITE, Engine
from pairs import Pair

from kdbench.train.room import Probe, state_bytes
from stages import Say, Setting

#: Students of the cohort that is set against one alone.
MANY = 8
STEPS = 4


def run(setting: Setting, say: Say, until: float) -> None:
    for pair in setting.pairs():
        dataset = pair.dataset(Path())
        engine = Engine(pair, dataset, setting.device)
        (member,) = engine.cohort(SUITE[:1]).members
        probe = Probe([member.trial], engine.batches, engine.network)
        planned = {"planned_state_bytes": state_bytes(member), "planned_step_bytes": probe.activation_bytes(member)}
        say(f"{pair.name}, planned", **planned)
        del engine, member, probe
        for graphs in [False, True] if setting.graphs else [False]:
            say(f"{pair.name}{', graphs' * graphs}", **_measured(setting, pair, dataset, graphs))


def _measured(setting: Setting, pair: Pair, dataset: Any, graphs: bool) -> dict[str, int]:
    """Bytes that torch's allocator held at most, and what each of the students after the first adds to that."""
    peaks = []
    for students in (1, 2 if setting.tiny else MANY):
        gc.collect()
        if setting.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        engine = Engine(pair, dataset, setting.device)
        cohort = engine.cohort(SUITE[:students], graphs=graphs)
        for _ in range(STEPS):
            engine.step(cohort)
        setting.wait()
        peaks.append((students, torch.cuda.max_memory_reserved() if setting.device == "cuda" else 0))
        del engine, cohort
    (_, alone), (many, together) = peaks
    return {"one_bytes": alone, f"{many}_bytes": together, "each_more_bytes": (together - alone) // (many - 1)}
