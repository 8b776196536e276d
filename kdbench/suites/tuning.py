"""Tuning: of how many random configurations a suite chooses each method's hyper-parameters, and in how many rungs."""

from __future__ import annotations

from dataclasses import dataclass

from kdbench.errors import UserError, shown
from kdbench.suites.table import Table

#: More configurations of a method than anybody trains.
MOST_CONFIGS = 10_000


@dataclass(frozen=True)
class Tuning:
    """``configs`` of each of ``methods`` are drawn from ``seed``, which their students have, too.

    Rung by rung they are trained for ``epochs``; ``keep`` says how many of each method go on from each rung but the
    last, from which one is chosen.
    """

    methods: tuple[str, ...]
    configs: int
    keep: tuple[int, ...]
    epochs: tuple[int, ...]
    seed: int

    def __str__(self) -> str:
        kept, epochs = (", ".join(map(str, numbers)) for numbers in ((self.configs, *self.keep), self.epochs))
        return f"{kept} configurations of each method for {epochs} epochs, with seed {self.seed}"

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the rows that come of it."""
        return tuple(map(tuned_label, self.methods))


def tuned_label(method: str) -> str:
    return f"tuned-{method}"


def parse_tuning(raw: object, where: str) -> Tuning:
    """The [tune] of a suite; UserError begins with ``where``."""
    table = Table(raw, where)
    methods, keep, epochs = table.take("methods", list), table.take("keep", list), table.take("epochs", list)
    configs = table.count("configs", 2, high=MOST_CONFIGS)
    seed = table.count("seed", 0)
    table.finish()
    if not methods or any(type(name) is not str for name in methods) or len(set(methods)) != len(methods):
        raise UserError(f"{where}: methods must be a list of different methods, not {shown(methods)}.")
    counts = [configs, *keep]
    if any(type(n) is not int or n < 1 for n in keep) or counts != sorted(set(counts), reverse=True):
        raise UserError(f"{where}: keep must be whole numbers that fall from {configs}, not {shown(keep)}.")
    if any(type(n) is not int or n < 1 for n in epochs) or len(epochs) != len(keep) + 1:
        raise UserError(
            f"{where}: epochs must be {len(keep) + 1} whole numbers, one for each of keep and one for the last rung, "
            f"not {shown(epochs)}."
        )
    if epochs != sorted(set(epochs)):
        raise UserError(f"{where}: epochs must rise, not read {shown(epochs)}.")
    return Tuning(tuple(methods), configs, tuple(keep), tuple(epochs), seed)
