"""timm, torchvision and other people's classifiers, read through hooks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.errors import UnknownName, UserError
from kdbench.models.discover import discover
from kdbench.models.factory import create
from kdbench.models.network import Network
from kdbench.models.outputs import PARTS

torch.set_num_threads(1)

ZOO = json.loads((Path(__file__).parent / "goldens" / "model_zoo.json").read_text())["models"]


def network(name: str, side: int = 64, channels: int = 3) -> Network:
    torch.manual_seed(0)
    shape = (channels, side, side)
    return create(name, classes=7, image_shape=shape, mean=(0.4,) * channels, std=(0.25,) * channels).eval()


def wrap(body: nn.Module, shape: tuple[int, int, int] = (3, 16, 16)) -> Network:
    return Network(body, (0.0,) * 3, (1.0,) * 3, discover("mine", body, shape)).eval()


def images(side: int = 64, channels: int = 3) -> Tensor:
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def resnet() -> Network:
    return network("resnet18")


def hooks(net: Network) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


@torch.no_grad()
def test_torchvision_parts_are_what_the_model_computes(resnet: Network) -> None:
    body, out = resnet.body, resnet(images(), PARTS)
    x = body.bn1(body.conv1((images() - 0.4) / 0.25))
    maps = [x.relu()]
    x = body.maxpool(maps[0])
    for layer in (body.layer1, body.layer2, body.layer3, body.layer4):
        x = layer(x)
        maps.append(x)
    for got, expected in zip((out.stem, *out.stages), maps, strict=True):
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(out.pooled, x.mean((2, 3)))
    torch.testing.assert_close(out.pooled_map, x)
    torch.testing.assert_close(out.logits, body.fc(out.pooled))
    last = body.layer4[1]
    before = last.bn2(last.conv2(last.bn1(last.conv1(last_input := body.layer4[0](maps[3]))).relu())) + last_input
    torch.testing.assert_close(out.preacts[3], before)
    assert resnet.stage_norms[3] is last.bn2


@pytest.mark.parametrize("name", [name for name in ZOO if "sha256" not in ZOO[name]])
def test_imagenet_resnets_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        net = create(name, classes=1000, image_shape=(3, 64, 64), mean=(0.0,) * 3, std=(1.0,) * 3)
        assert net.body.state_dict().keys() == getattr(torchvision.models, name)().state_dict().keys()
    assert sum(p.numel() for p in net.parameters()) == ZOO[name]["params"]
    assert len(net.plan.stages) == len(net.stage_norms) == 4


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18", "timm/test_resnet"])
def test_in_place_relu_does_not_spoil_the_preacts(name: str) -> None:
    net = network(name).train()
    for norm in net.stage_norms:
        nn.init.ones_(norm.weight)
    out = net(images(), PARTS)
    assert len(out.preacts) == len(out.stages) == 4
    for preact, stage in zip(out.preacts, out.stages, strict=True):
        assert preact.min() < 0
        assert torch.equal(preact.relu(), stage)
    sum(t.square().mean() for t in (*out.preacts, *out.stages, out.logits)).backward()
    assert all(p.grad is not None for p in net.parameters())


@torch.no_grad()
def test_other_activations_and_linear_ends() -> None:
    out = network("timm/mobilenetv3_small_100")(images(), PARTS)
    assert [t.shape[1:] for t in out.stages] == [(16, 16, 16), (24, 8, 8), (48, 4, 4), (576, 2, 2)]
    assert torch.equal(out.preacts[0], out.stages[0])
    assert torch.equal(F.hardswish(out.preacts[3]), out.stages[3])


def test_hooks_are_set_for_the_parts_asked_and_always_removed(resnet: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    inside = resnet.body.conv1.register_forward_pre_hook(lambda *_: seen.append(hooks(resnet) - 1))
    with torch.no_grad():
        for parts in (frozenset[str](), frozenset({"pooled"}), PARTS):
            resnet(images(), parts)
    inside.remove()
    assert seen == [0, 2, 22]
    assert hooks(resnet) == 0
    with pytest.raises(RuntimeError):
        resnet(images(channels=3)[:, :2], PARTS)
    assert hooks(resnet) == 0


@torch.no_grad()
def test_a_copy_reads_its_own_body(resnet: Network) -> None:
    other = copy.deepcopy(resnet)
    nn.init.zeros_(other.body.fc.weight)
    assert other(images(), PARTS).logits.std(0).max() == 0
    assert other.head is other.body.fc
    assert not torch.equal(other(images(), PARTS).logits, resnet(images(), PARTS).logits)


def test_finding_the_parts_touches_neither_statistics_nor_random_state(resnet: Network) -> None:
    body = copy.deepcopy(resnet.body).train()
    state, random = copy.deepcopy(body.state_dict()), torch.get_rng_state()
    assert discover("resnet18", body, (3, 64, 64)) == resnet.plan
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[key]) for key, value in body.state_dict().items())
    assert body.training


@torch.no_grad()
def test_transformer_tokens_become_maps() -> None:
    net = network("timm/test_vit", side=160)
    spec = net.spec("timm/test_vit", (3, 160, 160))
    assert spec.stem == (64, 10, 10)
    assert set(spec.stages) == {(64, 10, 10)}
    assert net.stage_norms == ()
    blocks = []
    handle = net.body.blocks[-1].register_forward_hook(lambda *args: blocks.append(args[2]))
    out = net(images(160), PARTS)
    handle.remove()
    tokens = blocks[0][:, net.body.num_prefix_tokens :]
    assert torch.equal(out.stages[-1][:, :, 3, 4], tokens[:, 34])
    assert torch.equal(net.head(out.pooled), out.logits)


def test_channel_counts_and_sizes_that_do_not_fit() -> None:
    assert network("timm/test_resnet", channels=1)(images(channels=1)).logits.shape == (2, 7)
    with pytest.raises(UserError, match="3 channels"):
        network("torchvision/resnet18", channels=1)
    with pytest.raises(UserError, match="cannot read images of 3x64x64"):
        network("timm/vit_tiny_patch16_224")


@pytest.mark.parametrize("name", ["timm/resnet19", "torchvision/resnet19"])
def test_unknown_library_models_name_their_neighbours(name: str) -> None:
    with pytest.raises(UnknownName, match="resnet1"):
        network(name)


class Vectors(nn.Sequential):
    """A classifier without any map."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(768, 5), nn.ReLU(), nn.Linear(5, 7))


class Pixels(nn.Module):
    """A convolution as the classifier, and a functional in-place ReLU that no hook sees."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 4, 3), nn.ReLU()
        self.conv, self.classifier = nn.Conv2d(4, 6, 3, 2), nn.Conv2d(6, 7, 1)

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(self.act(self.stem(x))), inplace=True)
        return self.classifier(x.mean((2, 3), keepdim=True)).flatten(1)


def test_a_network_without_maps_says_so() -> None:
    net = wrap(Vectors())
    spec = net.spec("mine", (3, 16, 16))
    assert (spec.stem, spec.stages, spec.preacts, spec.pooled, spec.pooled_map) == ((0, 0, 0), (), (), 5, (0, 0, 0))
    out = net(images(16), frozenset({"pooled", "pooled_map"}))
    assert out.pooled.shape == (2, 5)
    assert out.pooled_map is None
    with pytest.raises(UserError, match="has no preacts"):
        net(images(16), frozenset({"preacts"}))


@torch.no_grad()
def test_a_convolution_may_be_the_classifier_and_later_writes_do_not_show() -> None:
    net = wrap(Pixels())
    out = net(images(16), PARTS)
    torch.testing.assert_close(net.head(out.pooled), out.logits)
    assert torch.equal(out.stages[0], net.body.conv(out.stem))


#: How wide the pooled map is: the last stage, or what a convolution, or batch norm and an in-place ReLU, make of it.
AVERAGED = {
    "timm/test_resnet": 96,
    "timm/test_efficientnet": 256,
    "torchvision/mobilenet_v2": 1280,
    "torchvision/densenet121": 1024,
}


@torch.no_grad()
@pytest.mark.parametrize("name", AVERAGED)
def test_the_pooled_map_of_a_library_model_is_found(name: str) -> None:
    net = network(name)
    out = net(images(), frozenset({"pooled", "pooled_map"}))
    torch.testing.assert_close(out.pooled_map.mean((2, 3)), out.pooled)
    assert net.spec(name, (3, 64, 64)).pooled_map == (AVERAGED[name], 2, 2)


def test_a_class_token_and_a_layer_after_pooling_leave_no_pooled_map() -> None:
    for name, side in (("timm/test_vit", 160), ("timm/mobilenetv3_small_100", 64), ("timm/test_convnext", 64)):
        assert network(name, side).spec(name, (3, side, side)).pooled_map == (0, 0, 0), name


class Pooled(nn.Module):
    """A 4x4 map, one way to pool it, and a classifier."""

    def __init__(self, pool: Callable[[Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.maps, self.pool, self.fc = nn.Sequential(nn.Conv2d(3, 6, 3, 4), *layers), pool, nn.Linear(6, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.maps(x)).flatten(1))


NHWC = torchvision.ops.Permute([0, 2, 3, 1])


@torch.no_grad()
@pytest.mark.parametrize(
    "body",
    [
        Pooled(nn.AdaptiveAvgPool2d(1)),
        Pooled(nn.AvgPool2d(4)),
        Pooled(lambda maps: F.avg_pool2d(maps, 4)),
        Pooled(lambda maps: maps.mean((2, 3))),
        Pooled(lambda maps: maps.mean((-1, -2), keepdim=True), nn.Dropout(0.5)),
        Pooled(lambda maps: F.relu(maps, inplace=True).mean((2, 3))),
        Pooled(lambda maps: maps.mean((1, 2)), NHWC),
    ],
)
def test_an_average_over_all_positions_is_seen_however_it_is_written(body: nn.Module) -> None:
    net = wrap(body)
    for mode in (net.eval(), net.train()):
        out = mode(images(16), frozenset({"pooled", "pooled_map"}))
        assert out.pooled_map.shape == (2, 6, 4, 4)
        torch.testing.assert_close(out.pooled_map.mean((2, 3)), out.pooled)


@pytest.mark.parametrize(
    "pool",
    [
        nn.AdaptiveMaxPool2d(1),
        lambda maps: maps.mean((2, 3)).tanh(),
        lambda maps: maps.mean((2, 3)) + maps.amax((2, 3)),
        lambda maps: maps.mean(3).amax(2),
        lambda maps: maps[:, :, 0, 0],
        lambda maps: F.avg_pool2d(maps, 2, stride=4),
        lambda maps: F.relu(maps).mean((2, 3)),  # an average, but no submodule reads or makes this map
    ],
)
def test_what_is_no_average_of_a_map_is_not_taken_for_one(pool: Callable[[Tensor], Tensor]) -> None:
    assert discover("mine", Pooled(pool), (3, 16, 16)).pooled_map is None


def test_two_classifiers_are_refused() -> None:
    body = Pixels()
    body.get_classifier = lambda: (body.classifier, body.classifier)  # type: ignore[assignment,return-value]
    with pytest.raises(UserError, match="no single classifier"):
        discover("mine", body, (3, 16, 16))


class Patches(nn.Module):
    """Patches of 4 x 4 pixels as maps with the channels last, or as tokens behind one that is none; a classifier."""

    def __init__(self, tokens: bool) -> None:
        super().__init__()
        self.tokens = tokens
        self.embed = nn.Conv2d(3, 96, 4, 4)
        self.first, self.second = nn.Linear(96, 96), nn.Linear(96, 96)
        self.head = nn.Linear(96, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        if self.tokens:
            x = x.flatten(1, 2)
            x = torch.cat([x.mean(1, keepdim=True), x], 1)
        x = self.second(self.first(x))
        return self.head(x.flatten(1, -2).mean(1))


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (32, 64), (64, 32), (12, 20)])
def test_maps_of_images_that_are_not_square_keep_their_axes(tokens: bool, size: tuple[int, int]) -> None:
    body = Patches(tokens)
    plan = discover("patches", body, (3, *size))
    x = torch.randn(2, 3, *size)
    found = plan.read(body, x, frozenset({"stem"})).stem
    assert found is not None
    rows, columns = size[0] // 4, size[1] // 4
    assert found.shape == (2, 96, rows, columns)
    expected = body.second(body.first(body.embed(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    assert torch.allclose(found, expected, atol=1e-5)
