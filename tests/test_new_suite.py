"""``kdbench new-suite``: by flags or by questions it writes the file of a suite that runs, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import Bench
from test_cli import Cli, cli  # noqa: F401
from test_own_pictures import run, zoo  # noqa: F401

from kdbench.data import DATASETS
from kdbench.suites import get_suite

NEW = ("new-suite", "--data", "zoo", "--teacher", "tiny_cnn_m", "--student", "tiny_cnn_s")


def test_new_suite_writes_what_runs(cli: Cli, bench: Bench, zoo: Path) -> None:  # noqa: F811
    ended = cli(*NEW, "--methods", "ce,wttm", "--epochs", "1", "--batch", "8", "--seeds", "1")
    assert (ended.code, ended.err) == (0, "")
    assert "kdbench run --suite zoo.toml" in ended.out
    suite = get_suite("./zoo.toml")
    assert [row.label for row in suite.rows] == ["ce", "wttm"]
    assert DATASETS.get("zoo").image_shape == (3, 8, 8)
    assert "is there already" in cli(*NEW).err
    assert cli(*run("zoo.toml")).code == 0
    assert {label for label, record in bench.records().items() if record["status"] == "finished"} == {"ce", "wttm"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--student", "timm/resnett18"), "There is no timm model named 'resnett18'; the nearest are resnet"),
        (("--methods", "ce,kdd"), "There is no method named 'kdd'"),
        (("--teacher", "tiny_cnn_m=no.safetensors"), "there is no file no.safetensors"),
        (("--data", "nowhere"), "cannot be read"),
        (("--out", "zoo.txt"), "ends in .toml"),
        (("--seeds", "0"), "--seeds must be at least 1"),
        (("--methods", ","), "no method is named"),
        (("--lr", "nan"), "lr must be a finite number, not nan"),
        (("--lr", "1e400"), "lr must be a finite number, not inf"),
    ],
)
def test_new_suite_refuses_what_cannot_run_and_leaves_nothing(
    cli: Cli,  # noqa: F811
    bench: Bench,
    zoo: Path,  # noqa: F811
    change: tuple[str, str],
    said: str,
) -> None:
    ended = cli(*NEW, *change)
    assert ended.code == 2
    assert said in ended.err
    assert not list(bench.folder.glob("*.toml"))


def test_new_suite_takes_a_folder_of_any_name(cli: Cli, bench: Bench, zoo: Path) -> None:  # noqa: F811
    zoo = zoo.rename(bench.folder / 'z "ö\\')
    assert cli(*NEW, "--data", zoo.name, "--methods", "ce").code == 0
    unseen = zoo.rename(bench.folder / "z\x7f")
    assert "holds the character U+007F, which cannot be seen" in cli(*NEW, "--data", unseen.name, "--name", "a").err


def test_new_suite_looks_whether_the_weights_fit(cli: Cli, bench: Bench, zoo: Path) -> None:  # noqa: F811
    from kdbench.models.factory import create
    from kdbench.teachers.weights import write_weights

    for classes in (3, 10):
        network = create("tiny_cnn_m", classes=classes, image_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.2,) * 3)
        write_weights(network.body.state_dict(), bench.folder / f"w{classes}.safetensors")
    ended = cli(*NEW[:-1], "tiny_cnn_m", "--teacher", "tiny_cnn_s=w3.safetensors")
    assert ended.code == 2
    assert "they must be of this architecture" in ended.err
    assert not list(bench.folder.glob("*.toml"))
    assert cli(*NEW, "--teacher", "tiny_cnn_m=w3.safetensors", "--methods", "kd", "--epochs", "1").code == 0
    assert cli(*run("zoo.toml", "--seeds", "1")).code == 0
    assert bench.records()["kd"]["teacher"]["kind"] == "checkpoint"


def test_new_suite_fine_tunes_a_teacher_of_other_classes(cli: Cli, bench: Bench, zoo: Path) -> None:  # noqa: F811
    from kdbench.models.factory import create
    from kdbench.teachers.weights import write_weights

    network = create("tiny_cnn_m", classes=10, image_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.2,) * 3)
    write_weights(network.body.state_dict(), bench.folder / "w.safetensors")
    asked = (
        "--teacher",
        "tiny_cnn_m=w.safetensors",
        "--methods",
        "kd",
        "--epochs",
        "4",
        "--batch",
        "8",
        "--seeds",
        "1",
    )
    ended = cli(*NEW, *asked)
    assert (ended.code, ended.err) == (0, "")
    assert "has a classifier of other classes: the teacher gets a new one" in ended.out
    teacher = get_suite("./zoo.toml").teachers["teacher"]
    assert teacher.init is not None
    assert (teacher.kind, teacher.init.head, teacher.protocol.epochs, teacher.protocol.lr) == (
        "trained",
        "new",
        1,
        0.01,
    )
    ended = cli(*run("zoo.toml", "--dry-run"))
    assert "tiny_cnn_m starts from the weights in" in ended.out
    assert "w.safetensors, with a new classifier." in ended.out


def test_new_suite_asks_on_a_terminal_alone(
    cli: Cli,  # noqa: F811
    bench: Bench,
    zoo: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    ended = cli("new-suite", "--data", "zoo")
    assert ended.code == 2
    assert "--teacher, --student are missing" in ended.err
    answers = iter(["tiny_cnn_m", "", "tiny_cnn_s", "ce,kd"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    assert cli("new-suite", "--data", "zoo").code == 0
    assert [row.label for row in get_suite("./zoo.toml").rows] == ["ce", "kd"]


def test_new_suite_writes_nothing_when_no_answer_comes(
    cli: Cli,  # noqa: F811
    bench: Bench,
    zoo: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    def ended(_: str) -> str:
        raise EOFError

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", ended)
    said = cli("new-suite", "--data", "zoo")
    assert said.code == 2
    assert "no answer came; nothing was written" in said.err
    assert not (bench.folder / "zoo.toml").exists()


def test_a_teachers_own_transform_is_written_out() -> None:
    import timm.data

    from kdbench.cli.new_suite import input_of

    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg("resnet50").to_dict())
    seen = input_of("timm/resnet50")
    assert (seen.size, seen.crop, seen.interpolation) == (224, config["crop_pct"], config["interpolation"])
    assert (seen.mean, seen.std) == (config["mean"], config["std"])
    assert input_of("torchvision/resnet18")[:2] == (224, 0.875)
    assert input_of("resnet20").size == 32
