"""Supervision: which images a student sees, with which labels, the same on every machine; and what losses see."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import Bench, suite_text
from torch.nn import functional as F

from kdbench.data import DATASETS, load
from kdbench.errors import DataError, UserError
from kdbench.methods import METHODS
from kdbench.methods.base import Step
from kdbench.models.outputs import Outputs
from kdbench.plan.cost import trial_seconds
from kdbench.plan.expand import Selection, expand, inapplicable
from kdbench.plan.task import Task
from kdbench.protocol import Protocol
from kdbench.suites import Suite, parse_suite
from kdbench.supervision import FULL, NO_LABEL, SUPERVISIONS, Lesson, Supervision, Truth
from kdbench.supervision.few_labels import FewLabels
from kdbench.supervision.noisy_labels import NoisyLabels
from kdbench.supervision.partial_labels import PartialLabels
from kdbench.supervision.transfer_set import TransferSet
from kdbench.train.batches import Batches
from kdbench.train.conformance import make_bench

MakeSuite = Callable[[str], Suite]
CPU = torch.device("cpu")
LABELS = np.arange(600) % 10
#: One of each kind, as a suite may have it.
SOME = {
    "transfer-set": TransferSet(without=(3,), share=0.25, seed=1),
    "few-labels": FewLabels(images=7, seed=1),
    "noisy-labels": NoisyLabels(rate=0.3, seed=1),
    "partial-labels": PartialLabels(ambiguity=0.2, unreliability=0.1, seed=1),
}


def truth(places: Any = None, root: Path = Path()) -> Truth:
    chosen = np.arange(600) if places is None else np.asarray(places)
    return Truth(chosen, LABELS, 10, root)


def sha256(made: Supervision) -> str:
    lesson = made.lesson(truth())
    parts = [lesson.places, lesson.labels, *([] if lesson.candidates is None else [lesson.candidates])]
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()[:16]


def test_every_kind_that_draws_is_tried_here() -> None:
    assert {*SOME, "full"} == set(SUPERVISIONS)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("transfer-set", "bb4f1c27f8329f59"),
        ("few-labels", "bec67d5410173115"),
        ("noisy-labels", "aa8fce5e6adae836"),
        ("partial-labels", "0515498039f41bbc"),
    ],
)
def test_what_is_drawn_is_the_same_on_every_machine(kind: str, wanted: str) -> None:
    assert sha256(SOME[kind]) == wanted
    assert sha256(replace(SOME[kind], seed=2)) != wanted  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", ["noisy-labels", "partial-labels"])
def test_an_image_is_drawn_for_by_its_place_whatever_else_is_held_out(kind: str) -> None:
    whole, part = SOME[kind].lesson(truth()), SOME[kind].lesson(truth(range(50, 600, 3)))
    at = part.places
    assert np.array_equal(part.labels, whole.labels[at])
    if whole.candidates is not None and part.candidates is not None:
        assert np.array_equal(part.candidates, whole.candidates[at])


def test_every_label_is_what_it_was() -> None:
    lesson = FULL.lesson(truth([3, 5, 13]))
    assert (list(lesson.places), list(lesson.labels), lesson.candidates) == ([3, 5, 13], [3, 5, 3], None)
    assert FULL.identity() == "full", "it is in the key of every older record"


def test_a_transfer_set_leaves_classes_out_and_takes_a_share_of_each() -> None:
    seen = TransferSet(classes=(7, 8)).lesson(truth())
    assert set(seen.labels) == {7, 8}
    assert np.array_equal(seen.labels, LABELS[seen.places])
    assert len(seen.places) == 120
    fourth = SOME["transfer-set"].lesson(truth())
    assert list(np.bincount(fourth.labels, minlength=10)) == [15, 15, 15, 0, *[15] * 6]
    assert np.array_equal(fourth.places, np.sort(fourth.places))
    few = TransferSet(share=0.03).lesson(truth())
    assert len(few.places) == 18, "three per cent of six hundred, however they fall on the classes"
    assert set(np.bincount(few.labels, minlength=10)) == {1, 2}


def test_a_few_labels_are_so_many_of_each_class() -> None:
    lesson = SOME["few-labels"].lesson(truth())
    given = lesson.labels != NO_LABEL
    assert len(lesson.places) == 600, "the other images are seen, too"
    assert list(np.bincount(lesson.labels[given], minlength=10)) == [7] * 10
    assert np.array_equal(lesson.labels[given], LABELS[given])


def test_noise_is_as_much_as_was_asked_for() -> None:
    large = Truth(np.arange(20000), np.arange(20000) % 10, 10, Path())
    for form, wrong in (("symmetric", set(range(1, 10))), ("pair", {1})):
        lesson = NoisyLabels(rate=0.3, form=form).lesson(large)
        steps = (lesson.labels - large.labels) % 10
        assert set(steps[steps > 0]) == wrong
        assert (steps > 0).mean() == pytest.approx(0.3, abs=0.02)
    every = NoisyLabels(rate=1.0).lesson(large).labels
    assert (every != large.labels).all()
    assert np.bincount((every - large.labels) % 10)[1:] / 20000 == pytest.approx(1 / 9, abs=0.01)


def test_candidates_are_as_ambiguous_and_unreliable_as_was_asked_for() -> None:
    large = Truth(np.arange(20000), np.arange(20000) % 10, 10, Path())
    lesson = PartialLabels(ambiguity=0.2, unreliability=0.1).lesson(large)
    assert lesson.candidates is not None
    rows = np.arange(20000)
    assert (~lesson.candidates[rows, large.labels]).mean() == pytest.approx(0.1, abs=0.01)
    wrong = lesson.candidates.copy()
    wrong[rows, large.labels] = False
    assert wrong.mean() * 10 / 9 == pytest.approx(0.2, abs=0.01)
    assert lesson.candidates.any(1).all()
    only = lesson.candidates.sum(1) == 1
    assert (lesson.labels[only] == lesson.candidates[only].argmax(1)).all()
    assert (lesson.labels[~only] == NO_LABEL).all()
    lost = PartialLabels(unreliability=1.0).lesson(large)
    assert lost.candidates is not None
    assert (lost.candidates.sum(1) == 1).all()
    assert not lost.candidates[rows, large.labels].any()


def test_labels_that_people_gave_come_from_a_file(tmp_path: Path) -> None:
    given = (LABELS + 1) % 10
    np.save(tmp_path / "own.npy", given.astype(np.int32))
    (tmp_path / "own.txt").write_text("\n".join(map(str, given)))
    for name in ("own.npy", "own.txt"):
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        made = NoisyLabels(file=name, sha256=digest)
        assert not made.problem()
        lesson = made.lesson(truth([0, 9], tmp_path))
        assert list(lesson.labels) == [1, 0]
        with pytest.raises(DataError, match=r"are not those of the suite: .*fetch the file again"):
            replace(made, sha256="0" * 64).lesson(truth(root=tmp_path))
    with pytest.raises(DataError, match=r"The suite wants labels in .*other.npy .*put the file there"):
        NoisyLabels(file="other.npy", sha256="0" * 64).lesson(truth(root=tmp_path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"1\n2\n", "holds 2 labels, and there are 600 training images"),
        (b"10\n" * 600, "holds labels outside 0 to 9"),
        (b"-1\n" * 600, "holds labels outside 0 to 9"),
        (b"one\n" * 600, "holds no labels"),
        (b"", "holds no labels"),
    ],
)
def test_what_is_wrong_with_such_a_file_is_said(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "own.txt").write_bytes(content)
    made = NoisyLabels(file="own.txt", sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(DataError, match=words):
        made.lesson(truth(root=tmp_path))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("{classes = [1]}", "'kind' must be one of few-labels, full, noisy-labels, partial-labels, transfer-set"),
        ('{kind = "all"}', "no supervision named 'all'"),
        ('{kind = "full", seed = 1}', "full has no field 'seed'; it has none"),
        ('{kind = "transfer-set"}', "it leaves nothing out"),
        ('{kind = "transfer-set", classes = [10]}', "digits has the classes 0 to 9, and not 10"),
        ('{kind = "transfer-set", classes = ["3"]}', "classes must be a list of whole numbers"),
        ('{kind = "transfer-set", classes = [3], without = [3]}', "no class is left"),
        ('{kind = "transfer-set", share = 0.0}', r"share must lie in \(0, 1\], not be 0"),
        ('{kind = "transfer-set", share = true}', "share must be a number, not True"),
        ('{kind = "few-labels"}', "images must be at least 1"),
        ('{kind = "few-labels", images = 1000}', "fewer than 1,000 training images a class"),
        ('{kind = "noisy-labels"}', "give either a rate or a file"),
        ('{kind = "noisy-labels", rate = 1.5}', r"rate must lie in \(0, 1\]"),
        ('{kind = "noisy-labels", rate = 0.5, form = "odd"}', "form must be one of symmetric, pair"),
        ('{kind = "noisy-labels", file = "/etc/x.npy"}', "file must be a relative path"),
        ('{kind = "noisy-labels", file = "x.pt"}', "file must end in .npy or .txt"),
        ('{kind = "noisy-labels", file = "x.npy"}', "comes with its sha256 of 64 digits"),
        ('{kind = "partial-labels"}', "it leaves every label as it is"),
        ('{kind = "partial-labels", ambiguity = 2}', r"ambiguity must lie in \[0, 1\]"),
        ('{kind = "partial-labels", ambiguity = 0.1, seed = -1}', "seed must be at least 0"),
    ],
)
def test_each_mistake_is_named_with_its_place(table: str, words: str) -> None:
    top = suite_text(["ce"]).replace("seeds =", f"supervision = {table}\nseeds =")
    teacher = 'kind = "trained"\nmodel = "tiny_cnn_s"\nseed = 100\nsupervision = ' + table
    for text, place in (
        (top, "s.toml supervision"),
        (suite_text(["ce"], extra=f"supervision = {table}"), r"s.toml \[\[methods\]\] 1 supervision"),
        (suite_text(["ce"], teacher=teacher), r"s.toml \[teachers.tutor\] supervision"),
    ):
        with pytest.raises(UserError, match=f"^({place}|s.toml): .*{words}"):
            parse_suite(text, "s.toml")


def rows(*tables: str, suite: str = "") -> str:
    extra = "".join(f'[[methods]]\nname = "kd"\nlabel = "row{n}"\nsupervision = {t}\n' for n, t in enumerate(tables))
    text = suite_text(["ce", "kd"], epochs=1, extra=extra)
    return text.replace("seeds =", f"supervision = {suite}\nseeds =") if suite else text


def test_a_rows_supervision_comes_before_the_suites_and_teachers_see_every_label() -> None:
    suite = parse_suite(rows('{kind = "full"}', suite='{kind = "transfer-set", without = [3]}'), "s.toml")
    made = {trial.label: trial for trial in expand(suite, Selection(), "a" * 64)}
    assert made["ce"].supervision == made["kd"].supervision == TransferSet(without=(3,))
    assert made["row0"].supervision == FULL
    assert made["row0"].teacher is not None
    assert made["row0"].teacher.supervision == FULL
    plain = {trial.label: trial for trial in expand(parse_suite(rows(), "s.toml"), Selection(), "a" * 64)}
    assert made["row0"].key == plain["kd"].key, "a trial is the same wherever its supervision is written"
    assert made["kd"].identity()["supervision"] == {
        "kind": "transfer-set",
        "version": 1,
        "classes": [],
        "without": [3],
        "share": 1.0,
        "seed": 0,
    }
    assert trial_seconds(made["kd"], 40.0) < trial_seconds(plain["kd"], 40.0)


def test_rows_that_differ_in_supervision_alone_are_different_trials() -> None:
    suite = parse_suite(rows('{kind = "few-labels", images = 5}', '{kind = "few-labels", images = 6}'), "s.toml")
    assert len(expand(suite, Selection(), "a" * 64)) == 4
    with pytest.raises(UserError, match="'row0' and 'row1' are the same trials"):
        parse_suite(rows('{kind = "few-labels", images = 5}', '{kind = "few-labels", images = 5}'), "s.toml")


def test_it_survives_the_way_to_a_worker(bench: Bench, make_suite: MakeSuite) -> None:
    suite = make_suite(rows('{kind = "transfer-set", classes = [1, 2]}', '{kind = "few-labels", images = 5}'))
    for task in bench.tasks(bench.trials(suite)):
        assert Task.from_json(task.to_json()) == task


def test_batches_are_of_what_is_shown() -> None:
    dataset = load("digits", Path("nowhere"))
    protocol = Protocol(epochs=1, batch=64, lr=0.1, augmentation="none", holdout=97)
    full = Batches(dataset, protocol, 0, 0, CPU)
    less = Batches(dataset, protocol, 0, 0, CPU, TransferSet(without=(3,)))
    assert len(less.train) == int((dataset.train_labels[full.train] != 3).sum())
    assert np.array_equal(less.val, full.val), "held-out images are those of every label"
    seen = torch.cat([less.batch(step).y for step in range(less.total_steps)])
    assert len(seen) == len(less.train)
    assert 3 not in seen
    batch = Batches(dataset, protocol, 0, 0, CPU, PartialLabels(ambiguity=0.3)).batch(0)
    assert batch.weak
    assert batch.candidates is not None
    true = torch.from_numpy(dataset.train_labels[full.train])[batch.index]
    assert batch.candidates.gather(1, true[:, None]).all()
    few = batch.first(5)
    assert few.candidates is not None
    assert few.weak
    assert torch.equal(few.candidates, batch.candidates[:5])


def step(z: torch.Tensor, y: torch.Tensor, **more: Any) -> Step:
    outputs = Outputs(z)
    return Step(z, y, y, outputs, outputs, None, 1, 1, 0.0, lambda purpose: torch.Generator(), **more)


def test_the_loss_on_labels_is_cross_entropy_where_there_are_some() -> None:
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    each = F.cross_entropy(z, y, reduction="none")
    assert torch.equal(step(z, y).cross_entropy(z), F.cross_entropy(z, y))
    some = torch.where(torch.arange(6) < 2, y, NO_LABEL)
    assert float(step(z, some, weak=True).cross_entropy(z)) == pytest.approx(float(each[:2].sum()) / 6, abs=1e-15)
    sets = F.one_hot(y, 4).bool()
    assert float(step(z, y, weak=True, candidates=sets).cross_entropy(z)) == pytest.approx(
        float(each.mean()), abs=1e-15
    )
    sets[0, :2], sets[1] = True, True
    p = torch.softmax(z, 1)
    wanted = (-torch.log(p[0, 0] + p[0, 1]) + each[2:].sum()) / 6
    assert float(step(z, y, weak=True, candidates=sets).cross_entropy(z)) == pytest.approx(float(wanted), abs=1e-15)
    z.requires_grad_()
    nothing = step(z, torch.full((6,), NO_LABEL), weak=True).cross_entropy(z)
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert z.grad is not None
    assert not z.grad.any()
    z.grad = None
    step(z, y, weak=True, candidates=torch.ones(6, 4, dtype=torch.bool)).cross_entropy(z).backward()
    assert not z.grad.any(), "all classes are candidates: no label"


WEAK = [name for name in METHODS if METHODS.get(name).applies.weak_labels and not METHODS.get(name).wraps]


@pytest.mark.parametrize("name", [*WEAK, "lskd(kd)", "kd+fitnet"])
def test_a_method_for_weak_labels_has_them_in_its_task_terms_alone(name: str) -> None:
    bench = make_bench(name)
    found = []
    for weak in (False, True):
        member = bench.member()
        assert member.spec.applies.weak_labels
        batch = bench.batch(0, member)
        if weak:
            batch = replace(batch, y=torch.full_like(batch.y, NO_LABEL), weak=True)
        outputs, views = member.forward(batch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            step = member.make_step(batch, outputs, bench.taught(batch, member), None, views)
            found.append(member.method.loss(step))
    labelled, unlabelled = found
    assert labelled.keys() == unlabelled.keys()
    for term, value in unlabelled.items():
        distills = METHODS.get(name).terms[term] == "distill"
        assert torch.equal(value, labelled[term] if distills else torch.zeros_like(value)), term


def test_some_methods_read_labels_and_say_so() -> None:
    suite = parse_suite(
        rows('{kind = "few-labels", images = 5}').replace('name = "kd"\nlabel', 'name = "dkd"\nlabel'), "s"
    )
    assert [reason for _, _, reason in inapplicable(suite, Selection())] == [
        "it reads one label of each image, and under few-labels some have none, or several"
    ]
    assert not METHODS.get("kd+dkd").applies.weak_labels, "a sum asks for what each part asks for"


@pytest.mark.parametrize(
    "table",
    [
        '{kind = "transfer-set", classes = [7, 8]}',
        '{kind = "few-labels", images = 5}',
        '{kind = "noisy-labels", rate = 0.4}',
        '{kind = "partial-labels", ambiguity = 0.2}',
    ],
)
def test_a_student_is_trained_on_what_it_is_shown(bench: Bench, make_suite: MakeSuite, table: str) -> None:
    suite = make_suite(rows(table))
    records = bench.train(bench.trials(suite, "kd", "row0"))
    full, shown = records["kd"], records["row0"]
    assert shown["status"] == "finished"
    assert shown["identity"]["supervision"]["kind"] == table.split('"')[1]
    assert shown["curve"][0]["losses"] != full["curve"][0]["losses"]
    assert shown["teacher"] == full["teacher"], "under the same teacher"


def test_a_teacher_may_see_less_than_every_label(bench: Bench, make_suite: MakeSuite) -> None:
    few = 'kind = "trained"\nmodel = "tiny_cnn_s"\nseed = 100\nprotocol = {epochs = 1}\n'
    text = suite_text(["kd"], epochs=1, teacher=few + 'supervision = {kind = "transfer-set", share = 0.5}')
    bench.train(bench.trials(make_suite(text)))
    (own,) = [record for record in bench.store.read()[0] if record["label"] == "teacher"]
    assert own["identity"]["supervision"]["share"] == 0.5


def test_teaching_goes_on_under_few_labels_generation_by_generation(bench: Bench, make_suite: MakeSuite) -> None:
    """What is left without labels is learnt from the generation before (arXiv:2302.08155, incomplete supervision)."""
    few = '{kind = "few-labels", images = 5}'
    teacher = f'kind = "self"\nmodel = "tiny_cnn_s"\nseed = 100\ngenerations = 2\nsupervision = {few}'
    suite = make_suite(
        suite_text(["kd"], epochs=1, teacher=teacher).replace("seeds =", f"supervision = {few}\nseeds =")
    )
    student = bench.train(bench.trials(suite))["kd"]
    records = [*bench.store.read()[0], student]
    assert [record["identity"]["supervision"] for record in records] == [FewLabels(images=5).identity()] * 4
    assert len({record["key"] for record in records}) == 3


def test_no_image_is_a_sentence() -> None:
    dataset, protocol = load("digits", Path("nowhere")), Protocol(epochs=1, batch=64, lr=0.1, augmentation="crop")
    with pytest.raises(UserError, match="leaves no image to train on"):
        Batches(dataset, protocol, 0, 0, CPU, Nothing())


@dataclass(frozen=True)
class Nothing(Supervision):
    def lesson(self, truth: Truth) -> Lesson:
        return Lesson(truth.places[:0], truth.own[:0])


def test_data_sets_are_asked_what_they_have() -> None:
    spec = DATASETS.get("digits")
    assert TransferSet(classes=(1, 2, 3)).portion(spec) == pytest.approx(0.3)
    assert FULL.portion(spec) == 1.0
    assert "is too large" in PartialLabels(ambiguity=0.1).misfit(DATASETS.get("imagenet"))
