"""The table that plans go by says what torch counts and builds."""

from __future__ import annotations

import pytest

from kdbench.measure.cost import flops, parameters
from kdbench.models import MODELS
from kdbench.models.factory import create
from kdbench.models.facts import CLASSES, FACTS
from kdbench.models.network import Network
from kdbench.models.outputs import Shape


def test_every_built_in_model_is_in_the_table() -> None:
    assert set(FACTS) == set(MODELS.names())


def build(name: str) -> tuple[Network, Shape]:
    """The architecture at its native size, and the shape of its images."""
    spec = MODELS.get(name)
    channels = 1 if spec.family in ("small", "mlp", "patches") else 3
    shape = (channels, spec.input, spec.input)
    norm, classes = (0.5,) * channels, CLASSES.get(spec.input, 10)
    return create(name, classes=classes, image_shape=shape, mean=norm, std=norm), shape


@pytest.mark.parametrize("name", sorted(FACTS))
def test_it_has_as_many_parameters_as_the_table_says(name: str) -> None:
    assert parameters(build(name)[0]) == FACTS[name].parameters


@pytest.mark.parametrize("name", sorted(name for name in FACTS if FACTS[name].mflops < 1000))
def test_table_says_what_torch_says(name: str) -> None:
    network, shape = build(name)
    made = network.spec(name, shape)
    stages = made.stages
    assert flops(network, shape) / 1e6 == pytest.approx(FACTS[name].mflops, rel=0.01)
    assert FACTS[name].channels == tuple(stage[0] for stage in stages)
    assert FACTS[name].side == stages[-1][1] == made.pooled_map[1]
