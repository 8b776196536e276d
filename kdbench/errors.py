"""Errors that reach the user as one sentence, each with its documented exit code (docs/cli.md); what makes one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

EXIT_OK = 0
EXIT_REGRESSION = 1
EXIT_USAGE = 2
EXIT_INCOMPLETE = 3
EXIT_INCONCLUSIVE = 4
EXIT_INCOMPARABLE = 5
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
    lines = [line for line in (plain(line).strip() for line in _words(error).splitlines()) if line.strip(" .")]
    text = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    text = re.sub(r"\[Errno -?\d+\] ", "", text).rstrip(". ") or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _words(error: object) -> str:
    """The beginning of the text of ``error``, which may be other people's: it can be long, or fail to be made."""
    try:
        return str(error)[: 10 * LONGEST]
    except BaseException:
        return "its text cannot be made"


def described(error: BaseException) -> str:
    """What other people's code raised: its type, and what it says."""
    kind = type(error).__name__
    said = reason(error)
    return kind if said == kind else f"{kind}: {said}"


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the device or of the machine; as torch says it, which need not be loaded for that."""
    named = any(kind.__name__ in ("MemoryError", "OutOfMemoryError") for kind in type(error).__mro__)
    return named or (isinstance(error, RuntimeError) and any(words in _words(error) for words in _NO_MEMORY))


#: What the allocators of torch and of its libraries say.
_NO_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def shown(value: object, most: int = 80) -> str:
    """``value`` as a sentence quotes it: as Python writes it, cut where that is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def listed(names: Sequence[str], most: int = 12) -> str:
    """``names`` as a sentence lists them: the first ones, and how many there are beyond."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class UserError(Exception):
    """Something the user can put right; its text is a sentence that says what is wrong and what to do."""

    exit_code = EXIT_USAGE

    def __init__(self, text: object) -> None:
        super().__init__(sentence(text))


class UnknownName(UserError):
    """A name no registry knows; the text lists the nearest ones, whatever their case and however words are joined."""

    def __init__(self, noun: str, name: str, known: Iterable[str], others: str = "") -> None:
        names = sorted(known)
        spelt: dict[str, list[str]] = {}
        for other in names:
            spelt.setdefault(_folded(other), []).append(other)
        wanted = _folded(name)
        near = (
            difflib.get_close_matches(wanted, spelt)
            or [other for other in spelt if name and (wanted in other or other in wanted)][:3]
        )
        nearest = ", ".join(other for folded in near for other in spelt[folded])
        hint = f"the nearest are {nearest}" if near else f"known are {listed(names)}"
        hints = [hint if names else "none is registered", *([others] if others else [])]
        super().__init__(f"There is no {noun} named {shown(name)}; {'; '.join(hints)}.")


class NoBaseline(UserError):
    """Nothing to compare with."""

    exit_code = EXIT_INCOMPLETE


class NotApplicable(UserError):
    """A method's own word that it is not defined for these networks or this data: a result, and not a mistake."""


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_")


class DataError(UserError):
    """A data set that is missing, truncated or impossible."""


class MissingData(DataError):
    """A data set that is not there, or of which ``path`` is not."""

    path: Path | None = None


class CheckpointError(UserError):
    """Weights that are missing, damaged, or not the ones that were pinned."""
