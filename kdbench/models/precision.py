"""Networks that compute in bfloat16, where the protocol's ``precision`` is ``bf16``.

Convolutions and matrix products read and write bfloat16, by torch's autocast. The convolution that reads the images and
the classifier stay in float32, as they are little work and add much to the error of the logits (docs/precision.md). So
do the weights, which are rounded anew for each pass, the optimiser's state, the statistics of batch normalisation and
whatever a method makes of the outputs.

A CPU without such instructions computes the same by its float32 ones: operands rounded to bfloat16, summed in float32,
the result rounded. That is no faster, but as accurate or inaccurate, so what a protocol costs in accuracy can be tried
anywhere.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from kdbench.errors import UserError
from kdbench.models.network import Network
from kdbench.models.outputs import Outputs


def in_precision(network: Network, precision: str) -> nn.Module:
    """``network`` as the protocol's ``precision`` says, called as it is: images float32 in, Outputs float32 out.

    ``network`` itself computes as ever when it is called by itself. UserError for a device without bfloat16.
    """
    if precision == "float32":
        return network
    device = network.mean.device
    check_computes(precision, device)
    _keep_in_float32(network)
    return _InBfloat16(network, native(device))


def check_computes(precision: str, device: torch.device) -> None:
    """UserError where ``device`` does not compute in ``precision``: no fault of any one trial."""
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError('This GPU has no bfloat16; set precision = "float32" in the protocol.')


def native(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bfloat16."""
    if device.type != "cpu":
        return True
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    # On x86 that is said of any AVX-512, whose older processors convert to float32 for each product.
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not x86 or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class _InBfloat16(nn.Module):
    def __init__(self, network: Network, native: bool) -> None:
        super().__init__()
        self.network, self.native = network, native

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        products: AbstractContextManager[object] = nullcontext() if self.native else _Float32Products()
        # Autocast's cache of rounded weights is shared by all threads, and no weight is read twice in a pass.
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False), products:
            outputs: Outputs = self.network(x, parts)
        return outputs.map(Tensor.float)


class _Float32Conv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class _Float32Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


_IN_FLOAT32: Mapping[type[nn.Module], type[nn.Module]] = {nn.Conv2d: _Float32Conv2d, nn.Linear: _Float32Linear}


def _keep_in_float32(network: Network) -> None:
    """Let the first convolution and the classifier leave autocast.

    Another class, rather than a module around them: names of weights, hooks and copies stay what they are.
    """
    first = next((module for module in network.body.modules() if isinstance(module, nn.Conv2d)), None)
    for module in (first, *network.head.modules()):
        if type(module) in _IN_FLOAT32:
            cast(nn.Module, module).__class__ = _IN_FLOAT32[type(module)]


class _Float32Products(TorchFunctionMode):
    """What instructions for bfloat16 compute, by those for float32. Autograd rounds the gradients likewise."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _PRODUCTS or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            rounded = [_rounded(value) for value in args]
            made: Tensor = func(*rounded, **{name: _rounded(value) for name, value in kwargs.items()})
            return made.bfloat16()


_PRODUCTS = (F.conv2d, F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm)


def _rounded(value: Any) -> Any:
    return value.bfloat16().float() if isinstance(value, Tensor) else value
