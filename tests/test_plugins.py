"""Plugins: files and installed packages add what they define, and a bad one is one sentence."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import ROOT, TRAINED, Bench, made_foreign, plugin_text, suite_text
from test_cli import BUILD_AND_SAY, RUN, Cli, cli  # noqa: F401

from kdbench import plugins
from kdbench.cli import site
from kdbench.errors import UserError
from kdbench.methods import METHODS, load_class
from kdbench.plugins import load_plugins, source_of
from kdbench.suites import SUITES, Suite, get_suite
from kdbench.trials.origins import Plugin, foreign


@pytest.fixture
def offer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Install a package that offers entry points: group -> {name: value}, and its modules: name -> source."""

    def make(modules: dict[str, str], **groups: dict[str, str]) -> Path:
        folder = bench.install(**groups)
        for name, source in modules.items():
            (folder / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))
        plugins._loaded.clear()
        return folder

    return make


#: A composition and a supervision of one's own.
KINDS = """
from __future__ import annotations
from dataclasses import dataclass, field
from kdbench.plugin import Composition, Lesson, Supervision

@dataclass(frozen=True)
class Loudest(Composition):
    kind: str = field(init=False, default="loudest")
    scale: float = 1.0

    def speak(self, said, told):
        return self.scale * max(said, key=lambda logits: float(logits.max()))

@dataclass(frozen=True)
class First(Supervision):
    images: int = 100
    kind: str = field(init=False, default="first")

    def lesson(self, truth):
        places = truth.places[: self.images]
        return Lesson(places, truth.labels[places])

SPEC = First
"""


def test_a_file_adds_its_method(bench: Bench) -> None:
    path = bench.plugin("mine")
    load_plugins([path])
    assert METHODS.get("mine").title == "mine"
    assert METHODS.origin("mine") == "plugin mine_plugin.py"
    sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert source_of("plugin mine_plugin.py") == Plugin("mine_plugin.py", sha256, path=path)
    assert load_class(METHODS.get("mine")).__name__ == "Own"


def test_loading_again_changes_nothing(bench: Bench) -> None:
    path = bench.plugin("mine")
    load_plugins([path, path])
    load_plugins([Path(path).name])
    assert "mine" in METHODS


def test_an_edited_plugin_makes_other_trials(bench: Bench, make_suite: Callable[[str], object]) -> None:
    load_plugins([bench.plugin("mine")])
    suite = get_suite(make_suite(suite_text(["ce", "mine"])).name)  # type: ignore[attr-defined]
    ce, mine = bench.trials(suite)
    made_foreign(METHODS, "mine", "0" * 64)
    other_ce, other_mine = bench.trials(suite)
    assert ce.key == other_ce.key
    assert mine.key != other_mine.key


def test_one_card_under_two_names_is_one_method(bench: Bench) -> None:
    path = Path(bench.plugin("mine"))
    path.write_text(path.read_text() + "\nALIAS = SPEC\n")
    load_plugins([str(path)])
    assert "mine" in METHODS


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "defines no MethodSpec"),
        ("x = (", "SyntaxError"),
        ("raise ValueError('no luck')", "ValueError: no luck"),
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named"),
        ("import sys; sys.exit(0)", "SystemExit"),
        (plugin_text("bad").replace('"family": "baseline"', '"family": "magic"'), "family must be one of"),
        (plugin_text("kd"), "the method name 'kd' is already taken by kdbench"),
    ],
    ids=["empty", "syntax", "raises", "import", "exit", "card", "clash"],
)
def test_a_bad_file_is_one_sentence(bench: Bench, source: str, words: str) -> None:
    path = bench.folder / "bad_plugin.py"
    path.write_text(source)
    before = METHODS.names()
    with pytest.raises(UserError, match=words) as caught:
        load_plugins([str(path)])
    assert "bad_plugin.py" in str(caught.value)
    assert METHODS.names() == before


def test_a_file_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(UserError, match=r"--plugin .*none.py: there is no such file"):
        load_plugins(["none.py"])


def test_a_file_named_like_a_loaded_module_is_refused(bench: Bench) -> None:
    path = bench.folder / "json.py"
    path.write_text(plugin_text("mine"))
    with pytest.raises(UserError, match="a module named 'json' is loaded already; rename the file"):
        load_plugins([str(path)])


def test_an_installed_package_adds_methods_and_suites(offer: Callable[..., Path]) -> None:
    offer(
        {"packaged_plugin": plugin_text("packaged"), "packaged_suite_plugin": f"TEXT = {suite_text(['packaged'])!r}"},
        methods={"packaged": "packaged_plugin:SPEC"},
        suites={"tiny": "packaged_suite_plugin:TEXT"},
    )
    load_plugins()
    assert METHODS.origin("packaged") == "plugin kdbench-test"
    assert [row.method for row in get_suite("tiny").rows] == ["packaged"]


@pytest.mark.parametrize(
    ("source", "group", "words"),
    [
        ("SPEC = 3", "methods", "the entry point 'own' in kdbench.methods must name a MethodSpec"),
        ("SPEC = 3", "models", "must name a ModelSpec"),
        ("SPEC = 3", "datasets", "must name a DatasetSpec"),
        ("SPEC = 3", "suites", "must name a string of TOML"),
        ("SPEC = 3", "teachers", "kdbench.teachers must name a string of TOML"),
        ("SPEC = 3", "compositions", "must name a class that derives from kdbench.plugin.Composition"),
        ("class SPEC: pass", "supervisions", "must name a class that derives from kdbench.plugin.Supervision"),
        ("from kdbench.plugin import Supervision as SPEC", "supervisions", "must be a frozen dataclass with a 'kind'"),
        (KINDS.replace("int = 100", "set = 100"), "supervisions", "the field 'images' of First must have a default"),
        (KINDS.replace("int = 100", "int"), "supervisions", "the field 'images' of First must have a default"),
        (KINDS.replace('"first"', '"few-labels"'), "supervisions", "'few-labels' is already taken by kdbench"),
        (
            KINDS.replace("SPEC", "X").replace("Loudest", "SPEC").replace('"loudest"', '"self"'),
            "compositions",
            "'self' is",
        ),
        ("raise ValueError('no luck')", "methods", "cannot be loaded: ValueError: no luck; mend the package"),
        ("raise ValueError('no luck')", "suites", "cannot be loaded: ValueError: no luck"),
        ("import sys; sys.exit(3)", "models", "cannot be loaded: SystemExit: 3"),
        ("", "datasets", "cannot be loaded: .*SPEC"),
    ],
)
def test_a_bad_package_is_one_sentence(offer: Callable[..., Path], source: str, group: str, words: str) -> None:
    offer({"own_plugin": source}, **{group: {"own": "own_plugin:SPEC"}})
    with pytest.raises(UserError, match=f"^plugin kdbench-test: .*{words}"):
        load_plugins()


def test_a_package_adds_kinds_of_teacher_and_of_supervision(
    offer: Callable[..., Path], bench: Bench, make_suite: Callable[[str], Suite]
) -> None:
    offer({"own_plugin": KINDS}, compositions={"a": "own_plugin:Loudest"}, supervisions={"b": "own_plugin:First"})
    load_plugins()
    text = suite_text(
        ["kd", {"name": "kd", "label": "first", "supervision": {"kind": "first", "images": 50}}],
        epochs=1,
        teacher='kind = "loudest"\nof = ["one"]\nseeds = [1, 2]\nscale = 2',
        extra=f"[teachers.one]\n{TRAINED}",
    )
    suite = make_suite(text)
    trials = {trial.label: trial for trial in bench.trials(suite)}
    source = source_of("plugin kdbench-test").sha256
    assert trials["kd"].identity()["supervision"] == "full"
    assert trials["first"].identity()["supervision"]["source"] == source
    assert trials["kd"].identity()["teacher"]["source"] == source
    assert all(foreign(trial) == {"plugin kdbench-test"} for trial in trials.values())
    records = bench.train(list(trials.values()))
    assert {record["status"] for record in records.values()} == {"finished"}
    assert records["first"]["teacher"]["kind"] == "loudest"
    assert [plugin["name"] for plugin in records["first"]["provenance"]["plugins"]] == ["kdbench-test"]


def test_a_suite_of_a_package_names_it_in_its_errors(offer: Callable[..., Path]) -> None:
    offer({"own_plugin": "TEXT = 'name = 3'"}, suites={"own": "own_plugin:TEXT"})
    load_plugins()
    assert "own" in SUITES
    with pytest.raises(UserError, match=r"^plugin kdbench-test: own_plugin:TEXT: name must be a str"):
        get_suite("own")


def test_the_method_of_the_readme_joins_what_is_recorded(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: Callable[[str], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(site, "build_and_say", BUILD_AND_SAY)
    source = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert source
    (bench.folder / "prob_mse.py").write_text(source[1], encoding="utf-8")
    make_suite(suite_text(["ce", "kd"], epochs=1))
    assert cli(*RUN).code == 0
    monkeypatch.setitem(sys.modules, "prob_mse", None)  # forgotten at the end
    del sys.modules["prob_mse"]
    ended = cli(*RUN, "--plugin", "prob_mse.py", "--method", "ce", "--method", "prob-mse")
    assert ended.code == 0, ended.err
    assert "2 trials, 1 recorded in results, 1 to train" in ended.out
    assert bench.records()["prob-mse"]["status"] == "finished"
    page = (bench.folder / "site" / "public" / "suites" / "tiny@1.html").read_text("utf-8")
    assert "prob-mse" in page
    assert "kd" in page


def test_plugins_need_no_torch() -> None:
    code = "import sys, kdbench.plugins as p; p.load_plugins(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
