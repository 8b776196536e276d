"""``kdbench results prune``: what nobody needs goes, and nothing that counts, is damaged or is being written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import render_records as rr
from test_cli import Cli, cli  # noqa: F401

from kdbench.cli.results.prune import PLACES
from kdbench.jobs.claims import claimed
from kdbench.paths import CACHE_FOLDERS
from kdbench.records import Store
from kdbench.records.inventory import take_inventory
from kdbench.records.prune import superseded


def failed(box: Store, seed: int, when: str = "2026-01-01T00:00:00+00:00", **changes: object) -> Path:
    provenance = {**rr.record()["provenance"], "created": when}
    return box.put(rr.record(seed=seed, status="crashed", detail="why", provenance=provenance, **changes))


@pytest.fixture
def box(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def names(box: Store) -> set[Path]:
    return {path for path in box.root.rglob("*") if path.is_file()}


def test_failed_attempts_go_once_something_counts_in_their_place(box: Store, cli: Cli) -> None:  # noqa: F811
    ended = failed(box, 0)
    rr.put(box, 0.5, seed=0, images=200)
    early, late = failed(box, 1), failed(box, 1, "2026-01-02T00:00:00+00:00")
    theirs = failed(box, 0, evidence="contributed")
    diverged = box.put(rr.record(seed=3, status="diverged", detail="NaN"))
    before, results = names(box), take_inventory(box).results
    dry = cli("results", "prune", "attempts", "--dry-run", "--results", str(box.root))
    assert dry.code == 0
    assert "attempts: 2 files, 0.0 MiB would be removed." in dry.out
    assert names(box) == before
    assert cli("results", "prune", "attempts", "--results", str(box.root)).code == 0
    assert before - names(box) == {ended, early}
    assert {late, theirs, diverged} <= names(box)
    assert take_inventory(box).results == results


def test_no_record_that_counts_is_pruned_whatever_the_others_are(box: Store) -> None:
    """A failed attempt counts where the finished one cannot be used, and so do repeated measurements of one result."""
    failed(box, 0)
    finished = rr.put(box, 0.5, seed=0, images=200)
    rr.put(
        box, 0.5, seed=0, images=200, provenance={**rr.record()["provenance"], "created": "2026-02-01T00:00:00+00:00"}
    )
    assert len(superseded(box)) == 1
    record = box.load(finished)
    box.predictions_path(record).write_bytes(b"damaged")
    assert superseded(box) == []


def cached(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for name in (*CACHE_FOLDERS, "data"):
        made[name] = tmp_path / "cache" / name / "deep" / "file"
        made[name].parent.mkdir(parents=True)
        made[name].write_bytes(b"x")
    return made


@pytest.mark.parametrize("what", [what for what, places in PLACES.items() if places])
def test_of_the_cache_only_what_was_named_goes(tmp_path: Path, cli: Cli, what: str) -> None:  # noqa: F811
    made = cached(tmp_path)
    assert f"{what}: {len(PLACES[what])} file" in cli("results", "prune", what, "--dry-run").out
    assert all(path.exists() for path in made.values())
    assert cli("results", "prune", what).code == 0
    assert {name for name, path in made.items() if not path.exists()} == set(PLACES[what])
    assert all(path.parents[1].is_dir() for path in made.values()), "the folders themselves stay"


def test_what_a_link_leads_to_stays(tmp_path: Path, cli: Cli) -> None:  # noqa: F811
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis").write_text("mine")
    (tmp_path / "cache" / "teachers").mkdir(parents=True)
    os.symlink(tmp_path / "precious", tmp_path / "cache" / "teachers" / "link")
    assert cli("results", "prune", "cache").code == 0
    assert (tmp_path / "precious" / "thesis").read_text() == "mine"
    assert list((tmp_path / "cache" / "teachers").iterdir()) == []


def test_nothing_of_the_cache_goes_while_a_run_is_at_work(tmp_path: Path, cli: Cli) -> None:  # noqa: F811
    made = cached(tmp_path)
    with claimed(tmp_path / "cache" / "claims", ["0" * 64], print):
        for what in ("runs", "checkpoints", "cache"):
            ended = cli("results", "prune", what)
            assert ended.code == 2
            assert "A run is at work in the cache folder" in ended.err
    assert all(path.exists() for path in made.values())
    assert cli("results", "prune", "runs").code == 0
    assert not made["runs"].exists()


def test_something_must_be_named(cli: Cli) -> None:  # noqa: F811
    assert cli("results", "prune").code == 2
