"""Find the stem, stages and classifier of a model nobody described, by watching one forward pass that computes nothing.

The pass runs on torch's "meta" device, so it costs no arithmetic, draws no random numbers and touches no statistics.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import isqrt

import torch
from torch import Tensor, nn

from kdbench.errors import UserError, reason
from kdbench.models.adapter import Plan, Tap
from kdbench.models.outputs import Shape

_NOT_A_STAGE = ("Pool", "Dropout", "DropPath", "Identity", "Flatten", "Permute")
_STAGES = 4
#: What autograd calls the steps that change a tensor's shape alone.
_RESHAPES = ("View", "UnsafeView", "ReshapeAlias", "AsStrided", "Squeeze", "Alias")


@dataclass(frozen=True, eq=False)
class Event:
    """One call of one submodule: its first input and its output, with their version counters when they passed by."""

    module: str
    call: int
    kind: nn.Module
    input: Tensor
    input_version: int
    output: Tensor
    output_version: int


@dataclass(frozen=True)
class Grid:
    """How tensors may be maps of images of ``height`` x ``width``; ``prefix``: how many tokens are not patches."""

    height: int
    width: int
    prefix: int

    def layout(self, tensor: Tensor) -> tuple[str, int, int] | None:
        """How ``tensor`` is a map, how many of its tokens are not patches, and its rows; None where it is none."""
        shape = tensor.shape
        if len(shape) == 4:
            nhwc, nchw = (self._like(*sides) for sides in (shape[1:3], shape[2:4]))
            return ("nhwc", 0, 0) if nhwc and not nchw else ("nchw", 0, 0)
        if len(shape) == 3:
            for skipped in (self.prefix, 0, 1):
                if rows := self._rows(shape[1] - skipped):
                    return "tokens", skipped, rows
        return None

    def tap(self, event: Event) -> Tap:
        """What is caught of the output of ``event``."""
        layout, skipped, rows = self.layout(event.output) or ("nchw", 0, 0)
        clone = _overwritten(event.output, event.output_version)
        return Tap(event.module, event.call, clone=clone, layout=layout, prefix=skipped, rows=rows)

    def _like(self, rows: int, columns: int) -> bool:
        """Whether a map of this size has the images' proportions, as far as rounding at each halving leaves them."""
        return abs(rows * self.width - columns * self.height) < max(self.height, self.width)

    def _rows(self, tokens: int) -> int:
        """The rows of a map of so many ``tokens``; 0 where none has the images' proportions."""
        near = isqrt(tokens * self.height // self.width) if tokens > 0 else 0
        for rows in (near, near + 1):
            if rows and tokens % rows == 0 and self._like(rows, tokens // rows):
                return rows
        return 0


def discover(name: str, body: nn.Module, image_shape: Shape) -> Plan:
    """How to read ``body`` for images of ``image_shape``; UserError where it cannot take them or lacks a classifier."""
    events = _watch(name, body, image_shape)
    head = _head(name, body, events)
    grid = Grid(*image_shape[1:], getattr(body, "num_prefix_tokens", 0))
    pooled = Tap(head.module, head.call, into=True, clone=_overwritten(head.input, head.input_version), layout="vector")
    candidates = _described(body, events) or list(_chain(body, events))
    maps = [event for event in candidates if grid.layout(event.output) and event.output is not head.output]
    stages = _spread(maps, grid)
    if stages and (len(stages) > _STAGES or not any(stages[0].kind.children())):
        stem: Event | None = stages.pop(0)
    else:
        stem = _before(maps[0], body, events, grid) if maps else None
    norms = [_norm(event, events) for event in stages]
    return Plan(
        name=name,
        head=head.module,
        pooled=pooled,
        pooled_map=_pooled_map(head, events),
        stem=grid.tap(stem) if stem else None,
        stages=tuple(grid.tap(event) for event in stages),
        preacts=tuple(_preact_tap(event, events, grid) for event in stages),
        norms=tuple(norm for norm in norms if norm) if all(norms) else (),
    )


def _watch(name: str, body: nn.Module, image_shape: Shape) -> list[Event]:
    """The calls of one forward pass, in the order in which they end."""
    weightless = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in body.buffers()}
    weightless |= {id(tensor): nn.Parameter(torch.empty_like(tensor, device="meta")) for tensor in body.parameters()}
    probe = copy.deepcopy(body, weightless).eval()
    events: list[Event] = []
    calls: dict[str, int] = {}
    started: dict[str, int] = {}

    def watch(path: str, module: nn.Module) -> None:
        def before(_: nn.Module, args: tuple[object, ...]) -> None:
            if args and isinstance(args[0], Tensor):
                started[path] = args[0]._version

        def after(_: nn.Module, args: tuple[object, ...], output: object) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                call = calls[path] = calls.get(path, -1) + 1
                events.append(Event(path, call, module, args[0], started[path], output, output._version))

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    for path, module in probe.named_modules():
        if path:
            watch(path, module)
    try:
        with torch.enable_grad():  # the graph tells which map is pooled
            probe(torch.zeros(1, *image_shape, device="meta"))
    except (RuntimeError, AssertionError, ValueError) as error:
        size = "x".join(map(str, image_shape))
        raise UserError(f"model {name!r} cannot read images of {size}: {reason(error)}.") from error
    return events


def _head(name: str, body: nn.Module, events: list[Event]) -> Event:
    """The classifier's call: the one that timm names, or else the last fully connected layer's."""
    get_classifier: Callable[[], nn.Module] | None = getattr(body, "get_classifier", None)
    named = get_classifier() if get_classifier else None
    paths = {path for path, module in body.named_modules() if module is named}
    kinds = (nn.Linear, nn.Conv2d) if paths else nn.Linear
    for event in reversed(events):
        if isinstance(event.kind, kinds) and (event.module in paths or named is None):
            if event.input.flatten(1).shape[1] == event.input.shape[1]:
                return event
            break
    raise UserError(f"model {name!r} has no single classifier that reads a pooled vector; choose another one.")


def _pooled_map(head: Event, events: list[Event]) -> Tap | None:
    """The map whose average over positions is what the classifier reads, found by going back along autograd's graph.

    ``None`` where something else, such as a norm, stands between the two, or where that map passes no submodule.
    """
    pool = head.input.grad_fn
    while pool is not None and pool.name().startswith(_RESHAPES):
        pool = pool.next_functions[0][0]
    if pool is None or pool.name() not in ("MeanBackward1", "AvgPool2DBackward0"):
        return None
    source = pool.next_functions[0]
    for event in reversed(events):
        for into, tensor in ((False, event.output), (True, event.input)):
            if tensor.grad_fn is not None and (tensor.grad_fn, tensor.output_nr) == source:
                layout = _averaged(pool, tensor)
                return Tap(event.module, event.call, into, layout=layout) if layout else None
    return None


def _averaged(pool: torch.autograd.graph.Node, tensor: Tensor) -> str | None:
    """The layout of the map ``tensor`` if ``pool``, autograd's node of an average of it, is one over all positions."""
    if tensor.dim() != 4:
        return None
    if pool.name() == "AvgPool2DBackward0":
        return "nchw" if tuple(pool._saved_kernel_size) == tensor.shape[2:] else None
    dims = {dim % 4 for dim in pool._saved_dim or ()}  # negative ones come as 2**64 more, the same modulo 4
    return "nchw" if dims == {2, 3} else "nhwc" if dims == {1, 2} else None


def _described(body: nn.Module, events: list[Event]) -> list[Event]:
    """The last calls of the modules that timm's ``feature_info`` lists; ``[]`` where it does not list them all."""
    last = {event.module: event for event in events}
    info = list(getattr(body, "feature_info", None) or ())
    paths = [entry.get("module") for entry in info]
    return [last[path] for path in paths if not _passive(last[path])] if all(path in last for path in paths) else []


def _chain(body: nn.Module, events: list[Event]) -> Iterator[Event]:
    """The calls of the model's children up to its global pooling, ``nn.Sequential`` replaced by what it holds."""
    top = set(_links(body, ""))
    for event in events:
        kind = type(event.kind).__name__
        if event.module in top and kind.startswith("Adaptive"):
            return
        if event.module in top and not _passive(event) and ("Norm" not in kind or "Act" in kind):
            yield event


def _links(module: nn.Module, path: str) -> Iterator[str]:
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            yield from _links(child, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def _passive(event: Event) -> bool:
    return any(word in type(event.kind).__name__ for word in _NOT_A_STAGE)


def _spread(maps: list[Event], grid: Grid) -> list[Event]:
    """The last map of each size; of a model that keeps one size throughout, four maps at equal distances."""
    by_size = {grid.tap(event).shape(event.output).shape[2:]: event for event in maps}
    if len(by_size) > 1 or len(maps) <= _STAGES:
        return list(by_size.values())
    return [maps[len(maps) * (number + 1) // _STAGES - 1] for number in range(_STAGES)]


def _before(first: Event, body: nn.Module, events: list[Event], grid: Grid) -> Event:
    """The last map at the top of the model before the stages begin; ``first`` itself where there is none."""
    found = first
    for event in _chain(body, events):
        if event.module == first.module or event.module.startswith(f"{first.module}."):
            break
        if grid.layout(event.output):
            found = event
    return found


def _preact_tap(stage: Event, events: list[Event], grid: Grid) -> Tap:
    """The input of the activation whose output is the stage's map.

    A stage that ends otherwise, linearly (MobileNetV2) or by joining activated branches (Inception), is its own.
    """
    for event in reversed(events):
        if event.output is stage.output and _is_activation(event.kind):
            clone = _overwritten(event.input, event.input_version)
            return replace(grid.tap(stage), module=event.module, call=event.call, into=True, clone=clone)
    return grid.tap(stage)


def _norm(stage: Event, events: list[Event]) -> str | None:
    """The stage's last layer that has weights and the stage's shape, if that is a batch normalisation."""
    for event in reversed(events[: events.index(stage) + 1]):
        if event.output.shape == stage.output.shape and any(True for _ in event.kind.parameters(recurse=False)):
            return event.module if isinstance(event.kind, nn.BatchNorm2d) else None
    return None


def _is_activation(module: nn.Module) -> bool:
    home = type(module).__module__
    return home == "torch.nn.modules.activation" or home.startswith("timm.layers.activations")


def _overwritten(tensor: Tensor, version: int) -> bool:
    return bool(tensor._version != version)
