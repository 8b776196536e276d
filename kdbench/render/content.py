"""The site's own words: ``site.toml`` and the Markdown pages beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup

from kdbench.errors import UserError, reason
from kdbench.names import check_name
from kdbench.render.address import https
from kdbench.toml import read_toml

#: Pages that every site has, and that a Markdown file cannot be.
RESERVED = frozenset({"404", "changes", "choose", "compare", "find", "literature", "methods", "pairs", "teachers"})
_FIELDS = ("title", "subtitle", "repository")


@dataclass(frozen=True)
class Page:
    """One Markdown page: its file name without suffix, its first heading, and its safe HTML."""

    name: str
    title: str
    html: Markup


@dataclass(frozen=True)
class Content:
    """``pages`` are sorted by name; the one called ``index`` opens the first page of the site."""

    title: str
    subtitle: str
    repository: str | None
    pages: tuple[Page, ...]

    @property
    def introduction(self) -> Markup:
        return next((page.html for page in self.pages if page.name == "index"), Markup(""))


def load_content(folder: Path) -> Content:
    """Read ``folder``; UserError names the file and what is wrong with it."""
    path = folder / "site.toml"
    raw = read_toml(path)
    for name in _FIELDS:
        if not isinstance(raw.get(name), str):
            raise UserError(f"{path}: {name} must be a text.")
    unknown = sorted(set(raw) - set(_FIELDS))
    if unknown:
        raise UserError(f"{path}: unknown field {unknown[0]!r}; known are {', '.join(_FIELDS)}.")
    if raw["repository"] and https(raw["repository"]) is None:
        raise UserError(f"{path}: repository must begin with https://, not read {raw['repository']!r}.")
    return Content(raw["title"], raw["subtitle"], raw["repository"] or None, tuple(_pages(folder / "content")))


def _pages(folder: Path) -> list[Page]:
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    pages = []
    for path in sorted(folder.glob("*.md")):
        name = check_name("page", path.stem, str(path))
        if name in RESERVED:
            raise UserError(f"{path}: the site has a page {name} of its own; rename the file.")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read: {reason(error)}.") from None
        tokens = markdown.parse(text)
        headings = (text.content for token, text in pairwise(tokens) if token.type == "heading_open")
        html = markdown.renderer.render(tokens, markdown.options, {})
        html = html.replace("<pre>", '<pre tabindex="0">')  # it scrolls where a line is long, by the keyboard, too
        pages.append(Page(name, next(headings, name), Markup(html)))
    return pages


def outline(protocol: Mapping[str, object]) -> str:
    """One line that says what a protocol is, from the fields that matter most when two numbers are compared."""
    parts = [
        form.format(protocol[name])
        for name, form in (
            ("epochs", "{} epoch" if protocol.get("epochs") == 1 else "{} epochs"),
            ("batch", "batch {}"),
            ("optimiser", "{}"),
            ("lr", "rate {}"),
            ("schedule", "{} schedule"),
            ("augmentation", "augmentation {}"),
            ("holdout", "{} images held out"),
        )
        if isinstance(protocol.get(name), str | int | float) and protocol[name] != 0
    ]
    return ", ".join(parts) or "protocol not stated"
