"""Compiled normalisation: torch's function and gradients, whatever shape, precision, compiler or network."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from bench import C_COMPILER, Bench, same_bits, suite_text
from torch import Tensor, nn

from kdbench.errors import UserError
from kdbench.models import kernels, norms
from kdbench.models.factory import create
from kdbench.models.folding import folded
from kdbench.models.norms import CompiledIdentity, CompiledNorm, compile_norms, normalised
from kdbench.models.outputs import PARTS
from kdbench.models.precision import in_precision
from kdbench.suites import Suite

torch.set_num_threads(1)
pytestmark = pytest.mark.skipif(not C_COMPILER, reason="there is no C compiler here")
#: [N,C,H,W]: rows that fill no tile, several tiles, a vector and its rest, several groups of vectors.
SHAPES = ((3, 1, 2, 2), (5, 24, 7, 7), (64, 16, 16, 16), (16, 80, 5, 5), (9, 300, 6, 6), (40, 64, 1, 1))
#: What half of a unit in the last place is, relative to a number: bfloat16 has 8 bits, float32 24.
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-9}


@contextmanager
def own_code() -> Iterator[pytest.MonkeyPatch]:
    """Inside, the code is built anew or found in the cache folder, as it was not yet asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "library", cache(kernels.library.__wrapped__))
        patch.setattr(norms, "library", kernels.library)
        patch.setattr(norms, "_functions", cache(norms._functions.__wrapped__))
        yield patch


@pytest.fixture
def not_built() -> Iterator[None]:
    with own_code():
        yield


#: The code for any processor is what runs where there is no AVX-512.
INSTRUCTIONS = {"this processor's": kernels.NATIVE, "any processor's": ((),)}


@pytest.fixture(scope="module", params=INSTRUCTIONS)
def instructions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with own_code() as patch:
        patch.setenv("KDBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(kernels, "NATIVE", INSTRUCTIONS[request.param])
        patch.setattr(kernels, "OPTIONS", ("-O0", *kernels.OPTIONS[1:]))  # which compiles faster
        norms._functions()
        yield


def norm(channels: int) -> nn.BatchNorm2d:
    torch.manual_seed(channels)
    made = nn.BatchNorm2d(channels)
    nn.init.normal_(made.weight)
    nn.init.normal_(made.bias)
    return made


def compiled(made: nn.BatchNorm2d) -> CompiledNorm:
    holder = nn.Sequential(copy.deepcopy(made))
    compile_norms(holder)
    assert type(holder[0]) is CompiledNorm
    return holder[0]


def maps(shape: tuple[int, ...], kind: torch.dtype) -> Tensor:
    """Far from 0, so that a variance about 0 would lose digits."""
    return (torch.randn(shape) * 2 + 30).to(kind).contiguous(memory_format=torch.channels_last)


def all_of(
    apply: Callable[..., Tensor], module: nn.Module, x: Tensor, skip: Tensor | None, slope: Tensor
) -> list[Tensor]:
    """The result, the gradients at x, weight, bias and skip, and the running statistics."""
    x = x.clone().requires_grad_()
    skip = None if skip is None else skip.clone().requires_grad_()
    y = apply(module, x, skip)
    y.backward(slope.to(y.dtype))
    gradients = [x.grad, module.weight.grad, module.bias.grad, *([] if skip is None else [skip.grad])]
    return [y.detach(), *gradients, module.running_mean, module.running_var]


@pytest.mark.parametrize("kinds", [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")], ids=str)
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "no relu"])
@pytest.mark.parametrize("with_skip", [True, False], ids=["sum", "no sum"])
def test_function_and_gradients(instructions: None, kinds: tuple[str, str], relu: bool, with_skip: bool) -> None:
    of_x, of_y = (getattr(torch, kind) for kind in kinds)
    for shape in SHAPES:
        plain, x = norm(shape[1]), maps(shape, of_x)
        skip = torch.randn(shape).to(of_y) if with_skip else None
        slope = torch.randn(shape).to(of_y)

        def exactly(module: nn.Module, x: Tensor, skip: Tensor | None) -> Tensor:
            y = module(x) if skip is None else module(x) + skip
            return y.relu() if relu else y

        exact = all_of(
            exactly, copy.deepcopy(plain).double(), x.double(), None if skip is None else skip.double(), slope
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=of_y is torch.bfloat16):
            found = all_of(lambda m, x, s: normalised(m, x, s, relu), compiled(plain), x, skip, slope)
        assert found[0].dtype is of_y
        assert found[1].dtype is of_x
        for made, expected in zip(found, exact, strict=True):
            error = float((made.double() - expected).norm() / expected.norm())
            # A mean of fifteen deviations, taken away from a few numbers, costs float32 the second part.
            assert error < 10 * ROUNDING[made.dtype] + 150 * ROUNDING[torch.float32], (shape, error)


def test_torch_is_no_nearer(instructions: None) -> None:
    """To sums in float64, for maps whose mean is fifteen times their deviation."""
    plain, x, slope = norm(16), maps((64, 16, 32, 32), torch.float32), torch.randn(64, 16, 32, 32)
    exact = all_of(lambda m, x, s: m(x), copy.deepcopy(plain).double(), x.double(), None, slope)
    by_torch = all_of(lambda m, x, s: m(x), copy.deepcopy(plain), x, None, slope)
    ours = all_of(lambda m, x, s: m(x), compiled(plain), x, None, slope)
    for theirs, made, expected in zip(by_torch, ours, exact, strict=True):
        assert (made - expected).norm() < 2 * (theirs - expected).norm() + 1e-6 * expected.norm()


def test_bits_are_not_the_compilers() -> None:
    plain, skip, slope = norm(80), torch.randn(16, 80, 9, 9), torch.randn(16, 80, 9, 9)

    def bits() -> list[Tensor]:
        found = []
        for kind in (torch.float32, torch.bfloat16):
            x = maps((16, 80, 9, 9), kind)
            torch.manual_seed(0)
            found += all_of(normalised, compiled(plain), torch.randn_like(x) + 3, skip.to(kind), slope)
        return found

    expected = bits()
    for compiler, level in (("gcc", "-O1"), ("clang", "-O2")):
        if shutil.which(compiler):
            with own_code() as patch:
                patch.setenv("CC", compiler)
                patch.setattr(kernels, "OPTIONS", (level, *kernels.OPTIONS[1:]))
                assert all(torch.equal(one, other) for one, other in zip(expected, bits(), strict=True)), compiler


NETWORKS = (
    "resnet8",
    "resnet50_cifar",
    "wrn_16_1",
    "vgg8",
    "mobilenetv1",
    "mobilenetv2_cifar",
    "shufflenetv1_cifar",
    "shufflenetv2_cifar",
    "tiny_cnn_s",
    "timm/test_resnet",
)
#: Those that a step with all their parts is tried on, too: one of each kind. The slow tests try the others.
WHOLE = ("resnet8", "wrn_16_1", "mobilenetv2_cifar", "shufflenetv1_cifar")
REST = [pytest.param(name, PARTS, marks=pytest.mark.slow) for name in NETWORKS if name not in WHOLE]
STEPS = [*((name, frozenset()) for name in NETWORKS), *((name, PARTS) for name in WHOLE), *REST]


@pytest.mark.parametrize(("name", "parts"), STEPS, ids=lambda part: part if isinstance(part, str) else str(len(part)))
def test_networks(name: str, parts: frozenset[str]) -> None:
    """A step in float32, on maps that are small enough for float64 beside it.

    By a seed whose maps come near no edge of a ReLU or a maximum: over one, a gradient goes to another place.
    """
    parts -= {"pooled_map"}
    torch.manual_seed(3)
    side = 16 if name == "resnet50_cifar" else 32
    network = create(name, classes=10, image_shape=(3, side, side), mean=(0.5,) * 3, std=(0.25,) * 3)
    if network.plan is not None:
        parts &= network.plan.parts
    network.to(memory_format=torch.channels_last)
    x = torch.rand(4, 3, side, side)
    exact, plain, ours = copy.deepcopy(network).double(), network, copy.deepcopy(network)
    compile_norms(ours)
    assert list(ours.state_dict()) == list(plain.state_dict())
    seen = []
    for each, images in ((exact, x.double()), (plain, x), (ours, x)):
        outputs = each(images, parts).tensors()
        sum((out * torch.linspace(-1, 1, out[0].numel()).view(out[0].shape)).sum() for out in outputs).backward()
        gradient = torch.cat([p.grad.flatten() for p in each.parameters()])
        running = [value.double().flatten() for key, value in each.state_dict().items() if "running" in key]
        seen.append([*(out.detach() for out in outputs), gradient, torch.cat(running)])
        assert all(int(v) == 1 for key, v in each.state_dict().items() if key.endswith("num_batches_tracked"))
    for expected, theirs, made in zip(*seen, strict=True):
        assert (made - expected).norm() < 3 * (theirs - expected).norm() + 1e-5 * expected.norm()
    with torch.no_grad():  # in eval mode it is torch's: the same bits from the same statistics
        plain.load_state_dict(ours.state_dict())
        assert torch.equal(plain.eval()(x).logits, ours.eval()(x).logits)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "mobilenetv2_cifar", "shufflenetv1_cifar"])
def test_a_folded_teacher_says_the_same_bits(name: str, precision: str) -> None:
    torch.manual_seed(0)
    network = create(name, classes=10, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3).eval()
    network.to(memory_format=torch.channels_last)
    one, other = (folded(network, name, (3, 32, 32)) for _ in range(2))
    compile_norms(other)
    assert any(type(module) is CompiledIdentity for module in other.modules())
    x = torch.rand(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected, found = (in_precision(each, precision)(x, PARTS) for each in (one, other))
    for theirs, ours in zip(expected.tensors(), found.tensors(), strict=True):
        assert torch.equal(theirs, ours)


def test_what_is_not_a_number_stays_visible(instructions: None) -> None:
    x = maps((4, 16, 3, 3), torch.float32)
    x[0, 3, 1, 1] = torch.nan
    y = normalised(compiled(norm(16)), x)
    assert y[:, 3].isnan().all()
    assert y[:, torch.arange(16) != 3].isfinite().all()
    holder = nn.Sequential(nn.Identity())
    compile_norms(nn.Sequential(holder, nn.Linear(1, 1)))
    with torch.no_grad():
        assert int(normalised(holder[0], x.bfloat16()).isnan().sum()) == 1


def test_one_number_has_no_variance() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        normalised(compiled(norm(16)), torch.randn(1, 16, 1, 1))


def test_gradients_of_gradients_are_refused() -> None:
    x = maps((4, 16, 3, 3), torch.float32).requires_grad_()
    with pytest.raises(RuntimeError, match="gradients of gradients"):
        torch.autograd.grad(normalised(compiled(norm(16)), x).sum(), x, create_graph=True)


def test_a_gradient_of_another_layout() -> None:
    """Such as that of a mean over positions, which is one number for all of them."""
    plain, x = norm(16), maps((4, 16, 3, 3), torch.float32)
    ours = all_of(lambda m, x, s: normalised(m, x).mean((2, 3)), compiled(plain), x, None, torch.ones(4, 16))
    theirs = all_of(lambda m, x, s: m(x).relu().mean((2, 3)), plain, x, None, torch.ones(4, 16))
    for made, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


def test_which_norms_stay_torchs() -> None:
    kept = [nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, momentum=None), nn.BatchNorm1d(4), nn.GroupNorm(2, 4)]
    kept.append(nn.BatchNorm2d(4, track_running_stats=False))
    kinds = [type(module) for module in kept]
    compile_norms(nn.Sequential(*kept, nn.Linear(1, 1)))
    assert [type(module) for module in kept] == kinds


def test_on_a_gpu_it_is_not_offered() -> None:
    with pytest.raises(UserError, match=r'compile = "norms" is for CPUs; on a GPU set compile = "default"'):
        compile_norms(nn.Linear(1, 1, device="meta"))


def test_without_a_compiler(
    not_built: None, bench: Bench, make_suite: Callable[[str], Suite], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = make_suite(suite_text([{"name": "ce", "protocol": {"compile": "norms"}}]))
    monkeypatch.setattr(kernels, "COMPILERS", ("no-such-compiler",))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(UserError, match=r"no C compiler here; install gcc or clang .* or set compile = \"none\"\.$"):
        bench.train(bench.trials(suite))
    assert bench.records() == {}, "it is no trial's fault"


def test_a_compiler_that_does_not_compile(not_built: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    liar = tmp_path / "liar"
    monkeypatch.setenv("CC", str(liar))
    with pytest.raises(UserError, match="no C compiler here"):
        kernels.library()
    liar.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    liar.chmod(0o755)
    with pytest.raises(UserError, match="liar does not work as a C compiler here; name another one in \\$CC"):
        kernels.library()
    liar.write_text("#!/bin/sh\ncase $* in *-E*) exit 0;; esac\necho first >&2\necho 'no, thanks' >&2\nexit 1\n")
    with pytest.raises(UserError, match=r"liar does not compile .*norms.c: no, thanks; set compile = \"none\""):
        kernels.library()
    assert not list((tmp_path / "cache" / "kernels").iterdir())


def test_a_cache_folder_that_cannot_be_written(
    not_built: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"kdbench cannot build its C code \(.*\); look at .*kernels, or set KDBENCH"):
        kernels.library()


def test_built_once(not_built: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernels, "OPTIONS", ("-O0", *kernels.OPTIONS[1:]))
    kernels.library()
    (built,) = (tmp_path / "cache" / "kernels").iterdir()
    before = os.stat(built)
    kernels.library.cache_clear()
    kernels.library()
    assert os.stat(built).st_mtime_ns == before.st_mtime_ns
    monkeypatch.setattr(kernels, "OPTIONS", ("-O0", "-g", *kernels.OPTIONS[1:]))
    kernels.library.cache_clear()
    kernels.library()
    assert len(list((tmp_path / "cache" / "kernels").iterdir())) == 2


def test_a_file_that_is_no_code(not_built: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernels, "_build", lambda command, built: built.write_bytes(b"damaged"))
    (tmp_path / "cache" / "kernels").mkdir(parents=True)
    with pytest.raises(UserError, match=r"kdbench cannot load its C code \(.*\); delete .*\.so, or set KDBENCH_CACHE"):
        kernels.library()


def test_what_the_code_does_not_read_is_left_to_torch() -> None:
    """It would take the bytes of any other type for float32."""
    plain, x = norm(16).double(), torch.randn(4, 16, 3, 3, dtype=torch.float64)
    ours = compiled(norm(16)).double()
    assert torch.equal(normalised(ours, x), plain(x).relu())
    assert torch.equal(ours.running_var, plain.running_var)


def test_a_training(bench: Bench, make_suite: Callable[[str], Suite]) -> None:
    """Its losses are near those of torch's normalisation, and its key is another one."""
    rows = [
        {"name": name, "label": f"{name}-{mode}", "protocol": {"compile": mode}}
        for name in ("kd", "fitnet")
        for mode in ("none", "norms")
    ]
    suite = make_suite(suite_text(rows, epochs=1))
    records = bench.train(bench.trials(suite))
    for name in ("kd", "fitnet"):
        plain, ours = records[f"{name}-none"], records[f"{name}-norms"]
        assert ours["status"] == "finished", ours["detail"]
        assert plain["key"] != ours["key"]
        for term, value in plain["curve"][0]["losses"].items():
            assert ours["curve"][0]["losses"][term] == pytest.approx(value, rel=1e-3)
        assert not same_bits(plain, ours)
