"""``kdbench results export``: the pages' own numbers in every form, and whose papers to cite."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import render_records as rr
from test_cli import Cli, cli  # noqa: F401

from kdbench.cli.results.export import FORMATS
from kdbench.data import DATASETS
from kdbench.records import Store
from kdbench.render.grid import dataset_grid, latex, markdown, suite_grid
from kdbench.render.site import gather
from kdbench.render.suiteview import suite_view

SUITE = "cifar100-short@1"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of three pairs, and a contributed row."""
    box = Store(tmp_path_factory.mktemp("export") / "results")
    rr.fill(box, images=200)
    rr.put(box, 0.99, "wttm", "vgg13:vgg8", 5, evidence="contributed", images=200)
    return box.root


@pytest.fixture
def export(cli: Cli, results: Path) -> Any:  # noqa: F811
    def call(*words: str) -> str:
        ended = cli("results", "export", "--results", str(results), *words)
        assert (ended.code, ended.err) == (0, "")
        return ended.out

    return call


def test_a_suite_s_table_has_the_numbers_of_its_page(results: Path) -> None:
    catalogue = gather(Store(results))
    view, grid = suite_view(catalogue, SUITE), suite_grid(catalogue, SUITE)
    assert grid.columns[-1] == "mean gain"
    assert len(grid.columns) == len(view.tables) + 1
    assert [title for title, _ in grid.rows] == [*(row.label for row in view.rows), "wttm (contributed)"]
    for row, (_, places) in zip(view.rows, grid.rows, strict=False):
        for table, cells in zip(view.tables, places, strict=False):
            lines = row.lines.get((table.dataset, table.pair), ())
            assert [cell.value for cell in cells] == [line.top1 for line in lines if line.top1]
        assert [cell.value for cell in places[-1]] == ([row.gain] if row.gain else [])


def test_a_table_of_methods_and_data_sets_has_mean_gains(results: Path) -> None:
    catalogue = gather(Store(results))
    grid = dataset_grid(catalogue, [SUITE])
    assert grid.columns == (f"cifar100 ({SUITE})",)
    gains = {row.label: row.gain for row in suite_view(catalogue, SUITE).rows if row.gain}
    assert {title: cells[0].value for title, (cells,) in grid.rows} == gains, "nobody gains over a student of others"
    assert {cell.pair for cell in grid.cells} == {"3 of 3"}


def test_markdown_is_a_table_and_latex_is_balanced(export: Any, results: Path) -> None:
    text = export("markdown")
    caption, rest = text.split("\n\n")
    assert SUITE in caption
    rows = [line.strip("|").split("|") for line in rest.strip().splitlines()]
    assert {len(row) for row in rows} == {5}
    assert rows[2][0].strip() == "wttm"
    assert re.fullmatch(r" \d\d\.\d\d ± \d+\.\d\d ", rows[2][1])
    assert re.fullmatch(r" \+\d+\.\d\d ± \d+\.\d\d ", rows[2][4])
    text = export("latex", "--table", "datasets")
    body = re.sub(r"\\[&%$#_{}]", "", text)
    assert body.count("{") == body.count("}")
    assert body.count("$") % 2 == 0
    columns = re.search(r"tabular}{l(r+)}", text)
    assert columns
    cells = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in cells} == {len(columns[1])}


@pytest.mark.parametrize("form", [markdown, latex])
def test_what_a_label_holds_is_no_markup(tmp_path: Path, form: Any) -> None:
    box = Store(tmp_path / "results")
    rr.put(box, 0.5, "kd", label="a_b@c", images=200)
    text = form(suite_grid(gather(box), SUITE))
    assert r"a\_b@c" in text
    assert "a_b" not in text


@pytest.mark.parametrize("table", ["results", "suite", "datasets"])
def test_csv_and_json_say_the_same(export: Any, table: str) -> None:
    rows = list(csv.DictReader(io.StringIO(export("csv", "--table", table))))
    objects = json.loads(export("json", "--table", table))
    assert len(rows) == len(objects) > 3
    for row, found in zip(rows, objects, strict=True):
        assert list(row) == list(found)
        for name, value in found.items():
            if isinstance(value, float | int) and not isinstance(value, bool):
                assert float(row[name]) == pytest.approx(value, rel=1e-12), name
            elif value is None:
                assert row[name] == "", name


def test_results_are_a_line_each(export: Any, results: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(export("csv"))))
    assert len(rows) == len(gather(Store(results)).records)
    assert sum(row["evidence"] == "contributed" for row in rows) == 1


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs the extra parquet")
def test_parquet_is_read_back_as_it_was(export: Any, results: Path, tmp_path: Path) -> None:
    import pandas as pd

    import kdbench

    export("parquet", "--out", str(tmp_path / "a.parquet"))
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "a.parquet"), kdbench.load_results(results), check_dtype=False
    )


def test_parquet_without_its_library_is_one_sentence(
    cli: Cli,  # noqa: F811
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pandas as pd

    def missing(*_: object, **__: object) -> None:
        raise ImportError("no engine")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", missing)
    ended = cli("results", "export", "parquet", "--results", str(results), "--out", "a.parquet")
    assert ended.code == 2
    assert "pip install 'kdbench[parquet]'" in ended.err


def test_a_hub_reads_the_scores_of_each_network(export: Any, results: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="comes with timm's hub client")
    hub = pytest.importorskip("huggingface_hub", reason="comes with timm")
    if not hasattr(hub, "parse_eval_result_entries"):
        pytest.skip("this version of the hub's client does not read .eval_results yet")
    out = export("eval-results", "--out", str(tmp_path / "hub"))
    files = sorted((tmp_path / "hub").rglob(".eval_results/*.yaml"))
    finished = [r for r in gather(Store(results)).measured if r["status"] == "finished"]
    assert f"{len(finished)} networks" in out
    assert len(files) == len(finished)
    by_weights = {record["weights_sha256"][:12]: record for record in finished}
    for file in files:
        (entry,) = hub.parse_eval_result_entries(yaml.safe_load(file.read_text(encoding="utf-8")))
        record = by_weights[file.parent.parent.name.rpartition(".")[2]]
        assert entry.dataset_id == DATASETS.get("cifar100").hub
        assert entry.value == pytest.approx(record["scores"]["last"]["top1"], abs=1e-4)
        assert record["weights_sha256"] in entry.notes
        assert entry.date == record["provenance"]["created"]


def test_what_to_cite_is_each_paper_once(export: Any) -> None:
    text = export("bibtex")
    keys = re.findall(r"^@\w+\{([^,]+),$", text, re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert {"kdbench", "hinton2015distilling", "zheng2024transformed"} <= set(keys)
    assert text.count("{") == text.count("}")
    own = gather(Store(Path("nowhere")))
    assert own.records == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("csv", "--suite", "no@1"), "has no suite no@1; it has cifar100-short@1"),
        (("latex", "--table", "results"), "latex cannot be of --table results; its tables are suite and datasets"),
        (("bibtex", "--table", "suite"), "bibtex cannot be of --table suite; it is no table"),
        (("parquet",), "parquet cannot be printed; name a file with --out"),
        (("eval-results",), "eval-results cannot be printed; name a folder with --out"),
    ],
)
def test_a_mistake_is_one_sentence(cli: Cli, results: Path, words: tuple[str, ...], said: str) -> None:  # noqa: F811
    ended = cli("results", "export", *words, "--results", str(results))
    assert ended.code == 2
    assert said in ended.err


def test_a_folder_without_results_is_a_mistake(cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "empty" / "v1").mkdir(parents=True)
    for form in FORMATS:
        ended = cli("results", "export", form, "--results", str(tmp_path / "empty"), "--out", str(tmp_path / "x"))
        assert (ended.code, ended.err) == (
            2,
            "kdbench: The results folder has no results; name another one with --results.\n",
        )


def test_what_is_set_apart_is_said_and_not_exported(cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    box = Store(tmp_path / "results")
    rr.put(box, 0.5, "kd", images=200)
    path = rr.put(box, 0.5, "wttm", images=200)
    path.write_bytes(b"{")
    ended = cli("results", "export", "markdown", "--results", str(box.root))
    assert ended.code == 0
    assert path.name in ended.err
    assert "wttm" not in ended.out
