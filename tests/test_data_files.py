"""The file formats: CIFAR's binary and python versions and idx, on small synthetic copies, whole and damaged."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from kdbench import data
from kdbench.data import builtin, cifar, loading, mapped
from kdbench.data.spec import DatasetSpec, Part
from kdbench.errors import DataError
from kdbench.registry import Registry

SMALL = {"train_size": 10, "test_size": 4, "digest": None, "sha1": {}}
RNG = np.random.Generator(np.random.Philox(key=7))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in data sets, of 10 + 4 images."""
    registry: Registry[DatasetSpec] = Registry("data set")
    for spec in builtin.BUILTIN:
        registry.add(spec.name, dataclasses.replace(spec, **SMALL), "test")
    monkeypatch.setattr(loading, "DATASETS", registry)


def _random(spec: DatasetSpec) -> tuple[Part, Part]:
    return tuple(  # type: ignore[return-value]
        Part(RNG.integers(0, 256, (n, *spec.image_shape), dtype=np.uint8), RNG.integers(0, spec.classes, n))
        for n in (10, 4)
    )


def _batches(name: str, train: Part, test: Part) -> dict[str, Part]:
    if name == "cifar100":
        return {"train": train, "test": test}
    fifths = {
        f"data_batch_{i + 1}": Part(train.images[2 * i : 2 * i + 2], train.labels[2 * i : 2 * i + 2]) for i in range(5)
    }
    return {**fifths, "test_batch": test}


def _write_binary(root: Path, name: str, train: Part, test: Part) -> Path:
    folder = root / ("cifar-100-binary" if name == "cifar100" else "cifar-10-batches-bin")
    folder.mkdir(parents=True)
    for file, (images, labels) in _batches(name, train, test).items():
        heads = [labels] if name == "cifar10" else [labels // 5, labels]
        records = np.concatenate([np.stack(heads, 1).astype(np.uint8), images.reshape(len(images), -1)], axis=1)
        (folder / f"{file}.bin").write_bytes(records.tobytes())
    return folder


def _write_python(root: Path, name: str, train: Part, test: Part, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = root / ("cifar-100-python" if name == "cifar100" else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    for file, (images, labels) in _batches(name, train, test).items():
        key = "labels" if name == "cifar10" else "fine_labels"
        raw = pickle.dumps({"data": images.reshape(len(images), -1), key: labels.tolist()})
        (folder / file).write_bytes(raw)
        monkeypatch.setitem(cifar.PICKLE_MD5, f"{folder.name}/{file}", hashlib.md5(raw).hexdigest())
    return folder


def _write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def _write_mnist(root: Path, train: Part, test: Part, suffix: str = "", folder: str = "MNIST") -> Path:
    raw = root / folder / "raw"
    for part, (images, labels) in (("train", train), ("t10k", test)):
        _write_idx(raw / f"{part}-images-idx3-ubyte{suffix}", images[:, 0])
        _write_idx(raw / f"{part}-labels-idx1-ubyte{suffix}", labels.astype(np.uint8))
    return raw


def _same(found: data.Dataset, train: Part, test: Part) -> None:
    np.testing.assert_array_equal(found.train_images, train.images)
    np.testing.assert_array_equal(found.train_labels, train.labels)
    np.testing.assert_array_equal(found.test_images, test.images)
    np.testing.assert_array_equal(found.test_labels, test.labels)
    assert found.train_images.dtype == np.uint8
    assert found.train_labels.dtype == np.int64


def _fails(name: str, root: Path, *texts: str) -> None:
    with pytest.raises(DataError) as error:
        data.load(name, root)
    assert "\n" not in str(error.value)
    for text in texts:
        assert text in str(error.value)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_binary_and_python_versions_agree(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = _random(data.DATASETS.get(name))
    _write_binary(tmp_path / "bin", name, train, test)
    _write_python(tmp_path / "py", name, train, test, monkeypatch)
    binary, python = data.load(name, tmp_path / "bin"), data.load(name, tmp_path / "py")
    _same(binary, train, test)
    _same(python, train, test)
    assert binary.digest == python.digest
    assert "cannot be verified" in binary.warnings[0]
    assert python.warnings == ()


def test_cifar100_is_a_view_of_the_file_that_cannot_change_it(tmp_path: Path) -> None:
    train, test = _random(builtin.CIFAR100)
    folder = _write_binary(tmp_path, "cifar100", train, test)
    before = (folder / "train.bin").read_bytes()
    images = data.load("cifar100", tmp_path).train_images
    assert images.strides[0] == 3074
    assert isinstance(images, np.memmap)
    images[0] = 0
    assert (folder / "train.bin").read_bytes() == before


@pytest.mark.parametrize("form", ["python", "five files", "packed"])
def test_images_that_no_file_holds_as_they_are_are_mapped_too(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read once a machine: the second time not even the files are opened, unless the copy is damaged."""
    monkeypatch.setattr(mapped, "SMALL", 0)
    name = {"python": "cifar100", "five files": "cifar10", "packed": "mnist"}[form]
    train, test = _random(data.DATASETS.get(name))
    if form == "python":
        _write_python(tmp_path, name, train, test, monkeypatch)
    elif form == "five files":
        _write_binary(tmp_path, name, train, test)
    else:
        _write_mnist(tmp_path, train, test, ".gz")
    first = data.load(name, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(loading, "_read", None)
        second = data.load(name, tmp_path)
    for found in (first, second):
        _same(found, train, test)
        assert isinstance(found.train_images, np.memmap)
        assert isinstance(found.test_images, np.memmap)
        assert (found.digest, found.warnings) == (first.digest, first.warnings)
        found.train_images[:] = 0  # its own copy of it
    (folder,) = (tmp_path / "cache" / "images").iterdir()
    for damage in (b"", (folder / "train_images.npy").read_bytes()[:-7]):
        (folder / "train_images.npy").write_bytes(damage)
        _same(data.load(name, tmp_path), train, test)
    assert list((tmp_path / "cache" / "images").iterdir()) == [folder]


def test_a_cache_that_cannot_take_the_images_costs_memory_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "SMALL", 0)
    train, test = _random(builtin.MNIST)
    _write_mnist(tmp_path, train, test, ".gz")
    with monkeypatch.context() as patch:
        patch.setattr(mapped, "SHARE", 0.0)
        _same(data.load("mnist", tmp_path), train, test)

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(mapped.np, "save", full)
    _same(data.load("mnist", tmp_path), train, test)
    assert list((tmp_path / "cache" / "images").iterdir()) == []


def test_a_copy_that_is_not_the_official_one_is_used_and_the_file_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = _random(builtin.CIFAR10)
    folder = _write_binary(tmp_path, "cifar10", train, test)
    sha1 = {path.name: hashlib.sha1(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    official = sha1["test_batch.bin"]
    raw = bytearray((folder / "test_batch.bin").read_bytes())
    raw[100] ^= 1
    (folder / "test_batch.bin").write_bytes(raw)
    registry: Registry[DatasetSpec] = Registry("data set")
    registry.add("cifar10", dataclasses.replace(builtin.CIFAR10, **{**SMALL, "sha1": sha1}), "test")
    monkeypatch.setattr(loading, "DATASETS", registry)
    (warning,) = data.load("cifar10", tmp_path).warnings
    assert warning == (
        "CIFAR-10: test_batch.bin differs from the official file; it has sha1 "
        f"{hashlib.sha1(raw).hexdigest()} and should have {official}."
    )
    raw[100] ^= 1
    (folder / "test_batch.bin").write_bytes(raw)
    assert data.load("cifar10", tmp_path).warnings == ()


def test_a_pickle_that_is_not_official_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _write_python(tmp_path, "cifar100", *_random(builtin.CIFAR100), monkeypatch)

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "opened",))  # type: ignore[return-value]

    (folder / "test").write_bytes(pickle.dumps(Trap()))
    _fails("cifar100", tmp_path, f"{folder / 'test'} has md5", "is not opened")
    assert not (tmp_path / "opened").exists()


def test_cifar_truncated(tmp_path: Path) -> None:
    folder = _write_binary(tmp_path, "cifar10", *_random(builtin.CIFAR10))
    file = folder / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-1])
    _fails("cifar10", tmp_path, str(file), "6145 bytes", "6146", "2 records of 3073")
    file.write_bytes(b"")
    _fails("cifar10", tmp_path, "holds 0 bytes")


def test_cifar_wrong_label(tmp_path: Path) -> None:
    folder = _write_binary(tmp_path, "cifar100", *_random(builtin.CIFAR100))
    raw = bytearray((folder / "test.bin").read_bytes())
    raw[2 * 3074] = 255  # a coarse label, which nothing reads
    (folder / "test.bin").write_bytes(raw)
    data.load("cifar100", tmp_path)
    raw[2 * 3074 + 1] = 100
    (folder / "test.bin").write_bytes(raw)
    _fails("cifar100", tmp_path, str(folder / "test.bin"), "label 100 at record 2", "0 to 99")


def test_missing_files_are_named(tmp_path: Path) -> None:
    _fails(
        "cifar100", tmp_path, f"CIFAR-100 is not under {tmp_path}", "cifar-100-binary/{train,test}.bin", "--data-root"
    )
    folder = _write_binary(tmp_path, "cifar100", *_random(builtin.CIFAR100))
    (folder / "test.bin").unlink()
    _fails("cifar100", tmp_path, f"{folder / 'test.bin'} of CIFAR-100 is missing", builtin.CIFAR100.url, "--download")
    raw = _write_mnist(tmp_path, *_random(builtin.MNIST))
    (raw / "t10k-labels-idx1-ubyte").unlink()
    _fails("mnist", tmp_path, f"{raw / 't10k-labels-idx1-ubyte'} of MNIST is missing")
    _fails("fashion_mnist", tmp_path, "Fashion-MNIST is not under")


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_plain_and_gzipped_agree(name: str, folder: str, tmp_path: Path) -> None:
    train, test = _random(builtin.MNIST)
    _write_mnist(tmp_path / "plain", train, test, folder=folder)
    _write_mnist(tmp_path / "packed", train, test, ".gz", folder)
    plain, packed = data.load(name, tmp_path / "plain"), data.load(name, tmp_path / "packed")
    _same(plain, train, test)
    _same(packed, train, test)
    assert plain.digest == packed.digest
    assert isinstance(plain.train_images, np.memmap)
    assert packed.train_images.flags.writeable


def test_idx_damaged(tmp_path: Path) -> None:
    raw = _write_mnist(tmp_path, *_random(builtin.MNIST))
    file = raw / "train-images-idx3-ubyte"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    _fails("mnist", tmp_path, str(file), f"{len(whole) - 5} bytes", str(len(whole)))
    _write_idx(file, np.zeros((9, 28, 28), dtype=np.uint8))
    _fails("mnist", tmp_path, str(file), "uint8 (10, 28, 28)", "the header of uint8 (9, 28, 28)")
    for head in (b"", b"\0\0", b"\0\0\x08\x03\0\0", b"<html>, not found"):
        file.write_bytes(head)
        _fails("mnist", tmp_path, str(file), f"the bytes {head[:4].hex() or '(none)'}")
    file.write_bytes(whole)
    _write_idx(raw / "t10k-labels-idx1-ubyte", np.array([0, 1, 10, 2], dtype=np.uint8))
    _fails("mnist", tmp_path, "t10k-labels-idx1-ubyte", "label 10 at record 2", "0 to 9")


def test_idx_damaged_gz(tmp_path: Path) -> None:
    raw = _write_mnist(tmp_path, *_random(builtin.MNIST), ".gz")
    file = raw / "t10k-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    for damaged in (whole[:-9], b"not gzip", whole[:40] + b"\xff" * 60 + whole[100:]):
        file.write_bytes(damaged)
        _fails("mnist", tmp_path, f"{file} cannot be unpacked")
