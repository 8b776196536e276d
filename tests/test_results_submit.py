"""``kdbench results submit``: a bundle that holds up in somebody else's folder, with the method that it is of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import render_records as rr
from bench import Bench, suite_text
from test_cli import RUN, Cli, cli  # noqa: F401
from test_whose_code import Package, add_suite, package  # noqa: F401

from kdbench.plugins import load_plugins, methods_of, source_of
from kdbench.records import Store
from kdbench.records.inspection import inspect
from kdbench.records.inventory import take_inventory
from kdbench.suites import Suite


@pytest.fixture
def trained(bench: Bench, make_suite: Callable[[str], Suite]) -> str:
    """The file of a plugin; a suite with its method, and a teacher that was trained for another one, are recorded."""
    file = bench.plugin("own")
    load_plugins([file])
    assert methods_of(file) == ["own"]
    bench.train(bench.trials(make_suite(suite_text(["ce", "kd", "own", "fitnet"], epochs=1))), [file])
    return file


def test_a_bundle_is_checked_complete_and_merges(cli: Cli, bench: Bench, trained: str) -> None:  # noqa: F811
    own, out = Path(trained).name, bench.folder / "bundle"
    ended = cli(
        "results",
        "submit",
        str(bench.store.root),
        "--out",
        str(out),
        "--plugin",
        trained,
        "--method",
        "own",
        "--method",
        "k*",
    )
    assert (ended.code, ended.err) == (0, "")
    bundle = Store(out / "results")
    found = inspect(bundle)
    assert not found.problems
    records, _ = bundle.read()
    labels = sorted(record["label"] for record in records)
    assert labels == ["ce", "kd", "own", "teacher"], "with what they are set against, and who taught them"
    assert {record["evidence"] for record in records} == {"contributed"}
    for record in records:
        (measured,) = (r for r in bench.store.read()[0] if r["key"] == record["key"])
        assert {**record, "evidence": "measured"} == measured
        assert bundle.packed(record) == bench.store.packed(measured)
    (folder,) = (out / "results" / "methods").iterdir()
    assert folder.name.startswith("own.")
    assert (folder / "source" / own).read_bytes() == Path(trained).read_bytes()
    assert json.loads((folder / "card.json").read_text())["name"] == "own"
    assert not (out / "results" / "plugins").exists(), "its source lies with the method"
    lines = (folder / "check-method.txt").read_text().splitlines()
    assert lines[-1].startswith("own: a step takes ")
    assert all(": passed: " in line for line in lines[:-1])
    text = (out / "PULL_REQUEST.md").read_text(encoding="utf-8")
    assert "recomputed from the predictions of 3 of 3 finished rows" in text
    assert "own (contributed)" in text
    assert lines[-1] in text

    home = bench.folder / "home"
    assert cli("results", "merge", str(bench.store.root), str(bundle.root), "--into", str(home)).code == 0
    merged = take_inventory(Store(home))
    assert not merged.problems
    assert sorted((row["label"], row["evidence"]) for row in merged.rows) == [
        ("ce", "contributed"),
        ("ce", "measured"),
        ("fitnet", "measured"),
        ("kd", "contributed"),
        ("kd", "measured"),
        ("own", "contributed"),
        ("own", "measured"),
        ("teacher", "contributed"),
        ("teacher", "measured"),
    ]
    assert (home / "methods" / folder.name / "source" / own).is_file()
    assert cli("results", "validate", str(home)).code == 0


def test_the_sources_of_an_architecture_go_along(cli: Cli, bench: Bench, package: Package) -> None:  # noqa: F811
    """Those of a package that offers no method, named by the digest that its records have."""
    package.write("own/tables/widths.json", "[8]")
    package.forget()
    add_suite(suite_text(["ce"], epochs=1, student="own_net"))
    assert cli(*RUN).code == 0
    assert cli("results", "submit", "--out", "bundle").code == 0
    bundle = Path("bundle", "results")
    assert not (bundle / "methods").exists()
    (folder,) = (bundle / "plugins").iterdir()
    (record,) = Store(bundle).read()[0]
    assert folder.name == f"kdbench-own.{record['identity']['student']['source'][:12]}"
    names = ("own/__init__.py", "own/network.py", "own/tables/widths.json")
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {name: (package.sources / name).read_bytes() for name in names}
    assert cli("results", "merge", str(bundle), "--into", "home").code == 0
    assert Path("home", "plugins", folder.name, "own", "network.py").is_file()
    ended = cli("results", "validate", "home")
    assert ended.code == 0
    assert "plugins" not in ended.out + ended.err


def test_a_plugin_that_is_not_there_or_another_one_is_refused(cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    box = Store(tmp_path / "results")
    identity = rr.record("mine")["identity"]
    identity["method"]["source"] = "5" * 64
    other = {"name": "mine_plugin.py", "version": "", "sha256": "5" * 64}
    provenance = {**rr.record()["provenance"], "plugin_sha256": "5" * 64, "plugins": [other]}
    rr.put(box, 0.5, "mine", identity=identity, provenance=provenance, images=200)
    ended = cli("results", "submit", str(box.root), "--out", "bundle")
    assert ended.code == 2
    assert "The method mine is not registered here" in ended.err
    bench = Bench(tmp_path)
    file = bench.plugin("mine")
    ended = cli("results", "submit", str(box.root), "--out", "bundle", "--plugin", file)
    assert ended.code == 2
    assert "The code of the plugin mine_plugin.py is not what v1/cifar100-short@1/" in ended.err
    assert not Path("bundle").exists()


def test_a_method_that_breaks_the_contract_is_refused(cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    file = Bench(tmp_path).plugin("broken", loss="raise ValueError('no loss')")
    load_plugins([file])
    box = Store(tmp_path / "results")
    identity = rr.record("broken")["identity"]
    identity["method"]["source"] = source = source_of("broken_plugin.py").sha256
    provenance = {**rr.record()["provenance"], "plugin_sha256": source}
    rr.put(box, 0.5, "broken", identity=identity, provenance=provenance, images=200)
    ended = cli("results", "submit", str(box.root), "--out", str(tmp_path / "bundle"))
    assert ended.code == 2
    assert "no loss" in ended.err
    assert "broken does not keep the contract" in ended.err
    assert not (tmp_path / "bundle").exists()


def test_nothing_is_bundled_of_a_folder_with_a_fault(cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    box = Store(tmp_path / "results")
    rr.put(box, 0.5, "kd", images=200)
    path = rr.put(box, 0.5, "wttm", images=200)
    path.write_bytes(b"{")
    ended = cli("results", "submit", str(box.root), "--out", str(tmp_path / "bundle"))
    assert ended.code == 2
    assert path.name in ended.err
    assert "Nothing was bundled" in ended.err
    assert not (tmp_path / "bundle").exists()


def test_what_was_contributed_or_failed_is_not_submitted_again(cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    box = Store(tmp_path / "results")
    rr.put(box, 0.5, "kd", images=200)
    rr.put(box, 0.5, "wttm", evidence="contributed", images=200)
    box.put(rr.record("dkd", status="crashed", detail="why"))
    box.put(rr.record("rkd", status="diverged", detail="NaN"))
    assert cli("results", "submit", str(box.root), "--out", str(tmp_path / "bundle")).code == 0
    records, _ = Store(tmp_path / "bundle" / "results").read()
    assert sorted(record["label"] for record in records) == ["kd", "rkd"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--suite", "no@1"), "has measured nothing of the suite no@1; it has cifar100-short@1"),
        (("--method", "no*"), "No measured row matches"),
    ],
)
def test_a_selection_of_nothing_is_a_mistake(
    cli: Cli,  # noqa: F811
    tmp_path: Path,
    words: tuple[str, ...],
    said: str,
) -> None:
    box = Store(tmp_path / "results")
    rr.put(box, 0.5, "kd", images=200)
    ended = cli("results", "submit", str(box.root), "--out", str(tmp_path / "bundle"), *words)
    assert ended.code == 2
    assert said in ended.err
    assert not (tmp_path / "bundle").exists()


def test_a_folder_that_holds_something_is_never_taken(cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    box = Store(tmp_path / "results")
    rr.put(box, 0.5, "kd", images=200)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis").write_text("mine")
    ended = cli("results", "submit", str(box.root), "--out", str(tmp_path / "precious"))
    assert ended.code == 2
    assert "is not empty; name a new folder" in ended.err
    assert (tmp_path / "precious" / "thesis").read_text() == "mine"
