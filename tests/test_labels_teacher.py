"""A teacher that is a file of labels: what it says, what it teaches, and what is said of a file that is no such."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bench import Bench, suite_text

from kdbench.composition.labels import Labels
from kdbench.data import DatasetSpec, load, loading
from kdbench.data.builtin import CIFAR10H
from kdbench.errors import DataError, UserError
from kdbench.suites import Suite, parse_suite
from kdbench.teachers.labels import logits_in
from kdbench.trials.trial import teacher_identity

MakeSuite = Callable[[str], Suite]
DATA = "a" * 64


def saved(table: np.ndarray, path: Path | None = None) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, table)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def kind(content: bytes, file: str = "people.npy") -> str:
    return f'kind = "labels"\nfile = "{file}"\nsha256 = "{hashlib.sha256(content).hexdigest()}"'


def test_counts_become_the_logarithms_of_shares() -> None:
    said = logits_in(saved(np.array([[3, 1, 0], [0, 0, 2]], np.uint8)), 2, 3, Path("x.npy"))
    torch.testing.assert_close(said.exp(), torch.tensor([[0.75, 0.25, 0], [0, 0, 1]]), atol=3e-6, rtol=0)
    assert torch.isfinite(said).all()
    torch.testing.assert_close(said.exp().sum(1), torch.ones(2))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (np.ones((3, 2)), "holds 3 x 2 numbers, and rows for 2 images of 2 classes are wanted"),
        (np.ones(2), "holds 2 numbers"),
        (np.array([[1.0, -1], [1, 1]]), "rows that are no shares"),
        (np.array([[0, 0], [1, 1]]), "rows that are no shares"),
        (np.array([[np.nan, 1], [1, 1]]), "rows that are no shares"),
        (np.array([["a", "b"], ["c", "d"]]), "no table of numbers"),
        (np.array([[None, 1], [1, 1]]), "holds no labels"),
    ],
)
def test_a_file_of_something_else_is_a_sentence(table: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        logits_in(saved(table), 2, 2, Path("x.npy"))
    with pytest.raises(DataError, match="holds no labels"):
        logits_in(b"no array", 2, 2, Path("x.npy"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("", "give the file, and its sha256"),
        ('file = "x.npy"', "comes with its sha256"),
        (f'file = "../x.npy"\nsha256 = "{DATA}"', "must be a relative path"),
        (f'file = "x.pt"\nsha256 = "{DATA}"', "must end in .npy"),
        (f'file = "x.npy"\nsha256 = "{DATA}"\nof = ["other"]', "labels has no field 'of'"),
        (f'file = "x.npy"\nsha256 = "{DATA}"\nprotocol = {{epochs = 3}}', "labels has no field 'protocol'"),
    ],
)
def test_each_mistake_is_named(more: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^s.toml.*{words}"):
        parse_suite(suite_text(["kd"], teacher=f'kind = "labels"\n{more}'), "s.toml")


def test_people_teach_what_they_said(bench: Bench, make_suite: MakeSuite) -> None:
    """Of the test images, every one is called what comes after its class: the teacher is never right, and sure."""
    dataset = load("digits", bench.folder / "data")
    labels = np.concatenate([dataset.train_labels, (dataset.test_labels + 1) % 10])
    content = saved(np.eye(10)[labels] * 50, bench.folder / "data" / "people.npy")
    suite = make_suite(suite_text(["ce", "kd", "fitnet"], epochs=1, teacher=kind(content)))
    trials = bench.trials(suite)
    assert {trial.label for trial in trials} == {"ce", "kd"}, "it has logits alone"
    record = bench.train(trials)["kd"]
    assert record["status"] == "finished"
    teacher = record["teacher"]
    assert (teacher["kind"], teacher["model"], record["teacher_model"]) == ("labels", "labels", "labels")
    assert teacher["top1"] == 0
    assert teacher["degrees"][0] == {"top_k": 1, "unreliability": 1.0, "ambiguity": 1.0}
    assert record["pair"].startswith("tutor:")
    identity = record["identity"]["teacher"]
    assert (identity["kind"], identity["sha256"], identity["parts"]) == (
        "labels",
        hashlib.sha256(content).hexdigest(),
        [],
    )


def test_another_file_is_refused_and_makes_another_key(bench: Bench, make_suite: MakeSuite) -> None:
    table = np.ones((1797, 10))
    content = saved(table, bench.folder / "data" / "people.npy")
    suite = make_suite(suite_text(["kd"], epochs=1, teacher=kind(content)))
    saved(table * 2, bench.folder / "data" / "people.npy")
    with pytest.raises(DataError, match="are not those of the suite"):
        bench.train(bench.trials(suite))
    (bench.folder / "data" / "people.npy").unlink()
    with pytest.raises(DataError, match="put the file there"):
        bench.train(bench.trials(suite))
    other = parse_suite(suite_text(["kd"], teacher=kind(saved(table * 2))), "s.toml").teachers["tutor"]
    assert teacher_identity(suite.teachers["tutor"], "digits", DATA) != teacher_identity(other, "digits", DATA)
    assert Labels(file="x.npy", sha256=DATA).problem() == ""


def test_the_images_that_people_labelled_are_the_test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"train_size": 8, "test_size": 2, "sha1": {}, "test_labels": None}
    spec = DatasetSpec(**{**{name: getattr(CIFAR10H, name) for name in CIFAR10H.__dataclass_fields__}, **small})
    images = np.random.default_rng(0).integers(0, 256, (10, 3072), dtype=np.uint8)
    rows = np.concatenate([np.arange(10, dtype=np.uint8)[:, None], images], 1)
    folder = tmp_path / "cifar-10-batches-bin"
    with pytest.raises(DataError, match="is not under"):
        loading._loader(spec)(spec, tmp_path)
    folder.mkdir()
    (folder / "test_batch.bin").write_bytes(rows.tobytes())
    train, test = loading._loader(spec)(spec, tmp_path).read()
    assert (train.labels.tolist(), test.labels.tolist()) == (list(range(8)), [8, 9])
    assert (np.asarray(test.images).reshape(2, -1) == images[8:]).all()
