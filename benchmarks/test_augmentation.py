"""Batches of CIFAR's size, cropped, flipped and normalised, beside torchvision's transforms in a plain DataLoader."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch
from engine import Engine
from pairs import PAIRS
from peer import pictures
from report import Report
from rounds import Ratio
from torch import Tensor
from torch.utils.data import DataLoader

PAIR = PAIRS["resnet56:resnet20"]


def test_augmentation(report: Report, tmp_path: Path) -> None:
    dataset = PAIR.dataset(tmp_path)
    engine = Engine(PAIR, dataset)
    numbers = iter(range(engine.batches.total_steps))
    loaded = iter(DataLoader(pictures(dataset), PAIR.batch, shuffle=True))
    mean, std = engine.network.mean, engine.network.std

    def ours() -> Tensor:
        return (engine.batches.batch(next(numbers)).x - mean).div_(std)

    def theirs() -> Tensor:
        return next(loaded)[0]

    assert ours().shape == theirs().shape == torch.Size([PAIR.batch, 3, 32, 32])
    seconds = report.seconds({"peer": theirs, "kdbench": ours}, rounds=100)
    ratio = Ratio.of(seconds["peer"], seconds["kdbench"])
    figures = {name: PAIR.batch / statistics.median(times) for name, times in seconds.items()}
    report.add("crop_flip", {**figures, "ratio": ratio.quartiles}, f"{ratio} x the peers' images a second")
