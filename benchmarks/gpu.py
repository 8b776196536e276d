"""What minutes on a GPU are for: ``python benchmarks/gpu.py --minutes 9 --data-root DIR --out DIR``.

Proves what kdbench promises, measures how fast it is, and trains with the time that is left. Each stage is a process of
its own with a time limit; what it finds is written at once, so a kill at any time costs what was under way. It runs on
a CPU, too, with ``--tiny`` in a moment, to see that it would. Needs neither a network nor an installed kdbench.

``--pack DIR`` writes the data that has to travel, as far as it fits into ``--mib``.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout is measured, whatever is installed


def main(arguments: list[str] | None = None) -> int:
    asked = _arguments(arguments)
    if asked.pack:
        return _pack(asked)
    end = time.monotonic() + 60 * asked.minutes
    signal.signal(signal.SIGTERM, _interrupt)
    work = Path(tempfile.mkdtemp(prefix="kdbench-gpu-")) if asked.work is None else asked.work.absolute()
    try:
        return _run(asked, work, end)
    except KeyboardInterrupt:
        print(f"Interrupted; what was found is in {asked.out}.")
        return 130
    finally:
        if asked.work is None:
            shutil.rmtree(work, ignore_errors=True)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    from stages import STAGES

    parser = argparse.ArgumentParser(description="Prove, measure and train on one GPU, in the minutes that there are.")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of it")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="where results.json, table.md and records go")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="only these, in their order")
    parser.add_argument("--data", type=Path, help="a folder that --pack has written, or a data root")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    parser.add_argument(
        "--work", type=Path, help="a folder for trainings, which go on from there another time (default: one that goes)"
    )
    parser.add_argument("--tiny", action="store_true", help="the smallest networks and fewest steps, to try the script")
    parser.add_argument("--pack", type=Path, metavar="DIR", help="write the data of --data into this folder, and end")
    parser.add_argument("--mib", type=float, default=60.0, help="what --pack may write in all")
    asked = parser.parse_args(arguments)
    if asked.pack and not asked.data:
        parser.error("--pack needs --data, the data root to pack from")
    return asked


def _pack(asked: argparse.Namespace) -> int:
    from part import pack

    from kdbench.errors import EXIT_USAGE, UserError

    try:
        for line in pack(asked.data, asked.pack, int(asked.mib * 2**20)):
            print(line)
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _run(asked: argparse.Namespace, work: Path, end: float) -> int:
    """0 where every stage finished by the time ``end``."""
    import torch
    from findings import Findings
    from stages import STAGES, Setting

    os.environ["KDBENCH_CACHE"] = str(work / "cache")
    device = asked.device or ("cuda" if _has_gpu() else "cpu")
    for folder in (work, asked.out):
        folder.mkdir(parents=True, exist_ok=True)
    data = None if asked.data is None else asked.data.absolute()
    setting = Setting(device, asked.tiny, data, work, asked.out.absolute())
    setting.log.unlink(missing_ok=True)
    chosen = [name for name in STAGES if name in asked.stages]
    # Once, for all processes; the last is what an optimiser loads with its first step.
    modules = {name: importlib.import_module(f"stages.{name}") for name in chosen}
    importlib.import_module("torch._dynamo")
    gc.collect()
    gc.freeze()  # no collection looks at all that again
    torch.set_num_threads(1)
    said = {name: str(value) for name, value in vars(asked).items() if value is not None}
    findings = Findings(asked.out, {**said, "device": device})
    for place, name in enumerate(chosen):
        weights = [STAGES[other] for other in chosen[place:]]
        _stage(name, modules[name], setting, findings, (end - time.monotonic()) * weights[0] / sum(weights))
    print(f"What was found is in {asked.out / 'table.md'} and {asked.out / 'results.json'}.")
    return int(any(stage.status != "finished" for stage in findings.stages.values()))


def _stage(name: str, module: Any, setting: Any, findings: Any, seconds: float) -> None:
    """Do a stage in so many ``seconds``."""
    from findings import Stage
    from limited import limited

    stage = findings.stages[name] = Stage()
    findings.write()
    began = time.monotonic()
    try:
        work = partial(_do, module, setting, began + seconds)
        ended = limited(work, seconds, setting.log, lambda said: findings.say(name, *said))
        stage.status, stage.detail = ended.status, ended.detail
    except KeyboardInterrupt:
        stage.status = "interrupted"
        raise
    finally:
        stage.seconds = time.monotonic() - began
        findings.write()
    print(f"{name}: {stage.status} after {stage.seconds:.0f} s {stage.detail}".rstrip(), flush=True)


def _do(module: Any, setting: Any, until: float, tell: Any) -> None:
    module.run(setting, lambda name, **figures: tell((name, figures)), until)


def _has_gpu() -> bool:
    """Asked in a way that leaves the GPU alone: processes that use one cannot be forked off one that does."""
    from kdbench.schedule.devices import gpus

    return bool(gpus())


if __name__ == "__main__":
    from kdbench.environment import pin

    pin()
    sys.exit(main())
