"""How methods are written together.

``kd@t1`` is a preset, ``wttm+crd`` a sum, ``lskd(dkd)`` a wrapper around another. No torch.

One written form serves the command line, suites, records and page addresses:

    sum  = part {"+" part}
    part = name ["@" preset] | name "(" sum ")"

What it may ask for is limited where it is read, before anything is looked up: LONGEST_WRITTEN characters, MOST_PARTS
names, DEEPEST wrappers in one another.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from kdbench.errors import UserError, shown
from kdbench.methods.card import Applicability, Budget, MethodSpec, Value
from kdbench.names import LONGEST_WRITTEN, OPERATORS

_TOKEN = re.compile(r"[A-Za-z0-9_.-]+|[+@()]")
MOST_PARTS, DEEPEST = 64, 8


@dataclass(frozen=True)
class Part:
    """A method by name: plain, with a preset, or wrapped around ``inner``."""

    name: str
    preset: str = ""
    inner: tuple[Part, ...] = ()

    def __str__(self) -> str:
        if self.inner:
            return f"{self.name}({'+'.join(map(str, self.inner))})"
        return f"{self.name}@{self.preset}" if self.preset else self.name


def is_expression(text: str) -> bool:
    """Whether ``text`` is more than a method's name."""
    return bool(OPERATORS & set(text))


def parse(text: str) -> tuple[Part, ...]:
    """The parts of a sum; UserError where ``text`` is not written as above."""
    if len(text) > LONGEST_WRITTEN:
        raise UserError(f"{shown(text)} is too long: a method is written in at most {LONGEST_WRITTEN} characters.")
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text or not tokens:
        raise _malformed(text)
    if 1 + tokens.count("+") + tokens.count("(") > MOST_PARTS:
        raise UserError(f"{shown(text)} has too many parts: at most {MOST_PARTS} methods can be written together.")
    if max(accumulate((token == "(") - (token == ")") for token in tokens)) > DEEPEST:
        raise UserError(f"{shown(text)} is too deep: at most {DEEPEST} wrappers can stand around one another.")
    parts, rest = _sum(text, tokens)
    if rest:
        raise _malformed(text)
    return parts


def _malformed(text: str) -> UserError:
    return UserError(f"{shown(text)} is no method: write a name, name@preset, a+b for a sum, or wrapper(name).")


def _sum(text: str, tokens: list[str]) -> tuple[tuple[Part, ...], list[str]]:
    parts = []
    while True:
        part, tokens = _part(text, tokens)
        parts.append(part)
        if not tokens or tokens[0] != "+":
            return tuple(parts), tokens
        tokens = tokens[1:]


def _part(text: str, tokens: list[str]) -> tuple[Part, list[str]]:
    if not tokens or tokens[0] in OPERATORS:
        raise _malformed(text)
    name, tokens = tokens[0], tokens[1:]
    if tokens[:1] == ["@"]:
        if len(tokens) < 2 or tokens[1] in OPERATORS:
            raise _malformed(text)
        return Part(name, preset=tokens[1]), tokens[2:]
    if tokens[:1] == ["("]:
        inner, tokens = _sum(text, tokens[1:])
        if tokens[:1] != [")"]:
            raise _malformed(text)
        return Part(name, inner=inner), tokens[1:]
    return Part(name), tokens


def resolve(text: str, lookup: Callable[[str], MethodSpec]) -> tuple[MethodSpec, dict[str, Value]]:
    """The spec that ``text`` stands for, and what its presets fix. ``lookup`` finds a registered method by name."""
    return _resolve_sum(parse(text), lookup)


def _resolve_sum(parts: tuple[Part, ...], lookup: Callable[[str], MethodSpec]) -> tuple[MethodSpec, dict[str, Value]]:
    resolved = [_resolve_part(part, lookup) for part in parts]
    if len(resolved) == 1:
        return resolved[0]
    specs = [spec for spec, _ in resolved]
    fixed = {f"{spec.name}.{knob}": value for spec, values in resolved for knob, value in values.items()}
    for spec in specs:
        _no_optimiser(spec)
        if not any(role == "distill" for role in spec.terms.values()):
            raise UserError(f"{spec.name!r} has no distillation loss, so it adds nothing to a sum.")
    if sum(spec.budget.deployed != "student" for spec in specs) > 1:
        names = "+".join(spec.name for spec in specs)
        raise UserError(f"{names!r} sums methods that each deploy a network of their own; only one of them can.")
    return _composed("+".join(spec.name for spec in specs), specs, "kdbench.methods.compose:Sum"), fixed


def _resolve_part(part: Part, lookup: Callable[[str], MethodSpec]) -> tuple[MethodSpec, dict[str, Value]]:
    spec = lookup(part.name)
    if part.preset:
        if part.preset not in spec.presets:
            known = ", ".join(spec.presets) or "none"
            raise UserError(f"method {spec.name!r} has no preset {part.preset!r}; it has {known}.")
        return spec, dict(spec.presets[part.preset].values)
    if not part.inner:
        if spec.wraps:
            raise UserError(f"{spec.name!r} changes another method: write {spec.name}(kd), say.")
        return spec, {}
    if not spec.wraps:
        raise UserError(f"{spec.name!r} cannot be put around another method.")
    inner, fixed = _resolve_sum(part.inner, lookup)
    _no_optimiser(inner)
    whole = _composed(f"{spec.name}({inner.name})", [spec, inner], spec.implementation)
    return whole, {f"{inner.name}.{knob}": value for knob, value in fixed.items()}


def _no_optimiser(part: MethodSpec) -> None:
    """UserError when ``part``, which is not the whole, brings an optimiser: there is one a training."""
    if part.family == "optimiser":
        raise UserError(
            f"{part.name!r} makes the optimiser, so it must stand around all the rest: dot(kd+fitnet), say."
        )


def _composed(name: str, specs: list[MethodSpec], implementation: str) -> MethodSpec:
    """The card of a composition: what its parts need, ask and cost, under knobs named ``part.knob``."""
    if len({spec.name for spec in specs}) < len(specs):
        raise UserError(f"{name!r} names one method twice.")
    first = specs[0]
    printed = dict(first.compositions.get(name, {}))
    defaults = printed.pop("*", {})
    knobs = {
        f"{spec.name}.{knob.name}": replace(knob, name=f"{spec.name}.{knob.name}")
        for spec in specs
        for knob in spec.hyperparameters.values()
    }
    unknown = sorted({knob for values in (defaults, *printed.values()) for knob in values} - knobs.keys())
    if unknown:
        raise UserError(
            f"{name!r} has no hyper-parameter {shown(unknown[0])}, but the card of {first.name!r} gives it."
        )
    knobs.update(
        {
            name: replace(knobs[name], default=value, newer=False, source=first.pairs_source)
            for name, value in defaults.items()
        }
    )
    pairs: dict[str, dict[str, Value]] = {}
    for spec in specs:
        for pair, values in spec.pairs.items():
            pairs.setdefault(pair, {}).update({f"{spec.name}.{knob}": value for knob, value in values.items()})
    # What is printed for the composition comes before what its parts print for a pair, "for every pair" too.
    for values in pairs.values():
        values.update(defaults)
    for pair, values in printed.items():
        pairs.setdefault(pair, {}).update(values)
    return MethodSpec(
        name=name,
        title=" + ".join(spec.title for spec in specs),
        version=sum(spec.version * 100**position for position, spec in enumerate(specs)),
        family=first.family,
        summary=" ".join(spec.summary for spec in specs),
        paper=first.paper,
        implementation=implementation,
        needs=frozenset[str]().union(*(spec.needs for spec in specs)),
        terms=dict(term for names in sum_terms(specs) for term in names.values()),
        hyperparameters=knobs,
        pairs=pairs,
        pairs_source="; ".join(dict.fromkeys(spec.pairs_source for spec in specs if spec.pairs_source)),
        views=_views(name, specs),
        budget=_budget(specs),
        applies=_applies(specs),
        reconstruction=any(spec.reconstruction for spec in specs),
        origin=", ".join(dict.fromkeys(spec.origin for spec in specs)),
        parts=tuple(specs),
    )


def sum_terms(specs: Sequence[MethodSpec]) -> list[dict[str, tuple[str, str]]]:
    """For each part: term -> (its name in the sum, its role).

    Plain cross-entropy and other task terms count once, from the first part that has any.
    """
    task_from = next((n for n, spec in enumerate(specs) if "task" in spec.terms.values()), 0)
    count = Counter(term for spec in specs for term in spec.terms)
    return [
        {
            term: (f"{spec.name}.{term}" if count[term] > 1 and role == "distill" else term, role)
            for term, role in spec.terms.items()
            if role == "distill" or position == task_from
        }
        for position, spec in enumerate(specs)
    ]


def _views(name: str, specs: Sequence[MethodSpec]) -> dict[str, str]:
    """The views of all parts; UserError where they want one under different batch norms."""
    views: dict[str, str] = {}
    for spec in specs:
        for view, norm in spec.views.items():
            if views.setdefault(view, norm) != norm:
                raise UserError(f"{name!r}: its parts differ in how batch norm sees the view {view!r}.")
    return views


def _budget(specs: Sequence[MethodSpec]) -> Budget:
    deployed = [spec.budget.deployed for spec in specs if spec.budget.deployed != "student"]
    return Budget(
        epochs=1 + sum(spec.budget.epochs - 1 for spec in specs),
        views=max(spec.budget.views for spec in specs),
        deployed="; ".join(deployed) or "student",
    )


def _applies(specs: Sequence[MethodSpec]) -> Applicability:
    """Everything that any of the parts asks."""
    return Applicability(
        min_batch=max(spec.applies.min_batch for spec in specs),
        full_batch=any(spec.applies.full_batch for spec in specs),
        stages=max(spec.applies.stages for spec in specs),
        equal_stages=any(spec.applies.equal_stages for spec in specs),
        equal_channels=any(spec.applies.equal_channels for spec in specs),
        maps=any(spec.applies.maps for spec in specs),
        weak_labels=all(spec.applies.weak_labels for spec in specs),
    )
