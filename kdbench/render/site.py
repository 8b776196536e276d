"""The static site: every page rendered into a new folder that then takes the old one's place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from kdbench import __version__
from kdbench.errors import UserError
from kdbench.records.literature import load
from kdbench.records.store import Store
from kdbench.render import pages
from kdbench.render.address import root_of
from kdbench.render.catalogue import Catalogue
from kdbench.render.content import load_content
from kdbench.render.verify import Problem, verify
from kdbench.shipped import shipped

#: A folder with this file was made by kdbench and may be replaced by it.
MARKER = ".kdbench-site"

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'"
)

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class BuildReport:
    """``index`` is the page to open; ``problems`` name every record or file that is not shown."""

    records: int
    pages: int
    problems: list[str]
    index: Path


def build(results: Path | None, out: Path) -> BuildReport:
    """Write the leaderboard of ``results`` (None: the records shipped) and of the shipped literature to ``out``.

    The same input gives the same bytes. UserError when ``results`` is no folder, or ``out`` holds anything but an
    earlier site.
    """
    results = shipped("results") if results is None else results
    if not results.is_dir():
        raise UserError(f"There is no results folder at {results}; name one that kdbench run has written.")
    out = out.resolve()
    check_replaceable(out)
    catalogue = gather(Store(results))
    content = load_content(shipped("site"))
    temporary = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        _remove(temporary)
        temporary.mkdir(parents=True)
        count = _write(temporary, catalogue, {"site": content, "results_name": results.resolve().name})
        _swap(temporary, out)
    finally:
        _remove(temporary)
    return BuildReport(len(catalogue.records), count, [p.text for p in catalogue.problems], out / "index.html")


def gather(store: Store) -> Catalogue:
    """Read and verify every record of ``store``; the teachers' own trainings count as records but have no rows."""
    records, unreadable = store.read()
    students = [record for record in records if record["label"] != "teacher"]
    kept, problems = verify(students, store.predictions)
    return Catalogue(
        records=kept,
        problems=[*(Problem(text) for text in unreadable), *problems],
        literature=load(),
        count=len(records),
    )


def _write(folder: Path, catalogue: Catalogue, shared: Mapping[str, Any]) -> int:
    shutil.copytree(_HERE / "static", folder / "static")
    (folder / MARKER).write_text("Made by kdbench site, which may replace this folder.\n", encoding="utf-8")
    render = _renderer({**shared, "catalogue": catalogue, "version": __version__, "csp": CSP})
    count = 0
    for page in pages.all_pages(catalogue, shared["site"]):
        path = folder / page.path
        path.parent.mkdir(parents=True, exist_ok=True)
        # "x": two pages in one file would be a mistake in the addresses. Lone surrogates of hostile text become "?".
        with path.open("x", encoding="utf-8", errors="replace", newline="\n") as stream:
            stream.write(render(page))
        count += 1
    return count


def _renderer(shared: Mapping[str, Any]) -> Callable[[pages.Page], str]:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(pages.FILTERS)
    environment.globals.update(shared, **pages.GLOBALS)
    return lambda page: environment.get_template(page.template).render(
        page=page.path, root=root_of(page.path), title=page.title, **page.context
    )


def check_replaceable(out: Path) -> None:
    """UserError unless ``out`` is new, empty, or an earlier site, in a folder that can be written to."""
    if out.exists() and not (out.is_dir() and ((out / MARKER).is_file() or not any(out.iterdir()))):
        raise UserError(
            f"{out} is not an earlier kdbench site; name a new or empty folder, so that nothing of yours is lost."
        )
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise UserError(f"{out} cannot be made, as {parent} is no folder to write in; name another one.")


def first_page(out: Path) -> Path | None:
    """The page to open of the site that ``out`` holds; None where it holds none."""
    index = out.resolve() / "index.html"
    return index if (out / MARKER).is_file() and index.is_file() else None


def _swap(new: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        _remove(old)
        out.rename(old)
    new.rename(out)
    _remove(old)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
