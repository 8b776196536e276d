"""What one plugin does ends its own trials and nobody else's; what cannot be saved is trained all the same."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, same_bits, suite_text
from test_cli import LOCAL, RUN, Cli, cli  # noqa: F401

from kdbench.plugins import load_plugins
from kdbench.records import Record
from kdbench.schedule.local import LocalBackend
from kdbench.suites import SUITES, Suite
from kdbench.train import checkpoint

MakeSuite = Callable[[str], Suite]


def overriding(method: str, *lines: str) -> str:
    """What a plugin's ``setup`` is given to define the further ``method``."""
    return "\n".join(["pass", "", f"    def {method}:", *(f"        {line}" for line in lines)])


#: Methods that break what the engine does with them between and after steps.
BREAKING: dict[str, dict[str, Any]] = {
    "unsaved": {"setup": overriding("get_extra_state(self)", "return open(os.devnull)")},
    "stateless": {"setup": overriding("state_dict(self, *a, **k)", "raise RuntimeError('no state')")},
    "wordless": {
        "top": "class Wordless(Exception):\n    def __str__(self): raise RuntimeError('no words')",
        "loss": "raise Wordless",
    },
    "base": {"top": "class Base(BaseException): pass", "loss": "raise Base('beyond')"},
    "basesetup": {"top": "class Base(BaseException): pass", "setup": "raise Base('beyond')"},
    "generator": {"loss": "raise GeneratorExit"},
    "long": {"loss": "raise ValueError('x' * 10_000_000)"},
    "undeployed": {"setup": overriding("deployed(self, student)", "raise RuntimeError('no network')")},
    "halfdeployed": {
        "top": "import copy",
        "setup": overriding(
            "deployed(self, student)", "made = copy.deepcopy(student)", "made.state_dict = None", "return made"
        ),
    },
}


@pytest.mark.usefixtures("plugins_in_company")
def test_in_one_cohort_each_costs_its_own_trial_only(
    taught: Bench, good: tuple[Path, dict[str, Record]], make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdbench.jobs.cohort.CHECKPOINT_SECONDS", 0.0)
    files = [taught.plugin(name, **parts) for name, parts in BREAKING.items()]
    load_plugins(files)
    records = taught.train(taught.trials(make_suite(suite_text(["ce", *BREAKING, "kd"], name="mixed"))), files)
    for label in ("ce", "kd"):
        assert same_bits(records[label], good[1][label]), label
    assert records["unsaved"]["status"] == records["stateless"]["status"] == "finished"
    for name in set(BREAKING) - {"unsaved", "stateless"}:
        assert records[name]["status"] == "crashed", name
    assert records["wordless"]["detail"] == "Wordless: its text cannot be made"
    assert records["base"]["detail"] == records["basesetup"]["detail"] == "Base: beyond"
    assert len(records["long"]["detail"]) < 2000
    notes = [event["text"] for event in taught.events if event["event"] == "note"]
    assert sum("unsaved" in note and "an interruption would start it over" in note for note in notes) == 1


#: What ends a method's process, or takes what it speaks through.
DEADLY = [
    ("exits", "os._exit(0)"),
    pytest.param("aborts", "os.abort()", marks=pytest.mark.slow),
    pytest.param("mute", "os.closerange(0, 256)", marks=pytest.mark.slow),
    pytest.param("interrupts", "raise KeyboardInterrupt", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "loss"), DEADLY)
def test_a_plugin_that_takes_its_process_down_takes_its_own_trials(
    cli: Cli,  # noqa: F811
    bench: Bench,
    good: tuple[Path, dict[str, Record]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    loss: str,
) -> None:
    """With a real process; tests/executor_conformance.py has workers that end in more ways."""
    plugin = bench.plugin(name, loss=loss)
    SUITES.add("tiny", (suite_text(["ce", name]), "tiny.toml"), "test")
    if name == "exits":  # an innocent worker beside it is for the slow ones
        assert cli(*RUN, "--plugin", plugin, "--method", "ce").code == 0
    monkeypatch.setattr(LocalBackend, "executor", LOCAL)
    ended = cli(*RUN, "--plugin", plugin)
    assert ended.code == 3, ended.out + ended.err
    records = bench.records()
    assert {label: record["status"] for label, record in records.items()} == {"ce": "finished", name: "crashed"}
    assert same_bits(records["ce"], good[1]["ce"])


def test_a_full_cache_disk_costs_checkpoints_and_not_records(
    taught: Bench, good: tuple[Path, dict[str, Record]], make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("kdbench.jobs.cohort.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "save", full)
    records = taught.train(taught.trials(make_suite(suite_text(["ce", "kd"]))))
    for label in ("ce", "kd"):
        assert same_bits(records[label], good[1][label]), label
    notes = [event["text"] for event in taught.events if event["event"] == "note"]
    (note,) = notes  # and not one a step
    assert "No space left" in note


def test_one_record_that_cannot_be_written_keeps_no_other_from_being_written(
    taught: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench.records.store import Store

    put = Store.put

    def refuses(self: Store, record: Record, predictions: Any = None) -> Path:
        if record["label"] == "ce":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))  # which no patience helps
        return put(self, record, predictions)

    suite = make_suite(suite_text(["ce", "kd"]))
    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", refuses)
        with pytest.raises(OSError, match="Permission denied"):
            taught.train(taught.trials(suite))
    assert list(taught.records()) == ["kd"]
    taught.events.clear()
    taught.train(taught.trials(suite))
    assert set(taught.records()) == {"ce", "kd"}
    assert not [event for event in taught.events if event["event"] == "epoch"]  # from the last checkpoint


def test_what_a_killed_process_left_unfinished_is_removed(taught: Bench, make_suite: MakeSuite) -> None:
    folder = taught.folder / "cache" / "checkpoints"
    folder.mkdir(parents=True)
    gone, alive = folder / ".key.4194303.tmp", folder / f".key.{os.getppid()}.tmp"
    for path in (gone, alive):
        path.write_bytes(b"half")
    taught.train(taught.trials(make_suite(suite_text(["ce"], epochs=1))))
    assert (gone.exists(), alive.exists()) == (False, True)
