"""From files to pictures: crops against torchvision's, odd and damaged files, and processes that decode."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from bench import Bench, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import CLASSES, photograph, write_pictures
from scipy import stats
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2 import functional as F

from kdbench.data.decoders import PIECE, Decoders, decoders, pieces_of
from kdbench.data.decoding import RATIO, SCALE, _draw, crop_box, decode
from kdbench.data.files import ImageFiles
from kdbench.data.splits import shards
from kdbench.errors import DataError, UserError

CPU = torch.device("cpu")
PICTURE = (3, 32, 32)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def two() -> Iterator[Decoders]:
    made = Decoders(2)
    yield made
    made.close()


def files(home: Path, part: str = "train") -> ImageFiles:
    paths = sorted((home / part).glob("*/*"))
    labels = np.array([CLASSES.index(path.parent.name) for path in paths])
    return ImageFiles(home / part, CLASSES, np.array([path.name.encode() for path in paths]), labels, PICTURE)


def words_of(count: int) -> np.ndarray:
    return np.random.Philox(key=0).random_raw(count)


def planes(path: str | Path) -> torch.Tensor:
    """A file as torchvision's loader reads it, uint8 [C,H,W]."""
    return F.pil_to_tensor(pil_loader(str(path)))


def test_a_random_view_is_torchvisions_crop_bit_for_bit(home: Path) -> None:
    """Of grey, CMYK and PNG files, too, and mirrored where the last bit says so."""
    paths = list(files(home).paths()) * 2
    words, mirrored = words_of(len(paths)), Counter()
    for path, word, made in zip(paths, words, decode(paths, (3, 64, 64), words), strict=True):
        drawn, image = _draw(int(word)), planes(path)
        left, top, width, height = crop_box(drawn, image.shape[2], image.shape[1])
        crop = image[:, top : top + height, left : left + width]
        crop = crop.flip(2) if drawn[-1] >> 63 else crop
        assert torch.equal(made.permute(2, 0, 1), F.resize(crop, [64, 64], antialias=True)), path
        mirrored[drawn[-1] >> 63] += 1
    assert min(mirrored.values()) > 20


def test_the_view_in_the_middle_is_torchvisions_bit_for_bit(home: Path) -> None:
    paths = list(files(home, "val").paths())
    resize, crop = v2.Resize(37, antialias=True), v2.CenterCrop(32)  # 32 x 256 / 224
    for path, made in zip(paths, decode(paths, PICTURE), strict=True):
        assert torch.equal(made.permute(2, 0, 1), crop(resize(planes(path))))


def test_pillows_own_resizing_differs_by_rounding_alone(home: Path) -> None:
    paths = list(files(home, "val").paths())
    transform = v2.Compose([v2.Resize(37), v2.CenterCrop(32), v2.PILToTensor()])
    for path, made in zip(paths, decode(paths, PICTURE), strict=True):
        assert (made.permute(2, 0, 1).int() - transform(pil_loader(path)).int()).abs().max() <= 1


def test_grey_pictures_of_one_channel(home: Path) -> None:
    paths = list(files(home).paths())[:3]
    made = decode(paths, (1, 32, 32), words_of(3))
    assert made.shape == (3, 32, 32, 1)
    assert made.float().std() > 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_large_photograph_is_decoded_at_a_part_of_its_size(tmp_path: Path, kind: str) -> None:
    """Where the crop keeps the pixels it is wanted in; nearly the same comes out. PNG knows no such thing."""
    path = tmp_path / f"large.{kind}"
    photograph(np.random.default_rng(0), 1400, 900).save(path, kind)
    whole = planes(path)
    words = words_of(12)
    for word, made in zip(words, decode([str(path)] * 12, PICTURE, words), strict=True):
        drawn = _draw(int(word))
        box = crop_box(drawn, 1400, 900)
        shrink = next(n for n in (8, 4, 2) if n * 32 <= min(box[2:])) if kind == "JPEG" else 1
        left, top, width, height = (length // shrink * shrink for length in box)
        crop = whole[:, top : top + height, left : left + width]
        crop = crop.flip(2) if drawn[-1] >> 63 else crop
        far = (F.resize(crop, [32, 32], antialias=True).int() - made.permute(2, 0, 1).int()).abs().float().mean()
        assert far == 0 if kind == "PNG" else 0 < far < 3


@given(st.lists(st.integers(0, 2**64 - 1), min_size=11, max_size=11), st.integers(1, 3000), st.integers(1, 3000))
@settings(max_examples=300)
def test_a_crop_lies_inside_the_image(words: list[int], width: int, height: int) -> None:
    left, top, w, h = crop_box(words, width, height)
    assert 0 <= left <= left + w <= width
    assert 0 <= top <= top + h <= height
    assert w
    assert h


def test_crops_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    image, count = torch.empty(3, 375, 500), 1500
    official = np.array([RandomResizedCrop.get_params(image, list(SCALE), list(RATIO)) for _ in range(count)])
    boxes = np.array([crop_box(_draw(int(word)), 500, 375) for word in words_of(count)])
    top, left, height, width = official.T
    theirs = {"left": left, "top": top, "area": width * height, "ratio": np.log(width / height)}
    left, top, width, height = boxes.T
    ours = {"left": left, "top": top, "area": width * height, "ratio": np.log(width / height)}
    for name in ours:
        assert stats.ks_2samp(ours[name], theirs[name]).pvalue > 1e-3, name
    assert ours["area"].min() > 0.99 * SCALE[0] * 500 * 375
    assert np.abs(ours["ratio"]).max() < math.log(4 / 3) + 0.02


@pytest.mark.parametrize(
    ("width", "height", "box"), [(1000, 100, (433, 0, 133, 100)), (100, 1000, (0, 433, 100, 133)), (1, 1, (0, 0, 1, 1))]
)
def test_where_nothing_fits_the_middle_is_taken(width: int, height: int, box: tuple[int, ...]) -> None:
    largest = [0xFFFFFFFF | (word << 32) for word in (0, 2**31, 2**32 - 1)]  # areas of the whole image
    assert crop_box([*largest, *largest, *largest, largest[0], 0], width, height) == box
    official = RandomResizedCrop.get_params(torch.empty(3, height, width), [50.0, 50.0], list(RATIO))
    assert official == (box[1], box[0], box[3], box[2])


def spoiled(home: Path, folder: Path, how: str) -> Path:
    path = folder / "n02_5.JPEG"
    whole = (home / "train" / "n02" / "n02_5.JPEG").read_bytes()
    if how != "missing":
        path.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"not found"}[how])
    return path


@pytest.mark.parametrize(
    ("how", "reason"), [("truncated", "truncated"), ("text", "cannot identify"), ("missing", "No such file")]
)
@pytest.mark.parametrize("count", [0, 2])
def test_a_damaged_file_is_named_in_a_sentence(
    home: Path, tmp_path: Path, two: Decoders, how: str, reason: str, count: int
) -> None:
    images = files(home)
    path = spoiled(home, tmp_path, how)
    damaged = ImageFiles(tmp_path, (".",), np.array([path.name.encode()]), np.zeros(1, np.int64), PICTURE)
    pool = two if count else Decoders(0)
    pending = pool.decode(damaged, words_of(1))
    with pytest.raises(DataError, match=reason) as error:
        pending.pictures(CPU)
    assert "n02_5.JPEG cannot be decoded" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(pool.decode(images[:3]).pictures(CPU)) == 3


@pytest.mark.parametrize("words", [None, words_of(100)], ids=["middle", "random"])
def test_processes_change_no_bit(home: Path, two: Decoders, words: np.ndarray | None) -> None:
    images = files(home)
    images = images[np.arange(100) % len(images)]
    assert len(images) > 3 * PIECE
    alone, shared = (pool.decode(images, words).pictures(CPU) for pool in (Decoders(0), two))
    assert alone.shape == (100, 3, 32, 32)
    assert alone.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(alone, shared)


@pytest.mark.parametrize("world", [1, 2, 5])
def test_each_image_of_an_evaluation_is_shown_to_one_process(home: Path, two: Decoders, world: int) -> None:
    """In whole batches, so that the bits are those of one process; the same of an array and of files."""
    images = files(home)
    array = decode(list(images.paths()), PICTURE).permute(0, 3, 1, 2).contiguous().numpy()
    for source in (images, array):
        every = [list(pieces_of(source, 4, CPU, rank=rank, world=world, pool=two)) for rank in range(world)]
        assert all(len(piece) == 4 for share in every for piece in share[:-1])
        shown = torch.cat([piece for share in every for piece in share])
        order = torch.cat([torch.arange(30).split(4)[number] for r in range(world) for number in shards(8, r, world)])
        assert torch.equal(shown, torch.from_numpy(array)[order])


@given(st.integers(0, 60), st.integers(1, 9))
def test_shards_take_everything_once(n: int, world: int) -> None:
    shares = [shards(n, rank, world) for rank in range(world)]
    assert sorted(place for share in shares for place in share) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    with pytest.raises(ValueError, match="rank must be"):
        shards(n, world, world)


def test_the_number_of_processes_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    decoders.cache_clear()
    assert decoders().count == 0
    decoders.cache_clear()
    monkeypatch.setenv("KDBENCH_DECODERS", "many")
    with pytest.raises(UserError, match="KDBENCH_DECODERS must be a whole number"):
        decoders()


def test_a_killed_process_is_said_in_a_sentence(home: Path) -> None:
    pool = Decoders(1)
    assert pool._pool is not None
    pool.decode(files(home)[:1]).pictures(CPU)
    (process,) = pool._pool._processes.values()
    os.kill(process.pid, signal.SIGKILL)

    def decode_on() -> None:
        while True:
            pool.decode(files(home)[:1]).pictures(CPU)

    with pytest.raises(DataError, match="smaller KDBENCH_DECODERS"):
        decode_on()


def test_processes_end_with_a_killed_parent(home: Path, bench: Bench) -> None:
    source = f"""
if __name__ == "__main__":
    import time
    from kdbench.data.decoders import *
    from kdbench.data.files import ImageFiles
    pool = Decoders(1)
    images = ImageFiles({str(home / "train")!r}, ("n01",), np.array([b"n01_0.JPEG"]), np.zeros(1, int), (3, 32, 32))
    pool.decode(images).pictures(torch.device("cpu"))
    print(*(process.pid for process in pool._pool._processes.values()), flush=True)
    time.sleep(600)
"""
    script = bench.folder / "parent.py"
    script.write_text(source)
    parent = subprocess.Popen([sys.executable, script], env=bench.environment(), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
        except OSError:
            return True

    wait_until(gone)
