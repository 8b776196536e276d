"""A TOML table that is read field by field, so that what is wrong in it is named with its place."""

from __future__ import annotations

from typing import Any

from kdbench.errors import UserError, shown


class Table:
    """A TOML table whose fields are taken one by one; what is left over is an error, with its place."""

    def __init__(self, raw: object, where: str) -> None:
        if not isinstance(raw, dict):
            raise UserError(f"{where}: it must be a table, not {shown(raw)}.")
        self.raw, self.where = dict(raw), where
        self._known: list[str] = []

    def take(self, name: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        self._known.append(name)
        value = self.raw.pop(name, default)
        if value is ...:
            raise UserError(f"{self.where}: {name!r} is missing.")
        wanted = kind if isinstance(kind, tuple) else (kind,)
        if value is not default and (not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)):
            kinds = " or ".join(k.__name__ for k in wanted)
            raise UserError(
                f"{self.where}: {name} must be {'an' if kinds[0] in 'aio' else 'a'} {kinds}, not {shown(value)}."
            )
        return value

    def count(self, name: str, low: int, default: Any = ..., high: int | None = None) -> int:
        """A whole number of at least ``low`` and at most ``high``."""
        value: int = self.take(name, int, default)
        if value < low:
            raise UserError(f"{self.where}: {name} must be at least {low}, not {value}.")
        if high is not None and value > high:
            raise UserError(f"{self.where}: {name} must be at most {high}, not {value}.")
        return value

    def finish(self) -> None:
        if self.raw:
            known = ", ".join(dict.fromkeys(self._known))
            raise UserError(f"{self.where}: unknown field {shown(sorted(self.raw)[0])}; known are {known}.")
