"""Suites: the shipped TOML files and any a plugin adds. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from importlib import resources

from kdbench.errors import UserError, shown
from kdbench.registry import Registry
from kdbench.suites.suite import PAIRS, Pair, Row, Suite, added_pair, parse_suite
from kdbench.suites.teacher import TEACHERS, check_seeds

__all__ = [
    "PAIRS",
    "SUITES",
    "TEACHERS",
    "Pair",
    "Row",
    "Suite",
    "added_pair",
    "check_seeds",
    "get_suite",
    "installed_suite",
    "parse_suite",
    "parsed_suites",
]

#: Suite name -> (TOML text, where it lies); parsed when asked for, so that one broken file does not hide the others.
SUITES: Registry[tuple[str, str]] = Registry("suite")


def get_suite(name: str) -> Suite:
    """The suite called ``name`` or ``name@version``; UserError when the version is not the one at hand."""
    if "/" in name or name.endswith(".toml"):
        raise UserError(
            f"--suite {shown(name)}: a suite is named, not a file; an installed package offers one as kdbench.suites."
        )
    bare, _, version = name.partition("@")
    suite = parse_suite(*SUITES.get(bare))
    if suite.name != bare:
        raise UserError(
            f"{SUITES.get(bare)[1]}: its name is {bare!r} where it is offered, so it must not be {suite.name!r}."
        )
    if version and version != str(suite.version):
        raise UserError(f"Suite {bare!r} is at version {suite.version} here, not {version[:20]}; ask for {suite.id}.")
    return suite


def installed_suite(name: str) -> Suite | None:
    """The suite of exactly this name and version if this copy of kdbench has it, and it can be read."""
    try:
        return get_suite(name) if name.partition("@")[0] in SUITES else None
    except UserError:
        return None


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
