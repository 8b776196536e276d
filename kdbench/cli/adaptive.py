"""``kdbench run --until-decided``: seeds are added to the rows that are not told apart, and to no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kdbench.cli.say import many, say
from kdbench.cli.standings_text import of_plan
from kdbench.errors import EXIT_OK, UserError, listed
from kdbench.plan.expand import chosen_rows
from kdbench.plan.plan import Plan, Request
from kdbench.records import Store
from kdbench.stats.drops import MARGIN
from kdbench.stats.multiplicity import looks_up_to
from kdbench.stats.standings import open_comparisons

#: One run of what is asked for: what was planned, and how it ended.
Run = Callable[[Request], tuple[Plan, int]]


def planned_looks(request: Request, most: int, versus: str | None) -> tuple[int, ...]:
    """The numbers of seeds at which it is decided which rows get more; UserError where that makes no sense."""
    if len(request.suites) > 1:
        raise UserError("--until-decided decides within one suite; give one --suite.")
    (suite,) = request.suites
    first = request.selection.seeds or len(suite.seeds)
    if first < 2:
        raise UserError("--until-decided begins with two seeds at least, as one says nothing of chance; use --seeds 2.")
    if most <= first:
        raise UserError(
            f"--until-decided {most} adds nothing to the {first} seeds of the first look; name a higher limit."
        )
    labels = [row.label for row in chosen_rows(suite, request.selection.methods)[0]]
    if versus is not None and versus not in labels:
        raise UserError(f"--versus {versus} is no row of this run; it has {listed(labels)}.")
    return looks_up_to(first, most)


def until_decided(request: Request, store: Store, run: Run, versus: str | None) -> tuple[Plan, int]:
    """Run look by look; all that was planned together, and how the last look ended.

    A comparison is decided when one row is shown to be better, and given up when they are shown to be within the margin
    of one another. The bounds are those of ``stats.multiplicity`` for the planned looks.
    """
    plan, code = run(replace(request, selection=replace(request.selection, seeds=request.looks[0])))
    whole = plan
    for look in request.looks[1:]:
        if code != EXIT_OK or request.dry:
            break
        ((_, found),) = of_plan(whole, store)
        undecided = open_comparisons(found, MARGIN, versus)
        rows = list(dict.fromkeys(label for names in undecided for label in names))
        if not rows:
            break
        say(f"{many(len(undecided), 'comparison')} not decided yet; {look} seeds for {listed(rows)}.")
        plan, code = run(replace(request, selection=replace(request.selection, methods=tuple(rows), seeds=look)))
        trials = {trial.key: trial for trial in (*whole.trials, *plan.trials)}
        missing = {trial.key: trial for trial in (*whole.missing, *plan.missing)}
        whole = replace(whole, trials=list(trials.values()), missing=list(missing.values()))
    return whole, code
