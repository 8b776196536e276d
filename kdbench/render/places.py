"""The plots of how the rows of a suite are placed: mean places with what is not told apart, and profiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from kdbench.render.plot import (
    LISTED,
    MOST_LINES,
    NAMES,
    RIGHT,
    WIDTH,
    Axis,
    Dot,
    Figure,
    Place,
    Rule,
    Scale,
    Series,
    Table,
    around,
    left,
    listed,
    lower,
    path,
    ticks,
    typical,
)
from kdbench.render.suiteview import SuiteView
from kdbench.render.texts import number
from kdbench.stats.placing import Placing
from kdbench.stats.standings import Standing, Standings

#: Rows that are drawn, the best first; pixels between the bars of groups, and of all of them, at most.
MOST, BETWEEN, BARS = 40, 7, 90


def both(view: SuiteView) -> tuple[Figure, ...]:
    """The two plots of a suite; none where its rows have no places."""
    found = view.placing
    return () if found is None else (critical(found, view.standings), profiles(found, view.standings))


def critical(placing: Placing, standings: Standings) -> Figure:
    """Mean places, and a bar beside each stretch of rows of which no two are told apart."""
    shown = placing.rows[:MOST]
    known = {row.label: row for row in standings.rows}
    groups = list(_columns([g for group in placing.groups if len(g := _within(group, shown)) > 1]))
    columns = 1 + max((column for column, _ in groups), default=-1)
    between = min(BETWEEN, BARS / max(columns, 1))
    up = listed("best first", shown)
    across = Scale(*around(placing.places[: len(shown)]), NAMES, WIDTH - RIGHT - 8 - round(columns * between))
    at = {label: tick.place for label, tick in zip(shown, up.ticks, strict=True)}
    dots = (
        Dot(across(place), at[label], f"{label}: mean place {number(place, 1)}, rank {_rank(known[label])}")
        for label, place in zip(shown, placing.places, strict=False)
    )
    more = f" The first {len(shown)} are drawn, and up to {LISTED} listed." if len(placing.rows) > len(shown) else ""
    short = f" Left out, with fewer trainings than usual: {', '.join(placing.short)}." if placing.short else ""
    return Figure(
        title="Critical differences",
        described=f"Mean places of {len(placing.rows)} rows by top-1 over {_trainings(placing)}; 1 is the best. A bar "
        "joins rows of which no two are told apart, by the paired tests of their means that ranks come from. Two rows "
        f"that no bar joins need not be told apart: each two stand in the matrix.{more}{short}",
        across=Axis("mean place", across, ticks(across)),
        up=up,
        series=(Series("", "line-0", dots=tuple(dots)),),
        rules=tuple(
            Rule((x, at[group[0]] - 5), (x, at[group[-1]] + 5), "group")
            for column, group in groups
            if (x := round(across.end + 10 + column * between, 1))
        ),
        table=Table(
            ("Row", "Mean place", "Rank", "Not told apart, down to"),
            tuple(
                (label, number(place, 2), _rank(known[label]), _last(label, placing))
                for label, place in zip(placing.rows[:LISTED], placing.places, strict=False)
            ),
        ),
    )


def profiles(placing: Placing, standings: Standings) -> Figure:
    """On what share of trainings the best rows are within so many points of the best one."""
    repeats = {row.label for row in standings.rows if row.kind == "aa"}
    drawn = [(label, row) for label, row in zip(placing.rows, placing.behind, strict=True) if label not in repeats]
    drawn = drawn[:MOST_LINES]
    listing = f", and {LISTED} listed" if len(placing.rows) > LISTED else ""
    furthest = max(typical([float(gap) for _, row in drawn for gap in row]))
    across, up = lower(0, max(furthest, 0.5)), left(0, 100)
    return Figure(
        title="Performance profiles",
        described=f"Within how many points of the best row of the same pair and seed each row is, on what share of "
        f"{_trainings(placing)}: higher is better, and at 0 it is how often a row is the best. The "
        f"{len(drawn)} rows of the best mean places are drawn{listing}.",
        across=Axis("points behind the best row", across, ticks(across)),
        up=Axis("share of trainings, %", up, ticks(up)),
        series=tuple(
            Series(label, f"line-{line}", path(_stairs(row, across, up))) for line, (label, row) in enumerate(drawn)
        ),
        table=Table(
            ("Row", *("Best, %" if not gap else f"Within {gap:g}, %" for gap in placing.gaps)),
            tuple(
                (label, *(number(100 * share, 0) for share in row))
                for label, row in zip(placing.rows[:LISTED], placing.shares.tolist(), strict=False)
            ),
        ),
    )


def _stairs(behind: Iterable[float], across: Scale, up: Scale) -> Iterator[Place]:
    """The share of the values ``behind``, which rise, that are no larger than each place of the axis."""
    values = [float(value) for value in behind]
    reached = sum(value <= 0 for value in values)
    yield across(0.0), up(100 * reached / len(values))
    for value, equal in groupby(value for value in values if 0 < value <= across.high):
        yield across(value), up(100 * reached / len(values))
        reached += len(list(equal))
        yield across(value), up(100 * reached / len(values))
    yield across(across.high), up(100 * reached / len(values))


def _within(group: tuple[str, ...], shown: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(label for label in group if label in shown)


def _columns(groups: list[tuple[str, ...]]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Each group with the first column in which no bar is in its way; ``groups`` are by their first rows."""
    taken: list[set[str]] = []
    for group in groups:
        column = next((at for at, rows in enumerate(taken) if not rows & set(group)), len(taken))
        taken[column : column + 1] = [{*(taken[column] if column < len(taken) else ()), *group}]
        yield column, group


def _trainings(placing: Placing) -> str:
    pairs, seeds = placing.pairs, placing.seeds
    return f"{seeds} seed{'' if seeds == 1 else 's'} of {pairs} pair{'' if pairs == 1 else 's'}"


def _rank(row: Standing) -> str:
    first, last = row.rank
    return f"{first}" if first == last else f"{first}–{last}"


def _last(label: str, placing: Placing) -> str:
    """The last row of the longest stretch that goes on from ``label``."""
    ends: Mapping[str, str] = {group[0]: group[-1] for group in placing.groups}
    return ends.get(label, "–")
