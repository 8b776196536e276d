"""``python benchmarks/simulations.py``: how often the statistics of kdbench err, written into docs/statistics.md.

Everything is drawn from known distributions, so that what is true is known; what is asked are the functions that
verdicts and pages use. Needs no torch and no records; every figure follows from the seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from table import ROOT, replaced, row

from kdbench.stats.bootstrap import percentiles, redrawn
from kdbench.stats.comparisons import Comparisons, compare
from kdbench.stats.crossed import crossed_interval
from kdbench.stats.drops import FIRST, LEVELS, MARGIN, drops, seeds_needed
from kdbench.stats.intervals import t_interval, t_tails
from kdbench.stats.multiplicity import looks_up_to

PAGE = ROOT / "docs" / "statistics.md"
Floats = NDArray[np.float64]

#: The standard deviation of a cell's logarithm where cells are unequal: the sds lie within a factor e^0.5, usually.
UNEQUAL = 0.5
MOST = 20


@dataclass(frozen=True)
class Gate:
    """Shares of simulated regression checks. ``pooled``: false FAILs if all variances were simply pooled."""

    pooled: float
    false_fail: float
    false_fail_after_run: float
    fail: float
    passed: float


def gate(cells: int, old: int, sd: float, unequal: float, runs: int, seed: int = 0, drop: float = 1.0) -> Gate:
    """Nothing dropped: any FAIL, at once and after the seeds of ``--run``. One cell dropped: its FAIL, its PASS."""
    random = np.random.default_rng(seed)
    pooled = false = after_run = failed = passed = 0
    for _ in range(runs):
        spread = sd * np.exp(random.normal(0, unequal, (cells, 1)))
        before, after = random.normal(0, spread, (cells, old)), random.normal(0, spread, (cells, FIRST))
        first = drops(before, after)
        wrong = bool(first.failed().any())
        pooled += _fails_pooled(before, after)
        false += wrong
        after_run += wrong or _fails_after_run(before, after, spread, random)
        spread[0] = sd
        before[0], after[0] = random.normal(0, sd, old), random.normal(-drop, sd, FIRST)
        found = drops(before, after)
        failed += bool(found.failed()[0])
        passed += bool(found.passed()[0] and not found.failed()[0])
    return Gate(pooled / runs, false / runs, after_run / runs, failed / runs, passed / runs)


def _fails_pooled(before: Floats, after: Floats) -> bool:
    """Whether any cell fails where all cells are taken to have one variance: the least p against its share."""
    cells, df = len(before), before.size + after.size - 2 * len(before)
    variance = (before.var(axis=1).sum() * before.shape[1] + after.var(axis=1).sum() * after.shape[1]) / df
    error = np.sqrt(variance * (1 / before.shape[1] + 1 / after.shape[1]))
    drop = float((before.mean(axis=1) - after.mean(axis=1)).max())
    return bool(t_tails(drop / error, df) / 2 < LEVELS[0] / cells and drop >= MARGIN / 2)


def _fails_after_run(before: Floats, after: Floats, spread: Floats, random: np.random.Generator) -> bool:
    """Whether any cell fails at the second look, with the seeds that ``regress --run`` trains for open ones."""
    first = drops(before, after)
    grown = [list(scores) for scores in after]
    for cell in np.flatnonzero(~first.failed() & ~first.passed()):
        figures = (float(first.drop[cell]), float(first.spread[cell]), float(first.df[cell]))
        needed = seeds_needed(*figures, before.shape[1], FIRST, len(before))
        if needed and needed[0] == before.shape[1] and needed[1] <= MOST:
            grown[cell] += list(random.normal(0, spread[cell], needed[1] - FIRST))
    return bool(drops(before, grown).failed(level=LEVELS[1]).any())


@dataclass(frozen=True)
class Table:
    """Shares of simulated tables of rows. ``seeds``: what a row was trained on, on average."""

    twins_apart: float
    any_apart: float
    told: float
    seeds: float


def ranks(
    rows: int, unequal: float, shared: float, runs: int, sd: float = 0.3, gap: float = 2.0, most: int = 0, seed: int = 0
) -> Table:
    """All rows equal: whether an A/A row and its twin, or any two rows, are told apart. One row better: whether it is.

    ``shared``: the standard deviation of what equal seeds have in common, which the A/A row has not. ``most``: seeds
    are added up to so many, where rows are open.
    """
    random = np.random.default_rng(seed)
    twins = any_ = told = trained = 0.0
    looks = looks_up_to(FIRST, most) if most else ()
    columns = most or FIRST
    for _ in range(runs):
        spread = sd * np.exp(random.normal(0, unequal, (rows, 1)))
        table = random.normal(0, spread, (rows, columns)) + random.normal(0, shared, columns)
        table[-1] = random.normal(0, spread[-2], columns) + random.normal(0, shared, columns)
        found = _seen(table, looks)
        twins += bool(found.apart[found.of(rows - 2, rows - 1)])
        any_ += bool(found.apart.any())
        table[:2] = random.normal(0, sd, (2, columns)) + random.normal(0, shared, columns)
        table[0] += gap
        found = _seen(table, looks)
        told += bool(found.apart[found.of(0, 1)])
        trained += float(np.isfinite(table).sum()) / rows
    return Table(twins / runs, any_ / runs, told / runs, trained / runs)


def _seen(table: Floats, looks: tuple[int, ...]) -> Comparisons:
    """The comparisons of ``table`` once nothing is open any more; what was not trained by then becomes nan in it."""
    if not looks:
        return compare(table)
    open_ = np.ones(len(table), bool)
    kept = np.full_like(table, np.nan)
    for look in looks:
        kept[open_, :look] = table[open_, :look]
        found = compare(kept, looks)
        undecided = ~found.apart & ~found.within(MARGIN)
        open_ = np.zeros(len(table), bool)
        open_[found.first[undecided]] = open_[found.second[undecided]] = True
        if not open_.any():
            break
    table[:] = kept
    return found


@dataclass(frozen=True)
class Coverage:
    """How often intervals of a gain hold the true one: over both sources, over seeds alone; widths relative to ours."""

    both: float
    moderated: float
    seeds_alone: float
    bootstrap_width: float


#: What is drawn of a network's hidden score: the spread of images, of what a method makes of an image, and of seeds.
SOURCES = {"images": (2.0, 1.0, 0.001), "both": (2.0, 1.0, 0.03), "seeds": (2.0, 0.5, 0.15)}


def coverage(
    source: str, seeds: int, images: int, runs: int, rows: int = 9, seed: int = 0, gain: float = 0.02
) -> Coverage:
    """Networks are right on an image where a sum of normal draws is above 0; the true accuracies are 80 and 82 %."""
    random = np.random.default_rng(seed)
    image, method, of_seed = SOURCES[source]
    total = float(np.sqrt(1 + image**2 + method**2 + of_seed**2))
    held, widths = np.zeros(3), []
    for run in range(runs):
        easy = random.normal(0, image, images)
        right = [
            float(ndtri(accuracy)) * total
            + easy
            + random.normal(0, method, images)
            + random.normal(0, of_seed, (seeds, 1))
            + random.normal(0, 1, (seeds, images))
            > 0
            for accuracy in (0.8 + gain, *([0.8] * (rows if seeds == FIRST else 1)))
        ]
        gaps = right[0].astype(float) - right[1]
        means = np.array([network.mean(axis=1) for network in right])
        found = compare(means)
        at = found.of(0, 1)
        between = (float(found.error[at]) ** 2 * seeds, float(found.df[at]))
        both, moderated = crossed_interval(gaps), crossed_interval(gaps, seeds=between)
        for number, interval in enumerate((both, moderated, t_interval(gaps.mean(axis=1)))):
            held[number] += abs(interval.mean - gain) <= (interval.half or 0)
        if run % 20 == 0:  # it takes longer than all the rest
            widths.append(_naive_width(gaps, random) / (2 * 1.96 * _error(gaps)))
    return Coverage(*(held / runs), float(np.median(widths)))


def _naive_width(gaps: Floats, random: np.random.Generator, draws: int = 200) -> float:
    """The width of a bootstrap that draws seeds and images, each with replacement."""
    seeds, images = gaps.shape
    weights = random.multinomial(images, np.full(images, 1 / images), size=draws) / images
    by_seed = gaps @ weights.T
    chosen = random.integers(seeds, size=(draws, seeds))
    low, high = np.quantile(by_seed[chosen, np.arange(draws)[:, None]].mean(axis=1), [0.025, 0.975])
    return float(high - low)


def _error(gaps: Floats) -> float:
    """The standard error over both sources, as the two-way analysis of variance estimates it without a limit."""
    seeds, images = gaps.shape
    of_seeds, of_images = gaps.mean(axis=1), gaps.mean(axis=0)
    rest = gaps - of_seeds[:, None] - of_images + gaps.mean()
    rest_mean = float((rest**2).sum()) / ((seeds - 1) * (images - 1))
    total = images * of_seeds.var(ddof=1) + seeds * of_images.var(ddof=1) - rest_mean
    return float(np.sqrt(max(total, rest_mean) / (seeds * images)))


def over_pairs(pairs: int, runs: int, seeds: int = FIRST, seed: int = 0) -> float:
    """How often the bootstrap over pairs and seeds holds a mean gain: pairs differ by 1 point (sd), seeds by 0.4."""
    random = np.random.default_rng(seed)
    held = 0
    for run in range(runs):
        gains = random.normal(0, 1, (pairs, 1)) + random.normal(0, 0.4, (pairs, seeds))
        low, high = percentiles(
            np.concatenate([b.over_pairs(b.means) for b in redrawn(gains[None], seed=run)])[:, 0], pairs
        )
        held += bool(low <= 0 <= high)
    return held / runs


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def tables(scale: float) -> Iterator[str]:
    """All tables of the page, with ``scale`` times as many runs as are usual."""

    def runs(usual: int) -> int:
        return max(int(usual * scale), 2)

    yield f"Made by `python benchmarks/simulations.py`, {runs(4000):,} simulated runs a line of the first table."
    yield from (
        "",
        "**The gate.** All cells have three new seeds; in the last two columns one of them dropped by a point.",
        "",
    )
    yield row(
        "cells",
        "baseline seeds",
        "sd",
        "sds",
        "false FAIL if pooled",
        "false FAIL",
        "with `--run`",
        "FAIL of the drop",
        "PASS of it",
    )
    yield row(*("---" for _ in range(9)))
    for cells, old, sd in ((60, 3, 0.2), (60, 10, 0.3), (10, 3, 0.2), (10, 10, 0.3)):
        for unequal in (0.0, UNEQUAL):
            found = gate(cells, old, sd, unequal, runs(4000))
            shares = (found.pooled, found.false_fail, found.false_fail_after_run, found.fail, found.passed)
            yield row(cells, old, sd, "lognormal" if unequal else "equal", *map(percent, shares))
    yield from ("", "**Ranks.** Ten rows on three seeds; sd 0.3, and one row two points better.", "")
    yield row(
        "sds",
        "sd shared by equal seeds",
        "A/A row apart from its twin",
        "any equal rows apart",
        "two points told apart",
    )
    yield row(*("---" for _ in range(5)))
    for unequal in (0.0, UNEQUAL):
        for shared in (0.0, 0.3):
            found = ranks(10, unequal, shared, runs(4000))
            shares = (found.twins_apart, found.any_apart, found.told)
            yield row("lognormal" if unequal else "equal", shared, *map(percent, shares))
    yield from (
        "",
        "**Added seeds.** Ten rows from three seeds up to twelve; one row half a point better than the others.",
        "",
    )
    yield row(
        "sds", "any equal rows apart, at any look", "half a point told apart", "seeds a row", "told apart with 3 seeds"
    )
    yield row(*("---" for _ in range(5)))
    for unequal in (0.0, UNEQUAL):
        found = ranks(10, unequal, 0.0, runs(1000), gap=0.5, most=12)
        fixed = ranks(10, unequal, 0.0, runs(1000), gap=0.5)
        shares = (percent(found.any_apart), percent(found.told), f"{found.seeds:.1f}", percent(fixed.told))
        yield row("lognormal" if unequal else "equal", *shares)
    yield from ("", "**Seeds and images.** How often a 95 % interval of a gain of two points holds it.", "")
    yield row(
        "most error from",
        "seeds",
        "test images",
        "both sources",
        "both, moderated",
        "seeds alone",
        "width of a naive crossed bootstrap",
    )
    yield row(*("---" for _ in range(7)))
    for source in SOURCES:
        for seeds, images in ((3, 500), (3, 10000), (5, 500)):
            found = coverage(source, seeds, images, runs(2000))
            shares = map(percent, (found.both, found.moderated, found.seeds_alone))
            yield row(source, seeds, images, *shares, f"{found.bootstrap_width:.2f} times")
    yield from (
        "",
        "**Pairs.** How often the 95 % interval of the bootstrap over pairs and seeds holds a mean gain.",
        "",
    )
    yield row("pairs", "three seeds each")
    yield row("---", "---")
    for pairs in (6, 9, 13):
        yield row(pairs, percent(over_pairs(pairs, runs(1000))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="times as many runs, for a first look")
    parser.add_argument("--print", action="store_true", help="print the tables and leave the page alone")
    asked = parser.parse_args()
    lines = []
    for line in tables(asked.scale):
        print(line, flush=True)
        lines.append(line)
    if not asked.print:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), "simulations", "\n".join(lines)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
