"""Scores against plain references, and what is stored against what is said."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kdbench.measure.cost import flops, parameters, peak_memory
from kdbench.measure.evaluate import (
    EVALUATION_BATCH,
    against_teacher,
    ambiguity,
    arrays_of,
    degrees,
    logits_of,
    scores_of,
    summarise,
    top1_of,
    unreliability,
)
from kdbench.models.factory import create
from kdbench.models.network import Network
from kdbench.stats.scores import ece, nll, score_predictions, top_k_accuracy

N, K = 300, 10


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(N, K, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, K, N)


def net() -> Network:
    torch.manual_seed(0)
    return create("tiny_cnn_s", classes=K, image_shape=(1, 8, 8), mean=(0.3,), std=(0.4,))


def test_scores_are_those_of_the_definitions(logits: torch.Tensor, labels: np.ndarray) -> None:
    scores = scores_of(summarise(logits, labels, None), labels, 3, 55.0)
    p = torch.softmax(logits.double(), 1)
    y = torch.from_numpy(labels)
    assert scores["top1"] == pytest.approx(float((logits.argmax(1) == y).double().mean() * 100))
    in_top5 = (logits.topk(5, 1).indices == y[:, None]).any(1)
    assert scores["top5"] == pytest.approx(float(in_top5.double().mean() * 100))
    assert scores["nll"] == pytest.approx(float(F.cross_entropy(logits.double(), y)), abs=2e-3)
    assert scores["entropy"] == pytest.approx(float(-(p * p.log()).sum(1).mean()))
    assert (scores["epoch"], scores["val_top1"], scores["agreement"], scores["kl_to_teacher"]) == (3, 55.0, None, None)


def test_calibration_is_that_of_a_plain_loop(logits: torch.Tensor, labels: np.ndarray) -> None:
    kept = summarise(logits, labels, None)
    confidence, right = kept.top_p.astype(float), kept.top[:, 0] == labels
    expected = 0.0
    for b in range(15):
        members = [i for i in range(N) if b / 15 < confidence[i] <= (b + 1) / 15]
        if members:
            expected += len(members) / N * abs(np.mean(right[members]) - np.mean(confidence[members]))
    assert ece(kept.top_p, right) == pytest.approx(expected)
    assert ece(np.array([1.0, 1.0]), np.array([True, False])) == pytest.approx(0.5)
    assert ece(np.array([0.0, 0.5]), np.array([False, True])) == pytest.approx(0.25)


def test_stored_predictions_give_the_scores_exactly(logits: torch.Tensor, labels: np.ndarray) -> None:
    kept = summarise(logits, labels, None)
    arrays = arrays_of({"last": kept}, labels)
    said = scores_of(kept, labels, 1, None)
    assert score_predictions(arrays, "last") == {k: said[k] for k in ("top1", "top5", "nll", "ece")}
    assert {name: (a.dtype.name, a.shape) for name, a in arrays.items()} == {
        "labels": ("int16", (N,)),
        "last_top5": ("int16", (N, 5)),
        "last_log_p_true": ("float16", (N,)),
        "last_top_p": ("float16", (N,)),
    }


def test_a_certain_and_wrong_network_has_finite_scores() -> None:
    logits = torch.zeros(4, K)
    logits[:, 0] = 1e6
    scores = scores_of(summarise(logits, np.full(4, 3), logits), np.full(4, 3), 1, None)
    assert all(math.isfinite(v) for v in scores.values() if v is not None)
    assert scores["nll"] > 60_000
    assert scores["kl_to_teacher"] == pytest.approx(0)


def test_ties_go_to_the_lowest_class_everywhere() -> None:
    labels = np.array([0, 1])
    logits = torch.zeros(2, K)
    assert top1_of(logits, labels) == 50.0
    assert summarise(logits, labels, None).top[0].tolist() == [0, 1, 2, 3, 4]
    assert scores_of(summarise(logits, labels, None), labels, 1, None)["top1"] == 50.0


def test_agreement_and_divergence(logits: torch.Tensor) -> None:
    teacher = logits.roll(1, 0)
    agreement, divergence = against_teacher(logits, teacher)
    assert agreement == pytest.approx(float((logits.argmax(1) == teacher.argmax(1)).double().mean() * 100))
    expected = F.kl_div(
        torch.log_softmax(logits.double(), 1), torch.softmax(teacher.double(), 1), reduction="batchmean"
    )
    assert divergence == pytest.approx(float(expected))
    assert against_teacher(logits, logits) == (100.0, pytest.approx(0.0))


def test_the_degrees_of_a_teacher() -> None:
    """Three classes, k = 2: class 1 is in the top 2 of every image of class 0, and the label never of class 2."""
    labels = np.array([0, 0, 1, 1, 2, 2])
    top = np.array([[0, 1], [1, 0], [1, 2], [1, 0], [0, 1], [1, 0]])
    assert unreliability(top, labels) == pytest.approx(2 / 6)
    assert ambiguity(top[:4], labels[:4], 3) == 1.0
    assert ambiguity(np.array([[0], [0], [1], [0]]), np.array([0, 0, 1, 1]), 3) == 0.5
    assert ambiguity(np.array([[0], [1]]), np.array([0, 1]), 3) == 0.0


def test_the_degrees_for_each_k() -> None:
    """Four classes: 0 is always first; of class 1 the second is the label, of class 2 the label is last."""
    labels = np.array([0, 0, 1, 1, 2, 2])
    order = [[0, 1, 2, 3], [0, 2, 1, 3], [0, 1, 2, 3], [0, 1, 3, 2], [0, 1, 3, 2], [0, 3, 1, 2]]
    logits = torch.zeros(6, 4).scatter_(1, torch.tensor(order), torch.tensor([[4.0, 3, 2, 1]]).expand(6, 4))
    found = degrees(logits, labels)
    assert [each["top_k"] for each in found] == [1, 2, 3], "with all four nothing is left out"
    assert [each["unreliability"] for each in found] == pytest.approx([4 / 6, 2 / 6, 2 / 6])
    assert [each["ambiguity"] for each in found] == [1.0, 1.0, 1.0], "0 is always among those of class 1"
    swapped = degrees(logits[:2], labels[:2])
    assert [each["ambiguity"] for each in swapped] == [0.0, 0.5, 1.0]
    many = degrees(torch.eye(40), np.arange(40))
    assert [each["top_k"] for each in many] == list(range(1, 11))


def test_top_k_counts_columns() -> None:
    top = np.array([[1, 2, 3], [3, 2, 1]])
    assert [top_k_accuracy(top, np.array([1, 1]), k) for k in (1, 2, 3)] == [50.0, 50.0, 100.0]
    assert nll(np.array([-1.0, -3.0], dtype=np.float16)) == 2.0


def test_logits_do_not_depend_on_how_many_images_come_with_them() -> None:
    """A split larger than the evaluation batch, and a network left in the mode it was in."""
    network = net()
    network.train()
    images = np.random.default_rng(0).integers(0, 256, (EVALUATION_BATCH + 30, 1, 8, 8)).astype(np.uint8)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    out, seconds = logits_of(network, images, torch.device("cpu"))
    assert network.training
    assert seconds > 0
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items()), "batch statistics moved"
    network.eval()
    with torch.no_grad():
        first = network(torch.from_numpy(images[:EVALUATION_BATCH]).float() / 255).logits
    assert torch.allclose(out[:EVALUATION_BATCH], first, atol=1e-5)
    assert out.shape == (EVALUATION_BATCH + 30, K)
    assert not network.training


def test_costs() -> None:
    network = net()
    network.train()
    assert parameters(network) == sum(p.numel() for p in network.parameters())
    conv = 2 * 64 * (1 * 4 + 4 * 4) * 9 + 2 * 16 * 4 * 4 * 9 + 2 * 4 * 4 * 8 * 9 + 2 * 8 * 10
    assert flops(network, (1, 8, 8)) == conv
    assert network.training
    assert 2**20 < peak_memory(torch.device("cpu")) < 2**40
