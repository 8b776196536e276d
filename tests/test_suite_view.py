"""What the pages of suites, pairs, rows and teachers say of the records that come with kdbench."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import render_records as rr

from kdbench.records import Store
from kdbench.render.address import row_page, suite_page
from kdbench.render.answers import answers
from kdbench.render.catalogue import Catalogue, outdated, own_names
from kdbench.render.rows import row_pages
from kdbench.render.site import build, gather
from kdbench.render.suiteview import suite_view
from kdbench.render.teachers import Teachers, teachers
from kdbench.shipped import shipped


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return gather(Store(shipped("results")))


@pytest.fixture(scope="module")
def taught(catalogue: Catalogue) -> Teachers:
    return teachers(catalogue)


def test_a_row_that_learned_nothing_and_a_seed_under_another_teacher_say_so(catalogue: Catalogue) -> None:
    def badges(suite: str, label: str) -> list[str]:
        lines = [line for table in catalogue.tables_of(suite) for line in table.lines if line.cell.label == label]
        return [text for line in lines for _, text in line.badges]

    assert "no better than chance" in badges("digits@1", "cat_kd")
    assert "no better than chance" not in badges("digits@1", "kd")
    assert "seed 0 under another training of the teacher" in badges("study-ttm@1", "wttm-g0.25-b1")
    assert not any("another training" in text for text in badges("study-ttm@1", "wttm-g1-b1"))
    assert not any("another training" in text for text in badges("digits@1", "kd")), "it ran under both"


def test_students_of_labels_of_their_own_make_no_row_incomplete(catalogue: Catalogue) -> None:
    view = suite_view(catalogue, "study-biased-teachers@1")
    assert [table.pair for table in view.others] == ["none:resnet8"]
    (row,) = [row for row in view.rows if row.label == "kd-alone"]
    assert row.covered == view.planned == len(view.tables)
    assert row.standing is not None


def test_a_trial_counts_once_and_all_of_a_suite_count(catalogue: Catalogue) -> None:
    for name in ("digits@1", "study-biased-teachers@1"):
        rows = [record for record in catalogue.measured if record["suite"] == name]
        view = suite_view(catalogue, name)
        assert view.trials == len({record["key"] for record in rows})
        assert view.trials + view.again == view.recorded == len(rows)
    assert suite_view(catalogue, "digits@1").again > 0, "or this could not be told"
    assert suite_view(catalogue, "study-biased-teachers@1").trials == 63, "those of no planned pair, too"


def test_a_cost_counts_that_was_measured_while_hyper_parameters_were_chosen(catalogue: Catalogue) -> None:
    views = {name: suite_view(catalogue, name) for name in catalogue.suites}
    answer = answers(catalogue, views)["cifar100", "resnet56", "resnet20"]
    (dist,) = [option for option in answer.options if option.evidence.label == "dist"]
    assert dist.cost is not None
    assert 0.9 < dist.cost.middle < 1.3
    assert not any(
        m.suite.startswith("study-ttm-tuned-rung") for option in answer.options for m in option.evidence.measured
    )


def test_an_error_that_authors_print_is_their_word(catalogue: Catalogue) -> None:
    answer = answers(catalogue, {name: suite_view(catalogue, name) for name in catalogue.suites})
    (ofd,) = [o for o in answer["imagenet", "resnet50", "mobilenetv1"].options if o.evidence.label == "ofd"]
    assert ofd.evidence.grade == "authors"
    assert ofd.evidence.gain == pytest.approx(2.38)


def test_rows_over_a_student_alone_of_their_own_follow_those_that_share_one(catalogue: Catalogue) -> None:
    rows = suite_view(catalogue, "study-hinton@2").rows
    apart = [row.standing is None for row in rows if row.covered == rows[0].covered]
    assert True in apart, "or this could not be told"
    assert apart == sorted(apart)


def test_as_many_rows_may_be_the_best_on_the_page_of_a_pair_as_of_its_suite(catalogue: Catalogue) -> None:
    views = {name: suite_view(catalogue, name) for name in catalogue.suites}
    found = [verdict for answer in answers(catalogue, views).values() for verdict in answer.suites]
    assert any(len(verdict.best) == 1 < verdict.tied for verdict in found), "or this could not be told"
    for verdict in found:
        first = {row.label for row in verdict.standings.rows if row.rank[0] == 1}
        assert verdict.tied == len(first)
        assert {measured.standing.label for _, measured in verdict.best} <= first


@pytest.mark.parametrize(
    ("pair", "models", "named"),
    [
        ("resnet56:resnet20", ("resnet56", "resnet20"), ("resnet56", "resnet20")),
        ("none:resnet20", ("resnet20",), ("none", "resnet20")),
        ("good:resnet8", ("resnet14", "resnet8"), ("good@mine", "resnet8")),
        ("resnet18:tiny", ("timm/resnet18", "tiny_vit"), ("resnet18", "tiny@mine")),
        ("resnet56:resnet18", ("resnet56", "resnet18_cifar"), ("resnet56", "resnet18")),
        ("human:resnet8", ("labels", "resnet8"), ("human", "resnet8")),
    ],
)
def test_a_name_that_is_no_models_is_its_suites_own(pair: str, models: tuple[str, ...], named: tuple[str, str]) -> None:
    assert own_names("mine@3", pair, models, printed=("human",)) == named


def test_two_teachers_of_one_name_share_no_page(catalogue: Catalogue) -> None:
    good = [pair for pair in catalogue.pairs if pair[1].startswith("good@")]
    assert good == [
        ("fashion_mnist", "good@study-biased-teachers", "resnet8"),
        ("fashion_mnist", "good@study-ijckd", "resnet8"),
    ]
    for pair in good:
        assert {table.suite.partition("@")[0] for table in catalogue.measured_by_pair[pair]} == {
            pair[1].partition("@")[2]
        }


def test_settings_are_evidence_where_a_method_ran_in_nothing_else_and_old_versions_are_none(
    catalogue: Catalogue,
) -> None:
    pair = ("mnist", "mlp_1200_1200_dropout", "mlp_300_300")
    assert [table.suite for table in catalogue.measured_by_pair[pair]] == ["study-hinton@2", "study-hinton@1"]
    answer = answers(catalogue, {name: suite_view(catalogue, name) for name in catalogue.suites})[pair]
    assert [verdict.table.suite for verdict in answer.suites] == ["study-hinton@2"]
    labels = [option.evidence.label for option in answer.options]
    assert {"kd-t1", "kd-t20"} <= set(labels)
    assert {option.evidence.method for option in answer.options} == {"kd"}
    assert {m.suite for option in answer.options for m in option.evidence.measured} == {"study-hinton@2"}
    assert all(option.cost is not None and not option.elsewhere for option in answer.options)


def test_every_teacher_leads_to_what_trained_it(catalogue: Catalogue, taught: Teachers) -> None:
    kinds = {}
    for teacher in taught.every:
        kinds.setdefault(teacher.facts["kind"], []).append(teacher)
    assert {"trained", "self", "ensemble", "biased"} <= set(kinds)
    for teacher in (*kinds["trained"], *kinds["self"]):
        (own, *_) = teacher.trainings
        assert {attempt.record["key"] for attempt in own.attempts} == {teacher.identity["recipe"]}
        assert any(attempt.record["scores"]["last"]["top1"] == teacher.facts["top1"] for attempt in own.attempts), (
            teacher.page
        )
    for teacher in kinds["ensemble"]:
        found = {training.attempts[0].record["key"] for training in teacher.trainings}
        assert found >= {part["recipe"] for part in teacher.identity["parts"]}
    (few,) = (teacher for teacher in taught.every if teacher.facts["name"] == "few-2")
    assert [training.name for training in few.trainings] == ["few-2", "few-1"], "its own teacher, too"
    assert len({teacher.page for teacher in taught.every}) == len(taught.every)


def test_a_student_that_teaches_leads_to_its_own_training() -> None:
    first = rr.record("kd", file="v1/x.json")
    plain = rr.record("dkd", "mine:resnet8")
    identity = {**plain["identity"], "teacher": {"kind": "checkpoint", "weights_sha256": first["weights_sha256"]}}
    facts = {**plain["teacher"], "kind": "student", "name": "mine"}
    second = rr.record("dkd", "mine:resnet8", identity=identity, teacher=facts)
    found = teachers(Catalogue([first, second], [], rr.FEW, 2)).of(second)
    assert found is not None
    (training,) = found.trainings
    assert training.name == "kd on resnet56:resnet20 in cifar100-short@1"
    assert [attempt.record["key"] for attempt in training.attempts] == [first["key"]]


@pytest.mark.parametrize("parts", [3, None, "abc", ["a"], {"a": 1}, [None, 1]])
def test_whatever_others_write_of_a_teacher_is_read(parts: object) -> None:
    for identity in ({"kind": "ensemble", "parts": parts}, {"kind": "trained", "recipe": parts}):
        plain = rr.record("dkd")
        record = rr.record("dkd", identity={**plain["identity"], "teacher": identity}, evidence="contributed")
        found = teachers(Catalogue([record], [], rr.FEW, 1)).of(record)
        assert found is not None
        assert found.contributed
        assert found.trainings == ()


def test_a_long_line_of_teachers_is_followed_to_its_end() -> None:
    made = []
    for at in range(1500):
        identity = {**rr.record()["identity"], "seed": at, "teacher": {"kind": "trained", "recipe": f"{at - 1}"}}
        made.append({**rr.record("kd", "a:b", identity=identity), "key": f"{at}", "label": "teacher"})
    student = rr.record("dkd", identity={**rr.record()["identity"], "teacher": {"kind": "trained", "recipe": "1499"}})
    found = teachers(Catalogue([student], [], rr.FEW, 1501, trainings=made)).of(student)
    assert found is not None
    assert len(found.trainings) == 1500


def test_what_others_say_of_a_teacher_is_not_what_was_measured() -> None:
    ours = rr.record("kd")
    facts = {**ours["teacher"], "top1": 99.99, "degrees": [], "source": "elsewhere"}
    theirs = rr.record("dkd", teacher=facts, evidence="contributed")
    found = teachers(Catalogue([theirs, ours], [], rr.FEW, 2))
    (teacher,) = found.every
    assert (teacher.facts["top1"], teacher.contributed) == (72.63, False)
    assert [count for _, count in teacher.tables] == [1]


def test_a_later_version_that_has_nothing_hides_nothing() -> None:
    old = [rr.record(method, pair, seed) for method, pair in (("ce", "none:resnet20"), ("kd", "resnet56:resnet20"))
           for seed in range(2)]  # fmt: skip
    for later in ({"status": "diverged", "detail": "lost"}, {"evidence": "contributed"}):
        new = rr.record("kd", suite="cifar100-short@7", seed=3, **later)
        tables = Catalogue([*old, new], [], rr.FEW, 5).measured_by_pair["cifar100", "resnet56", "resnet20"]
        assert outdated(tables) == frozenset()


def test_what_others_call_a_teacher_does_not_rename_ours() -> None:
    ours = rr.record("kd", "five:resnet20", suite="digits@1", teacher_model="resnet56")
    theirs = rr.record("dkd", "five:resnet20", suite="digits@1", teacher_model="five", evidence="contributed")
    catalogue = Catalogue([ours, theirs], [], rr.FEW, 2)
    assert ("cifar100", "five@digits", "resnet20") in catalogue.measured_by_pair
    assert own_names("evil@1", "five@zoo:resnet20", ("five@zoo", "resnet20")) == ("five@zoo@evil", "resnet20")


def test_a_record_is_of_the_teacher_that_it_names(catalogue: Catalogue, taught: Teachers) -> None:
    for record in catalogue.records:
        teacher = taught.of(record)
        assert (teacher is None) == (record["teacher"] is None)
        if teacher is not None:
            assert teacher.facts.items() >= {k: v for k, v in record["teacher"].items() if k != "degrees"}.items()
            assert teacher.identity == record["identity"]["teacher"]
    assert sum(count for teacher in taught.every for _, count in teacher.tables) == sum(
        record["teacher"] is not None for record in catalogue.records
    )


def test_a_trial_of_a_study_says_what_the_study_reads_of_it(catalogue: Catalogue) -> None:
    view = suite_view(catalogue, "study-ijckd@1")
    (page,) = (p for p in row_pages(catalogue, view.name, view.tables, view.others, True) if p.label == "ijckd")
    attempt = page.sections[0].attempts[0]
    said = dict(attempt.measures)
    features = attempt.record["diagnostics"]["features"]
    assert said["divergence of the features (0 to 2)"] == f"{features['h_divergence']:.3f}"
    assert said["entropy of the output (nats)"] == f"{attempt.record['scores']['last']['entropy']:.4f}"
    assert said["the teacher's accuracy (points)"] == f"{attempt.record['teacher']['top1']:.2f}"
    (plain, *_) = row_pages(catalogue, view.name, view.tables)
    assert plain.sections[0].attempts[0].measures == ()


def test_a_setting_that_differs_within_a_pair_names_the_row(catalogue: Catalogue) -> None:
    view = suite_view(catalogue, "study-hinton@2")
    settings = dict(view.protocol)
    (mixed,) = (values for name, values in settings.items() if name == "supervision.share")
    said = {value: where for value, where in mixed}
    assert all("kd-t4-3-percent on " in where or "ce-3-percent on " in where for where in said["0.03"])


def test_a_step_of_choosing_hyper_parameters_ranks_nothing_and_speaks_of_no_gain(tmp_path: Path) -> None:
    store, rung = Store(tmp_path / "results"), "study-ttm-tuned-rung-1@1"
    for number in range(3):
        rr.put(store, 0.5 + 0.01 * number, "kd", seed=number, images=50, label=f"kd-{number}", suite=rung)
    build(store.root, tmp_path / "out")
    page = (tmp_path / "out" / suite_page(rung)).read_text(encoding="utf-8")
    heads = [re.sub("<[^>]*>", "", head) for head in re.findall('<th scope="col".*?</th>', page)[:3]]
    assert [head.partition(" ")[0] for head in heads] == ["Method", "Cost", "Pairs"]
    assert "beside the student alone" not in page
    assert "★" not in page
    assert 'id="matrix"' not in page
    method = (tmp_path / "out" / "methods" / "kd.html").read_text(encoding="utf-8")
    assert f'3 configurations in <a href="../{suite_page(rung)}">' in method
    assert 'data-label="Gain"' not in method.partition('id="reported"')[0]
    assert ">Rank " not in (tmp_path / "out" / row_page(rung, "kd-1")).read_text(encoding="utf-8")
    index = re.sub("<[^>]*>", "", (tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert "Chooses hyper-parameters for study-ttm-tuned: no evidence of a method." in index
    assert "No gain over the student alone" not in index


def test_without_a_student_alone_a_suite_has_ranks_and_no_gains(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    for seed in range(3):
        for method, accuracy in (("kd", 0.5), ("dkd", 0.7)):
            rr.put(store, accuracy, method, seed=seed, images=50)
    build(store.root, tmp_path / "out")
    page = (tmp_path / "out" / suite_page("cifar100-short@1")).read_text(encoding="utf-8")
    assert 'data-label="Rank"' in page
    assert 'data-label="Mean gain"' not in page
    assert "so no gain is known." in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
