"""One rule for names: what a plan accepts can be recorded, has a page, and is a file's name on any disk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from bench import ROOT, suite_text
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import RUN, Cli, cli  # noqa: F401
from test_store import record

from kdbench import names
from kdbench.errors import UserError
from kdbench.methods import METHODS
from kdbench.models import MODELS
from kdbench.names import LONGEST_NAME, LONGEST_TEXT, LONGEST_WRITTEN, check_name
from kdbench.plan.expand import Selection, expand
from kdbench.records import Store, check
from kdbench.records.build import build_record
from kdbench.records.validate import schema
from kdbench.registry import Registry
from kdbench.render.address import method_page, pair_page, slug, suite_page
from kdbench.suites import SUITES, Suite, get_suite, parse_suite
from kdbench.trials.trial import Trial, teacher_trial

#: Methods that can stand in a sum, the shortest names first.
SUMMANDS = sorted(
    (
        name
        for name in METHODS
        if "distill" in METHODS.get(name).terms.values() and METHODS.get(name).budget.deployed == "student"
    ),
    key=len,
)


def long_sum(characters: int) -> str:
    """A sum of as many methods as there is room for in ``characters``."""
    text = SUMMANDS[0]
    for name in SUMMANDS[1:]:
        text += f"+{name}" if len(text) + 1 + len(name) <= characters else ""
    return text


def trials(suite: Suite, **selection: object) -> Iterator[Trial]:
    """Every trial of ``suite``, and those that make its teachers."""
    for trial in expand(suite, Selection(**selection), "0" * 64):  # type: ignore[arg-type]
        yield trial
        for teacher in trial.teacher.lineage if trial.teacher else ():
            if teacher.kind != "checkpoint":
                yield teacher_trial(teacher, trial.dataset, trial.data_digest, trial.suite)


def recordable(trial: Trial) -> None:
    """Fails unless a record of ``trial`` is valid and has a folder and pages."""
    made = build_record(trial, "crashed", warnings=["w" * 9000], detail="d" * 9000)
    check("record", json.loads(json.dumps(made)), trial.label)
    if trial.teacher is not None:
        part = {"name": trial.teacher.name, "source": trial.teacher.source, "kind": trial.teacher.kind}
        check("record", {**record(), "teacher": {**TEACHER, **part}}, trial.label)
    teacher, _, student = trial.pair.partition(":")
    pages = [method_page(trial.method), suite_page(trial.suite), pair_page(trial.dataset, teacher, student)]
    for place in (*pages, Store(Path()).folder(made).as_posix(), f"{made['suite']}-0000.json"):
        parts = PurePosixPath(place).parts
        assert all(part not in (".", "..") and len(part.encode()) <= 255 for part in parts)
        assert re.fullmatch(r"[A-Za-z0-9_.+@()/-]+", place)


TEACHER = {
    "model": "m",
    "weights_sha256": "0" * 64,
    "top1": 1.0,
    "top5": 1.0,
    "claimed_top1": None,
    "unreliability": 0.0,
    "ambiguity": 0.0,
    "top_k": 1,
}
SIGNS = st.text(st.sampled_from("aZ0_.-+@() /\nä"), max_size=LONGEST_NAME + 4) | st.text(max_size=8)
NAMES = SIGNS | st.from_regex(names.NAME, fullmatch=True)
LABELS = SIGNS | st.from_regex(names.WRITTEN, fullmatch=True) | st.integers(1, 220).map("x".__mul__)
EXPRESSIONS = st.recursive(
    st.sampled_from([*SUMMANDS, "kd@t1-half", "none"]),
    lambda inner: (
        st.lists(inner, min_size=2, max_size=12).map("+".join)
        | inner.map("lskd({})".format)
        | inner.map("dot({})".format)
    ),
    max_leaves=40,
)


def accepted(text: str) -> Suite | None:
    """The suite of ``text``; None where it is refused, which takes one short sentence that names the file."""
    try:
        return parse_suite(text, "s.toml")
    except UserError as error:
        said = str(error)
    assert said.startswith("s.toml")
    assert len(said) < 600
    assert "\n" not in said
    return None


def quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


@settings(max_examples=40)
@given(LABELS, EXPRESSIONS)
def test_whatever_label_and_method_a_suite_may_have_can_be_recorded(label: str, method: str) -> None:
    text = suite_text(["ce", "kd"])
    for changed in (f"{text}label = {quoted(label)}", text.replace('"kd"', f'"{method}"\nstream = 3')):
        if suite := accepted(changed):
            for trial in trials(suite):
                recordable(trial)


@settings(max_examples=40)
@given(NAMES, NAMES, NAMES, NAMES)
def test_whatever_names_a_suite_may_have_can_be_recorded(name: str, teacher: str, half: str, other: str) -> None:
    text = suite_text(["ce", "kd"])
    for changed in (
        text.replace('"tiny"', quoted(name)),
        text.replace('"tutor"', quoted(teacher)).replace("tutor", quoted(teacher)),
        text.replace('student = "', f'name = {quoted(f"{half}:{other}")}\nstudent = "'),
    ):
        if suite := accepted(changed):
            for trial in trials(suite):
                recordable(trial)


def test_the_schemas_have_the_patterns_of_the_rule() -> None:
    fields = schema("record")["properties"]
    assert fields["label"]["pattern"] == fields["method"]["pattern"] == f"^{names.WRITTEN}$"
    assert fields["dataset"]["pattern"] == f"^{names.NAME}$"
    assert fields["teacher"]["properties"]["name"]["pattern"] == f"^{names.NAME}$"
    texts = (fields["detail"], fields["warnings"]["items"], fields["teacher"]["properties"]["source"])
    assert {text["maxLength"] for text in texts} == {LONGEST_TEXT}
    for kind, field in (("reported", "dataset"), ("reported", "source"), ("source", "source")):
        assert schema(kind)["properties"][field]["pattern"] == f"^{names.NAME}$"


@given(st.from_regex(names.PART, fullmatch=True), st.from_regex(names.NAME, fullmatch=True))
def test_the_schema_takes_every_suite_and_pair_of_the_rule(suite: str, half: str) -> None:
    fields = schema("record")["properties"]
    assert re.search(fields["suite"]["pattern"], f"{suite}@1")
    assert re.search(fields["pair"]["pattern"], f"{half}:{half}")


def test_every_committed_record_is_valid_under_names_of_the_rule() -> None:
    records, problems = Store(ROOT / "results").read()
    assert records
    assert problems == []
    for one in records:
        suite, _, version = one["suite"].partition("@")
        assert check_name("suite", suite, "here")
        assert version.isdigit()
        assert one["label"] == "teacher" or check_name("label", one["label"], "here")


def test_a_long_sum_is_recorded_and_a_longer_one_is_refused_in_one_sentence(
    cli: Cli,  # noqa: F811
    make_suite: Callable[[str], Suite],
) -> None:
    text = long_sum(LONGEST_WRITTEN)
    assert LONGEST_NAME < len(text) <= LONGEST_WRITTEN
    for trial in trials(make_suite(suite_text(["ce", "kd"])), methods=(text,)):
        recordable(trial)
    assert cli(*RUN, "--method", text, "--dry-run").code == 0
    ended = cli(*RUN, "--method", long_sum(LONGEST_WRITTEN + 40), "--dry-run")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "too long: a method is written in at most 200 characters" in ended.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("+".join(["kd"] * 65), "too many parts: at most 64"),
        ("a(" * 9 + "kd" + ")" * 9, "too deep: at most 8 wrappers"),
        ("kd" + "+kd" * 10**6, "too long"),
    ],
)
def test_the_limits_of_an_expression_are_said_before_anything_is_looked_up(
    text: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registry, "get", lambda *_: pytest.fail("looked up"))
    with pytest.raises(UserError, match=words) as caught:
        METHODS.resolve(text)
    assert len(str(caught.value)) < 250


def test_a_trained_teacher_in_an_imported_ones_place_has_a_name_that_can_be_recorded() -> None:
    imported = 'kind = "checkpoint"\nmodel = "tiny_cnn_s"\nfiles = ["x.pt"]'
    for length, fits in ((56, True), (57, False)):
        suite = parse_suite(suite_text(["kd"], teacher=imported).replace("tutor", "t" * length), "s.toml")
        if fits:
            for trial in trials(suite, train_teachers=True):
                recordable(trial)
        else:
            with pytest.raises(UserError, match=r"^--train-teachers: .* cannot name a teacher"):
                list(trials(suite, train_teachers=True))


def test_a_registered_method_called_teacher_is_no_row() -> None:
    """Its records would lie among those of the teachers' own trainings."""
    METHODS.add("teacher", replace(METHODS.get("kd"), name="teacher"), "test")
    with pytest.raises(UserError, match="--method: the label 'teacher' is kept for the teachers' own trainings"):
        expand(parse_suite(suite_text(), "s.toml"), Selection(methods=("teacher",)), "0" * 64)


@pytest.mark.parametrize("pair", ["none:a", "a:none"])
def test_a_pair_is_not_called_like_a_student_alone(pair: str) -> None:
    text = suite_text().replace('student = "', f'name = "{pair}"\nstudent = "')
    with pytest.raises(UserError, match=r"pairs\]\] 1: the pair 'none' is kept for students without a teacher"):
        parse_suite(text, "s.toml")


def test_a_text_that_no_record_has_room_for_is_refused() -> None:
    for length, fits in ((LONGEST_TEXT, True), (LONGEST_TEXT + 1, False)):
        text = suite_text().replace("seed = 100", f'seed = 100\nsource = "{"s" * length}"')
        if fits:
            for trial in trials(parse_suite(text, "s.toml")):
                recordable(trial)
        else:
            with pytest.raises(UserError, match=r"teachers.tutor\]: source has 4001 characters; a record takes 4000"):
                parse_suite(text, "s.toml")


def test_a_suite_is_offered_under_its_own_name() -> None:
    """Else two of them would keep their records in one folder."""
    SUITES.add("other", (suite_text(), "other.toml"), "test")
    with pytest.raises(UserError, match=r"^other.toml: its name is 'other' where it is offered"):
        get_suite("other")


def test_names_that_differ_in_case_alone_are_one_name_of_a_registry() -> None:
    with pytest.raises(UserError, match="the suite name 'digits' is already taken by kdbench"):
        SUITES.add("Digits", ("", ""), "test")
    with pytest.raises(UserError, match="the model name 'resnet20' is already taken by kdbench"):
        MODELS.add("ResNet20", MODELS.get("resnet20"), "test")


@given(st.lists(SIGNS | st.text(st.sampled_from("aAbB-0"), max_size=4), min_size=2, max_size=2, unique=True))
def test_no_two_names_meet_in_an_address_whatever_their_case(both: list[str]) -> None:
    one, other = (slug(name) for name in both)
    assert one.lower() != other.lower()


def test_labels_that_differ_in_case_alone_are_two_rows() -> None:
    suite = parse_suite(suite_text(["kd", {"name": "kd", "label": "KD", "stream": 1}]), "s.toml")
    assert {trial.label for trial in trials(suite)} == {"teacher", "kd", "KD"}


def test_a_name_that_reads_like_an_address_does_not_take_anothers() -> None:
    for name in ("KD", "a--b", "nul", "x" * 300):
        assert slug(slug(name)) != slug(name)


@pytest.mark.parametrize(
    ("noun", "good", "bad"),
    [
        ("method", "a.b-c_d", "a+b"),
        ("method", "7", "a@1"),
        ("preset", "t1-half", "half)"),
        ("suite", "cifar100-val", "a(b)"),
        ("label", "kd@t1-half+lskd(kd)", "kd@"),
        ("teacher", "resnet56+", "-x"),
        ("hyper-parameter", "lambda_", "a.b"),
        ("hyper-parameter", "_x", "1x"),
    ],
)
def test_what_each_noun_may_be_called(noun: str, good: str, bad: str) -> None:
    assert check_name(noun, good, "here") == good
    with pytest.raises(UserError, match=rf"^here: '{re.escape(bad)}' cannot name a {noun}; use 1 to "):
        check_name(noun, bad, "here")
