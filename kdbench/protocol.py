"""The protocol: how a network is trained and which epoch is scored. A frozen value; every field is in the trial key."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kdbench.errors import UserError, shown

OPTIMISERS = ("sgd",)
SCHEDULES = ("constant", "multistep", "onecycle", "cosine")
AUGMENTATIONS = ("none", "crop", "crop_flip", "resized_crop_flip")
PRECISIONS = ("float32", "bf16")
COMPILES = ("none", "norms", "default", "reduce-overhead")

#: Whole numbers of a protocol: the least and the most that make sense.
RANGES = {
    "epochs": (1, 100_000),
    "batch": (2, 1_000_000),
    "threads": (1, 1024),
    "pad": (0, 1024),
    "holdout": (0, 2**63 - 1),
    "split_seed": (0, 2**63 - 1),
}

#: Fields that are younger than the first records, with their defaults. Without them the identity is the one of before.
LATER = {"fold": False, "compile": "none"}


@dataclass(frozen=True)
class Protocol:
    """Epochs, batch, optimiser, schedule, augmentation, precision, split and selection.

    ``milestones`` are 1-based last epochs at a rate: with (150, 180, 210) the rate falls from epoch 151 on, as in the
    CRD recipe (Tian et al., arXiv:1910.10699). ``holdout`` images are taken out of the training set as a stratified
    validation split drawn from ``split_seed``; with 0 there is no ``best_val``. ``threads`` is the number inside one
    operation on a CPU: another number gives other bits. ``selection`` is the epoch that ranks; the others are
    recorded beside it. ``fold``: the teacher runs with its batch normalisation folded into its convolutions.
    ``compile``: what of the networks is compiled, by kdbench (``norms``) or by torch. ``precision``: what both compute
    in during the training.
    """

    epochs: int
    batch: int
    lr: float
    optimiser: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "multistep"
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    warm_up: float = 0.3
    augmentation: str = "crop_flip"
    pad: int = 4
    precision: str = "float32"
    threads: int = 1
    holdout: int = 0
    split_seed: int = 0
    selection: str = "last"
    fold: bool = False
    compile: str = "none"

    @property
    def compiled_by_torch(self) -> bool:
        """Whether torch.compile makes both networks' code, anew for each size of a batch."""
        return self.compile not in ("none", "norms")

    def identity(self) -> dict[str, Any]:
        """Every field as plain data, for the key, the record and the page; a LATER one unless it is the default."""
        return dict(self._identity)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        every = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return {name: value for name, value in every.items() if name not in LATER or value != LATER[name]}


def protocol_from_json(raw: Mapping[str, Any]) -> Protocol:
    """The Protocol that ``dataclasses.asdict`` made plain, after a way through JSON."""
    return Protocol(**{**raw, "milestones": tuple(raw["milestones"])})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def parse_protocol(raw: Mapping[str, Any], where: str, base: Protocol | None = None) -> Protocol:
    """A Protocol from a TOML table, on top of ``base`` if given; UserError names ``where`` and the field."""
    if base is not None and not raw:
        return base
    fields = {f.name: f for f in dataclasses.fields(Protocol)}
    for name in raw:
        if name not in fields:
            raise UserError(f"{where}: there is no protocol field {shown(name)}; known are {', '.join(fields)}.")
    values = {} if base is None else {name: getattr(base, name) for name in fields}
    for name, value in raw.items():
        values[name] = _typed(name, str(fields[name].type), value, where)
    missing = [n for n in ("epochs", "batch", "lr") if n not in values]
    if missing:
        raise UserError(f"{where}: the protocol lacks {missing[0]!r}.")
    protocol = Protocol(**values)
    _check(protocol, where)
    return protocol


def _typed(name: str, kind: str, value: Any, where: str) -> Any:
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind == "tuple[int, ...]" and isinstance(value, list) and all(type(v) is int for v in value):
        return tuple(value)
    if kind != type(value).__name__:
        raise UserError(
            f"{where}: {name} must be {kind.replace('tuple[int, ...]', 'a list of int')}, not {shown(value)}."
        )
    if kind == "float" and not math.isfinite(value):
        raise UserError(f"{where}: {name} must be a finite number, not {shown(value)}.")
    return value


def _check(p: Protocol, where: str) -> None:
    for name, allowed in (
        ("optimiser", OPTIMISERS),
        ("schedule", SCHEDULES),
        ("augmentation", AUGMENTATIONS),
        ("precision", PRECISIONS),
        ("compile", COMPILES),
        ("selection", ("last", "best_val")),
    ):
        if getattr(p, name) not in allowed:
            raise UserError(f"{where}: {name} must be one of {', '.join(allowed)}, not {shown(getattr(p, name))}.")
    for name, (low, high) in RANGES.items():
        if not low <= (value := getattr(p, name)) <= high:
            bound = f"least {low}" if value < low else f"most {high:,}"
            raise UserError(f"{where}: {name} must be at {bound}, not {shown(value)}.")
    for name in ("lr", "factor"):
        if getattr(p, name) <= 0:
            raise UserError(f"{where}: {name} must be greater than 0, not {shown(getattr(p, name))}.")
    if not 0 <= p.momentum < 1 or p.weight_decay < 0 or not 0 <= p.warm_up < 1:
        raise UserError(f"{where}: momentum and warm_up must lie in [0, 1) and weight_decay must not be negative.")
    if p.nesterov and p.momentum == 0:
        raise UserError(f"{where}: nesterov needs a momentum greater than 0.")
    if p.schedule == "multistep":
        said = shown(list(p.milestones))
        if list(p.milestones) != sorted(set(p.milestones)):
            raise UserError(f"{where}: milestones must rise, not read {said}.")
        if not all(1 <= epoch <= p.epochs for epoch in p.milestones):
            raise UserError(f"{where}: milestones must be epochs from 1 to {p.epochs}, not read {said}.")
    if p.selection == "best_val" and not p.holdout:
        raise UserError(f"{where}: selection best_val needs a holdout greater than 0.")
