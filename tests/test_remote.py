"""Relays and the files by which they speak, without a cluster; and what is refused before one is asked."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from bench import wait_until
from executor_conformance import SAVER
from test_cli import Cli, cli  # noqa: F401

from kdbench.errors import UserError
from kdbench.plan.task import Task
from kdbench.schedule import Choice, find_backend, relay
from kdbench.schedule.base import Ending, Event, Grant
from kdbench.schedule.relay import Launch
from kdbench.schedule.remote import Placed, RemoteLauncher
from kdbench.schedule.slurm import OWN, options_of


class Nowhere(RemoteLauncher):
    """A cluster that starts nothing by itself."""

    def cores(self, grant: Grant) -> int:
        return 1

    def place(self, new: Sequence[Placed]) -> None:
        return None

    def attend(self) -> Iterator[tuple[Grant, Event]]:
        yield from ()

    def cancel(self, some: Sequence[Placed]) -> None:
        for one in some:
            one.gone = 0.0


@pytest.fixture
def grant(tmp_path: Path) -> Grant:
    task = Task("t", "t", (), None, "digits", "0" * 64, "s@1", tmp_path, tmp_path, tmp_path, "cpu")
    return Grant(1, task, 0, (0,))


def launcher(folder: Path, script: str) -> Nowhere:
    (folder / "actor.py").write_text(script)
    return Nowhere(folder, False, lambda file: [sys.executable, str(folder / "actor.py"), str(file)], look=0.0, lag=0.0)


def placed(launcher: Nowhere, grant: Grant) -> Placed:
    launcher.start([grant])
    return launcher.placed[grant.id]


def heard(launcher: Nowhere) -> list[Any]:
    return [said if isinstance(said, Ending) else said["event"] for _, said in launcher.hear(0.0)]


def test_what_a_relay_writes_is_what_a_launcher_hears(tmp_path: Path, grant: Grant) -> None:
    far = launcher(tmp_path, 'print(\'{"event": "said"}\\nnoise\\n{"event": "last"}\', end=\'\')')
    one = placed(far, grant)
    assert heard(far) == []
    assert relay.relay(one.told, lambda: False) == 0
    *events, ending = heard(far)
    assert events == ["started", "said", "last"]
    assert (ending.code, ending.lost) == (0, False)
    assert not far.placed


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path, grant: Grant) -> None:
    far = launcher(tmp_path, "")
    file = relay.events_file(placed(far, grant).told, 0)
    with file.open("ab") as stream:
        for piece, events in ((b'{"event": "a"}\n{"ev', ["a"]), (b'ent": "b"}', []), (b"\n", ["b"]), (b"\n\n", [])):
            stream.write(piece)
            stream.flush()
            assert heard(far) == events


def test_a_second_relay_of_a_job_writes_beside_the_first(tmp_path: Path, grant: Grant) -> None:
    """Slurm starts a job again whose node it has given up, and the first may go on: the first to end counts."""
    far = launcher(tmp_path, 'print(\'{"event": "done"}\')')
    one = placed(far, grant)
    file = relay.events_file(one.told, 0)
    file.write_text('{"event": "started"}\n')
    relay.relay(one.told, lambda: False)
    *events, ending = heard(far)
    assert events == ["started", "started", "done"]
    assert ending.code == 0
    assert file.read_text() == '{"event": "started"}\n'


def test_a_relay_that_is_told_to_stop_lets_its_worker_save(tmp_path: Path, grant: Grant) -> None:
    far = launcher(tmp_path, SAVER)
    one, stop = placed(far, grant), threading.Event()
    thread = threading.Thread(target=relay.relay, args=(one.told, stop.is_set))
    thread.start()
    file = relay.events_file(one.told, 0)
    wait_until(lambda: file.exists() and "ready" in file.read_text())
    stop.set()
    thread.join()
    *events, ending = heard(far)
    assert events == ["started", "ready", "stopped"]
    assert ending.code == 7


def test_a_full_disk_costs_no_word(tmp_path: Path, grant: Grant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "AGAIN", 0.3)
    far = launcher(tmp_path, 'print(\'{"event": "done"}\')')
    one = placed(far, grant)
    file, failures = relay.events_file(one.told, 0), iter([b"", b'{"event": "sta'])
    real = Path.open

    def full(self: Path, mode: str = "r", **named: Any) -> Any:
        if self == file and mode == "ab" and (part := next(failures, None)) is not None:
            with real(self, "ab") as stream:
                stream.write(part)
            raise OSError(28, "No space left on device")
        return real(self, mode, **named)

    monkeypatch.setattr(Path, "open", full)
    relay.relay(one.told, lambda: False)
    *events, ending = heard(far)
    assert events == ["started", "done"]
    assert ending.code == 0


def test_a_worker_has_the_variables_of_whoever_runs_kdbench(
    tmp_path: Path, grant: Grant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own come from there, its device and whatever else from the node."""
    names = ("KDBENCH_DOWNLOAD", "PYTHONPATH", "CUDA_VISIBLE_DEVICES", "NODE")
    far = launcher(
        tmp_path, f"import json, os; print(json.dumps({{'event': 'v', 'v': [os.environ.get(n) for n in {names}]}}))"
    )
    far.cuda = True
    monkeypatch.setenv("KDBENCH_DOWNLOAD", "no")
    monkeypatch.setenv("PYTHONPATH", "/here")
    one = placed(far, grant)
    for name, value in zip(names, ("yes", "/there", "5", "n1"), strict=True):
        monkeypatch.setenv(name, value)
    relay.relay(one.told, lambda: False)
    events = [event for _, event in far.hear(0.0) if not isinstance(event, Ending)]
    assert events[0]["device"] == "5"
    assert events[1]["v"] == ["no", "/here", "5", "n1"]


def test_a_job_that_is_gone_without_a_word_is_lost(tmp_path: Path, grant: Grant) -> None:
    far = launcher(tmp_path, "")
    one = placed(far, grant)
    relay.events_file(one.told, 0).write_text('{"event": "started"}\n')
    one.gone = 0.0
    started, ending = heard(far)
    assert started == "started"
    assert ending.lost


def test_a_folder_that_nodes_do_not_share_is_said(tmp_path: Path, grant: Grant) -> None:
    far = launcher(tmp_path, "")
    placed(far, grant).gone = 0.0
    with pytest.raises(UserError, match="must be on a file system that the nodes share"):
        far.hear(0.0)


def test_what_was_cancelled_before_it_started_is_no_fault_of_the_folder(tmp_path: Path, grant: Grant) -> None:
    far = launcher(tmp_path, "")
    placed(far, grant)
    far.stop(grant)
    (ending,) = heard(far)
    assert ending.code == -15


def test_a_launch_is_the_same_on_the_node(tmp_path: Path, grant: Grant) -> None:
    one = placed(launcher(tmp_path, ""), grant)
    assert Launch.read(one.told) == one.launch
    assert Task.from_json(Path(one.launch.file).read_text()) == grant.task
    assert json.loads(one.told.read_text())["arguments"][-1] == one.launch.file


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        ((), {}),
        (("partition=gpu,account=lab",), {"partition": "gpu", "account": "lab"}),
        (("partition=a,b,time=8:00:00", "--qos=low"), {"partition": "a,b", "time": "8:00:00", "qos": "low"}),
        (("exclusive", "constraint=a&b=1"), {"exclusive": "", "constraint": "a&b=1"}),
    ],
)
def test_options_of_sbatch(texts: Sequence[str], options: dict[str, str]) -> None:
    assert options_of(texts) == options


@pytest.mark.parametrize("text", ["", "=gpu", "partition=", "Partition=gpu", "a b=c", "x;y=1"])
def test_what_is_no_option_of_sbatch_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="key=value"):
        options_of([text])


@pytest.mark.parametrize("name", OWN)
def test_what_kdbench_sets_itself_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--slurm {name}: kdbench sets this"):
        options_of([f"partition=gpu,{name}=1"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--slurm", "partition=gpu"), "--slurm goes with --backend slurm"),
        (("--ray-address", "auto"), "--ray-address goes with --backend ray"),
        (("--backend", "slurm", "--slurm", "array=3"), "kdbench sets this option"),
        (("--backend", "slurm", "--slots", "0"), "--slots must be at least 1"),
        (("--backend", "ray", "--slots", "0"), "--slots must be at least 1"),
    ],
)
def test_flags_of_clusters(cli: Cli, flags: Sequence[str], words: str) -> None:  # noqa: F811
    ended = cli("run", "--suite", "digits", *flags)
    assert ended.code == 2
    assert words in ended.err


@pytest.mark.parametrize(("name", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_library_that_is_not_installed(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'kdbench\[{name}\]'"):
        find_backend(Choice(name))


def test_no_slurm_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs pip install 'kdbench[slurm]'")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no sbatch here"):
        find_backend(Choice("slurm"))


def test_a_slurm_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs pip install 'kdbench[slurm]'")
    monkeypatch.setattr("kdbench.schedule.slurm.PATIENCE", 0.2)
    for name in ("sbatch", "srun", "squeue", "scancel", "sinfo"):
        (tmp_path / name).write_text("#!/bin/sh\nexec sleep 60\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(UserError, match="Slurm does not answer"):
        find_backend(Choice("slurm"))
