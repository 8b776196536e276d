"""A student's optimiser: the protocol's, or the one that its method brings, and what the rate of each group is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdbench.methods.base import Method
from kdbench.protocol import Protocol


@dataclass(frozen=True)
class GroupRate:
    """The rate that a group's optimiser was made with, which the schedule starts from, and a multiple on top.

    Not read from the optimiser later: its groups hold the rate of the last step, and so does a checkpoint.
    """

    base: float
    multiple: float


def make_optimiser(
    method: Method, network: nn.Module, protocol: Protocol
) -> tuple[torch.optim.Optimizer, list[GroupRate]]:
    """The optimiser of ``network`` and of what ``method`` trains, and the rate of each of its groups."""
    groups: list[dict[str, Any]] = [{"params": [p for p in network.parameters() if p.requires_grad]}]
    multiples = [1.0]
    for group in method.parameter_groups():
        if group.parameters:
            decay = {} if group.weight_decay is None else {"weight_decay": group.weight_decay}
            groups.append({"params": list(group.parameters), **decay})
            multiples.append(group.rate)
    multiple = {p: m for group, m in zip(groups, multiples, strict=True) for p in group["params"]}
    own = method.optimiser(groups, protocol)
    if own is None:
        return _sgd(groups, protocol), [GroupRate(protocol.lr, m) for m in multiples]
    try:
        return own, _rates(own, multiple)
    except ValueError as error:
        raise ValueError(f"method {method.spec.name!r}: {error}") from None


def _sgd(groups: Sequence[dict[str, Any]], protocol: Protocol) -> torch.optim.Optimizer:
    optimiser = torch.optim.SGD(
        groups,
        lr=protocol.lr,
        momentum=protocol.momentum,
        nesterov=protocol.nesterov,
        weight_decay=protocol.weight_decay,
        fused=True,
    )
    # A parameter may get its first gradient in any step (a part that wakes up late): torch's fused step cannot
    # start its momentum then, so all start at zero, which is what the first step makes of them anyway.
    if protocol.momentum:
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimiser


def _rates(own: object, multiple: Mapping[nn.Parameter, float]) -> list[GroupRate]:
    """The rates of an optimiser that a method brings, which may group the parameters otherwise.

    ``multiple`` says of each parameter that it was given how fast it moves. ValueError where that cannot be kept.
    """
    if not isinstance(own, torch.optim.Optimizer):
        raise ValueError(f"optimiser must return a torch.optim.Optimizer, not {type(own).__name__}")
    held = [parameter for group in own.param_groups for parameter in group["params"]]
    if len(held) != len(multiple) or set(held) != set(multiple):
        raise ValueError("its optimiser must hold each parameter of the groups that it is given once, and no other")
    return [_rate(group, {multiple[parameter] for parameter in group["params"]}) for group in own.param_groups]


def _rate(group: Mapping[str, Any], multiples: set[float]) -> GroupRate:
    base = group.get("lr")
    if not isinstance(base, float | int) or not 0 <= base < math.inf:
        raise ValueError(f"its optimiser's lr must be a finite number from 0 on, not {base!r}")
    if len(multiples) > 1:
        raise ValueError("its optimiser puts parameters into one group whose ParameterGroups differ in rate")
    return GroupRate(float(base), max(multiples, default=1.0))
