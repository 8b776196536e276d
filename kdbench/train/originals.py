"""Functions and classes of torch, numpy and Python, as they were when this module was imported.

Who replaces one does so for every student of the worker. What is added later, as libraries do when they are first used,
is none of that, unless it hides something that was there.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

#: Where to look, besides every class of torch.nn and torch.optim.
MODULES: tuple[ModuleType, ...] = (
    torch,
    torch._C._nn,
    torch.nn,
    torch.nn.functional,
    torch.nn.init,
    torch.autograd,
    torch.linalg,
    torch.special,
    torch.fft,
    torch.optim,
    torch.random,
    np,
    np.random,
    math,
)
CLASSES: tuple[type, ...] = (torch.Tensor, torch.Generator, torch.autograd.Function)
_DESCRIPTORS = (property, staticmethod, classmethod)


@dataclass(frozen=True)
class _Place:
    """A module or a class, and what it held."""

    name: str
    holder: Any
    names: frozenset[str]
    kept: Mapping[str, Any]
    #: What is found by way of it: of a class by its bases, of a module among Python's own names.
    inherited: frozenset[str]


def _places() -> Iterator[_Place]:
    classes = dict.fromkeys(CLASSES)
    for module in (torch.nn, torch.optim):
        classes |= {value: None for value in vars(module).values() if isinstance(value, type)}
    own = frozenset(vars(builtins))
    for module in MODULES:
        yield _place(module.__name__, module, own)
    for each in classes:
        bases = frozenset(name for base in each.__mro__[1:] for name in vars(base))
        yield _place(f"{each.__module__}.{each.__qualname__}", each, bases)


def _place(name: str, holder: Any, inherited: frozenset[str]) -> _Place:
    held = vars(holder)
    return _Place(name, holder, frozenset(held), {n: v for n, v in held.items() if _counts(v)}, inherited)


def _counts(value: object) -> bool:
    return callable(value) or isinstance(value, (*_DESCRIPTORS, ModuleType, torch.dtype))


def _inside(function: FunctionType) -> tuple[Any, ...]:
    """What a function is made of, and can be given anew without another function in its place."""
    named = function.__kwdefaults__
    return function.__code__, function.__defaults__, named and dict(named)


PLACES: tuple[_Place, ...] = tuple(_places())
_PYTHON = {name: value for name, value in vars(builtins).items() if _counts(value)}
_FUNCTIONS: Mapping[FunctionType, tuple[str, tuple[Any, ...]]] = {
    value: (f"{place.name}.{name}", _inside(value))
    for place in PLACES
    for name, value in place.kept.items()
    if isinstance(value, FunctionType)
}
#: Kernels that Python code registered, and the keys of those that a training runs: torch registers others for shapes
#: and for its transforms when they are first used.
_KERNELS: frozenset[str] = frozenset(torch.library._impls)
_COMPUTING = ("CPU", "CUDA", "Autograd", "ADInplaceOrView", "CompositeImplicitAutograd", "CompositeExplicitAutograd")
_ENDINGS = tuple(f"/{before}{key}" for key in _COMPUTING for before in ("", "Autograd", "Autocast"))


def put_back() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of what was replaced and is put back, and of what cannot be: kernels of torch's operators."""
    mended = []
    python = builtins.__dict__
    for name, value in _PYTHON.items():  # first, and by none of its own functions
        if python.get(name) is not value:
            python[name] = value
            mended.append(f"builtins.{name}")
    mended += [name for place in PLACES for name in _mended(place)]
    for function, (name, inside) in _FUNCTIONS.items():
        if _inside(function) != inside:
            function.__code__, function.__defaults__, function.__kwdefaults__ = inside
            mended.append(name)
    added = torch.library._impls - _KERNELS
    lost = sorted(name for name in added if name.startswith("aten/") and name.endswith(_ENDINGS))
    return tuple(mended), tuple(lost)


def _mended(place: _Place) -> Iterator[str]:
    held = vars(place.holder)
    for name, value in place.kept.items():
        if held.get(name) is not value and not _wrapped_by_torch(held.get(name), value):
            setattr(place.holder, name, value)
            yield f"{place.name}.{name}"
    if len(held) != len(place.names):
        for name in (held.keys() - place.names) & place.inherited:
            if _counts(held[name]) and not _wrapped_by_torch(held[name], _inherited(place.holder, name)):
                delattr(place.holder, name)
                yield f"{place.name}.{name}"


def _inherited(holder: Any, name: str) -> Any:
    """What is found as ``name`` by way of the bases of a class, or of Python's own names for a module."""
    bases = holder.__mro__[1:] if isinstance(holder, type) else (builtins,)
    return next((vars(base)[name] for base in bases if name in vars(base)), None)


#: The first optimiser of a class has its step hooked; the compiler, once it is loaded, leaves out what sets seeds.
_WRAPPERS = ("torch.optim.optimizer", "torch._compile")


def _wrapped_by_torch(now: Any, before: Any) -> bool:
    """Whether ``now`` is ``before`` in a wrapper that torch itself puts around it."""
    if not isinstance(now, FunctionType):
        return False
    home = now.__globals__["__name__"]
    if home.startswith("torch._dynamo."):  # the compiler's own patches of modules and optimisers, once it is used
        return True
    return home in _WRAPPERS and getattr(now, "__wrapped__", None) in (before, getattr(before, "__wrapped__", before))
