"""A teacher as the plan knows it, and the normalisation that belongs to every network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kdbench.protocol import Protocol, protocol_from_json


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation a channel, in [0,1] units; they belong to the network, not to the data."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Teacher:
    """A teacher as the plan knows it: imported weights, or a network with a training of its own.

    Kinds: ``checkpoint``; ``trained``, by cross-entropy; ``self``, an earlier generation of the student, of which the
    first is trained by cross-entropy and each later one by ``method`` under ``parent``, the generation before it.

    ``plugin_sha256`` and ``model_code`` are of the method that trains it and of its architecture, as a Trial has them.
    """

    name: str
    kind: str
    model: str
    normalisation: Normalisation
    seed: int = 0
    protocol: Protocol | None = None
    files: tuple[str, ...] = ()
    url: str = ""
    weights_sha256: str = ""
    claimed_top1: float | None = None
    source: str = ""
    method: str = "ce"
    config: Mapping[str, Any] = field(default_factory=dict)
    plugin_sha256: str | None = None
    model_code: Mapping[str, Any] = field(default_factory=dict)
    parent: Teacher | None = None

    @property
    def lineage(self) -> tuple[Teacher, ...]:
        """The generations up to this teacher, the first one first; a teacher without a parent stands alone."""
        line = [self]
        while line[-1].parent is not None:
            line.append(line[-1].parent)
        return tuple(reversed(line))

    @cached_property
    def recipes(self) -> dict[tuple[str, str], str]:
        """Data set and its digest -> the key of this teacher's training on it, as far as it was asked for."""
        return {}


def normalisation_from_json(raw: Mapping[str, Any]) -> Normalisation:
    return Normalisation(tuple(raw["mean"]), tuple(raw["std"]))


def teacher_from_json(raw: Mapping[str, Any]) -> Teacher:
    values = dict(raw)
    values["normalisation"] = normalisation_from_json(values["normalisation"])
    values["protocol"] = None if values["protocol"] is None else protocol_from_json(values["protocol"])
    values["files"] = tuple(values["files"])
    values["parent"] = None if values["parent"] is None else teacher_from_json(values["parent"])
    return Teacher(**values)
