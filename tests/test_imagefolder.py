"""Data sets in folders of classes: what is found, how it is identified, and what is said of a broken copy."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import CLASSES, PICTURES, TRAIN, VAL, write_pictures

from kdbench import data
from kdbench.data import identity
from kdbench.data.builtin import IMAGENET
from kdbench.data.files import ImageFiles
from kdbench.data.imagefolder import imagefolder
from kdbench.errors import DataError, UserError


@pytest.fixture(autouse=True)
def _registered() -> None:
    data.DATASETS.add("pictures", PICTURES, "test")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "root" / "pictures")


def fresh(root: Path) -> data.Dataset:
    """The copy below ``root`` as if seen for the first time."""
    shutil.rmtree(Path(os.environ["KDBENCH_CACHE"]), ignore_errors=True)
    return data.load("pictures", root)


def test_images_and_labels_are_in_the_order_of_sorted_names(home: Path) -> None:
    from torchvision.datasets import ImageFolder

    found = data.load("pictures", home.parent)
    for part, images, labels in (
        ("train", found.train_images, found.train_labels),
        ("val", found.test_images, found.test_labels),
    ):
        assert isinstance(images, ImageFiles)
        official = ImageFolder(str(home / part)).samples
        assert list(zip(images.paths(), labels.tolist(), strict=True)) == official
    assert found.train_images.shape == (TRAIN * len(CLASSES), 3, 32, 32)
    assert len(found.test_images) == VAL * len(CLASSES)
    assert found.train_labels.dtype == np.int64


def test_some_of_the_files(home: Path) -> None:
    images = data.load("pictures", home.parent).train_images
    assert isinstance(images, ImageFiles)
    every = list(images.paths())
    places = np.array([7, 0, 25])
    assert list(images[places].paths()) == [every[place] for place in places]
    assert list(images[places][1:].paths()) == [every[0], every[25]]


def test_no_image_is_read(home: Path) -> None:
    for path in home.rglob("*.JPEG"):
        path.chmod(0)
    assert data.load("pictures", home.parent).digest == data.identify("pictures", home.parent)[0]


def test_the_data_root_may_be_the_folder_itself(home: Path) -> None:
    assert fresh(home).digest == fresh(home.parent).digest


def test_the_digest_is_of_paths_and_sizes(home: Path, tmp_path: Path) -> None:
    root, first = home.parent, fresh(home.parent).digest
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert fresh(moved).digest == first
    one = home / "train" / "n01" / "n01_3.JPEG"
    one.write_bytes(one.read_bytes()[::-1])
    assert fresh(root).digest == first
    one.write_bytes(one.read_bytes() + b"\0")
    longer = fresh(root).digest
    one.rename(one.with_name("n01_33.JPEG"))
    renamed = fresh(root).digest
    (home / "val" / "n02").rename(home / "val" / "n03")
    (home / "train" / "n02").rename(home / "train" / "n03")
    assert len({first, longer, renamed, fresh(root).digest}) == 4


def test_a_worker_remembers_the_digest_by_folders(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, warnings = data.identify("pictures", home.parent)
    assert "cannot be verified" in warnings[0]
    (home / "train" / "n01" / "n01_3.JPEG").rename(home / "train" / "n01" / "n01_33.JPEG")
    second, _ = data.identify("pictures", home.parent)
    assert second != first
    monkeypatch.setattr(identity, "content_digest", lambda *_: pytest.fail("it was looked at again"))
    assert data.load("pictures", home.parent).digest == second


def test_what_is_no_image_is_left_out(home: Path) -> None:
    first = fresh(home.parent).digest
    (home / "train" / "n01" / "checksums.txt").write_text("none")
    (home / "train" / "n01" / "._n01_0.JPEG").write_bytes(b"a resource fork")
    (home / "train" / "README.JPEG").write_text("no folder")
    assert fresh(home.parent).digest == first


def spoil_count(home: Path) -> None:
    (home / "train" / "n02" / "n02_4.JPEG").unlink()


def spoil_depth(home: Path) -> None:
    """As some archives are packed; and the folder is called like an image."""
    folder = home / "train" / "n02"
    (folder / "inner.JPEG").mkdir()
    for path in folder.glob("n02_*"):
        path.rename(folder / "inner.JPEG" / path.name)


def spoil_classes(home: Path) -> None:
    (home / "val" / "n10").rename(home / "val" / "n11")


def spoil_folders(home: Path) -> None:
    """As the archive of the validation images is packed: no folders."""
    for path in (home / "val").glob("*/*"):
        path.rename(home / "val" / path.name)
    for folder in (home / "val").glob("n??"):
        folder.rmdir()


def spoil_size(home: Path) -> None:
    (home / "train" / "n02" / "n02_4.JPEG").write_bytes(b"")


def spoil_part(home: Path) -> None:
    shutil.rmtree(home / "val")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (spoil_count, "train holds 29 images, not 30; unpack Pictures again."),
        (
            spoil_depth,
            "not 30, not counting what is in folders below those of the classes, like n02/inner.JPEG; unpack",
        ),
        (spoil_classes, "have class folders of different names"),
        (spoil_folders, "val holds 0 class folders, not 3; unpack Pictures again, each image into the folder of"),
        (spoil_size, "n02_4.JPEG is empty; fetch it again."),
        (spoil_part, "pictures/val of Pictures is missing: wanted is pictures/{train,val}/<class>/*"),
        (shutil.rmtree, "Pictures is not under"),
    ],
)
def test_a_broken_copy_is_refused_in_a_sentence(home: Path, spoil: object, sentence: str) -> None:
    spoil(home)  # type: ignore[operator]
    with pytest.raises(DataError) as error:
        data.identify("pictures", home.parent)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_pictures_are_squares(home: Path) -> None:
    with pytest.raises(UserError, match="squares of 1 or 3 channels"):
        imagefolder(replace(PICTURES, image_shape=(3, 32, 24)), home)


def test_imagenet_is_wanted_as_torchvision_unpacks_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not under .*imagenet/\{train,val\}/<wnid>/\*.JPEG, 1,000 class folders"):
        data.load("imagenet", tmp_path)
    for part, classes in (("train", 1000), ("val", 999)):
        for i in range(classes):
            (tmp_path / "imagenet" / part / f"n{i:08d}").mkdir(parents=True)
    with pytest.raises(DataError, match="val holds 999 class folders, not 1000"):
        data.load("imagenet", tmp_path)
    (tmp_path / "imagenet" / "val" / "n00000999").mkdir()
    with pytest.raises(DataError, match="train holds 0 images, not 1281167"):
        data.load("imagenet", tmp_path)
    assert IMAGENET.test_size == 50000
