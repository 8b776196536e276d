"""Whatever becomes of a data set's files or of what is kept of it: it is noticed, made again, and never trained on."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bench import Bench, same_bits, suite_text
from pictures import PICTURES, write_pictures
from test_data_files import _random, _write_binary, _write_mnist, _write_python

from kdbench import data
from kdbench.cli import main
from kdbench.data import builtin, cifar, identity, loading, mapped
from kdbench.data.digits import digits
from kdbench.data.files import ImageFiles
from kdbench.data.spec import DatasetSpec, Part
from kdbench.errors import UserError
from kdbench.jobs.worker import run
from kdbench.registry import Registry
from kdbench.suites import parse_suite

SMALL = {"train_size": 10, "test_size": 4, "digest": None, "sha1": {}}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in data sets, of 10 + 4 images; what no file holds as it is is kept, small as it is."""
    registry: Registry[DatasetSpec] = Registry("data set")
    for spec in builtin.BUILTIN:
        registry.add(spec.name, dataclasses.replace(spec, **SMALL), "test")
    monkeypatch.setattr(loading, "DATASETS", registry)
    monkeypatch.setattr(mapped, "SMALL", 0)


@pytest.fixture
def five(tmp_path: Path) -> tuple[Part, Part]:
    """CIFAR-10 in its five files, seen once: its images are kept."""
    parts = _random(loading.DATASETS.get("cifar10"))
    _write_binary(tmp_path, "cifar10", *parts)
    data.load("cifar10", tmp_path)
    return parts


def kept(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "cache" / "images").iterdir()
    return folder


def entry(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "cache" / "identity").iterdir()
    return file


def holds(found: data.Dataset, parts: tuple[Part, Part]) -> bool:
    """Whether ``found`` has the images and labels of ``parts``."""
    train, test = parts
    pairs = [(found.train_images, train.images), (found.train_labels, train.labels)]
    pairs += [(found.test_images, test.images), (found.test_labels, test.labels)]
    return all(np.array_equal(np.asarray(one), np.asarray(other)) for one, other in pairs)


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(path, change(np.load(path)))


# What is kept in cache/images.


def black(folder: Path) -> None:
    for part in ("train", "test"):
        rewrite(folder / f"{part}_images.npy", np.zeros_like)


def one_bit(folder: Path) -> None:
    file = folder / "test_images.npy"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    before = file.stat()
    file.write_bytes(raw)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_labels(folder: Path) -> None:
    rewrite(folder / "train_labels.npy", lambda labels: labels[::-1])


def other_order(folder: Path) -> None:
    rewrite(folder / "train_images.npy", lambda images: images[::-1])


def swapped(folder: Path) -> None:
    (folder / "train_images.npy").rename(folder / "aside")
    (folder / "test_images.npy").rename(folder / "train_images.npy")
    (folder / "aside").rename(folder / "test_images.npy")


def other_type(folder: Path) -> None:
    rewrite(folder / "train_images.npy", lambda images: images.astype(np.float32) / 255)


def other_shape(folder: Path) -> None:
    rewrite(folder / "train_images.npy", lambda images: images.reshape(len(images), -1))


def truncated(folder: Path) -> None:
    file = folder / "train_images.npy"
    file.write_bytes(file.read_bytes()[:-100])


def emptied(folder: Path) -> None:
    (folder / "train_labels.npy").write_bytes(b"")


def no_array(folder: Path) -> None:
    (folder / "train_images.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00{'descr': __import__('os'), " + b" " * 200)


def a_pickle(folder: Path) -> None:
    np.save(folder / "train_labels.npy", np.array([{"no": "labels"}] * 10, dtype=object), allow_pickle=True)


def missing(folder: Path) -> None:
    (folder / "test_labels.npy").unlink()


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


@pytest.mark.parametrize(
    "damage",
    [
        black,
        one_bit,
        other_labels,
        other_order,
        swapped,
        other_type,
        other_shape,
        truncated,
        emptied,
        no_array,
        a_pickle,
        missing,
    ],
)
def test_kept_images_are_hashed_as_they_are_read(
    damage: Callable[[Path], None], tmp_path: Path, five: tuple[Part, Part]
) -> None:
    damage(kept(tmp_path))
    assert holds(data.load("cifar10", tmp_path), five)
    assert sorted(path.name for path in kept(tmp_path).iterdir()) == [
        f"{part}_{what}.npy" for part in ("test", "train") for what in ("images", "labels")
    ]
    again = data.load("cifar10", tmp_path)
    assert holds(again, five)
    assert isinstance(again.train_images, np.memmap), "it was made again"


def test_a_file_in_the_place_of_the_folder_costs_memory_only(tmp_path: Path, five: tuple[Part, Part]) -> None:
    a_file(kept(tmp_path))
    assert holds(data.load("cifar10", tmp_path), five)


def test_what_a_killed_worker_left_unfinished_is_not_read(tmp_path: Path, five: tuple[Part, Part]) -> None:
    folder = kept(tmp_path)
    left = folder.with_name(f"{folder.name}.half")
    folder.rename(left)
    black(left)
    assert holds(data.load("cifar10", tmp_path), five)


def test_a_damaged_copy_whose_source_is_gone_is_one_sentence(tmp_path: Path, five: tuple[Part, Part]) -> None:
    black(kept(tmp_path))
    (tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_3\.bin of CIFAR-10 is missing"):
        data.load("cifar10", tmp_path)


def test_a_training_never_sees_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Black images under the official digest: weights and record are those of the sound ones."""
    registry: Registry[DatasetSpec] = Registry("data set")
    registry.add("digits", builtin.DIGITS, "test")
    monkeypatch.setattr(loading, "DATASETS", registry)
    suite = parse_suite(suite_text(["ce"], epochs=1), "tiny.toml")
    sound = bench.train(bench.trials(suite))["ce"]
    black(kept(bench.folder))
    (bench.folder / "results").rename(bench.folder / "first")
    again = bench.train(bench.trials(suite))["ce"]
    assert same_bits(sound, again)
    assert np.load(kept(bench.folder) / "test_images.npy").max() > 0, "they were made again"


# The files of a data set.


def quietly(path: Path, change: Callable[[bytearray], None]) -> None:
    """Change the bytes of a file, and put its modification time back."""
    before, raw = path.stat(), bytearray(path.read_bytes())
    change(raw)
    path.write_bytes(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip_pixel(raw: bytearray) -> None:
    raw[-1] ^= 1


def flip_label(raw: bytearray) -> None:
    raw[3074 * 3 + 1] ^= 1


def exchange_images(raw: bytearray) -> None:
    raw[2:3074], raw[3076:6148] = raw[3076:6148], raw[2:3074]


@pytest.mark.parametrize("change", [flip_pixel, flip_label, exchange_images])
def test_a_file_that_changed_with_its_old_time_is_noticed_in_every_process(
    change: Callable[[bytearray], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _write_binary(tmp_path, "cifar100", *_random(builtin.CIFAR100))
    spec = loading.DATASETS.get("cifar100")
    official = dataclasses.replace(spec, digest=identity.content_digest(*cifar.cifar100(spec, tmp_path).read()))
    registry: Registry[DatasetSpec] = Registry("data set")
    registry.add("cifar100", official, "test")
    monkeypatch.setattr(loading, "DATASETS", registry)
    assert data.identify("cifar100", tmp_path) == (official.digest, ())
    quietly(folder / "train.bin", change)
    digest, warnings = data.identify("cifar100", tmp_path)
    assert digest != official.digest
    assert "the official one is" in warnings[0]
    found = data.load("cifar100", tmp_path)
    assert (found.digest, found.warnings) == (digest, warnings)
    quietly(folder / "train.bin", change)
    assert data.identify("cifar100", tmp_path) == (official.digest, ())


def test_a_worker_refuses_what_changed_since_the_plan_and_the_next_run_plans_anew(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = digits(builtin.DIGITS, tmp_path).read()
    root = bench.folder / "data"
    spec = dataclasses.replace(
        builtin.MNIST, image_shape=(1, 28, 28), train_size=1297, test_size=500, digest=None, name="mnist"
    )
    big = [Part(np.kron(images, np.ones((1, 1, 4, 4), dtype=np.uint8))[:, :, 2:30, 2:30], y) for images, y in raw]
    folder = _write_mnist(root, *big)
    registry: Registry[DatasetSpec] = Registry("data set")
    registry.add("mnist", dataclasses.replace(spec, digest=identity.content_digest(*big)), "test")
    monkeypatch.setattr(loading, "DATASETS", registry)
    monkeypatch.setattr("kdbench.cli.doctor.DATASETS", registry)
    text = suite_text(["ce", "kd"], epochs=1).replace('dataset = "digits"', 'dataset = "mnist"')
    suite = parse_suite(text, "tiny.toml")
    tasks = bench.tasks(bench.trials(suite))
    quietly(folder / "train-images-idx3-ubyte", flip_pixel)
    for task in tasks:  # a trial without a teacher, a teacher to be trained
        if not task.after:
            with pytest.raises(UserError, match="The data set mnist changed since the run was planned; start the run"):
                run(task, bench.events.append)
    assert bench.records() == {}
    assert main(["doctor", "--data-root", str(root)]) == 0
    assert "MNIST: the content digest is" in " ".join(capsys.readouterr().out.split())
    assert set(bench.train(bench.trials(suite))) == {"ce", "kd"}


def test_doctor_looks_at_the_files_and_not_at_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle is not opened once it is damaged, though its images were kept while it was sound."""
    parts = _random(builtin.CIFAR100)
    folder = _write_python(tmp_path, "cifar100", *parts, monkeypatch)
    data.load("cifar100", tmp_path)
    quietly(folder / "train", flip_pixel)
    with pytest.raises(UserError, match="and a pickle from elsewhere is not opened"):
        data.identify("cifar100", tmp_path)
    assert holds(data.load("cifar100", tmp_path), parts), "what is kept is what was official"


def test_of_large_ones_size_and_time_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/data.md says of them, the bad with the good."""
    monkeypatch.setattr(loading, "HASHED", 100)
    folder = _write_binary(tmp_path, "cifar100", *_random(builtin.CIFAR100))
    first = data.identify("cifar100", tmp_path)
    quietly(folder / "train.bin", flip_pixel)
    assert data.identify("cifar100", tmp_path) == first
    assert data.load("cifar100", tmp_path).digest == first[0]
    (folder / "train.bin").touch()
    found = data.load("cifar100", tmp_path)
    assert found.digest != first[0]
    assert data.identify("cifar100", tmp_path)[0] == found.digest


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "HASHED", 100)
    file = _write_binary(tmp_path, "cifar100", *_random(builtin.CIFAR100)) / "train.bin"
    hashed = identity.content_digest

    def and_changed(*parts: object) -> str:
        digest = hashed(*parts)  # type: ignore[arg-type]
        raw = bytearray(file.read_bytes())
        flip_pixel(raw)
        file.write_bytes(raw)
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(identity, "content_digest", and_changed)
        before = data.load("cifar100", tmp_path).digest
    assert data.load("cifar100", tmp_path).digest != before


# Images in files.


@pytest.fixture
def home(tmp_path: Path) -> Path:
    loading.DATASETS.add("pictures", PICTURES, "test")
    return write_pictures(tmp_path / "root" / "pictures")


def test_an_image_file_of_another_size_is_another_data_set(home: Path) -> None:
    first = data.identify("pictures", home.parent)[0]
    one = home / "train" / "n01" / "n01_3.JPEG"
    with one.open("ab") as file:  # in its place, so that its folder's time stays
        file.write(b"\0")
    assert data.identify("pictures", home.parent)[0] != first


@pytest.mark.parametrize("how", ["in its place", "by another file"])
def test_an_image_file_of_the_same_size_that_was_modified_is_a_warning(home: Path, how: str) -> None:
    first, before = data.identify("pictures", home.parent)
    one = home / "train" / "n01" / "n01_3.JPEG"
    other = one.read_bytes()[::-1]
    if how == "by another file":
        one.unlink()
    one.write_bytes(other)
    os.utime(one, ns=(1, 1))
    digest, warnings = data.identify("pictures", home.parent)
    assert digest == first
    (warning,) = set(warnings) - set(before)
    assert "image files were modified since they were first looked at" in warning
    found = data.load("pictures", home.parent)
    assert found.warnings == warnings
    assert data.identify("pictures", home.parent)[1] == warnings, "it stays, and is said once"
    Path(warning.rpartition("delete ")[2].rstrip(".")).unlink()
    assert data.identify("pictures", home.parent)[1] == before


def test_workers_do_not_look_at_each_image_file_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.identify("pictures", home.parent)
    monkeypatch.setattr(ImageFiles, "listing", lambda _: pytest.fail("it was looked at again"))
    found = data.load("pictures", home.parent)
    assert (found.digest, found.warnings) == first


# What is remembered of data sets.


def with_entry(tmp_path: Path, **changes: object) -> None:
    raw = json.loads(entry(tmp_path).read_text())
    entry(tmp_path).write_text(json.dumps(raw | changes))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", '"text"', "null", '{"digest": "0"}', "[" * 100_000, "\x00\xff", '{"digest": NaN}'],
    ids=range(10),
)
def test_a_damaged_entry_costs_another_look(tmp_path: Path, five: tuple[Part, Part], text: str) -> None:
    before, first = entry(tmp_path).read_text(), data.identify("cifar10", tmp_path)
    entry(tmp_path).write_text(text)
    assert holds(data.load("cifar10", tmp_path), five)
    assert data.identify("cifar10", tmp_path) == first
    assert entry(tmp_path).read_text() == before


@pytest.mark.parametrize("changes", [{"digest": "0" * 64}, {"warnings": []}, {"stamp": "0"}, {"modified": "1"}])
def test_an_entry_that_was_edited_is_not_believed(
    tmp_path: Path, five: tuple[Part, Part], changes: dict[str, object]
) -> None:
    first = data.identify("cifar10", tmp_path)
    assert first[1], "this copy cannot be verified"
    with_entry(tmp_path, **changes)
    assert data.identify("cifar10", tmp_path) == first
    found = data.load("cifar10", tmp_path)
    assert holds(found, five)
    assert (found.digest, found.warnings) == first


def test_not_even_one_whose_checksum_is_right_decides_what_a_small_data_set_is(
    tmp_path: Path, five: tuple[Part, Part]
) -> None:
    first = data.identify("cifar10", tmp_path)
    spec = loading.DATASETS.get("cifar10")
    source = cifar.cifar10(spec, tmp_path)
    known = identity.recall(spec, source)
    assert known is not None
    identity.remember(spec, source, known._replace(digest="0" * 64))
    assert data.identify("cifar10", tmp_path)[0] == first[0]
    identity.remember(spec, source, known._replace(digest="0" * 64))
    assert data.load("cifar10", tmp_path).digest == first[0]


def test_what_an_earlier_version_left_is_not_read(tmp_path: Path, five: tuple[Part, Part]) -> None:
    """It had entries of digest and warnings alone."""
    first = data.identify("cifar10", tmp_path)
    entry(tmp_path).write_text(json.dumps({"digest": "0" * 64, "warnings": []}))
    assert data.identify("cifar10", tmp_path) == first


# Several processes, and disks that refuse.


def load_in_a_process(tmp_path: Path, barrier: object, out: object, limit: int | None = None) -> None:
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    mapped.SMALL = 0
    if barrier is not None:
        barrier.wait()  # type: ignore[attr-defined]
    found = data.load("cifar10", tmp_path)
    out.put(pickle.dumps([np.asarray(found.train_images), found.train_labels, found.digest]))  # type: ignore[attr-defined]


def in_processes(count: int, tmp_path: Path, limit: int | None = None) -> list[tuple[np.ndarray, np.ndarray, str]]:
    context = multiprocessing.get_context("fork")
    barrier, out = context.Barrier(count), context.Queue()
    arguments = (tmp_path, barrier, out, limit)
    processes = [context.Process(target=load_in_a_process, args=arguments) for _ in range(count)]
    for process in processes:
        process.start()
    found = [pickle.loads(out.get(timeout=60)) for _ in processes]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * count
    return found


@pytest.mark.parametrize("before", ["nothing", "damaged", "sound"])
def test_processes_that_write_at_once_all_get_the_images(tmp_path: Path, five: tuple[Part, Part], before: str) -> None:
    first = data.identify("cifar10", tmp_path)[0]
    if before == "nothing":
        shutil.rmtree(tmp_path / "cache")
    elif before == "damaged":
        black(kept(tmp_path))
    for images, labels, digest in in_processes(6, tmp_path):
        np.testing.assert_array_equal(images, five[0].images)
        np.testing.assert_array_equal(labels, five[0].labels)
        assert digest == first
    assert kept(tmp_path).is_dir(), "and one folder is left"
    assert mapped.opened(loading.DATASETS.get("cifar10"), first) is not None


@pytest.mark.parametrize("limit", [0, 1000])
def test_a_full_disk_costs_time_and_not_the_run(tmp_path: Path, five: tuple[Part, Part], limit: int) -> None:
    """No file may be larger than ``limit``: what is written fails as on a full disk."""
    shutil.rmtree(tmp_path / "cache")
    if (child := os.fork()) == 0:  # the answer is no file
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            code = 0 if holds(data.load("cifar10", tmp_path), five) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list((tmp_path / "cache" / "images").iterdir()) == []
    if limit == 0:
        assert list((tmp_path / "cache" / "identity").iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_costs_time_and_not_the_run(
    tmp_path: Path, five: tuple[Part, Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", "/proc/kdbench")  # where not even root makes a folder
    assert holds(data.load("cifar10", tmp_path), five)
    assert data.identify("cifar10", tmp_path)[0] == data.load("cifar10", tmp_path).digest
