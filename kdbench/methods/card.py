"""The card half of a method: everything plan, list, records and site read of it. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdbench.errors import UserError, listed, shown

FAMILIES = ("baseline", "logit", "feature", "relation", "optimiser")
NEEDS = frozenset({"teacher", "teacher_head", "stem", "stages", "preacts", "pooled", "pooled_map"})
ROLES = ("task", "distill")
#: Augmentations that a method may see beside the protocol's own (kdbench.train.batches).
VIEWS = ("strong",)
#: Channels of the images that these are made of.
VIEW_CHANNELS = (1, 3)
#: How a student's batch norm sees a view: in a forward pass of its own, or in one pass with the batch.
BATCH_NORMS = ("separate", "joint")
TYPES: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str}

Value = float | int | bool | str


@dataclass(frozen=True)
class Search:
    """Where ``kdbench tune`` draws a knob from: evenly, or evenly in its logarithm. ``source``: why from there."""

    low: float
    high: float
    source: str
    log: bool = False


@dataclass(frozen=True)
class HyperParameter:
    """One knob of a method. ``source`` says where the default was printed; bounds are inclusive unless ``open``.

    ``newer``: it came when the method had records. At its default it is in no configuration, so that keys stay.
    ``search``: the range that it is tuned over, None where it keeps its value.
    """

    name: str
    type: str
    default: Value
    source: str
    help: str = ""
    min: float | None = None
    max: float | None = None
    open: bool = False
    choices: tuple[str, ...] = ()
    newer: bool = False
    search: Search | None = None

    def check(self, value: object, where: str) -> Value:
        """Return ``value`` in this knob's type, or raise UserError naming ``where``, the knob and its range."""
        wanted = TYPES[self.type]
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not wanted or (isinstance(value, float) and not math.isfinite(value)):
            raise UserError(f"{where}: {self.name} must be a {self.type}, not {shown(value)}.")
        if self.choices and value not in self.choices:
            raise UserError(f"{where}: {self.name} must be one of {', '.join(self.choices)}, not {shown(value)}.")
        if isinstance(value, float | int) and not isinstance(value, bool):
            low = self.min is not None and (value <= self.min if self.open else value < self.min)
            high = self.max is not None and (value >= self.max if self.open else value > self.max)
            if low or high:
                raise UserError(f"{where}: {self.name} must lie in {self.range}, not be {shown(value)}.")
        return value  # type: ignore[return-value]

    @property
    def range(self) -> str:
        if self.choices:
            return " | ".join(self.choices)
        left, right = ("(", ")") if self.open else ("[", "]")
        low = "-inf" if self.min is None else f"{self.min:g}"
        high = "inf" if self.max is None else f"{self.max:g}"
        return f"{left}{low}, {high}{right}"


@dataclass(frozen=True)
class Paper:
    title: str
    authors: str
    venue: str
    year: int
    url: str
    identifier: str
    bibtex: str


@dataclass(frozen=True)
class Budget:
    """What a method costs beyond the protocol, so that a gain can be weighed against it.

    ``epochs``: multiple of the protocol's epochs in all; ``views``: augmented views of each image that the student
    sees; ``deployed``: what is scored and shipped, when that is more than the student.
    """

    epochs: float = 1.0
    views: int = 1
    deployed: str = "student"


@dataclass(frozen=True)
class Applicability:
    """Where a method is defined; what does not hold is planned around and shown as "not applicable: reason".

    ``min_batch``: images a batch must have; ``full_batch``: a short last batch is skipped; ``stages``: stages that
    student and teacher need; ``equal_stages``: they need equally many; ``equal_channels``: their stages need equal
    channel counts; ``maps``: stages must be feature maps of more than one pixel; ``weak_labels``: it is defined where
    images have no label, or several, as it reads labels through ``Step.cross_entropy`` alone.
    """

    min_batch: int = 1
    full_batch: bool = False
    stages: int = 0
    equal_stages: bool = False
    equal_channels: bool = False
    maps: bool = False
    weak_labels: bool = False


@dataclass(frozen=True)
class Preset:
    """Hyper-parameters that were published together, and where."""

    values: Mapping[str, Value]
    source: str


@dataclass(frozen=True)
class MethodSpec:
    """A method's card.

    ``paper`` is None for an unpublished method. ``implementation`` is ``module:Class``; ``pairs`` maps a pair name to
    the hyper-parameters printed for it, ``presets`` a name to values published together, and ``compositions`` what is
    printed for this method with others: expression -> pair, or ``*`` for all -> ``part.knob`` -> value. ``views`` maps
    each view it sees beside the protocol's own to how batch norm sees it. ``wraps``: it changes another method.
    ``parts``: the specs that a composition (kdbench.methods.expression) is made of, () for a card.
    """

    name: str
    title: str
    version: int
    family: str
    summary: str
    paper: Paper | None
    implementation: str
    needs: frozenset[str]
    terms: Mapping[str, str]
    hyperparameters: Mapping[str, HyperParameter] = field(default_factory=dict)
    pairs: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    pairs_source: str = ""
    presets: Mapping[str, Preset] = field(default_factory=dict)
    compositions: Mapping[str, Mapping[str, Mapping[str, Value]]] = field(default_factory=dict)
    views: Mapping[str, str] = field(default_factory=dict)
    budget: Budget = Budget()
    applies: Applicability = Applicability()
    reconstruction: bool = False
    wraps: bool = False
    origin: str = "kdbench"
    parts: tuple[MethodSpec, ...] = ()

    @property
    def needs_teacher(self) -> bool:
        return "teacher" in self.needs

    def config(self, pair: str, overrides: Mapping[str, object], where: str) -> dict[str, Value]:
        """The hyper-parameters of one trial.

        Defaults, then the card's values for ``pair``, then the suite's ``overrides``.
        """
        unknown = sorted(set(overrides) - set(self.hyperparameters))
        if unknown:
            raise UserError(
                f"{where}: method {self.name!r} has no hyper-parameter {shown(unknown[0])}; "
                f"it has {listed(list(self.hyperparameters)) or 'none'}."
            )
        chosen: dict[str, object] = {name: knob.default for name, knob in self.hyperparameters.items()}
        chosen.update(self.pairs.get(pair, {}))
        chosen.update(overrides)
        checked = {name: self.hyperparameters[name].check(value, where) for name, value in chosen.items()}
        unsaid = {knob.name for knob in self.hyperparameters.values() if knob.newer}
        return {
            name: value
            for name, value in checked.items()
            if name not in unsaid or value != self.hyperparameters[name].default
        }

    def describe(self) -> dict[str, Any]:
        """The card as plain data, as records copy it."""
        return {
            "name": self.name,
            "title": self.title,
            "version": self.version,
            "family": self.family,
            "summary": self.summary,
            "paper": None if self.paper is None else dict(vars(self.paper)),
            "needs": sorted(self.needs),
            "terms": dict(self.terms),
            "hyperparameters": {
                k.name: {"type": k.type, "default": k.default, "range": k.range, "source": k.source, "help": k.help}
                for k in self.hyperparameters.values()
            },
            "pairs": {pair: dict(values) for pair, values in self.pairs.items()},
            "pairs_source": self.pairs_source,
            "presets": {name: {**preset.values, "source": preset.source} for name, preset in self.presets.items()},
            "views": dict(self.views),
            "budget": dict(vars(self.budget)),
            "applies": dict(vars(self.applies)),
            "reconstruction": self.reconstruction,
            "origin": self.origin,
        }
