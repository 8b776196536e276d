"""What every registered method must hold, whatever its formula."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from steps import TEACHER_WIDTHS, all_terms, fake_outputs, leaves, ready, run, total
from torch import Tensor

from kdbench.methods import METHODS
from kdbench.models.outputs import Outputs

# A wrapper is nothing by itself: it is tried around plain distillation.
ALL = [f"{name}(kd)" if METHODS.get(name).wraps else name for name in METHODS]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
#: Distillation terms that train the method's own parts alone: a phase without the student, the peer's own lesson, and
#: the teacher's embedding told from the student's memory.
IDLE = {("ft", "paraphrase"), ("dml", "peer_mutual"), ("tekap_f", "copy")}


def _map(outputs: Outputs, logits: Tensor, factor: float) -> Outputs:
    """``outputs`` with these logits and every other part times ``factor``, all leaves again."""

    def again(part: Tensor) -> Tensor:
        return (factor * part.detach()).requires_grad_()

    return Outputs(
        logits.to(outputs.logits.dtype).requires_grad_(),
        again(outputs.stem),
        tuple(map(again, outputs.stages)),
        tuple(map(again, outputs.preacts)),
        again(outputs.pooled),
        again(outputs.pooled_map),
    )


def _saturated(student: Outputs, teacher: Outputs) -> tuple[Outputs, Outputs]:
    """Both networks certain, of different classes, at every second sample; features a hundred times as large."""
    n, classes = student.logits.shape
    rows = torch.arange(n)
    z, v = torch.full((n, classes), -1e4), torch.full((n, classes), -1e4)
    z[rows, rows % classes] = 1e4
    v[rows, (rows + rows % 2) % classes] = 1e4
    return _map(student, z, 100.0), _map(teacher, v, 100.0)


def _equal(student: Outputs, teacher: Outputs) -> tuple[Outputs, Outputs]:
    """No logit differs from another and every feature is zero, as behind a dead ReLU."""
    return (
        _map(student, torch.zeros_like(student.logits), 0.0),
        _map(teacher, torch.zeros_like(teacher.logits), 0.0),
    )


def _student_dead(student: Outputs, teacher: Outputs) -> tuple[Outputs, Outputs]:
    """The student's features are all zero, the teacher's are not."""
    return _map(student, torch.zeros_like(student.logits), 0.0), teacher


def _pair(n: int = 8, classes: int = 10, dtype: torch.dtype = torch.float64) -> tuple[Outputs, Outputs]:
    return (
        fake_outputs(11, n, classes, dtype=dtype),
        fake_outputs(12, n, classes, widths=TEACHER_WIDTHS, dtype=dtype),
    )


def _assert_finite(name: str, student: Outputs, teacher: Outputs) -> None:
    terms = run(name, student, teacher, epoch=1)
    for term, value in terms.items():
        assert value.dtype == torch.float32, term
        assert value.shape == (), term
        assert value.isfinite(), (term, student.logits.dtype)
    total(terms).backward()
    gradients = [leaf.grad for leaf in leaves(student) if leaf.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients), student.logits.dtype


@pytest.mark.parametrize("inputs", [_saturated, _equal, _student_dead])
@pytest.mark.parametrize("name", ALL)
def test_extreme_inputs_stay_finite(name, inputs):
    for dtype in DTYPES:
        _assert_finite(name, *inputs(*_pair(dtype=dtype)))


@pytest.mark.parametrize(("n", "classes"), [(4, 1000), (1, 1000), pytest.param(1, 10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ALL)
def test_batch_of_one_and_a_thousand_classes(name, n, classes):
    for dtype in DTYPES:
        _assert_finite(name, *_pair(n, classes, dtype))


@pytest.mark.parametrize("name", ALL)
def test_terms_are_those_of_the_card_and_only_the_student_learns(name):
    student, teacher = _pair()
    terms = run(name, student, teacher)
    assert list(terms) == list(METHODS.get(name).terms)
    total(terms).backward()
    assert all(leaf.grad is None for leaf in leaves(teacher))
    roles = METHODS.get(name).terms
    distilled = [term for term, role in roles.items() if role == "distill" and (name, term) not in IDLE]
    for term in distilled:
        again = run(name, student, teacher)[term]
        reached = torch.autograd.grad(again, leaves(student), allow_unused=True)
        assert any(g is not None and g.abs().max() > 0 for g in reached), f"{term} teaches the student nothing"


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_widened_before_anything_is_computed(name):
    def widened(outputs: Outputs) -> Outputs:
        return Outputs(
            outputs.logits.float(),
            outputs.stem.float(),
            tuple(part.float() for part in outputs.stages),
            tuple(part.float() for part in outputs.preacts),
            outputs.pooled.float(),
            outputs.pooled_map.float(),
        )

    for dtype in DTYPES[1:]:
        student, teacher = _pair(dtype=dtype)
        half, wide = run(name, student, teacher), run(name, widened(student), widened(teacher))
        assert {term: value.item() for term, value in half.items()} == {
            term: value.item() for term, value in wide.items()
        }


@pytest.mark.parametrize("name", ALL)
def test_equal_calls_give_equal_bits_and_leave_the_random_state_alone(name):
    student, teacher = _pair(dtype=torch.float32)
    first = run(name, student, teacher)
    second = run(name, student, teacher)
    assert all(torch.equal(first[term], second[term]) for term in first)


@pytest.fixture
def default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", ALL)
def test_no_constant_is_rounded_to_float32_on_its_way_into_a_double(name, default_dtype):
    losses = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(torch.float32)
        method, step = ready(name, *_pair())
        if hasattr(method, "by_class"):  # CRD and its kin draw negatives in whatever precision is the default
            method.draw = lambda index, generator: (index[:, None] + torch.arange(1, 6)) % 64
        torch.set_default_dtype(dtype)
        torch.manual_seed(1)
        losses.append(total(all_terms(method, step)).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-14)


KNOBS = [
    (name, knob)
    for name in ("ce", "kd", "ttm", "wttm", "dkd", "dist", "fitnet", "at", "rkd")
    for knob in METHODS.get(name).hyperparameters
]


@pytest.mark.parametrize(("name", "knob"), KNOBS)
def test_every_hyper_parameter_changes_the_loss(name, knob):
    student, teacher = _pair()
    it = METHODS.get(name).hyperparameters[knob]
    if it.choices:
        other = next(choice for choice in it.choices if choice != it.default)
    else:
        other = it.default + 1 if it.type == "int" else it.default / 2
    before, after = (total(run(name, student, teacher, epoch=1, **{knob: value})) for value in (it.default, other))
    assert not torch.isclose(before, after, rtol=1e-6)
