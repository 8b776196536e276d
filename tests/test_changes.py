"""What a site says of itself: what is new, superseded or short, whose licence it is under, and when it was made."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import render_records as rr
from test_render import Html

from kdbench.methods import METHODS
from kdbench.records.literature import load
from kdbench.records.store import Store
from kdbench.render import build
from kdbench.render.address import row_page, suite_page
from kdbench.render.changes import changes
from kdbench.render.downloads import LICENCE
from kdbench.render.site import gather
from kdbench.render.suiteview import suite_view
from kdbench.suites import get_suite

ROOT = Path(__file__).parents[1]
SUITE, OLD = "cifar100-short@1", "cifar100-short@0"


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr("kdbench.render.site.load", lambda **_: rr.FEW)


def on(day: str, kdbench: str = "0.1.0") -> dict[str, object]:
    return {"provenance": {**rr.record()["provenance"], "created": f"{day}T10:00:00+00:00", "kdbench": kdbench}}


@pytest.fixture
def store(tmp_path):
    """kd from the first day, with a seed of the second one; dkd of the second alone, by a later kdbench."""
    store = Store(tmp_path / "results")
    for seed in range(2):
        rr.put(store, 0.5, "ce", "none:resnet20", seed, images=50, **on("2026-01-01"))
    rr.put(store, 0.6, "kd", seed=0, images=50, **on("2026-01-01"))
    rr.put(store, 0.6, "kd", seed=1, images=50, **on("2026-02-03"))
    rr.put(store, 0.6, "dkd", seed=0, images=50, **on("2026-02-03", "0.2.0"))
    return store


def views(store: Store) -> dict[str, object]:
    catalogue = gather(store)
    return {name: suite_view(catalogue, name) for name in catalogue.suites}


def test_a_row_is_new_on_the_day_of_its_first_trial(store):
    found = changes(gather(store), views(store).values())
    assert [day for day, _ in found.days] == ["2026-02-03", "2026-01-01"]
    ((_, (new,)), (_, (old,))) = found.days
    assert (new.suite, new.rows, new.trials, new.versions) == (SUITE, ("dkd",), 2, ("0.1.0", "0.2.0"))
    assert (old.rows, old.trials) == (("ce", "kd"), 3)
    assert found.since == "2026-01-01"


def test_a_trial_that_was_run_again_is_no_change(store):
    again = rr.record()["numerics"] | {"torch": "2.15.0"}
    rr.put(store, 0.6, "kd", seed=0, images=50, numerics=again, **on("2026-03-01"))
    assert [day for day, _ in changes(gather(store), ()).days] == ["2026-02-03", "2026-01-01"]


def test_a_record_from_the_future_is_of_no_day(store, tmp_path):
    rr.put(store, 0.6, "wttm", seed=0, images=50, **on("2126-02-03"))
    assert changes(gather(store), ()).days[0][0] == "2126-02-03", "nobody said what day it is"
    assert [day for day, _ in changes(gather(store, "2026-04-05"), ()).days] == ["2026-02-03", "2026-01-01", ""]
    build(store.root, tmp_path / "out", built="2026-04-05")
    assert "2126" not in (tmp_path / "out" / "changes.html").read_text(encoding="utf-8")


def test_the_first_page_says_what_is_new_and_when_it_was_built(store, tmp_path):
    build(store.root, tmp_path / "out", built="2026-04-05")
    index = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    words = " ".join(re.sub(r"<[^>]+>", "", index).split())
    assert f"New since 2026-01-01: 2 trials and 1 new row in {SUITE}. What changed. Built on 2026-04-05." in words
    page = Html((tmp_path / "out" / "changes.html").read_text(encoding="utf-8"))
    assert [row[:4] for row in page.rows if row[0].startswith(SUITE)] == [
        [f"{SUITE} short suite", "2", "1", "dkd"],
        [f"{SUITE} short suite", "3", "2", "ce , kd"],
    ]
    assert f"rows/{SUITE}/dkd.html" in page.attributes("href")


def test_the_many_rows_of_a_step_of_choosing_are_one_line_until_they_are_asked_for(store, tmp_path):
    for number in range(30):
        tried = {"label": f"kd-{number}", "suite": "study-ttm-tuned-rung-1@1"}
        rr.put(store, 0.5, "kd", seed=10 + number, images=50, **tried)
    build(store.root, tmp_path / "out")
    page = (tmp_path / "out" / "changes.html").read_text(encoding="utf-8")
    ((summary, folded),) = re.findall(r"<details><summary>(.*?)</summary>(.*?)</details>", page)
    assert summary == "30 configurations that were tried"
    assert folded.count("<a ") == 30


@pytest.mark.parametrize("day", ["9999-99-99", "2026-02-30", "yesterday", ""])
def test_what_no_calendar_has_is_no_day(store, day):
    rr.put(store, 0.6, "wttm", seed=0, images=50, **on(day))
    found = changes(gather(store), views(store).values())
    assert [day for day, _ in found.days] == ["2026-02-03", "2026-01-01", ""]
    assert found.since == "2026-01-01"


def test_one_day_has_nothing_before_it(tmp_path):
    store = Store(tmp_path / "results")
    rr.put(store, 0.6, images=50)
    build(store.root, tmp_path / "out")
    index = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "New since" not in index
    assert "Built on" not in index


def test_an_old_version_of_a_suite_says_so_wherever_its_rows_are(store, tmp_path):
    for seed in range(2):
        rr.put(store, 0.6, "kd", seed=seed, suite=OLD, images=50)
        rr.put(store, 0.7, "dkd", seed=seed, suite=OLD, images=50)
    build(store.root, tmp_path / "out")
    for page in (f"suites/{OLD}.html", f"rows/{OLD}/kd.html", "pairs/cifar100/resnet56--resnet20.html",
                 "methods/kd.html", "compare/dkd--kd.html", "index.html", "changes.html"):  # fmt: skip
        text = re.sub(r"</?bdi>", "", (tmp_path / "out" / page).read_text(encoding="utf-8"))
        assert "superseded by" in text, page
    assert [view.name for view in changes(gather(store), views(store).values()).superseded] == [OLD]


def test_the_command_of_a_row_is_one_that_can_be_run(store, tmp_path):
    rr.put(store, 0.5, "kd", seed=5, images=50, suite=OLD)
    rr.put(store, 0.5, "kd", seed=6, images=50, suite="gone@1")
    rr.put(store, 0.5, "kd", seed=7, images=50, label="kd-3", suite="study-ttm-tuned-rung-1@1")
    build(store.root, tmp_path / "out")

    def said(suite: str, label: str = "kd") -> str:
        return (tmp_path / "out" / row_page(suite, label)).read_text(encoding="utf-8").partition("<h1>")[2]

    assert "Train it anew:" in said(SUITE)
    assert "has taken this suite's place. Train the row anew with the code that trained it" in said(OLD)
    assert "Train the row anew with the suite's file in place of its name" in said("gone@1")
    rung = said("study-ttm-tuned-rung-1@1", "kd-3")
    assert "It is trained, with all configurations that are tried beside it, by" in rung
    assert "kdbench tune study-ttm-tuned" in re.sub("<[^>]*>", "", rung)
    page = (tmp_path / "out" / suite_page("study-ttm-tuned-rung-1@1")).read_text(encoding="utf-8")
    assert "A step of choosing hyper-parameters for" in page
    assert "short suite" in page
    assert "not at hand" not in page


@pytest.mark.parametrize("suite", ["cifar100-short@0", "cifar100-short@1", "cifar100-short@99"])
def test_a_short_suite_is_short_whichever_version_is_installed(tmp_path, suite):
    store = Store(tmp_path / "results")
    rr.put(store, 0.6, suite=suite, images=50)
    assert get_suite("cifar100-short").short
    view = views(store)[suite]
    assert view.short
    assert (view.newer is not None) == suite.endswith("@0")


def test_the_first_page_counts_what_it_says(store, tmp_path, monkeypatch):
    whole = load()
    row = next(row for row in whole.rows if row.method == "kd")
    names = ("kd(T=2,w_kd=9.0)", "kd+crd", "baseline", "unheard_of", "kd")
    rows = tuple(dataclasses.replace(row, method=name, teacher="wrn_40_2") for name in names)
    alone = dataclasses.replace(row, teacher="none", student="resnet20", method="ce")
    monkeypatch.setattr("kdbench.render.site.load", lambda **_: rr.Literature((*rows, alone), whole.sources))
    store.put(rr.record("kd", seed=5, status="diverged", detail="the loss was NaN at epoch 2"))
    build(store.root, tmp_path / "out")
    index = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    said = dict(re.findall(r"<dt>([^<]+)</dt><dd>(\d+)</dd>", re.sub(r"</?a\b[^>]*>", "", index)))
    methods = len(list(METHODS)) - 1  # the student alone is none
    assert said["students trained here"] == "5", "a trial that diverged was not measured"
    assert said[f"methods implemented, of {methods + 1} known"] == str(methods)
    assert said["pairs measured, of 2 known"] == "1"


def test_the_licence_is_that_of_the_licence_file():
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "licensed under the Apache License, Version 2.0" in (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert LICENCE.startswith("kdbench and the records that come with it: Apache-2.0;")
