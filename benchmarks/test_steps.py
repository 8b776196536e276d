"""What a training step of resnet56 -> resnet20 costs, against the step under plain KD in the same rounds.

A step is all that a batch costs but the making of it: the teacher's forward pass, and the student's forward pass, loss,
backward pass and optimiser (``Member.step``). The teacher's part is counted under each method, as if trained alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from report import Report

from kdbench.methods import METHODS
from kdbench.methods.applicability import not_applicable
from kdbench.protocol import Protocol
from kdbench.train.conformance import Bench, random_images
from kdbench.train.device import set_up

STUDENT, TEACHER = "resnet20", "resnet56"
BATCH, CLASSES = 64, 100
LIMIT = 1.03


def _steps(names: Iterable[str]) -> dict[str, Callable[[], None]]:
    bench = Bench("kd", STUDENT, TEACHER, random_images(16 * BATCH, CLASSES), set_up("cpu", 1), BATCH)
    return {name: _step(bench, name) for name in names}


def _step(bench: Bench, name: str) -> Callable[[], None]:
    member = bench.member(name)
    batch = bench.batch(0, member)
    return lambda: member.step(batch, bench.taught(batch, member))


def test_logit_methods(report: Report) -> None:
    ratios = report.ratios(_steps(("kd", "dkd", "dist", "lskd(kd)", "nkd")), rounds=30)
    assert not {name: ratio for name, ratio in ratios.items() if ratio.median > LIMIT}


@pytest.mark.slow
def test_all_methods(report: Report) -> None:
    protocol = Protocol(epochs=2, batch=BATCH, lr=0.01)
    names = [f"{name}(kd)" if METHODS.get(name).wraps else name for name in METHODS if name != "kd"]
    apply = [name for name in names if not not_applicable(METHODS.get(name), STUDENT, TEACHER, "cifar100", protocol)]
    report.ratios(_steps(("kd", *apply)), rounds=8)
