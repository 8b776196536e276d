"""How fast a deployed network answers: beside a reference network, and against the most that the device does.

Everything is wall-clock time of this process, with whatever else the machine does meanwhile. Work that is compared is
timed in turn, so that its changes of mood meet all of it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.measure.cost import flop_counter
from kdbench.models.factory import create
from kdbench.models.outputs import Shape

Work = Callable[[], object]
#: A size, work of that size, and the seconds that it takes at a first look.
Sized = tuple[int, Work, float]

#: Images a forward pass, tried in this order for as long as one takes less than LONG seconds.
BATCHES = (1, 4, 16, 64, 256, 1024)
LONG = 0.05
#: How often each work is timed, fewer where that would take more than LIMIT seconds. The result is the median.
ROUNDS = 5
LIMIT = 1.0
#: Seconds that a timing takes at least, by repeating short work.
SHORTEST = 0.005

#: The reference network, for images [3,32,32], and how many it is shown.
REFERENCE = "resnet8"
REFERENCE_BATCH = 32

#: The device's ceiling is looked for in larger and larger work, until one takes as many seconds.
LARGE = 0.004
TRIES = 5


@dataclass(frozen=True)
class Throughput:
    """Images a second in inference: of a network by batch size, and of the reference network timed in turn with it."""

    by_batch: Mapping[int, float]
    reference: float

    @property
    def best_batch(self) -> int:
        return max(self.by_batch, key=self.by_batch.__getitem__)

    @property
    def best(self) -> float:
        return self.by_batch[self.best_batch]


def throughput(network: nn.Module, image_shape: Shape) -> Throughput:
    """Time ``network`` on random images [C,H,W] where it lies, and leave its mode as it was.

    torch.OutOfMemoryError where there is no room for one image.
    """
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            own = list(_growing(lambda batch: partial(network, _images((batch, *image_shape), device)), BATCHES, LONG))
            reference = list(_growing(partial(_reference, device), (REFERENCE_BATCH,), LONG))
            if not own or not reference:
                raise torch.OutOfMemoryError
            *seconds, shown = _in_turn([*own, *reference])
    finally:
        network.train(training)
    by_batch = {batch: batch / taken for (batch, _, _), taken in zip(own, seconds, strict=True)}
    return Throughput(by_batch, REFERENCE_BATCH / shown)


def ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """The most floating-point operations a second that a matrix product or a 3x3 convolution of ``dtype`` reaches.

    Under the number of threads that torch has now. Measured once a process, then remembered.
    """
    return _ceiling(device, dtype, torch.get_num_threads())


@cache
def _ceiling(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    best = 0.0
    with torch.no_grad():
        for make in (_product, _convolution):
            for _, work, seconds in _growing(partial(make, device, dtype), count(), LARGE):
                fastest = min(seconds, *(_seconds(work) for _ in range(TRIES)))
                best = max(best, _flops(work) / fastest)
    return best


def _product(device: torch.device, dtype: torch.dtype, step: int) -> Work:
    side = 256 << step
    a, b = (torch.rand(side, side, device=device, dtype=dtype, generator=_generator(device)) for _ in range(2))
    return partial(torch.mm, a, b)


def _convolution(device: torch.device, dtype: torch.dtype, step: int) -> Work:
    """64 channels of 32x32 pixels, as in the middle of a network for small images."""
    x = _images((4**step, 64, 32, 32), device).to(dtype)
    weight = torch.rand(64, 64, 3, 3, device=device, dtype=dtype, generator=_generator(device))
    return partial(F.conv2d, x, weight.contiguous(memory_format=torch.channels_last), padding=1)


def _flops(work: Work) -> int:
    with flop_counter() as counter:
        work()
    return int(counter.get_total_flops())


def _reference(device: torch.device, batch: int) -> Work:
    shape, start = (3, 32, 32), torch.Generator().get_state()
    network = create(REFERENCE, classes=100, image_shape=shape, mean=(0.5,) * 3, std=(0.25,) * 3, seed_state=start)
    network.to(device, memory_format=torch.channels_last).eval()
    return partial(network, _images((batch, *shape), device))


def _images(shape: Sequence[int], device: torch.device) -> Tensor:
    """Random images [N,C,H,W] in [0,1]: power and clocks of a GPU depend on what it is given."""
    images = torch.rand(*shape, device=device, generator=_generator(device))
    return images.contiguous(memory_format=torch.channels_last)


def _generator(device: torch.device) -> torch.Generator:
    """Of our own, so that nobody else's random numbers move."""
    return torch.Generator(device).manual_seed(0)


def _growing(make: Callable[[int], Work], sizes: Iterable[int], longest: float) -> Iterator[Sized]:
    """Larger and larger work, up to the first that takes ``longest``, or as far as there is memory.

    A first go of each, untimed, prepares what the others reuse.
    """
    for size in sizes:
        try:
            work = make(size)
            work()
            seconds = _seconds(work)
        except torch.OutOfMemoryError:
            return
        yield size, work, seconds
        if seconds >= longest:
            return


def _in_turn(works: Sequence[Sized]) -> list[float]:
    """Median seconds of each of ``works``, timed one after the other, round after round."""
    end = time.perf_counter() + LIMIT
    rounds: list[list[float]] = []
    while not rounds or (len(rounds) < ROUNDS and time.perf_counter() < end):
        rounds.append([_seconds(work, max(1, round(SHORTEST / seconds))) for _, work, seconds in works])
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def _seconds(work: Work, goes: int = 1) -> float:
    """Seconds of one of ``goes`` goes of ``work``, the device's included."""
    _wait()
    started = time.perf_counter()
    for _ in range(goes):
        work()
    _wait()
    return (time.perf_counter() - started) / goes


def _wait() -> None:
    """For what was launched on a GPU, where this process uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
