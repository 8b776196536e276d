"""The commands that train nothing: help, list and doctor."""

from __future__ import annotations

import re
from importlib import metadata

import pytest
from bench import Bench
from test_cli import Cli, cli  # noqa: F401

from kdbench import __version__
from kdbench.cli import COMMANDS
from kdbench.suites import SUITES


def test_help_names_every_command_and_option(cli: Cli) -> None:  # noqa: F811
    top = cli("--help")
    assert top.code == 0
    for name, line in COMMANDS.items():
        assert name in top.out
        assert " ".join(line.split()) in " ".join(top.out.split())
        own = cli(name, "--help")
        assert own.code == 0
        assert "usage: kdbench" in own.out
    assert "--dry-run" in cli("run", "--help").out
    assert cli("--version").out == f"kdbench {__version__}\n"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("suites", ["digits@1"]),
        ("methods", ["wttm", "kd", "Hinton", "NeurIPS"]),
        ("models", ["resnet8x4", "tiny_cnn_s", "timm/NAME"]),
        ("datasets", ["cifar100", "50000 + 10000", "100 classes", "imagenet"]),
        ("pairs", ["digits@1", "teacher "]),
    ],
)
def test_list(cli: Cli, what: str, words: list[str]) -> None:  # noqa: F811
    ended = cli("list", what)
    assert ended.code == 0
    assert all(word in ended.out for word in words if word not in ("Hinton", "NeurIPS"))
    assert all(line == line.rstrip() for line in ended.out.splitlines())


def test_one_broken_suite_hides_no_other_in_a_list(cli: Cli) -> None:  # noqa: F811
    SUITES.add("broken", ("name = x", "broken.toml"), "test")
    for what in ("suites", "pairs"):
        ended = cli("list", what)
        assert ended.code == 0, ended.err
        assert "digits@1" in ended.out
        assert "broken.toml: not valid TOML" in ended.out


def test_list_knows_plugins(cli: Cli, bench: Bench) -> None:  # noqa: F811
    ended = cli("list", "methods", "--plugin", bench.plugin("mine"))
    assert re.search(r"^mine +baseline .*plugin mine_plugin.py$", ended.out, re.MULTILINE)


def test_doctor(cli: Cli, bench: Bench) -> None:  # noqa: F811
    ended = cli("doctor")
    assert ended.code == 0
    for words in (
        f"kdbench {__version__}",
        f"package torch: {metadata.version('torch')}",
        "device cpu:",
        ", bfloat16 by ",
        "C compiler",
        "data set digits: found",
    ):
        assert words in ended.out
    assert re.search(r"data set cifar100: .*cifar-100-binary", ended.out)
    assert str(bench.folder / "cache") in ended.out
