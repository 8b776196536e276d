"""Where a method's card says that it is not defined, decided before anything is built. Imports no torch."""

from __future__ import annotations

from kdbench.data import DATASETS
from kdbench.methods.card import VIEW_CHANNELS, Applicability, MethodSpec
from kdbench.models import get_spec
from kdbench.models.build import AS_NAMED, Build
from kdbench.models.facts import FACTS
from kdbench.protocol import Protocol


def not_applicable(
    method: MethodSpec, student: str, teacher: str | None, dataset: str, protocol: Protocol, build: Build = AS_NAMED
) -> str:
    """Why ``method`` cannot train this pair, in words; ``build`` is the teacher's.

    Empty when it can, or when only building the networks can tell.
    """
    applies = method.applies
    if protocol.batch < applies.min_batch:
        return f"it needs batches of {applies.min_batch} images or more, the protocol has {protocol.batch}"
    data = DATASETS.get(dataset)
    images, wanted = data.train_size - protocol.holdout, protocol.batch if applies.full_batch else applies.min_batch
    if images < wanted:
        return f"it learns from batches of {wanted} images or more, and there are {images} to train on"
    channels = data.image_shape[0]
    if method.views and channels not in VIEW_CHANNELS:
        return f"its views are those of grey or of colour images, these have {channels} channels"
    names = [name for name in (student, teacher) if name is not None]
    if any(name not in FACTS for name in names):
        return ""
    shapes = [data.image_shape, build.seen(data.image_shape)]
    return _stages(applies, names) or _maps(applies, names, [shape[-1] for shape in shapes])


def _stages(applies: Applicability, names: list[str]) -> str:
    channels = [FACTS[name].channels for name in names]
    for name, stages in zip(names, channels, strict=True):
        if len(stages) < applies.stages:
            return f"it needs {applies.stages} stages, {name} has {len(stages)}"
    if applies.equal_stages and len({len(stages) for stages in channels}) > 1:
        counts = " and ".join(f"{name} has {len(stages)}" for name, stages in zip(names, channels, strict=True))
        return f"it needs equally many stages, {counts}"
    if applies.equal_channels and len(set(channels)) > 1:
        widths = " and ".join(f"{name} {list(stages)}" for name, stages in zip(names, channels, strict=True))
        return f"it needs stages of equal width, the channels are {widths}"
    return ""


def _maps(applies: Applicability, names: list[str], sides: list[int]) -> str:
    for name, side in zip(names, sides, strict=False) if applies.maps else ():
        if FACTS[name].side * side // get_spec(name).input < 2:
            return f"it needs feature maps, the last one of {name} is a single pixel"
    return ""
