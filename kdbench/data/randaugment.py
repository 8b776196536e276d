"""RandAugment and cutout on batches of uint8 images: the strong view of methods that show a student two views.

Two of fourteen operations in turn, each at a strength drawn anew, then a grey square of up to half the width: what the
public code of MLKD and CRLD does to each PIL image (FixMatch's operations, Sohn et al., arXiv:2001.07685; RandAugment,
Cubuk et al., arXiv:1909.13719). Operations and their rounding are Pillow's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

#: Operations an image goes through.
LAYERS = 2

#: Raw 64-bit words a sample draws: one for each operation with its strength, three for the square.
WORDS = LAYERS + 3

#: The colour of the square, by the number of channels: about CIFAR's mean, and its luminance.
GREY = {3: (125, 123, 114), 1: (123,)}


@dataclass(frozen=True)
class StrongDraws:
    """What n samples drew: operations [n,2] int64, strengths [n,2] and squares [n,3] (size, y, x), in [0,1)."""

    operations: Tensor
    strengths: Tensor
    squares: Tensor

    def of(self, index: Tensor) -> StrongDraws:
        """The draws of the samples ``index``."""
        return StrongDraws(self.operations[index], self.strengths[index], self.squares[index])

    def to(self, device: torch.device) -> StrongDraws:
        return StrongDraws(self.operations.to(device), self.strengths.to(device), self.squares.to(device))


def strong_draws(rng: np.random.Generator, n: int) -> StrongDraws:
    """Sample i uses the raw words 5i to 5i+4 of ``rng``'s stream (give it a fresh Philox for each epoch)."""
    words = rng.bit_generator.random_raw(n * WORDS).reshape(n, WORDS)
    low, high = words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)
    operations = (low[:, :LAYERS] * np.uint64(len(OPERATIONS))) >> np.uint64(32)
    return StrongDraws(
        torch.from_numpy(operations.astype(np.int64)),
        torch.from_numpy(high[:, :LAYERS] / 2.0**32),
        torch.from_numpy(high[:, LAYERS:] / 2.0**32),
    )


def strongly_augmented(images: Tensor, draws: StrongDraws) -> Tensor:
    """``images`` uint8 [B,C,H,W], each after its two operations and with its square."""
    for layer in range(LAYERS):
        chosen, strength = draws.operations[:, layer], draws.strengths[:, layer]
        result = images.clone()
        for number, (operation, low, high) in enumerate(OPERATIONS):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                result[rows] = operation(images[rows], low + (high - low) * strength[rows])
        images = result
    return cut_out(images, draws.squares)


def cut_out(images: Tensor, squares: Tensor) -> Tensor:
    """Cover a square of up to half the width about a point anywhere in each image."""
    _, channels, height, width = images.shape
    side = squares[:, 0] * width / 2

    def covered(centre: Tensor, length: int) -> Tensor:
        first = (centre * length - side / 2).clamp(min=0).floor()
        last = (first + side).clamp(max=length).floor()
        place = torch.arange(length, device=images.device)
        return (place >= first[:, None]) & (place <= last[:, None])

    hole = covered(squares[:, 1], height)[:, :, None] & covered(squares[:, 2], width)[:, None, :]
    grey = torch.tensor(GREY[channels], dtype=torch.uint8, device=images.device).view(1, channels, 1, 1)
    return torch.where(hole[:, None], grey, images)


def luminance(images: Tensor) -> Tensor:
    """Grey uint8 [B,1,H,W] in Pillow's fixed-point weights (ITU-R 601-2)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.int().unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)[:, None]


def _blended(dull: Tensor, images: Tensor, share: Tensor) -> Tensor:
    """``share`` [B] of ``images`` and the rest of ``dull``, cut to whole numbers."""
    low = dull.float()
    return (low + share.float().view(-1, 1, 1, 1) * (images.float() - low)).to(torch.uint8)


def _looked_up(images: Tensor, table: Tensor) -> Tensor:
    """Each value of ``images`` replaced by its entry in ``table`` [B,C,256] of its image and channel."""
    return table.gather(2, images.flatten(2).long()).view(images.shape)


def _histogram(images: Tensor) -> Tensor:
    """Counts [B,C,256] of the values in each channel."""
    batch, channels = images.shape[:2]
    first = torch.arange(batch * channels, device=images.device).view(batch, channels, 1) * 256
    return torch.bincount((first + images.flatten(2)).flatten(), minlength=first.numel() * 256).view(
        batch, channels, 256
    )


def identity(images: Tensor, _: Tensor) -> Tensor:
    return images


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Each channel stretched to 0..255; a channel of one value stays."""
    low = images.amin((2, 3), keepdim=True).double()
    high = images.amax((2, 3), keepdim=True).double()
    scale = 255 / (high - low).clamp(min=1)
    stretched = (images.double() * scale - low * scale).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def brightness(images: Tensor, share: Tensor) -> Tensor:
    return _blended(torch.zeros_like(images), images, share)


def colour(images: Tensor, share: Tensor) -> Tensor:
    return _blended(luminance(images), images, share)


def contrast(images: Tensor, share: Tensor) -> Tensor:
    mean = (luminance(images).double().mean((1, 2, 3), keepdim=True) + 0.5).floor()
    return _blended(mean, images, share)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Each channel's values spread so that all are about equally frequent."""
    counts = _histogram(images)
    values = torch.arange(256, device=images.device)
    last = torch.where(counts > 0, values, -1).amax(2, keepdim=True)
    step = (counts.sum(2, keepdim=True) - counts.gather(2, last)) // 255
    below = counts.cumsum(2) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    return _looked_up(images, torch.where(step > 0, table, values).to(torch.uint8))


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """The highest ``bits`` (rounded down) of each value."""
    dropped = 8 - bits.floor().clamp(1, 8).long().view(-1, 1, 1, 1)
    return ((images.long() >> dropped) << dropped).to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(images.double() < threshold.view(-1, 1, 1, 1), images, 255 - images)


def sharpness(images: Tensor, share: Tensor) -> Tensor:
    """Towards a smoothed image (weights 1, and 5 in the middle), whose border stays."""
    channels = images.shape[1]
    kernel = torch.ones(channels, 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5
    smooth = images.clone()
    inner = functional.conv2d(images.float(), kernel / 13, groups=channels)
    smooth[:, :, 1:-1, 1:-1] = (inner + 0.5).clamp(0, 255).to(torch.uint8)
    return _blended(smooth, images, share)


def _moved(images: Tensor, matrix: tuple[Tensor | float, ...]) -> Tensor:
    """The pixel at (x, y) taken from (a x + b y + c, d x + e y + f), the nearest one; black where there is none."""
    batch, channels, height, width = images.shape
    a, b, c, d, e, f = (torch.as_tensor(entry, dtype=torch.float64, device=images.device) for entry in matrix)
    a, b, c, d, e, f = (entry.expand(batch).view(-1, 1, 1) for entry in (a, b, c, d, e, f))
    x = torch.arange(width, dtype=torch.float64, device=images.device) + 0.5
    y = (torch.arange(height, dtype=torch.float64, device=images.device) + 0.5)[:, None]
    column, row = (a * x + b * y + c).floor().long(), (d * x + e * y + f).floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    places = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).view(batch, 1, -1)
    found = images.flatten(2).gather(2, places.expand(-1, channels, -1)).view(images.shape)
    return torch.where(inside[:, None], found, 0)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """About the centre, counter-clockwise."""
    angle = -degrees.deg2rad()
    cos, sin = angle.cos(), angle.sin()
    x, y = images.shape[3] / 2, images.shape[2] / 2
    return _moved(images, (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y))


def shear_x(images: Tensor, slope: Tensor) -> Tensor:
    """About the upper left corner."""
    return _moved(images, (1.0, slope, 0.0, 0.0, 1.0, 0.0))


def shear_y(images: Tensor, slope: Tensor) -> Tensor:
    return _moved(images, (1.0, 0.0, 0.0, slope, 1.0, 0.0))


def translate_x(images: Tensor, share: Tensor) -> Tensor:
    """By ``share`` of the width."""
    return _moved(images, (1.0, 0.0, share * images.shape[3], 0.0, 1.0, 0.0))


def translate_y(images: Tensor, share: Tensor) -> Tensor:
    return _moved(images, (1.0, 0.0, 0.0, 0.0, 1.0, share * images.shape[2]))


#: (operation, least strength, greatest strength)
OPERATIONS: tuple[tuple[Callable[[Tensor, Tensor], Tensor], float, float], ...] = (
    (autocontrast, 0, 1),
    (brightness, 0.05, 0.95),
    (colour, 0.05, 0.95),
    (contrast, 0.05, 0.95),
    (equalize, 0, 1),
    (identity, 0, 1),
    (posterize, 4, 8),
    (rotate, -30, 30),
    (sharpness, 0.05, 0.95),
    (shear_x, -0.3, 0.3),
    (shear_y, -0.3, 0.3),
    (solarize, 0, 256),
    (translate_x, -0.3, 0.3),
    (translate_y, -0.3, 0.3),
)
