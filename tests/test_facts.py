"""The table that plans go by says what torch counts and builds."""

from __future__ import annotations

import pytest

from kdbench.measure.cost import flops
from kdbench.models import MODELS
from kdbench.models.factory import create
from kdbench.models.facts import FACTS

CLASSES = {224: 1000, 32: 100}


def test_every_built_in_model_is_in_the_table() -> None:
    assert set(FACTS) == set(MODELS.names())


@pytest.mark.parametrize("name", sorted(name for name in FACTS if FACTS[name].mflops < 1000))
def test_table_says_what_torch_says(name: str) -> None:
    spec = MODELS.get(name)
    channels = 1 if spec.family in ("small", "mlp") else 3
    shape = (channels, spec.input, spec.input)
    network = create(
        name, classes=CLASSES.get(spec.input, 10), image_shape=shape, mean=(0.5,) * channels, std=(0.5,) * channels
    )
    made = network.spec(name, shape)
    stages = made.stages
    assert flops(network, shape) / 1e6 == pytest.approx(FACTS[name].mflops, rel=0.01)
    assert FACTS[name].channels == tuple(stage[0] for stage in stages)
    assert FACTS[name].side == stages[-1][1] == made.pooled_map[1]
