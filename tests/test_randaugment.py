"""The strong view's operations against Pillow's, one image at a time, and its draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from kdbench.data import randaugment
from kdbench.data.randaugment import GREY, OPERATIONS, StrongDraws, cut_out, strong_draws, strongly_augmented
from kdbench.train.seeds import philox

torch.set_num_threads(1)


def _affine(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


#: Each operation as the scripts that methods were published with call it.
PILLOW = {
    "identity": lambda image, v: image,
    "autocontrast": lambda image, v: ImageOps.autocontrast(image),
    "brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(v),
    "colour": lambda image, v: ImageEnhance.Color(image).enhance(v),
    "contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(v),
    "equalize": lambda image, v: ImageOps.equalize(image),
    "posterize": lambda image, v: ImageOps.posterize(image, max(1, int(v))),
    "rotate": lambda image, v: image.rotate(v),
    "sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(v),
    "shear_x": lambda image, v: _affine(image, 1, v, 0, 0, 1, 0),
    "shear_y": lambda image, v: _affine(image, 1, 0, 0, v, 1, 0),
    "solarize": lambda image, v: ImageOps.solarize(image, v),
    "translate_x": lambda image, v: _affine(image, 1, 0, v * image.size[0], 0, 1, 0),
    "translate_y": lambda image, v: _affine(image, 1, 0, 0, 0, 1, v * image.size[1]),
}
ROUNDED = {"brightness", "colour", "contrast", "sharpness"}


def _images(channels: int, n: int = 6) -> torch.Tensor:
    """Smooth random images: noise, gradients, one of a single value and one of two."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, channels, 32, 32)).astype(np.uint8)
    images[1] = np.arange(32, dtype=np.uint8)[None, None, :] * 5 + 40
    images[2] = 77
    images[3] = np.where(images[3] > 128, 200, 30)
    images[4] //= 4
    return torch.from_numpy(images)


def _pil(image: torch.Tensor) -> Image.Image:
    array = image.numpy()
    return Image.fromarray(array[0] if len(array) == 1 else np.moveaxis(array, 0, -1))


def _tensor(image: Image.Image) -> torch.Tensor:
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0).copy())


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("number", range(len(OPERATIONS)), ids=lambda n: OPERATIONS[n][0].__name__)
def test_each_operation_is_pillows(number, channels):
    operation, low, high = OPERATIONS[number]
    images = _images(channels)
    for share in (0.0, 0.13, 0.5, 0.77, 0.99):
        strength = low + (high - low) * share
        ours = operation(images, torch.full((len(images),), strength, dtype=torch.float64))
        theirs = torch.stack([_tensor(PILLOW[operation.__name__](_pil(image), strength)) for image in images])
        difference = (ours.int() - theirs.int()).abs()
        if operation.__name__ in ROUNDED:  # Pillow may round a blend's last bit another way
            assert difference.max() <= 1
            assert (difference > 0).float().mean() < 0.01
        elif operation.__name__ == "rotate":  # a pixel on the border between two
            assert (difference > 0).float().mean() < 0.005
        else:
            assert difference.max() == 0


def test_every_strength_of_a_batch_is_the_samples_own():
    images = _images(3)
    for operation, low, high in OPERATIONS:
        strengths = torch.linspace(low, high, len(images), dtype=torch.float64)
        together = operation(images, strengths)
        alone = torch.cat([operation(images[i : i + 1], strengths[i : i + 1]) for i in range(len(images))])
        assert torch.equal(together, alone), operation.__name__


def test_the_square_is_the_one_that_pillow_draws():
    images = _images(3)
    squares = torch.tensor([[0.0, 0.5, 0.5], [0.99, 0.0, 0.0], [0.5, 0.99, 0.1], [0.7, 0.3, 0.6], [0.1, 0.9, 0.9]] * 2)
    ours = cut_out(images[[0, 1, 2, 3, 4] * 2], squares.double())
    for i, (size, y, x) in enumerate(squares.double().tolist()):
        image = _pil(images[i % 5])
        side = size * 32 / 2
        top, left = int(max(0, y * 32 - side / 2)), int(max(0, x * 32 - side / 2))
        box = (left, top, int(min(32, left + side)), int(min(32, top + side)))
        ImageDraw.Draw(image).rectangle(box, GREY[3])
        assert torch.equal(ours[i], _tensor(image))


def test_draws_depend_on_the_sample_alone():
    few, many = strong_draws(philox("a"), 10), strong_draws(philox("a"), 1000)
    index = torch.tensor([3, 7])
    for name in ("operations", "strengths", "squares"):
        assert torch.equal(getattr(few, name), getattr(many, name)[:10])
        assert torch.equal(getattr(many.of(index), name), getattr(many, name)[index])
    assert not torch.equal(many.operations, strong_draws(philox("b"), 1000).operations)


def test_draws_cover_all_operations_and_strengths_evenly():
    draws = strong_draws(philox("even"), 20_000)
    counts = torch.bincount(draws.operations.flatten(), minlength=len(OPERATIONS))
    assert counts.min() > 0.9 * 40_000 / 14
    assert counts.max() < 1.1 * 40_000 / 14
    for values in (draws.strengths, draws.squares):
        assert values.min() >= 0
        assert values.max() < 1
        assert (values.mean(0) - 0.5).abs().max() < 0.01
    correlation = torch.corrcoef(torch.cat([draws.operations.double(), draws.strengths, draws.squares], 1).T)
    assert (correlation - torch.eye(7)).abs().max() < 0.04


def test_a_batch_is_each_image_under_its_own_draws(monkeypatch):
    images = _images(3, 40)
    draws = strong_draws(philox("batch"), 40)
    before = images.clone()
    whole = strongly_augmented(images, draws)
    assert torch.equal(images, before)
    one = torch.cat([strongly_augmented(images[i : i + 1], draws.of(torch.tensor([i]))) for i in range(40)])
    assert torch.equal(whole, one)
    nothing = StrongDraws(torch.full((40, 2), 5), draws.strengths, torch.zeros(40, 3, dtype=torch.float64))
    monkeypatch.setattr(randaugment, "cut_out", lambda images, squares: images)
    assert torch.equal(strongly_augmented(images, nothing), images)
