"""A record whose parts disagree is set apart, with the two parts and what they say."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import render_records as rr
from bench import suite_text
from test_store import predictions, record, rewritten
from test_trial import TRIAL

from kdbench.canonical import digest
from kdbench.errors import UserError
from kdbench.records import Store
from kdbench.records.agreement import COPIES, disagreement
from kdbench.render.site import gather
from kdbench.shipped import shipped
from kdbench.suites import parse_suite

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def box(tmp_path: Path) -> Store:
    """A store with a sound record of seed 7, which no other one's damage may cost."""
    store = Store(tmp_path / "results")
    store.put(record(seed=7), predictions())
    return store


def damaged(box: Store, path: Path, change: Change) -> str:
    """Change the record at ``path`` as if by hand; what is said of it. The rest must be read all the same."""
    document = json.loads(path.read_text())
    change(document)
    path = rewritten(path, document)
    (found,), (problem,) = box.read()
    assert found["seed"] == 7
    assert path.relative_to(box.root).as_posix() in problem
    assert "\n" not in problem
    assert len(problem) < 500
    assert box.done([path.name.split(".")[0]]) == set()
    return problem


def put_at(document: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split("/")
    for name in parents:
        document = document[int(name) - 1] if isinstance(document, list) else document[name]
    document[last] = value


def identified(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """``document`` with another identity, and the key that belongs to it."""
    document = copy.deepcopy(document)
    put_at(document["identity"], path, value)
    return {**document, "key": digest(document["identity"])}


OTHER: dict[str, object] = {
    "dataset": "mnist",
    "student_model": "tiny_cnn_l",
    "method": "dkd",
    "method_card/name": "dkd",
    "method_card/version": 2,
    "config": {"temperature": 4, "kd_weight": 0.9},
    "seed": 5,
    "stream": 1,
    "provenance/plugin_sha256": "d" * 64,
    "provenance/precision": "bf16",
    "provenance/threads": 2,
}


@pytest.mark.parametrize("field", COPIES)
def test_each_copy_of_a_part_of_the_identity_is_compared(box: Store, field: str) -> None:
    path = box.put(record(), predictions())
    part = f"identity/{COPIES[field]}"
    problem = damaged(box, path, lambda document: put_at(document, field, OTHER[field]))
    assert f"is damaged: {field} is {json.dumps(OTHER[field], sort_keys=True, separators=(',', ':'))[:60]}" in problem
    assert f"but {part} is " in problem


@pytest.mark.parametrize("field", COPIES)
def test_so_it_is_where_the_identity_was_changed_and_the_key_with_it(box: Store, field: str) -> None:
    """Key, file name and prediction file all fit the changed identity; the copies are what gives it away."""
    sound = box.put(record(), predictions())
    changed = identified(json.loads(sound.read_text()), COPIES[field], OTHER[field])
    path = sound.with_name(f"{changed['key']}.{'0' * 12}.json")
    sound.rename(path)
    problem = damaged(box, path, lambda document: document.update(changed))
    assert "is damaged: " in problem
    assert f"identity/{COPIES[field]}" in problem


CONTRADICTIONS: dict[str, tuple[Change, str]] = {
    "another suite's folder": (lambda r: r.update(suite="s@2"), 'its folder is "s@1", but suite is "s@2"'),
    "a teacher's label": (lambda r: r.update(label="teacher"), 'its folder is "s@1", but label is "teacher"'),
    "no teacher's architecture": (
        lambda r: r.update(teacher_model=None),
        "teacher_model is null, but identity/teacher",
    ),
    "another teacher's architecture": (
        lambda r: r.update(teacher_model="vgg13"),
        'teacher_model is "vgg13", but identity/teacher/model is "resnet56"',
    ),
    "a pair without a teacher": (lambda r: r.update(pair="none:s"), 'pair is "none:s", but identity/teacher is {'),
    "another measured teacher": (
        lambda r: r["teacher"].update(model="vgg13"),
        'teacher/model is "vgg13", but teacher_model is "resnet56"',
    ),
    "other weights of the teacher": (
        lambda r: r["teacher"].update(weights_sha256="c" * 64),
        f'teacher/weights_sha256 is "{"c" * 59}..., but that of identity/teacher is "{"b" * 59}...',
    ),
    "another degree of the teacher": (
        lambda r: r["teacher"].update(
            degrees=[{"top_k": r["teacher"]["top_k"], "unreliability": 0.9, "ambiguity": 0.5}]
        ),
        "but that in teacher/degrees is 0.9",
    ),
    "another kind of teacher": (
        lambda r: r["teacher"].update(kind="trained"),
        'teacher/kind is "trained", but identity/teacher/kind is "checkpoint"',
    ),
    "a training that nobody taught": (lambda r: r.update(teacher=None), 'status is "finished", but teacher is null'),
    "finished without a score": (
        lambda r: r["scores"].update(last=None),
        'status is "finished", but scores/last is null',
    ),
    "finished without the oracle": (
        lambda r: r["scores"].update(best_test=None),
        'status is "finished", but scores/best_test is null',
    ),
    "finished without weights": (
        lambda r: r.update(weights_sha256=None),
        'status is "finished", but weights_sha256 is null',
    ),
    "finished on no machine": (lambda r: r.update(numerics=None), 'status is "finished", but numerics is null'),
    "finished at no cost": (lambda r: r.update(cost=None), 'status is "finished", but cost is null'),
    "finished without predictions": (
        lambda r: r.update(predictions=None),
        'status is "finished", but predictions is null',
    ),
    "finished with a complaint": (
        lambda r: r.update(detail="the loss was NaN"),
        'status is "finished", but detail is "the loss was NaN"',
    ),
    "crashed with results": (lambda r: r.update(status="crashed"), 'status is "crashed", but scores/last is {'),
    "inapplicable with results": (
        lambda r: r.update(status="inapplicable"),
        'status is "inapplicable", but scores/last is {',
    ),
    "a held-out score without images held out": (
        lambda r: r["scores"].update(best_val=r["scores"]["last"]),
        "but identity/protocol/holdout is 0",
    ),
    "a held-out accuracy in the curve": (
        lambda r: r["curve"][3].update(val_top1=50.0),
        "curve/4/val_top1 is 50.0, but identity/protocol/holdout is 0",
    ),
    "an epoch too few": (
        lambda r: r["curve"].pop(),
        "the length of curve is 239, but identity/protocol/epochs is 240",
    ),
    "an epoch too many": (
        lambda r: r["curve"].append({**r["curve"][-1], "epoch": 241}),
        "the length of curve is 241, but identity/protocol/epochs is 240",
    ),
    "an epoch twice": (lambda r: r["curve"][3].update(epoch=3), "curve/4/epoch is 3, but its place is 4"),
    "last that is not the last": (
        lambda r: r["scores"]["last"].update(epoch=239),
        "scores/last/epoch is 239, but the epoch of the best epoch in curve is 240",
    ),
    "best that is not the best": (
        lambda r: r["curve"][8].update(test_top1=99.0),
        "scores/best_test/epoch is 1, but the epoch of the best test_top1 in curve is 9",
    ),
    "another accuracy than the curve's": (
        lambda r: r["curve"][239].update(test_top1=1.25),
        "but curve/240/test_top1 is 1.25",
    ),
    "held out, says the score": (
        lambda r: r["scores"]["last"].update(val_top1=50.0),
        "scores/last/val_top1 is 50.0, but curve/240/val_top1 is null",
    ),
    "more right first than among the first five": (
        lambda r: r["scores"]["last"].update(top5=0.5),
        "scores/last/top5 is 0.5, but scores/last/top1, which is a part of it, is ",
    ),
    "an agreement that two such networks cannot have": (
        lambda r: (r["teacher"].update(top1=99.0), r["scores"]["last"].update(agreement=99.9)),
        "scores/last/agreement is 99.9, but what it can be beside teacher/top1 and top1 is [",
    ),
    "an agreement with nobody": (
        lambda r: r["scores"]["last"].update(agreement=None),
        "scores/last/agreement is null, but identity/teacher is {",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_a_record_says_twice_is_said_alike(box: Store, name: str) -> None:
    change, said = CONTRADICTIONS[name]
    problem = damaged(box, box.put(record(), predictions()), change)
    assert "The record v1/s@1/" in problem
    assert said.rstrip(".") in problem


@pytest.mark.parametrize("part", ["student", "teacher", "method"])
@pytest.mark.parametrize("source", ["d" * 64, ["d" * 64]], ids=["another", "no text"])
def test_the_plugins_that_ran_are_those_of_the_identity(part: str, source: object) -> None:
    sound = record()
    sound["provenance"] |= {"plugins": [{"name": "own", "version": "1", "sha256": "e" * 64}], "plugin_sha256": None}
    sound["predictions"] = {"sha256": "0" * 64}
    assert disagreement(sound, "s@1") == ""
    named = identified(sound, f"{part}/source", "e" * 64)
    other = identified(sound, f"{part}/source", source)
    for changed in (named, other):
        changed["provenance"]["plugin_sha256"] = changed["identity"]["method"]["source"]
    assert disagreement(named, "s@1") == ""
    assert f"but identity/{part}/source is" in disagreement(other, "s@1")
    del other["provenance"]["plugins"]  # as older records are
    assert disagreement(other, "s@1") == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights_sha256", "1" * 64),
        ("cost", rr.COST | {"ratio_to_ce": None}),
        ("scores/last", record()["scores"]["last"]),
        ("predictions", {"sha256": "0" * 64}),
        ("scores/best_val", record()["scores"]["last"]),
        ("curve", [*record()["curve"], {**record()["curve"][0], "epoch": 241}]),
    ],
)
@pytest.mark.parametrize("status", ["diverged", "crashed", "timed_out", "inapplicable"])
def test_what_did_not_finish_has_no_result(box: Store, status: str, field: str, value: object) -> None:
    path = box.put(record(status))
    assert len(box.read()[0]) == 2
    problem = damaged(box, path, lambda document: put_at(document, field, value))
    assert "is damaged: " in problem
    assert field in problem


@pytest.mark.parametrize("field", ["teacher", "teacher_model", "pair", "scores/last/kl_to_teacher"])
def test_what_nobody_taught_has_no_teacher(box: Store, field: str) -> None:
    arrays = rr.predictions(0.5, 1)
    path = box.put(rr.record("ce", "none:resnet20", arrays=arrays), arrays)
    other = rr.record(arrays=arrays)
    value = other["scores"]["last"]["kl_to_teacher"] if "/" in field else other[field]
    problem = damaged(box, path, lambda document: put_at(document, field, value))
    assert f"{field} is {json.dumps(value, sort_keys=True, separators=(',', ':'))[:40]}" in problem
    assert "but identity/teacher is null" in problem


def test_a_trained_teacher_has_weights_that_no_plan_knows(box: Store) -> None:
    document = record()
    document = identified(document, "teacher", {"kind": "trained", "recipe": "e" * 64})
    document["teacher"]["kind"] = "self"
    path = box.put(document, predictions())
    assert len(box.read()[0]) == 2
    assert 'teacher/kind is "checkpoint", but identity/teacher/kind is "trained"' in damaged(
        box, path, lambda document: document["teacher"].update(kind="checkpoint")
    )


def test_a_method_that_was_not_registered_has_a_card_without_a_version(box: Store) -> None:
    box.put({**record(seed=1), "method_card": {"name": "kd"}}, predictions())
    assert len(box.read()[0]) == 2


@pytest.mark.parametrize("name", ["{key}.0123456789ab.json", "{key}.copy.json", "{other}.json"])
def test_a_copy_under_another_name_is_no_second_result(box: Store, name: str) -> None:
    path = box.put(record(), predictions())
    copied = path.with_name(name.format(key=TRIAL.key, other="f" * 64))
    shutil.copy(path, copied)
    found, (problem,) = box.read()
    assert len(found) == 2
    assert copied.name in problem


def test_a_record_that_was_moved_into_another_suite_is_named(box: Store) -> None:
    path = box.put(record(), predictions())
    moved = box.root / "v1" / "s@9" / path.name
    moved.parent.mkdir()
    shutil.move(path, moved)
    _, (problem,) = box.read()
    assert f'v1/s@9/{path.name} is damaged: its folder is "s@9", but suite is "s@1"' in problem


@pytest.mark.parametrize("identity", [{}, {"protocol": 3}, {"teacher": [], "protocol": {"epochs": 0}}])
def test_an_identity_of_any_form_is_a_disagreement_and_no_crash(identity: dict[str, Any]) -> None:
    document = {**record(), "identity": identity, "key": digest(identity)}
    assert disagreement(document, "s@1").startswith("dataset is ")


def test_a_disagreement_is_not_written_either(box: Store) -> None:
    with pytest.raises(UserError, match="seed is 3, but identity/seed is 0"):
        box.put({**record(), "seed": 3}, predictions())
    assert len(list(box.root.rglob("*.*"))) == 2, "those of the sound record"


def test_no_suite_can_ask_for_such_a_record() -> None:
    """A pair that begins with none is that of a student without a teacher."""
    text = suite_text(["ce"])
    assert 'student = "tiny_cnn_s"' in text
    with pytest.raises(
        UserError, match=r"tiny\.toml \[\[pairs\]\] 1: the pair 'none' is kept for students without a teacher"
    ):
        parse_suite(text.replace('student = "tiny_cnn_s"', 'student = "tiny_cnn_s"\nname = "none:x"'), "tiny.toml")


def test_a_damaged_copy_is_a_problem_of_the_site(box: Store) -> None:
    path = box.put(record(), predictions())
    damaged(box, path, lambda document: document.update(seed=5))
    catalogue = gather(box)
    assert [found["seed"] for found in catalogue.records] == [7]
    assert "seed is 5, but identity/seed is 0" in catalogue.problems[0].text


def test_the_records_that_come_with_kdbench_agree_with_themselves() -> None:
    store = Store(shipped("results"))
    records, problems = store.read()
    assert not problems
    assert len(records) == len(list(store.root.glob("v1/*@*/*.json"))) + len(
        list(store.root.glob("v1/teachers/*.json"))
    )
    assert len(records) > 100
