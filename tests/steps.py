"""Fake batches for the tests of methods: Outputs, NetworkSpecs and Steps without a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
import torch
from torch import Tensor, nn

from kdbench.methods import METHODS, load_class
from kdbench.methods.base import Method, Step, View
from kdbench.models.outputs import DataSpec, NetworkSpec, Outputs

torch.set_num_threads(1)

STUDENT_WIDTHS, TEACHER_WIDTHS = (4, 6, 8), (6, 8, 12)
SIZES = (8, 4, 2)
#: The student of a method that builds a second network of its architecture must be a registered one.
STUDENTS = {"dml": "tiny_cnn_s"}


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fake_outputs(
    seed: int,
    n: int = 8,
    classes: int = 10,
    widths: tuple[int, ...] = STUDENT_WIDTHS,
    scale: float = 3.0,
    dtype: torch.dtype = torch.float64,
) -> Outputs:
    """Random Outputs with every part, all leaves that require a gradient; logits have standard deviation ``scale``."""
    generator = rng(seed)

    def leaf(*shape: int, factor: float = 1.0, positive: bool = False) -> Tensor:
        values = factor * torch.randn(*shape, generator=generator, dtype=torch.float64)
        return (values.relu() if positive else values).to(dtype).requires_grad_()

    maps = [(n, width, size, size) for width, size in zip(widths, SIZES, strict=True)]
    return Outputs(
        logits=leaf(n, classes, factor=scale),
        stem=leaf(n, widths[0], SIZES[0], SIZES[0], positive=True),
        stages=tuple(leaf(*shape, positive=True) for shape in maps),
        preacts=tuple(leaf(*shape) for shape in maps),
        pooled=leaf(n, widths[-1], positive=True),
        pooled_map=leaf(*maps[-1], positive=True),
    )


def leaves(outputs: Outputs) -> list[Tensor]:
    """Every tensor of ``outputs``."""
    return outputs.tensors()


def only(outputs: Outputs, needs: Iterable[str]) -> Outputs:
    """What a network computes when it is asked for ``needs``: the other parts are absent."""
    return Outputs(
        outputs.logits,
        outputs.stem if "stem" in needs else None,
        outputs.stages if "stages" in needs else (),
        outputs.preacts if "preacts" in needs else (),
        outputs.pooled if "pooled" in needs else None,
        outputs.pooled_map if "pooled_map" in needs else None,
    )


def narrowed(outputs: Outputs, model: Outputs) -> Outputs:
    """``outputs`` with no more channels than those of ``model``."""

    def cut(parts: Iterable[Tensor], models: Iterable[Tensor]) -> tuple[Tensor, ...]:
        return tuple(part[:, : other.shape[1]] for part, other in zip(parts, models, strict=True))

    stem, pooled, last = cut(
        (outputs.stem, outputs.pooled, outputs.pooled_map), (model.stem, model.pooled, model.pooled_map)
    )
    stages, preacts = cut(outputs.stages, model.stages), cut(outputs.preacts, model.preacts)
    return Outputs(outputs.logits, stem, stages, preacts, pooled, last)


def fake_network(name: str, outputs: Outputs) -> NetworkSpec:
    """The NetworkSpec of a network that gives ``outputs``; absent parts have shape 0. A head is at least float32."""
    pooled = 0 if outputs.pooled is None else outputs.pooled.shape[1]
    wide = torch.promote_types(outputs.logits.dtype, torch.float32)
    head = nn.Linear(pooled, outputs.logits.shape[1], dtype=wide) if pooled else nn.Identity()
    module = nn.Sequential(head)
    for statistic, value in (("mean", 0.5), ("std", 0.25)):
        module.register_buffer(statistic, torch.full((3, 1, 1), value))
    module.stage_norms = tuple(nn.BatchNorm2d(preact.shape[1]) for preact in outputs.preacts)
    return NetworkSpec(
        name=name,
        classes=outputs.logits.shape[1],
        stem=(0, 0, 0) if outputs.stem is None else tuple(outputs.stem.shape[1:]),
        stages=tuple(tuple(stage.shape[1:]) for stage in outputs.stages),
        preacts=tuple(tuple(preact.shape[1:]) for preact in outputs.preacts),
        pooled=pooled,
        pooled_map=(0, 0, 0) if outputs.pooled_map is None else tuple(outputs.pooled_map.shape[1:]),
        head=head,
        module=module,
    )


def make_step(
    student: Outputs,
    teacher: Outputs | None,
    y: Tensor | None = None,
    epoch: int = 120,
    epochs: int = 240,
    teacher_head: nn.Module | None = None,
    views: Mapping[str, tuple[Outputs, Outputs]] | None = None,
) -> Step:
    """A Step of these Outputs; labels are random unless given.

    The default epoch is past every warm-up and before every decay. ``views`` holds the student's and the teacher's
    Outputs of each other view.
    """
    n, classes = student.logits.shape
    x = torch.rand(n, 3, 8, 8, generator=rng(1))
    return Step(
        x=x,
        y=torch.randint(classes, (n,), generator=rng(2)) if y is None else y,
        index=torch.arange(n),
        student=student,
        teacher=teacher,
        teacher_head=teacher_head,
        epoch=epoch,
        epochs=epochs,
        progress=(epoch - 1) / epochs,
        generator=lambda purpose: rng(len(purpose)),
        views={name: View(x, *outputs) for name, outputs in (views or {}).items()},
    )


def build(name: str, student: Outputs, teacher: Outputs, **overrides: object) -> Method:
    """The registered method ``name`` in float64 where the student's logits are, in float32 otherwise.

    It is prepared on one batch, the teacher's Outputs; a method that must know the batch's size is told the student's.
    """
    spec = METHODS.get(name)
    n, classes = student.logits.shape
    data = DataSpec("fake", classes, 64, (3, 8, 8), torch.arange(64) % classes, n)
    torch.default_generator.manual_seed(0)  # torch.manual_seed writes down the stack for each GPU that may be there
    method = load_class(spec).build(
        spec,
        spec.config("", overrides, "test"),
        fake_network(STUDENTS.get(name, "student"), student),
        fake_network("teacher", teacher) if spec.needs_teacher else None,
        data,
    )
    method = method.double() if student.logits.dtype == torch.float64 else method
    seen = only(teacher, spec.needs).detach()
    method.prepare(lambda: iter([(seen, torch.arange(len(seen.logits)) % classes, torch.arange(len(seen.logits)))]))
    return method


def ready(
    name: str, student: Outputs, teacher: Outputs, y: Tensor | None = None, epoch: int = 120, **overrides: object
) -> tuple[Method, Step]:
    """The method ``name`` and a step of it, which shows only the parts that its card asks for.

    Where it needs equal widths the teacher is cut to the student's.
    """
    if METHODS.get(name).applies.equal_channels:
        teacher = narrowed(teacher, student)
    needs, smallest = METHODS.get(name).needs, METHODS.get(name).applies.min_batch
    if len(student.logits) < smallest:
        pytest.skip(f"training skips batches of fewer than {smallest} for {name}")
    method = build(name, student, teacher, **overrides)
    head = fake_network("teacher", teacher).head if "teacher_head" in needs else None
    shown = only(teacher, needs) if method.spec.needs_teacher else None
    seen = only(student, needs)
    views = dict.fromkeys(method.spec.views, (seen, shown))
    return method, make_step(seen, shown, y, epoch, teacher_head=head, views=views)


def all_terms(method: Method, step: Step) -> dict[str, Tensor]:
    """The terms of the method and of its phases."""
    terms = method.loss(step)
    for phase in method.phases():
        terms |= phase.loss(step)
    return terms


def run(
    name: str, student: Outputs, teacher: Outputs, y: Tensor | None = None, epoch: int = 120, **overrides: object
) -> dict[str, Tensor]:
    """The terms of the method ``name`` and of its phases on such a step."""
    return all_terms(*ready(name, student, teacher, y, epoch, **overrides))


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()
