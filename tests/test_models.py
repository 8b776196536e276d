"""The built-in architectures: what published weights fit, what a forward pass returns, and what it leaves alone."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdbench.errors import UnknownName, UserError
from kdbench.models import MODELS, get_spec
from kdbench.models.factory import create
from kdbench.models.network import Network
from kdbench.models.outputs import PARTS

torch.set_num_threads(1)

ZOO = json.loads((Path(__file__).parent / "goldens" / "model_zoo.json").read_text())["models"]
LINEAR = {"mobilenetv2_cifar"}
#: Where a convolution follows the last stage, and how wide it makes the map that is pooled.
FURTHER = {"mobilenetv2_cifar": 1280, "shufflenetv2_cifar": 1024}
#: One network of each family and its stages for images of 16 px.
FAMILIES = {
    "resnet8": [(16, 16, 16), (32, 8, 8), (64, 4, 4)],
    "resnet8x4": [(64, 16, 16), (128, 8, 8), (256, 4, 4)],
    "resnet18_cifar": [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)],
    "wrn_16_2": [(32, 16, 16), (64, 8, 8), (128, 4, 4)],
    "vgg8": [(128, 8, 8), (256, 4, 4), (512, 2, 2), (512, 2, 2)],
    "mobilenetv1": [(128, 4, 4), (256, 2, 2), (512, 1, 1), (1024, 1, 1)],
    "mobilenetv2_cifar": [(12, 8, 8), (16, 4, 4), (48, 2, 2), (160, 1, 1)],
    "shufflenetv1_cifar": [(240, 8, 8), (480, 4, 4), (960, 2, 2)],
    "shufflenetv2_cifar": [(116, 8, 8), (232, 4, 4), (464, 2, 2)],
    "tiny_cnn_s": [(4, 16, 16), (4, 8, 8), (8, 4, 4)],
    "mlp_800_800": [(800, 1, 1), (800, 1, 1)],
}
family = pytest.mark.parametrize("name", FAMILIES)


def network(name: str, classes: int = 10, shape: tuple[int, int, int] = (3, 16, 16), mean: float = 0.4) -> Network:
    torch.manual_seed(0)
    return create(name, classes=classes, image_shape=shape, mean=(mean,) * shape[0], std=(0.25,) * shape[0])


def images(count: int = 2, channels: int = 3, side: int = 16) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [name for name in ZOO if "sha256" in ZOO[name]])
def test_published_weights_fit(name: str) -> None:
    golden = ZOO[name]
    body = network(name, classes=golden["classes"]).body
    assert sum(p.numel() for p in body.parameters()) == golden["params"]
    shapes = sorted((key, list(value.shape)) for key, value in body.state_dict().items())
    assert len(shapes) == golden["keys"]
    assert hashlib.sha256(json.dumps(shapes, separators=(",", ":")).encode()).hexdigest() == golden["sha256"]


@family
def test_parts_have_the_documented_shapes(name: str) -> None:
    net = network(name)
    spec = net.spec(name, (3, 16, 16))
    assert list(spec.stages) == list(spec.preacts) == FAMILIES[name]
    assert spec.classes == 10
    assert net.head.in_features == spec.pooled
    out = net.eval()(images(), PARTS)
    assert out.stem.shape == (2, *spec.stem)
    assert [t.shape[1:] for t in out.stages] == FAMILIES[name]
    torch.testing.assert_close(net.head(out.pooled), out.logits)


@family
def test_the_classifier_reads_the_average_of_the_pooled_map(name: str) -> None:
    net = network(name).eval()
    channels, *size = FAMILIES[name][-1]
    spec, out = net.spec(name, (3, 16, 16)), net(images(), PARTS)
    assert spec.pooled_map == (spec.pooled, *size) == (FURTHER.get(name, channels), *size)
    assert torch.equal(out.pooled_map.mean((2, 3)), out.pooled)
    assert name in FURTHER or torch.equal(out.pooled_map, out.stages[-1])
    assert len(out.tensors()) == 4 + 2 * len(out.stages)


@family
def test_only_asked_parts_are_returned_and_logits_never_change(name: str) -> None:
    net = network(name).eval()
    bare = net(images())
    assert (bare.stem, bare.stages, bare.preacts, bare.pooled, bare.pooled_map) == (None, (), (), None, None)
    for part in PARTS:
        out = net(images(), frozenset({part}))
        assert torch.equal(out.logits, bare.logits)
        assert [p for p in PARTS if getattr(out, p) not in (None, ())] == [part]


@family
def test_stage_is_the_relu_of_its_preact(name: str) -> None:
    out = network(name)(images(4), PARTS)
    for preact, stage in zip(out.preacts, out.stages, strict=True):
        assert preact.min() < 0
        assert torch.equal(stage, preact if name in LINEAR else preact.relu())


@family
def test_gradients_flow_through_every_part(name: str) -> None:
    net = network(name)
    out = net(images(4), PARTS)
    loss = out.logits.square().sum() + out.pooled.sum() + out.stem.sum()
    (loss + sum(t.square().mean() for t in (*out.stages, *out.preacts))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    "name", ["resnet8", "resnet50_cifar", "wrn_16_2", "vgg8", "mobilenetv1", "mobilenetv2_cifar", "tiny_cnn_l"]
)
def test_stage_norms_feed_the_preacts(name: str) -> None:
    net = network(name).eval()
    before = net(images(), PARTS).preacts
    assert [norm.num_features for norm in net.stage_norms] == [t.shape[1] for t in before]
    for norm in net.stage_norms:
        nn.init.constant_(norm.bias, 0.5)
    first = net(images(), PARTS).preacts[0] - before[0]
    torch.testing.assert_close(first, torch.full_like(first, 0.5))


def test_channels_last_survives_the_body() -> None:
    for name in ("resnet8", "wrn_16_2", "vgg8", "mobilenetv2_cifar", "shufflenetv1_cifar", "shufflenetv2_cifar"):
        net = network(name).eval().to(memory_format=torch.channels_last)
        out = net(images().to(memory_format=torch.channels_last), PARTS)
        maps = (out.stem, *out.stages, out.pooled_map)
        assert all(t.is_contiguous(memory_format=torch.channels_last) for t in maps), name


def test_spec_leaves_the_network_and_the_random_state_alone() -> None:
    net = network("resnet8")
    net.body.bn1.eval()
    state, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    random = torch.get_rng_state()
    net.spec("resnet8", (3, 16, 16))
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)


def test_each_network_normalises_its_own_input() -> None:
    a, b = network("tiny_cnn_s", mean=0.4).eval(), network("tiny_cnn_s", mean=0.1).eval()
    b.body.load_state_dict(a.body.state_dict(), strict=True)
    x = images()
    assert not torch.allclose(a(x).logits, b(x).logits)
    torch.testing.assert_close(a(x).logits, b(x - 0.3).logits)
    torch.testing.assert_close(a(x).logits, a.body((x - 0.4) / 0.25).logits)
    assert torch.equal(x, images())
    assert all(key.startswith("body.") for key in a.state_dict())


def test_weights_come_from_the_generator_given() -> None:
    one, two = network("tiny_cnn_s"), network("tiny_cnn_s")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    untouched = torch.get_rng_state()
    three = create("tiny_cnn_s", classes=10, image_shape=(3, 8, 8), mean=[0] * 3, std=[1] * 3, seed_state=state)
    assert torch.equal(torch.get_rng_state(), untouched)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), three.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "weight", "std"),
    [
        ("resnet8x4", "layer3.0.conv2.weight", math.sqrt(2 / (9 * 256))),
        ("wrn_40_2", "block3.layer.3.conv1.weight", math.sqrt(2 / (9 * 128))),
        ("vgg8", "block3.0.weight", math.sqrt(2 / (9 * 512))),
        ("vgg8", "classifier.weight", 0.01),
        ("mobilenetv2_cifar", "classifier.0.weight", 0.01),
        ("mobilenetv2_cifar", "blocks.6.0.conv.3.weight", math.sqrt(2 / (9 * 480))),
        ("shufflenetv2_cifar", "layer3.1.conv1.weight", 1 / math.sqrt(3 * 232)),
    ],
)
def test_initial_weights_have_the_published_scale(name: str, weight: str, std: float) -> None:
    net = network(name, classes=100)
    assert net.body.get_parameter(weight).std().item() == pytest.approx(std, rel=0.04)


def test_vgg_pools_images_of_64_px_once_more() -> None:
    assert network("vgg8", shape=(3, 64, 64)).spec("vgg8", (3, 64, 64)).stages[-1] == (512, 4, 4)


def test_small_networks_take_grey_digits_and_the_student_is_tiny() -> None:
    sizes = {}
    for name in ("tiny_cnn_s", "tiny_cnn_l", "mlp_800_800"):
        net = network(name, shape=(1, 8, 8))
        assert net(images(3, 1, 8)).logits.shape == (3, 10)
        sizes[name] = sum(p.numel() for p in net.parameters())
    assert sizes["tiny_cnn_s"] < 1000 < 50 * sizes["tiny_cnn_s"] < sizes["tiny_cnn_l"]


def test_unknown_names_and_wrong_statistics_are_one_sentence() -> None:
    with pytest.raises(UnknownName, match="resnet56"):
        get_spec("resnet57")
    with pytest.raises(UnknownName, match="no model named"):
        get_spec("timmy/resnet18")
    with pytest.raises(UserError, match="1 channels"):
        create("resnet8", classes=10, image_shape=(1, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ValueError, match="unknown parts"):
        network("tiny_cnn_s")(images(), frozenset({"stage"}))


def test_specs_know_their_published_names() -> None:
    assert get_spec("resnet50_cifar").literature == "resnet50"
    assert get_spec("shufflenetv1_cifar").literature == "shufflenetv1"
    assert get_spec("resnet56").literature == "resnet56"
    assert get_spec("timm/deit_tiny_patch16_224").literature == "deit_tiny_patch16_224"
    assert {get_spec(name).input for name in MODELS} == {8, 28, 32, 224}


def test_the_catalogue_needs_no_torch() -> None:
    code = "import sys, kdbench.models as m; m.get_spec('timm/resnet18'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
