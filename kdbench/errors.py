"""Errors that reach the user as one sentence, each with its documented exit code (docs/cli.md); what makes one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_INCOMPLETE = 3
EXIT_INTERRUPTED = 130

#: What a terminal obeys and a reader does not want: window titles and the like, colours and cursor moves, the rest.
_ESCAPES = re.compile(r"\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]")
_BREAKS = re.compile(r"\s*[\t-\r\x1c-\x1f\x85\u2028\u2029]\s*")
#: Characters of somebody else's text that fit into a sentence.
LONGEST = 300


def plain(text: object) -> str:
    """``text`` on one line that can be printed, as names and reasons may be other people's.

    Terminal escapes are left out, line breaks become blanks, and what else cannot be printed is written as in Python.
    """
    line = _BREAKS.sub(" ", _ESCAPES.sub("", str(text)))
    return "".join(c if c.isprintable() or c.isspace() else c.encode("unicode_escape").decode() for c in line)


def sentence(text: object) -> str:
    """``text`` on one line, with one full stop at its end."""
    return plain(text).strip().rstrip(". ") + "."


def reason(error: object) -> str:
    """What ``error`` says, as part of a sentence: its first line, without full stop and number of the system's error.

    Where that announces another line, this one, too; its type where it says nothing.
    """
    lines = [line for line in (plain(line).strip() for line in str(error).splitlines()) if line.strip(" .")]
    text = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    text = re.sub(r"\[Errno -?\d+\] ", "", text).rstrip(". ") or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def described(error: BaseException) -> str:
    """What other people's code raised: its type, and what it says."""
    kind = type(error).__name__
    said = reason(error)
    return kind if said == kind else f"{kind}: {said}"


class UserError(Exception):
    """Something the user can put right; its text is a sentence that says what is wrong and what to do."""

    exit_code = EXIT_USAGE

    def __init__(self, text: object) -> None:
        super().__init__(sentence(text))


class UnknownName(UserError):
    """A name no registry knows; the text lists the nearest ones."""

    def __init__(self, noun: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = (
            difflib.get_close_matches(name, names, n=4, cutoff=0.45)
            or [other for other in names if name and (name in other or other in name)][:4]
        )
        hint = f"the nearest are {', '.join(near)}" if near else f"known are {', '.join(names[:12])}"
        super().__init__(f"There is no {noun} named {name!r}; {hint if names else 'none is registered'}.")


class DataError(UserError):
    """A data set that is missing, truncated or impossible."""


class MissingData(DataError):
    """A data set that is not there, or of which ``path`` is not."""

    path: Path | None = None


class CheckpointError(UserError):
    """Weights that are missing, damaged, or not the ones that were pinned."""
