"""Text that nobody would write by accident: refused in one sentence with its place, in bounded memory and time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import ROOT, suite_text
from hypothesis import given
from hypothesis import strategies as st
from test_cli import RUN, Cli, cli  # noqa: F401

from kdbench.errors import UserError, plain
from kdbench.methods import METHODS, load_card, parse_card
from kdbench.models import MODELS
from kdbench.plan.expand import Selection, expand
from kdbench.plan.task import Task
from kdbench.records import Store
from kdbench.render.content import load_content
from kdbench.suites import TEACHERS, Suite, parse_suite
from kdbench.toml import DEEPEST, LONGEST, parse_toml, read_toml

SUITE = suite_text(["ce", "kd"])
HUGE = "9" * 400


def brief(value: object) -> str:
    """The name of a case, which would be as long as its text."""
    return repr(value)[:32]


def refused(work: Callable[[], object]) -> str:
    """What ``work`` is refused with: one short sentence that a terminal can show as it is."""
    with pytest.raises(UserError) as caught:
        work()
    said = str(caught.value)
    assert len(said) < 700
    assert plain(said) == said
    assert said.endswith(".")
    return said


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version = 1", f"version = {HUGE}", "version is 9999.*, which 64 bits do not hold"),
        ("seeds = [0]", f"seeds = [{HUGE}]", "seeds is 9999.*, which 64 bits do not hold"),
        ("epochs = 2", f"epochs = {HUGE}", r"protocol.epochs is 9999.*, which 64 bits do not hold"),
        ("lr = 0.1", f"lr = {HUGE}", r"protocol.lr is 9999.*, which 64 bits do not hold"),
        ("lr = 0.1", f"lr = {HUGE}.0", r"\[protocol\]: lr must be a finite number, not inf"),
        ("seed = 100", f"seed = {2**63}", r"teachers.tutor.seed is 9223372036854775808, which 64 bits"),
        ('name = "kd"', f'name = "kd"\nconfig = {{temperature = {HUGE}}}', "methods.config.temperature is 9999"),
        ('name = "kd"', f'name = "kd"\nstream = {2**64}', "methods.stream is 18446744073709551616"),
        ("version = 1", f"version = {'9' * 5000}", "a whole number has too many digits"),
        ("seeds = [0]", f"seeds = {'[' * 100_000}", "lie more than 32 deep in one another"),
        ("seeds = [0]", f"seeds = {'[' * 100}0{']' * 100}", "lie more than 32 deep in one another"),
        ("seeds = [0]", f"seeds = {'{a=' * 50_000}", "lie more than 32 deep in one another"),
        ("version = 1", f"version = 1\n{'a.' * 200_000}a = 1", "a key has more than 32 parts"),
        ("version = 1", f"version = 1\n{'a.' * 50}a = 1", "lie more than 32 deep in one another"),
        ("epochs = 2", f"epochs = 2\nx = {{{'a.' * 200_000}a = 1}}", "a key has more than 32 parts"),
        ('title = "Tiny"', r'title = "Tiny\u001b[2J"', r"title holds the character U\+001B, which cannot be seen"),
        ('title = "Tiny"', r'title = "Tiny\u0000"', r"title holds the character U\+0000"),
        ('title = "Tiny"', 'title = "Tiny\x85"', r"title holds the character U\+0085"),
        ('title = "Tiny"', 'title = "Tiny\ud800"', r"title holds the character U\+D800"),
        ('title = "Tiny"', 'title = "Tiny\x1b"', "not valid TOML"),
        ('title = "Tiny"', r'title = "Tiny\ud800"', "not valid TOML"),
        ('title = "Tiny"', 'title = "\u202eyniT"', r"title holds the character U\+202E"),
        ('"For tests."', '"For\u2028kdbench: all is well."', r"summary holds the character U\+2028"),
        ("seeds = [0]", 'seeds = [0]\nnotes = ["a", "b\\u009b31m"]', r"notes holds the character U\+009B"),
        ('name = "kd"', r'name = "kd\u0007"', r"methods.name holds the character U\+0007"),
        ('name = "kd"', r'name = "kd"' + '\nlabel = "k\u200fd"', r"methods.label holds the character U\+200F"),
        ("seed = 100", r"seed = 100" + '\nsource = "\ufeff"', r"teachers.tutor.source holds the character U\+FEFF"),
        ("version = 1", 'version = 1\n"a\\u001b" = 1', r"a key holds the character U\+001B"),
        ("[teachers.tutor]", '["teach\\u0007ers".tutor]', r"a key holds the character U\+0007"),
        ("version = 1", f"version = 1\n{'x' * 100_000} = 1", "the key 'xxx.* has more than 200 characters"),
        ('name = "kd"', f'name = "{"k" * 100_000}"', "too long: a method is written in at most 200"),
        ('name = "kd"', f'name = "kd"\nlabel = "{"k" * 100_000}"', "cannot name a label"),
        ('student = "tiny_cnn_s"', f'student = "{"s" * 100_000}"', "There is no model named 'sss"),
        ('student = "tiny_cnn_s"', r'student = "timm/a b"', "There is no model named 'timm/a b'"),
        ('teacher = "tutor"', f'teacher = "{"t" * 100_000}"', "is not under"),
        ('"digits"', f'"{"d" * 100_000}"', "There is no data set named 'ddd"),
        ("seeds = [0]", f"seeds = [{'0, ' * 50_000}]", "seeds must be a list of different"),
        ("lr = 0.1", f'lr = "{"x" * 100_000}"', "lr must be float"),
        ("version = 1", "version = 1\n#" + "x" * LONGEST, "it has more than 4 MiB"),
        ("version = 1", "version = 1979-05-27", "version must be an int"),
    ],
    ids=brief,
)
def test_a_hostile_suite_is_one_sentence(old: str, new: str, words: str) -> None:
    assert old in SUITE
    said = refused(lambda: parse_suite(SUITE.replace(old, new, 1), "s.toml"))
    assert said.startswith("s.toml")
    with pytest.raises(UserError, match=words):
        raise UserError(said)


def test_a_byte_order_mark_and_the_line_ends_of_another_system_change_nothing() -> None:
    plain = parse_suite(SUITE, "s.toml")
    assert parse_suite("\ufeff" + SUITE.replace("\n", "\r\n"), "s.toml") == plain


def test_text_in_any_script_is_kept() -> None:
    text = SUITE.replace('"Tiny"', '"Крошка 小さい קטן \U0001f469\u200d\U0001f52c"').replace(
        '"For tests."', '"""\nTwo\n\tlines"""'
    )
    suite = parse_suite(text, "s.toml")
    assert (suite.title, suite.summary) == ("Крошка 小さい קטן \U0001f469\u200d\U0001f52c", "Two\n\tlines")


def test_the_limits_are_where_they_are_said_to_be() -> None:
    whole = f"a = {2**63 - 1}\nb = {-(2**63)}\n"
    assert parse_toml(whole, "x") == {"a": 2**63 - 1, "b": -(2**63)}
    deep = DEEPEST - 2
    assert parse_toml(f"a = {'[' * deep}1{']' * deep}", "x")
    assert refused(lambda: parse_toml(f"a = {'[' * (deep + 1)}1{']' * (deep + 1)}", "x"))
    assert parse_toml("#".ljust(LONGEST), "x") == {}
    assert refused(lambda: parse_toml("#".ljust(LONGEST + 1), "x"))
    assert parse_toml('a = "see p. 3......................................................."', "x")


def test_a_hostile_card_a_hostile_teacher_and_a_hostile_site_are_one_sentence_too(tmp_path: Path) -> None:
    for text in (f"version = {HUGE}", 'title = "\x9b2J"', f"pairs = {'[' * 9999}", "x" * 100_000):
        assert refused(lambda text=text: parse_card(text, "card.toml")).startswith("card.toml")  # type: ignore[misc]
        TEACHERS.add("offered", (text, "offered.toml"), "test")
        suite = SUITE.replace('teacher = "tutor"', 'teacher = "offered"')
        assert refused(lambda suite=suite: parse_suite(suite, "s.toml")).startswith("offered.toml")  # type: ignore[misc]
        del TEACHERS._items["offered"]
        (tmp_path / "site.toml").write_text(text, encoding="utf-8")
        assert refused(lambda: load_content(tmp_path)).startswith(f"{tmp_path}")


@pytest.mark.parametrize("read", [load_card, read_toml])
def test_what_is_no_file_of_text_is_one_sentence(tmp_path: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / "latin.toml").write_bytes(b'name = "na\xefve"')
    assert "cannot be read" in refused(lambda: read(tmp_path / "latin.toml"))
    os.mkfifo(tmp_path / "pipe.toml")
    for name in ("pipe.toml", "none.toml", "."):
        assert "there is no such file" in refused(lambda name=name: read(tmp_path / name))  # type: ignore[misc]


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "{}", "[]", '{"results": 1}', "nul", '{"a": ' + "9" * 5000 + "}"], ids=brief
)
def test_what_is_no_task_is_one_sentence(text: str) -> None:
    assert refused(lambda: Task.from_json(text)).startswith("The task file cannot be read")


def test_pins_that_are_nested_without_end_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "pins.json").write_text("[" * 100_000)
    assert "pins.json cannot be read" in refused(lambda: Store(tmp_path).pins("s"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", HUGE], "--seeds must be at most 1,000,000, not 999"),
        (["--seeds", f"-{HUGE}"], "--seeds must be at least 1, not -999"),
        (["--slots", HUGE], "--slots must be at most 1024, not 999"),
        (["--slots", "1000000000"], "--slots must be at most 1024, not 1000000000"),
        (["--method", "lskd(" * 300 + "kd" + ")" * 300], "too long"),
        (["--method", "lskd(" * 30 + "kd" + ")" * 30], "too deep"),
        (["--method", "kd\x1b[31m"], "named 'kd\\x1b[31m'"),
        (["--method", "[" * 1000], "There is no method"),
        (["--method", "[" * 100_000], "is too long: a pattern has at most 1,000 characters"),
        (["--pair", "*a" * 500], "There is no pair"),
        (["--pair", "*a" * 50_000], "is too long: a pattern has at most 1,000 characters"),
        (["--suite", "x" * 100_000], "There is no suite"),
        (["--suite", "tiny@" + "9" * 100_000], "Suite 'tiny' is at version 1 here, not 999"),
    ],
    ids=brief,
)
def test_a_hostile_command_line_is_one_sentence(
    cli: Cli,  # noqa: F811
    make_suite: Callable[[str], Suite],
    arguments: list[str],
    words: str,
) -> None:
    make_suite(SUITE)
    ended = cli(*RUN, *arguments)
    assert ended.code == 2
    assert ended.err.startswith("kdbench: ")
    assert ended.err.count("\n") == 1
    assert len(ended.err) < 700
    assert "\x1b" not in ended.err
    assert words in ended.err


#: One process that is given a gigabyte for all of these, of which each alone took more at some time.
GREEDY = """
import resource, sys
from pathlib import Path
from kdbench.errors import UserError
from kdbench.methods import METHODS, load_card
from kdbench.plan.expand import Selection, expand
from kdbench.plugins import load_plugins
from kdbench.suites import get_suite, parse_suite

resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
folder = Path(sys.argv[1])
for name in ("huge.toml", "huge.py"):
    with (folder / name).open("wb") as file:
        file.truncate(100 * 2**20)
digits = get_suite("digits")
many = f"[{'k' * 10**6}]\\n" + "\\n".join(f'a{i} = 0' for i in range(10**5)) + "\\nz = 99999999999999999999"
for work in (
    lambda: METHODS.resolve("lskd(" * 300 + "kd" + ")" * 300),
    lambda: METHODS.resolve("lskd(" * 40 + "kd" + ")" * 40),
    lambda: METHODS.resolve("(" * 10**7),
    lambda: METHODS.resolve("+".join(["kd", "dkd"] * 10**6)),
    lambda: expand(digits, Selection(seeds=10**399), "0" * 64),
    lambda: expand(digits, Selection(seeds=1_000_000), "0" * 64),
    lambda: load_card(folder / "huge.toml"),
    lambda: load_plugins([str(folder / "huge.py")]),
    lambda: parse_suite("x" * 10**8, "s.toml"),
    lambda: parse_suite("[" * 10**6, "s.toml"),
    lambda: parse_suite("a." * 10**6 + "a = 1", "s.toml"),
    lambda: parse_suite(many, "s.toml"),
):
    try:
        work()
    except UserError as error:
        print(len(str(error)) < 700)
"""


def test_refusing_takes_neither_memory_nor_time(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", GREEDY, str(tmp_path)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert run.stderr == ""
    assert run.stdout.split() == ["True"] * 12


#: Pieces of suites, of TOML and of nothing, in any order.
PIECES = st.sampled_from(
    [
        *SUITE.splitlines(),
        "[[methods]]",
        "[[pairs]]",
        "methods = []",
        "seeds = []",
        '"""',
        "{",
        "]",
        "=",
        "nan",
        "-1",
        "\\",
        "\x00",
    ]
) | st.text(max_size=12)


@given(st.lists(PIECES, max_size=30))
def test_no_text_is_anything_but_a_suite_or_one_sentence(lines: list[str]) -> None:
    for text in ("\n".join(lines), SUITE + "\n".join(lines), "\n".join([*SUITE.splitlines()[: len(lines)], *lines])):
        try:
            suite = parse_suite(text, "s.toml")
        except UserError as error:
            said = str(error)
        else:
            said = "s.toml."
            assert suite.rows
            assert suite.pairs
        assert said.startswith("s.toml")
        assert len(said) < 1000


@given(st.text(st.sampled_from("()+@kd1-*?[]!\\ ")) | st.text(), st.booleans())
def test_no_expression_and_no_glob_is_anything_but_an_answer_or_one_sentence(text: str, pair: bool) -> None:
    suite = parse_suite(SUITE, "s.toml")
    chosen = Selection(pairs=(text,)) if pair else Selection(methods=(text,))
    for work in (lambda: METHODS.resolve(text), lambda: expand(suite, chosen, "0" * 64), lambda: MODELS.get(text)):
        try:
            work()
        except UserError as error:
            said = str(error)
            assert len(said) < 700
