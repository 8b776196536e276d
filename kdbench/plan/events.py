"""What a worker says while it works: a JSON object a line, each with ``event``; and how people read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def told(event: Mapping[str, Any]) -> list[str]:
    """What ``event`` says in lines for people; nothing of one that is about how far the work is."""
    what = event["event"]
    if what == "trial":
        top1 = "" if event["top1"] is None else f" top-1 {event['top1']:.2f}"
        detail = f": {event['detail']}" if event["detail"] else ""
        return [f"{event['title']}: {event['status']}{top1}{detail}"]
    if what == "epoch":
        losses = ", ".join(f"{name} {value:.4g}" for name, value in event["losses"].items())
        return [f"{event['title']}: epoch {event['epoch']}: {losses}, top-1 {event['test_top1']:.2f}"]
    if what == "teacher":
        return [f"teacher {event['name']}: top-1 {event['top1']:.2f}", *(f"WARNING: {w}" for w in event["warnings"])]
    return [event["text"]] if what in ("note", "waiting", "refused") else []
