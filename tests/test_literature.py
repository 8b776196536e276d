"""The literature's numbers: every shipped row is valid, and a damaged file is refused by file, row and field."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from kdbench.errors import UserError
from kdbench.records.literature import load
from kdbench.records.reported import RECIPES
from kdbench.records.validate import schema
from kdbench.shipped import shipped

LITERATURE = load()


def _write(folder: Path, row: dict[str, str] | None = None, source: dict[str, str] | None = None) -> Path:
    good = {
        "dataset": "cifar100", "teacher": "a", "student": "b", "method": "kd", "metric": "top1", "value": "71.20",
        "std": "", "selection": "last", "provenance": "ran", "teacher_value": "", "student_baseline": "69.06",
        "source": "ttm",
        "locator": "Table 1", "notes": "",
    }  # fmt: skip
    ttm = {"source": "ttm", "citation": "A paper", "identifier": "", "repository": "", "commit": ""}
    for name, line in (("published", {**good, **(row or {})}), ("sources", {**ttm, **(source or {})})):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(line))
            writer.writeheader()
            writer.writerow(line)
    return folder


def test_every_shipped_row_is_valid_and_has_its_source():
    assert len(LITERATURE.rows) == 1385
    assert {row.source for row in LITERATURE.rows} == set(LITERATURE.sources)
    assert all(row.locator.strip() for row in LITERATURE.rows)


def test_the_wttm_number_is_exact():
    (row,) = [r for r in LITERATURE.rows if r.method == "wttm" and r.printed == "72.19"]
    assert (row.dataset, row.teacher, row.student, row.metric) == ("imagenet", "resnet34", "resnet18", "top1")
    assert (row.value, row.selection, row.provenance, row.source, row.locator) == (
        72.19,
        "unstated",
        "ran",
        "ttm",
        "Table 5",
    )
    assert (row.teacher_value, row.student_baseline) == (73.31, 69.76)


def test_rows_and_columns_are_those_of_the_schema():
    with (shipped("reported") / "published.csv").open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        assert set(reader.fieldnames) == set(schema("reported")["properties"])
        printed = [row["value"] for row in reader]
    assert [row.printed for row in LITERATURE.rows] == printed


def test_a_number_with_the_same_mean_and_spread_as_anothers_is_a_quote():
    found: dict[tuple[object, ...], set[str]] = {}
    for row in LITERATURE.rows:
        if row.provenance == "ran" and row.printed_std:
            same = (row.dataset, row.teacher, row.student, row.method, row.metric, row.printed, row.printed_std)
            found.setdefault(same, set()).add(row.source)
    assert len(found) > 100
    assert {same: sources for same, sources in found.items() if len(sources) > 1} == {}
    spreads: dict[tuple[object, ...], dict[str, float]] = {}
    for row in LITERATURE.rows:
        if row.provenance == "ran" and row.printed_std:
            run = (row.dataset, row.teacher, row.student, row.method, row.metric, row.recipe, row.printed_std)
            spreads.setdefault(run, {})[row.source] = row.value
    digits = {run: values for run, values in spreads.items() if 0 < max(values.values()) - min(values.values()) < 1}
    assert digits == {}, "one run, and a digit of its mean that differs"


def test_a_sound_folder_loads(tmp_path):
    (row,) = load(_write(tmp_path)).rows
    assert (row.value, row.printed, row.std, row.teacher_value) == (71.2, "71.20", None, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("value", "seventy"),
        ("value", ""),
        ("value", "nan"),
        ("value", "1e400"),
        ("std", "0,3"),
        ("std", "-1"),
        ("value", "999.5"),
        ("value", "-5"),
        ("teacher_value", "100.01"),
        ("student_baseline", "-0.1"),
        ("selection", "best"),
        ("provenance", "heard"),
        ("metric", "f1"),
        ("locator", ""),
        ("dataset", "../etc"),
        ("source", "nobody"),
    ],
)
def test_a_wrong_field_is_named_with_its_row(tmp_path, field, value):
    with pytest.raises(UserError, match=rf"published\.csv: row 2: {field}"):
        load(_write(tmp_path, {field: value}))


def test_a_wrong_source_is_named(tmp_path):
    with pytest.raises(UserError, match=r"sources\.csv: row 2: citation"):
        load(_write(tmp_path, source={"citation": ""}))


def test_a_wrong_source_costs_its_own_numbers_alone(tmp_path):
    _write(tmp_path)
    for name, lines in (
        ("sources", 'dkd,"Another, paper",,,\nkd,,,,\nwttm,one,field,more,than,there,are\n'),
        ("published", "".join(f"cifar100,a,b,kd,top1,70,,last,ran,,,{source},T,\n" for source in ("dkd", "kd"))),
    ):
        path = tmp_path / f"{name}.csv"
        path.write_text(path.read_text() + lines)
    wrong: list[str] = []
    literature = load(tmp_path, wrong)
    assert [row.source for row in literature.rows] == ["ttm", "dkd"]
    assert [text.split("csv: ")[1] for text in wrong] == [
        "row 4: citation must be longer than or equal to 1 characters. This source is left out.",
        "row 5: it must have 5 fields. This source is left out.",
        "row 4: source: 'kd' is not in sources.csv. This number is left out.",
    ]


def test_errors_of_ten_thousand_are_no_percentages(tmp_path):
    literature = load(_write(tmp_path, {"metric": "test_errors_of_10000", "value": "146", "student_baseline": "206"}))
    assert literature.rows[0].value == 146
    with pytest.raises(UserError, match="value: 10001 is no test_errors_of_10000, which is from 0 to 10000"):
        load(_write(tmp_path, {"metric": "test_errors_of_10000", "value": "10001"}))


def test_a_source_may_not_occur_twice(tmp_path):
    _write(tmp_path)
    path = tmp_path / "sources.csv"
    path.write_text(path.read_text() + "ttm,Another paper,,,\n")
    with pytest.raises(UserError, match="row 3: source: 'ttm' occurs twice"):
        load(tmp_path)


@pytest.mark.parametrize("line", ["only,three,fields\n", ",".join("x" * 15) + "\n"])
def test_a_row_of_another_length_is_named(tmp_path, line):
    path = _write(tmp_path) / "published.csv"
    path.write_text(path.read_text() + line)
    with pytest.raises(UserError, match="row 3: it must have 14 fields"):
        load(tmp_path)


def test_unknown_columns_and_other_encodings_are_refused(tmp_path):
    path = _write(tmp_path) / "published.csv"
    sound = path.read_text()
    path.write_text(sound.replace("dataset,", "data,", 1))
    with pytest.raises(UserError, match="row 1: the columns must be"):
        load(tmp_path)
    path.write_bytes(sound.encode("utf-16"))
    with pytest.raises(UserError, match="UTF-8"):
        load(tmp_path)


def test_what_may_be_missing_is_read_where_it_is_there(tmp_path):
    literature = load(_write(tmp_path))
    assert (literature.rows[0].recipe, literature.rows[0].apart, literature.sources["ttm"].year) == ("", "", None)
    literature = load(_write(tmp_path, {"recipe": "crd", "apart": "other teachers"}, {"year": "2024"}))
    assert (literature.rows[0].recipe, literature.rows[0].apart) == ("crd", "other teachers")
    assert literature.sources["ttm"].year == 2024


@pytest.mark.parametrize("year", ["soon", "24", "3024"])
def test_a_year_that_is_none_is_named(tmp_path, year):
    with pytest.raises(UserError, match=r"sources\.csv: row 2: year"):
        load(_write(tmp_path, source={"year": year}))


def test_every_recipe_that_a_row_names_is_explained():
    assert {row.recipe for row in LITERATURE.rows} - {""} == set(RECIPES)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"sources\.csv: there is no such file"):
        load(tmp_path)
