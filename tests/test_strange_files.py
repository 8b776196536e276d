"""A stranger's results folder: links, pipes, folders that cannot be read and damage, in ``merge`` and ``validate``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import render_records as rr

from kdbench.cli import main
from kdbench.errors import CheckpointError, UserError
from kdbench.folders import locked
from kdbench.records import Store
from kdbench.records.inspection import inspect
from kdbench.records.listings import Place
from kdbench.records.merge import merge
from kdbench.students.kept import damaged
from kdbench.teachers.weights import read_weights, said_of


@pytest.fixture
def box(tmp_path: Path) -> Store:
    made = Store(tmp_path / "bundle")
    record = made.load(rr.put(made, 0.5, images=200))
    made.list_under([(record["key"], Place("other@1", record["label"], record["pair"]))])
    return made


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder outside the bundle, with a file that nobody gave away."""
    folder = tmp_path / "home"
    (folder / "inner").mkdir(parents=True)
    for name in ("key.json", "key.safetensors", "inner/key.json"):
        (folder / name).write_text("secret")
    return folder


def copied(folder: Path) -> list[str]:
    return [path.read_text("utf-8", "replace") for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["methods", "methods/m", "plugins", "weights", "pins", "pins/s2", "runs"])
@pytest.mark.parametrize("what", [".", "key.json", "key.safetensors"])
def test_no_link_is_followed_out_of_a_folder(box: Store, secret: Path, tmp_path: Path, name: str, what: str) -> None:
    link = box.root / name if what == "." else box.root / name / what
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(secret / what)
    into = Store(tmp_path / "results")
    done = merge(into, [box])
    assert done.new == 1
    assert "secret" not in copied(into.root)
    assert len(copied(into.root)) == 3, "a record, its predictions and a listing"
    sentence = f"{link.relative_to(box.root)} is a link, which is not followed; put what it leads to in its place."
    assert done.problems == [sentence]
    found = inspect(box)
    assert not found.problems
    named = [warning.text for warning in found.warnings if str(link.relative_to(box.root)) in warning.text]
    assert len(named) == 1, "and what it leads to is not looked at"
    assert list(damaged(box)) == []


def test_a_results_folder_may_itself_be_a_link(box: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(box.root)
    assert merge(Store(tmp_path / "results"), [Store(tmp_path / "link")]) == (1, 0, [])


@pytest.mark.parametrize(
    "name",
    [
        "weights/w.safetensors",
        "pins/s2/a.json",
        "runs/a.json",
        "methods/m/a.py",
        "plugins/p/a.py",
        "v1/listings/a.json",
    ],
)
def test_a_pipe_is_refused_and_not_waited_for(box: Store, tmp_path: Path, name: str) -> None:
    pipe = box.root / name
    pipe.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe)
    inspect(box)
    assert list(damaged(box)) == []
    assert main(["results", "validate", "--strict", str(box.root)]) == 3
    if name.startswith("pins"):
        with pytest.raises(UserError, match="it is no regular file"):
            merge(Store(tmp_path / "results"), [box])
        return
    assert f"{name} is no regular file, so it is not read; delete it." in merge(Store(tmp_path / "r"), [box]).problems


def test_what_lies_in_the_place_of_weights_or_a_lock_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "w.safetensors"
    os.mkfifo(pipe)
    for read in (said_of, read_weights):
        with pytest.raises(CheckpointError, match="it is no regular file"):
            read(pipe)
    with pytest.raises(UserError, match="cannot be a lock; delete it"), locked(pipe, "a test"):
        pass


def refusing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have the folder called ``name`` be one that may not be listed, as root can list any."""

    def listed(folder: Any = ".", list_folder: Callable[..., list[str]] = os.listdir) -> list[str]:
        if isinstance(folder, str | Path) and Path(folder).name == name:
            raise PermissionError(13, "Permission denied")
        return list_folder(folder)

    monkeypatch.setattr(os, "listdir", listed)


@pytest.mark.parametrize("name", ["runs", "weights", "methods", "plugins", "pins", "inner@1"])
def test_a_folder_that_cannot_be_read_is_named_and_the_rest_is_done(
    box: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    place = f"v1/{name}" if "@" in name else name
    (box.root / place).mkdir(exist_ok=True)
    refusing(monkeypatch, name)
    sentence = f"The folder {place} cannot be read (Permission denied); make it readable"
    assert main(["results", "validate", str(box.root)]) == 3
    assert capsys.readouterr().err.count(sentence) == 1
    assert main(["results", "merge", str(box.root), "--into", str(tmp_path / "results")]) == 3
    said = capsys.readouterr()
    assert said.err.count(sentence) == 1
    assert "1 record copied" in said.out


def test_a_merge_names_records_that_lie_where_none_is_looked_for(box: Store, tmp_path: Path) -> None:
    (path,) = box.files()
    (box.root / "v1" / "s@1" / "deeper").mkdir(parents=True)
    path.rename(box.root / "v1" / "s@1" / "deeper" / path.name)
    done = merge(Store(tmp_path / "results"), [box])
    assert done.new == 0
    assert [text for text in done.problems if "v1/s@1/deeper" in text and "Nothing reads 1 JSON file" in text]


def test_a_merge_copies_nothing_that_it_calls_damaged(box: Store, tmp_path: Path) -> None:
    box.pin("s", "tutor", "b" * 64)
    (listing,) = (box.root / "v1" / "listings").iterdir()
    listing.write_bytes(listing.read_bytes()[:-9])
    (box.root / "runs").mkdir()
    (box.root / "runs" / "one.json").write_text('{"schema_version": 1}')
    into = Store(tmp_path / "results")
    done = merge(into, [box])
    assert [text.partition(" ")[0] for text in done.problems] == ["The", "The"]
    assert "The run runs/one.json is damaged" in " ".join(done.problems)
    assert f"The listing {listing.name} cannot be read" in " ".join(done.problems)
    assert not (into.root / "runs").exists()
    assert not (into.root / "v1" / "listings").exists()
    assert into.pins("s") == {"tutor": "b" * 64}


def test_a_file_in_the_way_of_a_folder_costs_that_folder_alone(
    box: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = box.root / "methods" / "marvel.0123"
    theirs.mkdir(parents=True)
    (theirs / "card.json").write_text("{}")
    into = tmp_path / "into"
    (into / "methods").mkdir(parents=True)
    (into / "methods" / "marvel.0123").write_text("no folder")
    assert main(["results", "merge", str(box.root), "--into", str(into)]) == 3
    said = capsys.readouterr()
    assert "card.json is not copied: methods/marvel.0123/card.json cannot be made, a file is in its way." in said.err
    assert "1 record copied" in said.out
    assert (into / "methods" / "marvel.0123").read_text() == "no folder"
