"""How a network is built, and what it sees, where that is not as its name says. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Options of timm that are kdbench's to say, or by which it would fetch or read weights that nobody has looked at.
KEPT = {"num_classes", "in_chans", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"} | {
    "cache_dir",
    "features_only",
    "scriptable",
    "exportable",
}

#: The longest side that images are resized to.
LARGEST = 4096


@dataclass(frozen=True)
class Build:
    """``options`` go to timm; ``input_size`` is the side that images are resized to before it sees them, 0 for none.

    ValueError where the options hold one of KEPT, or the side is above LARGEST: what a file says of itself may be other
    people's.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    input_size: int = 0

    def __post_init__(self) -> None:
        if kept := sorted(KEPT & set(self.options)):
            raise ValueError(f"options cannot hold {kept[0]!r}")
        if not 0 <= self.input_size <= LARGEST:
            raise ValueError(f"input_size must be at most {LARGEST}, not {self.input_size}")

    def identity(self) -> dict[str, Any]:
        """What a key says of it: nothing of a network that is as it is named."""
        said = {"options": dict(self.options), "input_size": self.input_size}
        return {name: value for name, value in said.items() if value}

    def seen(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape (C, H, W) that an image of ``image_shape`` has when the network sees it."""
        return (image_shape[0], self.input_size, self.input_size) if self.input_size else image_shape


AS_NAMED = Build()
