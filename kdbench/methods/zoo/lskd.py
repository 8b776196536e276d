"""LSKD: a wrapper whose method compares standardised logits.

L = L_task(z) + weight * L_distill(z~, v~),   z~ = (z - mean(z)) / (std(z) + 1e-7),

for each sample over its classes, student and teacher alike. Sun, Ren, Li, Wang and Cao, "Logit Standardization in
Knowledge Distillation", CVPR 2024, https://arxiv.org/abs/2403.01427.

The paper divides by the population's standard deviation, the authors' code by the unbiased one: ``variant``. Terms
named in ``raw`` keep the logits as they are, as MLKD's correlations do in the authors' code.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kdbench.errors import UserError
from kdbench.methods.base import Step, full
from kdbench.methods.compose import Wrapper
from kdbench.models.outputs import DataSpec, NetworkSpec, Outputs

#: Added to the standard deviation, as in the authors' code: equal logits become zeros instead of NaN.
EPSILON = 1e-7

#: What rounding leaves of a constant row, relative to its values, in units of their precision.
ROUNDING = 8


def standardise(rows: Tensor, unbiased: bool, epsilon: float = EPSILON) -> Tensor:
    """Each of ``rows`` [N,K] shifted to mean 0 and scaled to standard deviation 1; zeros where it is constant."""
    z = full(rows)
    centred = z - z.mean(1, keepdim=True)
    # The root of the sum of squares, not torch's std: its gradient at equal logits is NaN. A row that is constant up to
    # rounding has no direction: it becomes zeros, without the huge gradient of dividing by almost nothing.
    squares = centred.square().sum(1, keepdim=True) / (z.shape[1] - unbiased)
    flat = squares <= (ROUNDING * torch.finfo(z.dtype).eps * z.detach().abs().amax(1, keepdim=True)).square()
    deviation = torch.where(flat, 1, squares).sqrt()
    return torch.where(flat, 0, centred / (deviation + epsilon))


class LSKD(Wrapper):
    weight: float
    raw: str
    variant: str

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        spec = self.inner.spec
        if spec.family != "logit" or not spec.needs_teacher:
            raise UserError(
                f"lskd standardises logits, so it can be put around a logit method only, not {spec.name!r}."
            )
        unknown = sorted(set(self.raw.split()) - set(spec.terms))
        if unknown:
            raise UserError(f"lskd: raw names the terms of {spec.name!r} that stay; {unknown[0]!r} is none of them.")

    def loss(self, step: Step) -> dict[str, Tensor]:
        roles, raw = self.inner.spec.terms, self.raw.split()
        as_they_are = self.inner.loss(step)
        standardised = self.inner.loss(self._standardised(step))
        return {
            name: value if role == "task" else self.weight * (value if name in raw else standardised[name])
            for name, role in roles.items()
            if (value := as_they_are.get(name)) is not None
        }

    def _standardised(self, step: Step) -> Step:
        def scaled(outputs: Outputs) -> Outputs:
            return replace(outputs, logits=standardise(outputs.logits, self.variant == "official"))

        views = {
            name: replace(view, student=scaled(view.student), teacher=scaled(view.taught))
            for name, view in step.views.items()
        }
        return step.with_outputs(scaled(step.student), scaled(step.taught), views)
