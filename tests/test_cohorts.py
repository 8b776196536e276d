"""Cohorts: who trains with whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from bench import suite_text
from hypothesis import given
from hypothesis import strategies as st
from test_trial import IMPORTED, PROTOCOL, TRAINED, TRIAL

from kdbench.plan.cohorts import cohorts
from kdbench.plan.expand import Selection, expand
from kdbench.suites import Suite
from kdbench.supervision.few_labels import FewLabels
from kdbench.trials.trial import teacher_identity

ALONE = replace(TRIAL, teacher=None, method="ce", config={}, label="ce")


def test_same_batches_and_same_teacher_train_together() -> None:
    (cohort,) = cohorts([TRIAL, replace(TRIAL, method="dkd"), replace(TRIAL, config={})])
    assert len(cohort.trials) == 3
    assert cohort.teacher == IMPORTED


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"stream": 1},
        {"protocol": replace(PROTOCOL, lr=0.1)},
        {"data_digest": "9" * 64},
        {"supervision": FewLabels(images=1)},
        {"student": "tiny_cnn_l"},
        {"teacher": TRAINED},
        {"teacher": replace(IMPORTED, weights_sha256="9" * 64)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_batches_or_another_teacher_train_apart(change: dict[str, object]) -> None:
    assert len(cohorts([TRIAL, replace(TRIAL, **change)])) == 2  # type: ignore[arg-type]


def test_a_trial_without_a_teacher_joins_one_with() -> None:
    made = cohorts([ALONE, replace(TRIAL, teacher=TRAINED), TRIAL])
    assert [len(cohort.trials) for cohort in made] == [2, 1]
    assert made[0].teacher == TRAINED
    (alone,) = cohorts([ALONE])
    assert alone.teacher is None


def test_one_teacher_under_two_names_is_one_cohort() -> None:
    assert len(cohorts([TRIAL, replace(TRIAL, method="dkd", teacher=replace(IMPORTED, name="u", url=""))])) == 1


def test_a_limit_splits_without_losing_anyone() -> None:
    trials = [replace(TRIAL, config={"temperature": float(t)}) for t in range(1, 8)]
    made = cohorts(trials, limit=3)
    assert [len(cohort.trials) for cohort in made] == [3, 3, 1]
    assert [trial for cohort in made for trial in cohort.trials] == trials


def test_the_id_follows_the_members() -> None:
    (one,), (other,) = cohorts([TRIAL]), cohorts([replace(TRIAL, label="renamed")])
    (another,) = cohorts([replace(TRIAL, seed=5)])
    assert one.id == other.id != another.id


def test_a_title_tells_cohorts_of_a_suite_apart(make_suite: Callable[[str], Suite]) -> None:
    rows = ["ce", "kd", {"name": "kd", "label": "kd-again", "stream": 1}]
    made = cohorts(expand(make_suite(suite_text(rows, seeds=[0, 1])), Selection(), "0" * 64))
    assert len(made) == len({cohort.title for cohort in made}) == 4


@given(st.data())
def test_every_trial_is_in_exactly_one_cohort_of_its_like(data: st.DataObject) -> None:
    trials = data.draw(
        st.lists(
            st.builds(
                replace,
                st.just(TRIAL),
                seed=st.integers(0, 2),
                teacher=st.sampled_from([None, IMPORTED, TRAINED]),
                method=st.sampled_from(["kd", "dkd"]),
                student=st.sampled_from(["tiny_cnn_s", "tiny_cnn_l"]),
            ),
            unique_by=lambda trial: trial.key,
            max_size=20,
        )
    )
    made = cohorts(trials, limit=data.draw(st.integers(1, 5)))
    assert sorted(t.key for cohort in made for t in cohort.trials) == sorted(t.key for t in trials)
    for cohort in made:
        assert len({(t.seed, t.student) for t in cohort.trials}) == 1
        teachers = [teacher_identity(t.teacher, "digits", "a" * 64) for t in cohort.trials if t.teacher]
        assert all(teacher == teachers[0] for teacher in teachers)
