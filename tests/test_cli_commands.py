"""The commands that train nothing: help, list and doctor."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import metadata

import pytest
from bench import Bench, plugin_text, suite_text
from test_cli import Cli, cli  # noqa: F401
from test_teachers import CHECKPOINT, keep, weights

from kdbench import __version__
from kdbench.cli import COMMANDS
from kdbench.data import DATASETS
from kdbench.suites import PAIRS, SUITES, Suite
from kdbench.teachers.weights import weights_digest

MakeSuite = Callable[[str], Suite]

URL = "https://example.org/own.pt"


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


def test_flags_may_stand_between_the_words_of_a_command(cli: Cli, bench: Bench) -> None:  # noqa: F811
    mine = bench.plugin("mine")
    ended = cli("show", "method", "--plugin", mine, "mine")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("method mine: ")
    ended = cli("check-method", "kdd", "--plugin", mine, "mine")
    assert "There is no method named 'kdd'" in ended.err
    ended = cli("list", "methods", "--plugin", mine, "models")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "kdbench: unrecognized arguments: models; see kdbench list --help.\n"


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


def rows_of(out: str, title: str) -> dict[str, tuple[str, str]]:
    """The rows of the doctor's section ``title...``: name -> state, text. Every state begins in one column."""
    sections: dict[str, dict[str, tuple[str, str]]] = {}
    columns, section, name = set(), "", ""
    for line in out.splitlines():
        if line and not line.startswith(" "):
            section = line
        elif found := re.fullmatch(r"  (\S+(?: \S+)*) {2,}(\w+) *(.*)", line):
            name = found[1]
            columns.add(found.start(2))
            sections.setdefault(section, {})[name] = (found[2], found[3])
        elif line:
            state, text = sections[section][name]
            sections[section][name] = (state, f"{text} {line.strip()}".strip())
    assert len(columns) == 1
    return next(rows for full, rows in sections.items() if full.startswith(title))


def test_doctor(cli: Cli, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    ended = cli("doctor")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"kdbench {__version__}, Python ")
    sections = [line for line in ended.out.splitlines()[1:] if line and not line.startswith(" ")]
    data = bench.folder / "data"
    assert sections == [
        "Packages",
        "Devices",
        f"Data sets in {data}",
        f"Teachers' weights in {data / 'weights'}",
        "Extras",
        "Folders",
    ]
    assert all(len(line) <= 80 or " " not in line.strip() for line in ended.out.splitlines() if line not in sections)
    assert rows_of(ended.out, "Packages")["torch"] == ("ok", metadata.version("torch"))
    assert rows_of(ended.out, "Devices")["cpu"][0] == "ok"
    assert rows_of(ended.out, "Data sets")["digits"] == ("ok", "needs nothing, it comes with scikit-learn")
    assert rows_of(ended.out, "Teachers")["cifar100"][0] == "missing"
    assert rows_of(ended.out, "Extras")["dev"] == ("ok", "for kdbench's tests")
    folders = rows_of(ended.out, "Folders")
    assert folders["data root"] == ("missing", f"{data} (--data-root or KDBENCH_DATA)")
    assert folders["cache"] == ("ok", f"{bench.folder / 'cache'} (KDBENCH_CACHE)")


def test_doctor_says_what_is_wanted_of_a_data_set_and_how_to_get_it(cli: Cli, bench: Bench) -> None:  # noqa: F811
    rows = rows_of(cli("doctor").out, "Data sets")
    for name in DATASETS:
        spec = DATASETS.get(name)
        if spec.needs_files:
            state, text = rows[name]
            assert state == "missing"
            assert text.startswith(f"wanted is {spec.files}; get it from {spec.url}")
            assert ("--download" in text) == spec.downloadable
    folder = bench.folder / "data" / "cifar-100-binary"
    folder.mkdir(parents=True)
    (folder / "train.bin").touch()
    state, text = rows_of(cli("doctor").out, "Data sets")["cifar100"]
    assert state == "missing"
    assert text.startswith(f"{folder / 'test.bin'} of CIFAR-100 is missing")
    (folder / "test.bin").touch()
    state, text = rows_of(cli("doctor").out, "Data sets")["cifar100"]
    assert state == "damaged"
    assert "train.bin holds 0 bytes" in text


def test_doctor_looks_at_the_data_sets_of_plugins(
    cli: Cli,  # noqa: F811
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kdbench import plugins

    folder = bench.install(datasets={"blobs": "own_blobs:SPEC", "bad": "own_blobs:BAD"}, methods={"x": "own_blobs:X"})
    (folder / "own_blobs.py").write_text(BLOBS)
    monkeypatch.syspath_prepend(str(folder))
    plugins._loaded.clear()
    ended = cli("doctor")
    assert ended.code == 0
    assert rows_of(ended.out, "Plugins") == {"kdbench-test": ("ok", "method mine, data set bad, data set blobs")}
    rows = rows_of(ended.out, "Data sets")
    assert rows["blobs"][0] == "found"
    assert "no official digest is known" in rows["blobs"][1]
    assert rows["bad"] == ("broken", "Its loader raised KeyError: 'bad'.")


def test_doctor_says_that_a_plugin_cannot_be_loaded_and_goes_on(
    cli: Cli,  # noqa: F811
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kdbench import plugins

    monkeypatch.syspath_prepend(str(bench.install(methods={"own": "no_such_module_anywhere:SPEC"})))
    plugins._loaded.clear()
    ended = cli("doctor")
    assert ended.code == 0
    state, text = rows_of(ended.out, "Plugins")["plugins"]
    assert state == "broken"
    assert text.startswith("plugin kdbench-test: the entry point 'own' in kdbench.methods cannot be loaded")
    assert "Folders" in ended.out


def test_doctor_says_which_teachers_weights_are_there(cli: Cli, bench: Bench, make_suite: MakeSuite) -> None:  # noqa: F811
    state = weights()
    digest = weights_digest(state)
    others = "".join(f"\n[teachers.other{n}]\n{CHECKPOINT.replace('own', f'other{n}')}" for n in range(2))
    for name, pin, extra in (
        ("one", digest, ""),
        ("wrong", "1" * 64, ""),
        ("loose", "", ""),
        ("three", digest, others),
    ):
        teacher = CHECKPOINT + f'\nweights_sha256 = "{pin}"' * bool(pin)
        make_suite(suite_text(["kd"], name=name, teacher=teacher, extra=extra))
    files = "own.safetensors or own.pt"
    assert rows_of(cli("doctor").out, "Teachers")["one"] == ("missing", f"0 of 1 found; wanted: {files}, from {URL}.")
    kept = keep(bench, state)
    rows = rows_of(cli("doctor").out, "Teachers")
    assert "tiny" not in rows, "a suite that trains its teachers wants no weights"
    assert rows["one"] == ("ok", "1 of 1 found, 1 of them verified by a pinned digest.")
    assert rows["loose"] == ("ok", "1 of 1 found, none of them verified by a pinned digest.")
    assert rows["wrong"][0] == "differs"
    assert rows["wrong"][1].startswith(f"{kept} does not hold the pinned weights of tutor")
    assert rows["three"][0] == "partial"
    assert rows["three"][1].startswith(
        "1 of 3 found, 1 of them verified by a pinned digest; wanted: other0.safetensors or"
    )
    kept.write_bytes(b"damaged")
    rows = rows_of(cli("doctor").out, "Teachers")
    assert rows["one"][0] == "damaged"
    assert f"The weights in {kept} cannot be read" in rows["one"][1]


@pytest.mark.parametrize("installed", [False, True])
def test_doctor_without_a_torch_that_works(
    cli: Cli,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,
) -> None:
    version = metadata.version

    def without(name: str) -> str:
        if name == "torch" and not installed:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    with monkeypatch.context() as patch:
        patch.setattr(metadata, "version", without)
        patch.setitem(sys.modules, "torch", None)
        ended = cli("doctor")
    assert (ended.code, ended.err) == (3, "")
    assert rows_of(ended.out, "Packages")["torch"][0] == ("broken" if installed else "missing")
    assert "Devices" not in ended.out
    assert rows_of(ended.out, "Data sets")["digits"][0] == "ok"


def test_doctor_says_that_torch_does_not_see_the_gpus(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from kdbench.cli import doctor

    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for listed, state in ((("0", "1"), "broken"), ((), "none")):
        monkeypatch.setattr(doctor, "gpus", lambda listed=listed: listed)
        assert rows_of(cli("doctor").out, "Devices")["cuda"][0] == state


def test_doctor_names_a_cache_folder_that_cannot_be_written(
    cli: Cli,  # noqa: F811
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (bench.folder / "file").touch()
    monkeypatch.setenv("KDBENCH_CACHE", str(bench.folder / "file" / "cache"))
    ended = cli("doctor")
    assert ended.code == 0
    assert rows_of(ended.out, "Folders")["cache"][0] == "broken"


#: A package with a method, a data set that can be read, and one whose loader is at fault.
BLOBS = (
    plugin_text("mine").replace('"mine_plugin:Own"', '"own_blobs:Own"').replace("SPEC =", "X =")
    + """
import dataclasses
import numpy as np
from kdbench.data.builtin import DIGITS
from kdbench.plugin import Part, Source

SPEC = dataclasses.replace(DIGITS, name="blobs", title="Blobs", digest=None, loader="own_blobs:read")
BAD = dataclasses.replace(SPEC, name="bad", loader="own_blobs:fail")

def read(spec, root):
    def part(size):
        return Part(np.zeros((size, 1, 8, 8), dtype=np.uint8), np.arange(size, dtype=np.int64) % 10)
    return Source((), lambda: (part(spec.train_size), part(spec.test_size)))

def fail(spec, root):
    raise KeyError("bad")
"""
)


def test_list_names_the_pairs_that_a_package_offers(cli: Cli) -> None:  # noqa: F811
    PAIRS.add("mine", ('teacher = "tutor"\nstudent = "resnet20"', "mine.toml"), "plugin mine")
    assert "mine" in next(line for line in cli("list", "pairs").out.splitlines() if "run --pair" in line)
