"""The index that the header's search looks in, and the page that lists it for those who have no script."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kdbench.render import literature
from kdbench.render.address import method_page, pair_page, study_page, suite_page
from kdbench.render.catalogue import Catalogue
from kdbench.render.studies import StudyView
from kdbench.render.suiteview import SuiteView

#: What an architecture is also called: a prefix of its name -> the other way to begin it.
_SHORT = (
    ("resnet", "r"),
    ("resnet", "rn"),
    ("resnet", "resnet-"),
    ("wrn_", "wrn-"),
    ("wrn_", "wrn"),
    ("wrn_", "wide-resnet-"),
    ("mobilenet", "mn"),
    ("shufflenet", "shuf"),
)
#: The file that search.js reads.
FILE = "static/index.js"


@dataclass(frozen=True)
class Found:
    """A page of the site, or a place on one: what it is called, what kind of thing it is, and other words for it."""

    title: str
    kind: str
    page: str
    words: str = ""
    anchor: str = ""


def found(catalogue: Catalogue, suites: Iterable[SuiteView], studies: Iterable[StudyView]) -> list[Found]:
    """Every page worth looking for, in the order in which equal matches are listed."""
    views = sorted(suites, key=lambda view: view.newer is not None)
    made = [
        Found(
            view.name,
            "superseded suite" if view.newer else "suite",
            suite_page(view.name),
            view.installed.title if view.installed else "",
        )
        for view in views
    ]
    for name in catalogue.methods:
        card = catalogue.cards.get(name)
        paper = (
            "" if card is None or card.paper is None else " ".join(card.paper[f] for f in ("title", "authors", "year"))
        )
        made.append(Found(name, "method", method_page(name), f"{card.title if card else ''} {paper}".strip()))
    for dataset, teacher, student in catalogue.pairs:
        title = f"{teacher} \u2192 {student}" if teacher != "none" else f"{student} alone"
        words = " ".join([dataset, *aliases(teacher), *aliases(student)])
        made.append(Found(f"{title} on {dataset}", "pair", pair_page(dataset, teacher, student), words))
    made += [
        Found(view.study.title, "study", study_page(view.study.name), f"{view.study.name} {view.study.paper.title}")
        for view in studies
    ]
    printing = sorted({row.source for row in catalogue.literature.rows})
    for source in map(catalogue.literature.sources.__getitem__, printing):
        words = f"{source.citation} {source.identifier}"
        made.append(Found(source.source, "source", literature.PAGE, words, f"source-{source.source}"))
    return made


def aliases(name: str) -> list[str]:
    """Other ways to write an architecture: ResNet-34, r34, WRN-40-2."""
    made = [name]
    for prefix, other in _SHORT:
        if name.startswith(prefix):
            made.append(other + name.removeprefix(prefix).replace("_", "-"))
    return list(dict.fromkeys([*made, re.sub(r"[_\s]+", "-", name)]))


def script(entries: Sequence[Found], compared: Iterable[tuple[str, str]]) -> str:
    """The index as a script, which a page may load where it may not fetch: no text can end the script or the string.

    Of the methods that are ``compared`` with one another it has the places among the methods.
    """
    places = [f"{entry.page}#{entry.anchor}" if entry.anchor else entry.page for entry in entries]
    rows = [[entry.title, entry.kind, place, entry.words] for entry, place in zip(entries, places, strict=True)]
    text = json.dumps(rows, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    at = {entry.title: place for place, entry in enumerate(entry for entry in entries if entry.kind == "method")}
    versus = sorted(sorted((at[one], at[other])) for one, other in compared if one in at and other in at)
    both = json.dumps(versus, separators=(",", ":"))
    return f'"use strict";\nconst pages = {text};\nconst versus = {both};\n'
