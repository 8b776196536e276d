"""What tasks are cut to: devices, their slots and their memory. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

#: Of a device's memory, what workers may hold together: the rest is for what nobody measures, a GPU's context say.
MEMORY_SHARE = 0.9


@dataclass(frozen=True)
class Device:
    """A place where workers run that share its memory: a GPU, the cores of a machine, or a node of a cluster.

    ``name``: what ``CUDA_VISIBLE_DEVICES`` calls it, empty for a CPU. ``slots``: workers at a time; on a CPU, cores.
    ``memory``: bytes, None where they are not divided up. The others count in a simulation alone: ``speed`` relative
    to that of the plan's estimates, ``price`` of an hour, ``failures`` an hour.
    """

    name: str = ""
    slots: int = 1
    memory: float | None = None
    speed: float = 1.0
    price: float = 0.0
    failures: float = 0.0


@dataclass(frozen=True)
class Fleet:
    """The ``devices`` of a run, all of one ``kind``: cpu or cuda. ``elsewhere``: they are not of this machine."""

    kind: str
    devices: tuple[Device, ...]
    elsewhere: bool = False

    @property
    def slots(self) -> int:
        """Workers at a time, if each fills one slot."""
        return sum(device.slots for device in self.devices)

    @property
    def capacity(self) -> float:
        """Seconds of estimated work that the fleet does in a second; workers that share a GPU take turns."""
        return sum((device.slots if self.kind == "cpu" else 1) * device.speed for device in self.devices)


def cpu(slots: int = 1) -> Fleet:
    """So many cores of one machine."""
    return Fleet("cpu", (Device(slots=slots),))
