"""Suites: the shipped TOML files and any a plugin adds. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from importlib import resources
from pathlib import Path

from kdbench.data import DATASETS
from kdbench.errors import UserError
from kdbench.registry import Registry
from kdbench.suites.suite import PAIRS, Pair, Row, Suite, added_pair, added_row, parse_suite
from kdbench.suites.teacher import TEACHERS, check_seeds
from kdbench.toml import read_text

__all__ = [
    "PAIRS",
    "SUITES",
    "TEACHERS",
    "Pair",
    "Row",
    "Suite",
    "added_pair",
    "added_row",
    "check_seeds",
    "get_suite",
    "installed_suite",
    "is_file",
    "parse_suite",
    "parsed_suites",
    "rung_of",
]

_RUNG = re.compile(r"(.+)-rung-[0-9]+")
#: Suite name -> (TOML text, where it lies); parsed when asked for, so that one broken file does not hide the others.
SUITES: Registry[tuple[str, str]] = Registry("suite")


def is_file(name: str) -> bool:
    """Whether ``name``, as a command line has it, is that of a suite's file."""
    return name.endswith(".toml")


def get_suite(name: str) -> Suite:
    """The suite called ``name`` or ``name@version``, or in the file ``name``, which is registered from then on.

    UserError when the version is not the one at hand.
    """
    if is_file(name):
        return _read(Path(name))
    bare, _, version = name.partition("@")
    text, where = SUITES.get(bare)
    suite = parse_suite(text, where, _home(bare))
    if suite.name != bare:
        raise UserError(
            f"{SUITES.get(bare)[1]}: its name is {bare!r} where it is offered, so it must not be {suite.name!r}."
        )
    if version and version != str(suite.version):
        raise UserError(f"Suite {bare!r} is at version {suite.version} here, not {version[:20]}; ask for {suite.id}.")
    return suite


def _read(path: Path) -> Suite:
    """The suite in the file ``path``, which is read anew, as is what it says of its pictures."""
    where = str(path.expanduser().absolute())
    text = read_text(Path(where))
    for name in [name for name in SUITES if SUITES.origin(name) == where]:
        SUITES.forget(name)
    for name in [name for name in DATASETS if DATASETS.get(name).source == where]:
        DATASETS.forget(name)
    suite = parse_suite(text, where, Path(where).parent)
    SUITES.add(suite.name, (text, where), where)
    return suite


def _home(name: str) -> Path | None:
    """The folder of the file that the suite ``name`` was read from; None of one that is installed."""
    where = SUITES.get(name)[1]
    return Path(where).parent if SUITES.origin(name) == where else None


def installed_suite(name: str) -> Suite | None:
    """The suite of exactly this name and version if this copy of kdbench has it, and it can be read."""
    try:
        return get_suite(name) if name.partition("@")[0] in SUITES else None
    except UserError:
        return None


def rung_of(name: str) -> str | None:
    """The suite whose tuning has ``name`` as a rung (``suites.rungs``); None where that is a suite of its own."""
    bare = name.partition("@")[0]
    found = _RUNG.fullmatch(bare)
    return found[1] if found and bare not in SUITES and found[1] in SUITES else None


def parsed_suites() -> Iterator[Suite]:
    """Every suite that can be read: one broken suite does not hide the others."""
    for name in SUITES:
        with suppress(UserError):
            yield get_suite(name)


def _load_builtin() -> None:
    for entry in sorted(resources.files(__package__).iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".toml"):
            SUITES.add(
                entry.name.removesuffix(".toml"),
                (entry.read_text(encoding="utf-8"), f"kdbench/suites/{entry.name}"),
                "kdbench",
            )


_load_builtin()
