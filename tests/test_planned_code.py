"""What a worker trains is what its task was planned with: plugins, kdbench itself, the data, the teacher's weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bench import Bench, plugin_text, suite_text
from safetensors.torch import load_file, save_file

from kdbench import plugins
from kdbench.errors import UserError
from kdbench.jobs.worker import run
from kdbench.plan.cohorts import cohorts
from kdbench.plan.fleet import cpu
from kdbench.plan.task import Task
from kdbench.plan.tasks import make_tasks
from kdbench.plugins import load_planned, load_plugins, planned
from kdbench.records.provenance import source_digest
from kdbench.suites import Suite

MakeSuite = Callable[[str], Suite]


def forget(*files: str) -> None:
    """What a new process does not know: the plugin ``files``, their methods and modules."""
    import sys

    from kdbench.methods import METHODS

    for file in files:
        plugins._files.pop(Path(file).name, None)
        sys.modules.pop(Path(file).stem, None)
        for name in [name for name in METHODS if METHODS.origin(name) == f"plugin {Path(file).name}"]:
            del METHODS._items[name], METHODS._origins[name]


@pytest.fixture
def edited(bench: Bench, make_suite: MakeSuite) -> tuple[Bench, str, Task]:
    """A plugin file, and the task that was planned with it."""
    plugin = bench.plugin("own")
    load_plugins([plugin])
    (task,) = bench.tasks(bench.trials(make_suite(suite_text(["own"], epochs=1))), [plugin])
    forget(plugin)
    return bench, plugin, task


def test_a_plugin_file_that_was_edited_is_refused(edited: tuple[Bench, str, Task]) -> None:
    bench, plugin, task = edited
    before = Path(plugin).stat()
    text = Path(plugin).read_text()
    Path(plugin).write_text(text.replace("'ce'", "'ce'").replace("For tests.", "For Tests."))
    os.utime(plugin, ns=(before.st_atime_ns, before.st_mtime_ns))  # nothing but its content tells
    with pytest.raises(UserError, match=r"own_plugin.py changed since the run was planned; start the run again\.$"):
        run(task, bench.events.append)
    assert bench.records() == {}
    Path(plugin).write_text(text)
    run(task, bench.events.append)
    assert bench.records()["own"]["status"] == "finished"


def test_what_runs_is_what_was_hashed_and_not_what_python_compiled_before(bench: Bench) -> None:
    """Compiled code is kept by size and second: an edit of the same length in the same second would run the old one."""
    plugin = Path(bench.plugin("own", top="MARK = 1"))
    stamp = plugin.stat().st_mtime_ns
    load_plugins([str(plugin)])
    forget(str(plugin))
    plugin.write_text(plugin.read_text().replace("MARK = 1", "MARK = 2"))
    os.utime(plugin, ns=(stamp, stamp))
    load_plugins([str(plugin)])
    import sys

    assert sys.modules["own_plugin"].MARK == 2


def test_a_package_at_another_version_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bench.install(methods={"own": "own_plugin:SPEC"})
    (folder / "own_plugin.py").write_text(plugin_text("own"))
    monkeypatch.syspath_prepend(str(folder))
    (package,) = planned({"plugin kdbench-test"})
    assert (package.name, package.version) == ("kdbench-test", "1")
    load_planned([package])
    with pytest.raises(UserError, match=r"kdbench-test was at version 0\.9 when the run was planned and is at 1 now"):
        load_planned([replace(package, version="0.9")])


def test_kdbench_at_another_state_of_its_code_is_refused(edited: tuple[Bench, str, Task]) -> None:
    bench, _, task = edited
    with pytest.raises(UserError, match="kdbench itself was changed since the run was planned"):
        run(replace(task, source="0" * 64), bench.events.append)
    run(replace(task, source=source_digest()), bench.events.append)


@pytest.mark.parametrize("teacher", [True, False])
def test_data_that_changed_is_refused_by_teachers_and_students(
    bench: Bench, make_suite: MakeSuite, teacher: bool
) -> None:
    prepare, train = bench.tasks(bench.trials(make_suite(suite_text(["kd"], epochs=1))))
    if not teacher:
        run(prepare, bench.events.append)
    task = replace(prepare if teacher else train, data_digest="0" * 64)
    with pytest.raises(UserError, match=r"digits changed since the run was planned|is not ready"):
        run(task, bench.events.append)
    assert bench.records() == {}


def test_weights_exchanged_between_the_teachers_task_and_the_students_are_refused(
    bench: Bench, make_suite: MakeSuite
) -> None:
    prepare, train = bench.tasks(bench.trials(make_suite(suite_text(["kd"], epochs=1))))
    run(prepare, bench.events.append)
    (weights,) = (bench.folder / "cache" / "teachers").glob("*/weights.safetensors")
    state = load_file(weights)
    save_file({name: value + 1 if value.is_floating_point() else value for name, value in state.items()}, weights)
    with pytest.raises(UserError, match="are not those that were measured"):
        run(train, bench.events.append)
    (logits,) = (bench.folder / "cache" / "teachers").glob("*/test_logits.npy")
    save_file(state, weights)
    logits.write_bytes(logits.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="is not ready"):
        run(train, bench.events.append)
    assert bench.records() == {}
    run(prepare, bench.events.append)
    run(train, bench.events.append)
    assert bench.records()["kd"]["status"] == "finished"


def test_plugins_train_in_processes_of_their_own(bench: Bench, make_suite: MakeSuite) -> None:
    """One task for each plugin's trials, which knows that plugin alone; the others know none."""
    files = [bench.plugin(name) for name in ("one", "other")]
    load_plugins(files)
    suite = make_suite(suite_text(["ce", "one", "other", "kd"], seeds=(0, 1)))
    trials = bench.trials(suite)
    tasks = make_tasks(cohorts(trials), bench.template(trials[0]), 40.0, fleet=cpu())
    found = {tuple(sorted({t.label for t in task.trials})): [p.name for p in task.plugins] for task in tasks}
    assert found == {
        (): [],  # the teacher
        ("ce", "kd"): [],
        ("one",): ["one_plugin.py"],
        ("other",): ["other_plugin.py"],
    }


def test_a_worker_loads_no_plugin_that_its_task_does_not_name(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that cannot even be imported costs others nothing."""
    folder = bench.install(methods={"broken": "broken_module:CARD"})
    (folder / "broken_module.py").write_text("raise RuntimeError('no luck')")
    monkeypatch.syspath_prepend(str(folder))
    plugins._loaded.discard("entry points")
    load_planned([])
    load_planned(planned({"plugin another"}))
    with pytest.raises(UserError, match="no luck"):
        load_planned(planned({"plugin kdbench-test"}))
