"""Batch normalisation with the sum and the ReLU that follow it, as one operation where it is compiled (norms.c).

    y = relu(norm(x) + skip)

torch's operators read six maps and write three for that; compiled it is three and one. In eval mode all of it is
torch's, and so are the sums and ReLUs of networks from timm and torchvision, which apply them themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_double, c_int, c_int64, c_void_p
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.errors import UserError
from kdbench.models.kernels import library

#: float32 numbers that norms.c keeps of a channel from the forward to the backward pass, its sums' room included.
FACTS = 6
#: What norms.c reads and writes.
DENSE = (torch.float32, torch.bfloat16)


def normalised(norm: nn.Module, x: Tensor, skip: Tensor | None = None, relu: bool = True) -> Tensor:
    """relu(norm(x) + skip) of maps [N,C,H,W]; without the sum or the ReLU where they are not asked for.

    ``norm`` may be any module whose result is a fresh tensor.
    """
    if isinstance(norm, CompiledNorm | CompiledIdentity):
        made: Tensor = norm(x, skip, relu)
        return made
    return finished(norm(x), skip, relu)


def finished(x: Tensor, skip: Tensor | None, relu: bool) -> Tensor:
    """relu(x + skip), in place: ``x`` is a fresh tensor that nothing else reads."""
    if skip is not None:
        x = x.add_(skip)
    return F.relu(x, inplace=True) if relu else x


class CompiledNorm(nn.BatchNorm2d):
    """BatchNorm2d that trains by compiled code, on channels-last maps; in eval mode it is torch's."""

    def forward(self, x: Tensor, skip: Tensor | None = None, relu: bool = False) -> Tensor:
        readable = x.dtype in DENSE and self.weight.dtype is torch.float32 and x.device.type == "cpu"
        several = x.numel() > x.shape[1]  # one number has no variance, which torch says
        if not (self.training and readable and several):
            return finished(super().forward(x), skip, relu)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        made: Tensor = _Normalised.apply(x, skip, self.weight, self.bias, relu, self)
        return made


class CompiledIdentity(nn.Identity):
    """What folding leaves of a normalisation, with sum and ReLU as one pass where no gradient is asked for."""

    def forward(self, x: Tensor, skip: Tensor | None = None, relu: bool = False) -> Tensor:
        plain = skip is None or (skip.dtype is x.dtype and skip.stride() == x.stride() and skip.shape == x.shape)
        dense = x.dtype in DENSE and x.is_contiguous(memory_format=torch.channels_last)
        if not (plain and dense) or torch.is_grad_enabled() or (skip is None and not relu):
            return finished(x, skip, relu)
        _functions().finish(x.data_ptr(), _is_half(x), _address(skip), relu, x.numel())
        return x


def check_compiles(device: torch.device) -> None:
    """UserError unless there is compiled code for ``device``, which is built if it is not there yet."""
    if device.type != "cpu":
        raise UserError('compile = "norms" is for CPUs; on a GPU set compile = "default", or "none".')
    _functions()


def compile_norms(network: nn.Module) -> None:
    """Let every batch normalisation of ``network`` train by compiled code, and what folding left of one run by it.

    Another class, rather than a module in its place: names of weights, hooks and copies stay what they are. UserError
    where there is no compiler, and for a GPU.
    """
    check_compiles(next(network.parameters()).device)
    for module in network.modules():
        if type(module) is nn.Identity:
            module.__class__ = CompiledIdentity
        if type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats and module.momentum:
            module.__class__ = CompiledNorm


class _Normalised(torch.autograd.Function):
    """Under autocast the result is bfloat16, whatever x is; elsewhere it is as x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, skip: Tensor | None, weight: Tensor, bias: Tensor, relu: bool, norm: CompiledNorm
    ) -> Tensor:
        kind = torch.bfloat16 if torch.is_autocast_enabled("cpu") else x.dtype
        ctx.relu, ctx.skip_kind = relu, None
        if skip is not None:
            ctx.skip_kind, skip = skip.dtype, _laid_out(skip.to(kind))
        x = _laid_out(x)
        y = torch.empty_like(x, dtype=kind)
        rows, channels = _as_matrix(x)
        facts = torch.empty(FACTS * channels)
        _functions().forward(
            *(x.data_ptr(), _is_half(x), _address(skip), y.data_ptr(), _is_half(y), relu, rows, channels),
            *(weight.data_ptr(), bias.data_ptr(), _address(norm.running_mean), _address(norm.running_var)),
            *(norm.momentum, norm.eps, facts.data_ptr()),
        )
        ctx.save_for_backward(x, y if relu else None, weight, facts)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError('compile = "norms" gives no gradients of gradients')
        x, y, weight, facts = ctx.saved_tensors
        dy, dx = _laid_out(dy), torch.empty_like(x)
        # Without a ReLU the sum hands its gradient on as it is.
        dskip = torch.empty_like(dy) if ctx.needs_input_grad[1] and ctx.relu else None
        dweight, dbias = torch.empty_like(weight), torch.empty_like(weight)
        _functions().backward(
            *(x.data_ptr(), _is_half(x), _address(y), dy.data_ptr(), _is_half(dy), ctx.relu),
            *(dx.data_ptr(), _address(dskip), *_as_matrix(x)),
            *(weight.data_ptr(), facts.data_ptr(), dweight.data_ptr(), dbias.data_ptr()),
        )
        if ctx.needs_input_grad[1]:
            dskip = (dy if dskip is None else dskip).to(ctx.skip_kind)
        return dx, dskip, dweight, dbias, None, None


class _Functions(NamedTuple):
    """norm_forward, norm_backward and norm_finish of norms.c."""

    forward: Callable[..., None]
    backward: Callable[..., None]
    finish: Callable[..., None]


@cache
def _functions() -> _Functions:
    matrix, shape, flag = [c_void_p, c_int], [c_int64, c_int64], c_int
    made = _Functions(*(getattr(library(), f"norm_{name}") for name in _Functions._fields))
    made.forward.argtypes = [*matrix, c_void_p, *matrix, flag, *shape, *[c_void_p] * 4, *[c_double] * 2, c_void_p]
    made.backward.argtypes = [*matrix, c_void_p, *matrix, flag, c_void_p, c_void_p, *shape, *[c_void_p] * 4]
    made.finish.argtypes = [*matrix, c_void_p, flag, c_int64]
    for function in made:
        function.restype = None
    return made


def _laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _is_half(x: Tensor) -> bool:
    return x.dtype is torch.bfloat16


def _as_matrix(x: Tensor) -> tuple[int, int]:
    """Rows and channels of a map."""
    n, c, h, w = x.shape
    return n * h * w, c
