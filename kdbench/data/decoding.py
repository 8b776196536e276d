"""From a file to a picture: Pillow decodes, a crop is drawn, torch resizes it with antialiasing on uint8.

The crop and its resizing are torchvision's RandomResizedCrop on uint8 tensors (Szegedy et al., arXiv:1409.4842), and
without a draw its Resize and CenterCrop at ImageNet's 256 to 224. Decoder and interpolation move bits, so a change of
either is a change of what ``resized_crop_flip`` means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from kdbench.data.files import View
from kdbench.errors import DataError, reason

#: The share of the image's area, and the ratio of width to height, that a crop is drawn from.
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
#: Draws until one fits into the image; then the largest crop in the middle is taken.
TRIES = 10
#: Size of the shorter side before the crop in the middle, over that of the crop.
MARGIN = 256 / 224
#: Pillow's modes by the number of channels.
MODES = {1: "L", 3: "RGB"}

#: Left, top, width, height.
Box = tuple[int, int, int, int]


def decode(
    paths: Sequence[str],
    picture: tuple[int, int, int],
    words: NDArray[np.uint64] | None = None,
    view: View | None = None,
) -> Tensor:
    """uint8 [N,H,W,C]: the files ``paths`` as pictures of shape ``picture`` (C, H, W), of equal height and width.

    ``words`` [N] are 64-bit numbers, each of which makes a random view of its image; without them it is the crop in the
    middle, ImageNet's or that of ``view``. DataError names a file that cannot be decoded.
    """
    channels, side, _ = picture
    out = torch.empty((len(paths), side, side, channels), dtype=torch.uint8)
    for number, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                if words is None:
                    out[number] = _middle(image, side, MODES[channels], view)
                else:
                    out[number] = _random_view(image, side, MODES[channels], _draw(int(words[number])))
        except Exception as error:  # whatever a decoder makes of a damaged file
            raise DataError(
                f"{path} cannot be decoded ({reason(error)}); it is damaged or truncated: fetch it again."
            ) from None
    return out


def _draw(word: int) -> list[int]:
    """What one 64-bit number stands for: TRIES + 1 words of a stream of its own."""
    return np.random.Philox(key=word).random_raw(TRIES + 1).tolist()  # type: ignore[no-any-return]


def crop_box(words: Sequence[int], width: int, height: int) -> Box:
    """The crop that ``words`` draw in an image of ``width`` x ``height`` pixels.

    A try takes its area from the low 32 bits of its word and the logarithm of its ratio from the high ones; the last
    word places it: top from the low 32 bits, left from the next 31.
    """
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    *tries, place = words
    for word in tries:
        area = width * height * (SCALE[0] + (SCALE[1] - SCALE[0]) * (word & 0xFFFFFFFF) / 2**32)
        ratio = math.exp(low + (high - low) * (word >> 32) / 2**32)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = ((place & 0xFFFFFFFF) * (height - h + 1)) >> 32
            left = ((place >> 32 & 0x7FFFFFFF) * (width - w + 1)) >> 31
            return left, top, w, h
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    return (width - w) // 2, (height - h) // 2, w, h


def _random_view(image: Image.Image, side: int, mode: str, words: Sequence[int]) -> Tensor:
    """The crop of ``image`` that ``words`` draw, [side,side,C], mirrored where the top bit of the last one is set."""
    box = crop_box(words, *image.size)
    shrink = _shrunk(image, min(box[2:]) // side)
    left, top, width, height = (length // shrink for length in box)
    crop = image.crop((left, top, left + width, top + height))
    if words[-1] >> 63:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _resized(crop, mode, side, side)


def _shrunk(image: Image.Image, most: int) -> int:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 of its size, the least that is not less than 1/``most``; which it is.

    A crop that is at least ``most`` times as large as it is wanted keeps the pixels for that, and a photograph of 20
    megapixels costs little more than a small one.
    """
    width, height = image.size
    shrink = next((n for n in (8, 4, 2) if n <= most), 1)
    if shrink > 1:
        image.draft(None, (width // shrink, height // shrink))
    return shrink if image.size != (width, height) else 1  # other formats know no draft


def _middle(image: Image.Image, side: int, mode: str, view: View | None) -> Tensor:
    """[side,side,C] from the middle of ``image``, its shorter side resized to ``side`` and a margin.

    With a ``view`` it is timm's evaluation transform, whose margin is rounded down.
    """
    width, height = image.size
    short = round(side * MARGIN) if view is None else max(math.floor(side / view.crop), side)
    long = short if view and view.resize == "squash" else int(short * max(width, height) / min(width, height))
    w, h = (short, long) if width <= height else (long, short)
    left, top = round((w - side) / 2), round((h - side) / 2)
    whole = _resized(image, mode, w, h, "bilinear" if view is None else view.interpolation)
    return whole[top : top + side, left : left + side]


def _resized(image: Image.Image, mode: str, width: int, height: int, interpolation: str = "bilinear") -> Tensor:
    """``image`` as uint8 [height,width,C]."""
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    # With these strides torch reads and writes pixel by pixel, not plane by plane.
    planes = torch.from_numpy(pixels).view(1, *pixels.shape[:2], -1).permute(0, 3, 1, 2)
    return functional.interpolate(planes, (height, width), mode=interpolation, antialias=True)[0].permute(1, 2, 0)
