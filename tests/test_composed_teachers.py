"""Teachers made of other teachers: read, named, planned after their parts, and saying what their formulas say."""

from __future__ import annotations

import hashlib
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
from scipy.optimize import minimize
from test_cli import BUILD_AND_SAY, RUN, Cli, cli  # noqa: F401
from torch import Tensor, nn

from kdbench.cli import main, site
from kdbench.composition import COMPOSITIONS
from kdbench.composition.biased import Biased
from kdbench.composition.ensemble import Ensemble
from kdbench.composition.specialists import Specialists, clusters, dustbin_correction, joint_logits
from kdbench.data import load
from kdbench.errors import UserError
from kdbench.jobs import cohort as cohort_job
from kdbench.jobs.worker import run
from kdbench.kinds import check_kind
from kdbench.measure.evaluate import ambiguity, unreliability
from kdbench.models.composed import Composed, InOrder, Told, changed, outputs_of
from kdbench.models.outputs import Outputs
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
from kdbench.teachers.specialists import half_special
from kdbench.train.device import numerics
from kdbench.train.seeds import philox
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


def told(labels: list[int], split: str = "train", start: int = 0) -> Told:
    return Told(torch.tensor(labels), torch.arange(start, start + len(labels)), split)


# Formulas


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_an_ensembles_probabilities_are_the_means_of_its_members() -> None:
    said = [3 * each for each in random(4, 7, 5)]
    p = torch.stack([torch.softmax(each, 1) for each in said])
    unknown = told([0] * 7)
    arithmetic = torch.softmax(Ensemble(mean="arithmetic").speak(said, unknown), 1)
    assert (arithmetic - p.mean(0)).abs().max() < 1e-12
    assert (Ensemble().speak(said, unknown).exp() - p.mean(0)).abs().max() < 1e-12, "log probabilities, not any logits"
    geometric = p.log().mean(0).exp()
    geometric = geometric / geometric.sum(1, keepdim=True)
    assert (torch.softmax(Ensemble(mean="geometric").speak(said, unknown), 1) - geometric).abs().max() < 1e-12
    for mean in ("arithmetic", "geometric"):
        alone = torch.softmax(Ensemble(mean=mean).speak(said[:1], unknown), 1)
        assert (alone - p[0]).abs().max() < 1e-12, "one member is its own mean"


def degrees(logits: Tensor, labels: list[int], k: int) -> tuple[float, float, float]:
    """Top-1 accuracy, unreliability and ambiguity by the k likeliest."""
    order = logits.argsort(dim=1, descending=True, stable=True).numpy()
    truth = np.array(labels)
    return (
        float((order[:, 0] == truth).mean()),
        unreliability(order[:, :k], truth),
        ambiguity(order[:, :k], truth, logits.shape[1]),
    )


def test_the_rules_of_a_biased_teacher_on_cases_made_by_hand() -> None:
    labels = [0, 0, 1, 1, 2, 2]
    logits = torch.tensor(
        [
            [4.0, 3.0, 2.0, 1.0],
            [4.0, 2.0, 3.0, 1.0],
            [3.0, 4.0, 2.0, 1.0],
            [4.0, 1.0, 3.0, 2.0],
            [4.0, 3.0, 1.0, 2.0],
            [1.0, 2.0, 4.0, 3.0],
        ]
    )
    known = told(labels)
    assert degrees(logits, labels, 2) == (4 / 6, pytest.approx(2 / 6), 1)
    punished = Biased(punishment=1.0).speak([logits], known)
    assert degrees(punished, labels, 1)[0] == 0, "whoever was right is not"
    assert torch.equal(punished[0], torch.tensor([3.0, 4.0, 2.0, 1.0])), "and changed with the second"
    assert torch.equal(punished[3], logits[3]), "who was wrong stays as it was"
    assert degrees(punished, labels, 2)[1] == pytest.approx(2 / 6), "nobody leaves the two likeliest"
    compensated = Biased(compensation=1.0, top_k=2).speak([logits], known)
    assert degrees(compensated, labels, 2)[:2] == (4 / 6, 0)
    assert torch.equal(compensated[3], torch.tensor([4.0, 3.0, 1.0, 2.0])), "it took the second place"
    assert torch.equal(compensated[:3], logits[:3])
    both = Biased(compensation=1.0, punishment=1.0, top_k=2).speak([logits], known)
    assert degrees(both, labels, 2)[:2] == (0, 0), "always wrong, and never unreliable"
    out = Biased(unreliability=1.0).speak([logits], known)
    assert (out.argmin(1) == known.labels).all()
    assert degrees(out, labels, 3)[1] == 1
    for changed_ in (punished, compensated, both, out):
        assert torch.equal(changed_.sort(1).values, logits.sort(1).values), (
            "probabilities change hands, and nothing else"
        )


def test_random_labels_fill_the_other_places_evenly() -> None:
    count, classes, k = 20000, 10, 4
    labels = [n % classes for n in range(count)]
    logits = torch.nn.functional.one_hot(torch.tensor(labels), classes).double() * 5 + torch.arange(classes) / classes
    given = Biased(random_labels=1.0, top_k=k).speak([logits], told(labels))
    top1, delta, gamma = degrees(given, labels, k)
    assert (top1, delta) == (1, 0), "the true class keeps its place"
    assert gamma == pytest.approx((k - 1) / (classes - 1), abs=0.04), "each wrong class is as likely"
    before = degrees(logits, labels, k)
    assert before[2] == 1, "where the same classes were always beside the true one"


def test_what_a_biased_teacher_draws_belongs_to_the_image() -> None:
    labels = list(range(10)) * 40
    logits = random(400, 10) + 4 * torch.nn.functional.one_hot(torch.tensor(labels), 10)
    rules = Biased(random_labels=0.5, punishment=0.6, unreliability=0.1, noise=0.02, seed=3)
    whole = rules.speak([logits], told(labels))
    some = torch.tensor([390, 5, 77])
    part = Told(torch.tensor(labels)[some], some, "train")
    assert torch.equal(rules.speak([logits[some]], part), whole[some]), "whatever its company"
    assert not torch.equal(rules.speak([logits], told(labels, "test")), whole)
    assert not torch.equal(replace(rules, seed=4).speak([logits], told(labels)), whole)
    right = (Biased(punishment=0.6).speak([logits], told(labels)).argmax(1) == torch.tensor(labels)).double().mean()
    base = (logits.argmax(1) == torch.tensor(labels)).double().mean()
    assert float(right) == pytest.approx(float(base) * 0.4, abs=0.08)


def test_draws_are_the_same_on_every_machine() -> None:
    draws = Biased(punishment=0.5)._draws("punishment", told([0, 0, 0]), 2)
    assert draws.dtype == torch.float64
    start = hashlib.sha256(b"kdbench biased punishment train 0").digest()
    first = int.from_bytes(start[:8], "little")
    assert draws.flatten().tolist() == [splitmix(first, n) for n in range(1, 7)]
    many = Biased(punishment=0.5)._draws("punishment", told([0] * 5000), 4)
    assert 0 <= float(many.min()) < float(many.max()) < 1
    assert float(many.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(many.var()) == pytest.approx(1 / 12, abs=0.002)


def splitmix(start: int, count: int) -> float:
    """The ``count``-th number of splitmix64 after ``start``, in unbounded whole numbers."""
    z = (start + count * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return ((z ^ z >> 31) >> 11) * 2.0**-53


def test_noise_is_on_probabilities_which_stay_probabilities() -> None:
    logits = random(2000, 5)
    noisy = Biased(noise=0.01).speak([logits], told([0] * 2000))
    p, q = torch.softmax(logits, 1), torch.softmax(noisy, 1)
    inside = (p > 0.05).all(1)
    assert float((q - p)[inside].std()) == pytest.approx(0.01, rel=0.15)
    assert torch.isfinite(Biased(noise=5.0).speak([logits], told([0] * 2000))).all()


def divergence(z: np.ndarray[Any, Any], p: Any, opinions: Any, members: Any) -> float:
    """KL(p_g || q) + the sum of KL(p_m || q) for q = softmax(z), written as it is defined."""
    q = np.exp(z - z.max())
    q /= q.sum()
    total = float((p * np.log(p / q)).sum())
    for own, said in zip(members, opinions, strict=True):
        seen = np.append(q[own], q[~own].sum())
        total += float((said * np.log(said / seen)).sum())
    return total


@pytest.mark.parametrize("likeliest", [1, 3])
def test_specialists_and_generalist_agree_where_the_divergence_is_least(likeliest: int) -> None:
    members = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]], dtype=bool)
    general, said = 2 * random(8, 6), [2 * each for each in random(3, 8, 3)]
    lacking = torch.tensor([0.7, -0.2, 0.1], dtype=torch.float64)
    z = joint_logits(general, said, lacking, torch.from_numpy(members), likeliest)
    for row in range(8):
        p = torch.softmax(general[row], 0).numpy()
        top = np.argsort(-p)[:likeliest]
        speaking = [m for m in range(3) if members[m][top].any()]
        opinions = []
        for m in speaking:
            raw = said[m][row].clone()
            raw[-1] += lacking[m]
            opinions.append(torch.softmax(raw, 0).numpy())
        cost = (p, opinions, members[speaking])
        best = minimize(divergence, np.log(p), args=cost, method="BFGS", options={"gtol": 1e-10})
        found = divergence(z[row].numpy(), *cost)
        assert found <= best.fun + 1e-9
        assert torch.softmax(z[row], 0).numpy() == pytest.approx(np.exp(best.x) / np.exp(best.x).sum(), abs=1e-5)


def test_one_specialist_is_heard_in_closed_form() -> None:
    members = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=bool)
    general = torch.tensor([[2.0, 1.0, 0.0, -1.0]], dtype=torch.float64)
    said = [torch.tensor([[0.0, 1.5, -0.5]], dtype=torch.float64)] * 2
    z = joint_logits(general, said, torch.zeros(2), torch.from_numpy(members), 1)
    p, s = torch.softmax(general[0], 0), torch.softmax(said[0][0], 0)
    rest = p[2:] / p[2:].sum()
    wanted = torch.cat([(p[:2] + s[:2]) / 2, (p[2:].sum() + s[2]) / 2 * rest])
    assert (torch.softmax(z[0], 0) - wanted).abs().max() < 1e-12


def test_the_dustbins_correction_gives_the_posterior_of_the_data() -> None:
    """Two densities known exactly: what a network learns from half and half, corrected, is what the data says."""
    special, others = 300, 2700
    likelihood = np.array([0.2, 0.05])  # of one image under the special classes and under the others
    learnt = likelihood * [0.5, 0.5]
    data = likelihood * [special / 3000, others / 3000]
    logits = np.log(learnt / learnt.sum())
    logits[1] += dustbin_correction(special, others)
    corrected = np.exp(logits) / np.exp(logits).sum()
    assert corrected == pytest.approx(data / data.sum(), abs=1e-12)


def test_clusters_are_the_classes_that_are_confused() -> None:
    blocks = np.kron(np.eye(3), np.ones((4, 4))) + 0.01 * np.eye(12)
    for seed in range(5):
        members = clusters(blocks, 3, seed)
        assert (members.sum(0) == 1).all(), "each class is in one set"
        assert {tuple(np.flatnonzero(own)) for own in members} == {(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)}
    assert (clusters(blocks, 50, 0).sum(0) == 1).all(), "more sets than classes are not to be had"
    assert len(clusters(blocks, 1, 0)) == 1


def test_a_specialist_sees_half_of_each_batch_of_its_classes() -> None:
    special = np.arange(1000) % 10 < 2
    places = half_special(philox("x"), special, 64)
    assert len(places) == 1000
    batches = [special[places[start : start + 64]] for start in range(0, 1000, 64)]
    assert {int(batch.sum()) for batch in batches[:-1]} == {32}
    seen = np.bincount(places, minlength=1000)
    assert set(seen[special]) == {2, 3}
    assert set(seen[~special]) == {0, 1}


# A composed network


class Says(nn.Module):
    def __init__(self, classes: int, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((classes,), value))

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        return Outputs(x.flatten(1)[:, : len(self.weight)] + self.weight)


def test_parts_within_parts_are_told_which_images_they_see() -> None:
    seen: list[tuple[list[int], list[int], str]] = []

    def rule(said: Any, known: Told) -> Tensor:
        seen.append((known.labels.tolist(), known.places.tolist(), known.split))
        return torch.stack(list(said)).sum(0)

    network = Composed([Composed([Says(3, 1.0)], rule, 3), Says(3, 10.0)], rule, 3)
    network.study(np.array([7, 8, 9]), np.array([40, 50, 60]), "train")
    x = torch.zeros(2, 1, 2, 2)
    out = outputs_of(network, x, index=torch.tensor([2, 0]))
    assert torch.equal(out.logits, torch.full((2, 3), 11.0))
    assert seen == [([9, 7], [60, 40], "train")] * 2
    seen.clear()
    in_order = InOrder(network)
    in_order(x)
    in_order(x[:1])
    assert [places for _, places, _ in seen] == [[40, 50], [40, 50], [60], [60]]
    doubled = changed(network, lambda part: Says(3, 2 * part.weight[0].item()))
    assert isinstance(doubled, Composed)
    doubled.study(np.zeros(3, np.int64), np.zeros(3, np.int64), "test")
    assert torch.equal(outputs_of(doubled, x, index=torch.tensor([0, 1])).logits, torch.full((2, 3), 22.0))
    assert torch.equal(outputs_of(Says(3, 1.0), x, index=torch.tensor([0, 1])).logits, torch.ones(2, 3))
    with pytest.raises(ValueError, match="logits alone, and not pooled"):
        network(x, frozenset({"pooled"}), index=torch.tensor([0, 1]))


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
    badges = {line.cell.label: dict(line.badges) for line in table(found, "last", frozenset()).lines}
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
