"""Student and teacher architectures. Importing this package reads the catalogue only; ``factory`` imports torch."""

from __future__ import annotations

from kdbench.models.catalogue import BUILTIN, library_spec
from kdbench.models.spec import ModelSpec
from kdbench.registry import Registry

__all__ = ["MODELS", "ModelSpec", "get_spec"]

MODELS: Registry[ModelSpec] = Registry(
    "model", "a network of timm or torchvision is called timm/NAME or torchvision/NAME"
)

for _spec in BUILTIN:
    MODELS.add(_spec.name, _spec, "kdbench")


def get_spec(name: str) -> ModelSpec:
    """The spec of a registered name, or of ``timm/<name>`` and ``torchvision/<name>``; raises UnknownName."""
    return library_spec(name) or MODELS.get(name)
