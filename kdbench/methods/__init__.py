"""Distillation methods. Importing this package reads cards only; torch is imported when a method is built."""

from __future__ import annotations

import importlib
from functools import lru_cache, partial
from importlib import resources
from typing import TYPE_CHECKING

from kdbench.errors import UserError, described
from kdbench.methods.card import Applicability, Budget, HyperParameter, MethodSpec, Paper, Preset, Value
from kdbench.methods.expression import is_expression, resolve
from kdbench.methods.reading import load_card, parse_card, spec_from
from kdbench.registry import Registry

if TYPE_CHECKING:
    from kdbench.methods.base import Method

__all__ = [
    "METHODS",
    "Applicability",
    "Budget",
    "HyperParameter",
    "MethodSpec",
    "Paper",
    "Preset",
    "leaves",
    "load_builtin",
    "load_card",
    "load_class",
    "parse_card",
    "spec_from",
]


class MethodRegistry(Registry[MethodSpec]):
    """The registered methods, and whatever is written with them (see kdbench.methods.expression)."""

    def __init__(self) -> None:
        super().__init__("method")
        #: A plan asks for the same few compositions once for every trial.
        self._composed = lru_cache(maxsize=1024)(partial(resolve, lookup=super().get))

    def add(self, name: str, item: MethodSpec, origin: str) -> None:
        super().add(name, item, origin)
        self._composed.cache_clear()

    def get(self, name: str) -> MethodSpec:
        """The spec of a name or of an expression; a preset's values are in ``resolve``."""
        return self.resolve(name)[0] if is_expression(name) else super().get(name)

    def resolve(self, name: str) -> tuple[MethodSpec, dict[str, Value]]:
        """The method that can be trained as ``name``, and the hyper-parameters that its presets fix."""
        spec, fixed = self._composed(name)
        return spec, dict(fixed)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or not is_expression(name):
            return super().__contains__(name)
        try:
            self.resolve(name)
        except UserError:
            return False
        return True


METHODS = MethodRegistry()


def load_builtin() -> None:
    """Register every ``*.toml`` card that lies in kdbench.methods.zoo."""
    for entry in sorted(resources.files("kdbench.methods.zoo").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".toml"):
            spec = parse_card(entry.read_text(encoding="utf-8"), f"kdbench/methods/zoo/{entry.name}")
            METHODS.add(spec.name, spec, "kdbench")


def leaves(spec: MethodSpec) -> list[MethodSpec]:
    """The registered methods that ``spec`` is made of: itself, unless it is a composition."""
    return [leaf for part in spec.parts for leaf in leaves(part)] or [spec]


def load_class(spec: MethodSpec) -> type[Method]:
    """Import the class that ``spec.implementation`` names; UserError says which half of it is wrong."""
    from kdbench.methods.base import Method

    module_name, _, class_name = spec.implementation.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a plugin's module is other people's code: it may raise anything
        text = f"method {spec.name!r}: implementation: cannot import {module_name!r}: {described(error)}."
        raise UserError(text) from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(
            f"method {spec.name!r}: implementation: {module_name} has no class {class_name!r} "
            "that derives from kdbench.plugin.Method."
        )
    if found.loss is Method.loss:
        raise UserError(f"method {spec.name!r}: {class_name} lacks loss(step) -> dict[str, Tensor].")
    return found


load_builtin()
