"""``kdbench check-method NAME``: whether a method keeps the contract, and what it costs."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from kdbench.cli.say import many, say
from kdbench.errors import EXIT_OK, EXIT_USAGE, UserError
from kdbench.methods import METHODS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "method",
        nargs="*",
        metavar="METHOD",
        help="a method's name or expression, or a plugin file, whose methods are all checked; "
        "without any, the methods of the files given by --plugin",
    )
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="load a plugin file; may be given again"
    )


def main(options: argparse.Namespace) -> int:
    from kdbench.plugins import load_plugins, methods_of
    from kdbench.train.device import set_up
    from kdbench.train.global_state import differences

    set_up("cpu", 1)  # so that what loading a plugin changes is seen
    load_plugins([*options.plugin, *(word for word in options.method if word.endswith(".py"))])
    changed = differences(thorough=True)
    if changed:
        say(f"check-method: FAILED: what was loaded changed {', '.join(changed)}, which all trials of a worker share.")
    words = options.method or options.plugin
    if not words:
        raise UserError("check-method: name a method, or give a file of methods with --plugin.")
    names = [name for word in words for name in (methods_of(word) if word.endswith(".py") else [word])]
    for name in names:
        METHODS.get(name)  # a mistyped one is said before the others take their time
    found = max(check(name, say) for name in dict.fromkeys(names))
    return EXIT_USAGE if changed else found


def check(name: str, write: Callable[[str], object]) -> int:
    """Check the method ``name`` and ``write`` each line of what was found; the exit code."""
    from kdbench.train.conformance import around_kd, check_method, cost

    name, failed = around_kd(name), 0
    for check in check_method(name):
        failed += not check.passed
        detail = f": {check.detail}" if check.detail else ""
        write(f"{name}: {'passed' if check.passed else 'FAILED'}: {check.what}{detail}")
    if failed:
        write(f"{name}: {many(failed, 'check')} failed; docs/plugins.md says what each asks.")
        return EXIT_USAGE
    found = cost(name)
    write(
        f"{name}: a step takes {found.time_ratio:.2f} x the time and {found.memory_ratio:.2f} x the memory of plain kd."
    )
    return EXIT_OK
