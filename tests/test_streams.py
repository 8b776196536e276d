"""A run is not its terminal: it trains to the end whoever stops reading, and Ctrl-C is understood at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bench import PATIENCE, Bench, suite_text
from test_cli import Cli, cli  # noqa: F401

from kdbench.cli import main, say
from kdbench.suites import SUITES

RUN = [sys.executable, "-m", "kdbench", "run", "--suite", "tiny", "--device", "cpu", "--slots", "1"]


def start(bench: Bench, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    packages = bench.install_suite(suite_text(["ce"], epochs=1))
    return subprocess.Popen(command, env=bench.environment(packages), cwd=bench.folder, **options)


CLOSED = [">&-", ">&- 2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("closed", CLOSED)
def test_a_command_whose_streams_are_closed_ends_well(bench: Bench, closed: str) -> None:
    command = f"exec {' '.join(RUN)} --dry-run {closed}"
    assert start(bench, ["sh", "-c", command], stderr=subprocess.DEVNULL).wait(PATIENCE) == 0


def test_a_run_that_nobody_reads_any_more_records_all_the_same(
    cli: Cli,  # noqa: F811
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process."""
    SUITES.add("tiny", (suite_text(["ce"], epochs=1), "tiny.toml"), "test")
    monkeypatch.setattr(say, "_outliving", False)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as nobody, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", nobody)
        assert main(RUN[3:]) == 0
    assert capsys.readouterr().err == ""
    assert bench.records()["ce"]["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", *CLOSED])
def test_nor_does_a_real_one_mind_whose_streams_are_closed(bench: Bench, closed: str) -> None:
    command = f"exec {' '.join(RUN)} {closed}"
    run = start(bench, ["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stderr is not None
    run.stdout.close()
    errors = run.stderr.read().decode()
    assert (run.wait(PATIENCE), errors) == (0, "")
    assert bench.records()["ce"]["status"] == "finished"


def test_a_list_that_nobody_reads_any_more_ends_without_a_word(bench: Bench) -> None:
    command = "python -m kdbench list methods | head -1 >/dev/null; exit ${PIPESTATUS[0]}"
    run = start(bench, ["bash", "-c", command.replace("python", sys.executable)], stderr=subprocess.PIPE)
    assert run.stderr is not None
    assert (run.stderr.read(), run.wait(PATIENCE)) == (b"", 0)


@pytest.mark.parametrize("seconds", [0.3, *(pytest.param(late, marks=pytest.mark.slow) for late in (0.7, 1.1)), 2.0])
def test_ctrl_c_is_understood_from_the_first_moment(bench: Bench, seconds: float) -> None:
    run = start(bench, RUN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    time.sleep(seconds)
    run.send_signal(signal.SIGINT)
    output, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode in (130, -signal.SIGINT, 0)  # 0: it had ended by then
    assert "Traceback" not in (output + errors).decode()


@pytest.mark.parametrize("driver", [True, False])
def test_a_gpu_that_is_not_there_is_said_before_anything_is_trained(
    cli: Cli,  # noqa: F811
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    driver: bool,
) -> None:
    """Without a driver torch, which takes seconds to load, is not even asked."""
    monkeypatch.setattr("kdbench.schedule.devices.gpus", tuple)
    monkeypatch.setattr("kdbench.schedule.devices._has_driver", lambda: driver)
    monkeypatch.setattr("torch.cuda.is_available", bool if driver else lambda: pytest.fail("torch was asked"))
    ended = cli("run", "--suite", "digits", "--device", "cuda")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "--device cuda: there is no CUDA device here" in ended.err
    assert not Path("results").exists()
