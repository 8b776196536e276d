"""What teachers made of others compute: their formulas, and which images their parts are told of."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from test_cli import BUILD_AND_SAY, RUN, Cli, cli  # noqa: F401
from torch import Tensor, nn

from kdbench.composition.biased import Biased
from kdbench.composition.ensemble import Ensemble
from kdbench.composition.specialists import clusters, dustbin_correction, joint_logits
from kdbench.measure.evaluate import ambiguity, unreliability
from kdbench.models.composed import Composed, InOrder, Told, changed, outputs_of
from kdbench.models.outputs import Outputs
from kdbench.teachers.specialists import half_special
from kdbench.train.seeds import philox


def told(labels: list[int], split: str = "train", start: int = 0) -> Told:
    return Told(torch.tensor(labels), torch.arange(start, start + len(labels)), split)


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


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
@pytest.mark.parametrize("members", [3, 5, 10])
def test_what_an_ensemble_says_of_an_image_does_not_hang_on_where_it_stands(mean: str, members: int) -> None:
    """Its outputs are kept by place, and recalled for batches in another order: 1,000 numbers fill no whole vectors."""
    said = [each.float() for each in 3 * random(members, 100, 10)]
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    ensemble, unknown = Ensemble(mean=mean), told([0] * 100)
    assert torch.equal(ensemble.speak(said, unknown)[order], ensemble.speak([each[order] for each in said], unknown))


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


def test_a_class_that_varies_much_is_no_set_of_its_own() -> None:
    """What tells sets apart is which classes vary together, and not how much one varies by itself."""
    blocks = np.kron(np.eye(3), np.full((4, 4), 0.01)) + np.diag(np.linspace(0.1, 3, 12))
    for seed in range(5):
        found = {tuple(np.flatnonzero(own)) for own in clusters(blocks, 3, seed)}
        assert found == {(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)}


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
