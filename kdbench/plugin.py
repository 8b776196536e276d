"""What authors of plugins import: the public face of kdbench, listed in docs/plugins.md.

Reading cards and specs needs no torch, so that ``kdbench list`` stays quick; the names that do need it are imported
when they are first asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kdbench.composition import Composition
from kdbench.data import DatasetSpec
from kdbench.data.spec import ClassViews, Part, Source, labels_digest
from kdbench.errors import DataError, UserError
from kdbench.methods import MethodSpec, load_card, parse_card
from kdbench.models import ModelSpec
from kdbench.supervision import NO_LABEL, Lesson, Supervision, Truth

if TYPE_CHECKING:
    from kdbench.methods.base import ApartOptimiser, Method, ParameterGroup, Phase, Step, Sweep, View, full
    from kdbench.methods.compose import Wrapper
    from kdbench.models.composed import Told
    from kdbench.models.outputs import DataSpec, NetworkSpec, Outputs
    from kdbench.protocol import Protocol
    from kdbench.train.conformance import Check

__all__ = [
    "NO_LABEL",
    "ApartOptimiser",
    "ClassViews",
    "Composition",
    "DataError",
    "DataSpec",
    "DatasetSpec",
    "Lesson",
    "Method",
    "MethodSpec",
    "ModelSpec",
    "NetworkSpec",
    "Outputs",
    "ParameterGroup",
    "Part",
    "Phase",
    "Protocol",
    "Source",
    "Step",
    "Supervision",
    "Sweep",
    "Told",
    "Truth",
    "UserError",
    "View",
    "Wrapper",
    "check_method",
    "full",
    "labels_digest",
    "load_card",
    "parse_card",
]

#: Where the names lie that cost an import of torch, or are asked for by few.
_LATER = {
    **dict.fromkeys(
        ("ApartOptimiser", "Method", "ParameterGroup", "Phase", "Step", "Sweep", "View", "full"), "kdbench.methods.base"
    ),
    "Wrapper": "kdbench.methods.compose",
    **dict.fromkeys(("DataSpec", "NetworkSpec", "Outputs"), "kdbench.models.outputs"),
    "Protocol": "kdbench.protocol",
    "Told": "kdbench.models.composed",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'kdbench.plugin' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def check_method(name: str, files: Iterable[str] = ()) -> list[Check]:
    """What ``kdbench check-method`` finds of the method ``name``, for a package's own tests.

    Installed plugins and the plugin ``files`` are loaded first; a wrapper by its name alone is checked around ``kd``.
    Each Check says ``what`` was tried, whether it ``passed``, and in ``detail`` why not.
    """
    from kdbench.plugins import load_plugins
    from kdbench.train import conformance

    load_plugins(files)
    return list(conformance.check_method(name))
