"""What others contribute stands apart: it evicts, moves and contradicts nothing that was measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import render_records as rr
from bench import ROOT, first_digits
from test_render import Html, few  # noqa: F401

from kdbench.canonical import digest
from kdbench.cli import main
from kdbench.records import Store
from kdbench.records.inventory import take_inventory
from kdbench.records.listings import Place
from kdbench.render import build
from kdbench.render.site import gather
from kdbench.render.suiteview import suite_view

SHIPPED = Store(ROOT / "results")
#: One more than the honest ones: a majority, where one counted.
FALSE = 31


@pytest.fixture
def honest(tmp_path: Path) -> Store:
    """The thirty records of digits that came with kdbench."""
    box = Store(tmp_path / "results")
    for path in first_digits():
        box.adopt(path, SHIPPED)
    return box


def shifted(arrays: Any, classes: int) -> dict[str, Any]:
    """The predictions ``arrays`` with every class called by the next one's number: other labels, and equal scores."""
    numbered = [name for name in arrays if name == "labels" or name.endswith("top5")]
    return {**arrays, **{name: (arrays[name] + 1) % classes for name in numbered}}


def measured(box: Store) -> list[Any]:
    """What was measured, as far as a page can show it."""
    found = take_inventory(box)
    rows = [row for row in found.rows if row["evidence"] == "measured"]
    return sorted((r["key"], r["suite"], r["label"], r["pair"], digest(r["scores"]), digest(r["cost"])) for r in rows)


def test_a_contributed_pair_hides_no_measured_answer(tmp_path: Path, few: None) -> None:  # noqa: F811
    box = Store(tmp_path / "results")
    for seed in range(4):
        rr.put(box, 0.4, "ce", "none:resnet20", seed)
        rr.put(box, 0.8, "kd", "resnet56:resnet20", seed)
    before = suite_view(gather(box), "cifar100-short@1")
    assert before.best
    arrays = rr.predictions(0.5, 9)
    theirs = rr.record("kd", "resnet110:resnet20", arrays=arrays, evidence="contributed")
    box.put({**theirs, "predictions": None})
    after = suite_view(gather(box), "cifar100-short@1")
    assert [(r.label, r.gain, r.standing) for r in after.best] == [(r.label, r.gain, r.standing) for r in before.best]
    assert [(r.label, r.covered) for r in after.rows] == [(r.label, r.covered) for r in before.rows]


def test_false_labels_evict_nothing(honest: Store) -> None:
    before = measured(honest)
    assert len(before) == FALSE - 1
    source = honest.load(next(honest.files()))
    arrays = shifted(honest.predictions(source), 10)
    for seed in range(FALSE):
        identity = {**source["identity"], "seed": 100 + seed}
        false = {**source, "identity": identity, "key": digest(identity), "seed": 100 + seed}
        honest.put({**false, "evidence": "contributed"}, arrays)
    assert measured(honest) == before
    problems = take_inventory(honest).problems
    assert len(problems) == FALSE
    assert all("its test labels are not those of digits" in problem.text for problem in problems)
    assert all(problem.file and problem.file.startswith("v1/digits@1/") for problem in problems)


def test_labels_that_no_digest_decides_are_those_of_what_was_measured(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    for seed in range(2):
        rr.put(box, 0.5, seed=seed)
    before = measured(box)
    for seed in range(FALSE):
        arrays = shifted(rr.predictions(0.5, seed), rr.CLASSES)
        box.put(rr.record(seed=seed, arrays=arrays, evidence="contributed"), arrays)
    assert measured(box) == before
    problems = take_inventory(box).problems
    assert len(problems) == FALSE
    assert all("records of its data disagree on the test labels" in problem.text for problem in problems)


def test_another_result_of_the_same_weights_contradicts_nothing_measured(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    rr.put(box, 0.5)
    before = measured(box)
    for accuracy in (0.7, 0.9):
        arrays = rr.predictions(accuracy, 1)
        box.put(rr.record(arrays=arrays, evidence="contributed"), arrays)
    found = take_inventory(box)
    assert measured(box) == before
    assert len(found.problems) == 2, "the two contradict one another"
    assert all("it has the weights and the numerics of another record" in problem.text for problem in found.problems)


def test_another_accuracy_of_a_measured_teacher_is_not_believed(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    rr.put(box, 0.5)
    before = measured(box)
    teacher = rr.record()["teacher"]
    for seed, top1 in ((1, teacher["top1"] + 0.05), (2, teacher["top1"] - 9)):
        arrays = rr.predictions(0.5, seed)
        theirs = rr.record(seed=seed, arrays=arrays, evidence="contributed")
        box.put({**theirs, "teacher": {**teacher, "top1": top1}}, arrays)
    assert measured(box) == before
    found = take_inventory(box)
    assert sorted(row["seed"] for row in found.rows) == [0, 1]
    (problem,) = found.problems
    assert "its teacher's top1 is " in problem.text
    assert f"but {teacher['top1']:.2f} was measured of it; it is left out." in problem.text


def test_an_image_of_a_few_is_no_other_accuracy(honest: Store) -> None:
    source = next(r for path in honest.files() if (r := honest.load(path))["teacher"] is not None)
    for seed, images in ((100, 1), (101, 9)):  # of 500
        identity = {**source["identity"], "seed": seed}
        teacher = {**source["teacher"], "top1": source["teacher"]["top1"] - 100 * images / 500}
        theirs = {**source, "identity": identity, "key": digest(identity), "seed": seed, "teacher": teacher}
        honest.put({**theirs, "evidence": "contributed"}, honest.predictions(source))
    found = take_inventory(honest)
    assert [row["seed"] for row in found.rows if row["evidence"] == "contributed"] == [100]
    assert len(found.problems) == 1


def test_a_contributed_record_shows_nothing_measured_elsewhere(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    rr.put(box, 0.5)
    before = measured(box)
    arrays = rr.predictions(0.5, 1)
    box.put(rr.record(arrays=arrays, evidence="contributed", suite="praise@1", label="the-best"), arrays)
    assert measured(box) == before
    box.list_under([(rr.record()["key"], Place("other@1", "kd", "resnet56:resnet20"))])
    assert {place[1] for place in measured(box)} == {"cifar100-short@1", "other@1"}


def test_another_protocol_under_the_suite_s_name_moves_no_measured_row(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    rr.put(box, 0.5, suite="own@1")
    before = measured(box)
    identity = rr.record()["identity"]
    identity["protocol"] = {**identity["protocol"], "epochs": 8}
    rr.put(box, 0.9, suite="own@1", identity=identity, evidence="contributed")
    assert measured(box) == before
    (problem,) = take_inventory(box).problems
    assert "differ in their protocol, and no copy of own@1 is at hand that decides" in problem.text


def test_what_is_contributed_saves_nobody_the_measurement(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    arrays = rr.predictions(0.5, 1)
    record = rr.record(arrays=arrays, evidence="contributed")
    box.put(record, arrays)
    assert box.done([record["key"]]) == set()
    rr.put(box, 0.5)
    assert box.done([record["key"]]) == {record["key"]}


def test_what_is_merged_as_contributed_is_called_so_whatever_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box, bundle = Store(tmp_path / "results"), Store(tmp_path / "bundle")
    mine = rr.put(box, 0.5)
    before = measured(box)
    bundle.adopt(mine, box)
    for seed in (0, 1):
        rr.put(bundle, 0.9, seed=seed, weights_sha256=f"{seed}" * 64)
    bundle.pin("cifar100-short@1", "resnet56-imported", "b" * 64)
    box.pin("cifar100-short@1", "resnet56-imported", "a" * 64)
    for said in ("2 records copied as contributed, 1 record there", "0 records copied as contributed, 3 records there"):
        assert main(["results", "merge", str(bundle.root), "--into", str(box.root), "--contributed"]) == 0
        assert said in capsys.readouterr().out
        assert measured(box) == before
        found = take_inventory(box)
        assert sorted(row["seed"] for row in found.rows if row["evidence"] == "contributed") == [0, 1]
        assert not found.problems
        assert box.pins("cifar100-short@1") == {"resnet56-imported": "a" * 64}


@pytest.mark.usefixtures("few")
def test_what_is_contributed_counts_on_no_card(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    for seed in range(2):
        rr.put(box, 0.4, "ce", "none:resnet20", seed)
        rr.put(box, 0.8, "kd", "resnet56:resnet20", seed)

    def cards(out: str) -> list[str]:
        build(box.root, tmp_path / out, tmp_path)
        text = (tmp_path / out / "index.html").read_text()
        Html(text)
        return re.findall(r'<section class="card" aria-labelledby="suite-.*?</section>', text, re.DOTALL)

    (before,) = cards("before")
    arrays = rr.predictions(0.9, 1)
    for pair, suite in (("resnet110:resnet20", "cifar100-short@1"), ("resnet56:resnet20", "praise@1")):
        theirs = rr.record("dist", pair, arrays=arrays, evidence="contributed", suite=suite)
        box.put({**theirs, "predictions": None})
    after, praise = cards("after")
    assert after == before
    assert "Nothing of it was measured here; 1 contributed row." in praise


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("evidence", ["measured", "contributed"])
def test_a_teacher_s_own_training_stands_on_its_page_whoever_made_both(tmp_path: Path, evidence: str) -> None:
    box = Store(tmp_path / "results")
    rr.put(box, 0.7, "ce", "none:resnet56", label="teacher", evidence=evidence)
    key = box.load(next(box.files()))["key"]
    plain = rr.record()
    identity = {**plain["identity"], "teacher": {"kind": "trained", "recipe": key}}
    teacher = {**plain["teacher"], "kind": "trained", "claimed_top1": None}
    rr.put(box, 0.6, identity=identity, teacher=teacher, evidence=evidence)
    build(box.root, tmp_path / "site", tmp_path)
    (page,) = (tmp_path / "site" / "teachers" / "cifar100").glob("*.html")
    assert "No training of it is recorded here" not in page.read_text()
    assert "Record of seed 0" in page.read_text()
    ours = 1 if evidence == "measured" else 0
    assert f"{ours} of teachers' own trainings" in (tmp_path / "site" / "index.html").read_text()


@pytest.mark.usefixtures("few")
def test_every_page_sets_it_apart_and_says_what_was_recomputed(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    for seed in range(3):
        rr.put(box, 0.3, "ce", "none:resnet20", seed, images=200)
        rr.put(box, 0.8, "kd", seed=seed, images=200)
    theirs = {"evidence": "contributed", "images": 200}
    rr.put(box, 0.5, "ce", "none:resnet20", **theirs)
    rr.put(box, 0.99, "wttm", method_card={"name": "wttm", "title": "No card of ours"}, **theirs)
    arrays = rr.predictions(0.98, 1, images=200)
    box.put(rr.record("dkd", arrays=arrays, evidence="contributed"))
    assert build(box.root, tmp_path / "out").problems == []

    def page(name: str) -> str:
        return (tmp_path / "out" / name).read_text(encoding="utf-8")

    for name in ("suites/cifar100-short@1.html", "pairs/cifar100/resnet56--resnet20.html", "methods/wttm.html"):
        ours, _, apart = page(name).partition("Contributed</h")
        assert apart, name
        assert "contributed, top-1, top-5, NLL and ECE recomputed" in apart
        assert "contributed, " not in ours
        Html(page(name))  # balanced
    assert "contributed, nothing recomputed" in page("methods/dkd.html")
    index = page("index.html")
    best = index.partition('class="best"')[2].partition("</ol>")[0]
    assert "kd" in best
    assert "wttm" not in best
    assert "<dt>students trained here</dt><dd>6</dd>" in index
    assert "No card of ours" not in page("methods/wttm.html")


@pytest.mark.usefixtures("few")
def test_a_suite_of_nothing_else_has_no_highlights(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    rr.put(box, 0.5, "ce", "none:resnet20", evidence="contributed", images=200)
    rr.put(box, 0.9, "wttm", evidence="contributed", images=200)
    assert build(box.root, tmp_path / "out").problems == []
    assert 'class="best"' not in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_a_card_that_was_contributed_stands_behind_one_that_was_measured(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    rr.put(box, 0.5, "mine", method_card={"name": "mine", "version": 1, "title": "Ours"})
    identity = rr.record("mine", seed=1)["identity"]
    identity["method"]["version"] = 999
    card = {"name": "mine", "version": 999, "title": "Theirs"}
    rr.put(box, 0.5, "mine", seed=1, identity=identity, method_card=card, evidence="contributed")
    assert gather(box).cards["mine"].title == "Ours"


def test_where_protocols_differ_a_suite_at_hand_decides(honest: Store) -> None:
    """However many records of another protocol there are."""
    before = measured(honest)
    source = next(record for record in honest.read()[0] if record["label"] == "kd")
    arrays = honest.predictions(source)
    for seed in range(FALSE):
        protocol = {**source["identity"]["protocol"], "lr": 0.123}
        identity = {**source["identity"], "protocol": protocol, "seed": 100 + seed}
        honest.put({**source, "identity": identity, "key": digest(identity), "seed": 100 + seed}, arrays)
    assert measured(honest) == before
    problems = take_inventory(honest).problems
    assert len(problems) == FALSE
    assert all("its protocol is not the one that digits@1 has for this row" in problem.text for problem in problems)
