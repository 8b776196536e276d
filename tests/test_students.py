"""Students to take home: weights that trials leave, networks made of them, files for others, teachers of the next."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import Bench, suite_text
from test_cli import RUN, Cli, cli  # noqa: F401
from torch import nn

import kdbench
from kdbench.data import load
from kdbench.errors import CheckpointError, UserError
from kdbench.jobs import clerk
from kdbench.measure.evaluate import logits_of, top1_of
from kdbench.models import MODELS, ModelSpec
from kdbench.models.outputs import Outputs
from kdbench.records import Store
from kdbench.records.find import kept_sha256
from kdbench.records.inspection import inspect
from kdbench.students.kept import about
from kdbench.students.student import Student
from kdbench.suites import Suite
from kdbench.teachers.weights import kept_weights, read_weights, weights_digest

MakeSuite = Callable[[str], Suite]


def kept(bench: Bench) -> list[Path]:
    return sorted((bench.folder / "results" / "weights").glob("*.safetensors"))


def scored(student: Student, dataset: str = "digits") -> float:
    """The student's test accuracy, by the images alone."""

    class Logits(nn.Module):
        def forward(self, images: torch.Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
            return Outputs(student(images))

    data = load(dataset)
    return float(top1_of(logits_of(Logits(), data.test_images, torch.device("cpu"))[0], data.test_labels))


def test_a_finished_trial_leaves_its_network_which_scores_what_the_record_says(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
) -> None:
    make_suite(suite_text(["ce", "kd"], epochs=1))
    ended = cli(*RUN)
    assert ended.code == 0
    assert "Students are kept in results/weights, about 0.1 MB; --no-weights keeps none." in ended.out
    records = bench.records()
    assert {path.stem for path in kept(bench)} == {record["weights_sha256"] for record in records.values()}
    assert (bench.folder / "results" / "weights" / ".gitignore").read_text() == "*\n"
    for record in records.values():
        path = bench.store.weights_path(record["weights_sha256"])
        assert weights_digest(kept_weights(path)) == record["weights_sha256"] == record["selected_weights_sha256"]
        assert about(path).key == record["key"]
        assert scored(kdbench.load_student(record)) == pytest.approx(record["scores"]["last"]["top1"])
    frame = kdbench.load_results(bench.folder / "results")
    assert scored(kdbench.load_student(frame[frame["label"] == "kd"].iloc[0])) == scored(kdbench.load_student("kd"))
    assert not inspect(Store(bench.folder / "results")).problems
    assert all("weights" not in warning.text for warning in inspect(Store(bench.folder / "results")).warnings)


def test_without_weights_none_are_left_and_the_way_back_is_named(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
) -> None:
    make_suite(suite_text(["ce"], epochs=1))
    ended = cli(*RUN, "--no-weights")
    assert ended.code == 0
    assert "Students are kept" not in ended.out
    assert not (bench.folder / "results" / "weights").exists()
    said = "has no weights in results/weights; they are made again by kdbench run --suite tiny --method ce --again ce."
    ended = cli("export", "ce", "--to", "ce.safetensors")
    assert ended.code == 2
    assert said in ended.err
    with pytest.raises(CheckpointError, match="they are made again by"):
        kdbench.load_student("ce")
    for nothing in ({}, 3, None):
        with pytest.raises(UserError, match="load_student takes a record"):
            kdbench.load_student(nothing)  # type: ignore[arg-type]
    assert cli(*RUN, "--method", "ce", "--again", "ce").code == 0
    assert cli("export", "ce", "--to", "ce.safetensors").code == 0


def test_the_epoch_that_ranks_is_the_one_that_is_kept(bench: Bench, make_suite: MakeSuite) -> None:
    """At such a rate the last epoch is not the best one; the numbers are those of this test's own training."""
    text = suite_text(["ce"], epochs=6).replace("lr = 0.1", 'lr = 0.9\nselection = "best_val"')
    text = text.replace('schedule = "onecycle"', 'schedule = "constant"')
    record = bench.train(bench.trials(make_suite(text)))["ce"]
    best, last = record["scores"]["best_val"], record["scores"]["last"]
    assert best["epoch"] < last["epoch"]
    assert record["selected_weights_sha256"] != record["weights_sha256"]
    assert [path.stem for path in kept(bench)] == [record["selected_weights_sha256"]]
    assert scored(kdbench.load_student(record)) == pytest.approx(best["top1"])


@pytest.mark.parametrize("harm", ["full", "killed"])
def test_a_full_disk_and_a_kill_between_weights_and_record_lose_nothing(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    monkeypatch.setattr("kdbench.folders.AGAIN", 0.01)
    trials = bench.trials(make_suite(suite_text(["ce"], epochs=1)))
    whole, calls = clerk.keep if harm == "full" else Store.put, []

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 1:
            return whole(*arguments)
        if harm == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise KeyboardInterrupt

    if harm == "full":
        monkeypatch.setattr(clerk, "keep", failing)
        bench.train(trials)
        assert any("free some room" in str(event.get("text")) for event in bench.events)
    else:
        monkeypatch.setattr(Store, "put", failing)
        with pytest.raises(KeyboardInterrupt):
            bench.train(trials)
        assert len(kept(bench)) == 1
        assert bench.records() == {}
        bench.train(trials)
    assert [path.stem for path in kept(bench)] == [bench.records()["ce"]["weights_sha256"]]


@pytest.fixture
def trained(bench: Bench, make_suite: MakeSuite, cli: Cli) -> Bench:  # noqa: F811
    make_suite(suite_text(["ce", "kd"], epochs=1))
    assert cli(*RUN).code == 0
    return bench


def test_timm_loads_exported_weights_strictly_and_says_the_same(bench: Bench, make_suite: MakeSuite, cli: Cli) -> None:  # noqa: F811
    import timm
    from safetensors import safe_open
    from safetensors.torch import load_file

    make_suite(suite_text(["ce"], epochs=1, batch=400, student="timm/test_resnet"))
    assert cli(*RUN).code == 0
    ended = cli("export", "ce", "--to", "own.safetensors")
    assert ended.code == 0
    assert "timm.create_model('test_resnet', num_classes=10, in_chans=1)" in ended.out
    network = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    network.load_state_dict(load_file("own.safetensors"), strict=True)
    student = kdbench.load_student("ce")
    images = torch.rand(4, 1, 8, 8)
    mean, std = (torch.tensor(each)[:, None, None] for each in (student.about.mean, student.about.std))
    assert torch.allclose(network.eval()((images - mean) / std), student(images), atol=1e-6)
    with safe_open("own.safetensors", "pt") as file:
        assert json.loads(file.metadata()["kdbench"])["mean"] == list(student.about.mean)


def test_a_pt2_program_says_what_the_student_says(trained: Bench, cli: Cli) -> None:  # noqa: F811
    ended = cli("export", "kd seed 0", "--to", "kd.pt2")
    assert ended.code == 0
    assert "It reads images [N, 1, 8, 8] in [0, 1], and normalises them itself." in ended.out
    images = torch.rand(7, 1, 8, 8)
    program = torch.export.load("kd.pt2").module()
    assert torch.allclose(program(images), kdbench.load_student("kd")(images), atol=1e-6)


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="needs the extra onnx"
)
def test_onnxruntime_says_what_the_student_says(trained: Bench, cli: Cli) -> None:  # noqa: F811
    import onnxruntime

    assert cli("export", "kd", "--to", "kd.onnx").code == 0
    session = onnxruntime.InferenceSession("kd.onnx")
    student = kdbench.load_student("kd")
    for count in (1, 5):
        images = torch.rand(count, 1, 8, 8)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        assert np.allclose(logits, student(images).detach().numpy(), atol=1e-5)


def test_onnx_without_its_libraries_is_one_sentence(
    trained: Bench,
    cli: Cli,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    ended = cli("export", "kd", "--to", "kd.onnx")
    assert ended.code == 2
    assert "pip install 'kdbench[onnx]'" in ended.err
    assert not Path("kd.onnx").exists()


def test_what_cannot_be_exported_is_one_sentence(trained: Bench, cli: Cli) -> None:  # noqa: F811
    record = trained.records()["kd"]
    assert cli("export", record["key"][:8], "--to", "a.safetensors").code == 0
    for words, said in (
        (("kd", "--to", "kd.pth"), "its ending says what is written; use one of .safetensors, .onnx, .pt2"),
        (("crd", "--to", "a.pt2"), "has no finished trial 'crd'"),
        (("kd", "--pair", "a:b", "--to", "a.pt2"), "has no finished trial 'kd'"),
        (("kd", "--results", "nowhere", "--to", "a.pt2"), "nowhere is no results folder"),
    ):
        ended = cli("export", *words)
        assert ended.code == 2
        assert said in ended.err
    assert cli(*RUN, "--seeds", "2").code == 0
    ended = cli("export", "kd", "--to", "a.pt2")
    assert ended.code == 2
    assert "stands for 2 trials; say which: kd on tiny_cnn_s:tiny_cnn_s, seed 0 of tiny@1 (" in ended.err
    path = trained.store.weights_path(kept_sha256(record))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    ended = cli("export", record["key"], "--to", "a.pt2")
    assert ended.code == 2
    assert "are not those that were kept there" in ended.err


def test_a_network_that_is_more_than_its_student_is_put_together_again(
    bench: Bench,
    make_suite: MakeSuite,
    cli: Cli,  # noqa: F811
) -> None:
    rows = [
        "simkd",
        "norm",
        "ijckd",
        {"name": "simkd", "label": "own", "config": {"ce_weight": 1.0, "head": "student"}},
    ]
    records = bench.train(bench.trials(make_suite(suite_text(rows, epochs=1))))
    for label, record in records.items():
        assert record["status"] == "finished", record["detail"]
        student = kdbench.load_student(record)
        assert scored(student) == pytest.approx(record["scores"]["last"]["top1"]), label
        assert student.alone == (label == "own")
    ended = cli("export", "simkd", "--to", "simkd.pt2")
    assert (ended.code, ended.err) == (0, "")
    images = torch.rand(3, 1, 8, 8)
    program = torch.export.load("simkd.pt2").module()
    assert torch.allclose(program(images), kdbench.load_student("simkd")(images), atol=1e-6)
    ended = cli("export", "simkd", "--to", "simkd.safetensors")
    assert "It holds what simkd deploys, which kdbench.load_student alone puts together." in ended.out


def test_a_network_that_only_its_training_puts_together_is_refused(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench.methods.zoo.simkd import SimKD

    record = bench.train(bench.trials(make_suite(suite_text(["simkd"], epochs=1))))["simkd"]

    def needs_images(method: SimKD, student: Any, teacher: Any, data: Any) -> None:
        data.labels[0]

    monkeypatch.setattr(SimKD, "setup", needs_images)
    with pytest.raises(UserError, match="is more than its student"):
        kdbench.load_student(record)


def test_what_kept_weights_say_of_themselves_reads_no_other_file(trained: Bench) -> None:
    from kdbench.teachers.weights import STUDENT, said_of, write_weights

    path = kept(trained)[0]
    said = json.loads(said_of(path)[STUDENT])
    said["build"] = {"options": {"checkpoint_path": "evil.pth"}, "input_size": 0}
    write_weights(kept_weights(path), path, {STUDENT: json.dumps(said)})
    with pytest.raises(CheckpointError, match="does not say which network it is of"):
        about(path)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 100])
def test_damaged_weights_are_one_sentence(trained: Bench, cli: Cli, damage: bytes) -> None:  # noqa: F811
    path = trained.store.weights_path(kept_sha256(trained.records()["kd"]))
    path.write_bytes(damage)
    ended = cli("export", "kd", "--to", "kd.safetensors")
    assert ended.code == 2
    assert re.fullmatch(r"kdbench: The weights in .* cannot be read \(.*\); delete that file\.\n", ended.err)
    path.unlink()
    assert "they are made again by" in cli("export", "kd", "--to", "kd.safetensors").err


def test_validate_names_weights_that_are_damaged(trained: Bench, cli: Cli) -> None:  # noqa: F811
    assert cli("results", "validate", "results").code == 0
    first, second = kept(trained)
    data = first.read_bytes()
    first.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    other = second.rename(second.with_stem("0" * 64))
    ended = cli("results", "validate", "results")
    assert ended.code == 3
    assert f"The weights in {first.relative_to(trained.folder)} are not those that were kept there" in ended.err
    assert (
        f"{other.relative_to(trained.folder)} holds the weights {second.stem[:16]}, and its name says others"
        in ended.err
    )


def test_another_network_under_a_student_s_name_is_not_exported(trained: Bench, cli: Cli) -> None:  # noqa: F811
    own = trained.store.weights_path(kept_sha256(trained.records()["kd"]))
    (other,) = [path for path in kept(trained) if path != own]
    own.write_bytes(other.read_bytes())
    ended = cli("export", "kd", "--to", "kd.safetensors")
    assert ended.code == 2
    assert "and its name says others; delete that file" in ended.err
    assert not Path("kd.safetensors").exists()
    with pytest.raises(UserError, match="its name says others"):
        kdbench.load_student(trained.records()["kd"], "results")


def test_a_merge_takes_weights_by_their_names_and_nothing_else_beside_them(trained: Bench, cli: Cli) -> None:  # noqa: F811
    names = [path.name for path in kept(trained)]
    (Path("results/weights") / "evil.sh").write_text("rm -r /")
    (Path("results/weights") / ".gitignore").write_text("!*")
    assert cli("results", "merge", "results", "--into", "both").code == 0
    assert sorted(path.name for path in Path("both/weights").iterdir()) == sorted([".gitignore", *names])
    assert Path("both/weights/.gitignore").read_text() == "*\n"


def test_pruning_and_merging_know_the_weights(trained: Bench, cli: Cli) -> None:  # noqa: F811
    names = [path.name for path in kept(trained)]
    assert cli("results", "merge", "results", "--into", "both").code == 0
    assert sorted(path.name for path in Path("both/weights").glob("*.safetensors")) == names
    assert "2 files" in cli("results", "prune", "weights", "--dry-run").out
    assert len(kept(trained)) == 2
    assert "2 files" in cli("results", "prune", "weights").out
    assert kept(trained) == []
    assert len(trained.records()) == 2


def chain(reference: str, model: str = "tiny_cnn_s") -> str:
    teacher = f'kind = "student"\nmodel = "{model}"\n{reference}'
    return suite_text(["kd"], name="chain", epochs=1, seeds=[5], teacher=teacher)


def test_a_student_teaches_in_another_suite(trained: Bench, make_suite: MakeSuite, cli: Cli) -> None:  # noqa: F811
    assistant = trained.records()["kd"]
    make_suite(chain('row = "kd"\nsuite = "tiny@1"'))
    assert cli("run", "--suite", "chain", "--device", "cpu", "--slots", "1").code == 0
    store = Store(trained.folder / "results")
    (record,) = [record for record in store.read()[0] if record["suite"] == "chain@1"]
    planned = record["identity"]["teacher"]
    body = read_weights(store.weights_path(assistant["weights_sha256"]))
    assert planned["kind"] == "checkpoint"
    assert planned["weights_sha256"] == weights_digest(body) == record["teacher"]["weights_sha256"]
    assert planned["mean"] == assistant["identity"]["student"]["mean"]
    assert record["teacher"]["kind"] == "student"
    assert record["teacher"]["top1"] == pytest.approx(assistant["scores"]["last"]["top1"])
    assert record["teacher"]["source"].startswith("kd on tiny_cnn_s:tiny_cnn_s, seed 0 of tiny@1")
    assert "the student kd seed 0; of tiny@1" in cli("show", "chain").out


@pytest.mark.parametrize(
    ("reference", "model", "said"),
    [
        ('row = "dkd"', "tiny_cnn_s", "Teacher tutor: results has no finished trial 'dkd seed 0'"),
        ('row = "kd"', "tiny_cnn_m", "is of tiny_cnn_s, so its model must not be tiny_cnn_m"),
        ('row = "kd"\nkey = "abcdef"', "tiny_cnn_s", "give one of both"),
        ("", "tiny_cnn_s", "give one of both"),
        ('row = "kd"\nmean = [0.5]', "tiny_cnn_s", "kind student takes no 'mean'"),
    ],
)
def test_a_student_that_is_not_there_is_one_sentence(
    trained: Bench,
    cli: Cli,  # noqa: F811
    reference: str,
    model: str,
    said: str,
) -> None:
    Path("chain.toml").write_text(chain(reference, model))
    ended = cli("run", "--suite", "chain.toml", "--device", "cpu", "--slots", "1")
    assert ended.code == 2
    assert said in ended.err


OWN = """
from torch import nn

def flat(classes, image_shape):
    c, h, w = image_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, 12), nn.ReLU(), nn.Linear(12, classes))

def lone(classes, image_shape):
    c, h, w = image_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, classes))

def tied(classes, image_shape):
    c, h, w = image_shape
    first, second = nn.Linear(c * h * w, c * h * w), nn.Linear(c * h * w, c * h * w)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), nn.Linear(c * h * w, classes))
"""


@pytest.fixture
def own_networks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.folder / "own_networks_plugin.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(bench.folder))
    for name in ("flat", "lone", "tied"):
        MODELS.add(name, ModelSpec(name, "own", "For tests.", f"own_networks_plugin:{name}", 8), "kdbench")


@pytest.mark.usefixtures("own_networks")
def test_of_a_teacher_without_maps_only_the_method_that_needs_some_ends(
    bench: Bench,
    make_suite: MakeSuite,
    cli: Cli,  # noqa: F811
) -> None:
    teacher = 'kind = "trained"\nmodel = "flat"\nseed = 100'
    make_suite(suite_text(["kd", "fitnet", "ce"], epochs=1, teacher=teacher))
    ended = cli(*RUN)
    assert (ended.code, ended.err) == (0, "")
    records = bench.records()
    assert {label: record["status"] for label, record in records.items()} == {
        "kd": "finished",
        "fitnet": "inapplicable",
        "ce": "finished",
    }
    assert "makes no maps" in records["fitnet"]["detail"]


@pytest.mark.usefixtures("own_networks")
def test_weights_that_a_network_shares_are_kept_taught_from_and_exported(
    bench: Bench,
    make_suite: MakeSuite,
    cli: Cli,  # noqa: F811
) -> None:
    from safetensors.torch import load_file

    make_suite(suite_text(["kd"], epochs=1, student="tied", teacher='kind = "trained"\nmodel = "tied"\nseed = 100'))
    assert cli(*RUN).code == 0
    record = bench.records()["kd"]
    assert scored(kdbench.load_student(record)) == pytest.approx(record["scores"]["last"]["top1"])
    assert cli("export", "kd", "--to", "tied.safetensors").code == 0
    state = load_file("tied.safetensors")
    assert torch.equal(state["1.weight"], state["3.weight"])
    assert cli("results", "validate", "results").code == 0


@pytest.mark.usefixtures("own_networks")
@pytest.mark.parametrize(("batch", "code"), [(109, 2), (110, 0)])
def test_a_last_batch_of_one_image_is_refused_when_it_is_planned(
    make_suite: MakeSuite,
    cli: Cli,  # noqa: F811
    batch: int,
    code: int,
) -> None:
    """1,200 training images in batches of 109 leave one over."""
    make_suite(suite_text(["ce"], epochs=1, batch=batch, student="lone"))
    ended = cli(*RUN, "--dry-run")
    assert ended.code == code
    assert ("ends with a single image" in ended.err) == (code == 2)
