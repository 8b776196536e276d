"""Paths, terminals and folders that a program does not expect: one sentence, no traceback, and nothing that blocks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import Bench, plugin_text, suite_text
from test_cli import BUILD_AND_SAY, RUN, Cli, cli  # noqa: F401

from kdbench.cli import site
from kdbench.data import data_root
from kdbench.errors import UserError
from kdbench.paths import cache_dir
from kdbench.plugins import LONGEST
from kdbench.suites import Suite

MakeSuite = Callable[[str], Suite]

#: A terminal that knows no letter beyond ASCII, and a Python that is not allowed to know better.
ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
BARE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

SUITE = (
    suite_text(["ce"], epochs=1)
    .replace('"Tiny"', '"Крошка → 小"')
    .replace('"For tests."', '"Für Prüfungen – klein →."')
)
NOTED = SUITE.replace("seeds = [0]", 'seeds = [0]\nnotes = ["Vorsicht → klein"]')


def kdbench(bench: Bench, *arguments: str | bytes, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """``kdbench`` in a process of its own, with the suite tiny installed."""
    folder = bench.folder / "site-packages"
    if not folder.exists():
        bench.install_suite(NOTED)
    return subprocess.run(
        [sys.executable, "-m", "kdbench", *arguments],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        cwd=bench.folder,
        env=bench.environment(folder, **variables),
        timeout=120,
    )


#: What has letters of its own to show: the slow tests try the rest, and all of it on the other terminal.
SHOWN = ["list methods", "show crd", "run --suite tiny --dry-run"]
MORE = [
    *(pytest.param(words.split(), ASCII, marks=pytest.mark.slow) for words in ("list suites", "run --help")),
    *(pytest.param(words.split(), BARE, marks=pytest.mark.slow) for words in SHOWN[:-1]),
]


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [*((words.split(), ASCII) for words in SHOWN), (SHOWN[-1].split(), BARE), *MORE],
    ids=lambda part: " ".join(part),
)
def test_a_terminal_without_the_letters_shows_them_written_out(
    bench: Bench, arguments: list[str], variables: dict[str, str]
) -> None:
    ended = kdbench(bench, *arguments, **variables)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.isascii()
    if arguments[-1] == "--dry-run":
        assert b"Vorsicht \\u2192 klein" in ended.stdout


def test_a_mistake_is_said_on_such_a_terminal_too(bench: Bench) -> None:
    ended = kdbench(bench, "run", "--suite", "Prüfung→", **ASCII)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr.startswith(b"kdbench: There is no suite named ")
    assert ended.stderr.count(b"\n") == 1


@pytest.mark.parametrize("flag", [b"--results", b"--data-root", b"--out", b"--plugin"])
def test_a_path_that_is_no_text_is_used_or_refused_in_one_sentence(bench: Bench, flag: bytes) -> None:
    ended = kdbench(bench, "run", "--suite", "tiny", "--dry-run", flag, b"\xff\xfe\n")
    assert b"Traceback" not in ended.stderr
    assert ended.returncode == (2 if flag == b"--plugin" else 0)
    assert ended.stderr.count(b"\n") == (flag == b"--plugin")


def test_results_and_a_site_in_folders_whose_names_are_no_text(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(site, "build_and_say", BUILD_AND_SAY)
    make_suite(NOTED)
    bench.folder.joinpath("r\udcff").mkdir()
    ended = cli(*RUN, "--results", "r\udcff", "--out", "s\udcff")
    assert (ended.code, ended.err) == (0, "")
    assert list(Path("r\udcff").glob("v1/tiny@1/*.json"))
    assert Path("s\udcff/index.html").is_file()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: os.mkfifo(path), "it is no file"),
        (lambda path: path.mkdir(), "it is no file"),
        (lambda path: path.symlink_to(path), ""),
        (lambda path: path.symlink_to("/dev/zero"), "it is no file"),
        (lambda path: path.write_bytes(b"#" * (LONGEST + 1)), "it has more than 4 MiB"),
        (lambda path: path.write_bytes(b"x = 1\0"), "null bytes"),
        (lambda path: path.write_bytes(b"x = '\xff'"), "SyntaxError"),
        (lambda path: path.write_text("x = " + "(" * 10_000), "SyntaxError"),
        (lambda path: path.write_text("x = " + "-" * 200_000 + "1"), ""),
        (lambda path: path.write_text("raise ValueError('a\\nb\\x1b[2J')"), "ValueError: a."),
        (lambda path: path.write_text("def f(): f()\nf()"), "RecursionError"),
        (
            lambda path: path.write_text(plugin_text("odd").replace('"title": "odd"', '"title": 3')),
            "title must be a str",
        ),
    ],
    ids=["pipe", "folder", "circle", "device", "huge", "nul", "latin", "deep", "minus", "lines", "bottomless", "card"],
)
def test_a_plugin_that_is_none_is_one_sentence(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make: Callable[[Path], object],
    words: str,
) -> None:
    path = bench.folder / "odd_plugin.py"
    make(path)
    ended = cli("list", "methods", "--plugin", str(path))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("kdbench: ")
    assert ended.err.count("\n") == 1
    assert ended.err.startswith("kdbench: --plugin ") or "odd_plugin.py" in ended.err
    assert words in ended.err


def test_a_user_without_a_home_names_the_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    monkeypatch.delenv("KDBENCH_CACHE")
    with pytest.raises(UserError, match="no home folder for a cache; name a folder in KDBENCH_CACHE"):
        cache_dir()
    for name in ("KDBENCH_CACHE", "KDBENCH_DATA"):
        monkeypatch.setenv(name, "~/there")
        with pytest.raises(UserError, match=f"{name} is '~/there', and nobody here has that home folder"):
            cache_dir() if name == "KDBENCH_CACHE" else data_root(None)
    monkeypatch.setenv("KDBENCH_CACHE", "/somewhere")
    assert cache_dir() == Path("/somewhere")


def test_neither_a_home_nor_a_place_for_temporary_files_is_needed(bench: Bench) -> None:
    nowhere = {"HOME": "/proc/nowhere", "TMPDIR": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere"}
    ended = kdbench(bench, "run", "--suite", "tiny", "--dry-run", **nowhere)
    assert (ended.returncode, ended.stderr) == (0, b"")
    refused = kdbench(bench, "run", "--suite", "tiny", "--device", "cpu", **nowhere, KDBENCH_CACHE="")
    assert refused.returncode in (2, 3)
    assert refused.stderr.count(b"\n") == 1
    assert b"Traceback" not in refused.stderr
