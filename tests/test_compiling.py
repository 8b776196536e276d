"""A protocol that compiles: the same training up to rounding, the same bits after a resume, and an honest clock."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial

import pytest
import torch
from bench import Bench, same_bits, suite_text
from test_kill_resume import Killed, at

from kdbench.errors import UserError
from kdbench.jobs import cohort
from kdbench.models.factory import create
from kdbench.suites import Suite
from kdbench.train import compiling
from kdbench.train.lockstep import Lockstep

MakeSuite = Callable[[str], Suite]


@pytest.fixture
def compiler() -> None:
    try:
        compiling.check_compiles("default", torch.device("cpu"))
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("compiler")
def test_compiled_killed_and_resumed(bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a short last batch, which is the first that the resumed process sees."""
    compiled = {"name": "kd", "label": "kd-compiled", "protocol": {"compile": "default", "batch": 500}}
    plain = {"name": "kd", "protocol": {"batch": 500}}
    twice = {**compiled, "name": "dot(kd)", "label": "dot-compiled"}  # two backward passes through one graph
    suite = make_suite(suite_text([plain, compiled, twice]))
    cohorts: list[Lockstep] = []
    run = Lockstep.run
    with monkeypatch.context() as patch:
        patch.setattr(Lockstep, "run", lambda self: cohorts.append(self) or run(self))
        records = bench.train(bench.trials(suite))
    assert records["dot-compiled"]["status"] == "finished", records["dot-compiled"]["detail"]
    (both,) = (each for each in cohorts if each.batches.protocol.compile != "none")
    # Of each size the first batch is compiled: for the teacher, whose work two students share, and for each of them.
    assert both.shared_images == 2 * (2 * 1200 - 700)
    assert {member.images for member in both.members} == {2 * 1200 - 700}
    one, other = records["kd"], records["kd-compiled"]
    assert one["status"] == other["status"] == "finished"
    assert one["key"] != other["key"]
    losses = [record["curve"][-1]["losses"]["kd"] for record in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert losses[0] != losses[1]

    again = bench.again("again")
    shutil.copytree(bench.folder / "cache" / "teachers", again.folder / "cache" / "teachers")
    monkeypatch.setattr(cohort, "CHECKPOINT_SECONDS", 0.0)
    trials = again.trials(suite, "kd-compiled")
    with monkeypatch.context() as patch:
        patch.setattr(Lockstep, "_share", at(5, Lockstep._share))
        with pytest.raises(Killed):
            again.train(trials)
    resumed = again.train(trials)["kd-compiled"]
    assert resumed["provenance"]["resumed"] == 1
    assert same_bits(resumed, other)


@pytest.mark.usefixtures("compiler")
def test_a_network_is_compiled_however_many_came_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch by itself stops at eight kinds of arguments of one function, here at four, and goes on uncompiled."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 4)
    monkeypatch.setattr(torch._dynamo.config, "accumulated_recompile_limit", 4)
    torch._dynamo.reset()
    for number, classes in enumerate((10, 7)):
        network = create("tiny_cnn_s", classes=classes, image_shape=(1, 8, 8), mean=(0.5,), std=(0.25,))
        see = compiling.compiled(network, "default")
        for size in range(1, 4):
            see(torch.rand(size, 1, 8, 8))
            assert len(graphs) == 3 * number + size


def test_a_machine_without_a_compiler_says_so(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    from torch._inductor import cpp_builder

    for name in ("get_cpp_compiler", "cpp_compiler_search"):
        function = getattr(cpp_builder, name, None)
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    suite = make_suite(suite_text([{"name": "ce", "protocol": {"compile": "default"}}]))
    with pytest.raises(UserError, match=r"finds no C\+\+ compiler here; install g\+\+ or clang, or set compile"):
        bench.train(bench.trials(suite))
    assert bench.records() == {}, "it is no trial's fault"


def test_nothing_is_compiled_unless_asked() -> None:
    network = torch.nn.Linear(1, 1)
    assert compiling.compiled(network, "none") is network
