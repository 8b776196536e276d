"""Methods made of methods.

A sum of losses, and the base of wrappers (see kdbench.methods.expression for how they are written).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import UserError
from kdbench.methods import load_class
from kdbench.methods.base import Method, ParameterGroup, Phase, Step, Sweep, set_up
from kdbench.methods.card import MethodSpec
from kdbench.methods.expression import sum_terms
from kdbench.models.outputs import DataSpec, NetworkSpec
from kdbench.protocol import Protocol


def _own(config: Mapping[str, Any], part: MethodSpec) -> dict[str, Any]:
    """The hyper-parameters of ``part`` under its own names, out of a composition's ``part.knob`` ones."""
    prefix = f"{part.name}."
    return {name.removeprefix(prefix): value for name, value in config.items() if name.startswith(prefix)}


class _Composed(Method):
    """What sums and wrappers share: ``methods``, each built as it would be alone."""

    methods: nn.ModuleList

    def _each(self) -> Sequence[Method]:
        return [part for part in self.methods if isinstance(part, Method)]

    def prepare(self, sweep: Sweep) -> None:
        for part in self._each():
            part.prepare(sweep)

    def phases(self) -> Sequence[Phase]:
        return [phase for part in self._each() for phase in part.phases()]

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """The parts' groups, and what a wrapper trains of its own."""
        theirs = {id(parameter) for part in self._each() for parameter in part.parameters()}
        own = tuple(p for p in self.parameters() if p.requires_grad and id(p) not in theirs)
        return [ParameterGroup(own), *(group for part in self._each() for group in part.parameter_groups())]

    def optimiser(self, groups: Sequence[dict[str, Any]], protocol: Protocol) -> torch.optim.Optimizer | None:
        """The one part's that brings its own."""
        made = [own for part in self._each() if (own := part.optimiser(groups, protocol)) is not None]
        if len(made) > 1:
            raise UserError(f"{self.spec.name!r} sums methods that each bring an optimiser; only one of them can.")
        return made[0] if made else None

    def deployed(self, student: nn.Module) -> nn.Module:
        """The one part's that deploys more than the student."""
        return next((net for part in self._each() if (net := part.deployed(student)) is not student), student)


class Sum(_Composed):
    """L = L_a + the distillation terms of L_b, L_c, ....

    The task terms count once, from the first part that has any.
    """

    @classmethod
    def build(
        cls,
        spec: MethodSpec,
        config: Mapping[str, Any],
        student: NetworkSpec,
        teacher: NetworkSpec | None,
        data: DataSpec,
    ) -> Method:
        whole = cls(spec, {})
        parts = [load_class(p).build(p, _own(config, p), student, teacher, data) for p in spec.parts]
        whole.methods = nn.ModuleList(parts)
        return whole

    def loss(self, step: Step) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for part, names in zip(self._each(), sum_terms(self.spec.parts), strict=True):
            terms.update({names[term][0]: value for term, value in part.loss(step).items() if term in names})
        return terms


class Wrapper(_Composed):
    """Base of a method that changes what another one sees or returns; ``inner`` is that other one."""

    @classmethod
    def build(
        cls,
        spec: MethodSpec,
        config: Mapping[str, Any],
        student: NetworkSpec,
        teacher: NetworkSpec | None,
        data: DataSpec,
    ) -> Method:
        own, inner = spec.parts
        whole = cls(own, _own(config, own))
        whole.methods = nn.ModuleList([load_class(inner).build(inner, _own(config, inner), student, teacher, data)])
        set_up(whole, student, teacher, data)
        return whole

    @property
    def inner(self) -> Method:
        return self._each()[0]
