"""From a model's name to a network."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdbench.errors import UserError, described
from kdbench.models import get_spec
from kdbench.models.adapter import check_library
from kdbench.models.body import Body
from kdbench.models.build import AS_NAMED, Build
from kdbench.models.catalogue import LIBRARIES
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
    build: Build = AS_NAMED,
) -> Network:
    """Build the network ``name`` with fresh weights for images [C,H,W] in [0,1].

    Weights are drawn from torch's global generator, or, leaving that untouched, from ``seed_state``, which is such a
    generator's ``torch.get_rng_state()``. ``build`` says what is not as the name says. Raises UnknownName, and
    UserError where the architecture cannot be built for these images.
    """
    spec = get_spec(name)
    if not len(mean) == len(std) == image_shape[0]:
        raise UserError(
            f"model {name!r}: mean and std need one figure for each of the image's {image_shape[0]} channels."
        )
    with torch.random.fork_rng(devices=[], enabled=seed_state is not None):
        if seed_state is not None:
            torch.set_rng_state(seed_state)
        seen = build.seen(image_shape)
        body = _function(spec)(classes, seen, **spec.options, **build.options)
    plan = None if isinstance(body, Body) else discover(name, body, seen)
    return Network(body, mean, std, plan, build.input_size)


def check_available(name: str) -> None:
    """UserError unless the code of ``name`` can be imported and, of a library's model, the library has it."""
    spec = get_spec(name)
    _function(spec)
    if spec.family in LIBRARIES and "/" in name:
        check_library(spec.family, name.partition("/")[2])


def check_build(name: str, classes: int, image_shape: Shape, build: Build) -> None:
    """UserError unless the network ``name`` can be built as ``build`` says; nothing is computed or drawn."""
    norm = (0.5,) * image_shape[0]
    start = torch.Generator("cpu").get_state()
    with torch.device("meta"):
        create(name, classes=classes, image_shape=image_shape, mean=norm, std=norm, seed_state=start, build=build)


def _function(spec: ModelSpec) -> Callable[..., nn.Module]:
    module_name, _, function_name = spec.implementation.partition(":")
    try:
        function: Callable[..., nn.Module] = getattr(importlib.import_module(module_name), function_name)
    except (Exception, SystemExit) as error:  # a plugin's module is other people's code: it may raise anything
        raise UserError(f"model {spec.name!r}: cannot load {spec.implementation!r}: {described(error)}.") from error
    return function
