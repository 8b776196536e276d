"""The built-in architectures, as data. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kdbench.models.spec import ModelSpec
from kdbench.names import NAME

LIBRARIES = ("timm", "torchvision")


def library_spec(name: str) -> ModelSpec | None:
    """The spec of ``timm/<name>`` or ``torchvision/<name>``, made on the fly; ``None`` for any other form of name."""
    library, slash, rest = name.partition("/")
    if not slash or library not in LIBRARIES or not re.fullmatch(NAME, rest):
        return None
    return ModelSpec(
        name=name,
        family=library,
        summary=f"{rest} as {library} builds it, without pretrained weights",
        implementation=f"kdbench.models.adapter:{library}_model",
        input=224,
        literature=rest,
        options={"name": rest},
    )


def _spec(name: str, family: str, function: str, side: int, summary: str, /, **options: object) -> ModelSpec:
    literature = name.removesuffix("_cifar")
    return ModelSpec(name, family, summary, f"kdbench.models.{function}", side, literature, options)


def _resnets() -> Iterator[ModelSpec]:
    for depth in (8, 14, 20, 32, 44, 56, 110):
        yield _spec(
            f"resnet{depth}",
            "resnet",
            "resnet_cifar:resnet",
            32,
            f"CIFAR ResNet of {depth} layers, widths 16-32-64",
            depth=depth,
        )
    for depth in (8, 32):
        yield _spec(
            f"resnet{depth}x4",
            "resnet",
            "resnet_cifar:resnet",
            32,
            f"CIFAR ResNet of {depth} layers, widths 64-128-256",
            depth=depth,
            wide=True,
        )
    for depth in (18, 50):
        yield _spec(
            f"resnet{depth}_cifar",
            "resnet",
            "resnet_cifar:resnet_four_stages",
            32,
            f"ResNet-{depth} with a 3x3 stride-1 stem for small images",
            depth=depth,
        )
    for depth in (18, 34, 50, 101):
        yield _spec(
            f"resnet{depth}",
            "resnet",
            "adapter:torchvision_model",
            224,
            f"ImageNet ResNet-{depth}, torchvision's",
            name=f"resnet{depth}",
        )


def _mobile() -> Iterator[ModelSpec]:
    yield _spec(
        "mobilenetv1",
        "mobilenet",
        "mobilenet:mobilenetv1",
        224,
        "ImageNet MobileNet of depthwise separable convolutions",
    )
    yield _spec(
        "mobilenetv2_cifar", "mobilenet", "mobilenet:mobilenetv2", 32, "MobileNetV2 at half width for small images"
    )
    for version, detail in ((1, "three groups"), (2, "width 1")):
        yield _spec(
            f"shufflenetv{version}_cifar",
            "shufflenet",
            f"shufflenet:shufflenetv{version}",
            32,
            f"ShuffleNetV{version}, {detail}, for small images",
        )


def _small() -> Iterator[ModelSpec]:
    for size, widths, blocks in (("s", (4, 4, 8), 1), ("m", (8, 16, 32), 1), ("l", (16, 32, 64), 2)):
        yield _spec(
            f"tiny_cnn_{size}",
            "small",
            "small:tiny_cnn",
            8,
            f"three convolutional stages of widths {'-'.join(map(str, widths))}, for images of 8 px and more",
            widths=widths,
            blocks=blocks,
        )
    for width in (30, 100, 300, 800, 1200):
        yield _spec(
            f"mlp_{width}_{width}",
            "mlp",
            "small:mlp",
            28,
            f"two hidden layers of {width} rectified linear units",
            hidden=(width, width),
        )
    yield _spec(
        "mlp_1200_1200_dropout",
        "mlp",
        "small:mlp",
        28,
        "two hidden layers of 1200 rectified linear units, with dropout and bounded weights",
        hidden=(1200, 1200),
        dropout=(0.2, 0.5),
        max_norm=4.0,
    )


def _patches() -> Iterator[ModelSpec]:
    trained, drawn = {"filters": 5, "std": 0.02}, {"filters": 3, "std": 0.3}
    layer = "layer of filters on the rows of an image, added up (Allen-Zhu and Li)"
    for name, function, summary, options in (
        ("patch_net", "PatchNet", f"one trained {layer}", trained),
        ("patch_net_mean5", "PatchNet", "the mean of five patch_nets, trained as one", {**trained, "members": 5}),
        ("patch_net_random", "RandomFeatures", f"one random {layer}, with a trained output layer", drawn),
        ("patch_net_linear", "Linearised", f"one {layer}, linearised where it starts", drawn),
    ):
        yield _spec(name, "patches", f"patches:{function}", 28, summary, **options)


def _plain() -> Iterator[ModelSpec]:
    for depth, widen in ((16, 1), (16, 2), (40, 1), (40, 2)):
        summary = f"wide residual network of {depth} layers, widths {16 * widen}-{32 * widen}-{64 * widen}"
        yield _spec(f"wrn_{depth}_{widen}", "wrn", "wrn:wrn", 32, summary, depth=depth, widen=widen)
    for depth in (8, 11, 13, 16, 19):
        summary = f"VGG-{depth} with batch normalisation and a single fully connected layer"
        yield _spec(f"vgg{depth}", "vgg", "vgg:vgg", 32, summary, depth=depth)


BUILTIN: tuple[ModelSpec, ...] = (*_resnets(), *_plain(), *_mobile(), *_small(), *_patches())
