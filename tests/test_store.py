"""The store: atomic, idempotent, never the last one wins, and damage stays where it is."""

from __future__ import annotations

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
from kdbench.stats.scores import score_predictions
from kdbench.teachers.facts import TeacherFacts

FACTS = TeacherFacts(IMPORTED.weights_sha256, top1=70.0, top5=90.0, unreliability=0.1, ambiguity=0.5, top_k=2)
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
    rest = {"entropy": 1.0, "val_top1": None, "agreement": 50.0, "kl_to_teacher": 0.1}
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


def files(box: Store) -> list[str]:
    return sorted(p.relative_to(box.root / "v1").as_posix() for p in box.root.rglob("*") if p.is_file())


def test_what_is_put_is_read_back(box: Store) -> None:
    path = box.put(record(), predictions())
    assert path == box.root / "v1" / "s@1" / f"{TRIAL.key}.json"
    assert files(box) == [f"s@1/{TRIAL.key}.json", f"s@1/{TRIAL.key}.npz"]
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
    assert box.done([TRIAL.key], TRIAL.suite) == set()
    assert box.pins("one") == {}


def test_equal_predictions_have_equal_bytes() -> None:
    arrays = predictions()
    assert store.npz(arrays) == store.npz(dict(reversed(list(arrays.items()))))


def test_the_same_record_changes_nothing_and_an_equal_result_stays_beside_it(box: Store) -> None:
    path = box.put(record(), predictions())
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert box.put(record(), predictions()) == path
    again = box.put(record(attempts=9), predictions())
    assert box.put(record(attempts=9), predictions()) == again != path
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert len(files(box)) == 4
    assert box.endings([record()["key"]], "s@1") == {record()["key"]: 2}


def test_equal_key_and_another_result_become_a_replicate(box: Store) -> None:
    first = box.put(record(), predictions())
    before = first.read_bytes()
    second = box.put(record(weights="2" * 64), predictions(1))
    assert first.read_bytes() == before
    assert second.name.startswith(f"{TRIAL.key}.")
    assert second.name != first.name
    found, problems = box.read()
    assert not problems
    assert {r["weights_sha256"] for r in found} == {"1" * 64, "2" * 64}
    for entry in found:
        box.predictions(entry)
    assert box.put(record(weights="2" * 64), predictions(1)) == second
    assert len(files(box)) == 4


@pytest.mark.parametrize("status", ["crashed", "timed_out"])
def test_a_failure_is_tried_again_and_then_replaced(box: Store, status: str) -> None:
    path = box.put(record(status))
    assert box.done([TRIAL.key], TRIAL.suite) == set()
    assert box.statuses([TRIAL.key], TRIAL.suite) == {TRIAL.key: status}
    assert box.put(record(), predictions()) == path
    (found,), _ = box.read()
    assert found["status"] == "finished"
    assert box.done([TRIAL.key], TRIAL.suite) == {TRIAL.key}


@pytest.mark.parametrize("status", ["crashed", "timed_out"])
def test_a_failure_never_replaces_a_result(box: Store, status: str) -> None:
    box.put(record(), predictions())
    box.put(record(status))
    (found,), _ = box.read()
    assert found["status"] == "finished"


def test_diverged_is_done_and_stays(box: Store) -> None:
    box.put(record("diverged"))
    assert box.done([TRIAL.key, "f" * 64], TRIAL.suite) == {TRIAL.key}
    box.put(record("crashed"))
    (found,), _ = box.read()
    assert found["status"] == "diverged"


def test_each_suite_has_records_of_its_own(box: Store) -> None:
    """Else the table of a suite would lack the rows that another one trained first."""
    box.put(record(), predictions())
    assert box.done([TRIAL.key], "s@2") == set()
    box.put({**record(), "suite": "s@2"}, predictions())
    assert box.done([TRIAL.key], "s@2") == {TRIAL.key}
    assert len(box.read()[0]) == 2


def test_a_version_takes_over_what_another_one_has_of_the_same_trials(box: Store) -> None:
    box.put(record(), predictions())
    box.put({**record(weights="2" * 64), "numerics": {**NUMERICS, "torch": "3"}}, predictions())
    box.put({**record(seed=1), "suite": "another@1"}, predictions())
    box.put(record("crashed", seed=2))
    damaged = {**record(seed=3), "suite": "s@1"}
    box.put(damaged, predictions())
    (box.root / "v1" / "s@1" / f"{damaged['key']}.npz").write_bytes(b"")
    places = {record(seed=n)["key"]: {"suite": "s@2", "label": "now", "pair": "a:b"} for n in range(4)}
    before = {path: (box.root / "v1" / path).read_bytes() for path in files(box)}
    assert box.take_over(places, "s@2") == {TRIAL.key}
    of_both = [r for r in box.read()[0] if r["key"] == TRIAL.key]
    taken = [r for r in of_both if r["suite"] == "s@2"]
    assert {r["weights_sha256"] for r in taken} == {"1" * 64, "2" * 64}, "a replicate comes along"
    for each in taken:
        (earlier,) = (r for r in of_both if r["suite"] == "s@1" and r["weights_sha256"] == each["weights_sha256"])
        assert {**each, "suite": "s@1", "label": earlier["label"], "pair": earlier["pair"]} == earlier
        assert (each["label"], each["pair"]) == ("now", "a:b")
        assert set(box.predictions(each)) == set(predictions())
    assert all((box.root / "v1" / path).read_bytes() == data for path, data in before.items())
    assert box.take_over(places, "s@2") == set()


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
    assert box.done([TRIAL.key], TRIAL.suite) == set()
    (found,), problems = box.read()
    assert not problems
    assert found["seed"] == 7
    box.put(record(), predictions())
    assert box.done([TRIAL.key], TRIAL.suite) == {TRIAL.key}
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
    good = box.put(record(seed=7), predictions())
    path = box.put(record(), predictions())
    path.write_bytes(path.read_bytes()[:-40] if name == "truncated" else GARBAGE[name])
    (found,), (problem,) = box.read()
    assert found["seed"] == 7
    assert f"v1/s@1/{path.name}" in problem
    assert "\n" not in problem
    assert len(problem) < 1000
    assert box.done([TRIAL.key, good.stem], TRIAL.suite) == {good.stem}
    box.put(record(), predictions())
    assert box.done([TRIAL.key], TRIAL.suite) == {TRIAL.key}


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "another key": lambda r: r.update(key="f" * 64),
    "an identity that is not the key's": lambda r: r["identity"].update(seed=5),
    "an unknown field": lambda r: r.update(extra=1),
    "a missing field": lambda r: r.pop("scores"),
    "an impossible accuracy": lambda r: r["scores"]["last"].update(top1=101.0),
    "a path for a suite": lambda r: r.update(suite="../../etc@1"),
    "a path for predictions": lambda r: r["predictions"].update(file="../../../etc/passwd"),
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
    path.write_text(json.dumps(document))
    (found,), (problem,) = box.read()
    assert found["seed"] == 7
    assert path.name in problem
    assert box.done([TRIAL.key], TRIAL.suite) == set()


@pytest.mark.parametrize("depth", [100, 400, 900, 990, 1500])
def test_a_record_of_any_depth_cannot_stop_the_reader(box: Store, depth: int) -> None:
    path = box.put(record(), predictions())
    text = path.read_text().replace('"identity": {', '"identity": {"x": ' + "[" * depth + "]" * depth + ",", 1)
    path.write_text(text)
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
    data = path.with_suffix(".npz")
    if damage == "missing":
        data.unlink()
    elif damage == "other":
        data.write_bytes(store.npz(predictions(1)))
    elif damage == "truncated":
        data.write_bytes(data.read_bytes()[:-10])
    else:
        data.write_bytes(b"PK\x03\x04" + os.urandom(100))
    with pytest.raises(UserError, match=rf"prediction file {TRIAL.key}.npz cannot be used"):
        box.predictions(found)


def test_no_pickle_is_ever_loaded(box: Store, tmp_path: Path) -> None:
    """Even where the sha256 is that of the file, an object array is refused."""
    import hashlib
    import io

    path = box.put(record(), predictions())
    buffer = io.BytesIO()
    np.savez(buffer, labels=np.array([{"a": 1}], dtype=object))
    path.with_suffix(".npz").write_bytes(buffer.getvalue())
    found = {
        **box.load(path),
        "predictions": {"file": f"{TRIAL.key}.npz", "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()},
    }
    with pytest.raises(UserError, match="allow_pickle"):
        box.predictions(found)


def test_a_record_without_predictions_says_so(box: Store) -> None:
    with pytest.raises(UserError, match="has no prediction file"):
        box.predictions(record("crashed"))
