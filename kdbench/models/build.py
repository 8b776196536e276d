"""How a network is built, and what it sees, where that is not as its name says. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Build:
    """``options`` go to timm; ``input_size`` is the side that images are resized to before it sees them, 0 for none."""

    options: Mapping[str, Any] = field(default_factory=dict)
    input_size: int = 0

    def identity(self) -> dict[str, Any]:
        """What a key says of it: nothing of a network that is as it is named."""
        said = {"options": dict(self.options), "input_size": self.input_size}
        return {name: value for name, value in said.items() if value}

    def seen(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape (C, H, W) that an image of ``image_shape`` has when the network sees it."""
        return (image_shape[0], self.input_size, self.input_size) if self.input_size else image_shape


AS_NAMED = Build()
