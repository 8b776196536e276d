"""Errors that reach the user as one sentence, each with its documented exit code (docs/cli.md)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_INCOMPLETE = 3
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Something the user can put right; its text says what is wrong and what to do."""

    exit_code = EXIT_USAGE


class UnknownName(UserError):
    """A name no registry knows; the text lists the nearest ones, whatever their case and however words are joined."""

    def __init__(self, noun: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        spelt: dict[str, list[str]] = {}
        for other in names:
            spelt.setdefault(_folded(other), []).append(other)
        wanted = _folded(name)
        near = (
            difflib.get_close_matches(wanted, spelt, n=4, cutoff=0.45)
            or [other for other in spelt if name and (wanted in other or other in wanted)][:4]
        )
        nearest = ", ".join(other for folded in near for other in spelt[folded])
        hint = f"the nearest are {nearest}" if near else f"known are {', '.join(names[:12])}"
        super().__init__(f"There is no {noun} named {name!r}; {hint if names else 'none is registered'}.")


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_")


class DataError(UserError):
    """A data set that is missing, truncated or impossible."""


class CheckpointError(UserError):
    """Weights that are missing, damaged, or not the ones that were pinned."""
