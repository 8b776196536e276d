"""What torch and the process share: set whatever its state, looked at after other people's code, and put back."""

from __future__ import annotations

import builtins
import math
import os
import signal
import subprocess
import sys
import threading
import time
import timeit
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import Bench, same_bits, suite_text
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from kdbench.suites import Suite
from kdbench.train import global_state, originals
from kdbench.train.global_state import SWITCHES, differences, establish

CPU = torch.device("cpu")
C = torch._C


@pytest.fixture(autouse=True)
def established() -> Iterator[None]:
    establish(CPU, 1)
    yield
    establish(CPU, 1)
    differences(thorough=True)


class Doubled(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Watched(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def entered(manager: Any) -> Any:
    manager.__enter__()
    return manager


#: (what a plugin might do, the names of what it is found to have changed).
CHANGES: list[tuple[Callable[[], object], set[str]]] = [
    (lambda: torch.set_default_dtype(torch.float64), {"default dtype"}),
    (lambda: torch.set_default_device("meta"), {"function modes and default device"}),
    (lambda: entered(torch.device("meta")), {"function modes and default device"}),
    (lambda: entered(Doubled()), {"function modes and default device"}),
    (lambda: entered(Watched()), {"dispatch modes"}),
    (lambda: entered(FakeTensorMode()), {"dispatch modes"}),
    (lambda: entered(torch.no_grad()), {"grad mode"}),
    (lambda: entered(torch.inference_mode()), {"inference mode", "grad mode"}),
    (lambda: entered(torch.autocast("cpu", torch.float16)), {"autocast of cpu", "autocast dtype of cpu"}),
    (lambda: torch.set_autocast_enabled("cuda", True), {"autocast of cuda"}),
    (lambda: torch.set_autocast_dtype("cuda", torch.bfloat16), {"autocast dtype of cuda"}),
    (lambda: torch.set_autocast_cache_enabled(False), {"autocast cache"}),
    (lambda: torch.set_anomaly_enabled(True), {"anomaly mode"}),
    (lambda: torch.use_deterministic_algorithms(False), {"deterministic algorithms"}),
    (lambda: torch.use_deterministic_algorithms(True, warn_only=True), {"deterministic algorithms"}),
    (lambda: torch.set_num_threads(2), {"number of threads"}),
    (lambda: torch.set_flush_denormal(True), {"rounding and denormal numbers"}),
    (lambda: global_state._libm.fesetround(0x400), {"rounding and denormal numbers"}),
    (lambda: global_state._libm.fesetround(0x800), {"rounding and denormal numbers"}),
    (lambda: global_state._libm.fesetround(0xC00), {"rounding and denormal numbers"}),
    (
        lambda: torch.set_float32_matmul_precision("medium"),
        {"float32_matmul_precision", "cublas_allow_tf32", "fp32_precision of mkldnn matmul"},
    ),
    (lambda: setattr(torch.backends, "fp32_precision", "tf32"), {"fp32_precision of generic all"}),
    (lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"), {"fp32_precision of mkldnn matmul"}),
    (lambda: setattr(torch.backends.mkldnn.conv, "fp32_precision", "bf16"), {"fp32_precision of mkldnn conv"}),
    (lambda: setattr(torch.backends.mkldnn.rnn, "fp32_precision", "tf32"), {"fp32_precision of mkldnn rnn"}),
    (lambda: torch.backends.mkldnn.set_flags(_fp32_precision="bf16"), {"fp32_precision of mkldnn all"}),
    (lambda: setattr(torch.backends.cudnn, "fp32_precision", "tf32"), {"fp32_precision of cuda all"}),
    (lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "tf32"), {"fp32_precision of cuda conv"}),
    (lambda: setattr(torch.backends.cudnn.rnn, "fp32_precision", "tf32"), {"fp32_precision of cuda rnn"}),
    (lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"), {"fp32_precision of cuda matmul"}),
    (lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True), {"cublas_allow_tf32"}),
    (lambda: setattr(torch.backends.cudnn, "allow_tf32", True), {"cudnn_allow_tf32"}),
    (
        lambda: setattr(torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False),
        {"cublas_allow_fp16_reduced_precision_reduction"},
    ),
    (
        lambda: setattr(torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", (False, False)),
        {"cublas_allow_bf16_reduced_precision_reduction"},
    ),
    (
        lambda: setattr(torch.backends.cuda.matmul, "allow_fp16_accumulation", True),
        {"cublas_allow_fp16_accumulation"},
    ),
    (lambda: C._set_blas_preferred_backend(C._BlasBackend.Cublaslt), {"blas_preferred_backend"}),
    (lambda: C._set_linalg_preferred_backend(C._LinalgBackend.Cusolver), {"linalg_preferred_backend"}),
    (lambda: C._set_cublaslt_prefer_grouped_gemm(True), {"cublaslt_prefer_grouped_gemm"}),
    (lambda: setattr(torch.backends.cudnn, "enabled", False), {"cudnn_enabled"}),
    (lambda: setattr(torch.backends.cudnn, "benchmark", True), {"cudnn_benchmark"}),
    (lambda: setattr(torch.backends.cudnn, "deterministic", True), {"cudnn_deterministic"}),
    (lambda: setattr(torch.backends.cudnn, "depthwise_kernel", "native"), {"cudnn_depthwise_kernel"}),
    (lambda: setattr(torch.backends.mkldnn, "enabled", False), {"mkldnn_enabled"}),
    (lambda: setattr(torch.backends.mkldnn, "deterministic", True), {"mkldnn_deterministic"}),
    (lambda: torch.backends.nnpack.set_flags(False), {"nnpack_enabled"}),
    (lambda: C._set_miopen_immediate(True), {"miopen_immediate"}),
    (lambda: torch.backends.cuda.enable_flash_sdp(False), {"flash_sdp_enabled"}),
    (lambda: torch.backends.cuda.enable_mem_efficient_sdp(False), {"mem_efficient_sdp_enabled"}),
    (lambda: torch.backends.cuda.enable_math_sdp(False), {"math_sdp_enabled"}),
    (lambda: torch.backends.cuda.enable_cudnn_sdp(False), {"cudnn_sdp_enabled"}),
    (lambda: C._set_sdp_use_overrideable(False), {"overrideable_sdp_enabled"}),
    (
        lambda: torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True),
        {"math_sdp_allow_fp16_bf16_reduction"},
    ),
    (lambda: C._set_sdp_priority_order([0, 1, 2, 3, 4]), {"sdp_priority_order"}),
    (lambda: torch.backends.mha.set_fastpath_enabled(False), {"mha fastpath"}),
    (lambda: setattr(torch.backends.opt_einsum.m, "enabled", True), {"opt_einsum"}),
    (
        lambda: setattr(torch.utils.deterministic, "fill_uninitialized_memory", True),
        {"deterministic_fill_uninitialized_memory"},
    ),
    (lambda: torch.sparse.check_sparse_tensor_invariants.enable(), {"invariants of sparse tensors"}),
    (
        lambda: nn.modules.module.register_module_forward_hook(lambda module, seen, out: None),
        {"global hooks of modules and optimisers"},
    ),
    (
        lambda: nn.modules.module.register_module_full_backward_hook(lambda module, before, after: None),
        {"global hooks of modules and optimisers"},
    ),
    (
        lambda: optimizer.register_optimizer_step_pre_hook(lambda optimiser, args, kwargs: None),
        {"global hooks of modules and optimisers"},
    ),
    (lambda: C._set_torch_function_state(C._TorchFunctionState.ALL_DISABLED), {"torch functions"}),
    (
        lambda: entered(torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)),
        {"hooks of saved tensors"},
    ),
    (lambda: C._set_fwd_grad_enabled(False), {"forward-mode gradients"}),
    (lambda: torch.autograd.set_multithreading_enabled(False), {"threads of the backward pass"}),
    (lambda: C._set_view_replay_enabled(True), {"replay of views"}),
    (
        lambda: C._set_grad_layout_enforcement_enabled(not C._is_grad_layout_enforcement_enabled()),
        {"layout of gradients"},
    ),
]
IDS = [f"{number}-{min(names)}" for number, (_, names) in enumerate(CHANGES)]
#: What this machine does not let anyone set otherwise.
ELSEWHERE = {"cpu_allow_fp16_reduced_precision_reduction"}


@pytest.mark.parametrize(("change", "names"), CHANGES, ids=IDS)
def test_what_is_changed_is_named_and_put_back(change: Callable[[], object], names: set[str]) -> None:
    kept = change()  # what it returns may undo the change when it is let go
    found = differences()
    assert names <= set(found)
    assert differences() == ()
    assert all(switch.read() == switch.wanted for switch in SWITCHES), kept


def test_each_switch_is_tried() -> None:
    chosen = {switch.name for switch in global_state._chosen(CPU, 1)}
    tried = set().union(*(names for _, names in CHANGES))
    assert {switch.name for switch in SWITCHES} | chosen == tried | ELSEWHERE


@pytest.mark.parametrize(("change", "names"), CHANGES, ids=IDS)
def test_they_are_set_whatever_state_they_are_found_in(change: Callable[[], object], names: set[str]) -> None:
    kept = change()
    establish(CPU, 1)
    assert [switch.name for switch in SWITCHES if switch.read() != switch.wanted] == [], kept
    assert differences() == ()


def test_a_torch_that_lacks_some_of_them_is_set_up_all_the_same() -> None:
    """An older one: without a flag, and with one that is a truth value where it is two by now."""
    older = """if True:
        import torch
        C, name = torch._C, "cublas_allow_fp16_reduced_precision_reduction"
        for lacking in ("_get_cudnn_depthwise_kernel", "_is_grad_layout_enforcement_enabled"):
            delattr(C, lacking)
        state = [False]
        setattr(C, f"_get_{name}", lambda: state[0])
        setattr(C, f"_set_{name}", lambda value: state.__setitem__(0, value))
        from kdbench.train.global_state import SWITCHES, differences, establish
        establish(torch.device("cpu"), 1)
        print(state[0], differences(), len(SWITCHES))
    """
    run = subprocess.run([sys.executable, "-c", older], capture_output=True, text=True)
    assert run.stdout.strip() == f"True () {len(SWITCHES) - 2}", run.stderr


def test_all_of_them_at_once() -> None:
    kept = [change() for change, names in CHANGES if "dispatch modes" not in names]
    assert len(differences()) > 40
    assert differences() == (), kept


def test_what_a_thread_changes_for_itself_is_found_in_that_thread() -> None:
    found: dict[str, tuple[str, ...]] = {}

    def work() -> None:
        torch.set_num_threads(1)
        torch._C._set_grad_enabled(False)
        found["there"] = differences()
        found["again"] = differences()

    def beside() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        found["here"] = differences()
        thread.join()

    beside()
    assert found == {"there": ("grad mode",), "again": (), "here": ()}


def test_a_mode_that_was_never_left_and_ends_later_changes_nothing_then() -> None:
    mode = torch.inference_mode()
    mode.__enter__()
    assert "inference mode" in differences()
    mode.__exit__(None, None, None)
    assert differences() == ()
    assert (torch.ones(1, requires_grad=True) * 2).requires_grad


def test_a_look_takes_microseconds() -> None:
    seconds = min(timeit.repeat(differences, number=500, repeat=5, timer=time.thread_time)) / 500
    assert seconds < 50e-6


def test_before_anything_was_established_nothing_is_held_to_it() -> None:
    global_state.forget()
    torch.set_autocast_cache_enabled(False)
    assert differences() == ()


# What is looked at thoroughly.


def relu(*_: object, **__: object) -> None:
    """Something else in the place of a function."""


@pytest.mark.parametrize(
    ("holder", "name"),
    [
        (F, "cross_entropy"),
        (F, "relu"),
        (torch, "exp"),
        (torch, "float32"),
        (torch.nn, "ReLU"),
        (torch.nn, "functional"),
        (torch.nn.init, "kaiming_normal_"),
        (torch.linalg, "svd"),
        (torch.optim, "SGD"),
        (torch.optim.SGD, "step"),
        (torch.autograd, "grad"),
        (torch.Tensor, "backward"),
        (torch.nn.Module, "__call__"),
        (torch.nn.Module, "train"),
        (torch.nn.Conv2d, "forward"),
        (torch._C._nn, "linear"),
        (np, "argsort"),
        (np, "add"),
        (math, "sqrt"),
        (builtins, "sum"),
        (builtins, "isinstance"),
    ],
    ids=str,
)
def test_a_function_that_was_replaced_is_put_back(holder: Any, name: str) -> None:
    before = vars(holder)[name]
    setattr(holder, name, relu)
    found = differences(thorough=True)
    assert [entry for entry in found if entry.endswith(f".{name}")] == list(found) != []
    assert vars(holder)[name] in (before, getattr(before, "__wrapped__", before))  # torch wraps a step in use
    assert differences(thorough=True) == ()


def test_a_function_that_was_removed_is_put_back() -> None:
    del F.relu
    assert differences(thorough=True) == ("torch.nn.functional.relu",)
    assert F.relu(torch.tensor(-1.0)) == 0


@pytest.mark.parametrize(
    ("holder", "name"), [(torch.Tensor, "relu"), (torch.nn.Linear, "__call__"), (F, "isinstance")], ids=str
)
def test_an_addition_that_hides_something_is_taken_away(holder: Any, name: str) -> None:
    assert name not in vars(holder)
    setattr(holder, name, relu)
    (found,) = differences(thorough=True)
    assert found.endswith(f".{name}")
    assert name not in vars(holder)


def test_an_addition_that_hides_nothing_stays() -> None:
    F.own_activation = relu  # type: ignore[attr-defined]
    try:
        assert differences(thorough=True) == ()
        assert F.own_activation is relu  # type: ignore[attr-defined]
    finally:
        del F.own_activation  # type: ignore[attr-defined]


def test_a_function_that_was_changed_in_its_place_is_put_back() -> None:
    expected = F.dropout(torch.ones(3), training=False).tolist()
    F.dropout.__defaults__ = (0.9, True, False)
    F.softmax.__code__ = relu.__code__
    assert set(differences(thorough=True)) == {"torch.nn.functional.dropout", "torch.nn.functional.softmax"}
    assert F.dropout(torch.ones(3), training=False).tolist() == expected
    assert F.softmax(torch.zeros(2), 0).tolist() == [0.5, 0.5]


def test_what_torch_itself_puts_in_the_place_of_a_step_is_left() -> None:
    code = (
        "import torch; from kdbench.train.global_state import differences, establish\n"
        "establish(torch.device('cpu'), 1)\n"
        "weight = torch.nn.Parameter(torch.ones(2))\n"
        "for name in ('SGD', 'AdamW', 'Adam', 'RMSprop', 'AdamW'): getattr(torch.optim, name)([weight], lr=0.1)\n"
        "import torchvision, timm, scipy.optimize, torch._dynamo, torch._inductor.compile_fx, torch.func\n"
        "torch.func.vmap(torch.sin)(torch.ones(3)); torch.einsum('ij,jk,kl->il', *[torch.ones(2, 2)] * 3)\n"
        "print(differences(thorough=True))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "()"


def test_the_process_is_put_back(tmp_path: Path) -> None:
    before = (os.getcwd(), signal.getsignal(signal.SIGTERM), np.geterr())
    os.chdir(tmp_path)
    umask = os.umask(0)
    os.environ["OMP_DYNAMIC"] = "true"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    warnings.simplefilter("error")
    np.seterr(all="raise")
    assert differences() == ()
    assert set(differences(thorough=True)) == {switch.name for switch in global_state.PROCESS}
    assert differences(thorough=True) == ()
    assert before == (os.getcwd(), signal.getsignal(signal.SIGTERM), np.geterr())
    assert "OMP_DYNAMIC" not in os.environ
    assert os.umask(umask) == umask
    with warnings.catch_warnings(record=True) as said:
        warnings.warn("said, not raised", stacklevel=1)
    assert len(said) == 1


def test_a_folder_that_is_gone_is_left_for_the_one_before(tmp_path: Path) -> None:
    before, gone = os.getcwd(), tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert differences(thorough=True) == ("working folder",)
    assert os.getcwd() == before


def test_filters_that_only_silence_and_variables_that_no_library_computes_by_are_nobodys_fault() -> None:
    warnings.simplefilter("ignore")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.environ["OWN_PLUGINS_FOLDER"] = "somewhere"
    try:
        assert differences(thorough=True) == ()
    finally:
        del os.environ["TORCHINDUCTOR_CACHE_DIR"], os.environ["OWN_PLUGINS_FOLDER"]


def test_what_is_past_mending_is_refused() -> None:
    """A kernel of torch's own that was registered anew; threads of OpenMP that were started while denormal numbers were
    flushed, which they go on with. In a process of its own, as both stay.
    """
    code = (
        "import torch; from kdbench.train.device import set_up; from kdbench.train.global_state import differences\n"
        "from kdbench.errors import UserError\n"
        "set_up('cpu', 1)\n"
        "own = torch.library.Library('aten', 'IMPL')\n"
        "own.impl('relu', lambda x: x, 'CPU')\n"
        "try: differences(thorough=True)\n"
        "except UserError as error: print(error)\n"
        "torch.set_num_threads(2); torch.set_flush_denormal(True); torch.ones(10**6).mul(2)\n"
        "try: set_up('cpu', 2)\n"
        "except UserError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    kernel, threads = said.stdout.splitlines()
    assert "cannot be put back: aten/relu/CPU" in kernel
    assert threads.startswith("Threads of torch flush denormal numbers")


def test_the_places_are_those_that_were_asked_for() -> None:
    places = {place.name for place in originals.PLACES}
    wanted = {"torch", "torch.nn", "torch.nn.functional", "torch.Tensor", "torch.nn.modules.module.Module"}
    wanted |= {"torch.autograd", "torch.linalg", "torch.optim", "numpy"}
    assert wanted <= places


# And for a training.

#: What a plugin may do at its top, where it is imported.
HOSTILE = {
    "float32 in bfloat16": "torch.backends.mkldnn.conv.fp32_precision = 'bf16'\n"
    "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
    "another default": "torch.set_default_dtype(torch.float64)",
    "denormals and modes": "torch.set_flush_denormal(True)\ntorch.no_grad().__enter__()\n"
    "torch.autocast('cpu', torch.bfloat16).__enter__()",
    "another loss": "F.cross_entropy = lambda z, y, **_: (z.logsumexp(1) - z.gather(1, y[:, None])[:, 0]).mean() * 1.5",
    "other layers": "torch.nn.Conv2d.forward = lambda self, x: 2 * self._conv_forward(x, self.weight, self.bias)\n"
    "torch.Tensor.relu = lambda self: self\nF.relu.__code__ = (lambda input, inplace=False: input).__code__",
    "hooks": "torch.nn.modules.module.register_module_forward_hook(lambda module, seen, out: out * 2)",
}


@pytest.mark.parametrize("top", HOSTILE.values(), ids=list(HOSTILE))
def test_a_plugin_that_changes_it_all_when_it_is_loaded_moves_nobody_elses_bits(
    bench: Bench, make_suite: Callable[[str], Suite], top: str
) -> None:
    suite = make_suite(suite_text(["ce"], epochs=1, teacher=""))
    alone = bench.train(bench.trials(suite))
    other = bench.again("other")
    other.folder.mkdir()
    plugin = other.plugin("hostile", top=top)
    beside = other.train(bench.trials(suite), [plugin])
    assert same_bits(alone["ce"], beside["ce"])


def test_what_a_plugin_replaced_when_it_was_loaded_is_said(bench: Bench, make_suite: Callable[[str], Suite]) -> None:
    plugin = bench.plugin("hostile", top=HOSTILE["another loss"] + "\nimport os\nos.chdir('/')")
    bench.train(bench.trials(make_suite(suite_text(["ce"], epochs=1))), [plugin])
    (text,) = {event["text"] for event in bench.events if "plugin" in event.get("text", "")}
    assert text.endswith("which is put back: torch.nn.functional.cross_entropy, working folder")
    assert os.getcwd() == str(bench.folder)
