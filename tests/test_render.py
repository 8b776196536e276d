"""The site: what its pages say, where a reader finds it, and that it stands on its own."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import render_records as rr

from kdbench.errors import UserError
from kdbench.methods import spec_from
from kdbench.records.store import Store
from kdbench.render import build
from kdbench.render.dots import MARGIN, WIDTH, axis
from kdbench.render.site import CSP, MARKER, gather
from kdbench.render.studies import _written
from kdbench.render.texts import number, rate, signed, value
from kdbench.shipped import shipped
from kdbench.stats.intervals import Interval, t_interval

VOID = {"meta", "link", "br", "hr", "img", "input"}


#: Tables that say once more what the page's own tables say: what is known of each method, each row against each.
ASIDE = {"options", "matrix"}


class Html(HTMLParser):
    """A page as its tags, ids, links and the cells of its table rows; unbalanced tags raise AssertionError.

    ``rows`` are those of the tables but ASIDE, whose rows are in ``aside``.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.aside: list[list[str]] = []
        self._now = self.rows
        self._open: list[str] = []
        self.feed(re.sub("</?bdi>", "", text))  # which parts no words
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._now = self.aside if {dict(attrs).get("id"), dict(attrs).get("class")} & ASIDE else self.rows
        if tag == "tr":
            self._now.append([])
        if tag in ("td", "th") and self._now:
            self._now[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._now and self._now[-1] and ("td" in self._open or "th" in self._open):
            self._now[-1][-1] = " ".join(f"{self._now[-1][-1]} {data}".split())

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]

    def row(self, first: str, *others: str) -> list[str]:
        """The only row whose first cell begins with the word ``first`` and that has ``others`` among its cells."""
        (found,) = [
            r
            for r in self.rows
            if r and r[0].split()[:1] == [first] and all(any(o in cell for cell in r) for o in others)
        ]
        return found


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("site") / "results"
    store = Store(root)
    rr.fill(store)
    rr.put(store, 0.5, "my-method", warnings=["milestones were scaled"])
    other = {"torch": "2.13.0", "device": "cuda", "device_name": "x", "driver": None, "isa": "AVX512"}
    rr.put(store, 0.5, "my-method", seed=1, numerics=other)
    return root


@pytest.fixture
def few(monkeypatch):
    """The literature cut to three rows: most of a build's time goes into its pages."""
    monkeypatch.setattr("kdbench.render.site.load", lambda **_: rr.FEW)


@pytest.fixture(scope="module")
def site(results):
    build(results, results.parent / "out")
    return results.parent / "out"


@pytest.fixture(scope="module")
def pages(site):
    return {p.relative_to(site).as_posix(): Html(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}


def test_wttm_on_imagenet_stands_among_its_baselines(pages):
    page = pages["pairs/imagenet/resnet34--resnet18.html"]
    row = page.row("wttm", "72.19", "ttm , Table 5")
    assert row[:5] == ["wttm", "72.19", "+2.43", "ttm , Table 5", "ran"]
    kd = {r[1] for r in page.rows if r[:1] == ["kd"] and len(r) == 6}
    assert kd >= {"70.66", "70.68", "70.83", "71.03", "71.21", "71.37", "71.81"}
    assert "source-ttm" in page.attributes("id")


def test_reported_rows_stand_by_context_best_first_and_no_two_metrics_share_a_table(pages):
    page = pages["pairs/imagenet/resnet34--resnet18.html"]
    groups: list[tuple[str, list[float]]] = []
    for row in page.rows:
        if len(row) == 1:
            groups.append((row[0], []))
        elif groups and len(row) == 6 and row[0] != "Method":
            groups[-1][1].append(float(row[1].split()[0]))
    assert groups[0][0].startswith("Recipe not stated, teacher 73.31, student alone 69.75 or 69.76,"), "one network"
    assert any(title.startswith("Recipe torchdistill, teacher 73.31, student alone 69.76,") for title, _ in groups)
    assert len(groups) > 9
    assert all(values == sorted(values, reverse=True) for _, values in groups)
    assert all(max(values) < 75 or min(values) > 85 for _, values in groups), "top-5 values have a table of their own"


def test_contradictions_name_their_tier_the_sources_and_what_differs(pages):
    row = pages["pairs/imagenet/resnet34--resnet18.html"].row("kd", "70.66 ttm", "71.81 mmrazor")
    assert row[1:3] == ["unexplained", "0.55"]
    assert row[4] == "recipe, selection, teacher accuracy, student alone"


def test_a_printed_name_is_shown_with_what_is_trained_for_it(site, pages):
    assert "lskd(kd)" in (site / "methods/kd+lskd.html").read_text(encoding="utf-8")
    assert pages["methods.html"].row("kd+lskd")[3] == "trained as lskd(kd)"
    leads = set(pages["methods/kd+lskd.html"].attributes("href"))
    assert {"../methods/lskd(kd).html", "../methods/lskd.html", "../methods/kd.html"} <= {unquote(to) for to in leads}
    assert "../methods/kd+lskd.html" in {unquote(to) for to in pages["methods/lskd(kd).html"].attributes("href")}
    assert any(row[0] == "kd+lskd here lskd(kd)" for row in pages["literature.html"].rows)


def test_measured_numbers_are_those_of_the_predictions(pages, results):
    arrays = [rr.predictions(0.58, rr.digest_seed("wttm", "resnet56:resnet20", seed, None)) for seed in range(3)]
    expected = t_interval([float((a["last_top5"][:, 0] == a["labels"]).mean() * 100) for a in arrays])
    row = pages["pairs/cifar100/resnet56--resnet20.html"].row("wttm", "1.07")
    assert row[1] == f"{expected.mean:.2f} ± {expected.half:.2f}"
    assert row[4] == "3"


def test_a_short_suite_says_so_wherever_its_numbers_are(pages):
    shown = [name for name, page in pages.items() if any("cifar100-short@1" in " ".join(r) for r in page.rows)]
    linked = [name for name, page in pages.items() if any("cifar100-short@1" in h for h in page.attributes("href"))]
    assert {"index.html", "methods/wttm.html", "pairs/cifar100/resnet56--resnet20.html"} <= set(linked)
    for name in {*shown, *linked} - {"find.html", "teachers.html"}:  # which have no numbers of students
        texts = pages[name].attributes("class")
        assert "badge warn" in texts, name


def test_failures_flags_and_noise_are_on_the_suite_page(site, pages):
    text = (site / "suites/cifar100-short@1.html").read_text(encoding="utf-8")
    page = pages["suites/cifar100-short@1.html"]
    assert page.row("dkd", "3 of 13")[0] == "dkd 1 diverged"
    assert page.row("kd-again", "3 of 13")[0] == "kd-again A/A of kd"
    assert page.row("my-method", "1 of 13")[0] == "my-method different numerics"
    assert "the loss was NaN at epoch 2 (seed 2)" in text
    assert "milestones were scaled (seed 0)" in text
    assert len([r for r in page.rows if r[:2] == ["kd-again", "kd"]]) == 1
    assert "Differences of less than" in text
    assert page.row("epochs")[1] == "4"


def test_the_oracle_is_marked_and_never_the_ranking_column(pages):
    head = next(r for r in pages["pairs/cifar100/resnet56--resnet20.html"].rows if r[0] == "Method")
    assert head[1].endswith("last epoch")
    assert [h for h in head if "oracle" in h] == [head[5]]


def test_a_cell_says_how_many_seeds_it_has_where_most_have_another_number(pages):
    page = pages["suites/cifar100-short@1.html"]
    assert page.rows[0][-2] == "resnet56 \u2192 resnet20 cifar100, n 3"
    assert page.row("kd", "3 of 13")[-2].split()[3:] == ["+4.13", "\u00b1", "6.62"]
    assert page.row("my-method", "1 of 13")[-2].split()[3:5] == ["n", "2"]


@pytest.mark.usefixtures("few")
def test_a_table_of_too_many_cells_leads_to_the_pages_of_its_pairs(results, tmp_path, monkeypatch, pages):
    monkeypatch.setattr("kdbench.render.pages.MOST_CELLS", 3)
    build(results, tmp_path / "out")
    name = "suites/cifar100-short@1.html"
    page, whole = Html((tmp_path / "out" / name).read_text(encoding="utf-8")), pages[name]
    assert page.row("kd", "3 of 13") == whole.row("kd", "3 of 13")[:6]
    pairs = {link for link in whole.attributes("href") if link.startswith("../pairs/")}
    assert len(pairs) == 3
    assert pairs <= set(page.attributes("href"))


def test_a_method_page_has_its_card_and_both_kinds_of_numbers(pages):
    page = pages["methods/wttm.html"]
    assert page.row("gamma", "Zheng and Yang")[1] == "0.2"
    assert page.row("Budget")[1].startswith("1.0 \u00d7 the protocol's epochs")
    assert page.row("resnet34", "gamma 0.8")[0] == "resnet34 → resnet18"
    assert page.row("wttm", "cifar100-short@1", "resnet56", "last epoch")[0] == "wttm on resnet56 → resnet20"
    reported = page.row("resnet34", "72.19")
    assert reported[0].split() == ["resnet34", "→", "resnet18", "imagenet"]
    assert reported[8].startswith("ttm , Table 5")
    assert "methods/wttm%2Bcrd.html" in {h.removeprefix("../") for h in page.attributes("href")}


@pytest.mark.usefixtures("few")
def test_an_unpublished_method_says_so_where_its_paper_would_stand(tmp_path):
    raw = {"title": "Mine", "version": 1, "family": "logit", "summary": "S.", "implementation": "mine:Mine"}
    mine = spec_from({**raw, "name": "mine", "unpublished": True, "terms": {"ce": "task"}}, "mine.toml")
    store = Store(tmp_path / "results")
    rr.put(store, 0.5, "mine", method_card=mine.describe())
    (record,), problems = store.read()
    assert record["method_card"] == mine.describe()
    assert not problems
    assert build(tmp_path / "results", tmp_path / "out").problems == []
    page = Html((tmp_path / "out" / "methods" / "mine.html").read_text(encoding="utf-8"))
    assert page.row("Paper") == ["Paper", "unpublished"]
    assert not [target for target in page.attributes("href") if target.startswith("https://") and "mine" in target]
    published = Html((tmp_path / "out" / "methods" / "kd.html").read_text(encoding="utf-8"))
    assert "https://arxiv.org/abs/1503.02531" in published.attributes("href")


def test_methods_of_the_literature_have_pages_with_safe_names(pages):
    names = [name for name in pages if name.startswith("methods/kd-t-2-w-kd-0-9-")]
    assert len(names) == 1
    assert all(re.fullmatch(r"[a-z0-9_.+@()/-]+", name) and ".." not in name for name in pages)


def test_every_cell_of_a_card_stands_under_the_name_of_its_column(site):
    """On a phone, where the heads of the columns stand apart; the cells of many pairs are not shown there."""
    table = re.compile(
        r'<div class="scroll(?: long)?"[^>]*>\s*(<table(?! class="(?:facts|many))[^>]*>.*?</table>)', re.DOTALL
    )
    cells = {
        (page.relative_to(site).as_posix(), cell)
        for page in site.rglob("*.html")
        for found in table.findall(page.read_text(encoding="utf-8"))
        for cell in re.findall(r"<td\b[^>]*>", found)
    }
    assert len({page.partition("/")[0] for page, _ in cells}) > 8
    assert {(page, cell) for page, cell in cells if "data-label=" not in cell and 'class="plot"' not in cell} == set()


def test_every_internal_link_and_anchor_resolves(site, pages):
    ids = {name: set(page.attributes("id")) for name, page in pages.items()}
    for name, page in pages.items():
        for target in page.attributes("href") + page.attributes("src"):
            if target.startswith(("https://", "data:,")):
                continue
            path, _, fragment = unquote(target).partition("#")
            found = (site / name).parent.joinpath(path).resolve() if path else site / name
            assert found.is_file(), (name, target)
            assert found.is_relative_to(site.resolve())
            if fragment:
                assert fragment in ids[found.relative_to(site.resolve()).as_posix()], (name, target)


def test_nothing_is_loaded_from_elsewhere_and_the_policy_is_strict(site, pages):
    for name, page in pages.items():
        policy = [a for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
        assert [a["content"] for a in policy] == [CSP], name
        assert not page.attributes("style"), name
        assert all(a.get("src", "").startswith(("static/", "../")) for t, a in page.tags if t == "script"), name
        assert all(not a["href"].startswith("http") for t, a in page.tags if t == "link"), name
        assert not [t for t, _ in page.tags if t in ("img", "iframe", "object", "embed", "form", "base")], name
        assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")], name
    assert "default-src 'none'" in CSP
    assert "unsafe" not in CSP
    assert not re.search(r"url\(|@import", (site / "static/style.css").read_text())
    for script in ("tables.js", "search.js"):
        assert not re.search(r"https?:|fetch|innerHTML|eval", (site / "static" / script).read_text())


def _bytes(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.usefixtures("few")
def test_two_builds_are_byte_for_byte_equal(results, tmp_path):
    build(results, tmp_path / "once")
    report = build(results, tmp_path / "again")
    files = _bytes(tmp_path / "once")
    assert files == _bytes(tmp_path / "again")
    assert report.records == len(Store(results).read()[0])
    assert report.pages == len([name for name in files if name.endswith(".html")])
    assert report.index.is_file()
    assert not any(str(results.parent).encode() in data for data in files.values())


@pytest.mark.usefixtures("few")
def test_a_damaged_prediction_file_costs_its_own_trial_only(tmp_path):
    store = Store(tmp_path / "results")
    rr.fill(store, ("resnet56:resnet20",), seeds=2)
    victim = next(r for r in store.read()[0] if (r["label"], r["seed"]) == ("wttm", 1))
    path = tmp_path / "results" / "v1" / "predictions" / f"{victim['predictions']['sha256']}.npz"
    path.write_bytes(path.read_bytes()[:-40])
    (store.folder(victim) / f"{'0' * 64}.json").write_text("{")
    report = build(tmp_path / "results", tmp_path / "out")
    unreadable, damaged = report.problems
    assert "0000.json cannot be read" in unreadable
    assert damaged.startswith("cifar100-short@1 resnet56:resnet20 wttm seed 1")
    page = Html((tmp_path / "out/pairs/cifar100/resnet56--resnet20.html").read_text(encoding="utf-8"))
    assert page.row("wttm", "1.07")[4] == "1"
    assert page.row("dkd", "1.07")[4] == "2"
    assert "wttm seed 1" in (tmp_path / "out/suites/cifar100-short@1.html").read_text(encoding="utf-8")
    assert "0000.json" in (tmp_path / "out/index.html").read_text(encoding="utf-8")


def test_contributed_records_need_no_predictions_and_stand_apart(tmp_path):
    store = Store(tmp_path)
    arrays = rr.predictions(0.5, 1)
    path = store.put(rr.record(seed=5, arrays=arrays, evidence="contributed"))
    catalogue = gather(store)
    assert [r["seed"] for r in catalogue.records] == [5]
    assert not catalogue.problems
    with pytest.raises(UserError, match='status is "finished", but predictions is null'):
        store.put(rr.record(seed=6, arrays=arrays))
    path.write_text(path.read_text().replace("contributed", "measured"))
    catalogue = gather(store)
    assert not catalogue.records
    assert 'status is "finished", but predictions is null' in catalogue.problems[0].text


@pytest.mark.usefixtures("few")
def test_a_row_with_a_longer_training_says_so_and_is_not_set_against_the_others(tmp_path):
    store = Store(tmp_path / "results")
    rr.put(store, 0.5, "ce", "none:resnet20", images=200)
    rr.put(store, 0.55, "kd", images=200)
    identity = rr.record("kd")["identity"]
    identity["protocol"] = {**identity["protocol"], "epochs": 8}
    rr.put(store, 0.6, "kd", label="kd-long", identity=identity, images=200)
    build(tmp_path / "results", tmp_path / "out")
    page = Html((tmp_path / "out/pairs/cifar100/resnet56--resnet20.html").read_text(encoding="utf-8"))
    rows = {row[0].split()[0]: row for row in reversed(page.rows) if row and row[0]}  # the measured table comes first
    alike, longer = rows["kd"], rows["kd-long"]
    assert longer[0] == "kd-long own protocol: epochs 8"
    assert alike[0] == "kd"
    assert alike[3] != "–"
    assert longer[3] == "–"


@pytest.mark.usefixtures("few")
def test_throughput_is_shown_of_records_that_have_it(tmp_path):
    store = Store(tmp_path / "results")
    cost = rr.record()["cost"]
    pair = "resnet56:resnet20"
    rr.put(store, 0.5, "ce", "none:resnet20", images=200, cost={**cost, **rr.SPEEDS})
    rr.put(store, 0.5, "kd", pair, images=200, cost={**cost, **rr.SPEEDS, "inference_images_per_s_best": 4400.0})
    rr.put(store, 0.5, "simkd", pair, images=200, cost={**cost, **rr.SPEEDS, "flops": 95_000_000})
    rr.put(store, 0.5, "wttm", pair, images=200)
    rr.put(store, 0.5, "dkd", pair, images=200, cost={**cost, "train_fraction": 0.9})
    build(tmp_path / "results", tmp_path / "out")
    page = Html((tmp_path / "out/suites/cifar100-short@1.html").read_text(encoding="utf-8"))
    rows = [row for row in page.rows if row and row[0].startswith("resnet20 ")]
    assert rows == [
        [
            *("resnet20 on cifar100 x Records of 2 rows ce , kd", "2", "278.3", "82.0", "900 24.0 % of ceiling", "100"),
            *("4300 batch 64, 31.0 % of ceiling", "2.15", "90"),
        ],
        [
            *("resnet20 on cifar100 as deployed by simkd x Records of 1 row simkd", "1", "278.3", "95.0", "–", "100"),
            *("4200 batch 64, 31.0 % of ceiling", "2.10", "90"),
        ],
    ]


def test_a_zero_has_one_sign_at_most():
    assert [signed(each, 1) for each in (-0.0, 0.0, 0.2, -0.2)] == ["0.0", "0.0", "+0.2", "\u22120.2"]
    assert [signed(-0.004), number(-0.004), number(-0.006)] == ["0.00", "0.00", "\u22120.01"]
    assert _written("-0.00 points (-0.01 to -0.0), 2021-03") == "0.00 points (\u22120.01 to 0.0), 2021-03"


def test_a_mean_stands_with_half_its_interval():
    assert value(Interval(3, 1.0, 0.5, 1.5), plus=True) == '<b>+1.00</b> <span class="half">\u00b1 0.50</span>'
    assert value(Interval(1, -1.0), 1) == "<b>\u22121.0</b>"
    assert value(None) == "\u2013"


def test_few_images_a_second_keep_their_digits():
    assert [rate(number) for number in (4321.6, 43.21, 0.4321, None)] == ["4322", "43.2", "0.43", "–"]


def test_without_any_throughput_there_is_no_table_of_it(site):
    assert "throughput" not in (site / "suites/cifar100-short@1.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("few")
def test_a_folder_that_is_no_site_is_never_replaced(results, tmp_path):
    keep = tmp_path / "precious" / "thesis.txt"
    keep.parent.mkdir()
    keep.write_text("mine")
    with pytest.raises(UserError, match="not an earlier kdbench site"):
        build(results, keep.parent)
    with pytest.raises(UserError, match="not an earlier kdbench site"):
        build(results, keep)
    assert keep.read_text() == "mine"
    with pytest.raises(UserError, match="no results folder"):
        build(tmp_path / "nowhere", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["precious"]


@pytest.mark.usefixtures("few")
def test_an_earlier_site_is_replaced_whole(results, tmp_path):
    out = tmp_path / "deep" / "public"
    build(results, out)
    assert (out / "suites").is_dir()
    (tmp_path / "empty").mkdir()
    report = build(tmp_path / "empty", out)
    assert not (out / "suites").exists()
    assert (out / MARKER).is_file()
    assert report.problems == []
    assert sorted(p.name for p in out.parent.iterdir()) == ["public"]
    assert "No trial has been measured yet" in report.index.read_text(encoding="utf-8")


@pytest.mark.usefixtures("few")
def test_a_failed_build_leaves_the_earlier_site_alone(results, tmp_path, monkeypatch):
    out = tmp_path / "public"
    (tmp_path / "empty").mkdir()
    build(tmp_path / "empty", out)
    before = (out / "index.html").read_bytes()
    monkeypatch.setattr("kdbench.render.pages._method", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(results, out)
    assert (out / "index.html").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["empty", "public"]


def test_plots_stay_inside_their_box():
    rows = [Interval(3, 50.0, 49.0, 51.0), Interval(2, 52.0, 10.0, 94.0), Interval(1, 53.0)]
    shared = axis(rows, reference=48.0)
    dots = [shared.dot(row, "measured") for row in rows]
    places = [p for d in dots for p in (d.left, d.x, d.right, d.reference) if p is not None]
    assert min(places) >= MARGIN
    assert max(places) <= WIDTH - MARGIN
    assert dots[0].left < dots[0].x < dots[0].right < dots[2].x
    assert dots[0].right - dots[0].left > 10, "one wild interval must not flatten the others"
    assert dots[2].left is None


def test_the_site_of_this_checkout_is_complete():
    assert {p.stem for p in (shipped("site") / "content").glob("*.md")} >= {"index", "about"}
    with pytest.raises(KeyError):
        shipped("nothing")


def test_rendering_imports_no_torch():
    code = "import sys, kdbench.render, kdbench.stats.aggregate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0
