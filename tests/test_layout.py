"""The floors of the house: what may import what, read from the sources, and drawn the same in docs/design.md."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from bench import ROOT

#: From the ground up. A room imports from rooms below it; rooms of one floor know nothing of one another.
FLOORS = (
    ("errors", "canonical"),
    ("names", "toml", "environment"),
    ("paths", "folders", "registry", "distributions", "shipped", "protocol"),
    ("kinds", "download"),
    ("stats", "data", "models"),
    ("methods", "supervision", "composition"),
    ("methods.zoo", "trials"),
    ("suites",),
    ("studies",),
    ("plugins", "records", "measure"),
    ("train", "frames"),
    ("teachers",),
    ("plan", "students"),
    ("schedule", "jobs", "render", "regress"),
    ("worker", "cli", "plugin"),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
#: What every room may import: the version, in ``kdbench/__init__.py``.
EVERYWHERE = "kdbench"


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted((ROOT / "kdbench").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a file imports, wherever in it: at its top, in a function, for its types."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in known else node.module for name in names}
    return {name for name in found if name.split(".")[0] == "kdbench"}


def room(module: str) -> str:
    parts = module.split(".")[1:]
    return "methods.zoo" if parts[:2] == ["methods", "zoo"] else parts[0] if parts else ""


KNOWN = modules()


@cache
def graph() -> dict[str, set[str]]:
    """Each module, and those that it imports."""
    return {name: imports(path, KNOWN) - {EVERYWHERE} for name, path in KNOWN.items()}


def test_every_module_is_in_a_room_of_the_drawing() -> None:
    rooms = {room(name) for name in KNOWN} - {"", "__main__"}
    assert rooms == set(LEVEL)


@pytest.mark.parametrize("name", sorted(set(KNOWN) - {"kdbench", "kdbench.__main__"}))
def test_no_import_runs_upwards(name: str) -> None:
    here = room(name)
    upwards = {other for other in graph()[name] if room(other) != here and LEVEL[room(other)] >= LEVEL[here]}
    assert not upwards, f"{name} imports from its own floor or from above: {sorted(upwards)}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle of imports: {' -> '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for other in sorted(graph().get(name, ())):
                visit(other, (*way, name))
            done.add(name)

    for name in graph():
        visit(name, ())


def test_the_zoo_holds_a_file_and_a_card_for_each_method_and_nothing_else() -> None:
    folder = ROOT / "kdbench" / "methods" / "zoo"
    names = {path.name for path in folder.iterdir() if path.name not in ("__init__.py", "__pycache__")}
    cards = {name.removesuffix(".toml") for name in names if name.endswith(".toml")}
    assert names == {f"{card}{end}" for card in cards for end in (".toml", ".py")}


def test_the_design_page_draws_the_same_floors() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    drawing = page.split("## Floors")[1].split("```text")[1].split("```")[0].strip().splitlines()
    assert [tuple(line.split("  ")[0].split()) for line in drawing] == list(reversed(FLOORS))
