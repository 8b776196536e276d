"""Where the time of a training step goes, operator by operator: ``python benchmarks/operators.py TEACHER:STUDENT``.

Times are operators' own, on one thread, by the clock on the wall: the machine should do nothing else. The profiler adds
some to each call, so small operators look dearer than they are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from engine import SUITE, Engine
from pairs import PAIRS, Pair
from peer import Peer
from torch.profiler import ProfilerActivity, profile

from kdbench.protocol import PRECISIONS

#: Operators that get a line of their own.
SHOWN = 12


def main() -> None:
    asked = _arguments()
    with TemporaryDirectory() as folder:
        step = _step(PAIRS[asked.pair], Path(folder), asked)
        step()
        print(_table(step, asked.steps))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Where the time of a training step goes, operator by operator.")
    parser.add_argument("pair", choices=PAIRS)
    parser.add_argument("--loop", choices=("kdbench", "peer"), default="kdbench", help="whose training")
    parser.add_argument("--students", type=int, choices=range(1, len(SUITE) + 1), default=1, help="of the suite")
    parser.add_argument("--fold", action="store_true", help="fold the teacher, as the field of the protocol does")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="as the field of the protocol")
    parser.add_argument("--compile", choices=("none", "norms"), default="none", help="as the field of the protocol")
    parser.add_argument("--steps", type=int, default=3, help="how many steps to watch")
    return parser.parse_args()


def _step(pair: Pair, folder: Path, asked: argparse.Namespace) -> Callable[[], None]:
    dataset = pair.dataset(folder)
    engine = Engine(pair, dataset)
    if asked.loop == "peer":
        return Peer(pair, dataset).step
    cohort = engine.cohort(SUITE[: asked.students], asked.fold, asked.compile, asked.precision)
    return partial(engine.step, cohort)


def _table(step: Callable[[], None], steps: int) -> str:
    """A row for each of the operators that take longest, one for all others, one for what is no operator."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        started = time.perf_counter()
        for _ in range(steps):
            step()
        whole = time.perf_counter() - started
    own = sorted(((e.self_cpu_time_total / 1e6, e.count, e.key) for e in seen.key_averages()), reverse=True)
    rest, total = own[SHOWN:], sum(seconds for seconds, _, _ in own)
    rows = [(f"`{name}`", seconds, calls) for seconds, calls, name in own[:SHOWN]]
    rows.append((f"{len(rest)} others", sum(seconds for seconds, _, _ in rest), sum(calls for _, calls, _ in rest)))
    rows.append(("Python", whole - total, 0))
    lines = ["| operator | share of the step | ms | calls |", "| --- | --- | --- | --- |"]
    for name, seconds, calls in rows:
        lines.append(f"| {name} | {seconds / whole:.1%} | {1000 * seconds / steps:.1f} | {calls // steps or ''} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
