"""The randomised attack in short; its long form is ``python tests/attack/attack.py --minutes 60``."""

from __future__ import annotations

from pathlib import Path

import pytest

from attack.attack import Attack


@pytest.mark.parametrize(
    ("seed", "rounds", "pause"),
    [(1, 1, 2.5), pytest.param(2, 20, 6.0, marks=pytest.mark.slow)],
    ids=["short", "minutes"],
)
def test_whatever_happens_the_bits_are_those_of_a_quiet_run(
    tmp_path: Path, seed: int, rounds: int, pause: float
) -> None:
    attack = Attack(tmp_path / "attack", seed, pause)
    for _ in range(rounds):
        attack.round(faults=5)
    assert not attack.report.failures, "\n".join(attack.report.lines())
    assert attack.report.trials >= rounds * 9
