"""The order of the batches and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import STEPS
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.data import load, split
from kdbench.errors import UserError
from kdbench.protocol import Protocol
from kdbench.train.batches import Batches

CPU = torch.device("cpu")


def batches(**fields: Any) -> Batches:
    protocol = Protocol(**{"epochs": 3, "batch": 200, "lr": 0.1, "augmentation": "none", "holdout": 97, **fields})
    return Batches(load("digits", Path("nowhere")), protocol, fields.pop("seed", 0), 0, CPU)


def test_an_epoch_shows_every_training_image_once_and_no_held_out_one() -> None:
    made = batches()
    dataset = load("digits", Path("nowhere"))
    train, held = split(dataset.train_labels, 97, 0)
    assert (made.steps_per_epoch, made.total_steps) == (STEPS, 3 * STEPS)
    epochs = []
    for epoch in range(2):
        seen = torch.cat([made.batch(epoch * STEPS + step).index for step in range(STEPS)])
        assert sorted(seen.tolist()) == list(range(1200))
        epochs.append(seen.tolist())
    assert epochs[0] != epochs[1]
    batch = made.batch(5)
    places = train[batch.index]
    assert not set(places.tolist()) & set(held.tolist())
    assert np.array_equal(batch.x.numpy(), dataset.train_images[places].astype(np.float32) / 255)
    assert np.array_equal(batch.y.numpy(), dataset.train_labels[places])


def test_the_last_batch_of_an_epoch_may_be_short() -> None:
    made = batches(batch=128, holdout=0)
    assert made.steps_per_epoch == 11
    assert len(made.batch(10).y) == 1297 - 10 * 128
    assert len(made.batch(11).y) == 128


@settings(max_examples=15)
@given(st.lists(st.integers(0, 3 * STEPS - 1), min_size=1, max_size=6))
def test_a_batch_is_the_same_in_whatever_order_it_is_asked_for(steps: list[int]) -> None:
    made, fresh = batches(augmentation="crop_flip", pad=1), batches(augmentation="crop_flip", pad=1)
    for step in range(2 * STEPS):
        made.batch(step)
    for step in steps:
        one, other = made.batch(step), fresh.batch(step)
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.index, other.index)


def test_an_augmentation_that_needs_files_is_refused() -> None:
    with pytest.raises(UserError, match="augmentation 'resized_crop_flip' is not offered"):
        batches(augmentation="resized_crop_flip")
