"""What a command says: lines on standard output, and on standard error a sentence for what is wrong."""

from __future__ import annotations

import sys
from typing import IO

from kdbench.errors import plain, sentence


def say(text: object = "", stream: IO[str] | None = None) -> None:
    """Print a line at once, to ``stream`` or standard output."""
    print(plain(text), file=stream, flush=True)


def many(count: int, noun: str) -> str:
    """``count`` of what ``noun`` names in the singular."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def complain(text: object) -> None:
    """Print what is wrong, as one sentence, to standard error."""
    print(f"kdbench: {sentence(text)}", file=sys.stderr, flush=True)
