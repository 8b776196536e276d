"""What ``run`` says of a plan before it trains."""

from __future__ import annotations

from collections.abc import Sequence

from kdbench.cli.durations import duration
from kdbench.cli.say import many, say
from kdbench.plan.cohorts import Cohort
from kdbench.plan.cut import longest_first
from kdbench.plan.outdated import Outdated
from kdbench.plan.plan import Plan
from kdbench.plan.tasks import longest_chain
from kdbench.records import Store
from kdbench.records.store import WEIGHTS


def say_plan(plan: Plan, store: Store, verbose: bool) -> None:
    """Print what will be trained and what was found done."""
    asked = len({trial.key for trial in plan.trials})
    done = asked - len(plan.missing) + len(plan.again)
    trials = many(asked, "trial")
    say(f"{plan.title}: {trials}, {done} recorded in {store.root}, {len(plan.missing)} to train.")
    if plan.listed:
        say(f"  {plan.listed} of the recorded ones were trained for another suite, and are shown in this one as well.")
    if plan.adopted:
        say(f"  {plan.adopted} of the recorded ones come from a baseline.")
    if plan.again:
        say(f"  Of the recorded ones, {len(plan.again)} to train again; the older records stay.")
    for note in dict.fromkeys(note for suite in plan.suites for note in suite.notes):
        say(f"  {note}")
    for name in plan.added:
        say(f"  {name} is not in {plan.title}; it was added because it was named exactly.")
    for label, pair, reason in plan.inapplicable:
        say(f"  {label} is not applicable to {pair}: {reason}.")
    for start in plan.starts:
        say(f"  {start}")
    for older in plan.outdated:
        say(f"  {_outdated(older)}")
    for warning in plan.warnings:
        say(f"  warning: {warning}")
    if not plan.missing:
        say("  Nothing to do: every trial of the selection is recorded.")
        return
    groups = plan.cohorts
    slots = many(plan.fleet.slots, f"{plan.fleet.kind} slot")
    say(f"  {many(len(groups), 'cohort')} on {slots}, about {duration(expected(plan))}.")
    if len(groups) < len(plan.missing):
        say(f"  {_shared(groups)}")
    if plan.weights:
        say(f"  Students are kept in {store.root / WEIGHTS}, about {_size(plan.weights)}; --no-weights keeps none.")
    if verbose:
        for task in plan.tasks:
            labels = ", ".join(dict.fromkeys(trial.label for trial in task.trials))
            say(f"  {task.title:<40} about {duration(task.cost):>9}  {labels}".rstrip())


#: Seconds in which a worker does nothing but start, about (docs/performance.md): nearly all of a very short plan.
START = 4.0


def expected(plan: Plan) -> float:
    """The seconds that ``plan`` takes on its fleet."""
    costs = [task.cost + START for task in plan.tasks]
    return max(longest_first(costs, plan.fleet), longest_chain(plan.tasks), 0.0)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 0.1):.1f} MB"


def _outdated(older: Outdated) -> str:
    """That trials of a row are recorded with other code of a plugin, and with which version where it is a package."""
    then, now, one = ", ".join(older.versions), older.plugin.version, older.trials == 1
    version = f" (version {then}, {'as now' if then == now else f'now {now}'})" if then else ""
    return (
        f"{many(older.trials, 'trial')} of {older.label} {'was' if one else 'were'} recorded with other code of plugin "
        f"{older.plugin.name}{version}; {'it is' if one else 'they are'} trained again, the older records stay."
    )


def _shared(groups: Sequence[Cohort]) -> str:
    """What the trials of a cohort have in common, and how often it would be made without that."""
    trials = [trial for group in groups for trial in group.trials]
    text = f"Batches are made once a cohort, {many(len(groups), 'time')} instead of {len(trials)}"
    taught = sum(group.teacher is not None for group in groups)
    pupils = sum(trial.teacher is not None for trial in trials)
    return (
        f"{text}, and seen by a teacher {many(taught, 'time')} instead of {pupils}." if taught < pupils else f"{text}."
    )
