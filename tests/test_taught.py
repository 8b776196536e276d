"""How a teacher is asked, and in which layout it and its students see a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdbench.models.outputs import Outputs
from kdbench.protocol import Protocol
from kdbench.train.batches import Batch, Batches
from kdbench.train.conformance import make_bench, random_images
from kdbench.train.taught import teach


class Watched(nn.Module):
    """Notes how it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, bool]] = []
        self.last: Tensor | None = None

    def forward(self, x: Tensor, parts: frozenset[str]) -> Outputs:
        self.seen.append((torch.is_inference_mode_enabled(), self.training))
        self.last = x.mean((2, 3))
        return Outputs(self.last)


def test_it_runs_in_inference_and_eval_mode_and_what_it_says_is_anyones_to_use() -> None:
    teacher, images = Watched().train(), torch.rand(2, 3, 4, 4)
    y = torch.zeros(2, dtype=torch.int64)
    taught = teach(teacher, Batch(images, y, y, {"strong": 1 - images}), frozenset(), ["strong"])
    assert teacher.seen == [(True, False)] * 2
    for outputs, x in ((taught.outputs, images), (taught.views["strong"], 1 - images)):
        assert torch.equal(outputs.logits, x.mean((2, 3)))
        assert not outputs.logits.is_inference()
        (outputs.logits * torch.ones(3, requires_grad=True)).sum().backward()
    assert teacher.last is not None
    assert teacher.last.data_ptr() != taught.views["strong"].logits.data_ptr(), "a CUDA graph would write into it again"


def test_images_and_networks_are_channels_last() -> None:
    dataset = random_images(64, 10)
    device = torch.device("cpu")
    protocol = Protocol(epochs=1, batch=16, lr=0.1, augmentation="crop_flip")
    batch = Batches(dataset, protocol, 0, 0, device).batch(0, ["strong"])
    for x in (batch.x, batch.views["strong"]):
        assert x.shape == (16, *dataset.spec.image_shape)
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert not x.is_contiguous()
    student = make_bench("kd").member().network
    wide = [p for p in student.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    assert wide
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in wide)
