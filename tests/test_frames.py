"""Results and the literature as pandas tables: each column documented with its unit, the numbers those of the pages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import render_records as rr
from bench import ROOT
from test_docs import read, section

import kdbench
from kdbench import frames
from kdbench.errors import UserError
from kdbench.records import Store
from kdbench.records.literature import load
from kdbench.records.validate import schema
from kdbench.render.site import gather
from kdbench.stats.aggregate import SELECTIONS, cells, summary


def documented(heading: str) -> dict[str, str]:
    """Column -> unit, from the tables under ``heading``."""
    found = {}
    for names, unit in re.findall(r"^\| (`[^|]+) \| ([^|]*)\| ", section("docs/results.md", heading), re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            for selection in SELECTIONS if name.startswith("SELECTION_") else ("",):
                found[name.replace("SELECTION", selection)] = unit.strip()
    return found


@pytest.fixture
def box(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def test_each_column_is_documented_with_its_unit_and_no_other() -> None:
    sections = {f"{name}_{column.name}": column.unit for name, columns in frames.SECTIONS.items() for column in columns}
    assert documented("Results") == {column.name: column.unit for column in frames.RESULT} | sections
    assert documented("The literature") == {column.name: column.unit for column in frames.REPORTED}
    assert list(kdbench.load_results(ROOT / "results")) == [c.name for c in frames.RESULT] + list(sections)
    assert list(kdbench.load_reported()) == [column.name for column in frames.REPORTED]


def test_each_score_and_cost_of_a_record_is_a_column() -> None:
    record = schema("record")["properties"]
    assert {column.name for column in frames.COST} == set(record["cost"]["properties"])
    assert {column.name for column in frames.SCORE} == set(record["scores"]["properties"]["last"]["properties"])
    columns = {column.name for column in frames.RESULT}
    assert set(record["numerics"]["properties"]) <= columns


def test_the_table_says_what_the_pages_show() -> None:
    """The means of every row that came with kdbench."""
    table = kdbench.load_results()
    found = cells(gather(Store(ROOT / "results")).records)
    assert len(table) == len(gather(Store(ROOT / "results")).records)
    for cell in found:
        mine = table[
            (table["suite"] == cell.suite)
            & (table["dataset"] == cell.dataset)
            & (table["label"] == cell.label)
            & (table["student"] == cell.student)
            & ((table["pair"] == cell.pair) | table["teacher"].isna())
        ]
        for metric in ("top1", "nll", "ece"):
            expected = summary(cell, metric)
            mean = np.nan if expected is None else expected.mean  # where all of them diverged
            said = mine[f"last_{metric}"].mean()
            assert said == pytest.approx(mean, rel=1e-12, nan_ok=True), (cell.suite, cell.label)


def test_a_row_says_what_its_record_says(box: Store) -> None:
    path = rr.put(box, 0.5, images=200, warnings=["one", "two"])
    box.put(rr.record("ce", "none:resnet20", seed=1, status="diverged", detail="NaN"))
    alone, taught = kdbench.load_results(box.root).itertuples()
    record = box.load(path)
    assert (taught.teacher, taught.student, alone.student) == ("resnet56", "resnet20", "resnet20")
    assert pd.isna(alone.teacher)
    assert (alone.status, alone.detail) == ("diverged", "NaN")
    assert pd.isna(alone.last_top1)
    assert pd.isna(alone.cost_parameters)
    assert taught.last_top1 == record["scores"]["last"]["top1"]
    assert taught.teacher_top1 == record["teacher"]["top1"]
    assert taught.cost_flops == record["cost"]["flops"]
    assert taught.warnings == "one\ntwo"
    assert taught.file == path.relative_to(box.root).as_posix()
    assert (taught.epochs, taught.precision, taught.isa) == (4, "float32", "AVX2")
    assert taught.created == pd.Timestamp("2026-01-01", tz="UTC")
    assert (taught.recomputed, taught.measurements) == (True, 1)


def test_repeated_measurements_are_one_row_with_median_costs(box: Store) -> None:
    for number, seconds in enumerate((100.0, 300.0, 200.0)):
        provenance = {**rr.record()["provenance"], "created": f"2026-01-0{number + 1}T00:00:00+00:00"}
        cost = {**rr.record()["cost"], "seconds": seconds}
        rr.put(box, 0.5, images=200, provenance=provenance, cost=cost)
    (row,) = kdbench.load_results(box.root).itertuples()
    assert (row.measurements, row.cost_seconds) == (3, 200.0)


def test_what_is_contributed_says_so_and_what_of_it_was_recomputed(box: Store) -> None:
    rr.put(box, 0.5, images=200, evidence="contributed")
    box.put(rr.record("wttm", arrays=rr.predictions(0.5, 1), evidence="contributed"))
    table = kdbench.load_results(box.root)
    assert set(table["evidence"]) == {"contributed"}
    assert list(table["recomputed"]) == [True, False]


def test_what_is_set_apart_is_counted_in_a_warning(box: Store) -> None:
    rr.put(box, 0.5, images=200)
    rr.put(box, 0.5, "wttm", images=200).write_bytes(b"{")
    with pytest.warns(UserWarning, match=r"1 records or files of .* are set apart"):
        assert list(kdbench.load_results(str(box.root))["label"]) == ["kd"]


def test_anybody_s_record_makes_a_table(box: Store) -> None:
    identity = rr.record()["identity"]
    identity["method"] = {**identity["method"], "version": 10**30}
    provenance = {**rr.record()["provenance"], "created": "soon", "attempts": 10**30}
    card = {**rr.record()["method_card"], "version": 10**30}
    rr.put(box, 0.5, images=200, identity=identity, provenance=provenance, method_card=card)
    (row,) = kdbench.load_results(box.root).itertuples()
    assert all(map(pd.isna, (row.method_version, row.created, row.attempts)))


def test_an_empty_folder_is_an_empty_table_and_no_folder_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    assert len(kdbench.load_results(tmp_path)) == 0
    with pytest.raises(UserError, match="is no results folder"):
        kdbench.load_results(tmp_path / "nowhere")


def test_the_literature_is_a_row_a_number() -> None:
    table, literature = kdbench.load_reported(), load()
    assert list(table["value"]) == [row.value for row in literature.rows]
    assert list(table["citation"]) == [literature.sources[row.source].citation for row in literature.rows]


@pytest.mark.parametrize("code", ["import kdbench", "import kdbench.cli", "import kdbench.records.inventory"])
def test_what_makes_no_table_imports_no_pandas(code: str) -> None:
    check = f"{code}; import sys; sys.exit(bool({{'pandas', 'torch'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


def test_a_table_imports_no_torch_and_the_package_names_what_it_has() -> None:
    code = "import kdbench, sys; kdbench.load_reported(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert set(kdbench.__all__) <= set(dir(kdbench))
    with pytest.raises(AttributeError, match="no attribute 'load_nothing'"):
        kdbench.load_nothing  # noqa: B018


def test_the_notebook_runs_and_each_block_shows_something() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", read("docs/notebook.md"), re.DOTALL | re.MULTILINE)
    assert len(blocks) > 8
    space: dict[str, Any] = {}
    for block in blocks:
        *lines, last = block.strip().split("\n")
        try:
            shown = compile(last, "notebook", "eval")
        except SyntaxError:  # it ends with an assignment, and shows nothing
            exec(block, space)
            continue
        exec("\n".join(lines), space)
        assert len(eval(shown, space)), block
