"""What the site answers: verdicts, comparisons, a page a row, things to take away, and the search's index."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from urllib.parse import unquote

import fastjsonschema
import pytest
import render_records as rr
from test_render import Html

from kdbench.methods import METHODS
from kdbench.records.gains import weak_sources
from kdbench.records.literature import Literature, load
from kdbench.records.store import Store
from kdbench.render import build
from kdbench.render.address import pair_page, row_page, suite_page, versus_page
from kdbench.render.answers import Answer, Option, _by
from kdbench.render.bibtex import bibtex, citable, is_entry
from kdbench.render.cards import card
from kdbench.render.catalogue import Catalogue, components
from kdbench.render.downloads import COLUMNS, DOCUMENT, RECORDS, SCHEMA, _csv
from kdbench.render.finding import Found, aliases, script
from kdbench.stats.aggregate import Spread
from kdbench.stats.evidence import Evidence, Printed

PAIR = ("cifar100", "resnet56", "resnet20")
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """kd is far above the student alone, and dkd above kd; two sources print kd, one of them dkd as well."""
    root = tmp_path_factory.mktemp("answers")
    store = Store(root / "results")
    for seed in SEEDS:
        rr.put(store, 0.40 + 0.001 * seed, "ce", "none:resnet20", seed)
        rr.put(store, 0.50 + 0.001 * seed, "kd", seed=seed)
        rr.put(store, 0.60 + 0.001 * seed, "dkd", seed=seed)
    row = rr.FEW.rows[0]
    base = {"dataset": PAIR[0], "teacher": PAIR[1], "student": PAIR[2], "metric": "top1", "teacher_value": 72.34}
    printed = [
        ("kd", 70.66, "ttm", "ran"), ("dkd", 71.97, "mdistiller", "ran"), ("kd", 70.66, "mdistiller", "ran"),
        ("at", 70.55, "mdistiller", "quoted"), ("nobody", 75.0, "ttm", "ran"),
    ]  # fmt: skip
    rows = tuple(
        dataclasses.replace(
            row, **base, method=m, value=v, printed=str(v), source=s, provenance=p, student_baseline=69.06,
            selection="last", locator="Table 1",
        )
        for m, v, s, p in printed
    )  # fmt: skip
    sources = {**rr.FEW.sources, "ttm": dataclasses.replace(rr.FEW.sources["ttm"], proposes="ttm nobody")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.render.site.load", lambda **_: Literature(rows, sources))
        build(root / "results", root / "out")
    return root / "out"


def html(site, path):
    return Html((site / path).read_text(encoding="utf-8"))


def text(site, path):
    words = re.sub(r"<[^>]+>", " ", (site / path).read_text(encoding="utf-8").replace("&#39;", "'"))
    return " ".join(words.split())


def test_a_pair_opens_with_a_verdict_and_the_command_that_tells_more(site):
    said = text(site, pair_page(*PAIR))
    verdict = said[said.index("Which method?") : said.index("Measured Test") if "Measured Test" in said else None]
    assert "kd has the best evidence, whatever it costs: +1.60 points" in verdict
    assert "re-run by others ; the gain is from mdistiller, ttm" in verdict
    assert "one row is shown to be better than all others: dkd +" in verdict
    assert "kdbench run --suite cifar100 --pair resnet56:resnet20 --method ce" in verdict


def test_evidence_comes_by_grade_and_says_what_is_missing(site):
    rows = {row[0].split()[0]: row for row in html(site, pair_page(*PAIR)).aside if row and row[0]}
    assert list(rows)[1:] == ["kd", "dkd", "nobody", "at"]
    assert rows["kd"][1] == "re-run by others"
    assert rows["dkd"][1] == "measured here, short"
    assert rows["at"][1] == "quoted only"
    assert rows["at"][4] == "–"
    assert "no implementation" in rows["nobody"][0]


def test_a_pair_with_little_evidence_says_so(site):
    root = site.parent / "little"
    store = Store(root / "results")
    for seed in SEEDS:
        rr.put(store, 0.4, "ce", "none:resnet20", seed)
        rr.put(store, 0.5, "kd", seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.render.site.load", lambda **_: Literature((), {}))
        build(root / "results", root / "out")
    assert "Not enough evidence:" in text(root / "out", pair_page(*PAIR))
    assert "not enough evidence; so far kd" in text(root / "out", "choose.html")


def test_a_suite_that_is_not_at_hand_is_not_taken_for_a_full_one(site):
    root = site.parent / "unknown"
    store = Store(root / "results")
    for seed in SEEDS:
        rr.put(store, 0.4, "ce", "none:resnet20", seed, suite="gone@7")
        rr.put(store, 0.5, "kd", seed=seed, suite="gone@7")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.render.site.load", lambda **_: Literature((), {}))
        build(root / "results", root / "out")
    assert "Not enough evidence:" in text(root / "out", pair_page(*PAIR))
    assert "This suite is not at hand" in text(root / "out", suite_page("gone@7"))


def test_choosing_takes_two_clicks_and_no_script(site):
    assert "choose.html" in html(site, "index.html").attributes("href")
    chooser = html(site, "choose.html")
    assert pair_page(*PAIR) in chooser.attributes("href")
    (row,) = [row for row in chooser.rows if row[:2] == ["resnet56 → resnet20", "cifar100"]]
    assert row[2] == "kd"
    assert row[4] == "re-run by others"
    assert row[5] == "2"


def test_two_methods_are_compared_by_seed_and_beside_what_is_printed(site):
    page = versus_page("kd", "dkd")
    assert page == versus_page("dkd", "kd") == "compare/dkd--kd.html"
    said = text(site, page)
    assert "dkd is better on average over the pairs where both were measured." in said
    assert "All of it is from short suites" in said
    assert "1 printed comparison from 1 source that ran both: dkd is higher in 1, kd in 0." in said
    measured, printed = html(site, page).rows[1], html(site, page).rows[3]
    store = {line["label"]: line for line in json.loads((site / DOCUMENT).read_text())["rows"]}
    gaps = [store["dkd"]["seeds"][str(seed)] - store["kd"]["seeds"][str(seed)] for seed in SEEDS]
    assert measured[3].startswith(f"+{sum(gaps) / len(gaps):.2f}")
    assert measured[5] == "dkd is better"
    assert printed[2] == "+1.31"
    assert printed[6] == "mdistiller , Table 1"
    links = html(site, suite_page("cifar100-short@1")).attributes("href")
    assert f"../{page}" in links, "the matrix leads there"


def test_every_measured_number_leads_to_its_records_in_two_clicks(site):
    target = row_page("cifar100-short@1", "kd")
    for page in (pair_page(*PAIR), suite_page("cifar100-short@1"), versus_page("dkd", "kd")):
        assert any(target in link for link in html(site, page).attributes("href")), page
    said = text(site, target)
    document = json.loads((site / target.replace(".html", ".json")).read_text())
    store = Store(site.parent / "results")
    records = [record for record in store.read()[0] if record["label"] == "kd"]
    assert sorted(trial["key"] for trial in document["trials"]) == sorted(record["key"] for record in records)
    for record in records:
        assert record["key"] in said
        assert record["weights_sha256"] in said
        assert record["predictions"]["sha256"] in said
    for trial in document["trials"]:
        assert (store.root / trial["file"]).is_file()
        assert trial["file"] in said
    assert document["command"] in said
    assert document["command"].startswith("kdbench run --suite cifar100-short@1 --method kd --again kd --pair")


def test_what_is_taken_away_says_what_the_pages_say(site):
    document, schema = (json.loads((site / name).read_text()) for name in (DOCUMENT, SCHEMA))
    fastjsonschema.compile(schema)(document)
    by_suite = json.loads((site / suite_page("cifar100-short@1").replace(".html", ".json")).read_text())["rows"]
    assert by_suite == document["rows"]
    lines = list(
        csv.DictReader(io.StringIO((site / suite_page("cifar100-short@1").replace("html", "csv")).read_text()))
    )
    assert list(lines[0]) == list(COLUMNS)
    assert [float(line["top1"]) for line in lines] == pytest.approx([row["top1"] for row in by_suite], abs=1e-6)
    assert "Decoupled" in (site / "methods/dkd.bib").read_text()
    for page in ("index.html", pair_page(*PAIR)):
        assert any(link.endswith(DOCUMENT) for link in html(site, page).attributes("href"))


def sheet(site, path):
    return list(csv.DictReader(io.StringIO((site / path).read_text())))


def test_a_pair_and_a_method_are_taken_away_with_their_numbers_apart(site):
    document = json.loads((site / DOCUMENT).read_text())
    page = pair_page(*PAIR).removesuffix(".html")
    measured, printed = sheet(site, f"{page}.csv"), sheet(site, f"{page}--reported.csv")
    assert [row["label"] for row in measured] == [row["label"] for row in document["rows"]]
    assert {row["method"]: row["gain"] for row in printed if row["source"] == "mdistiller"} == {
        "kd": "1.6", "dkd": "2.91", "at": "1.49",
    }  # fmt: skip
    both = json.loads((site / f"{page}.json").read_text())
    assert (len(both["rows"]), len(both["reported"])) == (len(measured), len(printed))
    assert {"kd", "dkd"} == {row["method"] for name in ("kd", "dkd") for row in sheet(site, f"methods/{name}.csv")}
    entries = (site / f"{page}.bib").read_text()
    assert "Decoupled" in entries
    assert entries.count("@software{kdbench") == 1
    assert len(sheet(site, "literature.csv")) == len(printed)


def test_answers_and_comparisons_are_taken_away(site):
    options = [row for row in sheet(site, "choose.csv") if row["teacher"] == "resnet56"]
    assert [row["method"] for row in options] == ["kd", "dkd", "nobody", "at"]
    assert [row["evidence"] for row in options] == ["re-run", "measured short", "authors", "quoted"]
    assert options[3]["needs"] == "stages"
    assert [row["passes"] for row in options] == ["1.0", "1.0", "", "1.0"], "nobody has a card"
    (measured, printed) = [row for row in sheet(site, "compare.csv") if (row["one"], row["other"]) == ("dkd", "kd")]
    assert (measured["evidence"], measured["where"], measured["n"]) == ("measured", "cifar100-short@1", "3")
    assert float(measured["difference_low"]) < float(measured["difference"]) < float(measured["difference_high"])
    assert (printed["evidence"], printed["where"]) == ("reported", "mdistiller")
    assert float(printed["difference"]) == pytest.approx(1.31)


def test_every_file_that_is_taken_away_is_linked_beside_its_table(site):
    for file in (*site.rglob("*.csv"), *site.rglob("*.bib")):
        name = re.sub(r"(--reported|--records|--gains)?\.[a-z]+$", ".html", file.name)
        name = "index.html" if file.name == RECORDS else name
        page = file.with_name(name).relative_to(site).as_posix()
        assert file.name in [unquote(link).rpartition("/")[2] for link in html(site, page).attributes("href")], file


def test_every_record_that_is_shown_is_listed_once(site):
    rows = list(csv.DictReader((site / RECORDS).open(encoding="utf-8")))
    store = Store(site.parent / "results")
    assert sorted(row["key"] for row in rows) == sorted(record["key"] for record in store.read()[0])
    for row in rows:
        assert (store.root / row["file"]).is_file()


def test_a_suites_count_of_trials_leads_to_as_many_records(site):
    for page in sorted((site / "suites").glob("*.html")):
        (shown,) = re.findall(r'--records\.csv">([0-9]+) trial', page.read_text(encoding="utf-8"))
        rows = list(csv.DictReader(page.with_name(f"{page.stem}--records.csv").open(encoding="utf-8")))
        assert int(shown) == sum(row["evidence"] == "measured" for row in rows) > 0


def test_the_methods_have_a_table_of_gains_by_data_set(site):
    page = html(site, "methods.html")
    (row,) = [cells for cells in page.rows if cells[0] == "dkd" and cells[1].startswith("+")]
    rows = list(csv.DictReader((site / "methods--gains.csv").open(encoding="utf-8")))
    (dkd,) = [each for each in rows if each["label"] == "dkd" and each["evidence"] == "measured"]
    assert row[1].startswith(f"+{float(dkd['mean']):.2f}")
    shown = json.loads((site / DOCUMENT).read_text())["rows"]
    gains = [line["gain"] for line in shown if (line["label"], line["suite"]) == ("dkd", dkd["suite"])]
    assert float(dkd["mean"]) == pytest.approx(sum(gains) / len(gains), abs=1e-5)


def test_the_whole_document_has_what_is_printed_and_the_literature_its_sources(site):
    document = json.loads((site / DOCUMENT).read_text())
    printed = json.loads((site / "literature.json").read_text())["rows"]
    assert document["reported"] == printed
    entries = (site / "literature.bib").read_text(encoding="utf-8")
    assert all(f"@misc{{source-{row['source']}," in entries for row in printed)


def test_ranks_and_moderated_intervals_are_taken_away_as_the_suite_shows_them(site):
    rows = {row["label"]: row for row in json.loads((site / DOCUMENT).read_text())["rows"]}
    assert [rows[label]["rank"] for label in ("dkd", "kd", "ce")] == [1, 2, 3]
    dkd = rows["dkd"]
    assert dkd["gain_moderated"] == pytest.approx(dkd["gain"])
    assert dkd["gain_moderated_high"] - dkd["gain_moderated_low"] != dkd["gain_high"] - dkd["gain_low"]
    assert dkd["gain_images_low"] < dkd["gain_moderated_low"] < dkd["gain"], "other images are a further chance"


def test_no_cell_of_a_csv_file_is_a_formula():
    row = dict.fromkeys(COLUMNS, "=1+1") | {"seeds": {0: 1.0}}
    (line,) = csv.DictReader(io.StringIO(_csv([row], COLUMNS)))
    assert line["label"] == "'=1+1"
    assert line["seeds"] == "0: 1.0000"


def test_the_index_of_the_search_is_one_constant_whatever_the_names():
    made = script([Found('</script><script>x"\u2028', "method", "methods/a.html", "\\")], [])
    assert "</script" not in made
    assert "\u2028" not in made
    assert made.count("\n") == 3
    (entry,) = json.loads(made.split("const pages = ")[1].partition(";\n")[0])
    assert entry[0] == '</script><script>x"\u2028'


@pytest.mark.parametrize(
    ("name", "also"),
    [
        ("resnet34", "resnet-34"),
        ("resnet34", "r34"),
        ("wrn_40_2", "wrn-40-2"),
        ("wrn_40_2", "wide-resnet-40-2"),
        ("mobilenetv2", "mnv2"),
    ],
)
def test_architectures_are_found_by_other_names(name, also):
    assert also in aliases(name)


def test_every_page_is_found_by_name(site):
    index = json.loads((site / "static/index.js").read_text().split("const pages = ")[1].partition(";\n")[0])
    for title, _, page, _ in index:
        assert (site / page.partition("#")[0]).is_file(), title
    listed = set(html(site, "find.html").attributes("href"))
    assert {page for _, _, page, _ in index} <= listed
    assert "Decoupled" in next(words for title, _, _, words in index if title == "dkd")


def test_gains_over_a_weak_student_are_no_evidence():
    rows = [dataclasses.replace(rr.FEW.rows[0], metric="top1", source=s, student_baseline=b) for s, b in
            [("a", 69.0), ("b", 69.2), ("c", 69.1), ("weak", 65.8), ("c", 67.8)]]  # fmt: skip
    assert weak_sources(rows) == ("weak",)
    assert weak_sources([]) == ()


def test_who_found_a_printed_number_is_told_by_what_its_source_proposes():
    shipped = load()
    catalogue = Catalogue([], [], shipped, 0)
    assert all(source.proposes for source in shipped.sources.values()), "each source says what is its own"
    printed = {name for row in shipped.rows for name in (row.method, *components(row.method))}
    named = {name for source in shipped.sources.values() for name in source.proposes.split()} - {"-"}
    assert named <= printed | set(METHODS), "a name that no row has is a slip"

    def by(source: str, method: str) -> set[str]:
        return {_by(catalogue, row) for row in shipped.rows if (row.source, row.method) == (source, method)}

    assert by("wkd", "wkd_f") == by("lskd_logs", "kd+lskd") == by("mdistiller", "kd+dot") == {"authors"}
    assert by("paddleclas", "spherical_kd") == by("torchdistill", "pad_l2") == by("mdistiller", "kd") == {"re-run"}
    unsaid = dataclasses.replace(shipped.sources["paddleclas"], proposes="")
    catalogue = Catalogue([], [], Literature(shipped.rows, {**shipped.sources, "paddleclas": unsaid}), 0)
    assert by("paddleclas", "spherical_kd") == {"authors"}, "nobody has told, and nobody else ran it"
    assert by("paddleclas", "dkd") == {"re-run"}


def test_what_is_cited_for_a_printed_name_is_what_is_trained_for_it_or_what_prints_it():
    catalogue = Catalogue([], [], load(), 0, built="2026-04-05")
    assert bibtex(catalogue, ["kd+lskd"]) == bibtex(catalogue, ["lskd(kd)"]), "two names of one method"
    own, source = bibtex(catalogue, ["sskd"]).strip().split("\n\n")
    assert "year    = {2026}" in own
    assert f"set {catalogue.digest}" in own
    assert is_entry(own)
    assert source.startswith("@misc{source-sskd,")
    assert is_entry(source)
    assert citable(catalogue, "kd+lskd")
    assert not citable(catalogue, "nobody's")


def test_the_verdict_says_how_much_more_is_printed_that_nobody_re_ran():
    def option(method: str, *printed: tuple[str, float, str]) -> Option:
        found = Evidence(method, (), tuple(Printed(source, gain, by) for source, gain, by in printed))
        return Option(found, (), None, elsewhere=None, implemented=True)

    options = (
        option("kd", ("x", 1.0, "re-run")),
        option("new", ("y", 3.0, "authors")),
        option("old", ("z", 1.2, "authors")),
        option("told", ("z", 2.0, "quoted")),
    )
    answer = Answer(PAIR, (), options, 0, (), (), (), "")
    assert [o.evidence.method for o in answer.leading] == ["kd"]
    assert [o.evidence.method for o in answer.more] == ["new", "told"], "0.2 points more are none"
    assert not Answer(PAIR, (), options[1:], 0, (), (), (), "").more, "no evidence is enough to be less"


def test_a_budget_is_by_passes_where_no_cost_is_known():
    assert Option(None, (), Spread(1.4009, 1.2, 1.6), elsewhere=None, implemented=True, passes=2.0).least == 1.4
    others = Option(None, (), None, elsewhere=None, implemented=True, passes=1.0, costs_known=True)
    assert others.least is None, "it would stand beside what was measured, whose cost is higher than its passes"
    assert Option(None, (), None, elsewhere="kd", implemented=True, passes=2.0).least == 2.0
    assert Option(None, (), None, elsewhere="kd", implemented=False).least is None
    two_views = {name: METHODS.get(name).budget.views for name in METHODS if METHODS.get(name).budget.views > 1}
    assert two_views
    for name, views in two_views.items():
        assert card(name, METHODS.get(name).describe()).passes == views * METHODS.get(name).budget.epochs
