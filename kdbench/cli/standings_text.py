"""A suite's standings in words: a table, what cannot be told, and the command that would tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from kdbench.cli.durations import duration
from kdbench.cli.say import in_folder, many
from kdbench.errors import listed, plain
from kdbench.plan.plan import Plan
from kdbench.records.inventory import take_inventory
from kdbench.records.store import Store
from kdbench.stats import aggregate
from kdbench.stats.aggregate import Spread
from kdbench.stats.drops import MARGIN
from kdbench.stats.intervals import Interval
from kdbench.stats.standings import Standing, Standings, open_comparisons, standings
from kdbench.suites import Suite

#: Where the records are that a command looks for by itself.
RESULTS = Path("results")

_SELECTIONS = {"last": "at the last epoch", "best_val": "at the best epoch on validation"}


def of_plan(plan: Plan, store: Store) -> list[tuple[Suite, Standings]]:
    """How the rows of each suite of ``plan`` stand by what is recorded of its trials, and soundly so."""
    keys = {trial.key for trial in plan.trials}
    found = take_inventory(store)
    rows = [row for row in found.rows if row["key"] in keys and row["evidence"] == "measured"]
    made = []
    for suite in plan.suites:
        cells = aggregate.cells(row for row in rows if row["suite"] == suite.id)
        made.append((suite, standings(cells, suite.protocol.selection, found.seen.right(suite.protocol.selection))))
    return made


def lines(
    found: Standings, suite: str, selection: str, form: str = "text", results: Path = RESULTS, asked: str = ""
) -> Iterator[str]:
    """What ``suite`` came to, as text or as Markdown for a pull request; nothing where no row finished everywhere.

    ``results``: the folder of its records, and ``asked`` what ``--suite`` is given, for the commands that it names.
    """
    if not found.rows:
        return
    marked = form == "markdown"
    title = _title(found, suite, selection)
    rows = [_head(found), *(_cells(row, found) for row in found.rows)]
    yield f"**{_escaped(title)}**" if marked else title
    yield ""
    yield from (_markdown(rows) if marked else _columns(rows))
    notes = list(_notes(found, f"{asked or suite.partition('@')[0]}{in_folder(results)}"))
    if notes:
        yield ""
    yield from (f"* {_escaped(note)}" if marked else note for note in notes)


def _title(found: Standings, suite: str, selection: str) -> str:
    seeds = sorted({row.n for row in found.rows})
    counted = many(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    images = f", {found.images:,} test images" if found.images else ""
    where = found.pairs[0] if len(found.pairs) == 1 else many(len(found.pairs), "pair")
    return f"{suite} on {where}: top-1 {_SELECTIONS.get(selection, selection)}, {counted}{images}."


def _head(found: Standings) -> list[str]:
    n = ["n"] if len({row.n for row in found.rows}) > 1 else []
    return ["rank", "row", *n, "top-1", "gain", "on other images", "cost", "time"]


def _cells(row: Standing, found: Standings) -> list[str]:
    n = [str(row.n)] if len({each.n for each in found.rows}) > 1 else []
    gain = "the student alone" if row.kind == "baseline" else "–" if row.gain is None else f"{row.gain.mean:+.2f}"
    half = "" if row.gain is None or row.gain.half is None else f" ± {row.gain.half:.2f}"
    images = row.gain_on_images
    return [
        _place(row, len(found.rows)),
        f"{row.label}{' (A/A)' if row.kind == 'aa' else ''}",
        *n,
        f"{row.top1:.2f}",
        f"{gain}{half}",
        "" if images is None or images.half is None else f"± {images.half:.2f}",
        _times(row.cost) + (" *" if row.efficient and row.cost else ""),
        "" if row.seconds is None else duration(row.seconds.middle),
    ]


def _place(row: Standing, rows: int) -> str:
    first, last = row.rank
    return str(first) if first == last else f"{first}–{last}"


def _times(cost: Spread | None) -> str:
    if cost is None:
        return ""
    return f"{cost.middle:.2f}" + (f" ({cost.low:.2f}–{cost.high:.2f})" if cost.high - cost.low >= 0.005 else "")


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield plain("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())


def _markdown(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield f"| {' | '.join(_escaped(word) for word in row)} |"
        if number == 0:
            yield f"|{' :-- |' * len(row)}"


def _escaped(word: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|" else letter for letter in plain(word))


def _notes(found: Standings, suite: str) -> Iterator[str]:
    """What a reader should know of the table, and what nothing in it can tell."""
    yield (
        "Rows share a rank where neither is shown to be better, all comparisons together; each ± is of its row alone. "
        "Cost: own training time relative to plain cross-entropy, median and range; "
        "* no row costs as little and is as good."
    )
    if found.noise is not None:
        yield f"Differences of less than {found.noise:.2f} points between two rows are within what chance does."
    if found.apart:
        yield (
            "Not compared, as they lack a pair or a finished seed, or have several configurations, or a protocol or a "
            f"supervision of their own: {listed(found.apart)}."
        )
    if found.looks:
        yield (
            f"Seeds were added where rows were not told apart, with looks at {', '.join(map(str, found.looks))} seeds; "
            "the ranks keep the error of all looks together."
        )
    yield from _untold(found, suite)


def _untold(found: Standings, suite: str) -> Iterator[str]:
    seeds = max(row.n for row in found.rows)
    if seeds == 1:
        yield (
            "One seed says nothing of other seeds, so all rows share all ranks; "
            f"kdbench run --suite {suite} --seeds 3 would tell more."
        )
        alone = [row.label for row in found.rows if row.mcnemar is not None and row.mcnemar < 0.05]
        if alone:
            yield f"On these very images {_are(alone)} told apart from the student alone (McNemar's test)."
        return
    undecided = open_comparisons(found, MARGIN)
    if undecided:
        rows = list(dict.fromkeys(label for names in undecided for label in names))
        text = f"{seeds} seeds do not tell which is better in {many(len(undecided), 'comparison')} of {listed(rows, 8)}"
        ended = found.looks and seeds >= found.looks[-1]
        more = f"kdbench run --suite {suite} --until-decided {4 * seeds} adds seeds to these alone"
        yield f"{text}, and no more were to be trained." if ended else f"{text}; {more}."
    doubtful = [row.label for row in found.rows if _off_zero(row.gain) and not _off_zero(row.gain_on_images)]
    if doubtful:
        images = f"{found.images:,} test images" if found.images else "these test images"
        yield (
            f"{images[0].upper()}{images[1:]} do not tell whether {_are(doubtful)} any other than the student alone on "
            "other images; more seeds will not change that."
        )


def _are(labels: Sequence[str]) -> str:
    return f"{listed(labels)} {'is' if len(labels) == 1 else 'are'}"


def _off_zero(interval: Interval | None) -> bool:
    """Whether zero lies outside of ``interval``; not, where there is none."""
    return bool(
        interval and interval.low is not None and interval.high is not None and interval.low * interval.high > 0
    )
