"""What bfloat16 does to outputs and gradients, by what is rounded: ``python benchmarks/rounding.py --data-root DIR``.

A resnet20 is trained some hundred steps by kd under the resnet56 of the suite cifar100-short, in float32. Each variant
then computes the same batches from that state; what comes out is compared with float32, and written into
docs/precision.md.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from table import ROOT, replaced, row
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.data import data_root, load
from kdbench.methods.zoo.kd import kd_loss
from kdbench.models import precision
from kdbench.models.factory import create
from kdbench.models.network import Network
from kdbench.suites import get_suite
from kdbench.teachers.find import find_checkpoint
from kdbench.teachers.weights import read_weights
from kdbench.train.batches import Batch, Batches
from kdbench.train.compiling import compiled
from kdbench.train.device import set_up
from kdbench.train.seeds import seeded

PAGE = ROOT / "docs" / "precision.md"
SUITE, TEACHER, STUDENT = "cifar100-short", "resnet56", "resnet20"
#: The precision of the student and of the teacher, whether a layer stays in float32 in either, and the field compile.
VARIANTS = {
    "student": ("bf16", "float32", True, "none"),
    "student, every layer": ("bf16", "float32", False, "none"),
    "teacher": ("float32", "bf16", True, "none"),
    "teacher, every layer": ("float32", "bf16", False, "none"),
    "both": ("bf16", "bf16", True, "none"),
    "both, every layer": ("bf16", "bf16", False, "none"),
    "both, normalisation compiled": ("bf16", "bf16", True, "norms"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="What bfloat16 does to outputs and gradients, by what is rounded.")
    parser.add_argument("--data-root", help="the folder of data sets and weights (default: $KDBENCH_DATA)")
    parser.add_argument("--steps", type=int, default=300, help="of training before the comparison")
    parser.add_argument("--batches", type=int, default=8, help="that are compared")
    asked = parser.parse_args()
    device, root = set_up("cpu", 1), data_root(asked.data_root)
    suite = get_suite(SUITE)
    protocol = replace(suite.protocol, epochs=1)
    batches = Batches(load(suite.dataset, root), protocol, 0, 0, device)
    teacher, student = _networks(root)
    _train(student, teacher, batches, asked.steps)
    chosen = [batches.batch(asked.steps + n) for n in range(asked.batches)]
    text = "\n".join(_table(student, teacher, chosen))
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), "rounding", text), encoding="utf-8")


def _networks(root: Path) -> tuple[Network, Network]:
    suite = get_suite(SUITE)
    known = next(teacher for teacher in suite.teachers.values() if teacher.model == TEACHER)
    norm = known.normalisation
    made = []
    for name in (TEACHER, STUDENT):
        with seeded("rounding", name):
            network = create(name, classes=100, image_shape=(3, 32, 32), mean=norm.mean, std=norm.std)
        made.append(network.to(memory_format=torch.channels_last))
    made[0].body.load_state_dict(read_weights(find_checkpoint(known, root)), strict=False)
    return made[0].eval(), made[1].train()


def _loss(student: nn.Module, teacher: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Of kd with its usual weights; the student's logits, the teacher's."""
    with torch.no_grad():
        taught = teacher(batch.x, frozenset()).logits
    logits = student(batch.x, frozenset()).logits
    return 0.1 * F.cross_entropy(logits, batch.y) + 0.9 * kd_loss(logits, taught, 4.0), logits.detach(), taught


def _train(student: Network, teacher: Network, batches: Batches, steps: int) -> None:
    optimiser = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for step in range(steps):
        optimiser.zero_grad()
        _loss(student, teacher, batches.batch(step))[0].backward()
        optimiser.step()


def _table(student: Network, teacher: Network, chosen: Sequence[Batch]) -> Iterator[str]:
    groups = {"first": "body.conv1", **{f"stage {n}": f"body.layer{n}" for n in (1, 2, 3)}, "classifier": "body.fc"}
    yield row("in bf16", "teacher's logits", "student's logits", "whole gradient", *(f"of {name}" for name in groups))
    yield row(*["---"] * (4 + len(groups)))
    exact = [_found(student, teacher, batch, groups) for batch in chosen]
    for name, (own, taught, kept, mode) in VARIANTS.items():
        errors = []
        with nullcontext() if kept else _nothing_kept():
            for batch, expected in zip(chosen, exact, strict=True):
                found = _found(student, teacher, batch, groups, own, taught, mode)
                errors.append([_error(*both) for both in zip(found, expected, strict=True)])
        yield row(name, *(f"{statistics.median(column):.2%}" for column in zip(*errors, strict=True)))
    gradients = [found[2:] for found in exact]
    mean = [sum(parts) / len(parts) for parts in zip(*gradients, strict=True)]
    apart = [[_error(*both) for both in zip(found, mean, strict=True)] for found in gradients]
    between = (f"{statistics.median(column):.0%}" for column in zip(*apart, strict=True))
    yield row("from batch to batch, in float32", "", "", *between)


def _found(
    student: Network,
    teacher: Network,
    batch: Batch,
    groups: dict[str, str],
    own: str = "float32",
    taught: str = "float32",
    mode: str = "none",
) -> list[Tensor]:
    """The teacher's logits, the student's, and the gradient: whole, and of each of ``groups``."""
    networks = copy.deepcopy(student), copy.deepcopy(teacher)
    pairs = zip(networks, (own, taught), strict=True)
    loss, logits, answers = _loss(*(compiled(precision.in_precision(each, how), mode) for each, how in pairs), batch)
    loss.backward()
    gradients = {name: p.grad.flatten() for name, p in networks[0].named_parameters()}
    parts = [torch.cat([g for name, g in gradients.items() if name.startswith(prefix)]) for prefix in groups.values()]
    return [answers, logits, torch.cat(list(gradients.values())), *parts]


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@contextmanager
def _nothing_kept() -> Iterator[None]:
    kept, precision._IN_FLOAT32 = precision._IN_FLOAT32, {}
    try:
        yield
    finally:
        precision._IN_FLOAT32 = kept


if __name__ == "__main__":
    main()
