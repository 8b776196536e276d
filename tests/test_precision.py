"""bf16: what stays in float32, that a CPU without such instructions computes the same, and what the record says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from bench import Bench, suite_text
from torch import Tensor, nn

from kdbench.jobs.clerk import EMULATED
from kdbench.models import precision
from kdbench.models.factory import create
from kdbench.models.folding import folded
from kdbench.models.network import Network
from kdbench.models.outputs import PARTS
from kdbench.suites import Suite
from kdbench.teachers.weights import weights_digest

torch.set_num_threads(1)
SHAPE = (3, 32, 32)
#: Half the distance of 1 to the next bfloat16, and with it the relative error of one rounding.
ROUNDING = 2**-9


def _network(name: str = "resnet8") -> Network:
    torch.manual_seed(0)
    return create(name, classes=10, image_shape=SHAPE, mean=(0.5,) * 3, std=(0.25,) * 3)


def _pass(see: nn.Module, network: Network) -> Mapping[str, Tensor]:
    """Logits of some images, and the gradient at every weight."""
    x = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(0))
    outputs = see(x.to(memory_format=torch.channels_last), frozenset())
    nn.functional.cross_entropy(outputs.logits, torch.arange(8)).backward()
    return {"logits": outputs.logits.detach(), **{name: p.grad.clone() for name, p in network.named_parameters()}}


def _error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Of everything together, relative to its norm."""
    a, b = (torch.cat([value.flatten() for value in each.values()]) for each in (found, expected))
    return float((a - b).norm() / b.norm())


def _passes(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Mapping[str, Tensor]]:
    """In float32, in bf16 by torch's own kernels for it, however slow here, and in bf16 by those of float32."""
    found = {}
    for kind, by in (("float32", None), ("native", True), ("emulated", False)):
        network = _network(name)
        monkeypatch.setattr(precision, "native", lambda device, by=by: by)
        see = precision.in_precision(network, "float32" if by is None else "bf16")
        found[kind] = _pass(see, network)
    return found


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "timm/convnext_atto"])
def test_float32_kernels_make_the_errors_of_bfloat16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _passes(name, monkeypatch)
    between = _error(found["emulated"], found["native"])
    reduced = [_error(found[kind], found["float32"]) for kind in ("native", "emulated")]
    assert min(reduced) > ROUNDING, "something is rounded"
    assert max(reduced) < 100 * ROUNDING
    assert max(reduced) < 1.25 * min(reduced), "no rounding is left out, and none is added"
    assert between < max(reduced)


def test_a_convolution_is_rounded_once_after_its_sum() -> None:
    """As the instructions do it: operands and result are bfloat16, and the sum between them has all its digits."""
    x, weight, gradient = torch.randn(4, 16, 8, 8), torch.randn(16, 16, 3, 3), torch.randn(4, 16, 8, 8).bfloat16()
    a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), precision._Float32Products():
        y = nn.functional.conv2d(a, w, padding=1)
    y.backward(gradient)
    exact_a, exact_w = (value.bfloat16().double().requires_grad_() for value in (x, weight))
    exact = nn.functional.conv2d(exact_a, exact_w, padding=1)
    exact.backward(gradient.double())
    for found, expected in ((y, exact), (a.grad, exact_a.grad), (w.grad, exact_w.grad)):
        rounded = expected.bfloat16()
        assert torch.equal(found.bfloat16().to(found.dtype), found)
        assert (found.bfloat16() != rounded).float().mean() < 0.01  # a sum in float32 may fall to the other side
        torch.testing.assert_close(found.double(), rounded.double(), rtol=4 * ROUNDING, atol=1e-4)


def test_the_first_convolution_and_the_classifier_compute_in_float32() -> None:
    network = _network().eval()
    x = torch.rand(2, *SHAPE)
    seen: dict[str, Tensor] = {}
    network.body.conv1.register_forward_hook(lambda module, inputs, output: seen.update(first=output))
    network.body.layer1[0].conv1.register_forward_hook(lambda module, inputs, output: seen.update(second=output))
    outputs = precision.in_precision(network, "bf16")(x, PARTS)
    assert {part.dtype for part in outputs.tensors()} == {torch.float32}
    assert seen["second"].dtype == torch.bfloat16
    assert torch.equal(seen["first"], nn.functional.conv2d((x - 0.5) / 0.25, network.body.conv1.weight, padding=1))
    assert torch.equal(outputs.logits, network.head(outputs.pooled))


def test_the_network_itself_stays_what_it_was() -> None:
    network = _network().eval()
    x = torch.rand(2, *SHAPE)
    before, digest = network(x).logits, weights_digest(network.state_dict())
    names = list(network.state_dict())
    see = precision.in_precision(network, "bf16").eval()
    assert not torch.equal(see(x).logits, before)
    assert torch.equal(network(x).logits, before)
    assert list(network.state_dict()) == names
    assert weights_digest(network.state_dict()) == digest
    assert precision.in_precision(network, "float32") is network


def test_a_folded_teacher_in_bf16() -> None:
    network = _network().eval()
    x = torch.rand(8, *SHAPE)
    with torch.inference_mode():
        found = precision.in_precision(folded(network, "resnet8", SHAPE), "bf16")(x).logits
    expected = network(x).logits.detach()
    assert 0 < (found - expected).norm() / expected.norm() < 20 * ROUNDING


def test_a_trial_in_bf16(bench: Bench, make_suite: Callable[[str], Suite]) -> None:
    reduced = {"name": "kd", "label": "kd-bf16", "protocol": {"precision": "bf16"}}
    records = bench.train(bench.trials(make_suite(suite_text(["kd", reduced]))))
    plain, record = records["kd"], records["kd-bf16"]
    assert record["status"] == "finished"
    assert record["key"] != plain["key"]
    assert record["provenance"]["precision"] == "bf16"
    assert record["identity"]["protocol"]["precision"] == "bf16"
    one, other = (each["curve"][-1]["losses"]["kd"] for each in (plain, record))
    assert one != other == pytest.approx(one, rel=0.05)
    emulated = not precision.native(torch.device("cpu"))
    assert (EMULATED in record["warnings"]) == emulated
    assert EMULATED not in plain["warnings"]
    same = plain["cost"]["ceiling_gflops_per_s"] == record["cost"]["ceiling_gflops_per_s"]
    assert same == emulated


@pytest.mark.parametrize(
    ("machine", "dnnl", "avx512", "amx", "found"),
    [
        ("x86_64", True, False, False, False),
        ("x86_64", True, True, False, True),
        ("AMD64", True, False, True, True),
        ("x86_64", False, False, False, False),
        ("aarch64", True, False, False, True),
    ],
)
def test_instructions_for_bfloat16(
    monkeypatch: pytest.MonkeyPatch, machine: str, dnnl: bool, avx512: bool, amx: bool, found: bool
) -> None:
    """oneDNN takes bfloat16 on any AVX-512; the older of them have no instruction that multiplies it."""
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: dnnl)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert precision.native(torch.device("cpu")) == found
