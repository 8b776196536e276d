"""Method cards as pages show them. One may come from someone else's record: its form is not taken on trust."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kdbench.render.address import https

_LONGEST = 4000
_PAPER = ("title", "authors", "venue", "year", "identifier", "bibtex")


@dataclass(frozen=True)
class Knob:
    name: str
    type: str
    default: str
    range: str
    source: str
    help: str


@dataclass(frozen=True)
class Card:
    """Every field as text; ``paper`` is None for an unpublished method, ``url`` unless it is an https address."""

    name: str
    title: str
    version: str
    family: str
    summary: str
    origin: str
    reconstruction: bool
    needs: tuple[str, ...]
    terms: tuple[tuple[str, str], ...]
    knobs: tuple[Knob, ...]
    pairs: tuple[tuple[str, str], ...]
    pairs_source: str
    presets: tuple[tuple[str, str], ...]
    budget: str
    #: Epochs, times the protocol's, and views of each image together; None for a card that does not say.
    passes: float | None
    paper: Mapping[str, str] | None
    url: str | None
    #: A record of others alone brought it along: it decides nothing of printed numbers.
    contributed: bool = False


def card(name: str, raw: Mapping[str, Any], contributed: bool = False) -> Card:
    """The card ``raw`` (as ``MethodSpec.describe`` gives it) of the method ``name``; odd fields become empty."""
    paper, unpublished = _mapping(raw.get("paper")), raw.get("paper", "") is None
    needs = raw.get("needs")
    return Card(
        name=name,
        contributed=contributed,
        title=_text(raw.get("title")),
        version=_text(raw.get("version")),
        family=_text(raw.get("family")),
        summary=_text(raw.get("summary")),
        origin=_text(raw.get("origin")),
        reconstruction=raw.get("reconstruction") is True,
        needs=tuple(_text(n) for n in needs) if isinstance(needs, list) else (),
        terms=tuple((_text(k), _text(v)) for k, v in _mapping(raw.get("terms")).items()),
        knobs=tuple(_knobs(_mapping(raw.get("hyperparameters")))),
        pairs=tuple((_text(k), _values(_mapping(v))) for k, v in _mapping(raw.get("pairs")).items()),
        pairs_source=_text(raw.get("pairs_source")),
        presets=tuple((_text(k), _values(_mapping(v))) for k, v in _mapping(raw.get("presets")).items()),
        budget=_budget(_mapping(raw.get("budget"))),
        passes=_passes(_mapping(raw.get("budget"))),
        paper=None if unpublished else {field: _text(paper.get(field)) for field in _PAPER},
        url=https(paper.get("url")),
    )


def _budget(raw: Mapping[str, Any]) -> str:
    """What the method costs beyond the protocol, in words; empty for a card that does not say."""
    if not raw:
        return ""
    epochs, views, deployed = (_text(raw.get(field)) for field in ("epochs", "views", "deployed"))
    return f"{epochs} \u00d7 the protocol's epochs, views of each image: {views}, deployed: {deployed}"


def _passes(raw: Mapping[str, Any]) -> float | None:
    epochs, views = raw.get("epochs"), raw.get("views")
    if not isinstance(epochs, int | float) or not isinstance(views, int | float):
        return None
    return float(epochs * views) if 0 < epochs <= 1000 and 0 < views <= 1000 else None


def newest(cards: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The card with the highest version; the first of equals."""
    return max(cards, key=lambda raw: raw["version"] if isinstance(raw.get("version"), int) else -1)


def _knobs(raw: Mapping[str, Any]) -> Iterable[Knob]:
    for name, value in raw.items():
        fields = _mapping(value)
        yield Knob(_text(name), *(_text(fields.get(f)) for f in ("type", "default", "range", "source", "help")))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _values(raw: Mapping[str, Any]) -> str:
    return ", ".join(f"{_text(k)} {_text(v)}" for k, v in raw.items())


def _text(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text[:_LONGEST]
