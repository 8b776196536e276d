"""Whether a method keeps the contract of docs/plugins.md: what ``kdbench check-method`` tries on small networks."""

from __future__ import annotations

import io
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdbench.data import Dataset, DatasetSpec
from kdbench.errors import UserError
from kdbench.measure.cost import flops
from kdbench.methods import METHODS, MethodSpec, is_expression, leaves, load_class
from kdbench.methods.applicability import not_applicable
from kdbench.models.factory import create
from kdbench.models.outputs import NetworkSpec, Outputs
from kdbench.protocol import Protocol
from kdbench.train import global_state
from kdbench.train.batches import Batch, Batches
from kdbench.train.device import set_up
from kdbench.train.member import Member, frozen_spec
from kdbench.train.room import kept_for_backward
from kdbench.train.seeds import philox, seeded
from kdbench.train.taught import Taught, teach
from kdbench.trials.teacher import Normalisation, Teacher
from kdbench.trials.trial import Trial

#: (student, teacher) tried in turn until the method says that it applies.
PAIRS = (
    ("tiny_cnn_m", "tiny_cnn_l"),
    ("resnet8", "resnet14"),
    ("wrn_16_1", "wrn_16_2"),
    ("resnet8", "vgg8"),
)
BATCH, CLASSES, SIDE = 16, 10, 32
#: Batches of an epoch.
STEPS = 2
NORM = Normalisation((0.5,) * 3, (0.25,) * 3)
SATURATED = 1e4
SURE = 20.0
COST_ROUNDS = 9


@dataclass(frozen=True)
class Check:
    """One thing that was tried: what, whether it held, and in words what did not."""

    what: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Cost:
    """A training step against one under plain KD in the same run: median times, bytes kept for the backward pass."""

    time_ratio: float
    memory_ratio: float


@dataclass
class Bench:
    """A pair of networks on random images, on which members of one method, or of several, are built."""

    name: str
    student: str
    teacher: str
    dataset: Dataset
    device: torch.device
    batch_size: int = BATCH
    kind: type[Member] = Member

    def __post_init__(self) -> None:
        self.protocol = Protocol(epochs=2, batch=self.batch_size, lr=0.01, schedule="constant", augmentation="none")
        self.batches = Batches(self.dataset, self.protocol, 0, 0, self.device)
        data = self.dataset.spec
        with seeded("conformance", "teacher"):
            network = create(
                self.teacher, classes=data.classes, image_shape=data.image_shape, mean=NORM.mean, std=NORM.std
            )
        self.network = network.to(self.device, memory_format=torch.channels_last)
        self.spec: NetworkSpec = frozen_spec(self.network, self.teacher, data.image_shape)

    def member(self, name: str | None = None) -> Member:
        method, fixed = METHODS.resolve(name or self.name)
        teacher = Teacher(name="teacher", kind="checkpoint", model=self.teacher, normalisation=NORM)
        trial = Trial(
            suite="check@1",
            dataset=self.dataset.spec.name,
            data_digest="0" * 64,
            protocol=self.protocol,
            student=self.student,
            normalisation=NORM,
            pair=f"{self.teacher}:{self.student}",
            teacher=teacher if method.needs_teacher else None,
            method=method.name,
            method_version=method.version,
            config=method.config("", fixed, "check-method"),
            seed=0,
            label=method.name,
        )
        member = self.kind(trial, self.dataset, self.batches, self.device, self.spec)
        member.prepare(self._sweep(member))
        member.position = 0
        return member

    def _sweep(self, member: Member) -> Callable[[], Iterator[tuple[Outputs, Tensor, Tensor]]]:
        def sweep() -> Iterator[tuple[Outputs, Tensor, Tensor]]:
            for batch in self.batches.plain(self.batch_size):
                with torch.no_grad():
                    yield self.network(batch.x, member.parts), batch.y, batch.index

        return sweep

    def batch(self, step: int, member: Member) -> Batch:
        """The batch of ``step`` with the views that ``member`` sees."""
        return self.batches.batch(step, member.spec.views)

    def taught(self, batch: Batch, member: Member) -> Taught | None:
        """What the teacher says of ``batch``, None for a method without a teacher."""
        return teach(self.network, batch, member.parts, member.spec.views) if member.spec.needs_teacher else None


def make_bench(name: str, device: str = "cpu", kind: type[Member] = Member) -> Bench:
    """A bench the method applies to, of members of ``kind``; UserError with its reason when it applies to none."""
    method = METHODS.resolve(name)[0]
    load_class(method)
    batch = max(BATCH, method.applies.min_batch)
    dataset = random_images(STEPS * batch, CLASSES)
    reason = ""
    for student, teacher in PAIRS:
        reason = _planned(method, student, teacher, batch)
        if not reason:
            bench = Bench(name, student, teacher, dataset, set_up(device, 1), batch, kind)
            try:
                bench.member()
            except UserError as error:
                reason = str(error)
                continue
            return bench
    raise UserError(f"method {name!r} applies to none of the pairs it was tried on; the last one's reason: {reason}")


def _planned(method: MethodSpec, student: str, teacher: str, batch: int) -> str:
    protocol = Protocol(epochs=2, batch=batch, lr=0.01)
    return not_applicable(method, student, teacher if method.needs_teacher else None, "cifar10", protocol)


def random_images(count: int, classes: int) -> Dataset:
    """A data set of ``count`` random training images in the shape of CIFAR's, labelled in turn."""
    rng = philox("conformance", "images")
    images = rng.integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % classes
    spec = DatasetSpec(
        name="random",
        title="Random images",
        classes=classes,
        image_shape=(3, SIDE, SIDE),
        train_size=count,
        test_size=BATCH,
        mean=NORM.mean,
        std=NORM.std,
        loader="",
        digest=None,
        files="",
        source="",
        url="https://example.org",
        licence="",
    )
    return Dataset(spec, images, labels, images[:BATCH], labels[:BATCH], "0" * 64, ())


def around_kd(name: str) -> str:
    """What is checked as ``name``: a wrapper changes another method, so by its name alone it stands around ``kd``."""
    return f"{name}(kd)" if not is_expression(name) and METHODS.get(name).wraps else name


def check_method(name: str) -> Iterator[Check]:
    """Try everything the contract asks of ``name``, one Check after the other; UserError where there is no such method.

    Nothing else is tried of one that cannot be set up, or that cannot take a step.
    """
    name = around_kd(name)
    METHODS.resolve(name)
    try:
        bench = make_bench(name)
    except (Exception, SystemExit) as error:  # other people's code: whatever it raises is what did not hold
        yield Check(SET_UP, False, _said(error, name))
        return
    yield Check(SET_UP, True)
    for what, trial in _CHECKS.items():
        try:
            detail = trial(bench)
        except (Exception, SystemExit) as error:
            detail = _said(error, name)
        yield Check(what, not detail, detail)
        if detail and trial is _trains:
            return


def _said(error: BaseException, name: str) -> str:
    """``error`` in one line, with the hook of the method and the line of its file that it was raised under."""
    text = " ".join(str(error).split())
    said = text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
    modules = [sys.modules.get(leaf.implementation.partition(":")[0]) for leaf in leaves(METHODS.get(name))]
    files = {module.__file__ for module in modules if module is not None}
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f"{said} (in {own[0].name}, line {own[-1].lineno} of {Path(own[-1].filename).name})" if own else said


def _trains(bench: Bench) -> str:
    member = bench.member()
    before = [p.detach().clone() for p in member.network.parameters()]
    for position in _starts(member):
        member.position = position
        batch = bench.batch(position, member)
        member.step(batch, bench.taught(batch, member))
    moved = sum(not torch.equal(a, b) for a, b in zip(before, member.network.parameters(), strict=True))
    return "" if moved else "no parameter of the student moved in a step"


def _parts_trained(bench: Bench) -> str:
    member = bench.member()
    reached: set[nn.Parameter] = set()
    for position in _starts(member):
        member.position = position
        reached |= _learners(_terms(bench, member, bench.batch(position, member)))
    held = {parameter for group in member.optimiser.param_groups for parameter in group["params"]}
    for name, parameter in member.method.named_parameters():
        if parameter.requires_grad and parameter not in held:
            return (
                f"{name} is trainable and in no parameter group, so it never moves: make it in setup and let "
                "parameter_groups() return it, or freeze it with requires_grad_(False)"
            )
    teacher = member.own_teacher or bench.network
    if reached - held - set(teacher.parameters()):
        return (
            "the loss reads a trainable parameter that is no part of the method, so it never moves: "
            "keep it, or the module that it belongs to, as an attribute of its own (lists need nn.ModuleList)"
        )
    return ""


def _learners(terms: dict[str, Tensor]) -> set[nn.Parameter]:
    """The parameters that a gradient of ``terms`` would reach."""
    found: set[nn.Parameter] = set()
    nodes = [value.grad_fn for value in terms.values()]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, nn.Parameter):
            found.add(leaf)
        after = {other for other, _ in getattr(node, "next_functions", ()) if other is not None} - seen
        seen |= after
        nodes += after
    return found


def _runs_to_its_end(bench: Bench) -> str:
    member = bench.member()
    member.position = member.first
    while member.position < bench.batches.total_steps:
        batch = bench.batch(member.position, member)
        member.step(batch, bench.taught(batch, member))
        if member.position % bench.batches.steps_per_epoch == 0:
            member.check_epoch()
            member.end_epoch(0.0)
    return ""


def _deploys(bench: Bench) -> str:
    member = bench.member()
    network = member.deployed
    if not isinstance(network, nn.Module):
        return f"deployed(student) must return a torch.nn.Module, not {type(network).__name__}"
    said, own = member.spec.budget.deployed, network is member.network
    if own != (said == "student"):
        does = "returns the student" if own else "returns another network than the student"
        return f"deployed(student) {does}, and the card's [budget] says that the {said} is deployed: they must agree"
    network.eval()
    with torch.no_grad():
        outputs = network(bench.batch(0, member).x)
    if not isinstance(outputs, Outputs):
        return f"what deployed(student) returns must map images to Outputs, not to {type(outputs).__name__}"
    if outputs.logits.shape != (bench.batch_size, CLASSES):
        return f"what deployed(student) returns gives logits of shape {tuple(outputs.logits.shape)}, not [N, classes]"
    flops(network, bench.dataset.spec.image_shape)
    return ""


def _starts(member: Member) -> list[int]:
    """The first step of each phase, and of the main training."""
    return [*(start for start, _, _ in member.timetable), 0]


def _distillation_reaches_student(bench: Bench) -> str:
    member = bench.member()
    if not member.spec.needs_teacher:
        return ""
    distilled = False
    for position in _starts(member):
        member.position = position
        batch = bench.batch(position, member)
        taught = bench.taught(batch, member)
        # Twice, as some methods listen to a sure teacher only, and random weights are sure of nothing.
        for seen in (taught, None if taught is None else taught.map(_surer)):
            terms = _terms(bench, member, batch, seen)
            distill = [value for name, value in terms.items() if member.spec.terms[name] == "distill"]
            if distill:
                distilled = True
                torch.stack(distill).sum().backward()
    if not distilled:
        return "the loss returned no term that the card marks as distill"
    reached = any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in member.network.parameters())
    return "" if reached else "the distillation terms have no gradient in the student"


def _teacher_untouched(bench: Bench) -> str:
    member = bench.member()
    teacher = member.own_teacher or bench.network  # what the method was given
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    batch = bench.batch(0, member)
    member.step(batch, bench.taught(batch, member))
    teacher.eval()
    if any(p.grad is not None for p in teacher.parameters()):
        return "the loss has a gradient in the teacher: use the teacher's Outputs, or run its modules under no_grad"
    changed = [n for n, value in teacher.state_dict().items() if not torch.equal(value, before[n])]
    return f"a step changed the teacher's {changed[0]}" if changed else ""


def _shared_untouched(bench: Bench) -> str:
    member = bench.member()
    batch = bench.batch(0, member)
    taught = bench.taught(batch, member)
    kept = [batch.x, batch.y, batch.index, *batch.views.values(), *([] if taught is None else taught.tensors())]
    before, versions = [tensor.clone() for tensor in kept], [tensor._version for tensor in kept]
    _terms(bench, member, batch, taught)
    # By value, too: what is written through .data or .numpy() raises no version.
    same = all(torch.equal(one, other) for one, other in zip(before, kept, strict=True))
    untouched = same and versions == [tensor._version for tensor in kept]
    return "" if untouched else "the loss writes to the batch or the teacher's Outputs in place"


def _global_state_untouched(bench: Bench) -> str:
    global_state.differences(thorough=True)  # whatever there was before
    member = bench.member()
    for position in _starts(member):
        member.position = position
        batch = bench.batch(position, member)
        member.step(batch, bench.taught(batch, member))
    changed = global_state.differences(thorough=True)
    return f"it changed {', '.join(changed)}, which all trials of a worker share" if changed else ""


def _finite(bench: Bench) -> str:
    member = bench.member()
    batch = bench.batch(0, member)
    shown = bench.taught(batch, member)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for what, scale in (("saturated", SATURATED), ("equal", 0.0)):
            outputs, views = member.forward(batch)
            student = _with_logits(outputs, scale, dtype, grad=True)
            views = {name: _with_logits(seen, scale, dtype, grad=True) for name, seen in views.items()}
            logits = partial(_with_logits, scale=scale, dtype=dtype, grad=False)
            taught = None if shown is None else shown.map(logits)
            terms = member.method.loss(member.make_step(batch, student, taught, member.phase, views))
            member.check_terms(terms)
            total = torch.stack([value.float() for value in terms.values()]).sum()
            total.backward()
            gradient = student.logits.grad
            if not bool(torch.isfinite(total)):
                return f"the loss is not finite on {what} logits in {str(dtype).removeprefix('torch.')}"
            if gradient is not None and not bool(torch.isfinite(gradient).all()):
                return f"the gradient is not finite on {what} logits in {str(dtype).removeprefix('torch.')}"
    return ""


def _deterministic(bench: Bench) -> str:
    runs = []
    for _ in range(2):
        member = bench.member()
        for step in range(2):
            batch = bench.batch(step, member)
            member.step(batch, bench.taught(batch, member))
        runs.append([p.detach().clone() for p in member.network.parameters()])
    same = all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    return "" if same else "two trainings from the same seed differ: draw from step.generator or torch's own generator"


def _short_batches(bench: Bench) -> str:
    for size in (bench.batch_size - 5, 1):
        member = bench.member()
        whole = bench.batch(0, member)
        views = {name: x[:size] for name, x in whole.views.items()}
        batch = Batch(whole.x[:size], whole.y[:size], whole.index[:size], views)
        member.step(batch, bench.taught(batch, member))
        if not member.scoring.sums.finite():
            return f"the loss is not finite on a batch of {size}: compute a defined value, or raise applies.min_batch"
    return ""


def _resumes(bench: Bench) -> str:
    straight, resumed = bench.member(), bench.member()
    first, second = (bench.batch(step, straight) for step in range(2))
    straight.step(first, bench.taught(first, straight))
    kept = io.BytesIO()
    torch.save(straight.state(), kept)
    kept.seek(0)
    straight.step(second, bench.taught(second, straight))
    try:
        state = torch.load(kept, weights_only=True)
    except Exception:  # torch's unpickler says what it met in a page of text
        return "its state cannot be read back: let state_dict() hold tensors and plain data only"
    resumed.restore(state)
    resumed.step(second, bench.taught(second, resumed))
    pairs = zip(straight.network.parameters(), resumed.network.parameters(), strict=True)
    same = all(torch.equal(a, b) for a, b in pairs)
    return "" if same else "a resumed training differs: keep what changes during training in parameters and buffers"


SET_UP = "it can be set up"
_CHECKS: dict[str, Callable[[Bench], str]] = {
    "a step trains the student": _trains,
    "global state is left alone": _global_state_untouched,
    "every trainable part is trained": _parts_trained,
    "the distillation terms reach the student": _distillation_reaches_student,
    "the teacher is left alone": _teacher_untouched,
    "what the cohort shares is left alone": _shared_untouched,
    "finite on saturated and on equal logits in float32, bfloat16 and float16": _finite,
    "deterministic": _deterministic,
    "a short last batch and a batch of one": _short_batches,
    "a training runs to its end": _runs_to_its_end,
    "a resumed training is the same training": _resumes,
    "what it deploys can be scored": _deploys,
}


def _terms(bench: Bench, member: Member, batch: Batch, taught: Taught | None = None) -> dict[str, Tensor]:
    seen = bench.taught(batch, member) if taught is None else taught
    outputs, views = member.forward(batch)
    step = member.make_step(batch, outputs, seen, member.phase, views)
    terms = member.method.loss(step) if member.phase is None else member.phase[2].loss(step)
    member.check_terms(terms)
    return terms


def _surer(outputs: Outputs) -> Outputs:
    """``outputs`` with logits that spread SURE times as far."""
    return replace(outputs, logits=SURE * outputs.logits / outputs.logits.std())


def _with_logits(outputs: Outputs, scale: float, dtype: torch.dtype, *, grad: bool) -> Outputs:
    """``outputs`` with logits of -scale and +scale, in ``dtype``."""
    n, classes = outputs.logits.shape
    signs = torch.where(torch.arange(n * classes).view(n, classes) % 3 == 0, 1.0, -1.0)
    logits = (signs * scale).to(dtype).requires_grad_(grad)
    return replace(outputs, logits=logits)


def cost(name: str) -> Cost:
    """What a step costs against plain KD: interleaved rounds in one process, so that the machine's mood cancels."""
    bench = make_bench(name)
    times: dict[str, list[float]] = {name: [], "kd": []}
    members = {each: bench.member(each) for each in times}
    batch = bench.batch(0, members[name])
    memory = {}
    for each, member in members.items():
        with kept_for_backward() as kept:
            _terms(bench, member, batch)
        memory[each] = sum(kept.values())
    for _ in range(COST_ROUNDS):
        for each, member in members.items():
            member.position = 0  # a training is shorter than the rounds
            taught = bench.taught(batch, member)
            started = time.perf_counter()
            member.step(batch, taught)
            times[each].append(time.perf_counter() - started)
    medians = {each: statistics.median(found[1:]) for each, found in times.items()}
    return Cost(medians[name] / medians["kd"], memory[name] / memory["kd"])
