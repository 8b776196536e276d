"""Checkpoints: whole or not at all, and a doubtful one counts as none."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.train import checkpoint

NUMERICS = {"torch": "2", "device": "cpu"}


def state(value: float = 1.0) -> dict[str, Any]:
    return {
        "numerics": NUMERICS,
        "position": 7,
        "weights": torch.full((3,), value),
        "curve": [{"lr": 0.1, "val": None}],
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "key.ckpt"


def test_what_is_saved_is_loaded(path: Path) -> None:
    checkpoint.save(path, state())
    found = checkpoint.load(path, NUMERICS)
    assert found is not None
    assert torch.equal(found.pop("weights"), torch.ones(3))
    assert found == {k: v for k, v in state().items() if k != "weights"}
    assert os.listdir(path.parent) == ["key.ckpt"]


def test_a_later_one_replaces_it(path: Path) -> None:
    checkpoint.save(path, state())
    checkpoint.save(path, state(2.0))
    found = checkpoint.load(path, NUMERICS)
    assert found is not None
    assert found["weights"][0] == 2


def test_none_and_one_of_other_numerics(path: Path) -> None:
    assert checkpoint.load(path, NUMERICS) is None
    checkpoint.save(path, state())
    assert checkpoint.load(path, {**NUMERICS, "torch": "3"}) is None


@pytest.mark.parametrize("part", [0, 1, 100, -1, -30])
def test_a_truncated_one_counts_as_none(path: Path, part: int) -> None:
    checkpoint.save(path, state())
    path.write_bytes(path.read_bytes()[:part])
    assert checkpoint.load(path, NUMERICS) is None


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [b"hello", b"\x80\x04N.", pickle.dumps([1]), b"0", b"]e.", b"PK\x03\x04hello"])
def test_what_is_no_checkpoint_counts_as_none(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert checkpoint.load(path, NUMERICS) is None


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_bytes_stop_a_training_that_could_start_over(path: Path) -> None:
    path.parent.mkdir()
    for seed in range(500):
        path.write_bytes(random.Random(seed).randbytes(200))
        assert checkpoint.load(path, NUMERICS) is None


def test_a_folder_in_its_place_counts_as_none(path: Path) -> None:
    path.mkdir(parents=True)
    assert checkpoint.load(path, NUMERICS) is None


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


def test_nothing_in_it_is_run(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    path.parent.mkdir()
    torch.save({**state(), "extra": Harmful()}, path)
    assert checkpoint.load(path, NUMERICS) is None
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_interrupted_save_leaves_the_one_before(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    checkpoint.save(path, state())

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path, state(2.0))
    found = checkpoint.load(path, NUMERICS)
    assert found is not None
    assert found["weights"][0] == 1
    assert os.listdir(path.parent) == ["key.ckpt"]
