"""The registry of data sets, the digits, content digests and their cache, splits and folders."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench import data
from kdbench.data import identity, loading
from kdbench.data.builtin import CIFAR10, DIGITS
from kdbench.data.spec import DatasetSpec, Part, Source
from kdbench.errors import DataError, UnknownName, UserError
from kdbench.paths import cache_dir
from kdbench.registry import Registry

REAL = os.environ.get("KDBENCH_DATA")


# A data set of a plugin: what its loader gives is set by each test.
BLOBS = dataclasses.replace(
    DIGITS, name="blobs", title="Blobs", train_size=4, test_size=2, digest=None, loader="test_data:blobs", classes=3
)
_given: dict[str, Source] = {}


def blobs(spec: DatasetSpec, root: Path) -> Source:
    return _given["source"]


def _part(size: int, fill: int = 0) -> Part:
    return Part(np.full((size, 1, 8, 8), fill, dtype=np.uint8), np.arange(size, dtype=np.int64) % 3)


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> dict[str, Source]:
    registry: Registry[DatasetSpec] = Registry("data set")
    registry.add("blobs", BLOBS, "test")
    monkeypatch.setattr(loading, "DATASETS", registry)
    monkeypatch.setitem(sys.modules, "test_data", sys.modules[__name__])
    return _given


def test_import_needs_no_torch() -> None:
    code = "import sys, kdbench.data.cifar, kdbench.data.digits, kdbench.data.idx; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_builtin_spec_is_whole() -> None:
    assert data.DATASETS.names() == [
        "cifar10",
        "cifar100",
        "cifar10h",
        "digits",
        "fashion_mnist",
        "imagenet",
        "mnist",
        "multiview",
        "one_feature",
    ]
    for name in data.DATASETS:
        spec = data.DATASETS.get(name)
        assert len(spec.mean) == len(spec.std) == spec.image_shape[0]
        assert all(0 < value < 1 for value in spec.mean + spec.std)
        assert spec.url.startswith("https://")
        assert callable(loading._loader(spec))
        assert hash(spec) == hash(dataclasses.replace(spec))


def test_downloadable_names_a_class_of_torchvision() -> None:
    from torchvision import datasets

    classes = {n: data.DATASETS.get(n).torchvision for n in data.DATASETS if data.DATASETS.get(n).downloadable}
    assert sorted(classes) == ["cifar10", "cifar100", "fashion_mnist", "mnist"]
    assert all(hasattr(datasets, str(name)) for name in classes.values())


def test_digits_are_the_pinned_ones() -> None:
    digits = data.load("digits")
    assert digits.digest == DIGITS.digest
    assert digits.warnings == ()
    assert digits.train_images.shape == (1297, 1, 8, 8)
    assert digits.test_images.shape == (500, 1, 8, 8)
    # The first image of scikit-learn's table, row 0, which our split puts into one of the parts.
    row = np.rint(np.array([0, 0, 5, 13, 9, 1, 0, 0]) * 255 / 16)
    assert any((images[0, 0, 0] == row).all() for images in (digits.train_images, digits.test_images))
    everything = np.concatenate([digits.train_images, digits.test_images])
    assert everything.min() == 0
    assert everything.max() == 255
    assert len(np.unique(everything)) == 17
    shares = np.bincount(digits.test_labels) / (np.bincount(digits.train_labels) + np.bincount(digits.test_labels))
    np.testing.assert_allclose(shares, 500 / 1797, atol=0.006)


def test_statistics_of_the_digits() -> None:
    scaled = data.load("digits").train_images / 255
    assert (round(scaled.mean(), 4), round(scaled.std(), 4)) == (DIGITS.mean[0], DIGITS.std[0])


def test_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(UnknownName, match="cifar100"):
        data.load("cifar-100")


def test_digest_sees_images_labels_order_and_part_but_not_layout() -> None:
    images = np.arange(5 * 12, dtype=np.uint8).reshape(5, 3, 2, 2)
    labels = np.arange(5, dtype=np.int64)
    whole = identity.content_digest(Part(images, labels), Part(images, labels))
    padded = np.zeros((5, 14), dtype=np.uint8)
    padded[:, 2:] = images.reshape(5, -1)
    view = padded[:, 2:].reshape(5, 3, 2, 2)
    assert identity.content_digest(Part(view, labels.astype(">i8")), Part(images, labels)) == whole
    other = images.copy()
    other[4, 2, 1, 1] ^= 1
    changed = [
        (Part(other, labels), Part(images, labels)),
        (Part(images, labels), Part(other, labels)),
        (Part(images, labels[::-1]), Part(images, labels)),
        (Part(images[::-1], labels), Part(images, labels)),
        (Part(images.reshape(5, 1, 6, 2), labels), Part(images, labels)),
    ]
    assert len({whole, *(identity.content_digest(*parts) for parts in changed)}) == 6


def test_digest_does_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part(np.arange(7 * 64, dtype=np.uint8).reshape(7, 1, 8, 8), np.arange(7, dtype=np.int64))
    whole = identity.content_digest(part, part)
    monkeypatch.setattr(identity, "_CHUNK", 3)
    assert identity.content_digest(part, part) == whole


@pytest.mark.parametrize(("hashed", "looks"), [(0, 1), (2**30, 2)])
def test_identify_reads_large_data_sets_once_until_a_file_changes_and_small_ones_each_time(
    tmp_path: Path, plugged: dict[str, Source], monkeypatch: pytest.MonkeyPatch, hashed: int, looks: int
) -> None:
    monkeypatch.setattr(loading, "HASHED", hashed)
    file = tmp_path / "blobs.bin"
    file.write_bytes(b"one")
    reads: list[int] = []

    def read() -> tuple[Part, Part]:
        reads.append(1)
        return _part(4, len(file.read_bytes())), _part(2)

    plugged["source"] = Source((file,), read)
    first = data.identify("blobs", tmp_path)
    assert data.identify("blobs", tmp_path) == first
    assert len(reads) == looks
    file.write_bytes(b"another")
    assert data.identify("blobs", tmp_path)[0] != first[0]
    assert len(reads) == looks + 1


def test_what_has_no_files_is_looked_at_each_time(
    tmp_path: Path, plugged: dict[str, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "HASHED", 0)
    fills = iter(range(9))
    plugged["source"] = Source((), lambda: (_part(4, next(fills)), _part(2)))
    assert len({data.identify("blobs", tmp_path)[0], data.load("blobs", tmp_path).digest}) == 2


def test_identify_survives_a_damaged_or_unwritable_cache(tmp_path: Path, plugged: dict[str, Source]) -> None:
    file = tmp_path / "blobs.bin"
    file.write_bytes(b"one")
    plugged["source"] = Source((file,), lambda: (_part(4), _part(2)))
    first = data.identify("blobs", tmp_path)
    (entry,) = (tmp_path / "cache" / "identity").iterdir()
    entry.write_text('{"digest":')
    assert data.identify("blobs", tmp_path) == first
    entry.unlink()
    entry.parent.rmdir()
    entry.parent.write_text("a file where the folder should be")
    assert data.identify("blobs", tmp_path) == first


def test_warnings_say_what_is_known(
    tmp_path: Path, plugged: dict[str, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "blobs.bin"
    file.write_bytes(b"one")
    source = Source((file,), lambda: (_part(4), _part(2)))
    digest = identity.content_digest(*source.read())
    sha1 = "fe05bcdcdc4928012781a5f1a2a77cbb5398e106"  # of b"one"
    assert "cannot be verified" in identity.differences(BLOBS, source, digest)[0]
    assert identity.differences(dataclasses.replace(BLOBS, digest=digest), source, digest) == ()
    other = dataclasses.replace(BLOBS, digest="0" * 64)
    assert identity.differences(other, source, digest) == (
        f"Blobs: the content digest is {digest[:16]}, the official one is {'0' * 16}.",
    )
    pinned = dataclasses.replace(BLOBS, sha1={"blobs.bin": "1" * 40})
    assert identity.differences(pinned, source, digest) == (
        f"Blobs: blobs.bin differs from the official file; it has sha1 {sha1} and should have {'1' * 40}.",
    )
    several = dataclasses.replace(source, files=tuple(tmp_path / name for name in ("a.bin", "b.bin", "c.bin")))
    for path in several.files:
        path.write_bytes(b"one")
    sums = {"a.bin": sha1, "b.bin": "2" * 40, "c.bin": "3" * 40}
    assert identity.differences(dataclasses.replace(BLOBS, sha1=sums), several, digest) == (
        f"Blobs: 2 files differ from the official ones: b.bin, c.bin; the first has sha1 {sha1} and should have "
        f"{'2' * 40}.",
    )
    assert identity.differences(dataclasses.replace(BLOBS, sha1={"blobs.bin": sha1}), source, digest) == ()
    assert identity.differences(BLOBS, dataclasses.replace(source, verified=True), digest) == ()
    # A content digest decides even where a file was verified or carries the right checksum.
    assert identity.differences(other, dataclasses.replace(source, verified=True), digest) != ()


def test_what_a_loader_gives_is_checked(tmp_path: Path, plugged: dict[str, Source]) -> None:
    wrong = {
        "test images are uint8 (3, 1, 8, 8), not uint8 (2, 1, 8, 8)": (_part(4), _part(3)),
        "training images are float32": (Part(_part(4).images.astype(np.float32), _part(4).labels), _part(2)),
        "training labels are int32": (Part(_part(4).images, _part(4).labels.astype(np.int32)), _part(2)),
        "label 3 at record 1": (Part(_part(4).images, np.array([0, 3, 3, 1])), _part(2)),
        "label -1 at record 0": (_part(4), Part(_part(2).images, np.array([-1, 0]))),
    }
    for text, parts in wrong.items():
        plugged["source"] = Source((), lambda parts=parts: parts)
        with pytest.raises(DataError) as error:
            data.load("blobs", tmp_path)
        assert text in str(error.value)


def test_an_unreadable_file_is_one_sentence(tmp_path: Path, plugged: dict[str, Source]) -> None:
    plugged["source"] = Source((tmp_path / "gone",), lambda: (tmp_path / "gone").read_bytes())  # type: ignore[arg-type,return-value]
    with pytest.raises(DataError, match="gone"):
        data.load("blobs", tmp_path)


def test_a_loader_that_cannot_be_imported_is_a_user_error(plugged: dict[str, Source]) -> None:
    for loader in ("no_such_module:x", "kdbench.data.digits:x", "x"):
        with pytest.raises(UserError, match="loader"):
            loading._loader(dataclasses.replace(BLOBS, loader=loader))


def test_data_root_prefers_option_then_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path / "env"))
    assert data.data_root("given") == Path("given")
    assert data.data_root(None) == tmp_path / "env"
    monkeypatch.delenv("KDBENCH_DATA")
    assert data.data_root(None) == tmp_path / "cache" / "data"
    monkeypatch.delenv("KDBENCH_CACHE")
    assert "kdbench" in str(cache_dir())


def test_downloads_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    monkeypatch.delenv("KDBENCH_DOWNLOAD", raising=False)
    assert not data.download_allowed(False)
    assert data.download_allowed(True)
    monkeypatch.setenv("KDBENCH_DOWNLOAD", "1")
    assert data.download_allowed(False)

    asked: list[Path] = []

    def offline(root: Path, download: bool) -> None:
        asked.append(root)
        raise RuntimeError("Error downloading:\nno network")

    monkeypatch.setattr(datasets, "CIFAR10", offline)
    with pytest.raises(DataError, match="--data-root or KDBENCH_DATA"):
        data.load("cifar10", tmp_path / "data")
    assert asked == []
    with pytest.raises(DataError, match=r"could not be downloaded into .* \(Error downloading: no network\)") as error:
        data.load("cifar10", tmp_path / "data", download=True)
    assert asked == [tmp_path / "data"]
    assert "\n" not in str(error.value)
    assert CIFAR10.files in str(error.value)


@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=80).flatmap(
        lambda labels: st.tuples(st.just(labels), st.integers(0, len(labels) - 1), st.integers(0, 2**40))
    )
)
@settings(max_examples=60)
def test_split_is_exact_stratified_and_disjoint(case: tuple[list[int], int, int]) -> None:
    labels, holdout, seed = np.array(case[0]), case[1], case[2]
    train, held = data.split(labels, holdout, seed)
    assert len(held) == holdout
    assert train.dtype == held.dtype == np.int64
    assert (np.sort(np.concatenate([train, held])) == np.arange(len(labels))).all()
    assert (np.diff(train) > 0).all()
    assert (np.diff(held) > 0).all()
    for label in np.unique(labels):
        share = (labels == label).sum() * holdout / len(labels)
        assert abs((labels[held] == label).sum() - share) < 1


def test_split_is_drawn_at_random_within_a_class() -> None:
    labels = np.zeros(200, dtype=np.int64)
    counts = np.zeros(200)
    for seed in range(400):
        counts[data.split(labels, 50, seed)[1]] += 1
    # Binomial(400, 1/4): mean 100, standard deviation 8.7; five of them hold for all 200 places.
    assert counts.min() > 56
    assert counts.max() < 144


def test_split_depends_on_seed_and_purpose_and_is_pinned() -> None:
    labels = np.arange(1000, dtype=np.int64) % 7
    digest = data.split_digest(*data.split(labels, 100, 0))
    assert digest == "5eb3cd35d06e64da9d975129501a7d596e230b33b7a231753926739a83649389"
    others = [data.split(labels, 100, 1), data.split(labels, 100, 0, "test"), data.split(labels, 101, 0)]
    assert len({digest, *(data.split_digest(*other) for other in others)}) == 4


def test_split_refuses_impossible_sizes() -> None:
    labels = np.zeros(5, dtype=np.int64)
    for holdout in (-1, 5, 6):
        with pytest.raises(UserError, match="0 to 4"):
            data.split(labels, holdout, 0)


@pytest.mark.skipif(not REAL, reason="KDBENCH_DATA is not set")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_real_copies(name: str) -> None:
    """Official copies load without a warning, others say what differs; the statistics of the spec are measured."""
    spec = data.DATASETS.get(name)
    try:
        found = data.load(name, Path(str(REAL)))
    except DataError as error:
        pytest.skip(str(error))
    if spec.digest is None:
        assert all("has sha1" in warning for warning in found.warnings)
        assert len(found.warnings) < 2
    else:
        assert (found.warnings == ()) == (found.digest == spec.digest)
    assert data.identify(name, Path(str(REAL))) == (found.digest, found.warnings)
    for channel, mean, std in zip(range(spec.image_shape[0]), spec.mean, spec.std, strict=True):
        counts = (
            np.bincount(found.train_images[:, channel].ravel(), minlength=256) / found.train_images[:, channel].size
        )
        values = np.arange(256) / 255
        assert counts @ values == pytest.approx(mean, abs=6e-5)
        assert np.sqrt(counts @ values**2 - (counts @ values) ** 2) == pytest.approx(std, abs=6e-5)
    assert (np.bincount(found.test_labels) > 0).sum() == spec.classes
