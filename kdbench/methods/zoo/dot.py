"""DOT: a wrapper whose distillation gradient has a longer memory than its task gradient.

L = L_task + L_distill of the method inside, and a step is

m_task <- (mu - delta) m_task + g_task + wd w,   m_distill <- (mu + delta) m_distill + g_distill,
w <- w - lr (m_task + m_distill),

with the protocol's momentum mu, rate lr and weight decay wd. A parameter that only one of the losses reaches in a step
has plain momentum mu and the weight decay. Zhao, Cui, Song and Liang, "DOT: A Distillation-Oriented Trainer", ICCV
2023, https://arxiv.org/abs/2307.08436; mdistiller@a08d46f, mdistiller/engine/dot.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import UserError
from kdbench.methods.base import ApartOptimiser, Step
from kdbench.methods.compose import Wrapper
from kdbench.protocol import Protocol


class TwoMomenta(ApartOptimiser):
    """SGD with a momentum buffer for each of the two gradients; ``groups`` may have a weight decay of their own."""

    def __init__(
        self, groups: Sequence[dict[str, Any]], *, lr: float, momentum: float, delta: float, weight_decay: float
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = {name: torch.zeros_like(parameter) for name in ("task", "distill")}

    @torch.no_grad()
    def step_apart(self, distill: Mapping[nn.Parameter, Tensor]) -> None:
        for group in self.param_groups:
            mu, delta, lr = group["momentum"], group["delta"], group["lr"]
            for parameter in group["params"]:
                buffers, task, other = self.state[parameter], parameter.grad, distill.get(parameter)
                apart = delta if task is not None and other is not None else 0.0
                if task is not None:
                    decayed = task.add(parameter, alpha=group["weight_decay"])
                    buffers["task"].mul_(mu - apart).add_(decayed)
                if other is not None:
                    other = other if task is not None else other.add(parameter, alpha=group["weight_decay"])
                    buffers["distill"].mul_(mu + apart).add_(other)
                # After both: the weight decay looks at the weight before this step.
                for name, gradient in (("task", task), ("distill", other)):
                    if gradient is not None:
                        parameter.add_(buffers[name], alpha=-lr)


class DOT(Wrapper):
    delta: float

    def optimiser(self, groups: Sequence[dict[str, Any]], protocol: Protocol) -> TwoMomenta:
        if not 0 <= protocol.momentum - self.delta <= protocol.momentum + self.delta < 1 or protocol.nesterov:
            raise UserError(
                f"dot needs plain momentum (not nesterov) that stays in [0, 1) when delta = {self.delta:g} is added "
                f"and subtracted; the protocol's is {protocol.momentum:g}{', nesterov' if protocol.nesterov else ''}."
            )
        return TwoMomenta(
            groups,
            lr=protocol.lr,
            momentum=protocol.momentum,
            delta=self.delta,
            weight_decay=protocol.weight_decay,
        )

    def loss(self, step: Step) -> dict[str, Tensor]:
        return self.inner.loss(step)
