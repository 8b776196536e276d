"""What is known of the built-in architectures without building them: size, arithmetic and stage shapes.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The arithmetic of a training step as a multiple of its forward pass: a backward pass costs twice that.
TRAINING = 3.0


#: Image side -> classes of the data sets that architectures for it are made for; of others 10.
CLASSES = {224: 1000, 32: 100}


@dataclass(frozen=True)
class Facts:
    """Parameters, MFLOP of one image's forward pass (a multiply-add counts as two), channels of each stage, last side.

    At the architecture's native image size and with CLASSES of that size, as torch counts and builds it; a test holds
    the table to that. ``side`` is that of the last map.
    """

    parameters: int
    mflops: float
    channels: tuple[int, ...]
    side: int


FACTS: dict[str, Facts] = {
    "mlp_100_100": Facts(89_610, 0.179, (100, 100), 1),
    "mlp_1200_1200": Facts(2_395_210, 4.79, (1200, 1200), 1),
    "mlp_1200_1200_dropout": Facts(2_395_210, 4.79, (1200, 1200), 1),
    "mlp_300_300": Facts(328_810, 0.657, (300, 300), 1),
    "mlp_30_30": Facts(24_790, 0.0494, (30, 30), 1),
    "mlp_800_800": Facts(1_276_810, 2.55, (800, 800), 1),
    "mobilenetv1": Facts(4_231_976, 1140, (128, 256, 512, 1024), 7),
    "mobilenetv2_cifar": Facts(812_836, 13, (12, 16, 48, 160), 2),
    "patch_net": Facts(1_900, 0.0794, (50,), 28),
    "patch_net_linear": Facts(1_980, 0.0947, (30,), 28),
    "patch_net_mean5": Facts(9_500, 0.397, (250,), 28),
    "patch_net_random": Facts(1_140, 0.0476, (30,), 28),
    "resnet101": Facts(44_549_160, 15600, (256, 512, 1024, 2048), 7),
    "resnet110": Facts(1_736_564, 506, (16, 32, 64), 8),
    "resnet14": Facts(181_108, 53.3, (16, 32, 64), 8),
    "resnet18": Facts(11_689_512, 3630, (64, 128, 256, 512), 7),
    "resnet18_cifar": Facts(11_220_132, 1110, (64, 128, 256, 512), 4),
    "resnet20": Facts(278_324, 81.6, (16, 32, 64), 8),
    "resnet32": Facts(472_756, 138, (16, 32, 64), 8),
    "resnet32x4": Facts(7_433_860, 2170, (64, 128, 256), 8),
    "resnet34": Facts(21_797_672, 7330, (64, 128, 256, 512), 7),
    "resnet44": Facts(667_188, 195, (16, 32, 64), 8),
    "resnet50": Facts(25_557_032, 8180, (256, 512, 1024, 2048), 7),
    "resnet50_cifar": Facts(23_705_252, 2600, (256, 512, 1024, 2048), 4),
    "resnet56": Facts(861_620, 252, (16, 32, 64), 8),
    "resnet8": Facts(83_892, 25, (16, 32, 64), 8),
    "resnet8x4": Facts(1_233_540, 354, (64, 128, 256), 8),
    "shufflenetv1_cifar": Facts(949_258, 77.4, (240, 480, 960), 4),
    "shufflenetv2_cifar": Facts(1_355_528, 89, (116, 232, 464), 4),
    "tiny_cnn_l": Facts(75_002, 1.49, (16, 32, 64), 2),
    "tiny_cnn_m": Facts(6_866, 0.157, (8, 16, 32), 2),
    "tiny_cnn_s": Facts(742, 0.0301, (4, 4, 8), 2),
    "vgg11": Facts(9_277_284, 419, (128, 256, 512, 512), 4),
    "vgg13": Facts(9_462_180, 570, (128, 256, 512, 512), 4),
    "vgg16": Facts(14_774_436, 796, (128, 256, 512, 512), 4),
    "vgg19": Facts(20_086_692, 1020, (128, 256, 512, 512), 4),
    "vgg8": Facts(3_965_028, 192, (128, 256, 512, 512), 4),
    "wrn_16_1": Facts(180_916, 53.3, (16, 32, 64), 8),
    "wrn_16_2": Facts(703_284, 202, (32, 64, 128), 8),
    "wrn_40_1": Facts(569_780, 167, (16, 32, 64), 8),
    "wrn_40_2": Facts(2_255_156, 655, (32, 64, 128), 8),
}

#: MFLOP taken for an architecture that is not in the table and cannot be counted (kdbench.plan.counted): a ResNet-18.
UNKNOWN_MFLOPS = 3600.0
