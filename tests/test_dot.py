"""DOT: two momenta against their definition, what the engine gives them, and where the wrapper may stand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdbench.errors import UserError
from kdbench.methods import METHODS
from kdbench.methods.zoo.dot import TwoMomenta
from kdbench.train.conformance import make_bench
from kdbench.train.member import Member

quick = settings(max_examples=15)
rates = st.floats(0.01, 0.5)


def _parameter(seed: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def _gradients(seed: int, n: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randn(2, 5, generator=generator, dtype=torch.float64)) for _ in range(n)]


@given(st.integers(0, 1000), rates, st.floats(0, 0.9), st.floats(0, 0.01))
@quick
def test_equal_momenta_are_sgd_on_the_sum(seed, lr, momentum, decay):
    ours, theirs = _parameter(seed), _parameter(seed)
    dot = TwoMomenta([{"params": [ours]}], lr=lr, momentum=momentum, delta=0.0, weight_decay=decay)
    sgd = torch.optim.SGD([theirs], lr=lr, momentum=momentum, weight_decay=decay)
    for task, distill in _gradients(seed):
        ours.grad, theirs.grad = task, task + distill
        dot.step_apart({ours: distill})
        sgd.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 1000), rates, st.floats(0, 0.01))
@quick
def test_each_gradient_has_its_own_momentum(seed, lr, decay):
    mu, delta = 0.9, 0.075
    parameter = _parameter(seed)
    dot = TwoMomenta([{"params": [parameter]}], lr=lr, momentum=mu, delta=delta, weight_decay=decay)
    weight = parameter.detach().clone()
    m_task = m_distill = torch.zeros(5, dtype=torch.float64)
    for task, distill in _gradients(seed):
        m_task = (mu - delta) * m_task + task + decay * weight
        m_distill = (mu + delta) * m_distill + distill
        weight = weight - lr * (m_task + m_distill)
        parameter.grad = task
        dot.step_apart({parameter: distill})
        torch.testing.assert_close(parameter.detach(), weight, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("which", ["task", "distill"])
def test_a_parameter_of_one_loss_alone_moves_as_under_sgd(which):
    ours, theirs = _parameter(1), _parameter(1)
    dot = TwoMomenta([{"params": [ours]}], lr=0.1, momentum=0.9, delta=0.075, weight_decay=0.01)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.01)
    for gradient, _ in _gradients(2):
        theirs.grad = gradient
        ours.grad = gradient if which == "task" else None
        dot.step_apart({} if which == "task" else {ours: gradient})
        sgd.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def _two_steps(member: Member, bench) -> list[torch.Tensor]:
    for step in range(2):
        batch = bench.batch(step, member)
        member.step(batch, bench.taught(batch, member))
    return [parameter.detach() for parameter in member.network.parameters()]


def test_the_engine_gives_each_buffer_its_gradient():
    bench = make_bench("dot(kd)")
    plain, apart = bench.member("kd"), bench.member("dot(kd)")
    assert isinstance(apart.optimiser, TwoMomenta)
    batch = bench.batch(0, apart)
    before = [p.detach().clone() for p in apart.network.parameters()]
    for member in (plain, apart):
        member.step(batch, bench.taught(batch, member))
    decay, state = apart.trial.protocol.weight_decay, apart.optimiser.state
    momenta = [plain.optimiser.state[p]["momentum_buffer"] for p in plain.network.parameters()]
    for parameter, weight, whole in zip(apart.network.parameters(), before, momenta, strict=True):
        parts = state[parameter]["task"] + state[parameter]["distill"]
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
        assert state[parameter]["distill"].abs().max() > 0
        assert not torch.equal(state[parameter]["task"], decay * weight)


def test_delta_matters_from_the_second_step():
    bench = make_bench("dot(kd)")
    apart = _two_steps(bench.member("dot(kd)"), bench)
    plain = _two_steps(bench.member("kd"), bench)
    assert any(not torch.allclose(a, b, rtol=1e-4) for a, b in zip(apart, plain, strict=True))


def test_a_protocol_that_leaves_no_room_for_two_momenta_is_refused():
    bench = make_bench("dot(kd)")
    for change in ({"momentum": 0.95}, {"momentum": 0.05}, {"nesterov": True}):
        bench.protocol = dataclasses.replace(make_bench("kd").protocol, **change)
        with pytest.raises(UserError, match="dot needs plain momentum"):
            bench.member("dot(kd)")


@pytest.mark.parametrize("text", ["dot(kd)+fitnet", "fitnet+dot(kd)", "dot(dot(kd))", "lskd(dot(kd))"])
def test_there_is_one_optimiser_around_everything(text):
    with pytest.raises(UserError, match="must stand around all the rest"):
        METHODS.resolve(text)


def test_it_stands_around_sums_wrappers_and_presets_and_knows_its_pairs():
    assert METHODS.resolve("dot(kd+fitnet)")[0].terms == METHODS.resolve("kd+fitnet")[0].terms
    assert METHODS.resolve("dot(lskd(kd))")[0].needs_teacher
    spec, fixed = METHODS.resolve("dot(kd@t1-half)")
    config = spec.config("resnet34:resnet18", fixed, "test")
    assert (config["dot.delta"], config["kd.temperature"]) == (0.09, 1.0)
    assert spec.config("resnet32x4:resnet8x4", {}, "test")["dot.delta"] == 0.075
