"""What to cite: the papers of the methods that rows are of, and kdbench."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kdbench import __version__
from kdbench.methods import METHODS, leaves
from kdbench.render.cards import Card
from kdbench.render.catalogue import Catalogue

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
    """The entry that a record's card brought along."""
    if card.paper and card.paper["bibtex"].strip():
        yield card.paper["bibtex"].strip()
