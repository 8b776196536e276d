"""The usual CIFAR augmentation on batches of uint8 images: pad with black, crop at random, flip at random.

Padding comes before any normalisation, which belongs to the networks. The draws are apart from the images, so that all
networks of a cohort see the same views.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def crop_flip_draws(rng: np.random.Generator, n: int, pad: int) -> tuple[Tensor, Tensor]:
    """Offsets [n,2] int64 (y, x), each uniform in 0..2*pad, and flips [n] bool with probability 1/2.

    Sample i uses the i-th raw 64-bit word of ``rng``'s stream (give it a fresh Philox for each epoch), so its draw
    depends neither on ``n`` nor on batch order, nor on numpy's sampling algorithms.
    """
    words = rng.bit_generator.random_raw(n)
    low, high = words & 0xFFFFFFFF, words >> np.uint64(32)
    span = np.uint64(2 * pad + 1)
    # Multiply and shift: y from the low 32 bits, x from the next 31, the flip from the top bit.
    y = (low * span) >> np.uint64(32)
    x = ((high & np.uint64(0x7FFFFFFF)) * span) >> np.uint64(31)
    offsets = np.stack([y, x], axis=1).astype(np.int64)
    return torch.from_numpy(offsets), torch.from_numpy((words >> np.uint64(63)).astype(bool))


def pad_crop_flip(images: Tensor, offsets: Tensor, flips: Tensor, pad: int) -> Tensor:
    """Crop each of ``images`` [B,C,H,W] at its ``offsets`` [B,2] (y, x) in the image padded by ``pad``, then mirror it
    left to right where ``flips`` [B]. All of it is one gather.
    """
    batch, channels, height, width = images.shape
    padded = functional.pad(images, (pad, pad, pad, pad))
    columns = torch.arange(width, device=images.device)
    columns = torch.where(flips[:, None], columns.flip(0), columns) + offsets[:, 1:]
    rows = torch.arange(height, device=images.device) + offsets[:, :1]
    places = (rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]).view(batch, 1, -1)
    flat = padded.view(batch, channels, -1)
    return flat.gather(2, places.expand(-1, channels, -1)).view(images.shape)


def to_float(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0,1]."""
    return images.to(torch.float32).div_(255)
