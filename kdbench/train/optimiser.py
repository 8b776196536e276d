"""A student's optimiser: the protocol's, or the one that its method brings, and what the rate of each group is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdbench.methods.base import Method, ParameterGroup
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
    """The optimiser of ``network`` and of what ``method`` trains, and the rate of each of its groups.

    ValueError where the method asks for what cannot be kept; its text ends up on the record.
    """
    groups: list[dict[str, Any]] = [{"params": [p for p in network.parameters() if p.requires_grad]}]
    multiples = [1.0]
    for group in method.parameter_groups():
        if not isinstance(group, ParameterGroup):
            raise _refused(method, f"parameter_groups must return ParameterGroups, not {type(group).__name__}")
        if group.parameters:
            decay = {} if group.weight_decay is None else {"weight_decay": group.weight_decay}
            groups.append({"params": list(group.parameters), **decay})
            multiples.append(group.rate)
    multiple: dict[nn.Parameter, float] = {}
    for given, rate in zip(groups, multiples, strict=True):
        for parameter in given["params"]:
            if parameter in multiple:
                named = (*network.named_parameters(), *method.named_parameters())
                name = next((name for name, other in named if other is parameter), "a parameter")
                raise _refused(method, f"{name} is in two parameter groups; the student's own are in one already")
            multiple[parameter] = rate
    own = method.optimiser(groups, protocol)
    if own is None:
        return _sgd(groups, protocol), [GroupRate(protocol.lr, rate) for rate in multiples]
    return own, _rates(method, own, multiple)


def _refused(method: Method, why: str) -> ValueError:
    return ValueError(f"method {method.spec.name!r}: {why}")


class SGD(torch.optim.SGD):
    """``torch.optim.SGD`` as it is beneath what tells torch's compiler to leave it alone.

    That loads the compiler in each process, whether it is used or not, and takes about as long as to import torch.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


def _sgd(groups: Sequence[dict[str, Any]], protocol: Protocol) -> torch.optim.Optimizer:
    optimiser = SGD(
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


def _rates(method: Method, own: object, multiple: Mapping[nn.Parameter, float]) -> list[GroupRate]:
    """The rate of each group of ``own``, an optimiser that ``method`` brings and that may group parameters otherwise.

    ``multiple`` has those that it was given, and says how fast each moves.
    """
    if not isinstance(own, torch.optim.Optimizer):
        raise _refused(method, f"optimiser must return a torch.optim.Optimizer, not {type(own).__name__}")
    held = [parameter for group in own.param_groups for parameter in group["params"]]
    if len(held) != len(multiple) or set(held) != set(multiple):
        raise _refused(method, "its optimiser must hold each parameter of the groups it is given once, and no other")
    rates = []
    for group in own.param_groups:
        base, multiples = group.get("lr"), {multiple[parameter] for parameter in group["params"]}
        if not isinstance(base, float | int) or not 0 <= base < math.inf:
            raise _refused(method, f"its optimiser's lr must be a finite number from 0 on, not {base!r}")
        if len(multiples) > 1:
            raise _refused(method, "its optimiser joins parameters in one group whose ParameterGroups differ in rate")
        rates.append(GroupRate(float(base), max(multiples, default=1.0)))
    return rates
