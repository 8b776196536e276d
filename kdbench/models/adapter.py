"""Any image classifier of timm or torchvision, unedited, as a body whose parts are read through forward hooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdbench.errors import NotApplicable, UnknownName, UserError, described, shown
from kdbench.models.outputs import PARTS, Outputs, Shape


def timm_model(classes: int, image_shape: Shape, name: str, **options: Any) -> nn.Module:
    """timm's ``name`` with fresh weights, an input of ``image_shape[0]`` channels and ``classes`` outputs.

    UserError where it takes no such ``options``.
    """
    import timm

    check_library("timm", name)
    try:
        return timm.create_model(name, pretrained=False, num_classes=classes, in_chans=image_shape[0], **options)
    except Exception as error:  # whatever timm makes of other people's values
        if not options:
            raise
        raise UserError(f"timm/{name} cannot be built with the options {shown(options)}: {described(error)}.") from None


def torchvision_model(classes: int, image_shape: Shape, name: str) -> nn.Module:
    """torchvision's classifier ``name`` with fresh weights and ``classes`` outputs; without auxiliary heads."""
    import torchvision

    check_library("torchvision", name)
    if image_shape[0] != 3:
        raise UserError(
            f"torchvision/{name} reads images of 3 channels, not {image_shape[0]}; take the timm/ model instead."
        )
    plain = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=classes, **plain)


def check_library(library: str, name: str) -> None:
    """UnknownName unless ``library``, timm or torchvision, has a classifier called ``name``."""
    if library == "timm":
        import timm

        known = () if timm.is_model(name) else timm.list_models()
    else:
        import torchvision

        known = torchvision.models.list_models(module=torchvision.models)
        known = () if name in known else known
    if known:
        raise UnknownName(f"{library} model", name, known)


@dataclass(frozen=True)
class Tap:
    """A tensor to catch: what goes ``into``, or else comes out of, call number ``call`` (from 0) of ``module``.

    ``clone`` where the model overwrites that tensor later on. ``layout`` says how it becomes a map [N,C,H,W]: "nchw";
    "nhwc"; "tokens" [N,T,C], the first ``prefix`` of which are not patches and the rest ``rows`` of patches; or
    "vector", for [N,D] or [N,D,1,1].
    """

    module: str
    call: int
    into: bool = False
    clone: bool = False
    layout: str = "nchw"
    prefix: int = 0
    rows: int = 0

    def shape(self, caught: Tensor) -> Tensor:
        if self.layout == "nhwc":
            return caught.permute(0, 3, 1, 2)
        if self.layout == "tokens":
            patches = caught[:, self.prefix :].transpose(1, 2)
            return patches.unflatten(2, (self.rows, -1))
        return caught.flatten(1) if self.layout == "vector" else caught


@dataclass(frozen=True)
class Plan:
    """Where a model's parts are found; ``norms``: the batch normalisations that feed the stages' last ReLUs."""

    name: str
    head: str
    pooled: Tap
    pooled_map: Tap | None
    stem: Tap | None
    stages: tuple[Tap, ...]
    preacts: tuple[Tap, ...]
    norms: tuple[str, ...]

    @property
    def parts(self) -> frozenset[str]:
        """The parts this model has."""
        return frozenset(part for part in PARTS if getattr(self, part))

    def read(self, body: nn.Module, x: Tensor, parts: frozenset[str]) -> Outputs:
        """Run ``body`` on normalised images ``x`` with hooks on no more submodules than ``parts`` need.

        NotApplicable where the model makes no maps and ``parts`` ask for some; a pooled map is absent instead.
        """
        missing = sorted(parts - self.parts - {"pooled_map"})
        if missing:
            raise NotApplicable(
                f"model {self.name!r} has no {missing[0]}: it makes no maps; choose a method that does not need them."
            )
        wanted = [self.pooled] if "pooled" in parts else []
        wanted += [self.pooled_map] if self.pooled_map and "pooled_map" in parts else []
        wanted += [self.stem] if self.stem and "stem" in parts else []
        wanted += self.stages if "stages" in parts else ()
        wanted += self.preacts if "preacts" in parts else ()
        caught: dict[Tap, Tensor] = {}
        handles = []
        try:
            for path in {tap.module for tap in wanted}:
                before, after = _hooks([tap for tap in wanted if tap.module == path], caught)
                module = body.get_submodule(path)
                handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
            logits = body(x)
        finally:
            for handle in handles:
                handle.remove()
        return Outputs(
            logits,
            caught[self.stem] if self.stem and "stem" in parts else None,
            tuple(caught[tap] for tap in self.stages) if "stages" in parts else (),
            tuple(caught[tap] for tap in self.preacts) if "preacts" in parts else (),
            caught[self.pooled] if "pooled" in parts else None,
            caught[self.pooled_map] if self.pooled_map and "pooled_map" in parts else None,
        )


def _hooks(taps: list[Tap], caught: dict[Tap, Tensor]) -> tuple[Callable[..., None], Callable[..., None]]:
    """A pre-hook and a hook for one submodule that put what ``taps`` want of it into ``caught``."""
    calls: Counter[str] = Counter()

    def keep(side: str, tensor: Tensor) -> None:
        for tap in taps:
            if tap.into == (side == "into") and tap.call == calls[side]:
                caught[tap] = tap.shape(tensor.clone() if tap.clone else tensor)
        calls[side] += 1

    return lambda module, args: keep("into", args[0]), lambda module, args, output: keep("out", output)


class PixelHead(nn.Module):
    """A classifier that is a 1x1 convolution, for pooled vectors [N,D]; shares the convolution's parameters."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, pooled: Tensor) -> Tensor:
        return self.conv(pooled[:, :, None, None]).flatten(1)
