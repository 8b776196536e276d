"""The class half of a method: what a distillation loss is given, and what it must return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.errors import NotApplicable, UserError
from kdbench.methods.card import MethodSpec
from kdbench.models.outputs import DataSpec, NetworkSpec, Outputs
from kdbench.protocol import Protocol


@dataclass(frozen=True)
class View:
    """Another augmentation of a batch's images: x [N,C,H,W] float in [0,1], and both networks' Outputs of it."""

    x: Tensor
    student: Outputs
    teacher: Outputs | None

    @property
    def taught(self) -> Outputs:
        """The teacher's Outputs; ValueError where the method's card did not ask for a teacher."""
        return _asked_for(self.teacher)


def _asked_for(teacher: Outputs | None) -> Outputs:
    if teacher is None:
        raise ValueError("this method uses a teacher, but its card's 'needs' does not list \"teacher\"")
    return teacher


@dataclass(frozen=True)
class Step:
    """One training batch, as ``Method.loss`` sees it.

    x [N,C,H,W] float in [0,1]; y [N] int64; index [N] int64, the samples' places in the training set; student and
    teacher: Outputs of this batch (teacher ``None`` for a method without one); epoch counts from 1; progress in [0,1]
    is the share of the training done before this batch; ``generator(purpose)`` is a torch.Generator of this trial,
    purpose and batch alone; ``views`` are the same images augmented otherwise, under the names of the card's ``views``.

    Where the supervision is ``weak``, y is -100 of an image without a label or with several, and ``candidates`` [N,K]
    are the classes of each where they were given; a loss that goes by ``cross_entropy`` alone need not know.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    student: Outputs
    teacher: Outputs | None
    teacher_head: nn.Module | None
    epoch: int
    epochs: int
    progress: float
    generator: Callable[[str], torch.Generator]
    views: Mapping[str, View] = field(default_factory=dict)
    weak: bool = False
    candidates: Tensor | None = None

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """The mean cross-entropy of ``logits`` [N,K] and the labels, in full precision.

        An image without a label counts 0, and one with several -log of their probability together.
        """
        z = full(logits)
        if self.candidates is not None:
            log_p = F.log_softmax(z, dim=1)
            each = -log_p.masked_fill(~self.candidates, -torch.inf).logsumexp(1)
            return torch.where(self.candidates.all(1), 0.0, each).mean()
        if self.weak:
            return F.cross_entropy(z, self.y, reduction="sum") / len(self.y)
        return F.cross_entropy(z, self.y)

    @property
    def taught(self) -> Outputs:
        """The teacher's Outputs; ValueError where the method's card did not ask for a teacher."""
        return _asked_for(self.teacher)

    def with_outputs(self, student: Outputs, teacher: Outputs | None, views: Mapping[str, View]) -> Step:
        """The same batch, seen otherwise: what a wrapper shows to the method inside it."""
        return replace(self, student=student, teacher=teacher, views=views)

    def warm_up(self, epochs_of_240: float) -> float:
        """Linear ramp min(epoch / w, 1), its length given in epochs of a 240-epoch training and scaled to this one's.

        The literature counts epochs from 1 (DKD's ``min(epoch / 20, 1)``), so the first epoch is never switched off.
        """
        width = epochs_of_240 * self.epochs / 240
        return 1.0 if width <= 1 else min(self.epoch / width, 1.0)


@dataclass(frozen=True)
class Phase:
    """A training before the main one (FT's paraphraser, AB's boundaries): its own loss, its own optimiser state.

    ``epochs_of_240`` is its length in a 240-epoch training and scales with the protocol's. ``student`` and ``method``
    say whose parameters move; a student that does not move is seen in eval mode and its statistics stay. The rate is
    ``rate`` times the protocol's, or times that of the method's own optimiser, held constant.
    """

    name: str
    epochs_of_240: float
    loss: Callable[[Step], dict[str, Tensor]]
    student: bool = True
    method: bool = True
    rate: float = 1.0

    def epochs(self, protocol_epochs: int) -> int:
        """Its length under a protocol of ``protocol_epochs``, at least one epoch."""
        return max(1, round(self.epochs_of_240 * protocol_epochs / 240))


@dataclass(frozen=True)
class ParameterGroup:
    """Trainable parameters of a method: a multiple of the optimiser's rate, and a weight decay of their own."""

    parameters: tuple[nn.Parameter, ...]
    rate: float = 1.0
    weight_decay: float | None = None


class ApartOptimiser(torch.optim.Optimizer):
    """An optimiser that sees the gradients of the task and of the distillation terms apart."""

    def step_apart(self, distill: Mapping[nn.Parameter, Tensor]) -> None:
        """Take a step: each parameter's ``grad`` is the task terms', its entry in ``distill`` the distillation terms'.

        Either may be missing. The groups' ``lr`` is set before each step.
        """
        raise TypeError(f"{type(self).__name__} does not define step_apart(distill)")


#: The teacher's Outputs on all training images as they are, without augmentation, with labels [N] and sample index [N].
Sweep = Callable[[], Iterator[tuple[Outputs, Tensor, Tensor]]]


class Method(nn.Module):
    """Base of every distillation method: hyper-parameters become attributes, trainable parts are ordinary submodules.

    Subclasses annotate the hyper-parameters they read, may override ``setup`` to make their own trainable parts, and
    define ``loss``. A loss computes in float32 or wider whatever it is given, returns already weighted terms under
    the names that the card's ``terms`` declares, and never changes global state.
    """

    def __init__(self, spec: MethodSpec, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        unsaid = {knob.name: knob.default for knob in spec.hyperparameters.values() if knob.newer}
        for name, value in {**unsaid, **config}.items():
            setattr(self, name, value)

    @classmethod
    def build(
        cls,
        spec: MethodSpec,
        config: Mapping[str, Any],
        student: NetworkSpec,
        teacher: NetworkSpec | None,
        data: DataSpec,
    ) -> Method:
        """Make the method for one trial. Called under a random state that belongs to the trial alone."""
        method = cls(spec, config)
        set_up(method, student, teacher, data)
        return method

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        """Create the method's own trainable parts; the default has none."""

    def prepare(self, sweep: Sweep) -> None:
        """Compute what needs all of the training set (class centres, say) once, into buffers; the default nothing."""

    def phases(self) -> Sequence[Phase]:
        """The trainings before the main one; the default has none."""
        return ()

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """The method's own trainable parameters; the default trains them all as the student's."""
        return (ParameterGroup(tuple(p for p in self.parameters() if p.requires_grad)),)

    def optimiser(self, groups: Sequence[dict[str, Any]], protocol: Protocol) -> torch.optim.Optimizer | None:
        """An optimiser for ``groups`` (each with ``params``, and ``weight_decay`` where it has its own).

        The default None stands for the protocol's. The protocol's schedule moves the ``lr`` that each of its groups is
        made with; a ``ParameterGroup``'s rate is a multiple on top. It may group the parameters otherwise, but holds
        each of them once. What it remembers belongs into its ``state``, which a resume restores.
        """
        return None

    def deployed(self, student: nn.Module) -> nn.Module:
        """What is scored and counted: a module from images to Outputs; the default is the student itself."""
        return student

    def connected(self, student: Outputs) -> Tensor | None:
        """The student's features [N,D] where the teacher's are, for measuring how far apart they stay.

        Of Outputs with the parts that the card needs; None, the default, for a method that leads them nowhere.
        """
        return None

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the named, weighted scalar terms of this batch's loss."""
        raise TypeError(f"{type(self).__name__} does not define loss(step)")


def set_up(method: Method, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
    """Call ``method.setup``, whose UserError says that the method is not defined for these networks."""
    try:
        method.setup(student, teacher, data)
    except NotApplicable:
        raise
    except UserError as error:
        raise NotApplicable(str(error)) from error


def full(tensor: Tensor) -> Tensor:
    """``tensor`` in at least float32: losses are computed in full precision whatever the networks compute in."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
