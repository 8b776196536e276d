"""What a native architecture is: a body that returns Outputs and computes no more than it was asked for."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.models.norms import normalised
from kdbench.models.outputs import Outputs


class Body(nn.Module):
    """Base of the native architectures: subclasses define ``forward(x, parts) -> Outputs`` on normalised images.

    x is [N,C,H,W]; ``head_name`` is the path of the classifier, which maps pooled vectors [N,D] to logits [N,K].
    """

    head_name = "fc"

    @property
    def head(self) -> nn.Module:
        return self.get_submodule(self.head_name)

    @property
    def stage_norms(self) -> tuple[nn.Module, ...]:
        """The batch normalisation that feeds each stage's last ReLU, for OFD; ``()`` where it is not a single layer."""
        return ()


class Taps:
    """Collects the parts asked for while a body runs; ReLUs are in place wherever no part can see the difference."""

    def __init__(self, parts: frozenset[str]) -> None:
        self.parts = parts
        self.stem: Tensor | None = None
        self.stages: list[Tensor] = []
        self.preacts: list[Tensor] = []

    def at_stem(self, x: Tensor) -> Tensor:
        """Note the stem's map ``x``, after its activation."""
        if "stem" in self.parts:
            self.stem = x
        return x

    def relu_stage(self, make: Callable[[bool], Tensor]) -> Tensor:
        """The map of a stage, from ``make(True)`` with its last ReLU and ``make(False)`` without.

        What was asked of both sides is noted.
        """
        if "preacts" in self.parts:
            preact = make(False)
            self.preacts.append(preact)
            x = F.relu(preact)
        else:
            x = make(True)
        if "stages" in self.parts:
            self.stages.append(x)
        return x

    def linear_stage(self, x: Tensor) -> Tensor:
        """Note a stage that ends without an activation: one map serves as both sides of the ReLU it lacks."""
        if "preacts" in self.parts:
            self.preacts.append(x)
        if "stages" in self.parts:
            self.stages.append(x)
        return x

    def outputs(self, maps: Tensor, head: nn.Module) -> Outputs:
        """Pool the last map and classify what comes out; the parts noted so far, and of these two what was asked."""
        pooled = average(maps)
        return Outputs(
            head(pooled),
            self.stem,
            tuple(self.stages),
            tuple(self.preacts),
            pooled if "pooled" in self.parts else None,
            maps if "pooled_map" in self.parts else None,
        )


def through(layers: nn.Sequential, x: Tensor, skip: Tensor | None = None, relu: bool = True) -> Tensor:
    """``x`` through ``layers``: convolutions, each with its normalisation and, but for the last, a ReLU after it.

    The last one's normalisation is followed by the sum with ``skip`` and by a ReLU, if asked for.
    """
    parts = [layer for layer in layers if not isinstance(layer, nn.ReLU)]
    *inner, (last, its_norm) = zip(parts[::2], parts[1::2], strict=True)
    for conv, norm in inner:
        x = normalised(norm, conv(x))
    return normalised(its_norm, last(x), skip, relu)


def average(x: Tensor) -> Tensor:
    """Global average pooling, [N,C,H,W] to [N,C], in either memory format."""
    return x.mean((2, 3))


def init_fan_out(body: Body, head_std: float | None = None) -> None:
    """He's normal initialisation of the convolutions by fan-out (arXiv:1502.01852), the rest as torch leaves it.

    The standard deviation is sqrt(2 / (k * k * output channels)), also for grouped convolutions, as the KD repositories
    compute it; biases of convolutions become 0. With ``head_std`` the classifier, too, is drawn from a normal
    distribution and its bias is 0.
    """
    for part in body.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear) and head_std is not None:
            nn.init.normal_(part.weight, std=head_std)
            nn.init.zeros_(part.bias)
