"""Folding batch normalisation into convolutions: the same function of every part, and who cannot be folded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from bench import Bench, suite_text
from torch import nn

from kdbench.errors import UserError
from kdbench.models.discover import discover
from kdbench.models.factory import create
from kdbench.models.folding import folded
from kdbench.models.network import Network
from kdbench.models.outputs import PARTS
from kdbench.suites import Suite

torch.set_num_threads(1)
SHAPE = (3, 32, 32)


def _network(name: str) -> Network:
    torch.manual_seed(0)
    network = create(name, classes=10, image_shape=SHAPE, mean=(0.5,) * 3, std=(0.25,) * 3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics and weights of a trained network, not 0 and 1
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return network


def _norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [("resnet8", 0), ("vgg8", 0), ("mobilenetv2_cifar", 0), ("shufflenetv2_cifar", 0), ("timm/resnet18", 0)],
)
def test_every_part_is_the_same_function(name: str, left: int) -> None:
    network = _network(name)
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    small = folded(network, name, SHAPE)
    assert _norms(network) > _norms(small) == left
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in small.parameters())
    x = torch.rand(3, *SHAPE)
    for one, other in zip(network.eval()(x, PARTS).tensors(), small(x, PARTS).tensors(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_normalisation_before_a_convolution_stays() -> None:
    network = _network("wrn_16_1")
    small = folded(network, "wrn_16_1", SHAPE)
    assert 0 < _norms(small) < _norms(network)


class _Twice(nn.Module):
    """Reads one convolution's output as it is and normalised, another's only normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1), nn.BatchNorm2d(3), nn.ReLU())
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.stem(x))
        return self.fc(torch.cat([x, self.bn(x)], 1).mean((2, 3)))


class _Reads(_Twice):
    """Reads the weights of a normalisation itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = 1 if isinstance(self.stem[1], nn.Identity) else 2
        return scale * super().forward(x)


def _wrapped(body: nn.Module) -> Network:
    nn.init.normal_(body.bn.running_mean)
    nn.init.normal_(body.stem[1].running_mean)
    return Network(body.eval(), (0.5,) * 3, (0.25,) * 3, discover("own", body, SHAPE))


def test_an_output_that_something_else_reads_is_left_alone() -> None:
    network = _wrapped(_Twice())
    small = folded(network, "own", SHAPE)
    assert type(small.body.bn) is nn.BatchNorm2d
    assert type(small.body.stem[1]) is nn.Identity


def test_a_network_that_would_change_is_refused() -> None:
    with pytest.raises(UserError, match=r"model 'own' cannot be folded, .* set fold = false"):
        folded(_wrapped(_Reads()), "own", SHAPE)


def test_a_row_of_a_suite_trains_under_a_folded_teacher(bench: Bench, make_suite: Callable[[str], Suite]) -> None:
    rows = ["kd", {"name": "kd", "label": "kd-fold", "protocol": {"fold": True}}]
    suite = make_suite(suite_text(rows))
    records = bench.train(bench.trials(suite))
    plain, small = records["kd"], records["kd-fold"]
    assert plain["status"] == small["status"] == "finished"
    assert plain["key"] != small["key"]
    assert "fold" not in plain["identity"]["protocol"]
    one, other = (record["curve"][0]["losses"]["kd"] for record in (plain, small))
    assert one == pytest.approx(other, rel=1e-3), "rounding is all that may differ"
    assert one != other
