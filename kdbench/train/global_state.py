"""What torch and the process share among all students of a worker, and numbers depend on.

A plugin may change any of it, when it is imported or in a step. So a worker sets all of torch's switches, whatever
state it finds, and looks at them again after other people's code: what is otherwise by then is named and put back.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as _modules
from torch.optim import optimizer as _optimisers

from kdbench.environment import concerns_numbers
from kdbench.errors import UserError
from kdbench.train import originals

_C = torch._C


class PastMending(UserError):
    """What a plugin changed cannot be put back, so this process can compute no number that may be trusted."""


@dataclass(frozen=True)
class Switch:
    """One thing that numbers depend on: its name, how it is read and set, and what it is to be."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    wanted: Any = None


def establish(device: torch.device, threads: int) -> None:
    """Set every switch, whatever state it is in, for a training on ``device``.

    What the process has besides is remembered as it is now. UserError where that is past mending.
    """
    global _established
    _established = (*SWITCHES, *_chosen(device, threads))
    for switch in _established:
        switch.write(switch.wanted)
    if threads > 1 and device.type == "cpu" and not _threads_keep_denormals(threads):
        raise UserError(
            "Threads of torch flush denormal numbers to zero, which moves results, and cannot be told otherwise any "
            "more; remove torch.set_flush_denormal(True) from the plugin that calls it."
        )
    remember()


def remember() -> None:
    """Take what the process has besides torch's switches for what it is to be: called before plugins are loaded."""
    global _remembered
    _remembered = tuple(replace(switch, wanted=switch.read()) for switch in PROCESS)


def forget() -> None:
    """Hold nobody to what was established: for tests, which train in one process and want to leave it as it was."""
    global _established, _remembered
    _established = _remembered = ()


def differences(*, thorough: bool = False) -> tuple[str, ...]:
    """What is otherwise than established, by name, in this thread; it is put back. Empty where all is as it was.

    Takes microseconds, and belongs outside of ``no_grad`` and its like. ``thorough`` takes some milliseconds, belongs
    into the main thread, and looks at what else there is: folder, environment and signals of the process, and whether
    functions of torch, numpy and Python are still the ones that they were when kdbench was imported. PastMending where
    something cannot be put back, as no number can be trusted from there on.
    """
    mended, lost = originals.put_back() if thorough else ((), ())  # first, as all else is done by these functions
    found = _changed((*_established, *_remembered) if thorough else _established)
    for switch in found:
        switch.write(switch.wanted)
    stuck = (*lost, *(switch.name for switch in _changed(found)))
    if stuck:
        raise PastMending(_PAST_MENDING.format(", ".join(stuck)))
    return (*mended, *(switch.name for switch in found))


def left_alone(*, thorough: bool = False) -> None:
    """ValueError, whose text ends up on a record, where the code that has just run changed what others share."""
    if changed := differences(thorough=thorough):
        raise ValueError(
            f"it changed {', '.join(changed)}, which all trials of a worker share; let it leave global state alone"
        )


_PAST_MENDING = (
    "A plugin changed what all trials of a worker share and what cannot be put back: {}; let it leave torch's and "
    "Python's global state alone, or run its methods by themselves."
)

_established: tuple[Switch, ...] = ()
_remembered: tuple[Switch, ...] = ()


def _changed(switches: Iterable[Switch]) -> list[Switch]:
    return [switch for switch in switches if switch.read() != switch.wanted]


def _flag(name: str, wanted: Any) -> Switch | None:
    """A switch that torch keeps under ``name``; None where this torch has none.

    Its value is None where torch refuses to say: newer and older words for the same were used, and contradict one
    another.
    """
    read, write = getattr(_C, f"_get_{name}", None), getattr(_C, f"_set_{name}", None)
    if read is None or write is None:
        return None
    if isinstance(wanted, tuple) and not isinstance(read(), tuple):  # before torch had two of it
        wanted = wanted[0]

    def guarded() -> Any:
        try:
            return read()
        except RuntimeError:
            return None

    return Switch(name, guarded, lambda value: write(*_arguments(value)), wanted)


def _arguments(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _float32(backend: str, operation: str) -> Switch:
    """How exact float32 is to be in ``operation`` of ``backend``; it is switch and flag at once, in several places."""
    return Switch(
        f"fp32_precision of {backend} {operation}",
        lambda: _C._get_fp32_precision_getter(backend, operation),
        lambda value: _C._set_fp32_precision_setter(backend, operation, value),
        "ieee",
    )


def _autocast(device: str) -> tuple[Switch, ...]:
    def off(value: bool) -> None:
        torch.set_autocast_enabled(device, value)
        torch.clear_autocast_cache()

    dtype = torch.bfloat16 if device == "cpu" else torch.float16
    return (
        Switch(f"autocast of {device}", lambda: torch.is_autocast_enabled(device), off, False),
        Switch(
            f"autocast dtype of {device}",
            lambda: torch.get_autocast_dtype(device),
            lambda value: torch.set_autocast_dtype(device, value),
            dtype,
        ),
    )


def _leave_inference_mode(value: bool) -> None:
    """Inference mode ends where it began; who never ended his is put into a mode of the other kind within it."""
    if torch.is_inference_mode_enabled() != value:
        guard = _C._InferenceMode(value)
        guard.__enter__()
        _guards.append(guard)  # its end would be the end of this mode


_guards: list[Any] = []


_DEVICES = "torch.utils._device"


def _leave_function_modes(depth: int) -> None:
    """Leave every mode that sees torch's functions, the one of a default device with them."""
    while _C._len_torch_function_stack() > depth:
        _C._pop_torch_function_stack()
    torch._GLOBAL_DEVICE_CONTEXT.device_context = None
    if _DEVICES in sys.modules:  # loaded with the first default device
        sys.modules[_DEVICES].CURRENT_DEVICE = None  # type: ignore[attr-defined]


def _leave_dispatch_modes(depth: int) -> None:
    while (last := _C._len_torch_dispatch_stack()) > depth:
        mode = _C._get_dispatch_stack_at(last - 1)
        _C._pop_torch_dispatch_stack(getattr(mode, "_mode_key", None))  # torch's own modes have places of their own


def _leave_saved_tensor_hooks(_: None) -> None:
    while _C._autograd._top_saved_tensors_default_hooks(True) is not None:
        _C._autograd._pop_saved_tensors_default_hooks()


def _clear_hooks(_: bool) -> None:
    for hooks in HOOKS:
        hooks.clear()
    _modules._global_is_full_backward_hook = None


#: Hooks of every module and of every optimiser.
HOOKS: tuple[dict[Any, Any], ...] = (
    _modules._global_buffer_registration_hooks,
    _modules._global_module_registration_hooks,
    _modules._global_parameter_registration_hooks,
    _modules._global_backward_pre_hooks,
    _modules._global_backward_hooks,
    _modules._global_forward_pre_hooks,
    _modules._global_forward_hooks,
    _modules._global_forward_hooks_always_called,
    _modules._global_forward_hooks_with_kwargs,
    _optimisers._global_optimizer_pre_hooks,
    _optimisers._global_optimizer_post_hooks,
)
_NO_HOOKS: tuple[dict[Any, Any], ...] = tuple({} for _ in HOOKS)

#: The smallest number that is not denormal, and the distance from 1 to the next one.
_TINY, _ULP = sys.float_info.min, sys.float_info.epsilon
_libm = ctypes.CDLL(ctypes.util.find_library("m"))
_TO_NEAREST = 0


def _computes_as_ieee() -> bool:
    """Whether this thread keeps denormal numbers and rounds to nearest, by trying: torch has no word for it."""
    half = _TINY * 0.5
    return half * 2.0 == _TINY and 1.0 + _ULP * 0.75 > 1.0 and 1.0 + _ULP * 0.25 == 1.0


def _compute_as_ieee(_: bool) -> None:
    torch.set_flush_denormal(False)
    _libm.fesetround(_TO_NEAREST)


def _threads_keep_denormals(threads: int) -> bool:
    """Whether all threads of an operation do; torch gives each of them at least 32,768 numbers."""
    tiny = torch.full((threads * 2**16,), float(np.finfo(np.float32).tiny), dtype=torch.float32, device="cpu")
    return bool(tiny.mul(0.5).gt(0).all())


_einsum = torch.backends.opt_einsum.m
_attention = torch.backends.mha


def _layout_of_gradients() -> Switch | None:
    read = getattr(_C, "_is_grad_layout_enforcement_enabled", None)
    return read and Switch("layout of gradients", read, _C._set_grad_layout_enforcement_enabled, read())


#: What is the same for every training, and takes nanoseconds to read. Those of a thread come last. None stands for one
#: that this torch does not have.
_EVERY: tuple[Switch | None, ...] = (
    Switch("default dtype", torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    *(
        _float32(backend, operation)
        for backend, operations in (
            ("generic", ("all",)),
            ("cuda", ("all", "matmul", "conv", "rnn")),
            ("mkldnn", ("all", "matmul", "conv", "rnn")),
        )
        for operation in operations
    ),
    # The older words for the same; torch wants them to agree with the newer ones.
    _flag("float32_matmul_precision", "highest"),
    _flag("cublas_allow_tf32", False),
    _flag("cudnn_allow_tf32", False),
    _flag("cublas_allow_fp16_reduced_precision_reduction", (True, True)),
    _flag("cublas_allow_bf16_reduced_precision_reduction", (True, True)),
    _flag("cublas_allow_fp16_accumulation", False),
    _flag("cublaslt_prefer_grouped_gemm", False),
    _flag("blas_preferred_backend", _C._BlasBackend.Cublas),
    _flag("linalg_preferred_backend", _C._LinalgBackend.Default),
    _flag("cpu_allow_fp16_reduced_precision_reduction", False),
    _flag("cudnn_enabled", True),
    _flag("cudnn_benchmark", False),
    _flag("cudnn_deterministic", False),  # deterministic algorithms ask for it anyway
    _flag("cudnn_depthwise_kernel", "auto"),
    _flag("mkldnn_enabled", True),
    _flag("mkldnn_deterministic", False),
    _flag("nnpack_enabled", True),
    _flag("miopen_immediate", False),
    Switch("flash_sdp_enabled", _C._get_flash_sdp_enabled, _C._set_sdp_use_flash, True),
    Switch("mem_efficient_sdp_enabled", _C._get_mem_efficient_sdp_enabled, _C._set_sdp_use_mem_efficient, True),
    Switch("math_sdp_enabled", _C._get_math_sdp_enabled, _C._set_sdp_use_math, True),
    Switch("cudnn_sdp_enabled", _C._get_cudnn_sdp_enabled, _C._set_sdp_use_cudnn, True),
    Switch("overrideable_sdp_enabled", _C._get_overrideable_sdp_enabled, _C._set_sdp_use_overrideable, True),
    _flag("math_sdp_allow_fp16_bf16_reduction", False),
    Switch("sdp_priority_order", _C._get_sdp_priority_order, _C._set_sdp_priority_order, _C._get_sdp_priority_order()),
    Switch("mha fastpath", lambda: _attention._is_fastpath_enabled, _attention.set_fastpath_enabled, True),
    # In the order of its operands, whether opt_einsum is installed or not.
    Switch("opt_einsum", _einsum._get_enabled, _einsum._set_enabled, False),
    # Filling fresh memory with NaN finds bugs, not numbers, and costs time in every step.
    _flag("deterministic_fill_uninitialized_memory", False),
    Switch("anomaly mode", torch.is_anomaly_enabled, torch.set_anomaly_enabled, False),
    Switch(
        "invariants of sparse tensors",
        _C._check_sparse_tensor_invariants,
        _C._set_check_sparse_tensor_invariants,
        False,
    ),
    Switch("global hooks of modules and optimisers", lambda: HOOKS == _NO_HOOKS, _clear_hooks, True),
    Switch("rounding and denormal numbers", _computes_as_ieee, _compute_as_ieee, True),
    Switch("function modes and default device", _C._len_torch_function_stack, _leave_function_modes, 0),
    Switch("dispatch modes", _C._len_torch_dispatch_stack, _leave_dispatch_modes, 0),
    Switch(
        "torch functions", _C._get_torch_function_state, _C._set_torch_function_state, _C._TorchFunctionState.ENABLED
    ),
    Switch(
        "hooks of saved tensors",
        lambda: _C._autograd._top_saved_tensors_default_hooks(True),
        _leave_saved_tensor_hooks,
    ),
    Switch("inference mode", torch.is_inference_mode_enabled, _leave_inference_mode, False),
    Switch("grad mode", torch.is_grad_enabled, _C._set_grad_enabled, True),
    Switch("forward-mode gradients", _C._is_fwd_grad_enabled, _C._set_fwd_grad_enabled, True),
    Switch("threads of the backward pass", _C._is_multithreading_enabled, _C._set_multithreading_enabled, True),
    Switch("replay of views", _C._is_view_replay_enabled, _C._set_view_replay_enabled, False),
    _layout_of_gradients(),
    *_autocast("cpu"),
    *_autocast("cuda"),
    Switch("autocast cache", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled, True),
)
SWITCHES: tuple[Switch, ...] = tuple(switch for switch in _EVERY if switch is not None)


def _chosen(device: torch.device, threads: int) -> tuple[Switch, ...]:
    """What the device and the protocol decide."""
    cuda = device.type == "cuda"
    # Not use_deterministic_algorithms, which loads the compiler; kdbench.train.compiling tells that itself.
    chosen = (
        Switch(
            "deterministic algorithms",
            torch.get_deterministic_debug_mode,
            torch.set_deterministic_debug_mode,
            1 if cuda else 2,
        ),
        Switch("number of threads", torch.get_num_threads, torch.set_num_threads, threads),
    )
    if not cuda:
        return chosen
    index = device.index or 0
    return (
        *chosen,
        Switch("current GPU", torch.cuda.current_device, torch.cuda.set_device, index),
        Switch("current stream", torch.cuda.current_stream, torch.cuda.set_stream, torch.cuda.default_stream(index)),
    )


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def _umask() -> int:
    """There is no way to ask; for that moment new files are the owner's alone."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if concerns_numbers(name)}


def _set_environment(wanted: dict[str, str]) -> None:
    for name in _environment().keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _set_handlers(wanted: dict[int, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in wanted.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _raising() -> list[Any]:
    """The filters that make an exception of a warning; libraries add others as they are imported, which say less."""
    return [entry for entry in warnings.filters if entry[0] == "error"]


def _set_raising(wanted: list[Any]) -> None:
    others = [entry for entry in warnings.filters if entry[0] != "error"]
    warnings.filters[:] = [*wanted, *others]  # type: ignore[index]


#: What the process has besides; it is to be what it was before other people's code ran.
PROCESS: tuple[Switch, ...] = (
    Switch("working folder", _folder, os.chdir),
    Switch("umask", _umask, os.umask),
    Switch("environment", _environment, _set_environment),
    Switch("signal handlers", _handlers, _set_handlers),
    Switch("warnings that raise", _raising, _set_raising),
    Switch("floating-point errors of numpy", np.geterr, lambda wanted: np.seterr(**wanted)),
)
