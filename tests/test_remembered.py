"""The teacher's outputs on disk: the same bits with and without, and only where nothing could differ."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import Bench, same_bits, suite_text

from kdbench.data import whole
from kdbench.models.network import Network
from kdbench.records import Record
from kdbench.suites import Suite, parse_suite
from kdbench.train import remembered

MakeSuite = Callable[[str], Suite]
FIXED = {"protocol": {"augmentation": "none", "batch": 200}}
ROWS = [{"name": "ce", **FIXED}, {"name": "kd", **FIXED}, {"name": "pkt", **FIXED}]


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that a teacher saw while training."""
    seen: list[int] = []
    teach = remembered.teach

    def counted(teacher: Network, batch, *rest):  # type: ignore[no-untyped-def]
        seen.append(len(batch.y))
        return teach(teacher, batch, *rest)

    monkeypatch.setattr(remembered, "teach", counted)
    monkeypatch.setattr("kdbench.train.lockstep.teach", counted)
    return seen


@pytest.fixture(scope="module")
def honest(
    tmp_path_factory: pytest.TempPathFactory, good: tuple[Path, dict[str, Record]]
) -> tuple[Path, dict[str, Record]]:
    """The cache of ``ROWS`` and their records: the teacher and its outputs, as they were kept for them."""
    bench = Bench(tmp_path_factory.mktemp("honest"))
    shutil.copytree(good[0] / "teachers", bench.folder / "cache" / "teachers")
    return bench.folder / "cache", _train(bench, parse_suite(suite_text(ROWS), "tiny.toml"))


@pytest.fixture
def keeping(bench: Bench, honest: tuple[Path, dict[str, Record]]) -> Bench:
    """A bench on which they are kept."""
    shutil.copytree(honest[0], bench.folder / "cache")
    return bench


def _train(bench: Bench, suite: Suite) -> dict[str, Record]:
    return bench.train(bench.trials(suite))


def _again(bench: Bench, name: str) -> Bench:
    """Another bench whose teacher is ready and whose outputs are not kept yet."""
    other = bench.again(name)
    shutil.copytree(bench.folder / "cache" / "teachers", other.folder / "cache" / "teachers")
    return other


def _notes(bench: Bench) -> list[str]:
    return [event["text"] for event in bench.events if event["event"] == "note"]


def test_the_bits_are_those_of_a_teacher_that_runs_each_time(
    taught: Bench, make_suite: MakeSuite, forwards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = make_suite(suite_text(ROWS, epochs=3))
    kept = _train(taught, suite)
    assert {record["status"] for record in kept.values()} == {"finished"}
    # one to learn the shapes, six to write all 1,200 images, one to compare; none while training
    assert forwards == [200] * 8
    (note,) = _notes(taught)
    assert "keeping the teacher's outputs of 1,200 images: 0.1 MB in" in note
    monkeypatch.setattr(remembered, "SHARE", 0.0)
    live = _again(taught, "live")
    forwards.clear()
    plain = _train(live, suite)
    assert len(forwards) == 1 + 3 * 6
    assert all(same_bits(kept[label], plain[label]) for label in kept)


def test_what_is_kept_serves_the_next_seed(keeping: Bench, make_suite: MakeSuite, forwards: list[int]) -> None:
    records = _train(keeping, make_suite(suite_text(ROWS, seeds=[5])))
    assert records["kd"]["status"] == "finished"
    assert forwards == [200]
    assert not _notes(keeping)


def test_a_short_batch_and_other_parts_go_through_the_teacher(
    taught: Bench, make_suite: MakeSuite, forwards: list[int]
) -> None:
    short = {"protocol": {"augmentation": "none", "batch": 500}}
    _train(taught, make_suite(suite_text([{"name": "kd", **short}])))
    assert forwards[-2:] == [200, 200], "the last batch of 1,200 images in each of two epochs"
    forwards.clear()
    features = _again(taught, "features")
    _train(features, make_suite(suite_text([{"name": "kd", **FIXED}, {"name": "fitnet", **FIXED}], name="features")))
    assert forwards[-12:] == [200] * 12, "fitnet asks for stages in each step"


@pytest.mark.parametrize(
    "rows", [[{"name": "kd"}], [{"name": "kd", "protocol": {"augmentation": "none", "epochs": 1}}]]
)
def test_nothing_is_kept_that_would_not_be_seen_again(taught: Bench, make_suite: MakeSuite, rows: list[object]) -> None:
    _train(taught, make_suite(suite_text(rows)))
    assert not (taught.folder / "cache" / "outputs").exists()


def test_outputs_that_are_not_this_machines_are_not_used(
    keeping: Bench, honest: tuple[Path, dict[str, Record]], make_suite: MakeSuite, forwards: list[int]
) -> None:
    (place,) = (keeping.folder / "cache" / "outputs").iterdir()
    np.load(place / "logits.npy", mmap_mode="r+")[:] += 1e-6
    digests = {name: remembered._sha256(place / f"{name}.npy") for name in ("logits", "pooled")}
    (place / "complete.json").write_text(json.dumps(digests))
    again = _train(keeping, make_suite(suite_text(ROWS)))
    assert len(forwards) == 1 + 2 * 6
    assert all(same_bits(record, again[label]) for label, record in honest[1].items())


LOGITS = pytest.param("logits.npy", marks=pytest.mark.slow)


@pytest.mark.parametrize("damage", ["complete.json", LOGITS, "pooled.npy", "some rows", "no logits", "a list"])
def test_a_damaged_memory_is_made_anew(
    keeping: Bench, honest: tuple[Path, dict[str, Record]], make_suite: MakeSuite, damage: str
) -> None:
    (place,) = (keeping.folder / "cache" / "outputs").iterdir()
    if damage == "some rows":
        np.load(place / "logits.npy", mmap_mode="r+")[600:800] = 0
    elif damage == "no logits":
        (place / "complete.json").write_text(json.dumps({"pooled": remembered._sha256(place / "pooled.npy")}))
    elif damage == "a list":
        (place / "complete.json").write_text("[7]")
    else:
        (place / damage).write_bytes((place / damage).read_bytes()[:10])
    again = _train(keeping, make_suite(suite_text(ROWS)))
    assert all(same_bits(record, again[label]) for label, record in honest[1].items())
    assert len(_notes(keeping)) == 1


def test_a_disk_that_refuses_costs_no_training(taught: Bench, make_suite: MakeSuite) -> None:
    (taught.folder / "cache" / "outputs").write_text("not a folder")
    records = _train(taught, make_suite(suite_text(ROWS)))
    assert {record["status"] for record in records.values()} == {"finished"}
    assert any("cannot be kept" in note for note in _notes(taught))


def test_a_disk_that_fills_up_costs_no_training(
    taught: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    records = _train(taught, make_suite(suite_text(ROWS)))
    assert {record["status"] for record in records.values()} == {"finished"}
    assert any("cannot be kept: No space left" in note for note in _notes(taught))
    assert list((taught.folder / "cache" / "outputs").iterdir()) == []


def test_what_a_killed_worker_left_goes_in_the_end(keeping: Bench, make_suite: MakeSuite) -> None:
    (place,) = (keeping.folder / "cache" / "outputs").iterdir()
    shutil.rmtree(place)
    for name, age in (("old", 2 * whole.STALE), ("new", 60.0)):
        left = place.with_name(f"{place.name}.{name}")
        left.mkdir()
        os.utime(left, (time.time() - age,) * 2)
    _train(keeping, make_suite(suite_text(ROWS)))
    assert sorted(path.name for path in place.parent.iterdir()) == [place.name, f"{place.name}.new"]


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": {**FIXED["protocol"], "fold": True}},
        {"protocol": {**FIXED["protocol"], "precision": "bf16"}},
        {"protocol": {**FIXED["protocol"], "holdout": 50}},
        {"protocol": {**FIXED["protocol"], "split_seed": 1}},
        {"protocol": {**FIXED["protocol"], "batch": 100}},
        {"teacher": 'kind = "trained"\nmodel = "tiny_cnn_s"\nseed = 101\nprotocol = {epochs = 1}'},
    ],
    ids=lambda change: str(next(reversed(change.get("protocol", change)))),
)
def test_what_the_outputs_depend_on_is_in_their_name(
    keeping: Bench, make_suite: MakeSuite, change: dict[str, Any]
) -> None:
    row = {"name": "kd", "protocol": change.get("protocol", FIXED["protocol"])}
    _train(keeping, make_suite(suite_text([row], teacher=change.get("teacher", ""))))
    places = list((keeping.folder / "cache" / "outputs").iterdir())
    assert (len(places), len(_notes(keeping))) == (2, 1)
    assert all(isinstance(array, np.memmap) for place in places for array in remembered._open(place).values())


def test_nothing_is_kept_for_a_cohort_whose_teacher_runs_anyway(taught: Bench, make_suite: MakeSuite) -> None:
    _train(taught, make_suite(suite_text([ROWS[1], {"name": "fitnet", **FIXED}])))
    assert not (taught.folder / "cache" / "outputs").exists()


def test_views_are_never_recalled() -> None:
    memory = remembered.Remembered({"logits": np.zeros((4, 3), np.float32)}, 2, torch.device("cpu"))
    from kdbench.train.batches import Batch

    index = torch.tensor([3, 1])
    plain = Batch(torch.zeros(2, 1, 8, 8), index, index)
    assert memory.recall(plain, frozenset()) is not None
    assert memory.recall(plain, frozenset({"stages"})) is None
    assert memory.recall(Batch(plain.x, plain.y, index, {"strong": plain.x}), frozenset()) is None
    assert memory.recall(Batch(plain.x[:1], plain.y[:1], index[:1]), frozenset()) is None
