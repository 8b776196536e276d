"""From a suite and filters to trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from bench import made_foreign, suite_text

from kdbench.errors import UnknownName, UserError
from kdbench.methods import METHODS
from kdbench.plan.cohorts import cohorts
from kdbench.plan.expand import Selection, chosen_pairs, chosen_rows, chosen_seeds, expand, with_pairs
from kdbench.suites import PAIRS, Suite
from kdbench.trials.trial import Trial

TWO_PAIRS = """
[teachers.other]
kind = "checkpoint"
model = "tiny_cnn_l"
files = ["x.pt"]
[[pairs]]
teacher = "other"
student = "tiny_cnn_s"
name = "other:tiny_cnn_s"
"""


@pytest.fixture
def suite(make_suite: Callable[[str], Suite]) -> Suite:
    rows = ["ce", "kd", "fitnet", {"name": "kd", "label": "kd-again", "stream": 1}]
    return make_suite(suite_text(rows, seeds=[4, 7], extra=TWO_PAIRS))


def names(trials: list[Trial]) -> list[tuple[str, str, int]]:
    return [(trial.pair, trial.label, trial.seed) for trial in trials]


def test_every_pair_row_and_seed_once_and_the_student_alone_once_for_all_pairs(suite: Suite) -> None:
    trials = expand(suite, Selection(), "0" * 64)
    assert len({trial.key for trial in trials}) == len(trials) == 2 + 2 * 3 * 2
    assert [n for n in names(trials) if n[1] == "ce"] == [("none:tiny_cnn_s", "ce", 4), ("none:tiny_cnn_s", "ce", 7)]
    assert {t.stream for t in trials if t.label == "kd-again"} == {1}


def test_filters(suite: Suite) -> None:
    chosen = Selection(pairs=("other:*",), methods=("kd*",), seeds=1)
    assert names(expand(suite, chosen, "0" * 64)) == [
        ("other:tiny_cnn_s", "kd", 4),
        ("other:tiny_cnn_s", "kd-again", 4),
    ]
    assert expand(suite, Selection(pairs=("*", "other:*")), "0" * 64) == expand(suite, Selection(), "0" * 64)


def test_a_registered_method_outside_the_suite_is_added_by_its_exact_name(suite: Suite) -> None:
    rows, added = chosen_rows(suite, ["kd", "dist"])
    assert ([row.label for row in rows], added) == (["kd", "dist"], ["dist"])


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (
            Selection(methods=("fitnt",)),
            "no method or row of suite tiny@1 named 'fitnt'; the nearest are fitnet",
        ),
        (Selection(methods=("kd", "dis*")), "no method .* named 'dis"),
    ],
)
def test_a_filter_that_matches_nothing_lists_the_nearest(suite: Suite, selection: Selection, words: str) -> None:
    with pytest.raises(UnknownName, match=words):
        expand(suite, selection, "0" * 64)


def test_a_pair_that_no_suite_has_lists_the_nearest_of_all(suite: Suite) -> None:
    other = replace(suite, name="second", pairs=(replace(suite.pairs[0], name="much:another"),))
    assert with_pairs([suite, other], ["much:*", "other:*"]) == ([suite, other], [])
    for globs, words in (
        (["othr:tiny_cnn_s"], "no pair in tiny@1 or second@1 .*; the nearest are other:"),
        (["mch:another"], "the nearest are much:another"),
    ):
        with pytest.raises(UnknownName, match=words):
            with_pairs([suite, other], globs)


def test_a_registered_pair_is_added_by_its_exact_name(suite: Suite) -> None:
    text = 'teacher = "tutor"\nstudent = "tiny_cnn_l"\nname = "tutor:large"\nprotocol = { epochs = 3 }'
    PAIRS.add("larger", (text, "larger.toml"), "test")
    (grown,), added = with_pairs([suite], ["larger", "other:*"])
    assert added == ["larger"]
    chosen = chosen_pairs(grown, ["larger", "other:*"])
    assert [pair.name for pair in chosen][-1] == "tutor:large"
    assert chosen[-1].protocol == replace(suite.protocol, epochs=3)
    assert {t.student for t in expand(grown, Selection(pairs=("larger",)), "0" * 64)} == {"tiny_cnn_l"}
    PAIRS.add("lost", ('teacher = "nobody"\nstudent = "tiny_cnn_l"', "lost.toml"), "test")
    with pytest.raises(UserError, match=r"lost.toml: teacher 'nobody' is not under \[teachers\]"):
        with_pairs([suite], ["lost"])


def test_a_pair_of_another_data_set_has_its_images_and_its_own_normalisation(
    make_suite: Callable[[str], Suite],
) -> None:
    text = (
        suite_text(["ce", "kd"])
        + """
[[pairs]]
dataset = "mnist"
teacher = "tutor"
student = "tiny_cnn_s"
"""
    )
    suite = make_suite(text)
    assert suite.datasets == ("digits", "mnist")
    trials = expand(suite, Selection(), {"digits": "1" * 64, "mnist": "2" * 64})
    assert [(t.dataset, t.data_digest[0], t.label, t.seed) for t in trials if t.seed == trials[0].seed] == [
        ("digits", "1", "ce", trials[0].seed), ("digits", "1", "kd", trials[0].seed),
        ("mnist", "2", "ce", trials[0].seed), ("mnist", "2", "kd", trials[0].seed),
    ]  # fmt: skip
    taught = [t for t in trials if t.label == "kd" and t.seed == trials[0].seed]
    assert [t.teacher.normalisation.mean for t in taught if t.teacher] == [(0.3057,), (0.1307,)]
    assert [t.normalisation.mean for t in taught] == [(0.3057,), (0.1307,)]
    assert len({t.key for t in trials}) == len(trials)


def test_more_seeds_than_the_suite_has_go_on_from_its_last(suite: Suite) -> None:
    assert chosen_seeds(suite, None) == (4, 7)
    assert chosen_seeds(suite, 1) == (4,)
    assert chosen_seeds(suite, 4) == (4, 7, 8, 9)
    assert chosen_seeds(replace(suite, seeds=(7, 4)), 3) == (7, 4, 8)
    with pytest.raises(UserError, match="--seeds must be at least 1, not 0"):
        chosen_seeds(suite, 0)


def test_a_pin_goes_into_the_keys_of_that_teachers_students_only(suite: Suite) -> None:
    before = {names([t])[0]: t.key for t in expand(suite, Selection(), "0" * 64, {"other": "1" * 64})}
    after = {names([t])[0]: t.key for t in expand(suite, Selection(), "0" * 64, {"other": "2" * 64, "tutor": "3" * 64})}
    assert {name[0] for name in before if before[name] != after[name]} == {"other:tiny_cnn_s"}


def test_a_digest_that_the_suite_pins_is_not_overruled(make_suite: Callable[[str], Suite]) -> None:
    text = suite_text(
        ["kd"], teacher=f'kind = "checkpoint"\nmodel = "tiny_cnn_s"\nfiles = ["x"]\nweights_sha256 = "{"1" * 64}"'
    )
    (trial,) = expand(make_suite(text), Selection(), "0" * 64, {"tutor": "2" * 64})
    assert trial.teacher is not None
    assert trial.teacher.weights_sha256 == "1" * 64


def test_a_plugins_source_is_in_the_keys_of_its_method_only(suite: Suite) -> None:
    chosen = Selection(methods=("*", "dkd+fitnet", "dkd+rkd"), seeds=1)
    plain = {t.label: t for t in expand(suite, chosen, "0" * 64)}
    made_foreign(METHODS, "fitnet", "f" * 64)
    edited = {t.label: t for t in expand(suite, chosen, "0" * 64)}
    assert {label for label in plain if plain[label].key != edited[label].key} == {"fitnet", "dkd+fitnet"}


def test_hyper_parameters_printed_for_a_pair_are_used_for_it(make_suite: Callable[[str], Suite]) -> None:
    card = METHODS.get("dkd")
    pair = next(p for p in card.pairs if card.pairs[p] != {k: card.hyperparameters[k].default for k in card.pairs[p]})
    (usual,) = expand(make_suite(suite_text(["dkd"])), Selection(), "0" * 64)
    text = suite_text(["dkd"], name="other").replace('student = "', f'name = "{pair}"\nstudent = "')
    (printed,) = expand(make_suite(text), Selection(), "0" * 64)
    assert {k: printed.config[k] for k in card.pairs[pair]} == card.pairs[pair]
    assert printed.key != usual.key


def test_trained_instead_of_imported_teachers_are_other_teachers(suite: Suite) -> None:
    imported = {t.pair: t.teacher for t in expand(suite, Selection(methods=("kd",)), "0" * 64)}
    trained = {t.pair: t.teacher for t in expand(suite, Selection(methods=("kd",), train_teachers=True), "0" * 64)}
    assert trained["tiny_cnn_s:tiny_cnn_s"] == imported["tiny_cnn_s:tiny_cnn_s"]
    tutor = trained["other:tiny_cnn_s"]
    assert tutor is not None
    assert (tutor.kind, tutor.name, tutor.protocol, tutor.files) == ("trained", "other-trained", suite.protocol, ())


def test_a_row_may_train_longer_than_the_others(make_suite: Callable[[str], Suite]) -> None:
    longer = {"name": "kd", "label": "kd-long", "protocol": {"epochs": 4, "lr": 0.05}}
    trials = expand(make_suite(suite_text(["ce", "kd", longer])), Selection(), "0" * 64)
    by_label = {trial.label: trial for trial in trials}
    assert [by_label[label].protocol.epochs for label in ("ce", "kd", "kd-long")] == [2, 2, 4]
    assert by_label["kd-long"].protocol == replace(by_label["kd"].protocol, epochs=4, lr=0.05)
    assert by_label["kd-long"].key != by_label["kd"].key
    assert len(cohorts(trials)) == 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"name": "kd", "protocol": {"epoch": 4}}, r"\[\[methods\]\] 1 protocol: there is no protocol field 'epoch'"),
        ({"name": "kd", "protocol": {"holdout": 1297}}, "holdout must be less than the 1297 training images"),
        ({"name": "kd@t0"}, r"\[\[methods\]\] 1: method 'kd' has no preset 't0'"),
    ],
)
def test_a_mistake_in_a_row_names_it(make_suite: Callable[[str], Suite], row: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_suite(suite_text([row]))
