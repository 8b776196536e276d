"""The plot of a correlation that a study claims: a dot a training."""

from __future__ import annotations

import numpy as np

from kdbench.render.plot import Axis, Dot, Figure, Series, Table, around, left, lower, ticks
from kdbench.render.texts import number
from kdbench.studies import Related
from kdbench.studies.measures import MEASURES


def cloud_of(found: Related) -> Figure:
    """The first measure along the lower axis, the second along the left one; the table has each row's means."""
    claim = found.claim
    first, second = MEASURES[claim.other], MEASURES[claim.measure]
    every = np.concatenate([values for _, values in found.rows])
    across, up = lower(*around(every[:, 0].tolist())), left(*around(every[:, 1].tolist()))
    dots = tuple(
        Dot(across(x), up(y), f"{name}: {number(x, first.digits)}, {number(y, second.digits)}", "seed")
        for name, values in found.rows
        for x, y in values.tolist()
    )
    means = [(name, *values.mean(axis=0).tolist()) for name, values in found.rows]
    return Figure(
        title=f"{second.title.capitalize()} by {first.title}",
        described=f"{len(every)} trainings of {len(found.rows)} rows, a dot each. Claim: {claim.text}",
        across=Axis(f"{first.title}, {first.unit}", across, ticks(across)),
        up=Axis(f"{second.title}, {second.unit}", up, ticks(up)),
        series=(Series("", "line-0", dots=dots),),
        table=Table(
            ("Means of the row", first.title, second.title),
            tuple((name, number(x, first.digits), number(y, second.digits)) for name, x, y in means),
        ),
    )
