"""How ``show`` writes what it says of a thing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def field(name: str, text: object) -> str:
    """A line that says one thing, under the one before it."""
    return f"{name:<13}{text}".rstrip()


def values(named: Mapping[str, object]) -> str:
    return ", ".join(f"{name} = {list(value) if isinstance(value, tuple) else value}" for name, value in named.items())


def section(title: str, lines: Iterable[str]) -> list[str]:
    """The ``lines`` under their title, after an empty one; nothing where there are none."""
    found = [f"  {line}" for line in lines]
    return ["", title, *found] if found else []
