"""Whatever lies where JSON belongs: one sentence that names the file, at once, in little memory; the rest is used."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import render_records as rr
from bench import Bench
from test_cli import BUILD_AND_SAY, RUN, Cli, cli  # noqa: F401
from test_store import predicted, predictions, record
from test_trial import TRIAL

from kdbench.cli import site
from kdbench.errors import UserError
from kdbench.records import Store, literature
from kdbench.records.build import build_record
from kdbench.records.predictions import pack
from kdbench.records.reading import DEEPEST, LARGEST, LARGEST_JSON, parse_json, read_json
from kdbench.render import build

#: A sound document, and the place in it where something else can be said.
SOUND = b'{"schema_version": 1, "key": %s, "seed": 0}'


def deep(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return SOUND % (opening * depth + closing * depth)


BYTES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is empty"),
    "white space": (b" \n\t", "it is empty"),
    "400 digits": (SOUND % (b"9" * 400), "key is not a finite number of sensible size"),
    "400 digits below zero": (SOUND % (b"-" + b"9" * 400), "key is not a finite number of sensible size"),
    "5000 digits": (SOUND % (b"9" * 5000), "key is not a finite number of sensible size"),
    "an exponent": (SOUND % b"1e999", "key is not a finite number of sensible size"),
    "an exponent deep inside": (SOUND % b'[{"a b": [1, -1e999]}]', "key/1/a b/2 is not a finite number"),
    "no number": (SOUND % b"NaN", "key is not a finite number of sensible size"),
    "infinity": (SOUND % b"-Infinity", "key is not a finite number of sensible size"),
    "deep lists": (deep(100_000), f"it is nested more than {DEEPEST} levels deep"),
    "deep objects": (deep(100_000, b'{"a":', b"}"), f"it is nested more than {DEEPEST} levels deep"),
    "deep and without an end": (b"[" * 100_000, f"it is nested more than {DEEPEST} levels deep"),
    "deep, and few brackets": (deep(400), f"it is nested more than {DEEPEST} levels deep"),
    "a level too many": (deep(DEEPEST), f"it is nested more than {DEEPEST} levels deep"),
    "a NUL byte": (SOUND % b'"\x00"', "Invalid control character"),
    "NUL bytes": (bytes(100), "Expecting value"),
    "UTF-16": ((SOUND % b'"a"').decode().encode("utf-16"), "byte 1 of it is not UTF-8"),
    "a byte order mark": (b"\xef\xbb\xbf" + SOUND % b'"a"', "Unexpected UTF-8 BOM"),
    "bytes that are no text": (SOUND % b'"\xff"', " of it is not UTF-8"),
    "an encoded surrogate": (SOUND % b'"\xed\xa0\x80"', "is not UTF-8"),
    "a lone surrogate": (SOUND % rb'"\ud800"', "key holds a lone surrogate"),
    "a lone surrogate for a name": (SOUND % rb'{"\udfff": 1}', "key holds a lone surrogate"),
    "a field twice": (SOUND % b'0, "seed": 0', "it has the field seed twice"),
    "a field twice inside": (SOUND % b'{"a\\nb": 1, "c": 2, "a\\nb": 1}', r"it has the field a\nb twice"),
    "half a file": ((SOUND % b'"a"')[:-1], "Expecting ',' delimiter"),
    "two documents": (SOUND % b"1" + SOUND % b"1", "Extra data"),
    "more than any record": (SOUND % (b'"' + b"a" * LARGEST_JSON + b'"'), "it is larger than 8 MiB"),
}


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_device_without_end(path: Path) -> None:
    path.symlink_to("/dev/zero")


THINGS: dict[Callable[[Path], None], str] = {
    a_folder: "Is a directory",
    a_pipe: "it is no regular file",
    a_link_to_nothing: "No such file or directory",
    a_link_to_itself: "Too many levels of symbolic links",
    a_device_without_end: "it is no regular file",
}
KINDS = [*BYTES, *THINGS]


def lay(path: Path, kind: str | Callable[[Path], None]) -> str:
    """Put what ``kind`` is at ``path``; what is to be said of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if not isinstance(kind, str):
        kind(path)
        return THINGS[kind]
    path.write_bytes(BYTES[kind][0])
    return BYTES[kind][1]


def name_of(kind: object) -> str:
    return getattr(kind, "__name__", str(kind)).replace("_", " ")


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_a_record_is_named_and_the_rest_is_read(tmp_path: Path, kind: str | Callable[[Path], None]) -> None:
    box = Store(tmp_path / "results")
    sound = box.put(record(seed=7), predictions())
    path = box.put(record(), predictions())
    said = lay(path, kind)
    (found,), (problem,) = box.read()
    assert found["seed"] == 7
    assert problem.startswith(f"The record v1/s@1/{path.name} cannot be read (")
    assert said in problem
    assert "\n" not in problem
    assert len(problem) < 500
    keys = [path.name.partition(".")[0] for path in (path, sound)]
    assert box.done(keys) == {keys[1]}


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
@pytest.mark.parametrize("place", ["pins/one/a.111111111111.json", "pins.json"])
def test_a_pin_is_named_and_other_suites_are_read(
    tmp_path: Path, kind: str | Callable[[Path], None], place: str
) -> None:
    box = Store(tmp_path / "results")
    box.pin("two", "a", "1" * 64)
    said = lay(box.root / place, kind)
    with pytest.raises(UserError) as caught:
        box.pins("one")
    assert str(caught.value).startswith(f"{box.root / place} cannot be read (")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    if place != "pins.json":
        assert box.pins("two") == {"a": "1" * 64}


@pytest.mark.parametrize("kind", THINGS, ids=name_of)
def test_predictions_that_are_no_file_cost_their_record_only(tmp_path: Path, kind: Callable[[Path], None]) -> None:
    box = Store(tmp_path / "results")
    found = box.load(box.put(record(), predictions()))
    name = f"{found['predictions']['sha256']}.npz"
    said = lay(box.root / "v1" / "predictions" / name, kind)
    with pytest.raises(UserError, match=rf"{name} cannot be used \({said}\)"):
        box.predictions(found)


def test_predictions_that_unpack_without_end_cost_their_record_only(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    path = box.put(record(), predictions())
    sha256, bomb = pack({"labels": np.zeros(LARGEST + 1, np.int8)})
    assert len(bomb) < 1 << 20
    predicted(box, path).with_name(f"{sha256}.npz").write_bytes(bomb)
    with pytest.raises(UserError, match=r"cannot be used \('labels' unpacks to 67,108,993 bytes"):
        box.predictions({**record(), "predictions": {"sha256": sha256}})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_record_without_permission_is_named(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    path = box.put(record(), predictions())
    path.chmod(0)
    assert "(Permission denied)" in box.read()[1][0]


def test_what_is_deep_only_in_a_string_is_not_deep(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    document = {"a": "[" * 100, 'b"': '{"' * 50, "c\\": "\\[" * 100, "d": [[["]" * 100]]]}
    path.write_text(json.dumps(document))
    assert read_json(path) == document
    path.write_bytes(deep(DEEPEST - 1))
    assert read_json(path)["seed"] == 0


def test_what_is_too_deep_for_where_it_is_read_is_too_deep() -> None:
    def further(frames: int) -> object:
        return further(frames - 1) if frames else parse_json(b"[" * 490 + b"]" * 490)

    with pytest.raises(ValueError, match="nested more than"):
        further(sys.getrecursionlimit() - 450)


def test_numbers_that_a_float_can_hold_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    numbers = [0, -1, 2**63, 10**299, 1.5, -0.0, 1e308, 5e-324, True, None]
    path.write_text(json.dumps(numbers))
    assert read_json(path) == numbers


@pytest.mark.parametrize(
    "data",
    [b"[" * LARGEST_JSON, b'"' + b'\\"' * (LARGEST_JSON // 2 - 1), b"[" + b"[]," * (LARGEST_JSON // 3 - 1) + b"1]"],
    ids=["deep", "one string without an end", "wide"],
)
def test_the_largest_file_takes_no_gigabyte_and_a_plugins_recursion_limit_no_process(
    tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    code = (
        "import pathlib, sys; from kdbench.records.reading import parse_json, read_json; sys.setrecursionlimit(10**6)\n"
        "try: read_json(pathlib.Path(sys.argv[1]))\n"
        "except ValueError: pass"
    )

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], preexec_fn=limited, capture_output=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, b"")


def test_a_file_name_of_any_letters_stays_one_line(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    path = box.root / "v1" / "s@1" / "a\n\x1b[31mb\udcff.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    (problem,) = box.read()[1]
    assert r"v1/s@1/a\n\x1b[31mb\udcff.json cannot be read" in problem


def test_field_names_of_any_letters_stay_one_line(tmp_path: Path) -> None:
    box = Store(tmp_path / "results")
    path = box.put(record(), predictions())
    document = json.loads(path.read_text())
    document["config"]["a\n\x1b[31m" + "b" * 5000] = []
    path.write_text(json.dumps(document))
    (problem,) = box.read()[1]
    assert r"config/a\n\x1b" in problem
    assert problem.isprintable()
    assert len(problem) < 1000


def test_what_an_exception_says_is_recorded_as_text(tmp_path: Path) -> None:
    """Python gives a file name that is no text lone surrogates, and an exception may quote one."""
    name = os.fsdecode(b"caf\xe9")
    box = Store(tmp_path / "results")
    box.put(build_record(TRIAL, "crashed", detail=f"{name} is gone", warnings=["\ud800!"]))
    (found,), problems = box.read()
    assert not problems
    assert (found["detail"], found["warnings"]) == ("caf? is gone", ["?!"])


def test_a_site_with_records_left_out_is_built_and_says_so(
    cli: Cli,  # noqa: F811
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(site, "build_and_say", BUILD_AND_SAY)
    monkeypatch.setattr("kdbench.render.site.load", lambda **_: rr.FEW)
    rr.fill(bench.store, ("resnet56:resnet20",), seeds=1)
    damaged = [bench.folder / "results" / "v1" / "tiny@1" / f"{n}.json" for n in range(len(KINDS))]
    for path, kind in zip(damaged, KINDS, strict=True):
        lay(path, kind)
    ended = cli("site", "--out", "out")
    assert ended.code == 0
    said = ended.err.splitlines()
    assert len(said) == len(KINDS)
    assert all(any(f"tiny@1/{path.name} cannot be read" in line for line in said) for path in damaged)
    page = (bench.folder / "out" / "index.html").read_text(encoding="utf-8")
    assert all(f"tiny@1/{path.name} cannot be read" in page for path in damaged)


LITERATURE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "row 1: the columns must be"),
    "bytes that are no text": (b"source\xff", "not a readable CSV file in UTF-8"),
    "a NUL byte": (b"source\x00", "it holds a NUL byte"),
    "a quote without an end": (b'source,citation,identifier,repository,commit\na,"b', "not a readable CSV file"),
    "a field without end": (b"source,citation,identifier,repository,commit\na," + b"b" * 200_000, "field larger than"),
}


@pytest.mark.parametrize("kind", [*LITERATURE, *THINGS], ids=name_of)
@pytest.mark.parametrize("name", ["sources.csv", "published.csv"])
def test_a_damaged_file_of_the_literature_is_named_and_the_records_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str | Callable[[Path], None], name: str
) -> None:
    folder = tmp_path / "reported"
    folder.mkdir()
    for each in ("sources.csv", "published.csv"):
        (folder / each).write_bytes((literature.shipped("reported") / each).read_bytes())
    path = folder / name
    path.unlink()
    if isinstance(kind, str):
        path.write_bytes(LITERATURE[kind][0])
        words = LITERATURE[kind][1] if name == "sources.csv" else str(path)
    else:
        kind(path)
        words = "there is no such file" if "link" in kind.__name__ else THINGS[kind]
    with pytest.raises(UserError) as caught:
        literature.load(folder)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    if name == "published.csv" and kind not in ("nothing", a_pipe):
        return  # a build takes a moment: once for bytes and once for a thing is enough
    monkeypatch.setattr("kdbench.render.site.load", lambda **_: literature.load(folder))
    rr.put(Store(tmp_path / "results"), 0.5)
    report = build(tmp_path / "results", tmp_path / "out")
    assert report.problems == [f"The literature is left out: {caught.value}"]
    assert (tmp_path / "out" / "pairs" / "cifar100" / "resnet56--resnet20.html").is_file()
