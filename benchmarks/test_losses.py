"""What a loss costs, forward and backward to the student's logits, against plain KD's in the same rounds.

The cross-entropy with the labels that most methods add is part of it, as it is in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from report import Report

from kdbench.methods import METHODS
from kdbench.models.outputs import Outputs
from kdbench.train.conformance import Bench, random_images
from kdbench.train.device import set_up
from kdbench.train.taught import Taught

SIZES = pytest.mark.parametrize(("batch", "classes"), [(256, 100), (64, 1000)])
#: Losses in one timing: one alone is too short for the clock and for the interpreter's hiccups.
TIMES = 10
MATCHING_LIMIT = 1.15


def _losses(names: Iterable[str], batch: int, classes: int) -> dict[str, Callable[[], None]]:
    bench = Bench("kd", "tiny_cnn_s", "tiny_cnn_s", random_images(batch, classes), set_up("cpu", 1), batch)
    return {name: _loss(bench, name) for name in names}


def _loss(bench: Bench, name: str) -> Callable[[], None]:
    """The loss of ``name`` on random logits as large as those of trained networks."""
    member = bench.member(name)
    seen = bench.batch(0, member)
    generator = torch.Generator().manual_seed(0)
    shape = (bench.batch_size, bench.dataset.spec.classes)

    def outputs() -> Outputs:
        return Outputs(torch.randn(shape, generator=generator) * 3)

    student, taught = outputs(), Taught(outputs(), {view: outputs() for view in member.spec.views})
    views = {view: outputs() for view in member.spec.views}
    leaves = [part.logits.requires_grad_() for part in (student, *views.values())]

    def several() -> None:
        for _ in range(TIMES):
            terms = member.method.loss(member.make_step(seen, student, taught, None, views))
            torch.autograd.grad(torch.stack(list(terms.values())).sum(), leaves)

    return several


@SIZES
def test_matching_transformed_teachers(report: Report, batch: int, classes: int) -> None:
    ratios = report.ratios(_losses(("kd", "ttm", "wttm"), batch, classes), rounds=100)
    assert not {name: ratio for name, ratio in ratios.items() if ratio.median > MATCHING_LIMIT}


@SIZES
def test_methods_that_read_logits_alone(report: Report, batch: int, classes: int) -> None:
    """Of the others, whose losses do more than that (dml runs a peer), test_steps.py compares whole steps."""
    names = [name for name in METHODS if METHODS.get(name).needs <= {"teacher"} and name not in ("kd", "dml")]
    whole = [f"{name}(kd)" if METHODS.get(name).wraps else name for name in names]
    report.ratios(_losses(("kd", *whole), batch, classes), rounds=20)
