"""Networks compiled as the protocol asks: their normalisation, by kdbench, or all that torch.compile finds in them.

With torch each batch size is compiled by itself, as a size that is met later must not change the code for those before
it, or a resumed training would have other bits. It takes from seconds to minutes, which a record's times leave out.

torch would compile one function for eight kinds of arguments at most, and run it uncompiled for all others. The forward
pass is one function for all networks of a process, so a student's bits would depend on how many had come before it.
"""

from __future__ import annotations

import torch
from torch import nn

from kdbench.errors import UserError
from kdbench.models import norms
from kdbench.models.norms import compile_norms

#: Kinds of arguments, over all networks that a worker ever trains.
MOST_KINDS = 100_000


def compiled(network: nn.Module, mode: str) -> nn.Module:
    """``network`` as the protocol's ``compile`` says; itself for ``none``.

    ``norms``: batch normalisation, sum and ReLU are one operation in training. ``default`` fuses what lies between
    convolutions; ``reduce-overhead`` replays CUDA graphs, too. UserError where there is no compiler on this machine.
    """
    check_compiles(mode, next(network.parameters()).device)
    if mode == "norms":
        compile_norms(network)
    if mode in ("none", "norms"):
        return network
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MOST_KINDS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._functorch.config.donated_buffer = False  # an optimiser may ask for the gradients of one graph twice
    torch._inductor.config.deterministic = True  # nothing is chosen by which of two kernels was faster today
    torch._inductor.config.fallback_random = True  # dropout draws as it does uncompiled, from torch's own generator
    made: nn.Module = torch.compile(network, dynamic=False, mode=None if mode == "default" else mode)
    return made


def check_compiles(mode: str, device: torch.device) -> None:
    """UserError where this machine cannot compile for ``device`` as the protocol says: no fault of any one trial."""
    if mode == "norms":
        norms.check_compiles(device)
    if mode in ("none", "norms") or device.type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise UserError(
            "The protocol compiles its networks (compile), but torch finds no C++ compiler here; "
            'install g++ or clang, or set compile = "none".'
        ) from None
