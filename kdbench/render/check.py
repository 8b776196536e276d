"""Whether a built site holds together: HTML that browsers need not mend, links and anchors that lead somewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from posixpath import normpath
from urllib.parse import unquote, urlsplit
from xml.etree.ElementTree import Element

from kdbench.errors import UserError, shown

#: Faults that are named of one page; a template's mistake is made hundreds of times.
_MOST = 5


@dataclass(frozen=True)
class Parsed:
    """What of one page can be broken: its faults, the ids in it, and where its links and scripts lead."""

    faults: tuple[str, ...]
    ids: frozenset[str]
    targets: tuple[str, ...]


def check(site: Path) -> list[str]:
    """A sentence for each fault of the site in the folder ``site``; empty where there is none."""
    pages = {path.relative_to(site).as_posix(): _parsed(path) for path in sorted(site.rglob("*.html"))}
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    return [
        f"{name}: {fault}."
        for name, page in pages.items()
        for fault in (*page.faults, *_broken(name, page, pages, files))
    ]


def _parsed(path: Path) -> Parsed:
    try:
        from tinyhtml5.parser import HTMLParser
    except ImportError:
        raise UserError("--check needs an HTML parser: pip install 'kdbench[check]'.") from None
    parser = HTMLParser(namespace_html_elements=False)
    root = parser.parse(path.read_text(encoding="utf-8"))
    faults = [f"line {line}: invalid HTML, {kind}" for (line, _), kind, _ in parser.errors]
    ids = Counter(value for element in root.iter() if (value := element.get("id")) is not None)
    faults += [f"the id {shown(name)} occurs {count} times" for name, count in ids.items() if count > 1]
    targets = dict.fromkeys(target for element in root.iter() for target in _targets(element))
    return Parsed(tuple(faults[:_MOST]), frozenset(ids), tuple(targets))


def _targets(element: Element) -> Iterator[str]:
    yield from (value for name in ("href", "src") if (value := element.get(name)) is not None)
    yield from (f"#{name}" for field in ("for", "aria-labelledby") for name in (element.get(field) or "").split())


def _broken(name: str, page: Parsed, pages: dict[str, Parsed], files: set[str]) -> Iterator[str]:
    for target in page.targets:
        try:
            parts = urlsplit(target)
        except ValueError:
            yield f"the link {shown(target)} is no address"
            continue
        if parts.scheme or parts.netloc:
            continue
        path = normpath(PurePosixPath(name).parent / unquote(parts.path)) if parts.path else name
        fragment = unquote(parts.fragment)
        if path not in files:
            yield f"the link {shown(target)} leads to no file"
        elif fragment and path in pages and fragment not in pages[path].ids:
            yield f"the link {shown(target)} leads to no place on its page"
