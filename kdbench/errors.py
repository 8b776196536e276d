"""Errors that reach the user as one sentence, each with its documented exit code (docs/cli.md)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_INCOMPLETE = 3
EXIT_INTERRUPTED = 130


#: Characters of other people's words that a record or a message quotes.
QUOTED = 1000


def described(error: BaseException) -> str:
    """The kind and the words of ``error``, which may be other people's: they can be long, or fail to be made."""
    try:
        text = str(error)
    except BaseException:
        text = "its text cannot be made"
    return f"{type(error).__name__}: {text[:QUOTED]}" if text else type(error).__name__


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


class NotApplicable(UserError):
    """A method's own word that it is not defined for these networks or this data: a result, and not a mistake."""


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_")


class DataError(UserError):
    """A data set that is missing, truncated or impossible."""


class CheckpointError(UserError):
    """Weights that are missing, damaged, or not the ones that were pinned."""
