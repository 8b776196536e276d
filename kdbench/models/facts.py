"""What plans must know of the built-in architectures without building them: arithmetic and stage shapes.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The arithmetic of a training step as a multiple of its forward pass: a backward pass costs twice that.
TRAINING = 3.0


@dataclass(frozen=True)
class Facts:
    """MFLOP of one image's forward pass (a multiply-add counts as two), channels of each stage, side of the last map.

    At the architecture's native image size, as torch counts and builds it; a test holds the table to that.
    """

    mflops: float
    channels: tuple[int, ...]
    side: int


FACTS: dict[str, Facts] = {
    "mlp_1200_1200": Facts(4.79, (1200, 1200), 1),
    "mlp_800_800": Facts(2.55, (800, 800), 1),
    "mobilenetv1": Facts(1140, (128, 256, 512, 1024), 7),
    "mobilenetv2_cifar": Facts(13, (12, 16, 48, 160), 2),
    "resnet101": Facts(15600, (256, 512, 1024, 2048), 7),
    "resnet110": Facts(506, (16, 32, 64), 8),
    "resnet14": Facts(53.3, (16, 32, 64), 8),
    "resnet18": Facts(3630, (64, 128, 256, 512), 7),
    "resnet18_cifar": Facts(1110, (64, 128, 256, 512), 4),
    "resnet20": Facts(81.6, (16, 32, 64), 8),
    "resnet32": Facts(138, (16, 32, 64), 8),
    "resnet32x4": Facts(2170, (64, 128, 256), 8),
    "resnet34": Facts(7330, (64, 128, 256, 512), 7),
    "resnet44": Facts(195, (16, 32, 64), 8),
    "resnet50": Facts(8180, (256, 512, 1024, 2048), 7),
    "resnet50_cifar": Facts(2600, (256, 512, 1024, 2048), 4),
    "resnet56": Facts(252, (16, 32, 64), 8),
    "resnet8": Facts(25, (16, 32, 64), 8),
    "resnet8x4": Facts(354, (64, 128, 256), 8),
    "shufflenetv1_cifar": Facts(77.4, (240, 480, 960), 4),
    "shufflenetv2_cifar": Facts(89, (116, 232, 464), 4),
    "tiny_cnn_l": Facts(1.49, (16, 32, 64), 2),
    "tiny_cnn_m": Facts(0.157, (8, 16, 32), 2),
    "tiny_cnn_s": Facts(0.0301, (4, 4, 8), 2),
    "vgg11": Facts(419, (128, 256, 512, 512), 4),
    "vgg13": Facts(570, (128, 256, 512, 512), 4),
    "vgg16": Facts(796, (128, 256, 512, 512), 4),
    "vgg19": Facts(1020, (128, 256, 512, 512), 4),
    "vgg8": Facts(192, (128, 256, 512, 512), 4),
    "wrn_16_1": Facts(53.3, (16, 32, 64), 8),
    "wrn_16_2": Facts(202, (32, 64, 128), 8),
    "wrn_40_1": Facts(167, (16, 32, 64), 8),
    "wrn_40_2": Facts(655, (32, 64, 128), 8),
}

#: MFLOP taken for an architecture that is not in the table, timm's and torchvision's among them: about a ResNet-18.
UNKNOWN_MFLOPS = 3600.0
