"""Scoring a frozen network: logits over a whole split, and what is stored and said of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdbench.data.decoders import pieces_of
from kdbench.data.files import ImageFiles
from kdbench.data.spec import Images
from kdbench.stats.bias import leads
from kdbench.stats.scores import score_predictions, top_k_accuracy

#: Images a forward pass. One fixed layout: another batch size gives other bits (measured), so this is part of the
#: engine.
EVALUATION_BATCH = 250

#: The k of the unreliability and ambiguity degrees (Yuan et al. 2023, arXiv:2302.08155) and of the stored classes.
TOP_K = 5
#: The largest k that those degrees are told for.
MOST_K = 10


@dataclass(frozen=True)
class Predictions:
    """What is kept of one selection's predictions on the test set: the arrays of the record's prediction file.

    top [N,5] classes by falling probability; log_p_true, top_p [N] float16; mean_entropy in nats; agreement with the
    teacher in percent and mean KL(teacher || student) in nats, None without a teacher; ``leads``: what tells how
    errors change with the bias of classes that were left out (kdbench.stats.bias), where some were.
    """

    top: NDArray[np.int16]
    log_p_true: NDArray[np.float16]
    top_p: NDArray[np.float16]
    mean_entropy: float
    agreement: float | None
    kl_to_teacher: float | None
    leads: dict[str, NDArray[Any]] = field(default_factory=dict)


def logits_of(
    network: nn.Module,
    images: Images | ImageFiles | Tensor,
    device: torch.device,
    beat: Callable[[], object] = lambda: None,
) -> tuple[Tensor, float]:
    """Logits [N,K] float32 on the CPU of uint8 ``images`` [N,C,H,W], and the seconds they took.

    A tensor is shown as the one batch that it is. Waiting for files to be decoded is not counted. Leaves the mode as it
    was. ``beat`` is called before each batch.
    """
    training = network.training
    network.eval()
    out = []
    seconds = 0.0
    with torch.no_grad():
        for batch in [images] if isinstance(images, Tensor) else pieces_of(images, EVALUATION_BATCH, device):
            beat()
            started = time.perf_counter()
            x = batch.float().div_(255).contiguous(memory_format=torch.channels_last)
            out.append(network(x).logits.float().cpu())
            seconds += time.perf_counter() - started
    network.train(training)
    return torch.cat(out), seconds


def top1_of(logits: Tensor, labels: NDArray[np.integer]) -> float:
    """Accuracy in percent, ties going to the lowest class."""
    return float((logits.argmax(1).numpy() == labels).mean() * 100)


def summarise(logits: Tensor, labels: NDArray[np.integer], teacher: Tensor | None) -> Predictions:
    """The stored form of ``logits`` [N,K]; ``teacher``: the teacher's logits on the same images."""
    agreement, divergence = (None, None) if teacher is None else against_teacher(logits, teacher)
    log_p = torch.log_softmax(logits.double(), 1).numpy()
    order = np.argsort(-log_p, axis=1, kind="stable")[:, :TOP_K].astype(np.int16)
    rows = np.arange(len(labels))
    return Predictions(
        top=order,
        log_p_true=np.maximum(log_p[rows, labels], -65000).astype(np.float16),
        top_p=np.exp(log_p[rows, order[:, 0]]).astype(np.float16),
        mean_entropy=float(-(np.exp(log_p) * log_p).sum(1).mean()),
        agreement=agreement,
        kl_to_teacher=divergence,
    )


def leads_of(
    left_out: NDArray[np.integer],
    test: tuple[Tensor, NDArray[np.integer]],
    held_out: tuple[Tensor, NDArray[np.integer]],
) -> dict[str, NDArray[Any]]:
    """The leads that Predictions keep: of logits and labels on test and on held-out images."""
    arrays: dict[str, NDArray[Any]] = {}
    for part, (logits, labels) in (("", test), ("held_out_", held_out)):
        found = leads(logits.numpy(), labels, left_out)
        arrays |= {f"{part}lead": found.lead, f"{part}right": found.right}
    return arrays


def arrays_of(predictions: dict[str, Predictions], labels: NDArray[np.integer]) -> dict[str, NDArray[Any]]:
    """The arrays of a prediction file: ``labels`` and three arrays for each selection, and its leads if it has some."""
    arrays: dict[str, NDArray[Any]] = {"labels": labels.astype(np.int16)}
    for selection, kept in predictions.items():
        arrays[f"{selection}_top5"] = kept.top
        arrays[f"{selection}_log_p_true"] = kept.log_p_true
        arrays[f"{selection}_top_p"] = kept.top_p
        arrays |= {f"{selection}_{name}": array for name, array in kept.leads.items()}
    return arrays


def against_teacher(logits: Tensor, teacher: Tensor) -> tuple[float, float]:
    """Agreement in percent, and mean KL(teacher || student) in nats, of two sets of logits [N,K] on the same images."""
    s, t = torch.log_softmax(logits.double(), 1), torch.log_softmax(teacher.double(), 1)
    agreement = float((logits.argmax(1) == teacher.argmax(1)).double().mean() * 100)
    return agreement, float((t.exp() * (t - s)).sum(1).mean())


def scores_of(
    predictions: Predictions, labels: NDArray[np.integer], epoch: int, val_top1: float | None
) -> dict[str, Any]:
    """One entry of a record's ``scores``, computed from the stored arrays so that anyone can compute it again."""
    scored = score_predictions(arrays_of({"s": predictions}, labels), "s")
    return {
        **scored,
        "epoch": epoch,
        "entropy": predictions.mean_entropy,
        "val_top1": val_top1,
        "agreement": predictions.agreement,
        "kl_to_teacher": predictions.kl_to_teacher,
    }


def degrees(logits: Tensor, labels: NDArray[np.integer]) -> list[dict[str, Any]]:
    """Unreliability and ambiguity of ``logits`` [N,K] for each k from 1 to MOST_K that leaves a class out."""
    classes = logits.shape[1]
    order = np.argsort(-torch.log_softmax(logits.double(), 1).numpy(), axis=1, kind="stable")
    return [
        {
            "top_k": k,
            "unreliability": unreliability(order[:, :k], labels),
            "ambiguity": ambiguity(order[:, :k], labels, classes),
        }
        for k in range(1, max(min(MOST_K, classes - 1), 1) + 1)
    ]


def unreliability(top: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
    """P(label outside the teacher's top k), the Delta of Yuan et al. 2023."""
    return 1 - top_k_accuracy(top, labels, top.shape[1]) / 100


def ambiguity(top: NDArray[np.integer], labels: NDArray[np.integer], classes: int) -> float:
    """max over classes y and wrong i of P(i in top k | y): the gamma of Yuan et al. 2023, estimated by frequencies."""
    counts = np.zeros((classes, classes))
    for column in top.T:
        np.add.at(counts, (labels, column), 1)
    rates = counts / np.maximum(np.bincount(labels, minlength=classes), 1)[:, None]
    np.fill_diagonal(rates, 0)
    return float(rates.max())
