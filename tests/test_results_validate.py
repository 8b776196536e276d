"""``kdbench results validate``: each fault by its file, its field and the reason; an exit code; the rest is used."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import render_records as rr
from bench import ROOT
from test_cli import Cli, cli  # noqa: F401
from test_contributed import shifted

from kdbench.data import DATASETS
from kdbench.errors import UserError
from kdbench.records import Store, memory
from kdbench.records.inspection import inspect
from kdbench.records.inventory import take_inventory
from kdbench.records.predictions import digest_of
from kdbench.records.store import file_name

#: What a fault is made of: the folder, a file of it, and the arrays of that file's predictions.
Fault = Callable[[Store, Path, dict[str, Any]], object]


@pytest.fixture
def box(tmp_path: Path) -> Store:
    """Two sound records, of other rows."""
    made = Store(tmp_path / "results")
    rr.put(made, 0.5, "wttm", images=200)
    return made


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The record at ``path`` after ``change``, under the name of its content."""
    record = json.loads(path.read_bytes())
    change(record)
    return renamed(path, json.dumps(record).encode())


def renamed(path: Path, data: bytes) -> Path:
    path.unlink()
    new = path.with_name(file_name(json.loads(data)["key"], data))
    new.write_bytes(data)
    return new


def _strayed(box: Store) -> list[str]:
    found = take_inventory(box)
    assert all("nowhere else; move them there, or name another folder." in problem.text for problem in found.problems)
    return [problem.text.partition(":")[0].removeprefix("Nothing reads ") for problem in found.problems]


def test_records_that_nothing_reads_are_problems(box: Store) -> None:
    rr.put(box, 0.5, "kd", images=200)
    first, second = box.files()
    (first.parent / "more").mkdir()
    first.rename(first.parent / "more" / first.name)
    second.with_suffix(".JSON").write_bytes(second.read_bytes())
    second.rename(box.root / "v1" / "predictions" / second.name)
    (box.root / "v1" / "loose.json").write_text("{}")
    (box.root / "runs").mkdir()
    (box.root / "runs" / first.name).write_text("{}")
    (first.parent / "elsewhere").symlink_to(first.parent / "more")
    for harmless in ("predictions/notes.txt", "cifar100-short@1/._x.json", "cifar100-short@1/README.md"):
        (box.root / "v1" / harmless).write_text("mine")
    (box.root / ".git").mkdir()
    (box.root / ".git" / first.name).write_text("{}")
    assert _strayed(box) == [
        "1 JSON file in the folder runs",
        "1 JSON file in the folder v1",
        "1 JSON file in the folder v1/cifar100-short@1",
        "the folder v1/cifar100-short@1/elsewhere",
        "1 JSON file in the folder v1/cifar100-short@1/more",
        "1 JSON file in the folder v1/predictions",
    ]
    assert not [warning for warning in inspect(box).warnings if (warning.file or "").lower().endswith(".json")]


def test_a_folder_too_deep_or_not_deep_enough_is_no_empty_results_folder(box: Store) -> None:
    assert _strayed(Store(box.root / "v1")) == ["1 JSON file in the folder cifar100-short@1"]
    assert _strayed(Store(box.root.parent)) == ["1 JSON file in the folder results/v1/cifar100-short@1"]
    assert _strayed(Store(box.root / "nothing")) == []
    (box.root / "v1").rename(box.root / "V1")
    assert _strayed(box) == ["1 JSON file in the folder V1/cifar100-short@1"]


@pytest.mark.parametrize("name", ["v1", "v1/other@1", "v1/listings"])
def test_a_link_that_leads_nowhere_is_a_problem(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "unmounted")
    (problem,) = take_inventory(Store(tmp_path)).problems
    assert name in problem.text


def test_a_file_in_the_place_of_the_records_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "v1").write_text("")
    (problem,) = take_inventory(Store(tmp_path)).problems
    assert problem.text.startswith("v1 is a file where a folder belongs; move it away")


@pytest.mark.parametrize("name", ["other@1", "listings"])
def test_a_folder_that_cannot_be_read_costs_itself_alone(
    box: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (box.root / "v1" / name).mkdir()

    def refuse(folder: Path, list_folder: Any = os.listdir) -> list[str]:
        if Path(folder).name == name:
            raise PermissionError(13, "Permission denied")
        return list(list_folder(folder))

    monkeypatch.setattr(os, "listdir", refuse)
    found = take_inventory(box)
    assert len(found.records) == 1
    (problem,) = found.problems
    assert problem.text.startswith(f"The folder v1/{name} cannot be read (Permission denied)")


def test_a_name_that_is_not_unicode_is_one_sentence(box: Store) -> None:
    path = next(box.files()).parent
    Path(os.fsdecode(os.fsencode(path) + b"/\xff.json")).write_bytes(b"{}")
    found = take_inventory(box)
    (problem,) = found.problems
    assert "udcff.json is damaged" in problem.text
    assert len(found.records) == 1


def without(field: str) -> Fault:
    return lambda box, path, arrays: rewritten(path, lambda record: record.pop(field))


def said(field: str, value: Any) -> Fault:
    """``value`` in the place of ``field``, names between slashes."""

    def change(record: dict[str, Any]) -> None:
        *way, last = field.split("/")
        for name in way:
            record = record[int(name) if isinstance(record, list) else name]
        record[last] = value

    return lambda box, path, arrays: rewritten(path, change)


def huge(box: Store, path: Path, arrays: dict[str, Any]) -> None:
    renamed(path, path.read_bytes().replace(b'"seconds": 220.0', b'"seconds": 1e999'))


def predicted(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Fault:
    """Other predictions than those that the scores are of."""

    def fault(box: Store, path: Path, arrays: dict[str, Any]) -> None:
        record = box.load(path)
        path.unlink()
        box.put(record, change(arrays))

    return fault


def shorter(arrays: dict[str, Any]) -> dict[str, Any]:
    return {**arrays, "last_top5": arrays["last_top5"][:-1]}


def fewer_images(box: Store, path: Path, arrays: dict[str, Any]) -> None:
    path.unlink()
    rr.put(box, 0.5, images=150)


def twice(box: Store, path: Path, arrays: dict[str, Any]) -> None:
    rr.put(box, 0.9, seed=7, images=200)
    arrays = rr.predictions(0.6, 1, images=200)
    box.put(rr.record(seed=7, arrays=arrays), arrays)
    path.unlink()


def two_protocols(box: Store, path: Path, arrays: dict[str, Any]) -> None:
    path.unlink()
    identity = rr.record()["identity"]
    for epochs in (4, 8):
        identity["protocol"] = {**identity["protocol"], "epochs": epochs}
        rr.put(box, 0.5, identity=identity, images=200, suite="own@1")


FAULTS: dict[str, tuple[Fault, str]] = {
    "an unknown schema version": (said("schema_version", 2), "schema_version is 2, of a newer kdbench than this"),
    "a missing field": (without("cost"), "the document lacks cost"),
    "a missing field of a field": (
        lambda box, path, arrays: rewritten(path, lambda r: r["cost"].pop("flops")),
        "cost lacks flops",
    ),
    "an infinite number": (huge, "cost/seconds is not a finite number"),
    "an accuracy of 101": (said("scores/last/top1", 101), "scores/last/top1 must be smaller than or equal to 100"),
    "an accuracy below 0": (said("scores/last/top1", -1), "scores/last/top1 must be bigger than or equal to 0"),
    "an accuracy of its own": (said("scores/last/top1", 50.0), "scores/last/top1 is 50.0, but curve/4/test_top1"),
    "a likelihood of its own": (said("scores/last/nll", 0.001), "the record says last nll 0.0010, but its predictions"),
    "a calibration error of its own": (said("scores/last/ece", 0.9), "the record says last ece 0.9000"),
    "predictions of another length": (predicted(shorter), "its prediction file lacks sound arrays for last"),
    "predictions on fewer images": (fewer_images, "records of its data disagree on the test labels"),
    "false labels": (predicted(lambda a: shifted(a, rr.CLASSES)), "records of its data disagree on the test labels"),
    "a false name": (lambda box, path, arrays: path.rename(path.with_name(f"{'0' * 64}.{'0' * 12}.json")), "its name"),
    "another suite's folder": (said("suite", "other@1"), 'its folder is "cifar100-short@1", but suite is "other@1"'),
    "two results of one training": (twice, "it has the weights and the numerics of another record of its trial"),
    "two protocols": (two_protocols, "records of this row differ in their protocol, and no copy of own@1"),
    "no predictions": (
        lambda box, path, arrays: box.predictions_path(box.load(path)).unlink(),
        "cannot be used (No such file or directory)",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_and_the_rest_is_used(box: Store, cli: Cli, name: str) -> None:  # noqa: F811
    fault, reason = FAULTS[name]
    path = rr.put(box, 0.5, images=200)
    fault(box, path, dict(box.predictions(box.load(path))))
    ended = cli("results", "validate", str(box.root))
    assert ended.code == 3
    problems = [line for line in ended.err.splitlines() if not line.startswith("kdbench: warning: ")]
    assert problems
    assert all(line.startswith("kdbench: ") and "v1/" in line and ".json" in line for line in problems), problems
    assert any(reason in line for line in problems), problems
    if "labels" not in reason:  # which nobody can tell from the false ones here
        assert not [line for line in problems if "wttm" in line]
        assert len(inspect(box).problems) == len(problems) == (2 if "two" in name else 1)
    assert "Traceback" not in ended.err


def test_false_labels_of_a_known_data_set_cost_their_own_record_only(tmp_path: Path, cli: Cli) -> None:  # noqa: F811
    box, shipped = Store(tmp_path / "results"), Store(ROOT / "results")
    first, second = sorted((shipped.root / "v1" / "digits@1").glob("*.json"))[:2]
    box.adopt(first, shipped)
    false = shipped.load(second)
    box.put(false, shifted(shipped.predictions(false), 10))
    ended = cli("results", "validate", str(box.root))
    assert (ended.code, ended.err.count("\n")) == (3, 1)
    assert f"digits@1/{second.name.partition('.')[0]}" in ended.err
    assert "its test labels are not those of digits" in ended.err


def test_sound_folders_are_sound(box: Store, cli: Cli) -> None:  # noqa: F811
    ended = cli("results", "validate", str(box.root))
    assert ended.code == 0
    assert "1 record, 1 result, 0 problems, 1 warning." in ended.out
    assert "no digest is known of the test labels of this copy of cifar100" in ended.err
    assert cli("results", "validate", "--strict", str(box.root)).code == 3
    shipped = cli("results", "validate", "--json", str(ROOT / "results"))
    assert shipped.code == 0, shipped.out
    assert json.loads(shipped.out)["records"] == len(list(Store(ROOT / "results").files()))


def test_what_a_machine_reads_is_what_a_person_is_told(box: Store, cli: Cli) -> None:  # noqa: F811
    huge(box, rr.put(box, 0.5, images=200), {})
    ended = cli("results", "validate", "--json", str(box.root))
    assert (ended.code, ended.err) == (3, "")
    found = json.loads(ended.out)
    assert (found["records"], found["results"]) == (1, 1)
    (problem,) = found["problems"]
    assert set(problem) == {"text", "suite", "file"}
    assert "cost/seconds is not a finite number" in problem["text"]
    assert (box.root / problem["file"]).is_file()
    assert [warning["suite"] for warning in found["warnings"]] == ["cifar100-short@1"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"evidence": "contributed"}, "it has no predictions, so none of its scores can be recomputed"),
        ({"warnings": ["the teacher is weak"]}, "the teacher is weak"),
        ({"provenance": {**rr.record()["provenance"], "git_dirty": True}}, "was not the commit that it names"),
    ],
)
def test_a_doubt_is_a_warning(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    box = Store(tmp_path / "results")
    arrays = rr.predictions(0.5, 1, images=200)
    box.put(rr.record(arrays=arrays, **change), None if "evidence" in change else arrays)
    found = inspect(box)
    assert not found.problems
    assert any(text in warning.text and warning.file for warning in found.warnings)


def test_what_nobody_reads_is_a_warning_and_what_cannot_be_read_a_problem(box: Store) -> None:
    for name in ("v1/notes.txt", "v1/cifar100-short@1/a.npz", f"v1/predictions/{'0' * 64}.npz", "v1/.hidden"):
        (box.root / name).write_bytes(b"x")
    for name, data in (("runs/one.json", b"{"), ("pins/one/a.json", b"[]"), ("reported/sources.csv", b"x")):
        (box.root / name).parent.mkdir(parents=True, exist_ok=True)
        (box.root / name).write_bytes(data)
    found = inspect(box)
    strays = [warning.file for warning in found.warnings if "test labels" not in warning.text]
    assert strays == ["v1/cifar100-short@1/a.npz", "v1/notes.txt", f"v1/predictions/{'0' * 64}.npz"]
    assert [problem.file for problem in found.problems] == ["pins/one", "runs/one.json", "reported"]


def test_a_folder_that_is_none_is_a_mistake(tmp_path: Path, cli: Cli) -> None:  # noqa: F811
    ended = cli("results", "validate", str(tmp_path / "nowhere"))
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "is no results folder" in ended.err


def test_what_was_sound_once_is_read_again_and_judged_by_its_content(box: Store) -> None:
    path = rr.put(box, 0.5, images=200)
    assert not inspect(box).problems
    record = box.load(path)
    predictions = box.predictions_path(record)
    kept = predictions.read_bytes()
    predictions.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert "its sha256 is not the recorded one" in inspect(box).problems[0].text
    predictions.write_bytes(kept)
    assert not inspect(box).problems
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    assert len(inspect(box).problems) == 1


def test_what_a_page_shows_does_not_depend_on_what_was_seen_before(
    box: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold, warm = inspect(box), inspect(box)
    (tmp_path / "cache" / "records.sqlite").write_bytes(b"no database")
    damaged = inspect(box)
    monkeypatch.setenv("KDBENCH_CACHE", "/dev/null/nowhere")
    assert cold == warm == damaged == inspect(box)


def archive(inflated: int, claimed: int) -> bytes:
    """A zip file whose one array is ``inflated`` MiB of zeros and claims to have ``claimed`` bytes."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    mebibyte = deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    body = mebibyte * inflated + deflate.flush()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        info = zipfile.ZipInfo("labels.npy")
        info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, claimed
        info.compress_size, info.CRC, info.header_offset = len(body), 0, 0
        buffer.write(info.FileHeader(zip64=False))
        buffer.write(body)
        made.filelist.append(info)
        made.start_dir, made._didModify = buffer.tell(), True
    return buffer.getvalue()


@pytest.mark.parametrize("claimed", [1200 << 20, 20_000])
def test_a_mebibyte_does_not_become_a_gibibyte(box: Store, claimed: int) -> None:
    """Whether the file says what it unpacks to, or not."""
    bomb = archive(1200, claimed)
    assert 1_100_000 < len(bomb) < 1_300_000
    path = rr.put(box, 0.5, images=200)
    record = box.load(path)
    path.unlink()
    tracemalloc.start()
    try:
        box.put_packed(record, bomb)
        with pytest.raises(UserError, match=digest_of(bomb)):
            box.predictions({**record, "predictions": {"sha256": digest_of(bomb)}})
        (problem,) = inspect(box).problems
        assert "cannot be used" in problem.text
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert DATASETS.get("cifar100").test_size * 8 > 20_000, "so that the lie is not refused for its length"


def test_arrays_in_any_form_numpy_writes_are_read(tmp_path: Path) -> None:
    from kdbench.records.predictions import pack, unpack

    arrays = {"labels": np.arange(6, dtype=np.int16), "last_top5": np.asfortranarray(np.arange(30).reshape(6, 5))}
    found = unpack(pack(arrays)[1], 100)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


def remembered(tmp_path: Path) -> int:
    """How many files are remembered; what records have in common lies beside them."""
    with contextlib.closing(sqlite3.connect(tmp_path / "cache" / memory.FILE)) as file:
        return int(file.execute("SELECT count(*) FROM known WHERE name NOT LIKE 'part %'").fetchone()[0])


def test_what_was_found_by_another_version_of_the_code_is_found_anew(
    box: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = inspect(box)
    assert remembered(tmp_path) == 2, "the record, and its predictions"
    monkeypatch.setattr(memory, "_code", lambda: "another")
    with memory.Memory():
        pass
    assert remembered(tmp_path) == 0
    assert inspect(box) == found
    assert remembered(tmp_path) == 2


def test_a_damaged_memory_is_begun_anew(box: Store, tmp_path: Path) -> None:
    found = inspect(box)
    (tmp_path / "cache" / memory.FILE).write_bytes(b"no database")
    assert inspect(box) == found == inspect(box)
    assert remembered(tmp_path) == 2


@pytest.mark.parametrize("how", ["a part is gone", "a part is damaged", "by an earlier version"])
def test_a_record_that_is_half_remembered_is_read_anew(box: Store, tmp_path: Path, how: str) -> None:
    found = take_inventory(box).records
    with contextlib.closing(sqlite3.connect(tmp_path / "cache" / memory.FILE)) as file, file:
        if how == "a part is gone":
            file.execute("DELETE FROM known WHERE name LIKE 'part %'")
        elif how == "a part is damaged":
            file.execute("UPDATE known SET text = '{' WHERE name LIKE 'part %'")
        else:
            file.execute("UPDATE known SET text = ? WHERE name LIKE 'record %'", (json.dumps(found[0]),))
    assert take_inventory(box).records == found == take_inventory(box).records


def test_where_nothing_is_recorded_nothing_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "results" / "v1").mkdir(parents=True)
    assert inspect(Store(tmp_path / "results")).records == 0
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE known SET text = json_set(text, '$.scores', 1) WHERE name LIKE 'scores %'",
        "UPDATE known SET text = json_set(text, '$.scores.last.top1', 99.9) WHERE name LIKE 'scores %'",
        "UPDATE known SET text = json_set(text, '$.status', 'crashed') WHERE name LIKE 'record %'",
        "UPDATE known SET text = (SELECT min(text) FROM known WHERE name LIKE 'part %') WHERE name LIKE 'part %'",
        "UPDATE known SET text = x'ff00'",
        "UPDATE known SET text = NULL",
        "UPDATE known SET digest = NULL",
    ],
)
def test_what_is_remembered_and_damaged_is_found_anew(box: Store, tmp_path: Path, damage: str) -> None:
    rr.put(box, 0.8, images=200)
    found = take_inventory(box)

    def rows() -> list[Any]:
        with contextlib.closing(sqlite3.connect(tmp_path / "cache" / memory.FILE)) as file:
            return sorted(file.execute("SELECT * FROM known"))

    whole = rows()
    with contextlib.closing(sqlite3.connect(tmp_path / "cache" / memory.FILE)) as file, file:
        assert file.execute(damage).rowcount >= 2
    assert rows() != whole
    again = take_inventory(box)
    assert (again.records, again.rows, again.problems) == (found.records, found.rows, [])
    assert rows() == whole, "what is damaged is mended"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("scores", '{"scores": 1, "labels": "", "images": 1, "right": {}, "binned": {}}'),
        ("scores", '{"scores": {"last": 1}, "labels": "", "images": 1, "right": {"last": ""}, "binned": {"last": ""}}'),
        ("scores", '{"scores": {}, "labels": "", "images": "1", "right": {}, "binned": {}}'),
        ("scores", "[]"),
        ("record", '{"identity": "", "provenance": {}}'),
        ("record", "1"),
    ],
)
def test_what_is_remembered_in_another_form_is_found_anew(box: Store, tmp_path: Path, kind: str, text: str) -> None:
    found = take_inventory(box)
    with contextlib.closing(sqlite3.connect(tmp_path / "cache" / memory.FILE)) as file:
        names = [name for (name,) in file.execute("SELECT name FROM known WHERE name LIKE ?", (f"{kind} %",))]
    with memory.Memory() as known:
        for name in names:
            known.keep(name, text)
    assert names
    assert take_inventory(box).rows == found.rows
