"""The diagnostic ``features``: how near a student's features, led to where the teacher's are, have come to these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdbench.data.decoders import pieces_of
from kdbench.data.files import ImageFiles
from kdbench.data.spec import Images
from kdbench.measure.evaluate import EVALUATION_BATCH
from kdbench.methods.base import Method
from kdbench.models.network import Network
from kdbench.models.outputs import PARTS, Outputs
from kdbench.stats.discrepancy import h_divergence, joint_error, mmd

#: Test images that are looked at, spread evenly over all.
LOOKED_AT = 4000


@dataclass(frozen=True)
class Sight:
    """Test images that both networks are shown, their labels [N], and what the teacher makes of them [N,D]."""

    images: Images | ImageFiles
    labels: NDArray[np.integer]
    features: NDArray[np.float64]
    head: nn.Module


def sight(
    teacher: Network,
    images: Images | ImageFiles,
    labels: NDArray[np.integer],
    device: torch.device,
    beat: Callable[[], object],
) -> Sight:
    """What is kept of a ``teacher`` for all who learn from it."""
    places = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), LOOKED_AT)).astype(np.int64))
    chosen = images[places]

    def pooled(outputs: Outputs) -> Tensor:
        assert outputs.pooled is not None, "it was asked for"
        return outputs.pooled

    found = _seen(teacher, frozenset({"pooled"}), pooled, chosen, device, beat)
    return Sight(chosen, labels[places], found.numpy().astype(np.float64), teacher.head)


def features(
    method: Method, network: nn.Module, seen: Sight, classes: int, device: torch.device, beat: Callable[[], object]
) -> dict[str, Any] | None:
    """The diagnostic of the student ``network``, trained by ``method``.

    None where the method leads its features nowhere, or not to the width of the teacher's.
    """
    training = method.training
    method.eval()
    try:
        led = _seen(network, method.spec.needs & PARTS, method.connected, seen.images, device, beat)
    finally:
        method.train(training)
    if led is None or led.shape[1:] != seen.features.shape[1:]:
        return None
    with torch.no_grad():
        said = seen.head(led.to(device)).argmax(1).cpu().numpy()
    own = led.numpy().astype(np.float64)
    return {
        "h_divergence": h_divergence(seen.features, own),
        "mmd": mmd(seen.features, own),
        "joint_error": joint_error(seen.features, own, seen.labels, classes),
        "reused_error": float((said != seen.labels).mean()),
    }


def _seen(
    network: nn.Module,
    parts: frozenset[str],
    read: Callable[[Outputs], Tensor | None],
    images: Images | ImageFiles,
    device: torch.device,
    beat: Callable[[], object],
) -> Any:
    """What ``read`` finds [N,D] in the outputs of ``network`` for ``images``, float32 on the CPU; None if nothing."""
    training = network.training
    network.eval()
    found = []
    try:
        with torch.no_grad():
            for batch in pieces_of(images, EVALUATION_BATCH, device):
                beat()
                x = batch.float().div_(255).contiguous(memory_format=torch.channels_last)
                features = read(network(x, parts))
                if features is None:
                    return None
                found.append(features.float().cpu())
    finally:
        network.train(training)
    return torch.cat(found)
