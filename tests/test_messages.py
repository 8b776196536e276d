"""What a user reads: a mistake is one sentence on one line, whatever other people's text is in it, and is said once."""

from __future__ import annotations

import ast
import io
import pickle
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import ROOT, Bench, plugin_text, suite_text
from hypothesis import given
from hypothesis import strategies as st
from test_cli import BUILD_AND_SAY, LOCAL, RUN, Cli, Fake, cli  # noqa: F401
from test_teachers import CHECKPOINT

from kdbench.cli import main, site
from kdbench.cli.durations import duration
from kdbench.cli.progress import PlainProgress
from kdbench.cli.say import many
from kdbench.errors import DataError, UserError, described, plain, reason, sentence
from kdbench.plan.cohorts import cohorts
from kdbench.plan.fleet import cpu
from kdbench.plan.tasks import make_tasks
from kdbench.schedule import Coordinator, LocalLauncher, Report
from kdbench.schedule.local import LocalBackend
from kdbench.suites import SUITES, Suite

MakeSuite = Callable[[str], Suite]

#: What no terminal should be sent and no line holds: controls, directions of writing, line separators.
UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def is_plain(text: str) -> bool:
    return not any(unicodedata.category(c) in UNPRINTABLE for c in text)


def is_complaint(text: str) -> bool:
    """Whether ``text`` is all that a command may say of a mistake: a line, a sentence, one full stop at its end."""
    return bool(re.fullmatch(r"kdbench: [^\n]*[^\s.]\.\n", text)) and is_plain(text[:-1])


#: Texts as they come from other people: anything, and a good deal of what hurts.
HOSTILE = st.lists(
    st.text() | st.sampled_from(["\x1b[31m", "\x1b]0;title\x07", "\x1b[", "\n", "\r\n", "..", " .", "\x9b2J", "\u202e"])
).map("".join)


@given(HOSTILE)
def test_a_sentence_is_one_printable_line_with_one_full_stop(text: str) -> None:
    assert is_plain(sentence(text))
    assert sentence(text).endswith(".")
    assert not sentence(text).endswith(("..", " ."))
    assert sentence(sentence(text)) == sentence(text), "an error within an error gains no second full stop"
    assert str(UserError(text)) == sentence(text)


@given(HOSTILE)
def test_a_reason_fits_into_a_sentence(text: str) -> None:
    said = reason(ValueError(text))
    assert said
    assert is_plain(said)
    assert not said.endswith((".", " "))
    assert len(said) < 310


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no luck."), "no luck"),
        (ValueError(""), "ValueError"),
        (ValueError("\n\n first \n second"), "first"),
        (ValueError("Errors in loading:\n\tMissing key: 'a'.\n\tMore."), "Errors in loading: Missing key: 'a'"),
        (ValueError("\x1b[1;31mred\x1b[0m"), "red"),
        (ValueError("\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\"), "link"),
        (ValueError("a  b\tc\x07"), "a  b c\\x07"),
        (FileNotFoundError(2, "No such file or directory", "a\nb"), "No such file or directory: 'a\\nb'"),
        (DataError("It is gone."), "It is gone"),
    ],
)
def test_what_is_made_of_an_error(error: Exception, said: str) -> None:
    assert reason(error) == said


def test_what_other_peoples_code_raised_has_its_type() -> None:
    assert described(KeyError("x")) == "KeyError: 'x'"
    assert described(AssertionError()) == "AssertionError"
    assert plain("résumé 5 × 3\xa0µm") == "résumé 5 × 3\xa0µm"
    assert plain(b"caf\xe9".decode(errors="surrogateescape")) == "caf\\udce9"


def test_an_error_that_crosses_processes_stays_what_it_is() -> None:
    error = pickle.loads(pickle.dumps(DataError("It is gone")))
    assert (type(error), str(error)) == (DataError, "It is gone.")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "0 s"),
        (89, "89 s"),
        (91, "2 min"),
        (5399, "90 min"),
        (5401, "1.5 h"),
        (35.9 * 3600, "35.9 h"),
        (55.2 * 3600, "2.3 days"),
        (9.94 * 86400, "9.9 days"),
        (365 * 86400, "365 days"),
    ],
)
def test_a_time_is_said_in_the_unit_that_reads_best(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_bundle_says_what_it_holds_more_of(bench: Bench, make_suite: MakeSuite) -> None:
    trials = bench.trials(make_suite(suite_text(["ce"], seeds=[0, 1, 2])))
    groups = cohorts(trials)
    assert len(groups) == 3
    for count, end in ((1, "seed 0"), (2, "seed 0 and 1 more cohort"), (3, "seed 0 and 2 more cohorts")):
        (task,) = make_tasks(groups[:count], bench.template(trials[0]), rate=40.0, fleet=cpu())
        assert task.title.endswith(end)


def raw_errors(path: Path) -> list[str]:
    """Places where an exception's text is put into a message as it is: it may have lines, colours or a full stop."""
    found = []
    for handler in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(handler, ast.ExceptHandler) or handler.name is None or handler.type is None:
            continue
        if {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} <= SENTENCES:
            continue
        formatted = (node for node in ast.walk(handler) if isinstance(node, ast.FormattedValue))
        found += [f"{path.name}:{node.lineno}" for node in formatted if ast.unparse(node.value) == handler.name]
    return found


#: Errors whose text is a sentence already, or a part of one.
SENTENCES = {"UserError", "UnknownName", "DataError", "MissingData", "CheckpointError", "Diverged"}


def test_no_message_holds_an_exception_as_it_is() -> None:
    """``reason`` and ``described`` make it fit. What a check of a method found is a line of its own."""
    paths = [path for path in (ROOT / "kdbench").rglob("*.py") if path.name != "conformance.py"]
    assert len(paths) > 100
    assert [place for path in paths for place in raw_errors(path)] == []


def test_an_exception_as_it_is_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("try:\n    f()\nexcept OSError as error:\n    raise UserError(f'It is gone: {error}.')\n")
    assert raw_errors(path) == ["bad.py:4"]


#: What hurts in a terminal, as the text of an error and as the name of a file.
BAD = "\x1b[31mno\x1b[0m luck.\nAnd more.\x07."
BAD_NAME = "a\x1b[31m\n\x07.py"


def plugin_that_raises(bench: Bench) -> list[str]:
    (bench.folder / "raises.py").write_text(f"def fail():\n    raise ValueError({BAD!r})\n\nfail()\n")
    return [*RUN, "--plugin", "raises.py"]


def plugin_with_a_bad_name(bench: Bench) -> list[str]:
    return [*RUN, "--plugin", BAD_NAME]


def plugin_that_cannot_be_parsed(bench: Bench) -> list[str]:
    (bench.folder / "broken.py").write_text("def (\n")
    return ["list", "methods", "--plugin", "broken.py"]


def plugin_whose_card_is_no_toml(bench: Bench) -> list[str]:
    (bench.folder / "card.py").write_text("from kdbench.plugin import parse_card\nparse_card('name = ', 'card.py')\n")
    return ["list", "methods", "--plugin", "card.py"]


def plugin_that_is_a_folder(bench: Bench) -> list[str]:
    return ["list", "methods", "--plugin", str(bench.folder)]


def plugin_without_its_class(bench: Bench) -> list[str]:
    text = plugin_text("mute").replace('"mute_plugin:Own"', '"no_such_module_anywhere:Own"')
    (bench.folder / "mute_plugin.py").write_text(text)
    return [*RUN, "--plugin", "mute_plugin.py", "--method", "mute"]


def suite_that_is_no_toml(bench: Bench) -> list[str]:
    SUITES.add("mine", ("name = ", "mine.toml"), "test")
    return ["run", "--suite", "mine"]


def suite_with_a_bad_name_in_it(bench: Bench) -> list[str]:
    text = suite_text(["ce"], name="mine").replace('title = "Tiny"', 'title = "Tiny"\n"a\\u001b[31mb" = 1')
    SUITES.add("mine", (text, "mine.toml"), "test")
    return ["run", "--suite", "mine"]


def weights_that_are_damaged(bench: Bench) -> list[str]:
    """torch explains at length, on many lines, what else one might do with such a file."""
    (bench.folder / "data").mkdir()
    (bench.folder / "data" / "own.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    SUITES.add("mine", (suite_text(["kd"], name="mine", teacher=CHECKPOINT), "mine.toml"), "test")
    return ["run", "--suite", "mine", "--device", "cpu"]


def pins_that_are_damaged(bench: Bench) -> list[str]:
    (bench.folder / "results").mkdir()
    (bench.folder / "results" / "pins.json").write_text("{")
    return [*RUN]


def data_that_is_truncated(bench: Bench) -> list[str]:
    folder = bench.folder / "data" / "cifar-100-binary"
    folder.mkdir(parents=True)
    for name in ("train.bin", "test.bin"):
        (folder / name).write_bytes(b"short")
    return ["run", "--suite", "cifar100-short", "--device", "cpu", "--method", "ce"]


def data_that_cannot_be_unpacked(bench: Bench) -> list[str]:
    folder = bench.folder / "data" / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte.gz").write_bytes(b"not gzip")
    return ["run", "--suite", "fashion_mnist", "--device", "cpu"]


def results_that_are_a_file(bench: Bench) -> list[str]:
    (bench.folder / BAD_NAME).touch()
    return [*RUN, "--results", BAD_NAME]


def site_below_a_file(bench: Bench) -> list[str]:
    (bench.folder / BAD_NAME).touch()
    return [*RUN, "--out", f"{BAD_NAME}/site"]


def site_in_a_folder_of_anothers(bench: Bench) -> list[str]:
    (bench.folder / BAD_NAME).mkdir()
    (bench.folder / BAD_NAME / "thesis").touch()
    return [*RUN, "--out", BAD_NAME]


def site_of_no_results(bench: Bench) -> list[str]:
    return ["site", "--results", BAD_NAME]


def package_that_is_there(bench: Bench) -> list[str]:
    (bench.folder / "kdbench-mine").mkdir()
    return ["new-method", "mine", "--out", str(bench.folder)]


def package_of_a_taken_name(bench: Bench) -> list[str]:
    return ["new-method", "kd"]


def package_of_a_bad_name(bench: Bench) -> list[str]:
    return ["new-method", BAD_NAME]


@pytest.mark.parametrize(
    "mistake",
    [
        plugin_that_raises,
        plugin_with_a_bad_name,
        plugin_that_cannot_be_parsed,
        plugin_whose_card_is_no_toml,
        plugin_that_is_a_folder,
        plugin_without_its_class,
        suite_that_is_no_toml,
        suite_with_a_bad_name_in_it,
        weights_that_are_damaged,
        pins_that_are_damaged,
        data_that_is_truncated,
        data_that_cannot_be_unpacked,
        results_that_are_a_file,
        site_below_a_file,
        site_in_a_folder_of_anothers,
        site_of_no_results,
        package_that_is_there,
        package_of_a_taken_name,
        package_of_a_bad_name,
    ],
)
def test_a_mistake_is_one_sentence(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[[Bench], list[str]],
) -> None:
    monkeypatch.setattr(site, "build_and_say", BUILD_AND_SAY)
    make_suite(suite_text(["ce", "kd"], epochs=1))
    ended = cli(*mistake(bench))
    assert ended.code == 2
    assert is_complaint(ended.err), ended.err
    assert "Errno" not in ended.err
    assert ended.out == "", "said before there is a plan"


def test_a_plugin_that_cannot_be_read_is_one_sentence(
    cli: Cli,  # noqa: F811
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    plugin = bench.plugin("mine")
    monkeypatch.setattr(Path, "read_bytes", refused)
    ended = cli("list", "methods", "--plugin", plugin)
    assert ended.code == 2
    assert is_complaint(ended.err)
    assert f"{plugin}: it cannot be read: Permission denied" in ended.err


def test_a_letter_that_the_terminal_has_not_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["show", "abkd"]) == 0
    stream.flush()
    assert b"\\u03b1" in stream.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("count", "said"), [(0, "0 trials"), (1, "1 trial"), (2, "2 trials")])
def test_one_is_no_plural(count: int, said: str) -> None:
    assert many(count, "trial") == said


def test_an_installed_package_that_cannot_be_loaded_is_one_sentence(
    cli: Cli,  # noqa: F811
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kdbench import plugins

    folder = bench.install(methods={"own": "own_raises:SPEC"})
    (folder / "own_raises.py").write_text(f"raise ValueError({BAD!r})\n")
    monkeypatch.syspath_prepend(str(folder))
    plugins._loaded.clear()
    ended = cli("list", "methods")
    assert ended.code == 2
    assert is_complaint(ended.err)
    assert "ValueError: no luck; mend the package" in ended.err


def test_the_line_of_a_plugin_that_raised_is_named(cli: Cli, bench: Bench) -> None:  # noqa: F811
    assert "raises.py, line 2: ValueError: no luck.\n" in cli(*plugin_that_raises(bench)).err


def test_what_the_system_refuses_is_one_sentence(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
) -> None:
    make_suite(suite_text(["ce"], epochs=1))
    (bench.folder / BAD_NAME).mkdir()
    (bench.folder / BAD_NAME / "runs").touch()
    ended = cli(*RUN, "--results", BAD_NAME)
    assert ended.code == 2
    assert is_complaint(ended.err)
    assert "Errno" not in ended.err


def test_a_list_is_printable_whatever_a_plugin_calls_itself(cli: Cli, bench: Bench) -> None:  # noqa: F811
    path = Path(bench.plugin("mine"))
    path.write_text(path.read_text().replace('"title": "mine"', f'"title": {BAD!r}'))
    ended = cli("list", "methods", "--plugin", str(path))
    assert ended.code == 0
    assert is_plain(ended.out.replace("\n", ""))
    assert re.search(r"^mine +baseline +no luck\. And more\.\\x07\. \(v 2020\) +plugin", ended.out, re.MULTILINE)


def test_one_failure_is_said_once(
    cli: Cli,  # noqa: F811
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the progress or by the end of the run, for the task or for those that wait for it."""
    make_suite(suite_text(["ce", "kd"], epochs=1, seeds=[0, 1]))
    text = "The weights are gone; fetch them again."

    class Failing(Fake):
        def run(self, tasks: Any, watch: Any) -> Report:
            for task in tasks:
                watch(task, {"event": "started", "slot": 0, "pid": 1, "attempt": 1})
                watch(task, {"event": "failed", "text": text, "refused": True, "dependent": bool(task.after)})
                self.report.failed[task.id] = text
            return self.report

    monkeypatch.setattr(LocalBackend, "executor", Failing(Report()))
    ended = cli(*RUN)
    assert ended.code == 3
    assert ended.err == f"kdbench: {text}\n"
    assert "weights are gone" not in ended.out
    assert "0 trials recorded, 4 left" in ended.out


def test_a_workers_last_words_are_printable(bench: Bench, make_suite: MakeSuite) -> None:
    (trial, *_) = bench.trials(make_suite(suite_text(["ce"])))
    (task,) = bench.tasks([trial])
    script = f"import sys; sys.stderr.write({BAD!r} + '\\n\\x1b[1m\\x1b[0m\\n'); sys.exit(7)"
    launcher = LocalLauncher(cpu(), bench.folder / "runs", command=lambda _: [sys.executable, "-c", script])
    executor = Coordinator(cpu(), launcher)
    (text,) = executor.run([task], lambda *_: None).failed.values()
    assert is_plain(text)
    assert "ended with code 7 (And more.\\x07); its log is " in text
    assert text.count(task.title) == 1


def test_progress_is_printable(bench: Bench, make_suite: MakeSuite, capsys: pytest.CaptureFixture[str]) -> None:
    (task,) = bench.tasks(bench.trials(make_suite(suite_text(["ce"]))))
    progress = PlainProgress([task], sys.stdout)
    trial = {"event": "trial", "key": "k", "title": "t", "teacher": False, "status": "crashed", "top1": None}
    for event in (
        {"event": "note", "text": BAD},
        {"event": "retried", "text": BAD},
        {"event": "teacher", "name": BAD, "top1": 1.0, "warnings": [BAD]},
        {**trial, "detail": BAD},
        {"event": "failed", "text": BAD},
    ):
        progress.watch(task, event)
    said = capsys.readouterr()
    assert is_plain(said.out.replace("\n", ""))
    assert said.out.count("\n") == 5
    assert is_complaint(said.err)
