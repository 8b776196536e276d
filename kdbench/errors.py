"""Errors that reach the user as one sentence, each with its documented exit code (docs/cli.md)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_INCOMPLETE = 3
EXIT_INTERRUPTED = 130


def shown(value: object, most: int = 80) -> str:
    """``value`` as a sentence quotes it: as Python writes it, cut where that is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def one_line(text: str) -> str:
    """``text`` as a terminal can take it: in one line, what it would obey written out."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in " ".join(text.split()))


def listed(names: Sequence[str], most: int = 12) -> str:
    """``names`` as a sentence lists them: the first ones, and how many there are beyond."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class UserError(Exception):
    """Something the user can put right; its text says what is wrong and what to do."""

    exit_code = EXIT_USAGE


class UnknownName(UserError):
    """A name no registry knows; the text lists the nearest ones."""

    def __init__(self, noun: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = (
            difflib.get_close_matches(name, names, n=4, cutoff=0.45)
            or [other for other in names if name and (name in other or other in name)][:4]
        )
        hint = f"the nearest are {', '.join(near)}" if near else f"known are {listed(names)}"
        super().__init__(f"There is no {noun} named {shown(name)}; {hint if names else 'none is registered'}.")


class DataError(UserError):
    """A data set that is missing, truncated or impossible."""


class CheckpointError(UserError):
    """Weights that are missing, damaged, or not the ones that were pinned."""
