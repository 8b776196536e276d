"""The one registry type: methods, models, data sets and suites are all kept in one of these."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Generic, TypeVar

from kdbench.errors import UnknownName, UserError

T = TypeVar("T")

#: The origin of what comes with kdbench itself.
OURS = "kdbench"

SLUG = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.+@()-]{0,62}[A-Za-z0-9+)])?")


def check_slug(noun: str, name: object, origin: str) -> str:
    """Return ``name`` if it is safe as a file name, page address and CLI word; else raise UserError."""
    if not isinstance(name, str) or not SLUG.fullmatch(name):
        raise UserError(
            f"{origin}: {name!r} cannot name a {noun}; use 1 to 64 letters, digits, '_', '-', '.' or '+', "
            "beginning with a letter or digit."
        )
    return name


class Registry(Generic[T]):
    """Named items of one kind and where each came from; a clash is an error, an unknown name lists its neighbours."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._items: dict[str, T] = {}
        self._origins: dict[str, str] = {}

    def add(self, name: str, item: T, origin: str) -> None:
        check_slug(self.noun, name, origin)
        if name in self._items:
            raise UserError(
                f"{origin}: the {self.noun} name {name!r} is already taken by {self._origins[name]}; choose another."
            )
        self._items[name] = item
        self._origins[name] = origin

    def get(self, name: str) -> T:
        try:
            return self._items[name]
        except KeyError:
            raise UnknownName(self.noun, name, self._items) from None

    def origin(self, name: str) -> str:
        self.get(name)
        return self._origins[name]

    def names(self) -> list[str]:
        return sorted(self._items)

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._items)
