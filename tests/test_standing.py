"""Where a listing may show a trial: a listing of anybody's moves nothing that was measured to another row."""

from __future__ import annotations

from pathlib import Path

import pytest
import render_records as rr
from bench import ROOT

from kdbench.cli import main
from kdbench.records import Record, Store
from kdbench.records.inspection import inspect
from kdbench.records.inventory import measured_rows, take_inventory
from kdbench.records.listings import Place, write_listing
from kdbench.records.standing import Standing

SHIPPED = Store(ROOT / "results")
PAIR = "tiny_cnn_l:tiny_cnn_m"


@pytest.fixture(scope="module")
def shipped() -> list[Record]:
    return SHIPPED.read()[0]


def the(records: list[Record], suite: str, label: str) -> Record:
    return next(r for r in records if (r["suite"], r["label"]) == (suite, label))


def test_every_committed_record_can_stand_where_it_is_recorded_and_listed(shipped: list[Record]) -> None:
    stands, (listed, _) = Standing(shipped), SHIPPED.listings()
    students = [record for record in shipped if record["label"] != "teacher"]
    for record in students:
        stands(record, Place(record["suite"], record["label"], record["pair"]))
        for place in listed.get(record["key"], ()):
            stands(record, place)
    assert stands.refused == {}
    assert listed.keys() <= {record["key"] for record in students}


@pytest.mark.parametrize(
    ("label", "place", "why"),
    [
        ("kd", Place("digits@1", "dkd", PAIR), "its method is kd"),
        ("kd", Place("digits@1", "kd-again", PAIR), "with the random stream 0"),
        ("kd", Place("digits@1", "kd", "tiny_cnn_l:tiny_cnn_s"), "its student is tiny_cnn_m"),
        ("kd", Place("digits@1", "kd", "none:tiny_cnn_m"), "it has the teacher tiny_cnn_l"),
        ("ce", Place("digits@1", "ce", PAIR), "it has no teacher"),
        ("kd", Place("fashion_mnist@1", "kd", PAIR), "fashion_mnist@1 has no images of digits"),
        ("kd", Place("digits@1", "marvel", PAIR), "its method is kd, which that label does not say"),
        ("kd", Place("unknown@1", "wttm-tuned", PAIR), "its method is kd, which that label does not say"),
        ("kd", Place("unknown@1", "kd_renyi", PAIR), "its method is kd"),
        ("kd", Place("unknown@1", "dot", PAIR), "its method is kd, which that label does not say"),
        ("kd", Place("unknown@1", "lskd(dkd)-x", PAIR), "its method is kd, which that label does not say"),
        ("kd", Place("unknown@1", "dkd+fitnet-T4", PAIR), "its method is kd, which that label does not say"),
        ("kd", Place("unknown@1", "kd_renyi-T4", PAIR), "its method is kd, which that label does not say"),
        ("kd", Place("unknown@1", "kd", "resnet56:tiny_cnn_m"), "its teacher is tiny_cnn_l"),
        ("kd", Place("unknown@1", "kd", "tiny_cnn_l:resnet8"), "its student is tiny_cnn_m"),
    ],
)
def test_a_trial_stands_at_no_other_row(shipped: list[Record], label: str, place: Place, why: str) -> None:
    stands, record = Standing(), the(shipped, "digits@1", label)
    assert not stands(record, place)
    assert why in stands.refused[record["key"], place]


@pytest.mark.parametrize(
    "place",
    [
        Place("digits@1", "kd", PAIR),
        Place("digits@1", "kd-temperature-4", PAIR),
        Place("unknown@1", "kd-again", PAIR),
        Place("unknown@1", "tuned-kd", PAIR),
        Place("unknown@1", "kd", "tiny-cnn-l:tiny_cnn_m"),
        Place("unknown@1", "soft", "my-teacher:my-student"),
        Place("unknown@1", "atom-kd", PAIR),
    ],
)
def test_a_trial_stands_by_the_names_of_its_method_and_networks(shipped: list[Record], place: Place) -> None:
    assert Standing()(the(shipped, "digits@1", "kd"), place)


def other(record: Record, *way: str, to: object) -> Record:
    """``record`` with something else at a place of it."""
    first, *rest = way
    return {**record, first: other(record[first], *rest, to=to) if rest else to}


@pytest.mark.parametrize(
    ("way", "to", "why"),
    [
        (("identity", "protocol", "epochs"), 3, "its protocol is not the one that digits@1 has for that row"),
        (("identity", "supervision"), {"kind": "few_labels", "images": 1}, "its supervision is not that of digits@1"),
        (("config", "temperature"), 9.0, "its hyper-parameters are not those of that row in digits@1"),
        (("teacher_model",), "resnet56", "its teacher is another one, called tiny_cnn_l"),
    ],
)
def test_a_suite_that_is_at_hand_says_what_its_rows_are(
    shipped: list[Record], way: tuple[str, ...], to: object, why: str
) -> None:
    stands, place = Standing(), Place("digits@1", "kd", PAIR)
    record = other(the(shipped, "digits@1", "kd"), *way, to=to)
    assert not stands(record, place)
    assert stands.refused[record["key"], place] == why


@pytest.mark.parametrize(("method", "label"), [("at+kd", "at-kd"), ("dot(kd)", "dot"), ("lskd(kd)", "lskd-kd-T2")])
def test_a_label_says_its_method_however_it_joins_the_words(shipped: list[Record], method: str, label: str) -> None:
    record = {**the(shipped, "digits@1", "kd"), "method": method, "label": "first"}
    assert Standing()(record, Place("own@1", label, PAIR))


@pytest.mark.parametrize(
    ("suite", "label", "place"),
    [
        ("study-ttm@1", "ttm-g0.1-b4", Place("fashion_mnist@1", "ttm", "resnet20:resnet8")),
        ("study-hinton@1", "kd-t4-3-percent", Place("study-hinton@1", "kd-t20", "mlp_1200_1200:mlp_800_800")),
    ],
)
def test_a_row_that_no_suite_at_hand_plans_takes_what_is_planned_as_what_it_has(
    shipped: list[Record], suite: str, label: str, place: Place
) -> None:
    record = the(shipped, suite, label)
    honest = next(r for r in shipped if (r["suite"], r["label"]) == place[:2])
    place = Place(place.suite, place.label, honest["pair"])
    stands = Standing(shipped)
    assert stands(honest, place)
    assert not stands(record, place)


def test_somebody_else_s_listing_shows_contributed_records_alone(tmp_path: Path) -> None:
    box, bundle = Store(tmp_path / "results"), Store(tmp_path / "bundle")
    path = rr.put(box, 0.5)
    bundle.adopt(path, box)
    key = rr.record()["key"]
    bundle.list_under([(key, Place("cifar100-short@2", "kd", rr.record()["pair"]))])
    rr.put(bundle, 0.6, seed=1)
    assert main(["results", "merge", str(bundle.root), "--into", str(box.root), "--contributed"]) == 0
    rows = take_inventory(box).rows
    assert [(row["suite"], row["evidence"]) for row in rows if row["key"] == key] == [("cifar100-short@1", "measured")]
    theirs = rr.record(seed=1)["key"]
    box.list_under([(theirs, Place("cifar100-short@2", "kd", rr.record()["pair"]))], contributed=True)
    rows = [row for row in take_inventory(box).rows if row["key"] == theirs]
    assert {(row["suite"], row["evidence"]) for row in rows} == {
        ("cifar100-short@1", "contributed"),
        ("cifar100-short@2", "contributed"),
    }


def test_a_teacher_by_another_name_is_told_by_what_it_is(shipped: list[Record]) -> None:
    place = Place("study-biased-teachers@1", "kd-alone", "r1-u0:resnet8")
    mine = next(r for r in shipped if (r["suite"], r["label"], r["pair"]) == place)
    foreign = next(r for r in shipped if r["suite"] == place.suite and r["pair"] == "r0-u0.4:resnet8")
    assert Standing()(mine, place)
    assert Standing()(other(mine, "teacher", "name", to="elsewhere"), place)
    assert not Standing()(foreign, place)


@pytest.fixture
def bundled(tmp_path: Path) -> tuple[Store, Record]:
    """A measured record, and the listing of a bundle that shows it as somebody's method."""
    box = Store(tmp_path / "results")
    path = rr.put(box, 0.9, "kd", images=200)
    record = box.load(path)
    places = [Place("praise@1", "wttm", record["pair"]), Place("praise@1", "kd", record["pair"])]
    box.list_under([(record["key"], place) for place in places])
    return box, record


def test_a_false_listing_shows_nothing_and_is_named(
    bundled: tuple[Store, Record], capsys: pytest.CaptureFixture[str]
) -> None:
    box, record = bundled
    (file,) = (box.root / "v1" / "listings").iterdir()
    sentence = (
        f"The listing {file.name} shows the trial {record['key'][:12]} as wttm on {record['pair']} in praise@1, "
        "but its method is kd; it is not shown there; delete the listing if it is not yours."
    )
    found = take_inventory(box)
    for rows, problems in ((found.rows, [problem.text for problem in found.problems]), measured_rows(box)):
        assert sorted((row["suite"], row["label"]) for row in rows) == [(record["suite"], "kd"), ("praise@1", "kd")]
        assert problems == [sentence]
    for command in (
        ["results", "validate", str(box.root)],
        ["site", "--results", str(box.root), "--out", str(box.root.parent / "site"), "--strict"],
    ):
        assert main(command) == 3
        assert sentence in capsys.readouterr().err


def test_a_contributed_record_s_own_label_lends_the_measured_one_no_place(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    rr.put(box, 0.5)
    arrays = rr.predictions(0.5, 1)
    box.put(rr.record(arrays=arrays, evidence="contributed", suite="praise@1", label="marvel"), arrays)
    box.list_under([(rr.record()["key"], Place("praise@2", "wttm", rr.record()["pair"]))])
    rows = take_inventory(box).rows
    assert {row["suite"] for row in rows if row["evidence"] == "measured"} == {rr.record()["suite"]}


def test_a_suite_that_is_not_at_hand_is_known_by_its_records(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    mine = box.load(rr.put(box, 0.5, "kd", suite="own@1", label="soft"))
    others = [
        box.load(rr.put(box, 0.6, "dkd")),
        box.load(rr.put(box, 0.7, "kd", "resnet110:resnet32")),
    ]
    for record, place in (
        (others[0], Place("own@1", "soft", mine["pair"])),
        (others[1], Place("own@1", "soft", mine["pair"])),
        (others[1], Place("own@1", "soft", "any:other")),
    ):
        box.list_under([(record["key"], place)])
    found = take_inventory(box)
    shown = sorted((row["label"], row["method"], row["pair"]) for row in found.rows if row["suite"] == "own@1")
    assert shown == [("soft", "kd", "any:other"), ("soft", "kd", mine["pair"])]
    assert sum("its method is dkd, planned otherwise than what is" in problem.text for problem in found.problems) == 1
    assert sum("its networks are resnet110 and resnet32" in problem.text for problem in found.problems) == 1


def test_a_listing_of_no_record_is_a_warning(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    rr.put(box, 0.5, images=200)
    path = write_listing(box.root / "v1" / "listings", "s@2", [("a" * 64, Place("s@2", "kd", "a:b"))])
    found = inspect(box)
    assert not found.problems
    assert f"The listing {path.name} shows trials that no record is of." in [each.text for each in found.warnings]


@pytest.mark.parametrize("part", ["supervision", "protocol", "data", "method", "teacher"])
@pytest.mark.parametrize("to", [None, [], {}, 1, {"kind": []}])
def test_an_identity_that_is_no_plan_stands_nowhere_else(shipped: list[Record], part: str, to: object) -> None:
    stands, record = Standing(), other(the(shipped, "digits@1", "kd"), "identity", part, to=to)
    record = other(record, "teacher", "name", to="elsewhere")
    assert not stands(record, Place("digits@1", "kd", PAIR))
