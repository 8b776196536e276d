"""Suites: every shipped one parses, every mistake in a file names the file and the field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from bench import suite_text

from kdbench.errors import UnknownName, UserError
from kdbench.plan.expand import Selection, expand
from kdbench.suites import SUITES, Suite, get_suite, parse_suite

#: It compares rows of one method, with no student alone to gain on.
PRECISION = "precision"
#: What compares no methods: those rows, and each row with what it was before a change.
OTHERS = (PRECISION, "gate")


@pytest.mark.parametrize("name", list(SUITES))
def test_a_shipped_suite_is_sound(name: str) -> None:
    suite = get_suite(name)
    assert suite.name == name
    assert suite.pairs
    assert suite.id == f"{name}@{suite.version}"
    trials = expand(suite, Selection(), dict.fromkeys(suite.datasets, "0" * 64))
    students = {(pair.student, repr(pair.protocol)) for pair in suite.pairs}
    assert {trial.label for trial in trials} == {row.label for row in suite.rows}, "a row is the same trial as another"
    alone = {(t.student, repr(t.protocol)) for t in trials if t.teacher is None and t.method == "ce"}
    assert students <= alone or name in OTHERS, "a pair without its student alone has no gain to show"


@pytest.mark.parametrize("name", [name for name in SUITES if name not in OTHERS])
def test_a_shipped_suite_has_a_row_that_measures_noise(name: str) -> None:
    suite = get_suite(name)
    streams = [row for row in suite.rows if row.stream]
    assert streams
    for row in streams:
        assert any((r.method, r.config, r.stream) == (row.method, row.config, 0) for r in suite.rows)


def test_the_rows_of_precision_differ_in_how_they_are_computed_alone() -> None:
    suite = get_suite(PRECISION)
    trials = [trial for trial in expand(suite, Selection(), "0" * 64) if trial.seed == 0]
    assert {trial.protocol.precision for trial in trials} == {"float32", "bf16"}
    how = {"precision": "float32", "fold": False, "compile": "none"}
    first, *others = [replace(t, label="", protocol=replace(t.protocol, **how)) for t in trials]
    assert others
    assert all(other == first for other in others)


def test_parses_what_is_written(make_suite: Callable[[str], Suite]) -> None:
    rows = ["ce", {"name": "kd", "label": "hot", "config": {"temperature": 8}, "stream": 2}]
    suite = make_suite(suite_text(rows, seeds=[3, 1], epochs=5))
    assert (suite.id, suite.dataset, suite.seeds, suite.short) == ("tiny@1", "digits", (3, 1), False)
    assert [(r.label, r.method, dict(r.config), r.stream) for r in suite.rows] == [
        ("ce", "ce", {}, 0),
        ("hot", "kd", {"temperature": 8}, 2),
    ]
    (pair,) = suite.pairs
    assert (pair.name, pair.teacher, pair.student) == ("tiny_cnn_s:tiny_cnn_s", "tutor", "tiny_cnn_s")
    tutor = suite.teachers["tutor"]
    assert tutor.protocol is not None
    assert (tutor.kind, tutor.seed, tutor.protocol.epochs, tutor.protocol.batch) == ("trained", 100, 1, 200)
    assert pair.protocol == suite.protocol
    assert get_suite("tiny@1") == get_suite("tiny") == suite


def test_a_pair_can_change_the_protocol() -> None:
    text = suite_text(
        extra='[[pairs]]\nteacher = "tutor"\nstudent = "tiny_cnn_l"\nname = "a:b"\nprotocol = {lr = 0.01}'
    )
    suite = parse_suite(text, "s.toml")
    assert [pair.protocol.lr for pair in suite.pairs] == [0.1, 0.01]
    assert suite.pairs[1].name == "a:b"


def test_a_version_that_is_not_at_hand(make_suite: Callable[[str], Suite]) -> None:
    make_suite(suite_text())
    with pytest.raises(UserError, match="Suite 'tiny' is at version 1 here, not 2; ask for tiny@1"):
        get_suite("tiny@2")


def test_an_unknown_suite_lists_the_nearest() -> None:
    with pytest.raises(UnknownName, match="no suite named 'digit'; the nearest are digits"):
        get_suite("digit")


def test_a_broken_suite_hides_no_other(make_suite: Callable[[str], Suite]) -> None:
    SUITES.add("broken", ("name = x", "broken.toml"), "test")
    assert make_suite(suite_text()).name == "tiny"
    with pytest.raises(UserError, match=r"^broken.toml: not valid TOML: .*line 1"):
        get_suite("broken")


GOOD = suite_text()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version = 1", "version = ", r"not valid TOML: .*line 3"),
        ("version = 1", "", "'version' is missing"),
        ("version = 1", "version = 1.5", "version must be an int"),
        ("version = 1", "version = true", "version must be an int"),
        ("version = 1", "version = 0", "version must be at least 1"),
        ("version = 1", "version = 1\ncolour = 3", "unknown field 'colour'"),
        ('title = "Tiny"', "title = 3", "title must be a str"),
        ('name = "tiny"', 'name = "../tiny"', "cannot name a suite"),
        ('name = "tiny"', 'name = "tiny+"', "cannot name a suite"),
        ('"digits"', '"digit"', "no data set named 'digit'; the nearest are digits"),
        ("seeds = [0]", "seeds = []", "seeds must be"),
        ("seeds = [0]", "seeds = [0, 0]", "seeds must be"),
        ("seeds = [0]", "seeds = [-1]", "seeds must be"),
        ("seeds = [0]", "seeds = [true]", "seeds must be"),
        ("seeds = [0]", "seeds = 3", "seeds must be a list"),
        ("seeds = [0]", "seeds = [0]\nnotes = [1]", "notes must be"),
        ("epochs = 2", "epochs = 0", r"\[protocol\]: epochs must be at least 1"),
        ("lr = 0.1", "lr = nan", r"\[protocol\]: lr must be a finite number"),
        ("epochs = 2", "epoch = 2", r"\[protocol\]: there is no protocol field 'epoch'"),
        (
            'kind = "trained"',
            'kind = "bought"',
            r"tutor\]: kind must be trained, checkpoint, student, self, biased, ensemble, labels or specialists",
        ),
        ('kind = "trained"', 'kind = "checkpoint"', r"\[teachers.tutor\]"),
        ('model = "tiny_cnn_s"', 'model = "tiny_cnn"', "no model named 'tiny_cnn'; the nearest are tiny_cnn_"),
        ("seed = 100", 'seed = "x"', r"\[teachers.tutor\]: seed must be an int"),
        ("seed = 100", "mean = [0.5, 0.5]", r"\[teachers.tutor\]: mean and std need 1 number"),
        ("seed = 100", 'mean = ["x"]', r"\[teachers.tutor\]: mean"),
        ("seed = 100", "std = [0.0]", r"\[teachers.tutor\]: .*std"),
        ("seed = 100", 'url = "http://a"', r"\[teachers.tutor\]: url must begin with https"),
        ("seed = 100", 'files = ["../x.pt"]', r"\[teachers.tutor\]: files must be"),
        ("seed = 100", 'files = [""]', r"\[teachers.tutor\]: files must be"),
        ("seed = 100", "files = [1]", r"\[teachers.tutor\]: files must be"),
        ("seed = 100", "claimed_top1 = 150", r"\[teachers.tutor\]: claimed_top1"),
        ("seed = 100", "seed = -1", r"\[teachers.tutor\]: seed must be at least 0"),
        ("seed = 100", "depth = 3", r"\[teachers.tutor\]: unknown field 'depth'"),
        ("[teachers.tutor]", "[teachers]\ntutor = 3\n[teachers.other]", "must be a table"),
        ("[teachers.tutor]", '[teachers."a b"]', "cannot name a teacher"),
        ('teacher = "tutor"', 'teacher = "tuter"', r"\[\[pairs\]\] 1: teacher 'tuter' is not under \[teachers\]"),
        ('student = "tiny_cnn_s"', 'student = "tiny_cnn_x"', "no model named 'tiny_cnn_x'; the nearest are tiny_cnn_"),
        ('student = "tiny_cnn_s"', 'student = "tiny_cnn_s"\nname = "alone"', r"\[\[pairs\]\] 1: .*teacher:student"),
        ('student = "tiny_cnn_s"', 'student = "tiny_cnn_s"\nname = "a:b:c"', r"\[\[pairs\]\] 1: .*teacher:student"),
        ('student = "tiny_cnn_s"', 'student = "tiny_cnn_s"\nname = "a b:c"', "cannot name a pair"),
        ('[[pairs]]\nteacher = "tutor"\nstudent = "tiny_cnn_s"', "pairs = [1]", "must be a table"),
        ('name = "kd"', 'name = "dk"', "no method named 'dk'; the nearest are"),
        ('name = "kd"', 'name = "kd"\nlabel = "a/b"', r"\[\[methods\]\] 2: .*cannot name a label"),
        ('name = "kd"', 'name = "kd"\nstream = -1', r"\[\[methods\]\] 2: stream must be at least 0"),
        ('name = "kd"', 'name = "kd"\nlabel = "ce"', "the label 'ce' occurs twice"),
        ('name = "kd"', 'name = "kd"\nlabel = "teacher"', r"\[\[methods\]\] 2: .*'teacher'"),
        (
            'name = "kd"',
            'name = "kd"\nconfig = {temprature = 3}',
            r"methods\]\] 2: .*no hyper-parameter 'temprature'",
        ),
        ('name = "kd"', 'name = "kd"\nconfig = {temperature = 0}', r"\[\[methods\]\] 2: temperature must lie in"),
    ],
)
def test_each_mistake_names_the_file_and_the_field(old: str, new: str, words: str) -> None:
    assert old in GOOD
    before, _, after = GOOD.partition(old)
    if old.startswith("[[pairs]]"):
        before, after = f"{new}\n{before}", after.replace(f"{new}\n", "")
        new = ""
    with pytest.raises(UserError, match=f"(?s)^s.toml.*{words}"):
        parse_suite(before + new + after, "s.toml")


def test_doubled_pairs_are_refused() -> None:
    pair = '\n[[pairs]]\nteacher = "tutor"\nstudent = "tiny_cnn_s"\n'
    with pytest.raises(UserError, match=r"^s.toml: the pair 'tiny_cnn_s:tiny_cnn_s' occurs twice"):
        parse_suite(suite_text(extra=pair), "s.toml")


def test_rows_that_are_one_trial_are_refused() -> None:
    """A second label for the same method, config and stream would train nothing and vanish from the table."""
    with pytest.raises(UserError, match=r"^s.toml: .*'kd' and 'twin'"):
        parse_suite(suite_text(["ce", "kd", {"name": "kd", "label": "twin"}]), "s.toml")


@pytest.mark.parametrize("name", ["./three.toml", "three.toml", "suites/three.toml"])
def test_a_file_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(UserError, match=r"three\.toml: there is no such file"):
        get_suite(name)
