"""Trainings on images in files: the same bits however they are read, and what happens when a file is damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import Bench, registries_kept, same_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import CLASSES, PICTURES, TRAIN, write_pictures
from test_cli import Cli, cli  # noqa: F401

from kdbench import plugins
from kdbench.data import DATASETS, Dataset, load
from kdbench.data.decoders import Decoders, Pending, decoders
from kdbench.data.decoding import decode
from kdbench.data.files import ImageFiles
from kdbench.errors import DataError, UserError
from kdbench.jobs import cohort
from kdbench.measure.evaluate import logits_of
from kdbench.models.factory import create
from kdbench.plan.fleet import Device, Fleet, cpu
from kdbench.protocol import Protocol
from kdbench.schedule import local
from kdbench.schedule.base import Grant
from kdbench.schedule.devices import cores
from kdbench.suites import Suite
from kdbench.train.batches import Batch, Batches
from kdbench.train.file_batches import FileBatches, make_batches
from kdbench.train.member import Member
from kdbench.trials.teacher import Normalisation
from kdbench.trials.trial import Trial

PROTOCOL, NORM = Protocol(epochs=1, batch=2, lr=0.1), Normalisation((), ())
MakeSuite = Callable[[str], Suite]
CPU = torch.device("cpu")
IMAGES, BATCH, EPOCHS = TRAIN * len(CLASSES), 8, 3
STEPS = -(-IMAGES // BATCH)

SUITE = f"""
name = "thumbnails"
version = 1
title = "Thumbnails"
summary = "For tests."
dataset = "pictures"
seeds = [0]

[protocol]
epochs = 2
batch = {BATCH}
lr = 0.05
schedule = "constant"
augmentation = "resized_crop_flip"
holdout = 3

[teachers.tutor]
kind = "trained"
model = "tiny_cnn_s"
seed = 100
protocol = {{epochs = 1}}

[[pairs]]
teacher = "tutor"
student = "tiny_cnn_s"

[[methods]]
name = "ce"

[[methods]]
name = "kd"

[[methods]]
name = "fitnet"
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = write_pictures(tmp_path_factory.mktemp("root") / "pictures").parent
    with registries_kept():
        DATASETS.add("pictures", PICTURES, "test")
        return load("pictures", root)


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, Decoders]]:
    made = {count: Decoders(count) for count in (0, 1, 2)}
    yield made
    for pool in made.values():
        pool.close()


def batches(dataset: Dataset, pool: Decoders | None = None, seed: int = 0, **fields: Any) -> FileBatches:
    given = {"epochs": EPOCHS, "batch": BATCH, "lr": 0.1, "augmentation": "resized_crop_flip", **fields}
    return FileBatches(dataset, Protocol(**given), seed, 0, CPU, pool=pool)


def same(one: Batch, other: Batch) -> bool:
    tensors = [(getattr(one, name), getattr(other, name)) for name in ("x", "y", "index")]
    tensors += [(one.views[name], other.views[name]) for name in other.views]
    return all(torch.equal(a, b) for a, b in tensors)


def by_place(made: FileBatches, epoch: int = 0) -> torch.Tensor:
    """The images of an epoch in the order of the training split."""
    shown = [made.batch(epoch * made.steps_per_epoch + step) for step in range(made.steps_per_epoch)]
    return torch.cat([batch.x for batch in shown])[torch.cat([batch.index for batch in shown]).argsort()]


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(-STEPS, EPOCHS * STEPS - 1), min_size=1, max_size=5), st.booleans())
def test_a_batch_is_the_same_whoever_decodes_it_and_whenever(
    dataset: Dataset, pools: dict[int, Decoders], steps: list[int], strong: bool
) -> None:
    """From a resume at any step on, in any order, asked for once more, and with or without another view."""
    alone, one, two = (batches(dataset, pools[count]) for count in (0, 1, 2))
    for step in steps:
        wanted = alone.batch(step)
        assert all(same(made.batch(step, ["strong"] if strong else []), wanted) for made in (one, two))
        assert all(same(made.batch(step), wanted) for made in (one, two))
        assert same(one.batch(step, ["strong"]), two.batch(step, ["strong"]))


def test_whole_trainings_are_the_same(dataset: Dataset, pools: dict[int, Decoders]) -> None:
    every = [batches(dataset, pools[count]) for count in (0, 1, 2)]
    assert every[0].total_steps == EPOCHS * STEPS
    for step in range(EPOCHS * STEPS):
        first, *others = [made.batch(step) for made in every]
        assert all(same(other, first) for other in others)
        assert first.x.shape == (len(first.y), 3, 32, 32)
        assert first.x.is_contiguous(memory_format=torch.channels_last)
        assert 0 <= first.x.min() < first.x.max() <= 1
    assert len(first.y) == IMAGES - (STEPS - 1) * BATCH


def test_an_epoch_shows_every_image_once_with_its_label(dataset: Dataset) -> None:
    made = batches(dataset, holdout=3)
    assert len(made.train) == IMAGES - 3
    shown = [made.batch(step) for step in range(made.steps_per_epoch)]
    index, y = (torch.cat([getattr(batch, name) for batch in shown]) for name in ("index", "y"))
    assert sorted(index.tolist()) == list(range(IMAGES - 3))
    assert np.array_equal(y.numpy(), dataset.train_labels[made.train][index.numpy()])


def test_a_crop_depends_on_seed_epoch_and_sample_alone(dataset: Dataset) -> None:
    first = by_place(batches(dataset))
    assert torch.equal(by_place(batches(dataset, batch=11)), first)
    for other in (by_place(batches(dataset), epoch=1), by_place(batches(dataset, seed=1))):
        assert not any(torch.equal(one, another) for one, another in zip(first, other, strict=True))
    strong = batches(dataset).batch(0, ["strong"])
    assert not any(torch.equal(one, other) for one, other in zip(strong.x, strong.views["strong"], strict=True))


def test_as_they_are(dataset: Dataset, pools: dict[int, Decoders]) -> None:
    """Without augmentation, for a method's look at the training set, and for the teacher's kept outputs."""
    assert isinstance(dataset.train_images, ImageFiles)
    pictures = decode(list(dataset.train_images.paths()), PICTURES.image_shape).permute(0, 3, 1, 2) / 255
    made = batches(dataset, pools[2])
    plain = list(made.plain(7))
    assert torch.equal(torch.cat([batch.x for batch in plain]), pictures)
    assert torch.cat([batch.index for batch in plain]).tolist() == list(range(IMAGES))
    assert torch.equal(torch.cat([batch.y for batch in plain]), made.labels)
    assert torch.equal(made.of(torch.tensor([5, 3])).x, pictures[[5, 3]])
    still = batches(dataset, augmentation="none")
    assert torch.equal(by_place(still, epoch=2), pictures)
    assert still.batch(0, ["strong"]).views["strong"].shape == (BATCH, 3, 32, 32)


def test_what_cannot_be_done_to_files_is_refused(dataset: Dataset) -> None:
    with pytest.raises(UserError, match="'crop_flip' is not offered for images in files; choose one of none, resized"):
        batches(dataset, augmentation="crop_flip")
    made = make_batches(dataset, Protocol(epochs=1, batch=2, lr=0.1, augmentation="none"), 0, 0, CPU)
    assert isinstance(made, FileBatches)
    memory = replace(dataset, train_images=np.zeros((IMAGES, 3, 32, 32), np.uint8))
    made = make_batches(memory, Protocol(epochs=1, batch=2, lr=0.1), 0, 0, CPU)
    assert type(made) is Batches


def test_one_set_of_processes_serves_all(dataset: Dataset) -> None:
    assert batches(dataset).pool is batches(dataset, seed=1).pool is decoders()


def test_a_network_is_scored_on_files_as_on_an_array(dataset: Dataset) -> None:
    network = create("tiny_cnn_s", classes=3, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    assert isinstance(dataset.test_images, ImageFiles)
    array = decode(list(dataset.test_images.paths()), PICTURES.image_shape).permute(0, 3, 1, 2).numpy()
    (files, seconds), (memory, _) = (logits_of(network, images, CPU) for images in (dataset.test_images, array))
    assert torch.equal(files, memory)
    assert seconds > 0


@pytest.fixture
def suite(bench: Bench, make_suite: MakeSuite) -> Suite:
    write_pictures(bench.folder / "data" / "pictures")
    DATASETS.add("pictures", PICTURES, "test")
    return make_suite(SUITE)


def test_a_cohort_and_its_teacher(bench: Bench, suite: Suite) -> None:
    records = bench.train(bench.trials(suite))
    assert {record["status"] for record in records.values()} == {"finished"}
    for record in records.values():
        assert [point["epoch"] for point in record["curve"]] == [1, 2]
        assert record["scores"]["best_val"] is not None
    other = bench.again("side by side")
    other.cores = 2
    write_pictures(other.folder / "data" / "pictures")
    again = other.train(other.trials(suite))
    assert all(same_bits(again[label], record) for label, record in records.items())


def test_an_image_is_decoded_once_for_all_students(bench: Bench, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """To train on it, to score on it as a test image, and to score on it as one that was held out."""
    asked: Counter[Path] = Counter()
    decode_some = Decoders.decode

    def counted(self: Decoders, images: ImageFiles, words: Any = None) -> Pending:
        asked.update(map(Path, map(os.fsdecode, images.paths())))
        return decode_some(self, images, words)

    monkeypatch.setattr(Decoders, "decode", counted)
    bench.train(bench.trials(suite, "kd"))
    alone = asked.copy()
    asked.clear()
    other = Bench(bench.folder, cores=2)
    shutil.rmtree(bench.folder / "results")
    shutil.rmtree(bench.folder / "cache")
    records = other.train(other.trials(suite))
    assert {record["cost"]["cohort_size"] for record in records.values()} == {3}
    assert len(alone) == IMAGES + 4 * len(CLASSES)
    assert asked == alone


def test_a_worker_on_a_gpu_has_its_share_of_the_cores(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    task = bench.template(Trial("s@1", "digits", "0", PROTOCOL, "m", NORM, "p", None, "ce", 1, {}, seed=0, label="ce"))

    def decoders_of(*devices: str) -> str:
        fleet = Fleet("cuda", tuple(map(Device, devices))) if devices else cpu(2)
        return local.environment(Grant(1, task, 0, (0,)), fleet, cores())["KDBENCH_DECODERS"]

    assert decoders_of("0", "1") == str(cores() // 2)
    assert decoders_of() == "0"
    monkeypatch.setenv("KDBENCH_DECODERS", "3")
    assert decoders_of("0", "1") == "3"


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_damaged_file_stops_the_training_and_loses_nothing(
    bench: Bench, suite: Suite, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    whole = bench.again("undisturbed")
    write_pictures(whole.folder / "data" / "pictures")
    expected = whole.train(whole.trials(suite, "ce"))["ce"]
    trials = bench.trials(suite, "ce")
    damaged = sorted((bench.folder / "data" / "pictures" / part / "n02").iterdir())
    content = {path: path.read_bytes() for path in damaged}
    monkeypatch.setattr(cohort, "CHECKPOINT_SECONDS", 0.0)
    step = Member.step

    def spoil(self: Member, *arguments: Any) -> None:
        """In the second epoch, when the data set was identified long ago."""
        if self.position == 5:
            for path in damaged:
                path.write_bytes(content[path][:200].ljust(len(content[path]), b"\0"))
        step(self, *arguments)

    monkeypatch.setattr(Member, "step", spoil)
    with pytest.raises(DataError, match=r"n02_\d\.JPEG cannot be decoded"):
        bench.train(trials)
    assert bench.records() == {}
    monkeypatch.setattr(Member, "step", step)
    for path in damaged:
        path.write_bytes(content[path])
    record = bench.train(trials)["ce"]
    assert record["provenance"]["resumed"] == 1
    assert same_bits(record, expected)


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["here", "real"])
def test_from_the_command_line_with_a_plugins_data_set(
    cli: Cli,  # noqa: F811
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    real: bool,
) -> None:
    """With a process that decodes; and, in the slow form, for a worker in a process of its own."""
    write_pictures(bench.folder / "data" / "pictures")
    packages = bench.install(datasets={"pictures": "pictures:PICTURES"}, suites={"thumbnails": "own_suite:TEXT"})
    (packages / "own_suite.py").write_text(f"TEXT = {SUITE!r}\n", encoding="utf-8")
    monkeypatch.setenv("KDBENCH_DECODERS", "1")
    words = ["run", "--suite", "thumbnails", "--device", "cpu", "--method", "ce", "--results", "results"]
    if real:
        command, environment = (
            [sys.executable, "-m", "kdbench", *words],
            bench.environment(packages, Path(__file__).parent),
        )
        run = subprocess.run(command, env=environment, cwd=bench.folder, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
    else:
        monkeypatch.syspath_prepend(str(packages))
        monkeypatch.setattr(plugins, "_loaded", set())
        assert cli(*words).code == 0
    assert bench.records()["ce"]["status"] == "finished"
