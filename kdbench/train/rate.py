"""The learning rate as a pure function of where the training stands, so that a resume needs no scheduler state."""

from __future__ import annotations

import math

from kdbench.protocol import Protocol

#: The one-cycle schedule starts at peak / START and ends at peak / END (Smith and Topin, arXiv:1708.07120; torch's
#: defaults).
START, END = 25.0, 1e4


def learning_rate(protocol: Protocol, step: int, steps_per_epoch: int, base: float | None = None) -> float:
    """The rate of 0-based ``step``; ``base`` stands in the place of the protocol's ``lr``.

    multistep: ``lr * factor ** (milestones passed)``, a milestone m being passed from 1-based epoch m + 1 on.
    onecycle: linear warm-up over ``warm_up`` of the steps to ``lr``, then a cosine down. cosine: from ``lr`` to 0
    over the training.
    """
    lr = protocol.lr if base is None else base
    total = protocol.epochs * steps_per_epoch
    if protocol.schedule == "constant":
        return lr
    if protocol.schedule == "multistep":
        epoch = step // steps_per_epoch + 1
        return lr * protocol.factor ** sum(epoch > milestone for milestone in protocol.milestones)
    if protocol.schedule == "cosine":
        return lr * (1 + math.cos(math.pi * step / total)) / 2
    peak_at = protocol.warm_up * total
    if step < peak_at:
        return lr / START + (lr - lr / START) * step / peak_at
    done = (step - peak_at) / max(total - 1 - peak_at, 1)
    low = lr / START / END
    return low + (lr - low) * (1 + math.cos(math.pi * done)) / 2
