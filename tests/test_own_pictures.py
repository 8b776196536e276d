"""Suites from files, with a folder of somebody's own pictures: what is found there, and what is said of a wrong one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import Bench
from pictures import photograph
from PIL import Image
from test_cli import Cli, cli  # noqa: F401

from kdbench.data import DATASETS, identify, load
from kdbench.data.files import ImageFiles, View
from kdbench.data.folder import class_names, described
from kdbench.data.spec import Folder, spec_from_json
from kdbench.records import Store
from kdbench.records.inspection import inspect
from kdbench.suites import SUITES, get_suite

CLASSES = ("ape", "bee", "cat")
SUITE = """
name = "mine"
version = 1
title = "Mine"
summary = "For tests."
seeds = [0]

[dataset]
folder = "zoo"
size = 8
{dataset}

[protocol]
epochs = 1
batch = 8
lr = 0.1
schedule = "constant"
augmentation = "resized_crop_flip"
{protocol}

[teachers.tutor]
kind = "trained"
model = "tiny_cnn_s"
seed = 100

[[pairs]]
teacher = "tutor"
student = "tiny_cnn_s"

[[methods]]
name = "ce"

[[methods]]
name = "kd"
"""


def write_zoo(home: Path, counts: dict[str, int] | None = None, part: str = "") -> Path:
    """``counts`` pictures of each class in ``home / part``: PNGs and JPEGs, one of them grey."""
    rng = np.random.default_rng(len(part))
    for label, (name, count) in enumerate((counts or dict.fromkeys(CLASSES, 10)).items()):
        folder = home / part / name
        folder.mkdir(parents=True)
        for number in range(count):
            picture = photograph(rng, 14, 18, shade=label / 2).convert("L" if number == 1 else "RGB")
            picture.save(folder / f"{number:02}.{'png' if number % 2 else 'jpg'}")
    return home


def write_suite(bench: Bench, dataset: str = "", protocol: str = "", name: str = "mine.toml") -> str:
    (bench.folder / name).write_text(SUITE.format(dataset=dataset, protocol=protocol), encoding="utf-8")
    return name


@pytest.fixture
def zoo(bench: Bench) -> Path:
    return write_zoo(bench.folder / "zoo")


def run(suite: str, *more: str) -> tuple[str, ...]:
    return ("run", "--suite", suite, "--device", "cpu", "--slots", "1", *more)


def spec_of(home: Path, **fields: Any) -> Any:
    return described("zoo", "Zoo", "test", Folder(str(home), **fields), (3, 8, 8), [], [])


def test_one_folder_is_split_by_class_and_by_seed(bench: Bench, zoo: Path) -> None:
    suite = get_suite("./" + write_suite(bench, "test = 0.3"))
    spec = DATASETS.get("zoo")
    assert (spec.classes, spec.train_size, spec.test_size) == (3, 21, 9)
    assert class_names(spec.folder) == CLASSES
    data = load("zoo")
    assert np.bincount(data.train_labels).tolist() == [7, 7, 7]
    assert np.bincount(data.test_labels).tolist() == [3, 3, 3]
    assert isinstance(data.test_images, ImageFiles)
    tested, learnt = set(data.test_images.paths()), set(data.train_images.paths())
    assert not tested & learnt
    assert tested | learnt == {str(path) for path in zoo.rglob("*.*")}
    assert all(
        Path(path).parent.name == CLASSES[label]
        for path, label in zip(data.test_images.paths(), data.test_labels, strict=True)
    )
    assert data.warnings == ()
    get_suite("./" + write_suite(bench, "test = 0.3\nseed = 1"))
    other = load("zoo")
    assert set(other.test_images.paths()) != tested
    assert other.digest != data.digest
    assert suite.file == str(bench.folder / "mine.toml")


def test_the_channels_statistics_are_of_the_training_images_and_remembered(
    bench: Bench, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(zoo)
    DATASETS.add("zoo", spec, "kdbench")
    images = load("zoo").train_images
    assert isinstance(images, ImageFiles)
    pixels = [np.asarray(Image.open(path).convert("RGB"), float) / 255 for path in images.paths()]
    assert spec.mean == pytest.approx(np.mean([each.mean((0, 1)) for each in pixels], 0), abs=1e-4)
    squares = np.mean([(each**2).mean((0, 1)) for each in pixels], 0)
    assert spec.std == pytest.approx(np.sqrt(squares - np.array(spec.mean) ** 2), abs=2e-4)

    def never(*_: Any) -> Any:
        raise AssertionError("it is remembered")

    monkeypatch.setattr(Image, "open", never)
    assert spec_of(zoo) == spec


def test_parts_are_what_the_folders_say(bench: Bench) -> None:
    home = bench.folder / "zoo"
    write_zoo(home, part="train")
    write_zoo(home, dict.fromkeys(CLASSES, 4), part="val")
    assert (spec_of(home).train_size, spec_of(home).test_size, spec_of(home).val_size) == (30, 12, 0)
    write_zoo(home, {"ape": 5, "cat": 5}, part="test")
    spec = spec_of(home)
    assert (spec.train_size, spec.test_size, spec.val_size) == (42, 10, 12)
    DATASETS.add("zoo", spec, "kdbench")
    data = load("zoo")
    assert np.bincount(data.test_labels).tolist() == [5, 0, 5]
    held = list(data.train_images[-12:].paths())
    assert all(f"{home}/val/" in path for path in held)
    assert spec_from_json(json.loads(json.dumps(_plain(spec)))) == spec


def _plain(spec: Any) -> Any:
    from kdbench.canonical import plain

    return plain(spec)


def test_a_validation_folder_is_held_out_as_it_is(bench: Bench, cli: Cli) -> None:  # noqa: F811
    import torch

    from kdbench.train.file_batches import make_batches

    home = bench.folder / "zoo"
    for part, count in (("train", 10), ("val", 3), ("test", 4)):
        write_zoo(home, dict.fromkeys(CLASSES, count), part=part)
    ended = cli(*run(write_suite(bench, protocol="holdout = 5")))
    assert ended.code == 2
    assert "has 9 images in a folder val, so that holdout must be 9, or 0 to leave them alone, not 5" in ended.err
    for holdout in (9, 0):
        suite = get_suite("./" + write_suite(bench, protocol=f"holdout = {holdout}"))
        batches = make_batches(load("zoo"), suite.protocol, 0, 0, torch.device("cpu"))
        assert batches.train.tolist() == list(range(30))
        assert batches.val.tolist() == list(range(30, 30 + holdout))


BROKEN = {
    "one class": (lambda home: [shutil.rmtree(home / name) for name in CLASSES[1:]], "one class folder, ape"),
    "no class": (lambda home: [shutil.rmtree(home / name) for name in CLASSES], "no folders"),
    "loose": (
        lambda home: (
            [shutil.move(p, home / f"{n}.png") for n, p in enumerate(home.rglob("*.png"))]
            and [shutil.rmtree(home / name) for name in CLASSES]
        ),
        "pictures and no class folders",
    ),
    "empty class": (lambda home: (home / "dog").mkdir(), "dog holds no picture"),
    "other files": (lambda home: _photo(home / "dog"), "dog holds no picture, as none of a.HEIC ends in .jpg"),
    "one colour": (
        lambda home: _paint(home, (9, 9, 9)),
        "zoo: every pixel of all pictures is the same; write mean and",
    ),
    "single picture": (lambda home: _lone(home / "dog"), "of class dog none is left to train on"),
    "damaged": (
        lambda home: (home / "ape" / "00.jpg").write_bytes(b"no"),
        "00.jpg: it cannot be decoded: it is no picture",
    ),
    "empty file": (lambda home: (home / "ape" / "00.jpg").write_bytes(b""), "ape/00.jpg: it is empty"),
    "truncated": (lambda home: _cut(home / "ape" / "01.png"), "ape/01.png: it cannot be decoded"),
    "16 bits": (
        lambda home: Image.fromarray(np.full((9, 9), 40000, np.uint16)).save(home / "ape" / "deep.png"),
        "ape/deep.png: its pixels have more than 8 bits",
    ),
    "float": (
        lambda home: Image.fromarray(np.full((9, 9), 0.5, np.float32)).save(home / "ape" / "float.tiff"),
        "ape/float.tiff: its pixels have more than 8 bits (mode F)",
    ),
    "link to nowhere": (lambda home: (home / "ape" / "x.png").symlink_to("gone.png"), "ape/x.png: it is no file"),
    "folder": (lambda home: (home / "ape" / "x.png").mkdir(), "ape/x.png: it is no file"),
    "pipe": (lambda home: os.mkfifo(home / "ape" / "x.png"), "ape/x.png: it is no file"),
    "bomb": (lambda home: _bomb(home / "ape" / "bomb.png"), "ape/bomb.png: it has"),
    "train alone": (lambda home: (home / "train").mkdir(), "a folder train, but neither val nor test"),
    "gone": (shutil.rmtree, "cannot be read"),
}


def _photo(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.HEIC").write_bytes(b"photo")


def _paint(home: Path, *colours: tuple[int, int, int]) -> None:
    """Make each picture one colour, in turns."""
    for number, path in enumerate(sorted(home.rglob("*.*"))):
        Image.new("RGB", (9, 9), colours[number % len(colours)]).save(path.with_suffix(".png"))
        if path.suffix != ".png":
            path.unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _bomb(path: Path) -> None:
    """A small file of 100 million pixels."""
    Image.new("1", (10_000, 10_000)).save(path)
    assert path.stat().st_size < 100_000


def _lone(folder: Path) -> None:
    folder.mkdir()
    shutil.copy(folder.parent / "ape" / "01.png", folder)


@pytest.mark.parametrize("damage", BROKEN)
def test_a_folder_that_is_no_data_set_is_one_sentence(cli: Cli, bench: Bench, zoo: Path, damage: str) -> None:  # noqa: F811
    harm, said = BROKEN[damage]
    harm(zoo)
    ended = cli(*run(write_suite(bench, "test = 0.9" if damage == "single picture" else "")))
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert said in ended.err
    assert not (bench.folder / "results").exists()


def test_a_channel_that_says_nothing_is_named(cli: Cli, bench: Bench, zoo: Path) -> None:  # noqa: F811
    _paint(zoo, (9, 9, 9), (30, 9, 20))
    ended = cli(*run(write_suite(bench)))
    assert ended.code == 2
    assert "zoo: channel 2 of all pictures is the same; write mean and std under [dataset]" in ended.err
    said = "mean = [0.1, 0.0, 0.1]\nstd = [0.1, 1.0, 0.1]"
    assert cli(*run(write_suite(bench, said)), "--dry-run").code == 0


def test_a_class_that_is_tested_and_not_learnt_is_named(cli: Cli, bench: Bench) -> None:  # noqa: F811
    write_zoo(bench.folder / "zoo", part="train")
    write_zoo(bench.folder / "zoo", {"ape": 2, "dog": 2}, part="val")
    ended = cli(*run(write_suite(bench)))
    assert ended.code == 2
    assert "has the class 'dog', which" in ended.err
    assert "lacks: there are ape, bee, cat" in ended.err


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("size = 4", "size must be at least 8, not 4"),
        ("channels = 2", "channels must be 1, for grey pictures, or 3"),
        ("crop = 1.5", "crop must be greater than 0 and at most 1, not 1.5"),
        ('interpolation = "nearest"', "interpolation must be bilinear or bicubic, not 'nearest'"),
        ("mean = [0.5, 0.5, 0.5]", "mean and std go together"),
        ("mean = [0.5]\nstd = [0.5]", "mean needs 3 numbers, one a channel"),
        ("colour = 1", "unknown field 'colour'"),
        ('name = "digits"', "the name 'digits' is another data set's"),
    ],
)
def test_a_wrong_field_is_one_sentence(cli: Cli, bench: Bench, zoo: Path, fields: str, said: str) -> None:  # noqa: F811
    name = write_suite(bench, fields)
    if fields.startswith("size"):
        (bench.folder / name).write_text((bench.folder / name).read_text().replace("size = 8\n", ""))
    ended = cli(*run(name))
    assert ended.code == 2
    assert said in ended.err


@pytest.mark.parametrize("view", [View(0.9), View(1.0, "squash", "bicubic"), View(0.875, "short", "bicubic")])
def test_pictures_are_evaluated_as_timm_does(bench: Bench, zoo: Path, view: View) -> None:
    """But for the rounding of Pillow's own resizing."""
    from timm.data import create_transform

    from kdbench.data.decoding import decode

    paths = [str(path) for path in sorted((zoo / "bee").iterdir())]
    theirs = create_transform(
        (3, 12, 12),
        is_training=False,
        crop_pct=view.crop,
        interpolation=view.interpolation,
        crop_mode={"short": "center", "squash": "squash"}[view.resize],
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    ours = decode(paths, (3, 12, 12), view=view).permute(0, 3, 1, 2).float()
    for path, picture in zip(paths, ours, strict=True):
        wanted = theirs(Image.open(path).convert("RGB")) * 255
        assert (picture - wanted).abs().max() <= 2


def test_the_transform_is_part_of_the_identity(bench: Bench, zoo: Path) -> None:
    digests = set()
    for fields in ("", "crop = 1.0", 'resize = "squash"', 'interpolation = "bicubic"'):
        get_suite("./" + write_suite(bench, fields))
        digests.add(identify("zoo")[0])
    assert len(digests) == 4


def test_a_suite_from_a_file_runs_and_its_records_need_no_file(cli: Cli, bench: Bench, zoo: Path) -> None:  # noqa: F811
    name = write_suite(bench)
    ended = cli(*run(name, "--seeds", "2"))
    assert (ended.code, ended.err) == (0, "")
    assert "kdbench run --suite mine.toml" in ended.out
    assert {record["status"] for record in bench.records().values()} == {"finished"}
    assert cli("show", name).out.startswith("suite mine@1: Mine")
    assert "0 to train" in cli(*run(name, "--seeds", "2")).out
    for command in (("results", "export", "csv"), ("results", "export", "bibtex")):
        assert cli(*command, "--results", "results", "--suite", name).code == 0
    assert cli("baseline", "freeze", name).code == 0
    assert cli("regress", "results", "--against", "results", "--suite", name).code in (0, 4)
    (bench.folder / name).unlink()
    SUITES.forget("mine")
    DATASETS.forget("zoo")
    found = inspect(Store(bench.folder / "results"))
    assert found.problems == []
    assert found.results == 5
    assert "there is no such file" in cli(*run(name)).err
    from kdbench.render import build

    report = build(bench.folder / "results", bench.folder / "out")
    assert report.problems == []
    assert (bench.folder / "out").joinpath("index.html").is_file()


def test_a_retry_reads_the_suites_file_again(cli: Cli, bench: Bench, zoo: Path) -> None:  # noqa: F811
    mine = bench.plugin("mine", loss="raise ValueError('no luck')")
    text = SUITE.format(dataset="", protocol="").replace('name = "kd"', 'name = "mine"')
    (bench.folder / "mine.toml").write_text(text)
    assert cli(*run("mine.toml", "--plugin", mine)).code == 3
    SUITES.forget("mine")
    ended = cli("retry", "*", "--dry-run")
    assert ended.code == 0
    assert "1 to train" in ended.out
    (manifest,) = (bench.store.root / "runs").glob("*.json")
    forged = bench.store.root / "methods" / "theirs" / "evil.py"
    forged.parent.mkdir(parents=True)
    forged.write_text("raise SystemExit(77)")
    said = json.loads(manifest.read_text())
    said["request"]["machine"]["plugin"] = [str(forged)]
    written = manifest.read_bytes()
    manifest.write_text(json.dumps(said))
    refused = cli("retry", "*", "--dry-run")
    assert refused.code == 2
    assert "which lies in the results folder and may be another's" in refused.err
    manifest.write_bytes(written)
    (bench.folder / "mine.toml").unlink()
    assert "there is no such file" in cli("retry", "*", "--dry-run").err


def test_set_adds_a_row_that_says_what_it_is(cli: Cli, bench: Bench, zoo: Path) -> None:  # noqa: F811
    name = write_suite(bench)
    assert cli(*run(name, "--method", "ce", "--set", "kd.temperature=2,ce_weight=0.5")).code == 0
    record = bench.records()["kd-temperature-2-ce_weight-0.5"]
    assert record["config"]["temperature"] == 2.0
    assert record["config"]["ce_weight"] == 0.5
    assert set(bench.records()) == {"ce", "kd-temperature-2-ce_weight-0.5"}
    for setting, said in (
        ("kd.temprature=2", "has no hyper-parameter 'temprature'"),
        ("kd", "write ROW.FIELD=VALUE"),
        ("ke.temperature=2", "There is no row of suite mine@1, or method, named 'ke'"),
        ("kd.temperature=hot", "temperature must be a float, not 'hot'"),
        ("kd.temperature=4", "are the same trials"),
    ):
        ended = cli(*run(name, "--set", setting))
        assert ended.code == 2
        assert said in ended.err


def test_show_prints_a_suite_as_a_template(cli: Cli, bench: Bench) -> None:  # noqa: F811
    ended = cli("show", "digits", "--toml")
    assert ended.code == 0
    (bench.folder / "own.toml").write_text(ended.out)
    suite = get_suite("./own.toml")
    assert suite.name == "my-digits"
    assert suite.rows == get_suite("digits").rows
    assert "is none" in cli("show", "kd", "--toml").err


def test_every_file_that_is_refused_is_named_at_once(cli: Cli, bench: Bench, zoo: Path) -> None:  # noqa: F811
    for name in CLASSES:
        (zoo / name / "bad.png").write_bytes(b"no")
    ended = cli(*run(write_suite(bench)), "--dry-run")
    assert ended.code == 2
    assert f"{len(CLASSES)} files that nobody should learn from" in ended.err
    assert all(f"{name}/bad.png: " in ended.err for name in CLASSES)
    assert 'broken = "skip"' in ended.err


def looked_at(bench: Bench, dataset: str = ""):
    """The data as a new process finds them."""
    DATASETS._items.pop("zoo", None)
    name = get_suite("./" + write_suite(bench, dataset)).dataset
    identify(name)  # as a plan does first
    return load(name)


def test_files_that_are_skipped_are_counted_and_a_repaired_one_is_other_data(bench: Bench, zoo: Path) -> None:
    sound = looked_at(bench)
    bad = zoo / "ape" / "bad.png"
    good = (zoo / "ape" / "01.png").read_bytes()
    bad.write_bytes(b"\0" * len(good))
    skipped = looked_at(bench, 'broken = "skip"')
    assert skipped.warnings == ("zoo: 1 file left out, as they hold no picture to learn from.",)
    assert skipped.digest == sound.digest, "what is left out is not in the data"
    bad.write_bytes(good)  # in place, and as long as it was
    repaired = looked_at(bench, 'broken = "skip"')
    assert repaired.warnings == ()
    assert repaired.digest != sound.digest
    assert len(repaired.train_labels) + len(repaired.test_labels) == 1 + len(sound.train_labels) + len(
        sound.test_labels
    )


def test_another_picture_of_the_same_size_is_other_data(bench: Bench, zoo: Path) -> None:
    before = looked_at(bench).digest
    path = next(zoo.rglob("*.jpg"))
    path.write_bytes(path.read_bytes() + b"x")
    longer = looked_at(bench).digest
    path.write_bytes(path.read_bytes()[:-1] + b"y")
    assert len({before, longer, looked_at(bench).digest}) == 3


def test_a_file_is_decoded_once_while_it_looks_the_same(bench: Bench, zoo: Path, monkeypatch) -> None:
    from kdbench.data import sound

    looked_at(bench)
    monkeypatch.setattr(sound, "_look", lambda path: pytest.fail(f"{path} was looked at again"))
    looked_at(bench)
