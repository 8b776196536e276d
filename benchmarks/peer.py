"""The training loop that people fork, to measure kdbench's against: written here, in the form that repositories share.

As in RepDistiller and mdistiller, images are Pillow's and go one by one through torchvision's transforms in the workers
of a DataLoader; networks are float32, NCHW and eager, and hand out every feature map; the teacher runs at every step
under no_grad; the optimiser is SGD as torch builds it; loss and accuracy are read at every step. The networks are
kdbench's, with ReLUs in place wherever the maps allow it, and so no slower than theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray
from pairs import Pair
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from kdbench.data import Dataset
from kdbench.data.files import ImageFiles
from kdbench.models.body import Body
from kdbench.models.factory import create
from kdbench.models.outputs import PARTS
from kdbench.train.conformance import NORM

WORKERS = 2
#: Images in an epoch: so many that none ends, and no worker is started anew, while it is timed.
EPOCH = 1_000_000
TEMPERATURE, CE_WEIGHT, KD_WEIGHT = 4.0, 0.1, 0.9

#: An image after its transforms, and its label.
Sample = tuple[Tensor, int]


class Pictures(torch.utils.data.Dataset[Sample]):
    """Arrays uint8 [N,C,H,W] as Pillow images, again and again."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64], transform: transforms.Compose) -> None:
        self.images, self.labels, self.transform = images.transpose(0, 2, 3, 1), labels, transform

    def __len__(self) -> int:
        return EPOCH

    def __getitem__(self, index: int) -> Sample:
        place = index % len(self.labels)
        return self.transform(Image.fromarray(self.images[place])), int(self.labels[place])


def pictures(dataset: Dataset) -> torch.utils.data.Dataset[Sample]:
    """The training images of ``dataset``, augmented as CIFAR's are or, where they are files, as ImageNet's."""
    images, labels, side = dataset.train_images, dataset.train_labels, dataset.spec.image_shape[-1]
    normalise = transforms.Normalize(NORM.mean, NORM.std)
    after_crop = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalise]
    if not isinstance(images, ImageFiles):
        return Pictures(images, labels, transforms.Compose([transforms.RandomCrop(side, padding=4), *after_crop]))
    crop = transforms.Compose([transforms.RandomResizedCrop(side), *after_crop])
    folder = datasets.ImageFolder(str(images.folder), crop)
    folder.samples *= EPOCH // len(folder.samples)
    return folder


def kd_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Hinton's loss of logits [N,K] as the repositories write it."""
    p, log_q = F.softmax(teacher / TEMPERATURE, 1), F.log_softmax(student / TEMPERATURE, 1)
    soft = F.kl_div(log_q, p, reduction="none").sum(1).mean() * TEMPERATURE**2
    return CE_WEIGHT * F.cross_entropy(student, labels) + KD_WEIGHT * soft


class Peer:
    """One training in progress."""

    def __init__(self, pair: Pair, dataset: Dataset, device: str = "cpu", workers: int = WORKERS) -> None:
        self.device = torch.device(device)
        networks = (_network(name, pair, dataset).to(self.device) for name in (pair.teacher, pair.student))
        self.teacher, self.student = networks
        self.teacher.eval()
        self.optimiser = torch.optim.SGD(self.student.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        pinned = self.device.type == "cuda"
        loader = DataLoader(pictures(dataset), pair.batch, shuffle=True, num_workers=workers, pin_memory=pinned)
        self.batches: Iterator[list[Tensor]] = iter(loader)
        self.sums = dict.fromkeys(("loss", "top1", "top5"), 0.0)

    def keep(self, count: int) -> None:
        """Go round the next ``count`` batches from here on: the loop without its loader."""
        self.batches = cycle([next(self.batches) for _ in range(count)])

    def step(self) -> None:
        images, labels = (part.to(self.device, non_blocking=True) for part in next(self.batches))
        self.optimiser.zero_grad()
        logits = _logits(self.student, images)
        with torch.no_grad():
            taught = _logits(self.teacher, images)
        loss = kd_loss(logits, taught, labels)
        loss.backward()
        self.optimiser.step()
        self._read(loss, logits, labels)

    def _read(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        right = logits.topk(5, 1).indices == labels[:, None]
        for name, value in (("loss", loss), ("top1", right[:, :1].sum()), ("top5", right.sum())):
            self.sums[name] += value.item()


def _network(name: str, pair: Pair, dataset: Dataset) -> nn.Module:
    """Normalised images to logits, or to all that a body can hand out."""
    network = create(name, classes=pair.classes, image_shape=dataset.spec.image_shape, mean=NORM.mean, std=NORM.std)
    return network.body


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    return network(images, PARTS).logits if isinstance(network, Body) else network(images)
