"""Earlier generations of the student as its teacher: written, named by recipes, planned in order, trained once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bench import ROOT, TRAINED, Bench, made_foreign, suite_text
from test_cli import BUILD_AND_SAY, RUN, Cli, cli, trained  # noqa: F401

from kdbench import plugins
from kdbench.cli import site
from kdbench.errors import UserError
from kdbench.methods import METHODS
from kdbench.plan.cohorts import cohorts
from kdbench.plan.cost import cohort_seconds, teacher_seconds
from kdbench.plan.expand import Selection, expand
from kdbench.plan.fleet import cpu
from kdbench.plan.task import Task
from kdbench.plan.tasks import longest_chain, make_tasks
from kdbench.plugins import load_plugins
from kdbench.suites import Suite, parse_suite
from kdbench.trials.teacher import Teacher
from kdbench.trials.trial import teacher_identity, teacher_trial

MakeSuite = Callable[[str], Suite]
DATA = "a" * 64
SELF = 'kind = "self"\nmodel = "tiny_cnn_s"\nseed = 100\nprotocol = {epochs = 1}'


def generations(count: int, more: str = "", name: str = "tutor") -> Teacher:
    """The teacher of ``count`` generations as a suite has it."""
    text = suite_text(["kd"], teacher=f"{SELF}\ngenerations = {count}\n{more}").replace("tutor", name)
    return parse_suite(text, "s.toml").teachers[name]


def key(teacher: Teacher) -> str:
    return teacher_trial(teacher, "digits", DATA).key


def test_a_table_becomes_a_line_of_generations() -> None:
    last = generations(3, 'claimed_top1 = 70\nmethod = "kd@t1-half"\nconfig = {ce_weight = 0}')
    assert [(t.name, t.kind, t.seed, t.method, t.claimed_top1) for t in last.lineage] == [
        ("tutor-1", "self", 100, "ce", None),
        ("tutor-2", "self", 101, "kd", None),
        ("tutor", "self", 102, "kd", 70),
    ]
    assert [t.source for t in last.lineage] == [
        "generation 1, trained on the labels alone",
        "generation 2, trained by kd under tutor-1",
        "generation 3, trained by kd under tutor-2",
    ]
    assert last.config == {"ce_weight": 0.0, "kd_weight": 0.5, "temperature": 1.0}
    assert generations(2, 'source = "here"').source == "here"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("generations = 0", "generations must be at least 1"),
        ('method = "kd"', "method and config are those of generations after the first"),
        ("config = {}", "method and config are those of generations after the first"),
        ("mean = [0.5]", "kind self takes no 'mean'"),
        ('files = ["x.pt"]', "kind self takes no 'files'"),
        ('generations = 2\nmethod = "dk"', "no method named 'dk'"),
        ('generations = 2\nmethod = "ce"', "method 'ce' has no teacher"),
        ('generations = 2\nmethod = "simkd"', "method 'simkd' ends with more than the student"),
        ('generations = 2\nmethod = "ijckd"', "method 'ijckd' ends with more than the student"),
        ('generations = 2\nmethod = "ft"\nmodel = "vgg13"', "'ft' cannot train a generation: it needs feature maps"),
        ("generations = 2\nconfig = {temprature = 3}", "no hyper-parameter 'temprature'"),
        ("generations = 2\nsed = 1", "unknown field 'sed'"),
        ('generations = 2\nmethod = "dkd"\nsupervision = {kind = "few-labels", images = 5}', "'dkd' reads one label"),
        ("seed = 0", "tutor' and a student would both have the seed 0"),
        ("generations = 3\nseed = 4", "tutor' and a student would both have the seed 6"),
        ('model = "tiny_cnn_l"', "earlier generation of tiny_cnn_l and cannot teach tiny_cnn_s"),
    ],
)
def test_each_mistake_is_named(more: str, words: str) -> None:
    given = {line.split(" =")[0] for line in more.splitlines()}
    kept = [line for line in SELF.splitlines() if line.split(" =")[0] not in given]
    with pytest.raises(UserError, match=f"^s.toml.*{words}"):
        parse_suite(suite_text(["kd"], seeds=[0, 6], teacher="\n".join([*kept, more])), "s.toml")


@pytest.mark.parametrize("field", ["generations = 1", 'method = "kd"', "config = {}"])
def test_other_kinds_have_no_generations(field: str) -> None:
    with pytest.raises(UserError, match=rf"\[teachers.tutor\]: unknown field '{field.split()[0]}'"):
        parse_suite(suite_text(["kd"], teacher=f"{TRAINED}\n{field}"), "s.toml")


def test_a_name_too_long_for_its_generations_is_refused() -> None:
    with pytest.raises(UserError, match=r"teachers.t{63}\]: 't{63}-1' cannot name a teacher"):
        generations(2, name="t" * 63)
    assert generations(1, name="t" * 63).name == "t" * 63


def test_more_seeds_than_the_suite_has_stop_before_a_generations(make_suite: MakeSuite) -> None:
    suite = make_suite(suite_text(["kd"], seeds=[0], teacher=SELF.replace("100", "2")))
    assert len(expand(suite, Selection(seeds=2), DATA)) == 2
    with pytest.raises(UserError, match=r"^tiny@1: .* both have the seed 2, .*give the teacher a seed away"):
        expand(suite, Selection(seeds=3), DATA)


def under(more: str = "", made: str = TRAINED) -> Teacher:
    """A first generation that learns from another teacher."""
    teacher = f'{SELF}\nunder = "few"\n{more}\n\n[teachers.few]\n{made}'
    return parse_suite(suite_text(["kd"], teacher=teacher), "s.toml").teachers["tutor"]


def test_a_generation_may_learn_from_another_teacher() -> None:
    first = under('method = "kd"\nconfig = {ce_weight = 0}\nsupervision = {kind = "transfer-set", share = 0.5}')
    assert [(t.name, t.kind, t.method) for t in first.lineage] == [("few", "trained", "ce"), ("tutor", "self", "kd")]
    assert first.source == "generation 1, trained by kd under few"
    assert first.supervision.kind == "transfer-set"
    assert key(first) != key(generations(1))
    second = under("generations = 2")
    assert [(t.name, t.method, t.seed) for t in second.lineage] == [
        ("few", "ce", 100),
        ("tutor-1", "kd", 100),
        ("tutor", "kd", 101),
    ]
    with pytest.raises(UserError, match="'fitnet' needs stages, and 'few', of kind biased, has logits alone"):
        under('method = "fitnet"', f'kind = "biased"\nof = ["one"]\npunishment = 1.0\n[teachers.one]\n{TRAINED}')
    with pytest.raises(UserError, match="teacher 'nobody' is not under"):
        parse_suite(suite_text(["kd"], teacher=f'{SELF}\nunder = "nobody"'), "s.toml")


def test_the_first_generation_is_the_trained_teacher() -> None:
    plain = parse_suite(suite_text(["kd"]), "s.toml").teachers["tutor"]
    assert plain.kind == "trained"
    assert key(generations(1)) == key(plain)
    assert teacher_identity(generations(1), "digits", DATA) == teacher_identity(plain, "digits", DATA)


def test_a_generation_is_known_by_its_whole_line() -> None:
    two = generations(2)
    identity = teacher_trial(two, "digits", DATA).identity()
    assert identity["teacher"] == {"kind": "trained", "recipe": key(generations(1))}
    assert (identity["method"]["name"], identity["seed"]) == ("kd", 101)
    assert key(generations(2, name="other")) == key(two)
    assert generations(3).parent is not None
    assert key(generations(3).lineage[1]) == key(two)
    others = [
        generations(3),
        generations(2, "config = {temperature = 1.0}"),
        generations(2, 'method = "dkd"'),
        replace(two, plugin_sha256="d" * 64),
        replace(two, parent=replace(two.lineage[0], seed=99)),
    ]
    assert len({key(two), *map(key, others)}) == len(others) + 1


def test_the_key_of_a_second_generation_is_pinned() -> None:
    assert key(generations(2)) == "885d57399dd15e4a3081d0053c29bfb068f0c858c073997ba715eca460fc6eda"


def test_generations_survive_the_way_to_a_worker(bench: Bench, make_suite: MakeSuite) -> None:
    suite = make_suite(suite_text(["kd"], teacher=f"{SELF}\ngenerations = 3"))
    for task in bench.tasks(bench.trials(suite)):
        assert Task.from_json(task.to_json()) == task


def test_training_teachers_leaves_generations_as_they_are(make_suite: MakeSuite) -> None:
    suite = make_suite(suite_text(["kd"], teacher=f"{SELF}\ngenerations = 2"))
    assert expand(suite, Selection(train_teachers=True), DATA) == expand(suite, Selection(), DATA)


def test_a_plugins_source_is_in_the_key_of_the_generations_it_trains(bench: Bench, make_suite: MakeSuite) -> None:
    load_plugins([bench.plugin("mine", needs=["teacher"])])
    suite = make_suite(suite_text(["kd"], teacher=f'{SELF}\ngenerations = 2\nmethod = "mine"'))
    (before,) = expand(suite, Selection(), DATA)
    made_foreign(METHODS, "mine", "0" * 64)
    (after,) = expand(suite, Selection(), DATA)
    assert before.teacher is not None
    assert after.teacher is not None
    assert before.key != after.key
    assert [key(t) == key(u) for t, u in zip(before.teacher.lineage, after.teacher.lineage, strict=True)] == [
        True,
        False,
    ]


def several(*counts: int, seed: int = 100) -> str:
    """Further teachers of a suite, each with a pair of its own."""
    return "".join(
        f"[teachers.after{n}]\n{SELF.replace('100', str(seed))}\ngenerations = {n}\n"
        f'[[pairs]]\nteacher = "after{n}"\nstudent = "tiny_cnn_s"\nname = "after{n}:tiny_cnn_s"\n'
        for n in counts
    )


def test_generations_are_planned_one_after_the_other_and_common_ones_once(bench: Bench, make_suite: MakeSuite) -> None:
    trials = bench.trials(make_suite(suite_text(["ce", "kd"], extra=several(3, 1, 2))))
    tasks = make_tasks(cohorts(trials), bench.template(trials[0]), 40.0, cpu(2))
    teachers = [task for task in tasks if task.teacher]
    assert tasks[:3] == teachers, "the trained teacher is the first generation of the others"
    assert [len(task.teacher.lineage) for task in teachers if task.teacher] == [1, 2, 3]
    assert [task.after for task in teachers] == [(), (teachers[0].id,), (teachers[1].id,)]
    behind = {task.trials[0].pair: task.after for task in tasks[3:]}
    assert behind["after3:tiny_cnn_s"] == (teachers[2].id,)
    assert behind["after2:tiny_cnn_s"] == (teachers[1].id,)
    assert sorted(label for task in tasks[3:] for label in [t.label for t in task.trials]) == ["ce", *["kd"] * 3]


def test_a_plan_counts_every_generation(bench: Bench, make_suite: MakeSuite) -> None:
    trials = bench.trials(make_suite(suite_text(["kd"], teacher=f"{SELF}\ngenerations = 3")))
    (cohort,) = cohorts(trials)
    assert cohort.teacher is not None
    costs = [teacher_seconds(teacher, "digits", trials[0].data_digest, 40.0) for teacher in cohort.teacher.lineage]
    assert costs[2] == costs[1] > costs[0] > 0, "a later generation pays for its teacher's forward passes"
    tasks = make_tasks([cohort], bench.template(trials[0]), 40.0, cpu())
    assert longest_chain(tasks) == pytest.approx(sum(costs) + cohort_seconds(cohort, 40.0))
    assert longest_chain(tasks[:1]) == costs[0]
    assert longest_chain([]) == 0


def test_two_generations_from_plan_to_page_and_the_next_run(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(site, "build_and_say", BUILD_AND_SAY)
    make_suite(suite_text(["ce", "kd"], epochs=1, teacher=f"{SELF}\ngenerations = 2"))
    plan = cli(*RUN, "--dry-run").out
    assert re.search(r"teacher tutor-1 +about.*\n +teacher tutor +about.*\n.*ce, kd", plan)
    first = cli(*RUN)
    assert (first.code, first.err) == (0, "")
    assert re.search(r"teacher tutor-1: top-1 [0-9.]+\n", first.out)
    assert re.search(r"teacher tutor: top-1 [0-9.]+\n", first.out)
    records, problems = bench.store.read()
    assert not problems
    one, two = sorted((r for r in records if r["label"] == "teacher"), key=lambda r: r["seed"])
    student = bench.records()["kd"]
    assert [(r["method"], r["seed"], r["pair"]) for r in (one, two)] == [
        ("ce", 100, "none:tutor-1"),
        ("kd", 101, "tutor-1:tutor"),
    ]
    assert (one["teacher"], bench.records()["ce"]["teacher"]) == (None, None)
    assert [r["teacher"]["kind"] for r in (two, student)] == ["self", "self"]
    assert (two["identity"]["teacher"]["recipe"], student["identity"]["teacher"]["recipe"]) == (one["key"], two["key"])
    assert [r["teacher"]["top1"] for r in (two, student)] == [r["scores"]["last"]["top1"] for r in (one, two)]
    assert len({r["weights_sha256"] for r in (one, two, student)}) == 3
    (page,) = (bench.folder / "site" / "public" / "pairs").rglob("tiny_cnn_s--tiny_cnn_s.html")
    assert ">self<" in page.read_text()
    assert "generation 2, trained by kd under tutor-1" in page.read_text()

    labels = trained(monkeypatch)
    assert "2 trials, 2 recorded in results, 0 to train" in cli(*RUN).out
    assert labels == []


def test_generations_that_another_teacher_made_are_not_trained_again(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_suite(suite_text(["kd"], epochs=1))
    assert cli(*RUN).code == 0
    make_suite(suite_text(["kd"], name="after", epochs=1, extra=several(2, 1)))
    labels = trained(monkeypatch)
    assert cli("run", "--suite", "after", "--device", "cpu", "--slots", "1").code == 0
    assert labels.count("teacher") == 6, "one generation of one epoch"
    students = [r for r in bench.store.read()[0] if r["label"] == "kd"]
    assert {r["teacher"]["name"] for r in students} == {"tutor", "after2"}
    assert len(students) == 2, "the one that the first suite has trained, and the one under its second generation"


def test_a_first_generation_that_fails_is_the_reason_of_all_after_it(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
) -> None:
    text = SELF.replace("epochs = 1", "epochs = 1, lr = 1e30")
    make_suite(suite_text(["kd"], epochs=1, teacher=f"{text}\ngenerations = 3"))
    made = cli(*RUN)
    assert made.code == 3
    assert made.err.count("The teacher tutor-1 did not finish its training") == 1
    assert bench.records() == {}


def test_a_package_offers_a_teacher_that_pairs_name(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bench.install(teachers={"shared": "own_teachers:TEXT", "broken": "own_teachers:BROKEN"})
    (folder / "own_teachers.py").write_text(f"TEXT = {SELF!r}\nBROKEN = 'kind = '\n")
    monkeypatch.syspath_prepend(str(folder))
    plugins._loaded.clear()
    load_plugins()
    text = suite_text(["kd"])

    def suite(name: str, text: str = text) -> Suite:
        return parse_suite(text.replace('teacher = "tutor"', f'teacher = "{name}"'), "s.toml")

    shared = suite("shared").teachers["shared"]
    assert key(shared) == key(generations(1))
    assert "shared" not in suite("tutor").teachers
    assert suite("shared", text.replace("[teachers.tutor]", "[teachers.shared]")).teachers["shared"].kind == "trained"
    with pytest.raises(UserError, match=r"^plugin kdbench-test: own_teachers:BROKEN: not valid TOML"):
        suite("broken")
    with pytest.raises(UserError, match=r"'shred' is not under \[teachers\]; there are broken, shared, tutor"):
        suite("shred")


def test_the_example_in_the_documentation_is_what_it_says() -> None:
    (example,) = re.findall(
        r"```toml\n(\[teachers\.first\].*?)```", Path(ROOT / "docs/suites.md").read_text(), re.DOTALL
    )
    head = suite_text().partition("[teachers.tutor]")[0]
    suite = parse_suite(head + example, "s.toml")
    first, second = suite.teachers["first"], suite.teachers["second"]
    assert key(second.lineage[0]) == key(first)
    assert second.config == {"ce_weight": 0.0, "kd_weight": 1.0, "temperature": 1.0}
    assert [row.label for row in suite.rows] == ["ban", "ban-l"]
