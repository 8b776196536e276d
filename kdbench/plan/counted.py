"""The arithmetic of networks that no table has, counted once and remembered. Imports no torch until it has to count."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from pathlib import Path

from kdbench.canonical import digest, plain
from kdbench.distributions import find
from kdbench.folders import write_atomically
from kdbench.models import get_spec
from kdbench.models.build import AS_NAMED, Build
from kdbench.models.catalogue import LIBRARIES
from kdbench.models.facts import UNKNOWN_MFLOPS
from kdbench.models.spec import ModelSpec
from kdbench.plugins import planned
from kdbench.trials.origins import foreign_model

Shape = tuple[int, int, int]


def counted_mflops(folder: Path, model: str, shape: Shape, classes: int, build: Build = AS_NAMED) -> float:
    """MFLOP of a forward pass of ``model``, as ``build`` has it, on one image of ``shape``.

    ``folder``: where counts are remembered.

    UNKNOWN_MFLOPS where it cannot be built: its trials will say why.
    """
    return _counted(folder, *_named(model, shape, classes, build))[0]


def counted_parameters(folder: Path, model: str, shape: Shape, classes: int) -> int:
    """The parameters of ``model``, counted with its arithmetic; 0 where it cannot be built."""
    return _counted(folder, *_named(model, shape, classes, AS_NAMED))[1]


def _named(model: str, shape: Shape, classes: int, build: Build) -> tuple[str, str, Shape, int, str]:
    spec, said = get_spec(model), build.identity()
    what = [plain(spec), _code(model, spec), shape, classes, *([said] if said else [])]
    return model, digest(what)[:20], shape, classes, json.dumps(said)


@cache
def _counted(folder: Path, model: str, name: str, shape: Shape, classes: int, build: str) -> tuple[float, int]:
    place = folder / f"counts-{name}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(place.read_text(encoding="utf-8"))
        return float(known["mflops"]), int(known["parameters"])
    from kdbench.measure.cost import counted

    found = counted(model, shape, classes, Build(**json.loads(build)))
    if found is None:
        return UNKNOWN_MFLOPS, 0
    flops, parameters = found
    with suppress(OSError):  # it is counted again
        said = {"model": model, "mflops": flops / 1e6, "parameters": parameters}
        write_atomically(place, json.dumps(said).encode())
    return flops / 1e6, parameters


def _code(model: str, spec: ModelSpec) -> list[str]:
    """What a count depends on beside the spec: whose code it is, and which."""
    library = find(spec.family) if spec.family in LIBRARIES else None
    return [*(plugin.sha256 for plugin in planned(foreign_model(model))), "" if library is None else library.version]
