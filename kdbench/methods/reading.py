"""Reading a method card: TOML in, a checked MethodSpec out. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from kdbench.errors import UserError, shown
from kdbench.methods.card import (
    BATCH_NORMS,
    FAMILIES,
    NEEDS,
    ROLES,
    TYPES,
    VIEWS,
    Applicability,
    Budget,
    HyperParameter,
    MethodSpec,
    Paper,
    Preset,
    Search,
)
from kdbench.names import check_name
from kdbench.toml import parse_toml, read_toml

T = TypeVar("T", Budget, Applicability)


def parse_card(text: str, where: str) -> MethodSpec:
    """Read a card from TOML ``text``; UserError names ``where`` and the field that is wrong."""
    return spec_from(parse_toml(text, where), where)


def load_card(path: Path) -> MethodSpec:
    """Read a card from the file ``path``; UserError as for ``parse_card``, and where it cannot be read."""
    return spec_from(read_toml(path), str(path))


def _take(raw: dict[str, Any], name: str, kind: type, where: str, default: Any = ...) -> Any:
    """Take the field ``name`` out of ``raw``; UserError where it is missing or of another type."""
    value = raw.pop(name, default)
    if value is ...:
        raise UserError(f"{where}: the card lacks {name!r}.")
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where}: {name} must be a {kind.__name__}, not {shown(value)}.")
    return value


def _knob(name: str, raw: dict[str, Any], where: str) -> HyperParameter:
    raw = dict(raw)
    kind = _take(raw, "type", str, where)
    if kind not in TYPES:
        raise UserError(f"{where}: type must be one of {', '.join(TYPES)}, not {shown(kind)}.")
    knob = HyperParameter(
        name=name,
        type=kind,
        default=raw.pop("default", None),
        source=_take(raw, "source", str, where),
        help=_take(raw, "help", str, where, ""),
        min=_take(raw, "min", float, where, None) if "min" in raw else None,
        max=_take(raw, "max", float, where, None) if "max" in raw else None,
        open=_take(raw, "open", bool, where, False),
        choices=tuple(_take(raw, "choices", list, where, [])),
        newer=_take(raw, "newer", bool, where, False),
        search=_search(_take(raw, "search", dict, where), f"{where} search") if "search" in raw else None,
    )
    _no_more(raw, where)
    if not all(isinstance(choice, str) for choice in knob.choices) or (knob.choices and kind != "str"):
        raise UserError(f"{where}: choices must be a list of texts, of which a str is one.")
    bounds = [bound for bound in (knob.min, knob.max) if bound is not None]
    if not all(map(isfinite, bounds)) or bounds != sorted(bounds):
        raise UserError(f"{where}: min and max must be finite numbers, and min no greater than max.")
    knob.check(knob.default, where)
    if knob.search is not None:
        _check_search(knob, knob.search, where)
    return knob


def _search(raw: dict[str, Any], where: str) -> Search:
    raw = dict(raw)
    low, high = (_take(raw, name, float, where) for name in ("low", "high"))
    search = Search(low, high, _take(raw, "source", str, where), _take(raw, "log", bool, where, False))
    _no_more(raw, where)
    return search


def _check_search(knob: HyperParameter, search: Search, where: str) -> None:
    if knob.type not in ("float", "int"):
        raise UserError(f"{where}: search is for numbers, and a {knob.type} is none; leave it out.")
    if not (search.low < search.high and (search.low > 0 or not search.log)):
        raise UserError(f"{where}: search needs a low below its high, and above 0 where log is true.")
    for end in (search.low, search.high):
        knob.check(int(end) if knob.type == "int" and end.is_integer() else end, f"{where} search")


def _names(values: list[Any], where: str) -> frozenset[str]:
    if not all(isinstance(value, str) for value in values):
        raise UserError(f"{where} must be a list of names, not {shown(values)}.")
    return frozenset(values)


def _tables(raw: dict[str, Any], where: str) -> dict[str, dict[str, Any]]:
    for name, value in raw.items():
        if not isinstance(value, dict):
            raise UserError(f"{where}: {name} must be a table, not {shown(value)}.")
    return raw


def _paper(raw: dict[str, Any], where: str) -> Paper | None:
    """The paper that a card names; None where it says that there is none."""
    unpublished = _take(raw, "unpublished", bool, where, False)
    if unpublished == ("paper" in raw):
        found = "both" if unpublished else "neither"
        raise UserError(f"{where}: a card has either a [paper] or 'unpublished = true', and this one has {found}.")
    if unpublished:
        return None
    fields, where = dict(_take(raw, "paper", dict, where)), f"{where} [paper]"
    paper = Paper(
        **{k: _take(fields, k, str, where) for k in ("title", "authors", "venue", "url", "bibtex")},
        identifier=_take(fields, "identifier", str, where, ""),
        year=_take(fields, "year", int, where),
    )
    _no_more(fields, where)
    if not paper.url.startswith("https://"):
        raise UserError(f"{where}: url must begin with https://, not {paper.url!r}.")
    return paper


def _presets(raw: dict[str, Any], where: str) -> dict[str, Preset]:
    found = {}
    for name, table in _tables(raw, where).items():
        values = dict(table)
        source = _take(values, "source", str, f"{where[:-1]}.{name}]")
        found[check_name("preset", name, where)] = Preset(values, source)
    return found


def _compositions(raw: dict[str, Any], where: str) -> dict[str, dict[str, dict[str, Any]]]:
    return {name: _tables(pairs, f"{where} {name}") for name, pairs in _tables(raw, where).items()}


def _filled(base: T, raw: dict[str, Any], where: str) -> T:
    """``base``, a dataclass of plain fields, with those that ``raw`` gives."""
    raw = dict(raw)
    values = {name: _take(raw, name, type(default), where, default) for name, default in vars(base).items()}
    _no_more(raw, where)
    return type(base)(**values)


def _no_more(raw: dict[str, Any], where: str) -> None:
    if raw:
        raise UserError(f"{where}: unknown field {shown(sorted(raw)[0])}.")


def spec_from(raw: Mapping[str, Any], where: str) -> MethodSpec:
    """A MethodSpec from a parsed card; every field is checked and an unknown one refused."""
    raw = dict(raw)
    name = check_name("method", raw.pop("name", None), where)
    knobs = {
        check_name("hyper-parameter", k, where): _knob(k, v, f"{where} [hyperparameters.{k}]")
        for k, v in _tables(_take(raw, "hyperparameters", dict, where, {}), f"{where} [hyperparameters]").items()
    }
    spec = MethodSpec(
        name=name,
        title=_take(raw, "title", str, where),
        version=_take(raw, "version", int, where),
        family=_take(raw, "family", str, where),
        summary=_take(raw, "summary", str, where),
        paper=_paper(raw, where),
        implementation=_take(raw, "implementation", str, where),
        needs=_names(_take(raw, "needs", list, where, []), f"{where}: needs"),
        terms=_take(raw, "terms", dict, where, {}),
        hyperparameters=knobs,
        pairs=_tables(_take(raw, "pairs", dict, where, {}), f"{where} [pairs]"),
        pairs_source=_take(raw, "pairs_source", str, where, ""),
        views=_take(raw, "views", dict, where, {}),
        budget=_filled(Budget(), _take(raw, "budget", dict, where, {}), f"{where} [budget]"),
        applies=_filled(Applicability(), _take(raw, "applies", dict, where, {}), f"{where} [applies]"),
        presets=_presets(_take(raw, "presets", dict, where, {}), f"{where} [presets]"),
        compositions=_compositions(_take(raw, "compositions", dict, where, {}), f"{where} [compositions]"),
        reconstruction=_take(raw, "reconstruction", bool, where, False),
        wraps=_take(raw, "wraps", bool, where, False),
        origin=_take(raw, "origin", str, where, "kdbench"),
    )
    _no_more(raw, where)
    _check(spec, where)
    return spec


def _check(spec: MethodSpec, where: str) -> None:
    """What no single field shows: names that must be known, and fields that must agree."""
    if spec.version < 1:
        raise UserError(f"{where}: version counts from 1, not {spec.version}.")
    if spec.family not in FAMILIES:
        raise UserError(f"{where}: family must be one of {', '.join(FAMILIES)}, not {shown(spec.family)}.")
    if spec.needs - NEEDS:
        raise UserError(f"{where}: needs may list {', '.join(sorted(NEEDS))}, not {sorted(spec.needs - NEEDS)[0]!r}.")
    if "teacher_head" in spec.needs and not spec.needs_teacher:
        raise UserError(f'{where}: needs "teacher_head" without "teacher".')
    if not (spec.terms or spec.wraps) or any(role not in ROLES for role in spec.terms.values()):
        raise UserError(f"{where}: terms must map each loss term to {' or '.join(ROLES)}.")
    if set(spec.views) - set(VIEWS) or any(norm not in BATCH_NORMS for norm in spec.views.values()):
        raise UserError(f"{where}: views must map {', '.join(VIEWS)} to {' or '.join(BATCH_NORMS)}.")
    if spec.views and spec.budget.views != 1 + len(spec.views):
        raise UserError(f"{where} [budget]: views must be {1 + len(spec.views)}, the batch and those under 'views'.")
    budget, applies = spec.budget, spec.applies
    if not (0 < budget.epochs <= 1000 and 1 <= budget.views <= 1000 and budget.deployed):
        raise UserError(f"{where} [budget]: epochs and views must lie in (0, 1000], and deployed must say what is.")
    if min(applies.min_batch - 1, applies.stages) < 0:
        raise UserError(f"{where} [applies]: min_batch must be at least 1 and stages at least 0.")
    if spec.implementation.count(":") != 1:
        raise UserError(f"{where}: implementation must read 'module:Class', not {shown(spec.implementation)}.")
    if spec.pairs and not spec.pairs_source:
        raise UserError(f"{where}: per-pair values need a pairs_source that says where they were printed.")
    for name, preset in spec.presets.items():
        spec.config("", preset.values, f"{where} [presets.{name}]")
    for pair, values in spec.pairs.items():
        unknown = sorted(set(values) - set(spec.hyperparameters))
        if unknown:
            raise UserError(f"{where} [pairs.{pair}]: no hyper-parameter {shown(unknown[0])}.")
        spec.config(pair, {}, f"{where} [pairs.{pair}]")
