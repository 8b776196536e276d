"""The randomised attack in short; its long form is ``python tests/attack/attack.py --minutes 60``."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from bench import METHOD_ROWS, STEPS, Bench, same_bits, suite_text
from test_kill_resume import Killed, at

from attack.attack import Attack
from attack.faults import AT_REST, Scene
from kdbench.jobs import cohort
from kdbench.records import Record
from kdbench.suites import parse_suite
from kdbench.train.lockstep import Lockstep


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_and_damaged_in_this_process_it_ends_with_the_bits_of_a_quiet_run(
    taught: Bench, good: tuple[Path, dict[str, Record]], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(cohort, "CHECKPOINT_SECONDS", 0.0)
    trials = taught.trials(parse_suite(suite_text(METHOD_ROWS), "tiny.toml"))
    scene = Scene(taught.folder, [], random.Random(seed))
    taught.damaged = True
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(Lockstep, "_share", at(scene.rng.randrange(STEPS // 2), Lockstep._share))
            with pytest.raises(Killed):
                taught.train(trials)
        assert sum(scene.rng.choice(AT_REST).make(scene) for _ in range(10))
    taught.train(trials)
    assert sum(scene.rng.choice(AT_REST).make(scene) for _ in range(10))
    records = taught.train(trials)
    assert all(same_bits(records[label], good[1][label]) for label in METHOD_ROWS)


@pytest.mark.slow
def test_whatever_happens_the_bits_are_those_of_a_quiet_run(tmp_path: Path) -> None:
    attack = Attack(tmp_path / "attack", seed=2)
    for _ in range(20):
        attack.round(faults=5)
    assert not attack.report.failures, "\n".join(attack.report.lines())
    assert attack.report.trials >= 20 * 9
