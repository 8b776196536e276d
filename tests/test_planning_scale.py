"""Planning is linear in rows, pairs and seeds, by the work that is counted: no clock decides here."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench import suite_text

from kdbench import methods
from kdbench.cli.plan_text import say_plan
from kdbench.errors import UserError
from kdbench.methods import METHODS
from kdbench.plan import expand as expand_module
from kdbench.plan.cut import longest_first
from kdbench.plan.expand import MOST_TRIALS, Selection, chosen_rows, chosen_seeds, expand
from kdbench.plan.fleet import cpu
from kdbench.plan.plan import Plan, Request, make_plan
from kdbench.plan.task import Task
from kdbench.plan.tasks import _bundles
from kdbench.records import Store
from kdbench.suites import Suite, parse_suite
from kdbench.trials.trial import Trial


def rows(count: int) -> str:
    """A suite of so many rows: plain ones and sums, all of them different trials."""
    made: list[str | dict[str, Any]] = ["ce"]
    for number in range(1, count):
        name, knob = ("kd", "kd_weight") if number % 2 else ("wttm+crd", '"crd.weight"')
        made.append({"name": name, "label": f"row-{number}", "config": {knob: number / 1000}})
    return suite_text(made)


def pairs(count: int) -> str:
    extra = "\n".join(
        f'[[pairs]]\nteacher = "tutor"\nstudent = "tiny_cnn_m"\nname = "t{number}:s{number}"' for number in range(count)
    )
    return suite_text(["ce", "kd"], extra=extra)


def plan(suite: Suite, folder: Path, **selection: Any) -> Plan:
    """What ``run --dry-run`` makes and says."""
    store = Store(folder / "results")
    made = make_plan(Request((suite,), Selection(**selection), folder / "data", dry=True), store, cpu(2))
    say_plan(made, store, verbose=True)
    return made


def calls(work: Callable[[], object]) -> int:
    """How many functions, Python's own included, are called to do ``work``."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    ("text", "selection", "count"),
    [
        (rows, lambda n: {}, 40),
        (pairs, lambda n: {}, 40),
        (lambda n: rows(3), lambda n: {"seeds": n}, 100),
        (rows, lambda n: {"methods": (*(f"row-{i}" for i in range(1, n)), "*"), "pairs": ("*",) * n}, 40),
    ],
    ids=["rows", "pairs", "seeds", "filters"],
)
def test_four_times_as_much_is_four_times_the_work(
    tmp_path: Path, text: Callable[[int], str], selection: Callable[[int], dict[str, Any]], count: int
) -> None:
    def work(size: int) -> int:
        written, chosen = text(size), selection(size)
        return calls(lambda: plan(parse_suite(written, "s.toml"), tmp_path, **chosen))

    work(2)  # what is cached is there from now on
    assert work(4 * count) < 4.4 * work(count)


def test_a_trial_is_hashed_once_and_a_composition_resolved_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = parse_suite(rows(9), "s.toml")
    hashed: Counter[tuple[str, int]] = Counter()
    resolved: Counter[str] = Counter()
    identity, resolve = Trial.identity, methods.resolve

    def counted(self: Trial) -> dict[str, Any]:
        hashed[self.label, self.seed] += 1
        return identity(self)

    def looked_up(name: str, lookup: Any) -> Any:
        resolved[name] += 1
        return resolve(name, lookup)

    monkeypatch.setattr(Trial, "identity", counted)
    monkeypatch.setattr(methods, "resolve", looked_up)
    fresh = methods.MethodRegistry()
    monkeypatch.setattr(METHODS, "_composed", fresh._composed)
    for name in METHODS:
        fresh.add(name, METHODS.get(name), "test")
    made = plan(suite, tmp_path, seeds=50)
    assert len(made.trials) == 9 * 50
    teachers = [count for (label, _), count in hashed.items() if label == "teacher"]
    assert teachers == [1]
    assert all(count == 1 for (label, _), count in hashed.items() if label != "teacher")
    assert resolved == {"wttm+crd": 1}


def test_a_protocol_and_a_configuration_are_made_once_for_all_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = parse_suite(rows(5), "s.toml")
    made: Counter[int] = Counter()
    config = methods.MethodSpec.config
    monkeypatch.setattr(methods.MethodSpec, "config", lambda *args: made.update([seeds]) or config(*args))
    for seeds in (2, 1, 40):  # the first time, the teacher's own training is planned as well
        expand(suite, Selection(seeds=seeds), "0" * 64)
    assert made[1] == made[40]


def test_seeds_go_on_from_the_last_without_a_look_at_all_of_them() -> None:
    looks = 0

    class Watched(int):
        def __gt__(self, other: int) -> bool:
            nonlocal looks
            looks += 1
            return int(self) > other

        def __lt__(self, other: int) -> bool:
            return not self > other

    suite = replace(parse_suite(suite_text(), "s.toml"), seeds=(Watched(3), Watched(7)))
    assert chosen_seeds(suite, 500) == (3, *range(7, 506))
    assert looks <= 2


@pytest.mark.parametrize("slots", [1, 2, 7, 100])
def test_small_cohorts_are_dealt_longest_first_to_the_shortest_pile(slots: int) -> None:
    members: list[Any] = [(f"cohort {number}", float((7 * number) % 13 + 1)) for number in range(40)]
    piles: list[list[Any]] = [[] for _ in range(min(slots, 40))]
    for member in sorted(members, key=lambda member: -member[1]):
        min(piles, key=lambda pile: sum(cost for _, cost in pile)).append(member)
    assert _bundles([("long", 99.0), *members], slots) == [[("long", 99.0)], *piles]  # type: ignore[list-item]


@pytest.mark.parametrize("slots", [1, 2, 7, 100])
def test_the_makespan_is_that_of_the_longest_first_rule(slots: int) -> None:
    costs = [float((7 * number) % 13 + 1) for number in range(40)]
    loads = [0.0] * slots
    for cost in sorted(costs, reverse=True):
        loads[loads.index(min(loads))] += cost
    assert longest_first(costs, cpu(slots)) == max(loads)
    assert longest_first([], cpu(slots)) == 0.0


def test_a_plan_that_no_machine_could_hold_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = parse_suite(suite_text(["ce", "kd"]), "s.toml")
    monkeypatch.setattr(expand_module, "Trial", lambda **_: pytest.fail("a trial was made"))
    for count in (MOST_TRIALS + 1, 10**12, 10**400):
        with pytest.raises(UserError, match="--seeds must be at most 1,000,000, not ") as caught:
            expand(suite, Selection(seeds=count), "0" * 64)
        assert len(str(caught.value)) < 200
    with pytest.raises(UserError, match=r"tiny@1: the selection is of 2,000,000 trials, a plan of at most 1,000,000"):
        expand(suite, Selection(seeds=MOST_TRIALS), "0" * 64)


def test_a_task_is_the_same_after_a_way_through_its_file(tmp_path: Path) -> None:
    made = plan(parse_suite(rows(4), "s.toml"), tmp_path)
    for task in made.tasks:
        assert Task.from_json(task.to_json()) == task
        assert json.loads(task.to_json())["cache"] == str(task.cache)


def test_a_glob_is_added_once_however_often_it_is_given() -> None:
    chosen, added = chosen_rows(parse_suite(suite_text(["ce"]), "s.toml"), ["ce", "kd", "kd", "c*"])
    assert ([row.label for row in chosen], added) == (["ce", "kd"], ["kd"])


def test_a_method_that_is_registered_later_is_found_in_compositions() -> None:
    """What was resolved before is not kept past a change of the registry."""
    assert "kd+late" not in METHODS
    METHODS.add("late", replace(METHODS.get("dkd"), name="late"), "test")
    spec, fixed = METHODS.resolve("kd@t1-half+late")
    assert [part.name for part in spec.parts] == ["kd", "late"]
    fixed.clear()
    assert METHODS.resolve("kd@t1-half+late")[1], "the caller's copy is its own"
