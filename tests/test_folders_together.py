"""Results folders put together, by copying, by ``kdbench results merge`` and by git: nothing is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import ROOT
from test_store import COST, NUMERICS, predicted, predictions, record
from test_trial import TRIAL

from kdbench.canonical import digest
from kdbench.cli import main
from kdbench.records import Record, Store
from kdbench.records.listings import Place
from kdbench.records.migrate import migrate
from kdbench.records.predictions import pack
from kdbench.records.results import fold, placed
from kdbench.records.standing import Standing

AMD = {**NUMERICS, "isa": "AVX512"}


def filled(root: Path, numerics: dict[str, Any], weights: str, seconds: float) -> Store:
    """What one processor made of a suite: a trial that both have, one with the same result on both, one of its own."""
    store = Store(root)
    store.put({**record(weights=weights * 64), "numerics": numerics}, predictions(int(weights)))
    store.put({**record(seed=1), "cost": {**COST, "seconds": seconds}}, predictions())
    store.put(record("crashed", seed=2 + int(seconds)))
    store.pin("s", "tutor", "b" * 64)
    store.list_under([(TRIAL.key, Place(f"t@{weights}", "kd", "t:s"))])
    return store


def test_a_merge_mends_what_is_damaged_or_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who was told that all is there may delete the source."""
    source, target = filled(tmp_path / "a", NUMERICS, "1", 1.0), Store(tmp_path / "b")
    by_copying(target.root, source.root)
    whole = content(target)
    path = next(p for p in target.files() if target.load(p)["predictions"])

    files = sorted(p for p in target.root.rglob("*.npz") if p.is_file())
    assert files
    path.write_bytes(path.read_bytes()[:-9])
    files[0].write_bytes(b"no archive")
    for other in files[1:]:
        other.unlink()
    assert main(["results", "merge", str(source.root), "--into", str(target.root)]) == 0
    assert content(target) == whole
    again = content(target)
    assert main(["results", "merge", str(source.root), "--into", str(target.root)]) == 0
    assert content(target) == again
    assert "0 records copied" in capsys.readouterr().out.splitlines()[-1]


def test_what_a_merge_may_not_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = filled(tmp_path / "a", NUMERICS, "1", 1.0)
    large = source.root / "methods" / "m.0" / "m.py"
    large.parent.mkdir(parents=True)
    with large.open("wb") as stream:
        stream.truncate((64 << 20) + 1)
    assert main(["results", "merge", str(source.root), "--into", str(tmp_path / "b")]) == 3
    assert "m.py is not copied: it is larger than 64 MiB." in capsys.readouterr().err


def content(store: Store) -> dict[str, bytes]:
    return {path.relative_to(store.root).as_posix(): path.read_bytes() for path in store.root.rglob("*.*")}


def by_copying(into: Path, other: Path) -> None:
    shutil.copytree(other, into, dirs_exist_ok=True)


def by_the_command(into: Path, other: Path) -> None:
    assert main(["results", "merge", str(other), "--into", str(into)]) == 0


def by_git(into: Path, other: Path) -> None:
    """Each folder committed on a branch of its own, from a common beginning, and merged."""

    def git(*arguments: str) -> None:
        settings = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(work), *settings, *arguments], check=True, capture_output=True)

    work = into.parent / "work"
    work.mkdir()
    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "begin")
    for name, folder in (("mine", into), ("theirs", other)):
        git("checkout", "-q", "-b", name, "main")
        shutil.copytree(folder, work / "results")
        git("add", "-A")
        git("commit", "-q", "-m", name)
    git("merge", "-q", "-m", "both", "mine")
    shutil.rmtree(into)
    shutil.copytree(work / "results", into)


@pytest.mark.parametrize("way", [by_copying, by_the_command, by_git])
@pytest.mark.parametrize("order", ["one way", "the other"])
def test_two_processors_folders_merge_and_lose_nothing(
    tmp_path: Path, way: Callable[[Path, Path], None], order: str
) -> None:
    """Copying once replaced 97.4 by 98.4 silently, and git met conflicts."""
    one, two = filled(tmp_path / "one", NUMERICS, "1", 1.0), filled(tmp_path / "two", AMD, "2", 3.0)
    if order == "the other":
        one, two = two, one
    everything = content(one) | content(two)
    way(one.root, two.root)
    assert content(one) == everything
    records, problems = one.read()
    assert (len(records), problems) == (6, [])
    results, refused = fold(records)
    assert not refused
    replicates = [r for r in results if r["key"] == TRIAL.key]
    assert {r["weights_sha256"][0] for r in replicates} == {"1", "2"}
    (again,) = (r for r in results if r["seed"] == 1)
    assert (again["cost"]["seconds"], len(again["costs"])) == (2.0, 2), "repeated measurements of one result"
    assert {r["suite"] for r in placed(results, one.listings()[0], Standing()) if r["key"] == TRIAL.key} == {
        "s@1",
        "t@1",
        "t@2",
    }
    assert one.pins("s") == {"tutor": "b" * 64}
    for found in records:
        assert found["predictions"] is None or one.predictions(found)


def test_what_is_damaged_is_named_and_not_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = filled(tmp_path / "one", NUMERICS, "1", 1.0), Store(tmp_path / "two")
    sound, bad = two.put(record(seed=8), predictions()), two.put(record(seed=9), predictions(4))
    predicted(two, bad).write_bytes(b"")
    assert main(["results", "merge", str(two.root), "--into", str(one.root)]) == 3
    said = capsys.readouterr()
    assert "1 record copied, 0 records there already" in said.out
    assert "cannot be used" in said.err
    assert [path.name for path in one.files()].count(sound.name) == 1
    assert bad.name not in {path.name for path in one.files()}


def test_pins_that_differ_are_an_error_that_names_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = filled(tmp_path / "one", NUMERICS, "1", 1.0), filled(tmp_path / "two", AMD, "2", 3.0)
    two.pin("u", "other", "c" * 64)
    one.pin("u", "other", "d" * 64)
    before = content(one)
    assert main(["results", "merge", str(two.root), "--into", str(one.root)]) == 2
    said = capsys.readouterr().err
    assert "pin the teacher other to different weights" in said
    assert str(one.root / "pins" / "u") in said
    assert str(two.root / "pins" / "u") in said
    assert content(one) == before


def test_equal_weights_with_other_scores_contradict_and_neither_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(record(), predictions())
    false = record()
    false["scores"]["last"]["top5"] += 1.0
    store.put(false, predictions())
    results, refused = fold(store.read()[0])
    assert not results
    assert len(refused) == 2
    assert "last top5 is" in refused[0][1]


def test_a_contributed_record_contradicts_no_measured_one(tmp_path: Path) -> None:
    false = {**record(), "evidence": "contributed"}
    false["scores"] = json.loads(json.dumps(false["scores"]))
    false["scores"]["last"]["top5"] += 1.0
    results, refused = fold([record(), false])
    assert not refused
    assert [r["evidence"] for r in results] == ["measured", "contributed"]


def earlier(store: Store, found: Record, arrays: Any, name: str = "") -> Path:
    """Leave ``found`` as earlier versions did: named by its key, predictions beside it, a copy in each suite."""
    stem = name or found["key"]
    sha256, data = pack(arrays)
    path = store.folder(found) / f"{stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".npz").write_bytes(data)
    path.write_text(json.dumps({**found, "predictions": {"file": f"{stem}.npz", "sha256": sha256}}))
    return path


def result_of(found: Record) -> str:
    """What a migration must not lose."""
    predictions = found["predictions"] and found["predictions"]["sha256"]
    return digest([found[part] for part in ("key", "numerics", "weights_sha256", "scores")] + [predictions])


def test_a_migration_renames_folds_copies_and_is_done_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    one = record()
    old = [
        earlier(store, one, predictions()),
        earlier(store, {**record(weights="2" * 64), "numerics": AMD}, predictions(1), f"{TRIAL.key}.{'a' * 12}"),
        earlier(store, {**one, "suite": "s@2", "label": "kd-2"}, predictions()),
        earlier(store, record(seed=5), predictions(2)),
    ]
    broken = earlier(store, record(seed=6), predictions(3))
    broken.with_suffix(".npz").write_bytes(b"")
    before = {result_of(json.loads(path.read_text())) for path in old}
    assert main(["results", "migrate", str(tmp_path)]) == 3
    said = capsys.readouterr()
    assert "3 records brought over, 1 copy of another suite's became listings" in said.out
    assert f"s@1/{broken.name}" in said.err
    records, problems = store.read()
    assert {result_of(found) for found in records} == before
    assert len(problems) == 1, "the broken one stays where it was"
    assert not any(path.exists() for path in old)
    shown = {
        (r["suite"], r["label"])
        for r in placed(fold(records)[0], store.listings()[0], Standing())
        if r["key"] == TRIAL.key
    }
    assert shown == {("s@1", one["label"]), ("s@2", "kd-2")}
    assert migrate(store)[:2] == (0, 0)


def test_a_migration_that_is_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    paths = [earlier(store, record(seed=seed), predictions(seed)) for seed in range(3)]
    before = {result_of(json.loads(path.read_text())) for path in paths}
    unlink, calls = Path.unlink, iter(range(100))

    def deadly(path: Path, **more: bool) -> None:
        if path.suffix in (".json", ".npz") and next(calls) == 3:
            raise KeyboardInterrupt
        unlink(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", deadly)
        with pytest.raises(KeyboardInterrupt):
            migrate(store)
    assert not migrate(store).problems
    assert {result_of(found) for found in store.read()[0]} == before
    assert store.read()[1] == []


def test_no_committed_result_was_lost() -> None:
    """The list is of the last commit before names said what is in a file."""
    known = {tuple(line.split()) for line in (ROOT / "tests" / "committed_results.txt").read_text().splitlines()}
    records, problems = Store(ROOT / "results").read()
    assert not problems
    assert known <= {(found["key"], result_of(found)) for found in records}
