"""A pin is a file of its own: none is lost, two that differ are named, and damage is one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from bench import Bench, suite_text
from test_cli import RUN, Cli, cli  # noqa: F401
from test_teachers import CHECKPOINT, keep, weights

from kdbench.errors import UserError
from kdbench.records import Store
from kdbench.records.pins import bring_over_pins
from kdbench.suites import Suite


@pytest.fixture
def box(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def files(box: Store) -> list[str]:
    return sorted(p.relative_to(box.root).as_posix() for p in box.root.rglob("*") if p.is_file())


def test_pins_are_kept_by_suite(box: Store) -> None:
    box.pin("one", "a", "1" * 64)
    box.pin("one", "b", "2" * 64)
    box.pin("two", "a", "3" * 64)
    box.pin("one", "b", "2" * 64)
    assert box.pins("one") == {"a": "1" * 64, "b": "2" * 64}
    assert box.pins("two") == {"a": "3" * 64}
    assert box.pins("three") == {}
    assert files(box) == [
        "pins/one/a.111111111111.json",
        "pins/one/b.222222222222.json",
        "pins/two/a.333333333333.json",
    ]


def test_many_writers_at_once_lose_no_pin(box: Store) -> None:
    """Each of them pins a teacher of its own, and all of them one that they share."""
    count, started = 16, Barrier(16)

    def write(number: int) -> None:
        started.wait()
        box.pin("one", "shared", "0" * 64)
        box.pin("one", f"own-{number}", f"{number:064x}")

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(write, range(count)))
    assert box.pins("one") == {"shared": "0" * 64} | {f"own-{n}": f"{n:064x}" for n in range(count)}
    assert len(files(box)) == count + 1


def test_two_pins_of_a_teacher_that_differ_are_an_error_that_names_both(box: Store) -> None:
    box.pin("one", "a", "1" * 64)
    box.pin("one", "a", "2" * 64)
    with pytest.raises(UserError) as caught:
        box.pins("one")
    assert all(f"one/a.{digit * 12}.json" in str(caught.value) for digit in "12")
    assert box.pins("two") == {}
    (box.root / "pins" / "one" / "a.222222222222.json").unlink()
    assert box.pins("one") == {"a": "1" * 64}


EARLY = {"one": {"a": "1" * 64, "b": "2" * 64}, "two": {"a": "3" * 64}}


def early(box: Store, pins: object = EARLY) -> Path:
    box.root.mkdir()
    (box.root / "pins.json").write_text(json.dumps(pins))
    return box.root / "pins.json"


def test_the_one_file_of_earlier_versions_counts_and_is_brought_over(box: Store) -> None:
    path = early(box)
    assert {suite: box.pins(suite) for suite in EARLY} == EARLY
    assert files(box) == ["pins.json"], "reading writes nothing"
    bring_over_pins(box.root)
    assert {suite: box.pins(suite) for suite in EARLY} == EARLY
    assert not path.exists()
    bring_over_pins(box.root)


def test_a_pin_that_contradicts_the_earlier_file_names_both(box: Store) -> None:
    early(box)
    box.pin("two", "a", "4" * 64)
    with pytest.raises(UserError, match=r"pins\.json and .*two/a\.444444444444\.json pin the teacher a to different"):
        box.pins("two")
    assert box.pins("one") == EARLY["one"]


@pytest.mark.parametrize(
    "pins",
    [
        [],
        {"one": 3},
        {"one": {"a": 3}},
        {"one": {"a": "1" * 63}},
        {"one": {"../../a": "1" * 64}},
        {"../one": {"a": "1" * 64}},
        {"one": {"a": None}},
    ],
)
def test_an_earlier_file_of_another_form_is_refused_and_leads_nowhere(box: Store, pins: object) -> None:
    path = early(box, pins)
    for act in (lambda: box.pins("one"), lambda: bring_over_pins(box.root)):
        with pytest.raises(UserError, match=r"pins\.json cannot be read \(it holds something else than pins\)"):
            act()
    assert [p.name for p in box.root.parent.iterdir()] == ["results"]
    assert files(box) == [path.name]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "3",
        '{"teacher": "a"}',
        '{"teacher": "a", "weights_sha256": 3}',
        '{"teacher": ["a"], "weights_sha256": "x"}',
        json.dumps({"teacher": "b", "weights_sha256": "1" * 64}),
        json.dumps({"teacher": "a", "weights_sha256": "2" * 64}),
    ],
)
def test_a_pin_whose_name_is_not_what_it_says_is_named(box: Store, text: str) -> None:
    box.pin("one", "a", "1" * 64)
    box.pin("two", "a", "1" * 64)
    (box.root / "pins" / "one" / "a.111111111111.json").write_text(text)
    with pytest.raises(UserError, match=r"one/a\.111111111111\.json cannot be read \(its name and what it says"):
        box.pins("one")
    assert box.pins("two") == {"a": "1" * 64}


def test_a_run_brings_pins_over_and_one_without_a_teacher_asks_for_none(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: Callable[[str], Suite],
) -> None:
    make_suite(suite_text(["ce", "kd"], epochs=1, teacher=CHECKPOINT))
    keep(bench, weights())
    pin = Path("results/pins.json")
    pin.parent.mkdir()
    pin.write_text("{")
    assert cli(*RUN, "--method", "ce").code == 0
    refused = cli(*RUN)
    assert refused.code == 2
    assert "pins.json cannot be read" in refused.err
    pin.write_text(json.dumps({"tiny": {"tutor": "1" * 64}}))
    planned = cli(*RUN, "--method", "kd", "--dry-run").out
    assert "0 recorded" in planned
    assert "are not the pinned ones" in planned
    assert pin.exists()
    other = cli(*RUN, "--method", "kd")
    assert other.code == 2
    assert "are not the pinned ones" in other.err
    assert not pin.exists()
    assert bench.store.pins("tiny") == {"tutor": "1" * 64}


def test_a_run_that_finds_another_pin_when_it_has_written_its_own_trains_nothing(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: Callable[[str], Suite],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kdbench.plan import pins

    def also_used_elsewhere(*arguments: object) -> str:
        bench.store.pin("tiny", "tutor", "1" * 64)
        return found(*arguments)  # type: ignore[arg-type]

    found = pins.checkpoint_digest
    monkeypatch.setattr(pins, "checkpoint_digest", also_used_elsewhere)
    make_suite(suite_text(["kd"], epochs=1, teacher=CHECKPOINT))
    keep(bench, weights())
    ended = cli(*RUN)
    assert ended.code == 2
    assert "pin the teacher tutor to different weights" in ended.err
    assert not bench.records()
