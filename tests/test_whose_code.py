"""Whose code it was: an edit of a plugin, be it a loss, a network or what builds it, makes other trials."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from bench import TRAINED, Bench, plugin_text, suite_text
from test_cli import RUN, Cli, cli  # noqa: F401
from test_planned_code import forget
from test_self_teachers import SELF

from kdbench import distributions, plugins
from kdbench.cli.new_method import write_package
from kdbench.data import DATASETS
from kdbench.errors import UserError
from kdbench.methods import METHODS
from kdbench.models import MODELS
from kdbench.plugins import load_plugins, planned
from kdbench.records import Record
from kdbench.records.build import build_record
from kdbench.suites import SUITES, get_suite
from kdbench.trials.origins import foreign
from kdbench.trials.trial import teacher_trial

NETWORK = """
from torch import nn

def build(classes, image_shape, width=8):
    maps = nn.Conv2d(image_shape[0], width, 3)
    return nn.Sequential(maps, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
"""
SPEC = """
from kdbench.plugin import ModelSpec

SPEC = ModelSpec("own_net", "own", "For tests.", "own.network:build", 8)
"""
OTHER_CODE = "was recorded with other code of plugin kdbench-own (version 0.1.0, as now)"


class Package:
    """An installed package ``kdbench-own`` of which this process knows nothing yet, as an editable install has it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sources, self.info = folder / "src", folder / "site" / "kdbench_own-0.1.0.dist-info"
        self.info.mkdir(parents=True)
        self.write("own/__init__.py", "")
        (self.info / "METADATA").write_text("Metadata-Version: 2.1\nName: kdbench-own\nVersion: 0.1.0\n")
        (self.info / "RECORD").write_text("_own.pth,,\nkdbench_own-0.1.0.dist-info/METADATA,,\n")
        (self.info.parent / "_own.pth").write_text(f"{self.sources}\n")
        self.entry_points(models={"own_net": "own:SPEC"})
        for path in (self.sources, self.info.parent):
            monkeypatch.syspath_prepend(str(path))
        self.forget()

    def entry_points(self, **groups: dict[str, str]) -> None:
        lines = (
            f"[kdbench.{group}]\n" + "".join(f"{n} = {v}\n" for n, v in points.items())
            for group, points in groups.items()
        )
        (self.info / "entry_points.txt").write_text("".join(lines))

    def write(self, name: str, text: str) -> Path:
        path = self.sources / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def edit(self, name: str, before: str, after: str) -> None:
        """An edit between two runs: what this process has imported is forgotten."""
        text = (self.sources / name).read_text("utf-8")
        assert before in text
        assert len(before) != len(after), "what Python compiled would be taken for what is there"
        self.write(name, text.replace(before, after))
        self.forget()

    def forget(self) -> None:
        for registry in (METHODS, MODELS, DATASETS):
            for name in [name for name in registry if registry.origin(name) == "plugin kdbench-own"]:
                del registry._items[name], registry._origins[name]
        for name in [name for name in sys.modules if name.split(".")[0] == "own"]:
            del sys.modules[name]
        plugins._packages.clear()
        plugins._loaded.clear()

    @property
    def digest(self) -> str:
        found = distributions.find("kdbench-own")
        assert found is not None
        return distributions.distribution_digest(found)


@pytest.fixture
def package(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Package:
    made = Package(bench.folder, monkeypatch)
    made.write("own/network.py", NETWORK)
    made.write("own/__init__.py", SPEC)
    return made


def add_suite(text: str) -> None:
    """A suite that is read when it is asked for, once the package is loaded."""
    SUITES.add("tiny", (text, "tiny.toml"), "test")


def every(bench: Bench, label: str) -> list[Record]:
    """The records of ``label``, the first one first."""
    records, problems = bench.store.read()
    assert not problems
    found = [record for record in records if record["label"] == label]
    return sorted(found, key=lambda record: (record["provenance"]["created"], record["key"]))


def test_an_architecture_edited_from_width_8_to_24_is_trained_anew(
    cli: Cli,  # noqa: F811
    bench: Bench,
    package: Package,
) -> None:
    add_suite(suite_text(["ce"], epochs=1, student="own_net"))
    assert cli(*RUN).code == 0
    assert "Nothing to do" in cli(*RUN).out
    package.edit("own/network.py", "width=8", "width=24")
    said = cli(*RUN)
    assert said.code == 0
    assert f"  1 trial of ce {OTHER_CODE}; it is trained again, the older records stay.\n" in said.out
    narrow, wide = sorted(every(bench, "ce"), key=lambda record: record["cost"]["parameters"])
    assert narrow["cost"]["parameters"] < wide["cost"]["parameters"]
    assert narrow["key"] != wide["key"]
    assert narrow["identity"]["student"]["source"] != wide["identity"]["student"]["source"] == package.digest
    (plugin,) = wide["provenance"]["plugins"]
    assert plugin == {"name": "kdbench-own", "version": "0.1.0", "sha256": package.digest}


def test_a_teacher_whose_activation_was_edited_is_trained_anew(
    cli: Cli,  # noqa: F811
    bench: Bench,
    package: Package,
) -> None:
    """Its weights still fit, so nothing but the digest tells that the network that taught was another one."""
    add_suite(suite_text(["kd"], epochs=1, teacher=TRAINED.replace("tiny_cnn_s", "own_net")))
    assert cli(*RUN).code == 0
    package.edit("own/network.py", "ReLU()", "Hardshrink(9.0)")  # nothing passes it: everything is of one class
    assert f"  1 trial of kd {OTHER_CODE}; it is trained again" in cli(*RUN).out
    taught = {record["teacher"]["top1"]: record for record in every(bench, "kd")}
    trained = {record["scores"]["last"]["top1"]: record for record in every(bench, "teacher")}
    assert taught.keys() == trained.keys()
    assert len(taught) == 2
    for top1, record in taught.items():
        assert record["identity"]["teacher"]["recipe"] == trained[top1]["key"]
        assert [plugin["name"] for plugin in record["provenance"]["plugins"]] == ["kdbench-own"]


def test_a_loss_edited_in_an_editable_install_is_trained_anew(
    cli: Cli,  # noqa: F811
    bench: Bench,
    package: Package,
) -> None:
    package.entry_points(methods={"own": "own:SPEC"})
    package.write("own/__init__.py", plugin_text("own").replace("own_plugin:", "own:"))
    add_suite(suite_text(["ce", "own"], epochs=1))
    assert cli(*RUN).code == 0
    assert "Nothing to do" in cli(*RUN).out
    package.edit("own/__init__.py", "F.cross_entropy(", "0.5 * F.cross_entropy(")
    for flags in (["--dry-run"], []):
        said = cli(*RUN, *flags).out
        assert "2 trials, 1 recorded in results, 1 to train." in said
        assert f"  1 trial of own {OTHER_CODE}; it is trained again" in said
    assert OTHER_CODE not in cli(*RUN).out
    found = {record["identity"]["method"]["source"]: record for record in every(bench, "own")}
    after = found.pop(package.digest)
    (before,) = found.values()
    assert before["weights_sha256"] != after["weights_sha256"]
    assert after["provenance"]["plugin_sha256"] == package.digest
    (alone,) = every(bench, "ce")
    assert alone["provenance"]["plugins"] == []


def test_the_options_of_an_architecture_are_in_the_key(
    bench: Bench, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may come from elsewhere than the package's own files."""
    package.write("own/__init__.py", SPEC.replace("8)", "8, options={'width': int(os.environ['WIDTH'])})"))
    package.edit("own/__init__.py", "from kdbench", "import os\nfrom kdbench")
    add_suite(suite_text(["kd"], student="own_net"))
    keys = []
    for width in ("8", "24"):
        monkeypatch.setenv("WIDTH", width)
        package.forget()
        load_plugins()
        (trial,) = bench.trials(get_suite("tiny"))
        assert trial.identity()["student"]["options"] == {"width": int(width)}
        keys.append(trial.key)
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("{'a': object()}", "not JSON serializable"),
        ("{'a': float('nan')}", "not JSON compliant"),
        ("[1]", "no mapping of names to values"),
    ],
)
def test_options_that_cannot_be_written_down_are_one_sentence(package: Package, options: str, words: str) -> None:
    package.write("own/__init__.py", SPEC.replace("8)", f"8, options={options})"))
    with pytest.raises(UserError, match=f"plugin kdbench-own: the options of the model 'own_net' .*{words}"):
        load_plugins()


def test_a_worker_refuses_a_package_that_was_edited_since_the_plan(package: Package) -> None:
    load_plugins()
    (before,) = planned({"plugin kdbench-own"})
    plugins.load_planned([before])
    package.edit("own/network.py", "width=8", "width=24")
    with pytest.raises(UserError, match="files of the package kdbench-own are not those that the run was planned with"):
        plugins.load_planned([before])


def test_a_package_is_known_by_its_files_and_not_by_what_is_made_of_them(package: Package) -> None:
    before = package.digest
    for name in ("own/__pycache__/network.cpython-399.pyc", "own/.network.py.swp", "elsewhere/module.py", "own.txt"):
        package.write(name, "x")
    assert package.digest == before
    (package.info / "RECORD").write_text("_own.pth,,\n_own_finder.py,,\n")
    assert package.digest == before
    path = package.write("own/table.json", "{}")
    assert package.digest != before
    path.unlink()
    assert package.digest == before


def test_nothing_of_it_is_imported_to_know_it(package: Package) -> None:
    package.write("own/__init__.py", "raise RuntimeError('imported')")
    package.entry_points(models={"own_net": "own.deeper.module:SPEC"})
    assert package.digest
    assert "own" not in sys.modules


def test_of_a_namespace_only_the_packages_own_part_counts(package: Package) -> None:
    package.write("shared/mine/__init__.py", "")
    package.write("shared/mine/network.py", NETWORK)
    package.entry_points(models={"own_net": "shared.mine.network:SPEC"})
    before = package.digest
    package.write("shared/other/__init__.py", "")
    package.write("shared/other.py", "")
    assert package.digest == before
    package.write("shared/mine/more.py", "")
    assert package.digest != before


def test_a_module_beside_the_package_that_implements_what_it_registers_counts(package: Package) -> None:
    package.write("own/__init__.py", SPEC.replace("own.network", "own_networks"))
    path = package.write("own_networks.py", NETWORK)
    load_plugins()
    (before,) = planned({"plugin kdbench-own"})
    path.write_text(NETWORK.replace("width=8", "width=24"))
    package.forget()
    load_plugins()
    (after,) = planned({"plugin kdbench-own"})
    assert before.sha256 != after.sha256


def test_a_package_without_files_is_one_sentence(package: Package) -> None:
    package.entry_points(models={"own_net": "gone:SPEC"})
    with pytest.raises(UserError, match="None of the files of the package kdbench-own can be found"):
        assert package.digest


@dataclass(frozen=True)
class Installs:
    """A package's sources, and the folders that a wheel of them and an editable install of them put beside other's."""

    project: Path
    wheel: Path
    editable: Path


@pytest.fixture
def installs(tmp_path: Path) -> Installs:
    project, wheel, editable = write_package("mine", tmp_path), tmp_path / "wheel", tmp_path / "editable"
    code = f"from hatchling.build import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        archive.extractall(wheel)
    (info,) = wheel.glob("*.dist-info")
    shutil.copytree(info, editable / info.name)
    (editable / info.name / "RECORD").write_text(f"_mine.pth,,\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n")
    (editable / "_mine.pth").write_text(f"{project}\n")
    return Installs(project, wheel, editable)


def test_a_wheel_and_an_editable_install_of_the_same_sources_have_one_digest(
    installs: Installs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known(*paths: Path) -> str:
        with monkeypatch.context() as patch:
            for path in paths:  # the last one comes first
                patch.syspath_prepend(str(path))
            found = distributions.find("kdbench-mine")
            assert found is not None
            return distributions.distribution_digest(found)

    wheel, editable, project = installs.wheel, installs.editable, installs.project
    assert known(wheel) == known(editable, project)
    (wheel / "kdbench_mine" / "left_by_a_run.txt").write_text("x")
    assert known(wheel) == known(editable, project), "what no RECORD lists is not of the package"
    (project / "kdbench_mine" / "method.py").write_text("x = 1")
    assert known(wheel) != known(editable, project)
    assert known(wheel, project) == known(editable, project), "a copy that comes first is what runs"
    (wheel / "kdbench_mine" / "method.py").write_text("x = 1")
    assert known(wheel) == known(editable, project), "what it is now, not what its RECORD says"


def note(bench: Bench, *, by_earlier_version: bool = False) -> None:
    """Leave records of the suite's trials and of their teachers' trainings, as if each had been tried."""
    load_plugins()
    for trial in bench.trials(get_suite("tiny")):
        generations = trial.teacher.lineage if trial.teacher else ()
        trainings = [teacher_trial(each, trial.dataset, trial.data_digest, trial.suite) for each in generations]
        for each in (trial, *trainings):
            if by_earlier_version:  # which knew a package by its version alone
                each = replace(each, plugin_sha256=None, student_code={})
            record = build_record(each, "inapplicable", detail="For tests.", plugins=planned(foreign(each)))
            if by_earlier_version:
                del record["provenance"]["plugins"]
            bench.store.put(record)


def test_what_was_recorded_with_other_code_is_said_of_each_row(cli: Cli, bench: Bench, package: Package) -> None:  # noqa: F811
    warm = {"name": "kd", "label": "kd-warm", "config": {"temperature": 8.0}}
    add_suite(suite_text(["ce", "kd", warm], seeds=[0, 1], student="own_net"))
    note(bench)
    package.edit("own/network.py", "width=8", "width=24")
    metadata = package.info / "METADATA"
    metadata.write_text(metadata.read_text().replace("0.1.0", "0.2.0"))
    said = cli(*RUN, "--dry-run").out
    for label in ("ce", "kd", "kd-warm"):
        assert (
            f"  2 trials of {label} were recorded with other code of plugin kdbench-own (version 0.1.0, now 0.2.0); "
            "they are trained again, the older records stay.\n"
        ) in said


def test_so_it_is_said_of_what_an_earlier_version_recorded(cli: Cli, bench: Bench, package: Package) -> None:  # noqa: F811
    add_suite(suite_text(["ce"], student="own_net"))
    note(bench, by_earlier_version=True)
    assert (
        "1 trial of ce was recorded with other code of plugin kdbench-own; it is trained again"
        in cli(*RUN, "--dry-run").out
    )


def test_so_it_is_said_of_a_later_generations_students(cli: Cli, bench: Bench, package: Package) -> None:  # noqa: F811
    generations = SELF.replace("tiny_cnn_s", "own_net")
    add_suite(suite_text(["kd"], student="own_net", teacher=f"{generations}\ngenerations = 3"))
    note(bench)
    package.edit("own/network.py", "width=8", "width=24")
    assert f"1 trial of kd {OTHER_CODE}" in cli(*RUN, "--dry-run").out


def test_so_it_is_said_of_a_plugin_file(cli: Cli, bench: Bench) -> None:  # noqa: F811
    path = Path(bench.plugin("own"))
    add_suite(suite_text(["own"], epochs=1))
    assert cli(*RUN, "--plugin", str(path)).code == 0
    path.write_text(path.read_text().replace("F.cross_entropy(", "0.5 * F.cross_entropy("))
    forget(str(path))
    said = cli(*RUN, "--plugin", str(path), "--dry-run").out
    assert "1 trial of own was recorded with other code of plugin own_plugin.py; it is trained again" in said


def test_nothing_is_said_of_other_trials(cli: Cli, bench: Bench, package: Package) -> None:  # noqa: F811
    add_suite(suite_text(["kd"], student="own_net"))
    note(bench)
    package.edit("own/network.py", "width=8", "width=24")
    SUITES._items["tiny"] = (
        suite_text([{"name": "kd", "config": {"temperature": 8.0}}], student="own_net"),
        "tiny.toml",
    )
    assert "other code" not in cli(*RUN, "--dry-run").out
