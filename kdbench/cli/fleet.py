"""``kdbench run --dry-run --fleet FILE``: how long a plan would take on machines that one may not have."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from kdbench.cli.durations import duration
from kdbench.cli.say import many, say
from kdbench.errors import UserError, shown
from kdbench.plan.fleet import Device, Fleet
from kdbench.plan.plan import Plan
from kdbench.schedule.simulate import Forecast, simulate, without_failures
from kdbench.suites.table import Table
from kdbench.toml import read_toml

#: Devices that a fleet may have.
MOST_DEVICES = 1000


def read_fleet(path: Path) -> Fleet:
    """The fleet that a TOML file describes; UserError names the field that is wrong.

    ``kind``: cpu or cuda. A ``[[devices]]`` table is so many equal ones (``count``): ``slots``, ``memory`` in GB,
    ``speed`` relative to the plan's estimates, ``price`` of an hour, and ``failures`` an hour.
    """
    table = Table(read_toml(path), str(path))
    kind = table.take("kind", str, "cuda")
    if kind not in ("cpu", "cuda"):
        raise UserError(f"{path}: kind must be cpu or cuda, not {shown(kind)}.")
    listed = table.take("devices", list)
    table.finish()
    devices = [device for number, raw in enumerate(listed) for device in _devices(raw, f"{path}: devices[{number}]")]
    if not 1 <= len(devices) <= MOST_DEVICES:
        raise UserError(f"{path}: a fleet has 1 to {MOST_DEVICES} devices, not {len(devices)}.")
    return Fleet(kind, tuple(devices), elsewhere=True)


def _devices(raw: object, where: str) -> list[Device]:
    table = Table(raw, where)
    count = table.count("count", 1, 1, MOST_DEVICES)
    device = Device(
        name=table.take("name", str, ""),
        slots=table.count("slots", 1, 1, 1024),
        memory=_amount(table, "memory", None, 1e9),
        speed=_amount(table, "speed", 1.0, most=1000.0) or 1.0,
        price=_amount(table, "price", 0.0, least=0.0) or 0.0,
        failures=_amount(table, "failures", 0.0, least=0.0, most=100.0) or 0.0,
    )
    table.finish()
    return [device] * count


def _amount(
    table: Table, name: str, default: Any, unit: float = 1.0, least: float | None = None, most: float = 1e9
) -> float | None:
    """A finite number from a thousandth, or from ``least``, to ``most``, in ``unit``."""
    value = table.take(name, (int, float), default)
    if value is None:
        return None
    low = 0.001 if least is None else least
    if not math.isfinite(value) or not low <= value <= most:
        raise UserError(f"{table.where}: {name} must be a number from {low:g} to {most:g}, not {shown(value)}.")
    return float(value) * unit


def say_forecast(plan: Plan, name: str) -> None:
    """Say how ``plan`` would go on its fleet, which the file ``name`` describes."""
    if not plan.tasks:
        return
    for line in forecast_lines(simulate(plan.tasks, plan.fleet), plan, name):
        say(f"  {line}")


def forecast_lines(found: Forecast, plan: Plan, name: str) -> list[str]:
    """The sentences about a forecast."""
    fleet = plan.fleet
    if found.unfinished:
        return [f"{many(len(found.unfinished), 'task')} did not end on the devices of {name}: they fail too often."]
    over = found.makespan / found.bound - 1 if found.bound else 0.0
    lines = [
        f"On the {many(len(fleet.devices), 'device')} of {name}: about {duration(found.makespan)}, which is "
        f"{100 * over:.1f} % over the {duration(found.bound)} that no schedule undercuts.",
        f"Devices work {100 * found.utilisation:.0f} % of the time, {duration(found.device_seconds)} together"
        f"{f'; the fleet costs {found.cost:,.2f} until the end' if found.cost else ''}.",
    ]
    if found.failures:
        quiet = simulate(plan.tasks, without_failures(fleet)).makespan
        lines.append(
            f"{many(found.failures, 'failure')} are among that; without any it would take about {duration(quiet)}."
        )
    return lines
