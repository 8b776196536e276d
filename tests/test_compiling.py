"""A protocol that compiles: the same training up to rounding, the same bits after a resume, and an honest clock."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
from bench import Bench, same_bits, suite_text
from test_kill_resume import Killed, at

from kdbench.errors import UserError
from kdbench.suites import Suite
from kdbench.train import cohort, compiling
from kdbench.train.batches import Batches

MakeSuite = Callable[[str], Suite]


def test_compiled_killed_and_resumed(bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a short last batch, which is the first that the resumed process sees."""
    compiled = {"name": "kd", "label": "kd-compiled", "protocol": {"compile": "default", "batch": 500}}
    plain = {"name": "kd", "protocol": {"batch": 500}}
    suite = make_suite(suite_text([plain, compiled]))
    records = bench.train(bench.trials(suite))
    one, other = records["kd"], records["kd-compiled"]
    assert one["status"] == other["status"] == "finished"
    assert one["key"] != other["key"]
    losses = [record["curve"][-1]["losses"]["kd"] for record in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert losses[0] != losses[1]
    # Three batches an epoch, two epochs; the first of each size is compiled and not counted.
    assert other["cost"]["seconds"] < 10 * one["cost"]["seconds"]

    again = bench.again("again")
    shutil.copytree(bench.folder / "cache" / "teachers", again.folder / "cache" / "teachers")
    monkeypatch.setattr(cohort, "CHECKPOINT_SECONDS", 0.0)
    trials = again.trials(suite, "kd-compiled")
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "batch", at(4, Batches.batch))
        with pytest.raises(Killed):
            again.train(trials)
    resumed = again.train(trials)["kd-compiled"]
    assert resumed["provenance"]["resumed"] == 1
    assert same_bits(resumed, other)


def test_a_machine_without_a_compiler_says_so(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    from torch._inductor import cpp_builder

    for name in ("get_cpp_compiler", "cpp_compiler_search"):
        function = getattr(cpp_builder, name, None)
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    suite = make_suite(suite_text([{"name": "kd", "protocol": {"compile": "default"}}]))
    with pytest.raises(UserError, match=r"finds no C\+\+ compiler here; install g\+\+ or clang, or set compile"):
        bench.train(bench.trials(suite))


def test_nothing_is_compiled_unless_asked() -> None:
    network = object()
    assert compiling.compiled(network, "none") is network  # type: ignore[arg-type, comparison-overlap]
