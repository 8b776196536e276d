"""What a command says: lines on standard output, and on standard error a sentence for what is wrong."""

from __future__ import annotations

import os
import shlex
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import IO

from kdbench.errors import plain, sentence

_outliving = False


def prepare_streams() -> None:
    """Have all three standard streams, even where the caller closed some; any letter can be written to them."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            found = os.open(os.devnull, os.O_RDWR)  # a file that is opened next must not take the stream's place
            if found != number:
                os.dup2(found, number)
                os.close(found)
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what its encoding lacks is written out, and no reason to end
            stream.reconfigure(errors="backslashreplace")


def outlive_readers() -> None:
    """From here on, what nobody reads any more is dropped: a training does not end as ``| head`` has seen enough."""
    global _outliving
    _outliving = True


def say(text: object = "", stream: IO[str] | None = None) -> None:
    """Print a line at once, to ``stream`` or standard output."""
    _print(plain(text), stream or sys.stdout)


def in_folder(results: Path) -> str:
    """The flag that a command needs to find the results folder, empty where it looks there by itself."""
    return "" if results == Path("results") else f" --results {shlex.quote(str(results))}"


def many(count: int, noun: str, plural: str = "") -> str:
    """``count`` of what ``noun`` names in the singular, and ``plural`` where that is not formed by an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def complain(text: object) -> None:
    """Print what is wrong, as one sentence, to standard error."""
    _print(f"kdbench: {sentence(text)}", sys.stderr)


def _print(text: str, stream: IO[str]) -> None:
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        if not _outliving:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
