"""The static site: every page rendered into a new folder that then takes the old one's place."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from kdbench import __version__
from kdbench.errors import UserError
from kdbench.folders import resolved
from kdbench.records.agreement import TEACHER
from kdbench.records.inventory import take_inventory
from kdbench.records.literature import Literature, load
from kdbench.records.store import Store
from kdbench.records.verify import Problem
from kdbench.render import pages, publishing, texts
from kdbench.render.address import root_of
from kdbench.render.catalogue import Catalogue
from kdbench.render.content import load_content
from kdbench.render.downloads import File
from kdbench.render.output import MARKER, replacing
from kdbench.render.templating import Templates
from kdbench.shipped import shipped

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'"
)

#: Objects that are made before Python looks for garbage: some hundred pages' worth.
_ALLOCATIONS = 200_000
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class BuildReport:
    """``index`` is the page to open; ``problems`` name every record or file that is not shown."""

    records: int
    pages: int
    problems: list[str]
    index: Path


def build(
    results: Path | None,
    out: Path,
    data: Path | None = None,
    publish: bool = False,
    url: str | None = None,
    built: str = "",
) -> BuildReport:
    """Write the leaderboard of ``results`` (None: the records shipped) and of the shipped literature to ``out``.

    The same input gives the same bytes; ``built`` is the day that the first page names as that of its build. UserError
    when ``results`` is no folder, or ``out`` holds anything but an earlier site; nor may it hold the ``data`` root. To
    ``publish`` adds what GitHub Pages wants of one at ``url``.
    """
    results = shipped("results") if results is None else results
    if not results.is_dir():
        raise UserError(f"There is no results folder at {results}; name one that kdbench run has written.")
    content = load_content(shipped("site"))
    address = publishing.site_address(url, content.repository) if publish else None
    with replacing(out, results, data) as folder:
        store = Store(results)
        store.tidy()
        catalogue = gather(store, built)
        if address is not None:
            publishing.write(folder, content.title, address, CSP)
        shared = {"site": content, "results_name": results.resolve().name, "built": built}
        with _collecting_rarely():
            count = _write(folder, catalogue, shared)
    problems = [problem.text for problem in catalogue.problems]
    return BuildReport(catalogue.count, count, problems, resolved(out) / "index.html")


def gather(store: Store, built: str = "") -> Catalogue:
    """All that a site ``built`` on a day shows of ``store``.

    The teachers' own trainings are behind their teachers and have no rows.
    """
    found = take_inventory(store)
    problems = list(found.problems)
    literature = Literature((), {})
    wrong: list[str] = []
    try:
        literature = load(wrong=wrong)
        problems += map(Problem, wrong)
    except UserError as error:
        problems.append(Problem(f"The literature is left out: {error}"))
    students = [record for record in found.rows if record["label"] != TEACHER]
    trainings = [record for record in found.records if record["label"] == TEACHER]
    return Catalogue(students, problems, literature, found.count, found.seen, trainings, built)


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """A page leaves little garbage in circles, and to look for it among all that stays takes a tenth of the time."""
    before = gc.get_threshold()
    gc.set_threshold(_ALLOCATIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _write(folder: Path, catalogue: Catalogue, shared: Mapping[str, Any]) -> int:
    shutil.copytree(_HERE / "static", folder / "static")
    shared = {**shared, "catalogue": catalogue, "version": __version__, "csp": CSP}
    names = [MARKER, *(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())]
    folders: set[Path] = set()
    count = 0
    for page in pages.all_pages(catalogue, shared["site"]):
        path = folder / page.path
        if path.parent not in folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            folders.add(path.parent)
        # "x": two pages in one file would be a mistake in the addresses. Lone surrogates of hostile text become "?".
        with path.open("x", encoding="utf-8", errors="replace", newline="\n") as stream:
            stream.write(page.text if isinstance(page, File) else _rendered(page, shared))
        names.append(page.path)
        count += isinstance(page, pages.Page)
    (folder / MARKER).write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")
    return count


@cache
def _templates() -> jinja2.Environment:
    environment = Templates(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(texts.FILTERS)
    environment.globals.update(pages.GLOBALS)
    return environment


def _rendered(page: pages.Page, shared: Mapping[str, Any]) -> str:
    own = {"page": page.path, "root": root_of(page.path), "title": page.title, **page.context}
    return _templates().get_template(page.template).render({**shared, **own})
