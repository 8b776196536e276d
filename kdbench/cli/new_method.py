"""``kdbench new-method NAME``: a package that adds a method, passes the check as it is, and waits to be changed."""

from __future__ import annotations

import argparse
import re
import shlex
from importlib import resources
from pathlib import Path

from kdbench.cli.say import say
from kdbench.errors import EXIT_OK, UserError
from kdbench.methods import METHODS
from kdbench.names import check_name

#: Template -> where it goes in the package. Their names end in .txt, as no tool should take them for what they become.
FILES = {
    "pyproject.toml.txt": "pyproject.toml",
    "readme.md.txt": "README.md",
    "init.py.txt": "@MODULE@/__init__.py",
    "card.toml.txt": "@MODULE@/card.toml",
    "method.py.txt": "@MODULE@/method.py",
    "test.py.txt": "tests/test_@MODULE@.py",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the method's name")
    parser.add_argument("--out", default=".", metavar="DIR", help="where the package's folder is made (default: here)")


def main(options: argparse.Namespace) -> int:
    from kdbench.plugins import load_plugins

    load_plugins()
    folder = write_package(options.name, Path(options.out))
    say(f"{folder} holds the method {options.name}. Next:")
    say(f"  pip install -e {shlex.quote(str(folder))}")
    say(f"  kdbench check-method {options.name}")
    return EXIT_OK


def write_package(name: str, parent: Path) -> Path:
    """Write the package into ``parent`` and return its folder; UserError where name or folder is taken."""
    check_name("method", name, "new-method")
    if name in METHODS:
        raise UserError(f"new-method: the name {name!r} is taken by {METHODS.origin(name)}; choose another.")
    words = re.findall(r"[A-Za-z0-9]+", name)
    module = "kdbench_" + "_".join(words).lower()
    texts = {"@NAME@": name, "@MODULE@": module, "@CLASS@": "Method" + "".join(word.capitalize() for word in words)}
    folder = parent / f"kdbench-{name}"
    if folder.exists():
        raise UserError(f"new-method: {folder} exists already; name another folder with --out, or move it away.")
    templates = resources.files("kdbench.cli").joinpath("templates")
    for template, place in FILES.items():
        text = templates.joinpath(template).read_text("utf-8")
        for word, value in texts.items():
            text, place = text.replace(word, value), place.replace(word, value)
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder
