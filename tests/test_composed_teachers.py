"""Teachers made of other teachers: read, named, planned after their parts, and trained under."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from bench import ROOT, TRAINED, Bench, same_bits, suite_text
from render_records import record
from test_cli import BUILD_AND_SAY, RUN, Cli, cli  # noqa: F401
from test_composition import told
from torch import Tensor

from kdbench.cli import main, site
from kdbench.composition import COMPOSITIONS
from kdbench.composition.biased import Biased
from kdbench.composition.ensemble import Ensemble
from kdbench.composition.specialists import Specialists
from kdbench.data import load
from kdbench.errors import UserError
from kdbench.jobs import cohort as cohort_job
from kdbench.jobs.worker import run
from kdbench.kinds import check_kind
from kdbench.models.composed import Composed, Told
from kdbench.plan.cohorts import cohorts
from kdbench.plan.cost import cohort_seconds, teacher_seconds
from kdbench.plan.expand import Selection, expand, inapplicable
from kdbench.plan.fleet import cpu
from kdbench.plan.task import Task
from kdbench.plan.tasks import make_tasks
from kdbench.render.measured import table
from kdbench.stats.aggregate import cells
from kdbench.suites import Suite, parse_suite
from kdbench.supervision import Truth
from kdbench.supervision.few_labels import FewLabels
from kdbench.teachers.facts import TeacherFacts, TeacherShelf
from kdbench.teachers.ready import ready_teacher
from kdbench.train.device import numerics
from kdbench.trials.teacher import Teacher
from kdbench.trials.trial import teacher_identity, teacher_trial

MakeSuite = Callable[[str], Suite]
CPU = torch.device("cpu")
DATA = "a" * 64
THREE = 'kind = "ensemble"\nof = ["one"]\nseeds = [100, 101, 102]'
BIASED = 'kind = "biased"\nof = ["one"]\ntop_k = 2\npunishment = 0.8\ncompensation = 1'
TWO = THREE.replace(", 102", "")
SPECIALISTS = 'kind = "specialists"\nof = ["one"]\ncount = 3\nprotocol = {epochs = 1, lr = 0.02}'


def text(teacher: str, methods: Any = ("kd",), more: str = "", **fields: Any) -> str:
    """A suite whose pair has a ``teacher`` made of ``one``, which is trained."""
    return suite_text(methods, teacher=teacher, extra=f"[teachers.one]\n{TRAINED}\n{more}", epochs=1, **fields)


def tutor(teacher: str, more: str = "") -> Teacher:
    return parse_suite(text(teacher, more=more), "s.toml").teachers["tutor"]


# Suites


def test_a_table_becomes_a_teacher_and_its_parts() -> None:
    three = tutor(THREE)
    assert (three.kind, three.model, three.composition) == ("ensemble", "tiny_cnn_s", Ensemble())
    assert [(part.name, part.kind, part.seed) for part in three.parts] == [
        ("one", "trained", 100),
        ("one-101", "trained", 101),
        ("one-102", "trained", 102),
    ]
    assert three.source == "ensemble of one, one-101, one-102"
    assert [each.name for each in three.lineage] == ["one", "one-101", "one-102", "tutor"]
    other = '[teachers.other]\nkind = "trained"\nmodel = "tiny_cnn_m"'
    mixed = tutor('kind = "ensemble"\nof = ["one", "other"]\nmean = "geometric"\nsource = "here"', other)
    assert (mixed.model, mixed.source) == ("tiny_cnn_s+tiny_cnn_m", "here")
    whole = tutor('kind = "biased"\nof = ["three"]\npunishment = 0.5', f"[teachers.three]\n{THREE}")
    assert [each.name for each in whole.lineage] == ["one", "one-101", "one-102", "three", "tutor"]
    special = tutor(SPECIALISTS)
    assert special.protocol is not None
    assert special.parts[0].protocol is not None
    assert (special.protocol.epochs, special.protocol.lr, special.protocol.batch) == (1, 0.02, 200)
    assert not special.trained


def test_a_pair_under_it_is_called_as_it_is_and_has_nobodys_printed_values() -> None:
    (pair,) = parse_suite(text(THREE), "s.toml").pairs
    assert pair.name == "tutor:tiny_cnn_s"


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ('kind = "ensemble"', "'of' is missing"),
        ('kind = "ensemble"\nof = []', "made of 1 to 64 teachers, not 0"),
        ('kind = "ensemble"\nof = ["one", "one"]', "of must be a list of different names"),
        ('kind = "ensemble"\nof = ["two"]', "teacher 'two' is not under"),
        ('kind = "ensemble"\nof = ["tutor"]', "teacher 'tutor' is made of itself"),
        ('kind = "ensemble"\nof = ["one"]\nseeds = [1, 1]', "seeds must be a list of different whole numbers"),
        ('kind = "ensemble"\nof = ["one"]\nmean = "harmonic"', "mean must be one of arithmetic, geometric"),
        ('kind = "ensemble"\nof = ["one"]\nmodel = "resnet20"', "ensemble has no field 'model'; it has mean"),
        ('kind = "biased"\nof = ["one"]', "it changes nothing; give one of random_labels"),
        (
            'kind = "biased"\nof = ["one"]\npunishment = 2',
            r"punishment is a share of the images and must lie in \[0, 1\]",
        ),
        ('kind = "biased"\nof = ["one"]\nseeds = [1, 2]\nnoise = 0.1', "made of 1 teachers, not 2"),
        ('kind = "specialists"\nof = ["one"]', "count must be at least 1"),
        ('kind = "specialists"\nof = ["one"]\ncount = 2\nprotocol = {epocs = 1}', "no protocol field 'epocs'"),
        (
            'kind = "ensemble"\nof = ["one"]\nseeds = [0, 5]',
            "a part of teacher 'tutor' and a student would both have the seed 0",
        ),
        (
            'kind = "specialist"\nof = ["one"]',
            "kind must be trained, checkpoint, student, self, biased, ensemble, labels or specialists",
        ),
    ],
)
def test_each_mistake_is_named(teacher: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^s.toml.*{words}"):
        parse_suite(text(teacher), "s.toml")


def test_what_is_made_of_networks_is_not_made_of_ensembles_and_seeds_are_of_trainings() -> None:
    three = f"[teachers.three]\n{THREE}"
    with pytest.raises(UserError, match="is made of networks, and 'three' is of kind ensemble"):
        parse_suite(text(SPECIALISTS.replace("one", "three"), more=three), "s.toml")
    with pytest.raises(
        UserError, match="seeds are those that teachers are trained with, and 'three' is of kind ensemble"
    ):
        parse_suite(text('kind = "ensemble"\nof = ["three"]\nseeds = [1]', more=three), "s.toml")


def test_teachers_do_not_grow_without_bound() -> None:
    def table(name: str, *of: str) -> str:
        return f'[teachers.{name}]\nkind = "ensemble"\nof = {list(of)}\n'.replace("'", '"')

    deep = "".join(table(f"t{n}", f"t{n - 1}") for n in range(1, 2000))
    with pytest.raises(UserError, match="is a part of parts more than 8 deep"):
        parse_suite(text(TRAINED, more=deep + table("t0", "one")), "s.toml")
    some = [f"b{n}" for n in range(16)]
    wide = "".join(table(name, "one") for name in some) + table("all", *some)
    assert len(parse_suite(text(TRAINED, more=wide), "s.toml").teachers["all"].lineage) == 33
    more = [f"c{n}" for n in range(8)]
    with pytest.raises(UserError, match=r"\[teachers.whole\]: it is made of 272 teachers in all, and 256 is the most"):
        parse_suite(text(TRAINED, more=wide + "".join(table(n, "all") for n in more) + table("whole", *more)), "s.toml")


def test_features_are_not_to_be_had() -> None:
    suite = parse_suite(text(THREE, ["ce", "kd", "fitnet", "simkd", "uskd"]), "s.toml")
    reasons = {label: reason for label, _, reason in inapplicable(suite, Selection())}
    assert reasons == {
        "fitnet": "it needs stages, and a teacher of kind ensemble has logits alone",
        "simkd": "it needs pooled_map, stages, teacher_head, and a teacher of kind ensemble has logits alone",
    }


# Identity


def identity(teacher: Teacher) -> dict[str, Any]:
    return teacher_identity(teacher, "digits", DATA)


def test_it_is_known_by_its_kind_and_by_its_parts_whatever_they_are_called() -> None:
    three = tutor(THREE)
    recipes = [teacher_trial(part, "digits", DATA).key for part in three.parts]
    assert identity(three) == {
        "kind": "ensemble",
        "version": 1,
        "mean": "arithmetic",
        "parts": [{"kind": "trained", "recipe": recipe} for recipe in recipes],
    }
    renamed = replace(three, name="x", source="", parts=tuple(replace(part, name="y") for part in three.parts))
    assert identity(renamed) == identity(three)
    special = tutor(SPECIALISTS)
    assert identity(special)["protocol"]["lr"] == 0.02
    found = [
        identity(each)
        for each in (
            three,
            replace(three, parts=three.parts[:2]),
            replace(three, composition=Ensemble(mean="geometric")),
            replace(three, plugin_sha256="d" * 64),
            tutor(BIASED),
            tutor(f"{BIASED}\nseed = 1"),
            special,
            replace(special, seed=1),
            tutor(SPECIALISTS.replace("epochs = 1", "epochs = 2")),
        )
    ]
    assert len({str(each) for each in found}) == len(found)


def test_the_key_of_a_student_of_an_ensemble_is_pinned() -> None:
    (trial,) = expand(parse_suite(text(THREE), "s.toml"), Selection(), DATA)
    assert trial.key == KEY


KEY = "544e59080cbed5880ea62c814658ece2fd6e25f87ab664f4d92ddf515ca5908e"


def test_training_teachers_and_pins_reach_the_parts() -> None:
    from kdbench.plan.expand import pinned

    imported = '[teachers.two]\nkind = "checkpoint"\nmodel = "tiny_cnn_m"\nfiles = ["own.pt"]'
    suite = parse_suite(text('kind = "ensemble"\nof = ["one", "two"]', more=imported), "s.toml")
    (trial,) = expand(suite, Selection(train_teachers=True), DATA)
    assert trial.teacher is not None
    assert [(part.name, part.kind) for part in trial.teacher.parts] == [("one", "trained"), ("two-trained", "trained")]
    found = pinned(suite.teachers["tutor"], {"two": "9" * 64})
    assert found.parts[1].weights_sha256 == "9" * 64


# Plans and trainings


def test_parts_are_planned_once_and_before_what_is_made_of_them(bench: Bench, make_suite: MakeSuite) -> None:
    pair = '[[pairs]]\nteacher = "{0}"\nstudent = "tiny_cnn_s"\n'
    more = f"[teachers.bad]\n{BIASED}\n" + pair.format("bad") + pair.format("one")
    trials = bench.trials(make_suite(text(THREE, ["ce", "kd"], more)))
    tasks = make_tasks(cohorts(trials), bench.template(trials[0]), 40.0, cpu(2))
    teachers = {task.teacher.name: task for task in tasks if task.teacher}
    assert {*teachers} == {"one", "one-101", "one-102", "tutor", "bad"}
    assert len([task for task in tasks if task.teacher]) == 5
    assert teachers["tutor"].after == tuple(teachers[name].id for name in ("one", "one-101", "one-102"))
    assert teachers["bad"].after == (teachers["one"].id,)
    places = [task.id for task in tasks]
    assert all(places.index(before) < places.index(task.id) for task in tasks for before in task.after)
    students = {trial.pair: task.after for task in tasks for trial in task.trials}
    assert students["tutor:tiny_cnn_s"] == (teachers["tutor"].id,)
    for task in tasks:
        assert Task.from_json(task.to_json()) == task


def test_a_plan_counts_what_each_part_says_and_what_specialists_train() -> None:
    def seconds(teacher: str) -> float:
        return teacher_seconds(tutor(teacher), "digits", DATA, 40.0)

    def students(teacher: str) -> float:
        (cohort,) = cohorts(expand(parse_suite(text(teacher), "s.toml"), Selection(), DATA))
        return cohort_seconds(cohort, 40.0)

    one = students('kind = "ensemble"\nof = ["one"]')
    three = students(THREE)
    alone = students(TRAINED.replace("seed = 100", "seed = 99"))
    assert three - one == pytest.approx(2 * (students(THREE.replace("[100, 101, 102]", "[100, 101]")) - one))
    assert one == pytest.approx(alone)
    assert seconds(THREE) < seconds(SPECIALISTS) / 10


def shelf(bench: Bench, teacher: Teacher, digest: str) -> TeacherShelf:
    return TeacherShelf(bench.folder / "cache", teacher, "digits", digest, numerics(CPU))


def ready(bench: Bench, suite: Suite) -> tuple[Teacher, TeacherShelf, TeacherFacts]:
    (trial,) = bench.trials(suite, "kd")
    assert trial.teacher is not None
    place = shelf(bench, trial.teacher, trial.data_digest)
    facts = place.facts()
    assert facts is not None
    return trial.teacher, place, facts


@pytest.mark.parametrize("kind", [TWO, BIASED, SPECIALISTS], ids=["ensemble", "biased", "specialists"])
def test_each_kind_from_plan_to_record(bench: Bench, make_suite: MakeSuite, kind: str) -> None:
    suite = make_suite(text(kind))
    record = bench.train(bench.trials(suite))["kd"]
    teacher, place, facts = ready(bench, suite)
    section = record["teacher"]
    assert (record["status"], section["kind"], section["name"]) == ("finished", teacher.kind, "tutor")
    assert section["top1"] == facts.top1
    assert section["weights_sha256"] == facts.weights_sha256
    assert record["identity"]["teacher"] == teacher_identity(teacher, "digits", record["identity"]["data"]["sha256"])
    assert record["scores"]["last"]["agreement"] is not None
    trained = [found["seed"] for found in bench.store.read()[0] if found["label"] == "teacher"]
    assert sorted(trained) == sorted({part.seed for part in teacher.parts})
    dataset = load("digits", bench.folder / "data")
    found = ready_teacher(place, teacher, dataset, CPU)
    assert isinstance(found.network, Composed)
    found.network.study(dataset.test_labels, np.arange(500), "test")
    x = (
        torch.from_numpy(np.array(dataset.test_images[:250]))
        .float()
        .div(255)
        .contiguous(memory_format=torch.channels_last)
    )
    with torch.no_grad():
        now = found.network(x, index=torch.arange(250)).logits
    assert torch.equal(now, found.logits[:250]), "what was measured is what teaches"
    before = {path: path.stat().st_mtime_ns for path in place.folder.rglob("*") if path.is_file()}
    bench.events.clear()
    again = bench.again("again")
    other = again.train(again.trials(suite))["kd"]
    assert same_bits(record, other)
    bench.train(bench.trials(suite))
    assert {path: path.stat().st_mtime_ns for path in place.folder.rglob("*") if path.is_file()} == before


def test_an_ensemble_of_equals_teaches_as_its_member_does(bench: Bench, make_suite: MakeSuite) -> None:
    """One member, its probabilities' logarithms as logits: the same probabilities, so nearly the same training."""
    alone = make_suite(text(TRAINED.replace("seed = 100", "seed = 100"), name="alone"))
    made = make_suite(text('kind = "ensemble"\nof = ["one"]', name="made"))
    one, other = bench.train(bench.trials(alone))["kd"], bench.again("other").train(bench.trials(made))["kd"]
    assert one["key"] != other["key"]
    assert one["teacher"]["top1"] == other["teacher"]["top1"]
    for name, value in one["curve"][0]["losses"].items():
        assert other["curve"][0]["losses"][name] == pytest.approx(value, rel=1e-3)


def test_a_teacher_knows_the_images_that_its_students_see(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their true labels, whatever the students are told, and their places in the whole training set."""
    seen: dict[str, list[Told]] = {"train": [], "test": []}
    speak = Biased.speak

    def watched(self: Biased, said: Any, known: Told) -> Tensor:
        seen[known.split].append(known)
        return speak(self, said, known)

    monkeypatch.setattr(Biased, "speak", watched)
    noisy = {"name": "kd", "label": "noisy", "supervision": {"kind": "noisy-labels", "rate": 0.5}}
    no3 = {"name": "kd", "label": "no3", "supervision": {"kind": "transfer-set", "without": [3]}}
    suite = make_suite(text('kind = "biased"\nof = ["one"]\npunishment = 1.0', [noisy, no3]))
    bench.train(bench.trials(suite))
    dataset = load("digits", bench.folder / "data")
    for split, labels in (("train", dataset.train_labels), ("test", dataset.test_labels)):
        assert seen[split]
        for known in seen[split]:
            assert np.array_equal(known.labels.numpy(), labels[known.places.numpy()])
    whole = [known for known in seen["train"] if 3 in known.labels]
    assert 0 < len(whole) < len(seen["train"])
    trial, *_ = bench.trials(suite, "noisy")
    assert trial.teacher is not None
    facts = shelf(bench, trial.teacher, trial.data_digest).facts()
    assert facts is not None
    assert facts.top1 == 0, "who is always punished where he is right is never right"


@pytest.mark.parametrize("teacher", [TWO, BIASED], ids=["ensemble", "biased"])
def test_what_is_remembered_of_it_gives_the_same_bits(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch, teacher: str
) -> None:
    still = suite_text(["kd"], teacher=teacher, extra=f"[teachers.one]\n{TRAINED}").replace('"crop"', '"none"')
    suite = make_suite(still)
    record = bench.train(bench.trials(suite))["kd"]
    assert any("keeping the teacher's outputs" in str(event.get("text")) for event in bench.events)
    monkeypatch.setattr(cohort_job, "remember", lambda *arguments: None)
    other = bench.again("other")
    assert same_bits(record, other.train(other.trials(suite))["kd"])


def test_a_part_that_changed_makes_it_measured_anew(bench: Bench, make_suite: MakeSuite) -> None:
    suite = make_suite(text(THREE))
    trials = bench.trials(suite)
    bench.train(trials)
    teacher, place, facts = ready(bench, suite)
    place.finish(replace(facts, weights_sha256="0" * 64), np.zeros((500, 10), np.float32))
    dataset = load("digits", bench.folder / "data")
    with pytest.raises(UserError, match="is not made of the weights that were measured; start the run again"):
        ready_teacher(place, teacher, dataset, CPU)
    task = replace(bench.template(trials[0]), teacher=teacher)
    run(task, bench.events.append)
    assert place.facts() == facts
    (place.of(teacher.parts[1]).folder / "facts.json").unlink()
    with pytest.raises(UserError, match="The teacher one-101 is not ready"):
        run(task, bench.events.append)


def test_specialists_that_were_kept_are_not_trained_again(bench: Bench, make_suite: MakeSuite) -> None:
    suite = make_suite(text(SPECIALISTS))
    trials = bench.trials(suite)
    bench.train(trials)
    teacher, place, facts = ready(bench, suite)
    files = sorted(path.name for path in place.folder.glob("specialist-*"))
    assert 1 <= len(files) <= 3
    (place.folder / files[-1]).write_bytes(b"")
    bench.events.clear()
    run(replace(bench.template(trials[0]), teacher=teacher), bench.events.append)
    notes = [event["text"] for event in bench.events if event["event"] == "note"]
    assert [note.split(";")[0] for note in notes] == [f"training specialist {len(files)} of {len(files)}"]
    assert place.facts() == facts, "the same bits"


def test_an_ensemble_computes_as_the_protocol_says(bench: Bench, make_suite: MakeSuite) -> None:
    plain = text(THREE)
    folded = plain.replace("holdout = 97", 'holdout = 97\nfold = true\nprecision = "bf16"').replace("tiny", "folded", 1)
    record = bench.train(bench.trials(make_suite(folded)))["kd"]
    assert record["status"] == "finished"


def test_the_kinds_are_registered_and_described() -> None:
    assert set(COMPOSITIONS) == {"ensemble", "biased", "specialists", "labels"}
    for name in COMPOSITIONS:
        kind = COMPOSITIONS.get(name)
        assert kind.SUMMARY
        assert kind.SOURCE.startswith("arXiv:")
    assert COMPOSITIONS.get("biased").RECONSTRUCTION
    assert not Specialists.RECONSTRUCTION
    assert str(Ensemble(mean="geometric")) == "ensemble mean geometric"
    assert str(Ensemble()) == "ensemble"


def test_the_kinds_of_the_page_work_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "teachers.md").read_text(encoding="utf-8")
    module = ModuleType("page_kinds")
    monkeypatch.setitem(sys.modules, "page_kinds", module)  # where dataclasses look for what annotations mean
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], vars(module))
    surest, first = check_kind(module.Surest, "page"), check_kind(module.FirstImages, "page")
    said = [torch.tensor([[1.0, 0.0], [5.0, 0.0]]), torch.tensor([[0.0, 3.0], [0.0, 1.0]])]
    assert torch.equal(surest(scale=2.0).speak(said, told([0, 0])), torch.tensor([[0.0, 6.0], [10.0, 0.0]]))
    truth = Truth(np.array([1, 5, 2, 9]), np.arange(10), 10, ROOT)
    assert list(first(images=4).lesson(truth).labels) == [1, 2]
    assert first(images=0).problem()
    suites = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    pairs = parse_suite(suite_text(["kd"], extra=suites[0]), "s").pairs
    assert [pair.name for pair in pairs] == ["tiny_cnn_s:tiny_cnn_s", "five:resnet20"]
    people = parse_suite(suite_text(["kd"], extra=suites[1]), "s").teachers["people"]
    assert (people.kind, people.parts) == ("labels", ())
    top, row = suites[2].split("\n", 1)
    suite = parse_suite(suite_text(["ce"], extra=row).replace("seeds =", f"{top}\nseeds ="), "s")
    assert [row.supervision for row in suite.rows] == [None, FewLabels(images=25)]


def test_a_suite_says_what_its_teachers_are_made_of(capsys: pytest.CaptureFixture[str], make_suite: MakeSuite) -> None:
    table = SPECIALISTS.replace("epochs = 1, lr", "epochs = 4, lr")
    suite = text(table, ["ce", {"name": "kd", "supervision": {"kind": "few-labels", "images": 5}}])
    make_suite(suite.replace("seeds =", 'supervision = {kind = "transfer-set", without = [3]}\nseeds ='))
    assert main(["show", "suite", "tiny"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "tutor: tiny_cnn_s, specialists count 3 of one; seed 0; epochs = 4, lr = 0.02" in lines
    assert "supervision  transfer-set without [3]" in lines
    assert "kd: few-labels images 5" in lines
    assert "trials       2 of students, 1 of teachers" in lines


def test_a_page_says_which_rows_were_shown_something_else() -> None:
    records = [record("kd"), record("dkd"), record("kd", label="few")]
    few = FewLabels(images=5).identity()
    records[2]["identity"] = {**records[2]["identity"], "supervision": few}
    found = cells(records)
    badges = {line.cell.label: dict(line.badges) for line in table(found, ("d", "t", "s"), "last", frozenset()).lines}
    assert badges["few"]["warn"] == "supervision: few-labels: images 5, seed 0"
    assert badges["kd"] == badges["dkd"] == {}


def test_an_ensemble_and_a_transfer_set_from_plan_to_page_and_the_next_run(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(site, "build_and_say", BUILD_AND_SAY)
    no3 = {"name": "kd", "label": "no3", "supervision": {"kind": "transfer-set", "without": [3]}}
    make_suite(text(TWO, ["ce", "kd", no3, "fitnet"]))
    plan = cli(*RUN, "--dry-run").out
    assert "fitnet is not applicable to tutor:tiny_cnn_s: it needs stages, and a teacher of kind ensemble" in plan
    assert re.search(r"teacher one +about.*\n +teacher one-101 +about.*\n +teacher tutor +about", plan)
    first = cli(*RUN)
    assert (first.code, first.err) == (0, "")
    records, problems = bench.store.read()
    assert not problems
    assert sorted((r["label"], r["seed"]) for r in records) == [
        ("ce", 0),
        ("kd", 0),
        ("no3", 0),
        ("teacher", 100),
        ("teacher", 101),
    ]
    kd, no3_ = bench.records()["kd"], bench.records()["no3"]
    assert (kd["teacher"]["kind"], kd["teacher_model"]) == ("ensemble", "tiny_cnn_s")
    assert kd["identity"]["teacher"] == no3_["identity"]["teacher"]
    assert kd["weights_sha256"] != no3_["weights_sha256"]
    assert "3 recorded" in cli(*RUN, "--dry-run").out
