"""The one registry type: methods, models, data sets and suites are all kept in one of these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from kdbench.errors import UnknownName, UserError
from kdbench.names import check_name

T = TypeVar("T")

#: The origin of what comes with kdbench itself.
OURS = "kdbench"


class Registry(Generic[T]):
    """Named items of one kind and where each came from; a clash is an error, an unknown name lists its neighbours."""

    def __init__(self, noun: str, others: str = "") -> None:
        """``others``: what else has names, in words, for whoever asks for an unknown one."""
        self.noun, self.others = noun, others
        self._items: dict[str, T] = {}
        self._origins: dict[str, str] = {}

    def add(self, name: str, item: T, origin: str) -> None:
        check_name(self.noun, name, origin)
        # Names that differ in case alone would share a folder or a file where the disk does not tell them apart.
        taken = next((known for known in self._items if known.lower() == name.lower()), None)
        if taken is not None:
            raise UserError(
                f"{origin}: the {self.noun} name {taken!r} is already taken by {self._origins[taken]}; choose another."
            )
        self._items[name] = item
        self._origins[name] = origin

    def forget(self, name: str) -> None:
        """Drop ``name``: of what a file says, which may say something else by now."""
        del self._items[name], self._origins[name]

    def get(self, name: str) -> T:
        try:
            return self._items[name]
        except KeyError:
            raise UnknownName(self.noun, name, self._items, self.others) from None

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
