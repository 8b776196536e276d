"""Random numbers from counters: (seed, stream, purpose, epoch, sample), never from shared global state.

Whatever else a process trains, and wherever a training is resumed, a trial draws the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(*words: object) -> int:
    """A 64-bit seed from the words that say what it is for."""
    text = "\x1f".join(str(word) for word in words)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def philox(*words: object) -> np.random.Generator:
    """A numpy generator on Philox, a counter-based bit generator with the same output on every platform."""
    text = "\x1f".join(str(word) for word in words)
    key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key))


@contextmanager
def seeded(*words: object) -> Iterator[None]:
    """Run a block under torch's global generators seeded from ``words``; the state before is put back."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        seed = derive(*words) & 0x7FFF_FFFF_FFFF_FFFF
        torch.default_generator.manual_seed(seed)  # torch.manual_seed looks at every kind of device first
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield
