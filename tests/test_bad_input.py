"""A user's mistake is one sentence that says what to do, exit code 2, and no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import Bench, suite_text
from test_cli import BUILD_AND_SAY, RUN, Cli, cli  # noqa: F401

from kdbench.cli import site
from kdbench.data import DATASETS
from kdbench.suites import SUITES, Suite

MakeSuite = Callable[[str], Suite]


@pytest.fixture(autouse=True)
def _tiny(make_suite: MakeSuite) -> None:
    make_suite(suite_text(["ce", "kd"], epochs=1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--suite", "digit"], "There is no suite named 'digit'; the nearest are digits"),
        (["run", "--suite", "cifar100short"], "the nearest are cifar100-short"),
        (["run", "--suite", "tiny@7"], "Suite 'tiny' is at version 1 here, not 7; ask for tiny@1."),
        ([*RUN, "--method", "kdd"], "named 'kdd'; the nearest are kd"),
        (
            [*RUN, "--pair", "tiny_cnn_l:*"],
            "no pair in tiny@1 named 'tiny_cnn_l:*'; the nearest are tiny_cnn_s",
        ),
        ([*RUN, "--seeds", "0"], "--seeds must be at least 1, not 0."),
        ([*RUN, "--seeds", "-3"], "--seeds must be at least 1, not -3."),
        (["run", "--suite", "tiny", "--slots", "0"], "--slots must be at least 1, not 0."),
        ([*RUN, "--plugin", "none.py"], "none.py: there is no such file"),
        ([*RUN, "--out", "home"], "home is not an earlier kdbench site; name a new or empty folder"),
        (["run", "--suite", "cifar100-short", "--device", "cpu"], "cifar-100-binary"),
        (["site", "--results", "nowhere"], "There is no results folder at nowhere"),
        (["list", "methods", "--plugin", "none.py"], "none.py: there is no such file"),
    ],
)
def test_one_sentence(
    cli: Cli,  # noqa: F811
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.setattr(site, "build_and_say", BUILD_AND_SAY)
    (bench.folder / "home").mkdir()
    (bench.folder / "home" / "thesis.txt").write_text("years of work")
    ended = cli(*arguments)
    assert ended.code == 2
    assert "epoch" not in ended.out
    assert ended.err.startswith("kdbench: ")
    assert ended.err.count("\n") == 1
    assert words in ended.err
    assert len(ended.err) < 500
    assert bench.records() == {}
    assert (bench.folder / "home" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: COMMAND; see kdbench --help."),
        (["rum"], "COMMAND: invalid choice: 'rum' (choose from"),
        (["run"], "the following arguments are required: --suite; see kdbench run --help."),
        (["run", "--suite"], "--suite: expected one argument; see kdbench run --help."),
        (["run", "--suite", "tiny", "--suit", "tiny"], "there is no flag --suit; see kdbench run --help."),
        ([*RUN, "--seeds", "two"], "--seeds: invalid int value: 'two'; see kdbench run --help."),
        ([*RUN, "--slots", "x" * 1000], "--slots: invalid int value: 'xxx"),
        ([*RUN, "--device", "tpu\n"], "--device: invalid choice: 'tpu\\n' (choose from"),
        ([*RUN, "--backend", "foo"], "--backend: invalid choice: 'foo' (choose from"),
        (["results", "rot"], "VERB: invalid choice: 'rot' (choose from"),
        (["site", "--res", "results"], "there is no flag --res; see kdbench site --help."),
        (["site", "--out=--"], "--out is empty; give it a value (perhaps a variable of the shell is not set)"),
        (["site", "--results="], "--results is empty; give it a value"),
        (["site", "--results", ""], "a word of the command is empty; give it a value"),
        (["results", "merge", "a", "--into=--"], "--into is empty; give it a value"),
        (["site", "--suite", "digits"], "--suite takes the file of a suite, which ends in .toml, and digits does not"),
        (["results", "prune", "cache", "--rot"], "there is no flag --rot; see kdbench results prune --help."),
        (["list", "colours"], "what: invalid choice: 'colours' (choose from"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(cli: Cli, arguments: list[str], said: str) -> None:  # noqa: F811
    ended = cli(*arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith(f"kdbench: {said}")
    assert len(ended.err) < 500


def test_a_cache_folder_that_cannot_be_written_is_said_before_the_plan_is_made(
    cli: Cli,  # noqa: F811
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (bench.folder / "file").write_text("no folder")
    monkeypatch.setenv("KDBENCH_CACHE", str(bench.folder / "file" / "cache"))
    monkeypatch.setattr("kdbench.cli.run.make_plan", lambda *_: pytest.fail("it was planned"))
    ended = cli("run", "--suite", "digits")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith(f"kdbench: The cache folder {bench.folder / 'file' / 'cache'} cannot be made: ")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"digits"', '"digit"', "mine.toml: There is no data set named 'digit'; the nearest are digits"),
        ('model = "tiny_cnn_s"', 'model = "tiny_cn"', "mine.toml: There is no model named 'tiny_cn'; the nearest are"),
        ('name = "ce"', 'name = "cee"', "mine.toml: There is no method named 'cee'"),
        ("batch = 200", "batch = ", "mine.toml: not valid TOML: Invalid value (at line 11"),
        ("batch = 200", "bach = 200", "mine.toml [protocol]: there is no protocol field 'bach'"),
        ("holdout = 97", "holdout = 1297", "mine.toml [protocol]: holdout must be less than the 1297 training images"),
        ('"crop"', '"crop_and_flip"', "mine.toml [protocol]: augmentation must be one of"),
    ],
)
def test_a_mistake_in_a_suite(cli: Cli, old: str, new: str, words: str) -> None:  # noqa: F811
    """Known before anything is trained or written."""
    text = suite_text(["ce"], name="mine")
    assert old in text
    SUITES.add("mine", (text.replace(old, new), "mine.toml"), "test")
    ended = cli("run", "--suite", "mine", "--device", "cpu")
    assert ended.code == 2, ended.out
    assert ended.err.count("\n") == 1
    assert words in ended.err
    assert not Path("results").exists()


def test_a_results_folder_that_cannot_be_written_is_said_before_the_training(cli: Cli, bench: Bench) -> None:  # noqa: F811
    (bench.folder / "file").write_text("not a folder")
    ended = cli(*RUN, "--results", "file")
    assert ended.code in (2, 3)
    assert ended.err.count("\n") == 1
    assert "file" in ended.err
    assert "epoch" not in ended.out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_results_folder_without_permission(cli: Cli, bench: Bench) -> None:  # noqa: F811
    (bench.folder / "locked").mkdir(mode=0o500)
    ended = cli(*RUN, "--results", "locked")
    assert ended.code in (2, 3)
    assert "locked" in ended.err
    assert "epoch" not in ended.out


@pytest.mark.parametrize("place", ["cache", "data"])
def test_a_folder_that_is_a_file(cli: Cli, bench: Bench, monkeypatch: pytest.MonkeyPatch, place: str) -> None:  # noqa: F811
    (bench.folder / "file").write_text("not a folder")
    monkeypatch.setenv(f"KDBENCH_{place.upper()}", str(bench.folder / "file"))
    suite = "tiny" if place == "cache" else "cifar100-short"
    ended = cli("run", "--suite", suite, "--device", "cpu")
    assert ended.code in (2, 3)
    assert ended.err.count("\n") == 1
    assert "file" in ended.err


def test_cuda_where_there_is_none(cli: Cli, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    ended = cli("run", "--suite", "tiny", "--device", "cuda", "--slots", "1")
    assert ended.code in (2, 3)
    assert ended.err.count("\n") == 1
    assert "--device cuda" in ended.err
    assert bench.records() == {}, "a mistake on the command line is no crash of a trial"


def test_a_missing_teacher_is_one_sentence_and_no_record(cli: Cli, bench: Bench) -> None:  # noqa: F811
    from test_teachers import CHECKPOINT

    for name, pin in (("loose", ""), ("pinned", f'\nweights_sha256 = "{"1" * 64}"')):
        SUITES.add(name, (suite_text(["ce", "kd"], name=name, epochs=1, teacher=CHECKPOINT + pin), "x.toml"), "test")
        ended = cli("run", "--suite", name, "--device", "cpu")
        assert ended.code in (2, 3)
        assert ended.err.count("\n") == 1
        assert "Teacher tutor wants its weights, own.safetensors or own.pt, in " in ended.err
        alone = cli("run", "--suite", name, "--device", "cpu", "--method", "ce")
        assert alone.code == 0, "the student alone needs no teacher"


def test_every_data_set_that_is_missing_says_which_files_it_wants(bench: Bench) -> None:
    from kdbench.data import identify
    from kdbench.errors import DataError

    for name in DATASETS:
        if not DATASETS.get(name).files.startswith("nothing"):
            with pytest.raises(DataError) as caught:
                identify(name, bench.folder / "nowhere")
            assert str(bench.folder / "nowhere") in str(caught.value)
            assert "\n" not in str(caught.value)


def test_this_python_is_the_one_that_workers_use() -> None:
    from kdbench.schedule import local

    assert local.worker(Path("t.json")) == [sys.executable, "-m", "kdbench.worker", "t.json"]


def test_a_plugin_without_a_loss_is_said_before_the_training(cli: Cli, bench: Bench) -> None:  # noqa: F811
    path = Path(bench.plugin("mute"))
    path.write_text(path.read_text().replace("def loss(", "def los("))
    ended = cli(*RUN, "--plugin", str(path), "--method", "mute")
    assert ended.code == 2
    assert ended.err == "kdbench: method 'mute': Own lacks loss(step) -> dict[str, Tensor].\n"
    assert not bench.store.read()[0]
