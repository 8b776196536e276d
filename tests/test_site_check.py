"""``kdbench site``: what --check, --strict, --open and publish do, and a record of a pair that nobody planned."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import pytest
import render_records as rr

from kdbench.cli import main
from kdbench.errors import UserError
from kdbench.methods import METHODS
from kdbench.records.store import Store
from kdbench.render import build
from kdbench.render.catalogue import Catalogue
from kdbench.render.content import load_content
from kdbench.render.publishing import site_address
from kdbench.render.site import MARKER, gather
from kdbench.render.suiteview import suite_view

PAIRS = ("resnet56:resnet20", "resnet110:resnet20")


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr("kdbench.render.site.load", lambda **_: rr.FEW)


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rr.fill(Store(tmp_path / "results"), PAIRS, seeds=1, images=50)
    return tmp_path / "results"


def site(*flags: str) -> int:
    return main(["site", "--out", "out", *flags])


def test_a_site_as_it_is_built_has_no_fault(results, capsys):
    pytest.importorskip("tinyhtml5", reason="needs pip install 'kdbench[check]'")
    assert site("--check", "--strict") == 0
    assert "Checked: 0 faults." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ('<a href="nowhere.html">x</a>', "the link 'nowhere.html' leads to no file"),
        ('<a href="../outside.html">x</a>', "the link '../outside.html' leads to no file"),
        ('<a href="index.html#nowhere">x</a>', "the link 'index.html#nowhere' leads to no place on its page"),
        ('<label for="nobody">x</label>', "the link '#nobody' leads to no place on its page"),
        ('<b id="main">x</b>', "the id 'main' occurs 2 times"),
        ("<p><div>x</p></div>", "invalid HTML, unexpected-end-tag"),
        ("<table><p>x</p></table>", "invalid HTML, unexpected-start-tag-implies-table-voodoo"),
    ],
)
def test_each_fault_is_named_with_its_page(results, capsys, monkeypatch, broken, said):
    pytest.importorskip("tinyhtml5", reason="needs pip install 'kdbench[check]'")
    report = build(results, Path("out"))
    text = report.index.read_text(encoding="utf-8").replace("</main>", f"{broken}</main>")
    report.index.write_text(text, encoding="utf-8")
    monkeypatch.setattr("kdbench.render.build", lambda *_: report)
    assert site("--check") == 3
    ended = capsys.readouterr()
    assert f"index.html: {'' if said.startswith('the') else 'line '}" in ended.err
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_without_the_parser_one_sentence_says_what_to_install(results, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tinyhtml5.parser", None)
    assert site("--check") == 2
    assert "pip install 'kdbench[check]'" in capsys.readouterr().err


def test_strict_fails_where_something_is_not_shown(results, capsys):
    next((results / "v1" / "predictions").glob("*.npz")).write_bytes(b"x")
    assert site() == 0
    assert site("--strict") == 3
    assert "its sha256 is not the recorded one" in capsys.readouterr().err


def test_open_shows_the_first_page_or_says_that_nothing_can(results, capsys, monkeypatch):
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: bool(shown.append(url)))
    assert site("--open") == 0
    assert shown == [(results.parent / "out" / "index.html").as_uri()]
    assert "no browser could be started" in capsys.readouterr().err


def test_publish_adds_what_github_wants_and_the_next_build_takes_it_away(results):
    assert main(["site", "publish", "--out", "out", "--url", "https://me.github.io/kd"]) == 0
    out = results.parent / "out"
    assert (out / ".nojekyll").read_bytes() == b""
    assert 'href="https://me.github.io/kd/static/style.css"' in (out / "404.html").read_text(encoding="utf-8")
    assert {".nojekyll", "404.html"} <= set((out / MARKER).read_text(encoding="utf-8").splitlines())
    assert site() == 0
    assert not (out / "404.html").exists()


def test_an_address_that_is_missing_wrong_or_of_no_use_is_one_sentence(results, capsys):
    assert main(["site", "publish", "--out", "out"]) == 2
    assert "give --url https://OWNER.github.io/NAME" in capsys.readouterr().err
    for url in (
        "javascript:x",
        "https://a.b/c?x=1#f",
        "https://..",
        "https://a.b:99999/",
        "https://a.b:65536/",
        "https://a..b/",
        "https://a.b/..",
        "https://a.b/%zz",
    ):
        assert main(["site", "publish", "--out", "out", "--url", url]) == 2
        assert "must be a plain https address" in capsys.readouterr().err
    assert site("--url", "https://me.github.io/kd") == 2
    assert not (results.parent / "out").exists()


@pytest.mark.parametrize(
    ("repository", "address"),
    [
        ("https://github.com/Me/kd.results", "https://me.github.io/kd.results/"),
        ("https://github.com/me/kd.git", "https://me.github.io/kd/"),
        ("https://github.com/me/me.github.io/", "https://me.github.io/"),
    ],
)
def test_where_github_serves_a_repository(repository, address):
    assert site_address(None, repository) == address
    assert site_address("https://else.where/x/", repository) == "https://else.where/x/"


def test_a_page_of_the_sites_own_cannot_be_a_text(tmp_path):
    (tmp_path / "site.toml").write_text('title = "t"\nsubtitle = "s"\nrepository = ""\n')
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "literature.md").write_text("# Mine\n")
    with pytest.raises(UserError, match="the site has a page literature of its own; rename the file"):
        load_content(tmp_path)


def catalogue(results: Path) -> Catalogue:
    return gather(Store(results))


def test_a_record_of_a_pair_that_is_not_planned_takes_no_rank_from_any_row(results):
    name = "cifar100-short@1"
    before = suite_view(catalogue(results), name)
    rr.put(Store(results), 0.5, "kd", "somebodys:resnet20", images=50)
    after = suite_view(catalogue(results), name)
    assert {row.label for row in before.standings.rows} >= {"ce", "kd", "wttm", "dkd"}
    assert [(row.label, row.rank) for row in after.standings.rows] == [
        (row.label, row.rank) for row in before.standings.rows
    ]
    assert [(row.label, row.covered) for row in after.rows] == [(row.label, row.covered) for row in before.rows]
    assert [table.pair for table in after.others] == ["somebodys:resnet20"]
    assert [table.pair for table in after.tables] == [table.pair for table in before.tables]


def test_coverage_counts_against_the_pairs_that_the_suite_plans(results):
    view = suite_view(catalogue(results), "cifar100-short@1")
    assert view.installed is not None
    assert (len(view.tables), view.planned) == (2, len(view.installed.pairs))
    build(results, Path("out"))
    assert f"2 of {view.planned}" in Path("out/suites/cifar100-short@1.html").read_text(encoding="utf-8")


def test_a_stray_record_blanks_no_card_and_counts_nowhere(tmp_path):
    name, store = "cifar100-short@1", Store(tmp_path / "some")
    for seed in range(3):
        rr.put(store, 0.40, "ce", "none:resnet20", seed, images=200)
        rr.put(store, 0.60, "kd", seed=seed, images=200)
    before = suite_view(catalogue(store.root), name)
    assert [row.label for row in before.best] == ["kd"]
    rr.put(store, 0.5, "dkd", "somebodys:resnet20", seed=7, images=200)
    after = suite_view(catalogue(store.root), name)
    assert [(row.label, row.gain) for row in after.best] == [(row.label, row.gain) for row in before.best]
    assert (
        (after.trials, after.seeds, after.methods) == (before.trials, before.seeds, before.methods) == (6, (0, 1, 2), 1)
    )


def test_the_best_of_many_rows_is_no_highlight_where_it_may_be_chance(tmp_path):
    store = Store(tmp_path / "many")
    for seed in range(3):
        rr.put(store, 0.50, "ce", "none:resnet20", seed, images=200)
        for method in [name for name in METHODS if name != "ce"][:12]:
            rr.put(store, 0.53, method, seed=seed, images=200)
    view = suite_view(catalogue(store.root), "cifar100-short@1")
    alone = [
        row.label for row in view.rows if row.standing and row.standing.gain and row.standing.gain_on_images.low > 0
    ]
    assert len(alone) > 3, "by itself each of these would be one"
    assert view.best == []
