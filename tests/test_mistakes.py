"""A mistake is refused, or tried again; only a method's own word makes a result of "not applicable"."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from bench import Bench, suite_text
from test_cli import RUN, Cli, cli  # noqa: F401
from test_teachers import CHECKPOINT, keep, weights

from kdbench.models import MODELS, ModelSpec
from kdbench.plugins import load_plugins
from kdbench.suites import SUITES, Suite

MakeSuite = Callable[[str], Suite]


def test_a_mistyped_library_model_is_refused_before_anything_is_trained(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
) -> None:
    make_suite(suite_text(["ce"], student="timm/resnett18"))
    ended = cli(*RUN)
    assert ended.code == 2
    assert "There is no timm model named 'resnett18'" in ended.err
    assert bench.records() == {}


@pytest.mark.parametrize("kind", ["trained", "checkpoint"])
def test_a_mistyped_teacher_is_refused_before_anything_is_trained(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    kind: str,
) -> None:
    files = 'files = ["own.pt"]' if kind == "checkpoint" else "seed = 100"
    keep(bench, weights())
    make_suite(suite_text(["ce", "kd"], teacher=f'kind = "{kind}"\nmodel = "timm/resnett18"\n{files}'))
    for more in ((), ("--dry-run",)):
        ended = cli(*RUN, *more)
        assert ended.code == 2
        assert "There is no timm model named 'resnett18'" in ended.err
    assert bench.records() == {}


def test_a_teacher_that_gives_no_numbers_teaches_nobody(cli: Cli, bench: Bench, make_suite: MakeSuite) -> None:  # noqa: F811
    keep(bench, {**weights(), "fc.bias": torch.full((10,), float("nan"))})
    make_suite(suite_text(["ce", "kd"], epochs=1, teacher=CHECKPOINT))
    ended = cli(*RUN)
    assert ended.code == 3
    assert "The teacher tutor gives outputs that are not finite on the test images of digits" in ended.out + ended.err
    assert {label: record["status"] for label, record in bench.records().items()} == {"ce": "finished"}


def test_a_plugin_whose_setup_raises_costs_its_own_row(cli: Cli, bench: Bench, make_suite: MakeSuite) -> None:  # noqa: F811
    file = bench.plugin("sour", setup="raise ValueError('no luck')")
    load_plugins([file])
    make_suite(suite_text(["ce", "sour"], epochs=1))
    ended = cli(*RUN, "--plugin", file)
    assert ended.code == 3
    assert "ValueError: no luck" in ended.out
    statuses = {label: record["status"] for label, record in bench.records().items()}
    assert statuses == {"ce": "finished", "sour": "crashed"}


@pytest.mark.parametrize("top", ["import no_such_package", "1 / 0", "raise SystemExit"])
def test_a_network_whose_module_cannot_be_imported_is_refused(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
    top: str,
) -> None:
    (bench.folder / "own_network.py").write_text(top)
    monkeypatch.syspath_prepend(str(bench.folder))
    MODELS.add("own", ModelSpec("own", "own", "For tests.", "own_network:build", 8), "plugin own")
    make_suite(suite_text(["ce"], student="own"))
    ended = cli(*RUN)
    assert ended.code == 2
    assert "model 'own': cannot load 'own_network:build'" in ended.err
    assert bench.records() == {}


def test_only_a_methods_own_word_is_a_result(bench: Bench, make_suite: MakeSuite) -> None:
    """What its setup says of the networks; a package that is missing there is a crash, which is tried again."""
    files = [
        bench.plugin(
            "shy", top="from kdbench.plugin import UserError", setup="raise UserError('It wants two stages.')"
        ),
        bench.plugin("missing", setup="import no_such_package"),
    ]
    load_plugins(files)
    records = bench.train(bench.trials(make_suite(suite_text(["shy", "missing"], epochs=1))), files)
    assert (records["shy"]["status"], records["shy"]["detail"]) == ("inapplicable", "It wants two stages.")
    assert records["missing"]["status"] == "crashed"
    assert "no_such_package" in records["missing"]["detail"]
    assert bench.store.done([record["key"] for record in records.values()]) == {records["shy"]["key"]}


def test_a_network_that_cannot_be_built_is_a_crash_and_no_result(bench: Bench, make_suite: MakeSuite) -> None:
    (bench.folder / "sour_plugin.py").write_text("def build(classes, image_shape):\n    raise ValueError('no luck')\n")
    import sys

    sys.path.insert(0, str(bench.folder))
    try:
        MODELS.add("sour", ModelSpec("sour", "own", "For tests.", "sour_plugin:build", 8), "test")
        record = bench.train(bench.trials(make_suite(suite_text(["ce"], epochs=1, student="sour"))))["ce"]
    finally:
        sys.path.remove(str(bench.folder))
    assert (record["status"], record["detail"]) == ("crashed", "ValueError: no luck")


def test_methods_that_each_deploy_a_network_are_refused_when_they_are_named(
    cli: Cli,  # noqa: F811
    bench: Bench,
) -> None:
    SUITES.add("tiny", (suite_text(["simkd+ijckd"]), "tiny.toml"), "test")
    ended = cli(*RUN)
    assert ended.code == 2
    assert "'simkd+ijckd' sums methods that each deploy a network of their own" in ended.err
