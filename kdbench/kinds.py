"""Kinds: frozen values of which a TOML table says the kind by name, and its fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, TypeVar

from kdbench.errors import UserError, listed, shown
from kdbench.registry import Registry

K = TypeVar("K", bound="Kind")
#: What a field may be declared as, and what it is called where a value is something else.
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "tuple[int, ...]": "a list of whole numbers",
    "tuple[str, ...]": "a list of texts",
}


@dataclass(frozen=True)
class Kind:
    """Base of kinds: a frozen dataclass whose ``kind`` is its name and whose other fields have defaults.

    ``VERSION`` is raised whenever a change moves numbers. ``SUMMARY`` is one line for lists; ``SOURCE`` says who
    published it; ``RECONSTRUCTION`` marks what the source does not say in full.
    """

    VERSION: ClassVar[int] = 1
    SUMMARY: ClassVar[str] = ""
    SOURCE: ClassVar[str] = ""
    RECONSTRUCTION: ClassVar[bool] = False

    kind: str = field(init=False, default="")

    def identity(self) -> Any:
        """What a key hashes of it, as plain data."""
        values = {each.name: _plain(getattr(self, each.name)) for each in fields(self)}
        return {**values, "version": self.VERSION}

    def problem(self) -> str:
        """What is wrong with the values of its fields, in words; empty where nothing is."""
        return ""

    def __str__(self) -> str:
        """The kind, and the fields that have another value than by default."""
        said = (f"{f.name} {_plain(v)}" for f in fields(self) if (v := getattr(self, f.name)) != f.default)
        return " ".join([self.kind, ", ".join(said)]).strip()


def read_kind(kinds: Registry[type[K]], raw: object, where: str) -> K:
    """The value that the table ``raw`` describes; UserError begins with ``where``."""
    if not isinstance(raw, dict):
        raise UserError(f"{where}: it must be a table with the name of a kind, not {shown(raw)}.")
    values = dict(raw)
    name = values.pop("kind", None)
    if not isinstance(name, str):
        raise UserError(f"{where}: 'kind' must be one of {', '.join(kinds)}.")
    chosen = kinds.get(name)
    types = {each.name: str(each.type) for each in fields(chosen) if each.init}
    for given in values:
        if given not in types:
            raise UserError(f"{where}: {name} has no field {shown(given)}; it has {listed(list(types)) or 'none'}.")
    made = chosen(**{given: _typed(value, types[given], f"{where}: {given}") for given, value in values.items()})
    if problem := made.problem():
        raise UserError(f"{where}: {problem}.")
    return made


def check_kind(kind: type[K], origin: str) -> type[K]:
    """``kind`` if a suite can have it; else UserError, which begins with ``origin``."""
    if not (is_dataclass(kind) and kind.kind and kind.VERSION >= 1):
        raise UserError(f"{origin}: {kind.__name__} must be a frozen dataclass with a 'kind' and a VERSION from 1.")
    for each in fields(kind):
        if str(each.type) not in TYPES or (each.init and each.default is MISSING):
            raise UserError(
                f"{origin}: the field {each.name!r} of {kind.__name__} must have a default and be one of "
                f"{', '.join(TYPES)}, as text (from __future__ import annotations)."
            )
    return kind


def kind_from_json(kinds: Registry[type[K]], raw: Mapping[str, Any]) -> K:
    """The value that ``kdbench.canonical.plain`` made plain, after a way through JSON."""
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in raw.items() if name != "kind"}
    return kinds.get(raw["kind"])(**values)


def _typed(value: Any, kind: str, where: str) -> Any:
    if kind == "float" and type(value) is int:
        return float(value)
    if kind.startswith("tuple") and isinstance(value, list):
        if {type(each).__name__ for each in value} <= {kind[len("tuple[") : -len(", ...]")]}:
            return tuple(value)
    elif type(value).__name__ == kind and not (kind == "float" and not math.isfinite(value)):
        return value
    raise UserError(f"{where} must be {TYPES[kind]}, not {shown(value)}.")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
