"""From a model's name to a network."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdbench.errors import UserError, described
from kdbench.models import get_spec
from kdbench.models.body import Body
from kdbench.models.discover import discover
from kdbench.models.network import Network
from kdbench.models.outputs import Shape
from kdbench.models.spec import ModelSpec


def create(
    name: str,
    *,
    classes: int,
    image_shape: Shape,
    mean: Sequence[float],
    std: Sequence[float],
    seed_state: Tensor | None = None,
) -> Network:
    """Build the network ``name`` with fresh weights for images [C,H,W] in [0,1].

    Weights are drawn from torch's global generator, or, leaving that untouched, from ``seed_state``, which is such a
    generator's ``torch.get_rng_state()``. Raises UnknownName, and UserError where the architecture cannot be built for
    these images.
    """
    spec = get_spec(name)
    if not len(mean) == len(std) == image_shape[0]:
        raise UserError(
            f"model {name!r}: mean and std need one figure for each of the image's {image_shape[0]} channels."
        )
    with torch.random.fork_rng(devices=[], enabled=seed_state is not None):
        if seed_state is not None:
            torch.set_rng_state(seed_state)
        body = _function(spec)(classes, image_shape, **spec.options)
    plan = None if isinstance(body, Body) else discover(name, body, image_shape)
    return Network(body, mean, std, plan)


def _function(spec: ModelSpec) -> Callable[..., nn.Module]:
    module_name, _, function_name = spec.implementation.partition(":")
    try:
        function: Callable[..., nn.Module] = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # a plugin's module is other people's code: it may raise anything
        raise UserError(f"model {spec.name!r}: cannot load {spec.implementation!r}: {described(error)}.") from error
    return function
