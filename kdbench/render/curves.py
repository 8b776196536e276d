"""The plot of a row's trainings on one pair: accuracy after each epoch, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from kdbench.records.curve import accuracies
from kdbench.render.plot import Axis, Dot, Figure, Scale, Series, Table, around, left, lower, path, some, ticks
from kdbench.render.texts import SELECTION_NAMES, number
from kdbench.stats.aggregate import Cell, Record

#: Trainings that are drawn, and rows that the table has beside those of the epochs that rank, at most.
MOST, LONGEST = 20, 15


@dataclass(frozen=True)
class Training:
    """Accuracies after each epoch on the test set and on held-out images, and the 1-based epoch that ranks."""

    name: str
    test: NDArray[np.float32]
    val: NDArray[np.float32]
    ranked: int | None


def curves(cell: Cell, selection: str) -> Figure | None:
    """Accuracy after each epoch of each training of ``cell``; None where no record has two epochs of it."""
    trainings = [each for record in cell.records[:MOST] if len((each := _training(record, selection)).test) > 1]
    if not trainings:
        return None
    values = np.concatenate([curve for each in trainings for curve in (each.test, each.val)])
    values = values[np.isfinite(values)]
    epochs = max(len(each.test) for each in trainings)
    across, up = lower(1, epochs), left(*around([float(values.min()), float(values.max())]))
    places = across.texts(np.arange(1.0, epochs + 1))
    series = []
    for each in trainings:
        if len(each.val):
            series.append(Series("held-out images", "line-1", _line(each.val, places, up)))
        series.append(Series("test set", "line-0", _line(each.test, places, up), tuple(_ranked(each, across, up))))
    beyond = f" The first {MOST} trainings are drawn." if len(cell.records) > MOST else ""
    return Figure(
        title="Accuracy by epoch",
        described=f"A line a seed, up to {number(float(values.max()))} %; the dot is the epoch that ranks, the "
        f"{SELECTION_NAMES[selection]}.{beyond} Accuracy on the test set chose nothing.",
        across=Axis("epoch", across, ticks(across, min(5, epochs - 1))),
        up=Axis("top-1, %", up, ticks(up)),
        series=tuple(series),
        table=_table(trainings, epochs),
    )


def _training(record: Record, selection: str) -> Training:
    kept, score = record["curve"], record["scores"].get(selection)
    test, val = accuracies(kept, "test_top1"), accuracies(kept, "val_top1")
    return Training(f"seed {record['seed']}", test, val, score["epoch"] if score else None)


def _line(values: NDArray[np.float32], places: Sequence[str], up: Scale) -> str:
    known = np.isfinite(values)
    return path(zip(compress(places, known), up.texts(values[known]), strict=True))


def _ranked(training: Training, across: Scale, up: Scale) -> Iterator[Dot]:
    at = training.ranked
    if at is not None and at <= len(training.test) and math.isfinite(value := float(training.test[at - 1])):
        yield Dot(across(at), up(value), f"{training.name}: {number(value)} % at epoch {at}")


def _table(trainings: Sequence[Training], epochs: int) -> Table:
    """Evenly spaced epochs, and those that rank; long curves are whole in their records alone."""
    shown = sorted({*(each.ranked for each in trainings if each.ranked), *(at + 1 for at in some(epochs, LONGEST))})
    columns = [(each.name, each.test) for each in trainings]
    columns += [(f"{each.name}, held out", each.val) for each in trainings if len(each.val)]
    lists = [values.tolist() for _, values in columns]
    head = ("Epoch", *(f"{name}, %" for name, _ in columns))
    rows = (
        (str(epoch), *(number(values[epoch - 1]) if epoch <= len(values) else "\u2013" for values in lists))
        for epoch in shown
    )
    return Table(head, tuple(rows))
