"""A frozen network with each batch normalisation folded into the convolution before it: the same function, less work.

w' = w * gamma / sqrt(var + eps),   b' = (b - mean) * gamma / sqrt(var + eps) + beta,

as Jacob et al. fold them (arXiv:1712.05877, section 3.2), by torch's own ``fuse_conv_bn_eval``. Values change by
rounding, so whether a teacher is folded is a field of the protocol.
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdbench.errors import UserError
from kdbench.models.network import Network
from kdbench.models.outputs import PARTS, Outputs, Shape

#: Greatest difference, relative to the largest entry, that rounding may make in any output.
TOLERANCE = 1e-3


def folded(network: Network, name: str, image_shape: Shape) -> Network:
    """A copy of ``network``, in eval mode, with all folded that can be; ``network`` stays as it is.

    What reads what is seen by watching one forward pass on noise. UserError where a part of the outputs then differs
    by more than rounding, which a network that reads its own weights may bring about.
    """
    copied = copy.deepcopy(network).eval()
    seed = torch.Generator().manual_seed(0)
    images = torch.rand(2, *image_shape, generator=seed).to(network.mean.device)
    for conv, norm in _pairs(copied, images):
        fused = fuse_conv_bn_eval(copied.get_submodule(conv), copied.get_submodule(norm))
        _replace(copied, conv, fused.to(memory_format=torch.channels_last))
        _replace(copied, norm, nn.Identity())
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    _check(network, copied, images, name)
    return copied


def _pairs(network: Network, images: Tensor) -> list[tuple[str, str]]:
    """Paths of each convolution whose output nothing reads but one normalisation, and of that."""
    paths = {module: path for path, module in network.named_modules()}
    calls: Counter[nn.Module] = Counter()
    convolved: dict[Node, nn.Module] = {}
    normalised: list[tuple[nn.Module, Node]] = []

    def after_conv(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        convolved[output.grad_fn] = module

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        normalised.append((module, inputs[0].grad_fn))

    handles = [m.register_forward_hook(after_conv) for m in paths if type(m) is nn.Conv2d]
    handles += [m.register_forward_pre_hook(before_norm) for m in paths if type(m) is nn.BatchNorm2d]
    with torch.enable_grad():
        outputs = network(images.requires_grad_(), _parts(network))
    for handle in handles:
        handle.remove()
    readers = _readers(outputs)
    found = [(convolved[node], norm) for norm, node in normalised if node in convolved and readers[node] == 1]
    return [(paths[conv], paths[norm]) for conv, norm in found if calls[conv] == calls[norm] == 1]


def _readers(outputs: Outputs) -> Counter[Node]:
    """How often the result of each operation is read by another one, or is itself a part of ``outputs``."""
    readers: Counter[Node] = Counter()
    waiting = [tensor.grad_fn for tensor in outputs.tensors()]
    while waiting:
        node = waiting.pop()
        if node is not None:
            readers[node] += 1
            if readers[node] == 1:
                waiting += [reader for reader, _ in node.next_functions]
    return readers


def _parts(network: Network) -> frozenset[str]:
    return PARTS if network.plan is None else network.plan.parts


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


@torch.no_grad()
def _check(network: Network, copied: Network, images: Tensor, name: str) -> None:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    parts = _parts(network)
    for one, other in zip(network(images, parts).tensors(), copied(images, parts).tensors(), strict=True):
        if (one - other).abs().max() > TOLERANCE * one.abs().max():
            raise UserError(
                f"model {name!r} cannot be folded, as its outputs would change; set fold = false in the protocol."
            )
    for module, mode in modes.items():
        module.training = mode
