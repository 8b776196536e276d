"""Seeds are added to the rows that are not told apart, and to no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, suite_text
from test_cli import RUN, Cli, MakeSuite, cli  # noqa: F401
from test_intervals import _record

from kdbench.cli import adaptive
from kdbench.errors import EXIT_INCOMPLETE, EXIT_OK, UserError
from kdbench.plan.expand import Selection
from kdbench.plan.fleet import cpu
from kdbench.plan.plan import Plan, Request
from kdbench.records import Store
from kdbench.stats.aggregate import cells
from kdbench.stats.standings import standings
from kdbench.suites import parse_suite

#: What each row comes to, seed by seed: kd and dkd are close, at is far off.
SCORES = {
    "ce": [70 + d for d in (0.1, -0.1, 0, 0.2, -0.2, 0.1, 0, -0.1)],
    "kd": [72 + d for d in (1.0, -1.0, 0, 0.5, -0.5, 1.0, -1.0, 0)],
    "dkd": [72.9 + d for d in (-1.0, 1.0, 0, 1.0, -0.5, -1.0, 1.0, 0)],
    "at": [50 + d for d in (0.1, -0.1, 0, 0.2, -0.2, 0.1, 0, -0.1)],
}


class Trainings:
    """A backend in a moment: what was asked for is recorded at once, with the SCORES above."""

    def __init__(self, fails_at: int = 0) -> None:
        self.asked: list[tuple[tuple[str, ...], int]] = []
        self.seeds: dict[str, int] = dict.fromkeys(SCORES, 0)
        self.fails_at = fails_at

    def run(self, request: Request) -> tuple[Any, int]:
        rows = request.selection.methods or tuple(SCORES)
        assert request.selection.seeds is not None
        self.asked.append((rows, request.selection.seeds))
        for row in rows:
            self.seeds[row] = request.selection.seeds
        plan = Plan(
            suites=request.suites,
            trials=[],
            missing=[],
            listed=0,
            adopted=0,
            added=[],
            inapplicable=[],
            warnings=(),
            fleet=cpu(),
            cohorts=[],
            tasks=[],
            outdated=[],
            again={},
        )
        return plan, EXIT_INCOMPLETE if len(self.asked) == self.fails_at else EXIT_OK

    def stand(self, *_: Any) -> Any:
        made = [
            _record(row, "none:b" if row == "ce" else "a:b", seed, top1)
            for row, scores in SCORES.items()
            for seed, top1 in enumerate(scores[: self.seeds[row]])
        ]
        return [(None, standings(cells(made), "last"))]


@pytest.fixture
def request_() -> Request:
    suite = parse_suite(suite_text(list(SCORES), seeds=[0, 1, 2]), "tiny.toml")
    return Request((suite,), Selection(), Path("data"), looks=(3, 5, 8))


def until(request: Request, trainings: Trainings, monkeypatch: pytest.MonkeyPatch, versus: str | None = None) -> int:
    monkeypatch.setattr(adaptive, "of_plan", trainings.stand)
    return adaptive.until_decided(request, Store(Path("results")), trainings.run, versus)[1]


def test_only_rows_of_an_open_comparison_get_more(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = Trainings()
    assert until(request_, trainings, monkeypatch) == EXIT_OK
    assert trainings.asked[0] == (tuple(SCORES), 3)
    assert [seeds for _, seeds in trainings.asked] == [3, 5, 8]
    assert set(trainings.asked[2][0]) == {"kd", "dkd"}
    assert all("at" not in rows for rows, _ in trainings.asked[1:])


def test_a_named_row_narrows_what_is_to_be_decided(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = Trainings()
    assert until(request_, trainings, monkeypatch, versus="at") == EXIT_OK
    assert len(trainings.asked) == 1


def test_it_ends_where_a_look_left_trials(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = Trainings(fails_at=1)
    assert until(request_, trainings, monkeypatch) == EXIT_INCOMPLETE
    assert len(trainings.asked) == 1


def test_what_makes_no_sense_is_a_sentence(request_: Request) -> None:
    assert adaptive.planned_looks(request_, 8, "kd") == (3, 5, 8)
    with pytest.raises(UserError, match="adds nothing to the 3 seeds"):
        adaptive.planned_looks(request_, 3, None)
    with pytest.raises(UserError, match="two seeds at least"):
        adaptive.planned_looks(replace(request_, selection=Selection(seeds=1)), 8, None)
    with pytest.raises(UserError, match="--versus nope is no row of this run"):
        adaptive.planned_looks(request_, 8, "nope")


def test_a_run_adds_seeds_and_its_records_say_so(cli: Cli, bench: Bench, make_suite: MakeSuite) -> None:  # noqa: F811
    make_suite(suite_text(["ce", "kd"], epochs=1, seeds=[0, 1]))
    assert "--until-decided" in cli(*RUN, "--versus", "ce").err
    dry = cli(*RUN, "--until-decided", "3", "--dry-run")
    assert (dry.code, dry.err) == (0, "")
    assert "4 trials" in dry.out
    ended = cli(*RUN, "--until-decided", "3")
    assert (ended.code, ended.err) == (0, "")
    assert "1 comparison not decided yet; 3 seeds for " in ended.out
    assert "with looks at 2, 3 seeds" in ended.out
    assert "no more were to be trained" in ended.out
    records, problems = bench.store.read()
    assert not problems
    looks = {record["label"]: record["provenance"].get("looks") for record in records}
    assert looks == {"ce": [2, 3], "kd": [2, 3], "teacher": None}
    assert {record["seed"] for record in records if record["label"] == "kd"} == {0, 1, 2}
