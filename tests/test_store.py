"""The store: atomic, nothing is ever replaced, and damage stays where it is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_trial import IMPORTED, TRIAL

from kdbench.errors import UserError
from kdbench.records import Record, Store, store
from kdbench.records.build import build_record
from kdbench.records.listings import Place, write_listing
from kdbench.records.predictions import pack
from kdbench.records.results import fold, placed
from kdbench.records.standing import Standing
from kdbench.stats.scores import score_predictions
from kdbench.teachers.facts import TeacherFacts

FACTS = TeacherFacts(
    IMPORTED.weights_sha256, top1=70.0, top5=90.0, unreliability=0.1, ambiguity=0.5, top_k=2, degrees=[]
)
COST: dict[str, Any] = {
    "parameters": 1, "flops": 1, "train_images_per_s": 1.0, "train_images_per_s_shared": 1.0,
    "inference_images_per_s": 1.0, "seconds": 1.0, "peak_memory_bytes": 1, "cohort_size": 1, "ratio_to_ce": None,
}  # fmt: skip
NUMERICS = {"torch": "2", "device": "cpu", "device_name": "x", "driver": None, "isa": "AVX2"}


def predictions(seed: int = 0, n: int = 40) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray[Any, Any]] = {"labels": rng.integers(0, 10, n).astype(np.int16)}
    logits = rng.normal(size=(n, 10))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for selection in ("last", "best_test"):
        arrays[f"{selection}_top5"] = np.argsort(-p, 1)[:, :5].astype(np.int16)
        arrays[f"{selection}_log_p_true"] = np.log(p[np.arange(n), arrays["labels"]]).astype(np.float16)
        arrays[f"{selection}_top_p"] = p.max(1).astype(np.float16)
    return arrays


def record(status: str = "finished", weights: str = "1" * 64, seed: int = 0, **more: Any) -> Record:
    """A valid record of ``TRIAL``, or of its like with another seed."""
    rest = {"entropy": 1.0, "val_top1": None, "agreement": 40.0, "kl_to_teacher": 0.1}
    arrays, epochs = predictions(), {"last": TRIAL.protocol.epochs, "best_test": 1}
    scores = {s: {**score_predictions(arrays, s), **rest, "epoch": epochs[s]} for s in epochs} | {"best_val": None}
    point = {"lr": 0.1, "losses": {"kd": 1.0}, "train_top1": 10.0, "val_top1": None, "seconds": 1.0}
    curve = [
        {**point, "epoch": epoch, "test_top1": scores["last"]["top1"]} for epoch in range(1, TRIAL.protocol.epochs + 1)
    ]
    finished = status == "finished"
    return build_record(
        replace(TRIAL, seed=seed),
        status,
        detail="" if finished else "why",
        numerics=NUMERICS,
        scores=scores if finished else None,
        curve=curve if finished else (),
        teacher=FACTS.section(IMPORTED) if finished else None,
        cost=COST if finished else None,
        weights_sha256=weights if finished else None,
        **more,
    )


@pytest.fixture
def box(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def rewritten(path: Path, data: object) -> Path:
    """Put ``data``, a document or bytes, in the place of the record at ``path``, under the name of its content."""
    content = data if isinstance(data, bytes) else json.dumps(data).encode()
    path.unlink()
    new = path.with_name(store.file_name(path.name.partition(".")[0], content))
    new.write_bytes(content)
    return new


def predicted(box: Store, path: Path) -> Path:
    """The prediction file of the record at ``path``."""
    return box.root / "v1" / "predictions" / f"{json.loads(path.read_text())['predictions']['sha256']}.npz"


def files(box: Store) -> list[str]:
    return sorted(p.relative_to(box.root / "v1").as_posix() for p in box.root.rglob("*") if p.is_file())


def test_what_is_put_is_read_back(box: Store) -> None:
    path = box.put(record(), predictions())
    said = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path == box.root / "v1" / "s@1" / f"{TRIAL.key}.{said[:12]}.json"
    (packed,) = (box.root / "v1" / "predictions").iterdir()
    assert packed.name == f"{hashlib.sha256(packed.read_bytes()).hexdigest()}.npz"
    assert files(box) == [f"predictions/{packed.name}", f"s@1/{path.name}"]
    (found,), problems = box.read()
    assert not problems
    assert {**found, "predictions": None} == record() | {"provenance": found["provenance"]}
    back = box.predictions(found)
    for name, array in predictions().items():
        assert back[name].dtype == array.dtype
        assert np.array_equal(back[name], array)
    for selection in ("last", "best_test"):
        said = {k: found["scores"][selection][k] for k in ("top1", "top5", "nll", "ece")}
        assert said == score_predictions(back, selection)


def test_an_empty_or_missing_store_reads_as_empty(box: Store) -> None:
    assert box.read() == ([], [])
    assert box.done([TRIAL.key]) == set()
    assert box.pins("one") == {}


def test_equal_predictions_have_equal_bytes() -> None:
    arrays = predictions()
    assert pack(arrays) == pack(dict(reversed(list(arrays.items()))))


def test_the_same_record_is_there_once(box: Store) -> None:
    one = record()
    path = box.put(one, predictions())
    assert box.put(one, predictions()) == path
    assert len(files(box)) == 2


def test_another_record_of_a_trial_lies_beside_the_first(box: Store) -> None:
    first = box.put(record(), predictions())
    before = first.read_bytes()
    again = box.put({**record(attempts=2), "cost": {**COST, "seconds": 3.0}}, predictions())
    other = box.put(record(weights="2" * 64), predictions(1))
    assert first.read_bytes() == before
    assert len({first, again, other}) == 3
    assert len(files(box)) == 5, "equal predictions are one file"
    found, problems = box.read()
    assert not problems
    assert sorted(r["weights_sha256"][0] for r in found) == ["1", "1", "2"]
    for entry in found:
        box.predictions(entry)


@pytest.mark.parametrize("status", ["crashed", "timed_out"])
def test_a_failure_is_tried_again_and_then_no_longer_counts(box: Store, status: str) -> None:
    box.put(record(status))
    assert box.done([TRIAL.key]) == set()
    assert box.statuses([TRIAL.key]) == {TRIAL.key: status}
    box.put(record(), predictions())
    box.put(record(status, attempts=2))
    assert box.done([TRIAL.key]) == {TRIAL.key}
    assert box.status(TRIAL.key) == "finished"
    (found,), _ = fold(box.read()[0])
    assert found["status"] == "finished"


def test_diverged_is_done_and_stays(box: Store) -> None:
    box.put(record("diverged"))
    assert box.done([TRIAL.key, "f" * 64]) == {TRIAL.key}
    box.put(record("crashed"))
    (found,), _ = fold(box.read()[0])
    assert found["status"] == "diverged"


def test_a_trial_has_one_record_whatever_suites_ask_for_it(box: Store) -> None:
    box.put(record(), predictions())
    box.put(record("crashed", seed=1))
    keys = [record(seed=n)["key"] for n in range(3)]
    places = [(key, Place("t@2", "kd-now", "t:s")) for key in keys]
    assert box.done(keys) == {TRIAL.key}
    assert box.list_under(places, dry=True) == 2
    assert not (box.root / "v1" / "listings").exists()
    assert box.list_under(places) == 2
    assert box.list_under(places) == 0, "it is shown there already"
    assert box.list_under([(TRIAL.key, Place("s@1", "its", "own:place"))]) == 0
    listings, problems = box.listings()
    assert not problems
    shown = [
        (r["suite"], r["label"], r["pair"], r["status"]) for r in placed(fold(box.read()[0])[0], listings, Standing())
    ]
    own = (record()["label"], record()["pair"])
    assert sorted(shown) == [
        ("s@1", *own, "crashed"), ("s@1", *own, "finished"),
        ("t@2", "kd-now", "t:s", "crashed"), ("t@2", "kd-now", "t:s", "finished"),
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["cut", "renamed", "other suite", "other version", "no trial", "markup"])
def test_a_damaged_listing_is_named_and_the_rest_is_used(box: Store, damage: str) -> None:
    box.list_under([])
    folder = box.root / "v1" / "listings"
    write_listing(folder, "s@2", [("a" * 64, Place("s@2", "kd", "a:b"))])
    path = write_listing(folder, "s@3", [("b" * 64, Place("s@3", "kd", "a:b"))])
    text = path.read_text()
    if damage == "cut":
        path.write_text(text[:-20])
    elif damage == "renamed":
        path = path.rename(path.with_name(f"s@3.{'0' * 12}.json"))
    else:
        new = {
            "other suite": text.replace("s@3", "s@4"),
            "other version": text.replace('"schema_version": 1', '"schema_version": 2'),
            "no trial": json.dumps({"schema_version": 1, "suite": "s@3", "trials": []}),
            "markup": text.replace('"kd"', '"<b>"'),
        }[damage]
        path.write_text(new)
        if damage != "other suite":
            path = path.rename(path.with_name(f"s@3.{hashlib.sha256(new.encode()).hexdigest()[:12]}.json"))
    found, (problem,) = box.listings()
    assert set(found) == {"a" * 64}
    assert path.name in problem


def test_adopting_copies_bytes_once_and_nothing_damaged(box: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    good, bad = other.put(record(), predictions()), other.put(record(seed=1), predictions(3))
    predicted(other, bad).write_bytes(b"")
    assert box.adopt(good, other)
    assert not box.adopt(good, other)
    with pytest.raises(UserError, match="sha256 is not the recorded one"):
        box.adopt(bad, other)
    assert not box.adopt_quietly(bad, other)
    (path,) = box.files()
    assert (path.name, path.read_bytes()) == (good.name, good.read_bytes())
    box.predictions(box.load(path))


@pytest.mark.parametrize("name", ["{key}.json", "{key}.0123456789ab.json"])
def test_names_of_earlier_versions_are_named_with_the_cure(box: Store, name: str) -> None:
    path = box.put(record(), predictions())
    path.rename(path.with_name(name.format(key=TRIAL.key)))
    found, (problem,) = box.read()
    assert not found
    if "0123" not in name:
        assert "kdbench results migrate" in problem
        with pytest.raises(UserError, match="kdbench results migrate"):
            box.check_current()


def test_a_teachers_own_training_lies_apart(box: Store) -> None:
    path = box.put({**record(), "label": "teacher"}, predictions())
    assert path.parent.name == "teachers"
    box.predictions(box.load(path))


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("at", range(4))
def test_a_kill_at_any_instant_of_putting_leaves_all_or_nothing(
    box: Store, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Killed before each fsync and each rename: of the prediction file, then of the record."""
    box.put(record(seed=7), predictions())
    calls = iter(range(100))

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def either(*arguments: Any) -> Any:
            if next(calls) == at:
                raise Killed
            return call(*arguments)

        return either

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", deadly(os.fsync))
        patch.setattr(Path, "replace", deadly(Path.replace))
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process tidies nothing up
        with pytest.raises(Killed):
            box.put(record(), predictions())
    assert box.done([TRIAL.key]) == set()
    (found,), problems = box.read()
    assert not problems
    assert found["seed"] == 7
    box.put(record(), predictions())
    assert box.done([TRIAL.key]) == {TRIAL.key}
    for entry in box.read()[0]:
        box.predictions(entry)


def test_an_error_while_putting_leaves_no_temporary_file(box: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        box.put(record(), predictions())
    assert files(box) == []


def test_an_invalid_record_is_refused_before_anything_is_written(box: Store) -> None:
    with pytest.raises(UserError, match="status"):
        box.put({**record(), "status": "fine"}, predictions())
    assert files(box) == []


def nested(depth: int) -> bytes:
    return b'{"identity":' + b"[" * depth + b"]" * depth + b"}"


GARBAGE: dict[str, bytes] = {
    "empty": b"",
    "truncated": b"?",
    "not JSON": b"\x00\x01",
    "not UTF-8": b'{"key": "\xff"}',
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "no fields": b"{}",
    "very deep": nested(100_000),
    "a huge number": b'{"schema_version": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_damaged_file_is_named_and_the_rest_is_read(box: Store, name: str) -> None:
    box.put(record(seed=7), predictions())
    path = box.put(record(), predictions())
    path = rewritten(path, path.read_bytes()[:-40] if name == "truncated" else GARBAGE[name])
    (found,), (problem,) = box.read()
    assert found["seed"] == 7
    assert f"v1/s@1/{path.name}" in problem
    assert "\n" not in problem
    assert len(problem) < 1000
    assert box.done([TRIAL.key, record(seed=7)["key"]]) == {record(seed=7)["key"]}
    box.put(record(), predictions())
    assert box.done([TRIAL.key]) == {TRIAL.key}


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "another key": lambda r: r.update(key="f" * 64),
    "an identity that is not the key's": lambda r: r["identity"].update(seed=5),
    "an unknown field": lambda r: r.update(extra=1),
    "a missing field": lambda r: r.pop("scores"),
    "an impossible accuracy": lambda r: r["scores"]["last"].update(top1=101.0),
    "a path for a suite": lambda r: r.update(suite="../../etc@1"),
    "a path for predictions": lambda r: r["predictions"].update(sha256="../../../etc/passwd"),
    "markup for a label": lambda r: r.update(label="<script>"),
    "a wrong type": lambda r: r.update(seed="0"),
    "a later schema": lambda r: r.update(schema_version=2),
    "not a number in the identity": lambda r: r["identity"].update(x=float("nan")),
    "an infinite score": lambda r: r["scores"]["last"].update(nll=float("inf")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_record_is_named_and_the_rest_is_read(box: Store, name: str) -> None:
    box.put(record(seed=7), predictions())
    path = box.put(record(), predictions())
    document = json.loads(path.read_text())
    HOSTILE[name](document)
    path = rewritten(path, document)
    (found,), (problem,) = box.read()
    assert found["seed"] == 7
    assert path.name in problem
    assert box.done([TRIAL.key]) == set()


@pytest.mark.parametrize("depth", [100, 400, 900, 990, 1500])
def test_a_record_of_any_depth_cannot_stop_the_reader(box: Store, depth: int) -> None:
    path = box.put(record(), predictions())
    text = path.read_text().replace('"identity": {', '"identity": {"x": ' + "[" * depth + "]" * depth + ",", 1)
    path = rewritten(path, text.encode())
    found, (problem,) = box.read()
    assert not found
    assert path.name in problem


def test_foreign_files_are_left_alone(box: Store) -> None:
    box.put(record(), predictions())
    (box.root / "v1" / "s@1" / "README.md").write_text("hello")
    (box.root / "v1" / "s@1" / f".{TRIAL.key}.json.123.tmp").write_text("{")
    (box.root / "runs").mkdir()
    (box.root / "runs" / "r.json").write_text("{}")
    (box.root / "v1" / "s@1" / "folder.json").mkdir()
    found, problems = box.read()
    assert len(found) == 1
    assert len(problems) == 1
    assert "folder.json" in problems[0]


@pytest.mark.parametrize("damage", ["missing", "other", "truncated", "bomb"])
def test_predictions_that_are_not_the_recorded_ones_are_refused(box: Store, damage: str) -> None:
    path = box.put(record(), predictions())
    found = box.load(path)
    data = predicted(box, path)
    if damage == "missing":
        data.unlink()
    elif damage == "other":
        data.write_bytes(pack(predictions(1))[1])
    elif damage == "truncated":
        data.write_bytes(data.read_bytes()[:-10])
    else:
        data.write_bytes(b"PK\x03\x04" + os.urandom(100))
    with pytest.raises(UserError, match=rf"prediction file {data.name} cannot be used"):
        box.predictions(found)


def test_a_record_without_predictions_says_so(box: Store) -> None:
    with pytest.raises(UserError, match="has no prediction file"):
        box.predictions(record("crashed"))
