"""Nothing to do, and values out of any sense: one sentence with file, field and rule, before anything is trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, plugin_text, suite_text
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import RUN, Cli, cli  # noqa: F401
from test_hostile_toml import refused
from test_planning_scale import plan

from kdbench.data import DATASETS
from kdbench.errors import UserError
from kdbench.methods import METHODS, Applicability, spec_from
from kdbench.methods.applicability import not_applicable
from kdbench.plan.plan import diverged_trials
from kdbench.plan.task import Task
from kdbench.protocol import RANGES, Protocol, parse_protocol
from kdbench.records import Store
from kdbench.suites import SUITES, Suite, parse_suite
from kdbench.suites.teacher import MOST_GENERATIONS
from kdbench.toml import parse_toml

MakeSuite = Callable[[str], Suite]
LEAST: dict[str, Any] = {"epochs": 10, "batch": 64, "lr": 0.1}

PAIR = '[[pairs]]\nteacher = "tutor"\nstudent = "tiny_cnn_s"\n'
SELF = 'kind = "self"\nmodel = "tiny_cnn_s"\nseed = 100'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (suite_text([]).rstrip() + "\n", "'methods' is missing"),
        ("methods = []\n" + suite_text([]), r"a suite needs \[\[pairs\]\] and \[\[methods\]\], one of each at least"),
        ("pairs = []\n" + suite_text().replace(PAIR, ""), r"a suite needs \[\[pairs\]\] and \[\[methods\]\]"),
        (suite_text().replace(PAIR, ""), "'pairs' is missing"),
        (suite_text(seeds=[]), "seeds must be a list of different whole numbers from 0"),
        (suite_text() + "[[methods]]\n", "'name' is missing"),
        (suite_text() + "[[pairs]]\n", "'teacher' is missing"),
        ("", "'name' is missing"),
    ],
)
def test_a_suite_without_anything_to_compare_is_refused(text: str, words: str) -> None:
    said = refused(lambda: parse_suite(text, "s.toml"))
    assert said.startswith("s.toml")
    with pytest.raises(UserError, match=words):
        raise UserError(said)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "dist"], "nothing of the selection can be trained; dist on tiny_cnn_s:tiny_cnn_s, say: it needs"),
        (["--method", "[!a-z]*"], "There is no method or row of suite tiny@1"),
        (["--pair", "*", "--pair", "none:*"], "There is no pair in tiny@1 named 'none:*'"),
    ],
)
def test_an_empty_selection_is_one_sentence(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
    dry: list[str],
) -> None:
    picky = replace(METHODS.get("dist"), applies=Applicability(stages=9))
    monkeypatch.setitem(METHODS._items, "dist", picky)
    make_suite(suite_text(["ce", "kd", "dist"]))
    ended = cli(*RUN, *arguments, *dry)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert words in ended.err
    assert not bench.records()
    assert diverged_trials([], Store(Path("results"))) == []


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("milestones", [0, 3], "milestones must be epochs from 1 to 10, not read [0, 3]"),
        ("milestones", [-2], "milestones must be epochs from 1 to 10, not read [-2]"),
        ("milestones", [3, 11], "milestones must be epochs from 1 to 10, not read [3, 11]"),
        ("milestones", [5, 3], "milestones must rise, not read [5, 3]"),
        ("milestones", [3, 3], "milestones must rise, not read [3, 3]"),
        ("epochs", 100_001, "epochs must be at most 100,000, not 100001"),
        ("batch", 1_000_001, "batch must be at most 1,000,000, not 1000001"),
        ("threads", 100_000, "threads must be at most 1,024, not 100000"),
        ("pad", 1025, "pad must be at most 1,024, not 1025"),
        ("momentum", -0.1, "momentum and warm_up must lie in [0, 1)"),
        ("momentum", math.inf, "momentum must be a finite number, not inf"),
        ("weight_decay", -math.inf, "weight_decay must be a finite number, not -inf"),
        ("factor", math.nan, "factor must be a finite number, not nan"),
        ("warm_up", 1.5, "momentum and warm_up must lie in [0, 1)"),
        ("split_seed", 2**63, "split_seed must be at most 9,223,372,036,854,775,807"),
        ("threads", -1, "threads must be at least 1, not -1"),
    ],
)
def test_a_senseless_protocol_is_refused(field: str, value: object, words: str) -> None:
    assert words in refused(lambda: parse_protocol({**LEAST, field: value}, "s.toml [protocol]"))


def test_milestones_stand_where_another_schedule_takes_no_notice_of_them() -> None:
    """A row or a pair may change the schedule, and the field with it would change every key that holds it."""
    base = parse_protocol({**LEAST, "milestones": [3, 10]}, "s.toml")
    assert parse_protocol({"schedule": "cosine", "epochs": 2}, "row", base).milestones == (3, 10)
    assert "milestones must be epochs from 1 to 2" in refused(lambda: parse_protocol({"epochs": 2}, "row", base))


def test_the_ranges_are_those_of_whole_numbers_and_the_bounds_are_allowed() -> None:
    assert set(RANGES) == {name for name, kind in Protocol.__annotations__.items() if kind == "int"}
    for name, bounds in RANGES.items():
        for value in bounds:
            assert getattr(parse_protocol({**LEAST, name: value}, "s.toml"), name) == value


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('weights_sha256 = "zz"', "weights_sha256 must be 64 digits of 0-9a-f, not 'zz'"),
        (f'weights_sha256 = "{"A" * 64}"', "weights_sha256 must be 64 digits of 0-9a-f"),
        (f'weights_sha256 = "{"a" * 65}"', "weights_sha256 must be 64 digits of 0-9a-f"),
        (f'weights_sha256 = """{"a" * 64}\n"""', "weights_sha256 must be 64 digits of 0-9a-f"),
        ("claimed_top1 = nan", "claimed_top1 is a percentage, not nan"),
        ("claimed_top1 = -0.1", "claimed_top1 is a percentage, not -0.1"),
        ("claimed_top1 = 100.5", "claimed_top1 is a percentage, not 100.5"),
        ("claimed_top1 = inf", "claimed_top1 is a percentage, not inf"),
        ("mean = [0.1, 0.2, 0.3]", "mean and std need 1 number each"),
        ("mean = []", "mean and std need 1 number each"),
        ("mean = [nan]", "mean must hold numbers"),
        ("std = [0]", "std numbers greater than 0"),
        ("std = [-0.5]", "std numbers greater than 0"),
        ("std = [inf]", "mean must hold numbers"),
        ("protocol = {epochs = 0}", "epochs must be at least 1"),
        ("protocol = {holdout = 1297}", "holdout must be less than the 1297 training images"),
        ("seed = -1", "seed must be at least 0"),
        ("generations = 2", "unknown field 'generations'"),
    ],
)
def test_a_senseless_teacher_is_refused(line: str, words: str) -> None:
    teacher = f'kind = "trained"\nmodel = "tiny_cnn_s"\n{line}'
    said = refused(lambda: parse_suite(suite_text(teacher=teacher), "s.toml"))
    assert said.startswith("s.toml [")
    assert words in said


def test_a_line_of_generations_ends_somewhere(tmp_path: Path) -> None:
    """The key of each is in the key of the next: at the most that is allowed, a plan is still made."""
    text = suite_text(["kd"], teacher=f"{SELF}\ngenerations = {MOST_GENERATIONS}")
    suite = parse_suite(text, "s.toml")
    assert len(suite.teachers["tutor"].lineage) == MOST_GENERATIONS
    tasks = plan(suite, tmp_path).tasks
    assert len(tasks) == MOST_GENERATIONS + 1
    assert [Task.from_json(task.to_json()) for task in tasks] == tasks
    for count in (MOST_GENERATIONS + 1, 10**9):
        more = text.replace(f"generations = {MOST_GENERATIONS}", f"generations = {count}")
        assert f"generations must be at most 32, not {count}" in refused(lambda more=more: parse_suite(more, "s.toml"))  # type: ignore[misc]
    unknown = text + '\n[teachers.other]\nkind = "self"\nmodel = "tiny_cnn_s"\ngenerations = 2\nmethod = "kd@nope"\n'
    assert "s.toml [teachers.other]: method 'kd' has no preset 'nope'" in refused(
        lambda: parse_suite(unknown, "s.toml")
    )


def test_a_batch_that_never_fills_is_planned_around() -> None:
    """A method that skips short batches would learn nothing; one that takes them gets a single short one an epoch."""
    protocol = parse_protocol({**LEAST, "batch": 1300}, "s.toml")
    greedy = replace(METHODS.get("kd"), applies=Applicability(full_batch=True))
    reason = "it learns from batches of 1300 images or more, and there are 1297 to train on"
    assert not_applicable(greedy, "tiny_cnn_s", "tiny_cnn_s", "digits", protocol) == reason
    assert not_applicable(METHODS.get("kd"), "tiny_cnn_s", "tiny_cnn_s", "digits", protocol) == ""
    held = replace(protocol, batch=1200, holdout=97)
    assert not_applicable(greedy, "tiny_cnn_s", "tiny_cnn_s", "digits", held) == ""
    assert "there are 1199 to" in not_applicable(greedy, "tiny_cnn_s", "t", "digits", replace(held, holdout=98))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": (0.1, 0.2)}, "mean and std need 1 numbers each"),
        ({"std": (0.0,)}, "std numbers greater than 0"),
        ({"mean": (math.nan,)}, "mean must hold finite numbers"),
        ({"train_size": 0}, "it needs images"),
        ({"classes": 1}, "two classes of them at least"),
        ({"image_shape": (0, 8, 8)}, "it needs images"),
    ],
)
def test_a_senseless_data_set_of_a_plugin_is_refused(changes: dict[str, Any], words: str) -> None:
    DATASETS.add("odd", replace(DATASETS.get("digits"), name="odd", **changes), "test")
    said = refused(lambda: parse_suite(suite_text().replace('"digits"', '"odd"'), "s.toml"))
    assert said.startswith("data set 'odd': ")
    assert words in said


CARD: dict[str, Any] = {
    "name": "mine",
    "title": "Mine",
    "version": 1,
    "family": "logit",
    "summary": "For tests.",
    "implementation": "mine:Mine",
    "needs": ["teacher"],
    "terms": {"ce": "task", "mine": "distill"},
    "paper": {"title": "t", "authors": "a", "venue": "v", "year": 2020, "url": "https://a.org", "bibtex": "b"},
    "hyperparameters": {
        "weight": {"type": "float", "default": 1.0, "source": "s", "min": 0.0, "max": 9.0},
        "form": {"type": "str", "default": "a", "source": "s", "choices": ["a", "b"]},
    },
    "presets": {"big": {"weight": 9.0, "source": "s"}},
    "pairs": {"a:b": {"weight": 2.0}},
    "pairs_source": "s",
    "compositions": {"mine+dkd": {"*": {"mine.weight": 3.0}, "a:b": {"dkd.alpha": 2.0}}},
    "views": {"strong": "joint"},
    "budget": {"epochs": 2.0, "views": 2, "deployed": "student"},
    "applies": {"min_batch": 2, "stages": 1},
}


def changed(path: str, value: object) -> dict[str, Any]:
    card = copy.deepcopy(CARD)
    *parents, last = path.split("/")
    place = card
    for parent in parents:
        place = place[parent]
    place[last] = value
    return card


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("budget/epochs", math.nan, "[budget]: epochs and views must lie in (0, 1000]"),
        ("budget/epochs", math.inf, "[budget]"),
        ("budget/epochs", -1.0, "[budget]"),
        ("budget/epochs", 0, "[budget]"),
        ("budget/views", -2, "[budget]"),
        ("budget/deployed", "", "[budget]"),
        ("applies/min_batch", -1, "[applies]: min_batch must be at least 1"),
        ("applies/stages", -1, "[applies]"),
        ("hyperparameters/weight/default", math.nan, "weight must be a float, not nan"),
        ("hyperparameters/weight/default", -1.0, "weight must lie in [0, 9]"),
        ("hyperparameters/weight/min", math.nan, "min and max must be finite numbers"),
        ("hyperparameters/weight/max", math.inf, "min and max must be finite numbers"),
        ("hyperparameters/weight/min", 10, "min no greater than max"),
        ("hyperparameters/form/choices", [1, 2], "choices must be a list of texts"),
        ("hyperparameters/form/default", "c", "form must be one of a, b"),
        ("hyperparameters/weight/choices", ["1.0"], "choices must be a list of texts, of which a str is one"),
        ("presets/big/weight", math.inf, "weight must be a float, not inf"),
        ("pairs/a:b", {"weight": 10.0}, "weight must lie in [0, 9]"),
        ("views/strong", [], "views must map strong to"),
        ("terms/ce", [], "terms must map each loss term"),
        ("version", 0, "version counts from 1, not 0"),
        ("hyperparameters/a.b", {"type": "int", "default": 1, "source": "s"}, "'a.b' cannot name a hyper-parameter"),
    ],
)
def test_a_senseless_card_is_refused(path: str, value: object, words: str) -> None:
    assert spec_from(CARD, "card.toml").version == 1
    said = refused(lambda: spec_from(changed(path, value), "card.toml"))
    assert said.startswith("card.toml")
    assert words in said


@pytest.mark.parametrize("place", ["*", "a:b"])
def test_what_a_card_gives_a_composition_must_be_there(place: str) -> None:
    card = changed(f"compositions/mine+dkd/{place}", {"mine.nothing": 1.0})
    METHODS.add("mine", spec_from(card, "card.toml"), "test")
    assert "'mine+dkd' has no hyper-parameter 'mine.nothing'" in refused(lambda: METHODS.resolve("mine+dkd"))


def leaves(table: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, value in table.items():
        yield f"{path}{name}"
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}/")


ODD = st.sampled_from(
    [None, True, 0, -1, 2**63, 0.5, math.nan, math.inf, "", "x", "a b", [], [[]], [1], ["x"], {}, {"x": 1}]
)


@settings(max_examples=400)
@given(st.sampled_from(list(leaves(CARD))), ODD)
def test_no_card_is_anything_but_a_method_or_one_sentence(path: str, value: object) -> None:
    try:
        spec = spec_from(changed(path, value), "card.toml")
        spec.describe()
        spec.config("a:b", {}, "test")
    except UserError as error:
        said = str(error)
        assert said.startswith("card.toml")


SUITE = suite_text(["ce", {"name": "kd", "config": {"temperature": 2.0}}], teacher=SELF)
TREE = parse_toml(SUITE, "s.toml")


def written(value: Any) -> str:
    """``value`` as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}" = {written(inner)}' for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return str(value).lower() if isinstance(value, bool | float | int) else f'"{value}"'


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for name, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield (*path, name)
        yield from places(inner, (*path, name))


@settings(max_examples=400)
@given(st.sampled_from(list(places(TREE))), ODD.filter(lambda value: value is not None))
def test_no_suite_is_anything_but_sound_or_one_sentence(path: tuple[Any, ...], value: object) -> None:
    tree = copy.deepcopy(TREE)
    place: Any = tree
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    text = "\n".join(f'"{name}" = {written(inner)}' for name, inner in tree.items())
    try:
        suite = parse_suite(text, "s.toml")
    except UserError as error:
        said = str(error)
        assert said.startswith("s.toml")
        assert len(said) < 700
    else:
        assert suite.rows
        assert suite.pairs


def test_every_suite_that_comes_with_kdbench_still_makes_sense() -> None:
    for name in SUITES:
        assert parse_suite(*SUITES.get(name)).name == name


def test_a_plugin_without_sense_is_one_sentence(cli: Cli, bench: Bench) -> None:  # noqa: F811
    path = bench.folder / "odd_plugin.py"
    path.write_text(plugin_text("odd").replace('"version": 1', '"version": 1, "budget": {"epochs": float("nan")}'))
    ended = cli("list", "methods", "--plugin", str(path))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "kdbench: odd_plugin.py [budget]: epochs and views must lie in (0, 1000], and deployed must say what is.\n"
    )
