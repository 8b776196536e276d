"""The network a trial trains or learns from: a body that normalises its own input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.models.adapter import PixelHead, Plan
from kdbench.models.body import Body
from kdbench.models.outputs import PARTS, NetworkSpec, Outputs, Shape, check_parts


class Network(nn.Module):
    """``body`` behind its own normalisation. Published weights load with ``network.body.load_state_dict(weights)``.

    mean, std: one figure a channel, of images in [0,1]; they are non-persistent buffers, so no checkpoint carries them.
    ``plan`` says how to read a body that is not a ``kdbench.models.body.Body``. With an ``input_size`` images are
    resized to squares of that side first, bilinearly, and averaged where they become smaller (antialias).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        plan: Plan | None = None,
        input_size: int = 0,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.body = body
        self.plan = plan
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None], persistent=False)

    @property
    def head(self) -> nn.Module:
        """The classifier: pooled [N,D] to logits [N,K]."""
        if self.plan is None:
            return cast(Body, self.body).head
        head = self.body.get_submodule(self.plan.head)
        return PixelHead(head) if isinstance(head, nn.Conv2d) else head

    @property
    def stage_norms(self) -> tuple[nn.Module, ...]:
        """The batch normalisation that feeds each stage's last ReLU, for OFD; ``()`` where it is not a single layer."""
        if self.plan is None:
            return cast(Body, self.body).stage_norms
        return tuple(self.body.get_submodule(path) for path in self.plan.norms)

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        """Run on images ``x`` [N,C,H,W] in [0,1]; Outputs holds the logits and, of PARTS, those in ``parts``."""
        if self.input_size:
            x = F.interpolate(x, (self.input_size, self.input_size), mode="bilinear", antialias=True)
        x = (x - self.mean).div_(self.std)
        parts = check_parts(parts)
        return self.body(x, parts) if self.plan is None else self.plan.read(self.body, x, parts)

    @torch.no_grad()
    def spec(self, name: str, image_shape: Shape) -> NetworkSpec:
        """The shapes of all parts for images of ``image_shape``; modes, statistics and random state stay as they were.

        A network that makes no maps has no stages, no preacts, and a stem and a pooled map of (0, 0, 0).
        """
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            out = self(
                torch.zeros(1, *image_shape, device=self.mean.device), PARTS if self.plan is None else self.plan.parts
            )
        finally:
            for module, mode in modes.items():
                module.training = mode
        return NetworkSpec(
            name=name,
            classes=out.logits.shape[1],
            stem=(0, 0, 0) if out.stem is None else tuple(out.stem.shape[1:]),
            stages=tuple(tuple(t.shape[1:]) for t in out.stages),
            preacts=tuple(tuple(t.shape[1:]) for t in out.preacts),
            pooled=out.pooled.shape[1],
            pooled_map=(0, 0, 0) if out.pooled_map is None else tuple(out.pooled_map.shape[1:]),
            head=self.head,
            module=self,
        )
