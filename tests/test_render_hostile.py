"""Other people's text: names, notes, cards and addresses that try to break the page or to leave the site."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
import render_records as rr
from test_render import VOID, Html, few  # noqa: F401
from test_store import rewritten

from kdbench.canonical import digest
from kdbench.errors import UserError
from kdbench.methods import METHODS
from kdbench.records.literature import Literature, Source
from kdbench.records.store import Store
from kdbench.render import build
from kdbench.render.address import https, method_page, pair_page, slug
from kdbench.render.bibtex import bibtex, is_entry
from kdbench.render.cards import card
from kdbench.render.catalogue import Catalogue
from kdbench.render.content import load_content
from kdbench.render.reported import links

SCRIPT = "<script>alert(1)</script>"
BREAKOUT = '"><img src=x onerror=alert(1)>'
JAVASCRIPT = "javascript:alert(1)"
CLIMB = "../../../etc/passwd"
SURROGATE = "\ud800 lone"
#: What no page may hold, and where others see the end of a line.
CONTROLS = "c\x1b[31m\x7f\x85\x9b\ufffe\U0001ffff\r=cmd|x"
#: Letters that are read from right to left, and an order to turn all that follows around.
RTL = "\u05e9\u05dc\u05d5\u05dd \u202e"
LONG = "W" * 300
HOSTILE = [
    *(SCRIPT, BREAKOUT, JAVASCRIPT, CLIMB, SURROGATE, "{{ 7 * 7 }}", "a\u0000b", "'onfocus=alert(1) x='"),
    *(RTL, LONG, CONTROLS),
]  # fmt: skip


def _hostile_record(seed, text):
    identity = rr.record("evil-method", seed=seed)["identity"]
    identity["protocol"] = {**identity["protocol"], text: text, "lr": [text], "selection": {text: []}}
    identity["student"] = identity["teacher"] = {**identity["teacher"], "model": text}
    identity["method"]["version"] = {text: 1}
    return {
        "label": f"kd-{seed}",  # rows of one label have one protocol
        "identity": identity,
        "warnings": [text],
        "student_model": text,
        "teacher_model": text,
        "teacher": {**rr.record()["teacher"], "source": text, "model": text},
        "numerics": {"torch": text, "device": text, "device_name": text, "driver": None, "isa": text},
        "method_card": {
            "name": "evil-method",
            "title": text,
            "version": {text: 1},
            "summary": [text],
            "needs": text,
            "terms": {text: text},
            "hyperparameters": {text: {"default": text, "source": text}, "x": 3},
            "pairs": {text: {text: text}, "y": None},
            "paper": {"title": text, "url": JAVASCRIPT, "bibtex": text},
            "reconstruction": "yes",
        },
    }


@pytest.fixture(scope="module")
def hostile_site(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    store = Store(root / "results")
    for seed, text in enumerate(HOSTILE):
        rr.put(store, 0.5, "evil-method", seed=seed, **_hostile_record(seed, text))
    store.put(rr.record("evil-method", seed=50, status="crashed", detail=SCRIPT + BREAKOUT))
    sound = rr.FEW
    row = dataclasses.replace(sound.rows[0], source="evil", dataset="cifar100")
    rows = [
        dataclasses.replace(row, method=text, teacher=text, student=text, notes=text, locator=text, printed=text)
        for text in HOSTILE
    ]
    rows += [dataclasses.replace(row, method=text, value=60.0, source="ttm") for text in HOSTILE]
    source = Source("evil", SCRIPT, JAVASCRIPT, f"{CLIMB}{BREAKOUT}", JAVASCRIPT)
    with pytest.MonkeyPatch.context() as patch:
        everything = Literature((*sound.rows, *rows), {**sound.sources, "evil": source})
        patch.setattr("kdbench.render.site.load", lambda **_: everything)
        report = build(root / "results", root / "out")
    (problem,) = report.problems
    assert "holds a lone surrogate" in problem, "records are Unicode; the literature's file cannot hold anything else"
    return root / "out"


def test_hostile_text_stays_text(hostile_site):
    pages = list(hostile_site.rglob("*.html"))
    assert any("&lt;script&gt;alert(1)" in p.read_text(encoding="utf-8") for p in pages)
    for path in pages:
        page = Html(path.read_text(encoding="utf-8"))
        assert [
            a
            for t, a in page.tags
            if t == "script" and not (a.get("src") or "").endswith(("static/tables.js", "static/search.js"))
        ] == []
        assert "img" not in {t for t, _ in page.tags}
        assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
        for target in page.attributes("href"):
            assert "javascript" not in target.lower() or target.endswith((".html", ".csv", ".json", ".bib"))
            assert not target.lower().startswith(("javascript", "data:text", "http:", "//"))


class Isolated(HTMLParser):
    """The texts of a page's body with RTL letters that no element keeps to itself."""

    KEPT = frozenset({"bdi", "option", "title", "desc", "textarea", "text"})

    def __init__(self, page):
        super().__init__()
        self.open, self.loose = [], []
        self.feed(page.partition("<body>")[2].partition("</body>")[0])

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        if RTL[0] in data and not self.KEPT & set(self.open):
            self.loose.append(data)


def test_right_to_left_text_is_isolated_wherever_it_stands(hostile_site):
    found = 0
    for path in hostile_site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        assert Isolated(page).loose == [], path.name
        found += RTL[0] in page
    assert found > 5


def test_no_page_and_no_table_holds_a_control_character(hostile_site):
    for path in (*hostile_site.rglob("*.html"), *hostile_site.rglob("*.csv"), *hostile_site.rglob("*.bib")):
        text = path.read_bytes().decode("utf-8")
        assert not re.search("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\U0001ffff]", text), path.name
    assert "c\ufffd[31m" in (hostile_site / method_page(CONTROLS)).read_text(encoding="utf-8")


def test_every_table_has_as_many_fields_in_each_row_whoever_reads_it(hostile_site):
    for path in hostile_site.rglob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
        assert {len(row) for row in rows} <= {len(head)}, path.name
        assert not [cell for row in rows for cell in row if re.match("[=+@]|-[^0-9]", cell)], path.name


@pytest.mark.parametrize(
    ("entry", "sound"),
    [
        (r"@article{a2020b, title={A {\"o} B}, note={x@y}}", True),
        ("@Misc{k,\n\ttitle = {\\emph{A}}\n}", True),
        ("@article{a, title={unclosed}", False),
        ("@article{a, title={x}} @article{b, title={y}}", False),
        ('@preamble{k, "\\write18{calc}"}', False),
        ("@string(a = {b})", False),
        ("@article{a, title={{$\\alpha$}-Divergence {\\ss} J.\\ K.}, year=2024, month=jan}", True),
        ('@article{o\'neil2024, title="A {"}b{"} c",}', True),
        ('@article{a, title="never ends, year={2024}}', False),
        ("@article{a, garbage garbage = =}", False),
        ("@article{a,}", False),
        ("@article{a, title={x ^^5cimmediate^^5cwrite18{id}}}", False),
        ("@article{a, title={x}\n@article{b, title={y}}\n}", False),
        ("@article{a, title={x @article{b, c}}}", False),
        ("@article{a, title={x}} % more", False),
        ("@article{a, title={\\immediate\\write18{calc}}}", False),
        ("@article{a, title={\u202e}}", False),
        ("@article{a, title={\0}}", False),
        ("no entry", False),
        ("", False),
    ],
)
def test_what_a_card_brought_along_is_cited_where_it_is_one_entry_and_no_more(entry, sound):
    assert is_entry(entry) is sound


def test_every_paper_that_comes_with_kdbench_is_an_entry():
    keys = [entry.partition("{")[2].partition(",")[0] for entry in papers()]
    assert len(keys) == len(set(keys)) > 30
    assert all(map(is_entry, papers()))


def test_an_entry_that_a_record_brought_along_takes_no_others_key():
    def cited(*entries):
        cards = {f"m{n}": card(f"m{n}", {"paper": {"bibtex": entry}}) for n, entry in enumerate(entries)}
        found = Catalogue([], [], Literature((), {}), 0)
        found.__dict__["cards"] = cards
        return bibtex(found, [*cards, "dkd"])

    key = next(entry for entry in papers() if "Decoupled" in entry).partition("{")[2].partition(",")[0]
    assert "Not the paper" not in cited(f"@article{{{key.upper()}, title={{Not the paper}}}}")
    assert "Not the paper" not in cited("@misc{KDBench, title={Not the paper}}")
    twice = cited("@misc{one, title={First}}", "@misc{One, title={Second}}")
    assert "First" in twice
    assert "Second" not in twice
    assert "m1 brought along has the key of another entry" in twice


def papers():
    found = (METHODS.get(name).paper for name in METHODS)
    return list(dict.fromkeys(paper.bibtex.strip() for paper in found if paper is not None))


def test_nothing_is_written_outside_the_site(hostile_site):
    assert sorted(p.name for p in hostile_site.parent.iterdir()) == ["out", "results"]
    assert all(p.resolve().is_relative_to(hostile_site.resolve()) for p in hostile_site.rglob("*"))


def test_each_hostile_name_has_a_page_of_its_own(hostile_site):
    assert len({method_page(text) for text in HOSTILE}) == len(HOSTILE)
    for text in HOSTILE:
        assert (hostile_site / method_page(text)).is_file()
        assert (hostile_site / pair_page("cifar100", text, text)).is_file()
    assert "{{ 7 * 7 }}" in (hostile_site / method_page("{{ 7 * 7 }}")).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["..", ".", "", "CON", "con", "aux.html", "KD", "a--b", "x" * 300, "kd\n", "a/b", "Ä"])
def test_a_slug_is_a_safe_file_name(name):
    found = slug(name)
    assert found != name
    assert len(found) <= 64
    assert found == found.lower()
    assert "--" not in found
    assert not set(found) - set("abcdefghijklmnopqrstuvwxyz0123456789_.+@-")
    assert found.strip(".") == found


def test_slugs_keep_ordinary_names_and_never_collide():
    for name in ("resnet32x4", "wttm+crd", "cifar100@1", "kd++", "shufflenetv2_x1_5"):
        assert slug(name) == name
    assert slug("KD") != slug("kd")
    assert pair_page("d", "a--b", "c") != pair_page("d", "a", "b--c")


def test_only_https_becomes_a_link():
    assert https("https://arxiv.org/abs/2402.11148") == "https://arxiv.org/abs/2402.11148"
    for text in (
        "http://a.b",
        JAVASCRIPT,
        "https://a.b/\"onclick='x'",
        "https://a b",
        "https:",
        "https://u:p@a.b/",
        None,
        3,
    ):
        assert https(text) is None
    assert links(Source("s", "c", JAVASCRIPT, "a/b/../c", "x")) == []
    assert links(Source("s", "c", "arXiv:2402.11148", "zkxufo/TTM", "fe457b3")) == [
        ("arXiv:2402.11148", "https://arxiv.org/abs/2402.11148"),
        ("zkxufo/TTM at fe457b3", "https://github.com/zkxufo/TTM/tree/fe457b3"),
    ]


def test_a_card_of_any_form_becomes_text():
    found = card("x", {"paper": "none", "hyperparameters": [1], "needs": {"a": 1}, "title": ["t"], "reconstruction": 1})
    assert (found.url, found.knobs, found.needs, found.title, found.reconstruction) == (None, (), (), '["t"]', False)


@pytest.mark.usefixtures("few")
def test_impossible_numbers_and_bottomless_nesting_cost_their_record_only(tmp_path):
    store = Store(tmp_path / "results")
    rr.fill(store, ("resnet56:resnet20",), seeds=1)
    deep: object = "x"
    for _ in range(300):
        deep = {"a": deep}
    rr.put(store, 0.5, seed=7, method_card={"name": "kd", "deep": deep})
    path = rr.put(store, 0.5, seed=8)
    damaged = json.loads(path.read_text())
    damaged["cost"]["ratio_to_ce"] = 10**400
    path.write_text(json.dumps(damaged))
    report = build(tmp_path / "results", tmp_path / "out")
    assert len(report.problems) == 2
    assert "nested more than" in report.problems[0] + report.problems[1]
    assert "ratio_to_ce is not a finite number" in report.problems[0] + report.problems[1]


def test_site_content_may_not_carry_html_images_or_scripts(tmp_path):
    (tmp_path / "content").mkdir()
    (tmp_path / "site.toml").write_text('title = "<b>t"\nsubtitle = ""\nrepository = ""\n')
    (tmp_path / "content" / "about.md").write_text(
        f"# About {SCRIPT}\n\n[x]({JAVASCRIPT}) ![y](https://a.b/c.png) <img src=x onerror=1> [z](data:text/html,x)\n"
    )
    (page,) = load_content(tmp_path).pages
    tags = {t for t, _ in Html(str(page.html)).tags}
    assert tags <= {"h1", "p", "a"}
    assert 'href="javascript' not in page.html
    assert 'href="data' not in page.html


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('title = "t"\nsubtitle = ""\nrepository = "javascript:alert(1)"\n', "repository must begin with https"),
        ('title = "t"\nsubtitle = ""\n', "repository must be a text"),
        ('title = "t"\nsubtitle = ""\nrepository = ""\ncolour = "red"\n', "unknown field 'colour'"),
        ("title =\n", "not valid TOML"),
    ],
)
def test_a_wrong_site_toml_is_a_clear_error(tmp_path, text, message):
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_content(tmp_path)


@pytest.mark.usefixtures("few")
def test_a_record_whose_key_is_not_its_identitys_is_named(tmp_path):
    store = Store(tmp_path / "results")
    path = rr.put(store, 0.5)
    forged = json.loads(path.read_text())
    forged["identity"]["seed"] = 3
    assert digest(forged["identity"]) != forged["key"]
    rewritten(path, forged)
    (problem,) = build(tmp_path / "results", tmp_path / "out").problems
    assert "but the digest of identity is" in problem
