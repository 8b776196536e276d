"""TeKAP on features: the published value, gradients and memories, and its relation to CRD."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from steps import TEACHER_WIDTHS, build, fake_outputs, make_step
from test_method_goldens import FOLDER, INDEX
from test_method_properties import same, seeds

from kdbench.methods.base import Method
from kdbench.models.outputs import Outputs


def _close(got, want):
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=1e-7 * np.abs(want).max() + 1e-15)


def test_loss_gradients_and_memories_agree_with_the_published_implementation():
    (case,) = (case for case in INDEX if case.get("adapter") == "tekap_f")
    with np.load(FOLDER / case["file"]) as file:
        golden = {key: torch.from_numpy(value) for key, value in file.items()}
    pooled_s = golden["in/ps_1"].requires_grad_()
    logits = torch.zeros(len(pooled_s), 10, dtype=torch.float64)
    student, teacher = Outputs(logits, pooled=pooled_s), Outputs(logits, pooled=golden["in/pt_1"])
    method = build("tekap_f", student, teacher, **case["hyperparameters"])
    method.labels = method.labels[:40]
    for side in ("s", "t"):
        embed = getattr(method, f"embed_{side}")
        embed.load_state_dict({name: golden[f"param/crd.embed_{side}.linear.{name}"] for name in ("weight", "bias")})
    method.memory_s, method.memory_t = (golden[f"buffer/crd.contrast.memory_v{i}"] for i in (1, 2))
    method.draw = lambda index, generator: golden["in/cidx_1"][:, 1:]
    method.perturbed = lambda step: 0.9 * golden["in/pt_1"] + 0.1 * 0.1 * golden["in/noise_1"]

    terms = method.loss(replace(make_step(student, teacher), index=golden["in/idx_1"]))
    loss = terms["contrast"] + terms["copy"]
    loss.backward()

    assert loss.item() == pytest.approx(golden["out/loss"].item(), rel=1e-9)
    _close(pooled_s.grad, golden["grad/ps_1"].numpy())
    for side in ("s", "t"):
        for name, parameter in getattr(method, f"embed_{side}").named_parameters():
            _close(parameter.grad, golden[f"grad_param/crd.embed_{side}.linear.{name}"].numpy())
    for memory, number in ((method.memory_s, 1), (method.memory_t, 2)):
        _close(memory, golden[f"buffer_after/crd.contrast.memory_v{number}"].numpy())


def _built(seed: int, **overrides: float) -> tuple[Method, Outputs, Outputs]:
    student, teacher = fake_outputs(seed), fake_outputs(seed + 1, widths=TEACHER_WIDTHS)
    return build("tekap_f", student, teacher, **overrides), student, teacher


@given(seeds)
@settings(max_examples=10)
def test_without_noise_the_first_step_is_crd_with_a_teacher_that_is_met_twice(seed):
    method, student, teacher = _built(seed, noise=0.0)
    crd = build("crd", student, teacher)
    crd.load_state_dict(method.state_dict())
    step = make_step(student, teacher)
    s, t = method.embedded(step)
    chosen = method.chosen(step)
    ours = method.loss(step)
    on_student, on_teacher = crd.compare(s, t, chosen)
    same(ours["contrast"], 0.8 * (2 * on_student + on_teacher))
    crd.update(step.index, s, t)
    same(ours["copy"], 0.8 * crd.compare(s, t, chosen)[1])
    crd.update(step.index, s, t)
    same(method.memory_s, crd.memory_s)
    same(method.memory_t, crd.memory_t)


def test_the_noise_is_drawn_anew_for_each_step_and_as_large_as_asked():
    method, student, teacher = _built(3, noise=1.0, deviation=2.0)
    steps = [
        replace(make_step(student, teacher), generator=lambda p, i=i: torch.Generator().manual_seed(i)) for i in (0, 1)
    ]
    one, other = (method.perturbed(step) for step in steps)
    assert not torch.equal(one, other)
    assert 1.5 < torch.cat([one, other]).std() < 2.5
