"""What a network costs: parameters, FLOPs, memory."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode

from kdbench.models.build import AS_NAMED, Build
from kdbench.models.factory import create
from kdbench.models.outputs import Shape


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def flop_counter() -> FlopCounterMode:
    """Torch's own counter, which would load torch's compiler, for about as long as torch takes, to be left alone."""
    counting = _FlopCounterMode.__torch_dispatch__
    if hasattr(counting, "__wrapped__"):
        _FlopCounterMode.__torch_dispatch__ = counting.__wrapped__
    return FlopCounterMode(display=False)


def flops(network: nn.Module, image_shape: Shape) -> int:
    """Floating-point operations of one image's forward pass, a multiply-add counted as two (torch's own counter)."""
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    with torch.no_grad(), flop_counter() as counter:
        network(torch.zeros(1, *image_shape, device=device))
    network.train(training)
    return int(counter.get_total_flops())


def counted(model: str, image_shape: Shape, classes: int, build: Build = AS_NAMED) -> tuple[int, int] | None:
    """``flops`` and ``parameters`` of the network ``model``, built where nothing is computed.

    None where it cannot be for such images.
    """
    norm = (0.5,) * image_shape[0]
    start = torch.Generator("cpu").get_state()
    try:
        with torch.device("meta"):
            network = create(
                model, classes=classes, image_shape=image_shape, mean=norm, std=norm, seed_state=start, build=build
            )
            return flops(network, image_shape), parameters(network)
    except Exception:  # other people's code, of which its trials will tell
        return None


def needs_company(model: str, image_shape: Shape, classes: int, build: Build = AS_NAMED) -> bool:
    """Whether ``model`` cannot be trained on one image, as a batch normalisation sees a single value of a channel."""
    norm = (0.5,) * image_shape[0]
    start = torch.Generator("cpu").get_state()
    try:
        with torch.device("meta"):
            network = create(
                model, classes=classes, image_shape=image_shape, mean=norm, std=norm, seed_state=start, build=build
            )
            network.train()(torch.zeros(1, *image_shape))
    except ValueError as error:
        return "more than 1 value per channel" in str(error)
    except Exception:  # other people's code, of which its trials will tell
        return False
    return False


def forget_peak(device: torch.device) -> None:
    """Let ``peak_memory`` speak of what comes from here on, as far as the system can: on cuda and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # what glibc has kept of freed memory (kdbench.train.device) is nobody's
            trim(0)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # "man 5 proc": resets the peak


def held_memory(device: torch.device) -> int:
    """Peak bytes that others could not have: what torch's allocator took on cuda, used or not; else ``peak_memory``."""
    return int(torch.cuda.max_memory_reserved(device)) if device.type == "cuda" else peak_memory(device)


def peak_memory(device: torch.device) -> int:
    """Peak bytes: of the device's allocator on cuda, of this process's resident memory on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
