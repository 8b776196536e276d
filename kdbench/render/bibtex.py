"""What to cite: the papers of the methods that rows are of, and kdbench."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache

from kdbench import __version__
from kdbench.methods import METHODS, leaves
from kdbench.render.cards import Card
from kdbench.render.catalogue import Catalogue

#: How an entry begins: its kind and its key.
_HEAD = re.compile(r"@([A-Za-z]+)\s*\{\s*([^\s,{}@%\"#'()=~\\]+)\s*,")
_NO_ENTRY = frozenset({"preamble", "string", "comment"})
#: What TeX obeys: a command, or an escaped letter; and those that names and titles are written with.
_COMMAND = re.compile(r"\\([A-Za-z]+|.|$)", re.DOTALL)
_COMMANDS = frozenset("\"'`^~=.&%_$#{}- bcdHijklortuv".replace(" ", "")) | {
    *("aa", "AA", "ae", "AE", "oe", "OE", "ss", "o", "O", "L", "emph", "textit", "textbf", "url", "textsc"),
}

OWN = f"""@software{{kdbench,
  author  = {{{{The kdbench authors}}}},
  title   = {{kdbench: a benchmark suite and leaderboard generator for knowledge distillation}},
  version = {{{__version__}}},
}}"""


def bibtex(catalogue: Catalogue, methods: Iterable[str]) -> str:
    """The entries of ``methods``, each once, and of kdbench; a composition has those of what it is made of."""
    entries = {OWN: None} | {entry: None for method in sorted(set(methods)) for entry in _of(catalogue, method)}
    return "\n\n".join([*entries, ""])


def _of(catalogue: Catalogue, method: str) -> Iterator[str]:
    if method in METHODS:
        papers = (leaf.paper for leaf in leaves(METHODS.get(method)))
        yield from (paper.bibtex.strip() for paper in papers if paper is not None)
    elif (card := catalogue.cards.get(method)) is not None:
        yield from _brought(card)


def _brought(card: Card) -> Iterator[str]:
    """The entry that a record's card brought along: one that is no sound entry would spoil those after it."""
    entry = card.paper["bibtex"].strip() if card.paper else ""
    if entry and is_entry(entry):
        yield entry
    elif entry:
        name = card.name if card.name.isprintable() else ascii(card.name)
        yield f"% Left out: what a record of {name} brought along is not one entry of BibTeX."


def is_entry(text: str) -> bool:
    """Whether ``text`` is one entry with a key that is none of ours, balanced, and without commands that TeX obeys."""
    head = _HEAD.match(text)
    if head is None or head[1].lower() in _NO_ENTRY or head[2] in _our_keys():
        return False
    if not text.replace("\n", "").replace("\t", "").isprintable() or not set(_COMMAND.findall(text)) <= _COMMANDS:
        return False
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0 and letter == "}":
            return place == len(text) - 1
    return False


@cache
def _our_keys() -> frozenset[str]:
    papers = (METHODS.get(name).paper for name in METHODS)
    heads = [_HEAD.match(entry) for entry in (OWN, *(paper.bibtex.strip() for paper in papers if paper is not None))]
    return frozenset(head[2] for head in heads if head is not None)
