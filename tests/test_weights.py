"""Weight files: one digest whatever the container, and a bad file is named."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from kdbench.errors import CheckpointError
from kdbench.models.factory import create
from kdbench.teachers.weights import read_weights, weights_digest


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = create("tiny_cnn_s", classes=10, image_shape=(1, 8, 8), mean=(0.3,), std=(0.4,))
    return dict(network.body.state_dict())


def test_one_digest_for_every_container_and_order(tmp_path: Path) -> None:
    made = state()
    expected = weights_digest(made)
    save_file(made, tmp_path / "a.safetensors")
    containers: dict[str, Any] = {
        "plain.pt": made,
        "turned.pth": dict(reversed(list(made.items()))),
        "wrapped.pt": {"state_dict": made, "epoch": 3},
        "model.pt": {"model": made},
        "net.pt": {"net": made, "acc": 93.1},
        "parallel.pt": {f"module.{name}": value for name, value in made.items()},
        "counted.pt": {k: v + 5 if k.endswith("num_batches_tracked") else v for k, v in made.items()},
        "last.pt": {k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in made.items()},
    }
    for name, content in containers.items():
        torch.save(content, tmp_path / name)
    assert {name: weights_digest(read_weights(tmp_path / name)) for name in ["a.safetensors", *containers]} == (
        dict.fromkeys(["a.safetensors", *containers], expected)
    )
    made["later"] = torch.zeros(1)
    assert weights_digest(made) != expected


def test_every_bit_shape_type_and_name_counts() -> None:
    base = {"w": torch.arange(6.0).reshape(2, 3), "s": torch.tensor(2.0)}
    digests = [
        weights_digest(base),
        weights_digest({**base, "w": base["w"].reshape(3, 2)}),
        weights_digest({**base, "w": base["w"].double()}),
        weights_digest({**base, "w": torch.nextafter(base["w"], torch.tensor(9.0))}),
        weights_digest({**base, "s": torch.tensor(3.0)}),
        weights_digest({**base, "s": torch.tensor([2.0])}),
        weights_digest({"v": base["w"], "s": base["s"]}),
        weights_digest({**base, "w": base["w"].bfloat16()}),
    ]
    assert len(set(digests)) == len(digests)


def test_an_expanded_and_an_empty_tensor_have_a_digest() -> None:
    assert weights_digest({"a": torch.ones(1).expand(4)}) == weights_digest({"a": torch.ones(4)})
    assert weights_digest({"a": torch.zeros(0, 3)}) != weights_digest({"a": torch.zeros(3, 0)})


def test_the_digest_is_pinned() -> None:
    """Suites pin teachers by it."""
    assert weights_digest({"w": torch.arange(3.0), "b": torch.tensor(1)})[:16] == "e32ad2f525df6320"


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "folder"])
def test_a_bad_file_is_named(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"w.{suffix}"
    save_file(state(), path) if suffix == "safetensors" else torch.save(state(), path)
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"<html>404</html>"}[damage])
    with pytest.raises(
        CheckpointError, match=rf"The weights in .*w.{suffix} cannot be read .*; fetch the file again"
    ) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_no_bytes_are_more_than_a_bad_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    for seed in range(500):
        path.write_bytes(random.Random(seed).randbytes(200))
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_weights(path)


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(3), {"model": {"a": "b"}}, {}], ids=repr)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"w.pt holds no state_dict of tensors"):
        read_weights(tmp_path / "w.pt")


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.zeros(1), "x": Harmful()}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_weights(tmp_path / "w.pt")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: {"w": torch.eye(3).to_sparse()}, "'w' is a sparse or nested tensor"),
        (lambda: {"w": torch.eye(3).to_sparse_csr()}, "'w' is a sparse or nested tensor"),
        (lambda: {"w": torch.empty(3, device="meta")}, "'w' is a tensor without values"),
        (lambda: {"w": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}, "'w' is a tensor of qint8"),
        (lambda: {"w": torch.ones(3, dtype=torch.complex64)}, "'w' is a tensor of complex64"),
        (lambda: {"w": torch.ones(3).to(torch.float8_e4m3fn)}, "'w' is a tensor of float8_e4m3fn"),
        (lambda: {1: torch.ones(3)}, "1 is no name"),
        (lambda: {("a", "b"): torch.ones(3)}, "is no name"),
        (lambda: {"module.w": torch.ones(3), "w": torch.zeros(3)}, "under one name with and without 'module.'"),
    ],
)
def test_weights_that_are_not_plain_are_refused_in_one_sentence(
    tmp_path: Path, make: Callable[[], dict[object, torch.Tensor]], words: str
) -> None:
    torch.save(make(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError) as caught:
        read_weights(tmp_path / "w.pt")
    assert words in str(caught.value) or "cannot be read" in str(caught.value)
    assert "\n" not in str(caught.value)
