"""The flags of every command that trains: on what, and where its data and plugins are."""

from __future__ import annotations

import argparse

from kdbench.cli.durations import seconds
from kdbench.errors import UserError
from kdbench.jobs.worker import run
from kdbench.schedule import BACKENDS, Backend, Choice, find_backend
from kdbench.schedule.slurm import options_of


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend", choices=tuple(BACKENDS), default="local", help="where workers run (default: local, this machine)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda where there is one"
    )
    parser.add_argument(
        "--slots", type=int, metavar="N", help="workers at a time; default: as many as share a GPU, or one a CPU core"
    )
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        help="end a worker that leaves no record within this time, such as 90m or 8h (default: no limit)",
    )
    parser.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="with --backend ray: HOST:PORT of a running cluster, or auto to look for one (default: make one here)",
    )
    parser.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE,...",
        help="with --backend slurm: options of sbatch, such as partition=gpu,time=8:00:00; may be given again",
    )
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="the folder of data sets and weights (default: $KDBENCH_DATA, else data in the cache folder)",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="fetch missing data sets, and weights of known digest, from where they were published",
    )
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="load a plugin file; may be given again"
    )


def check_machine(values: object) -> bool:
    """Whether ``values`` are what these flags can be parsed to, by their names."""
    if not isinstance(values, dict) or values.keys() != set(machine_flags()):
        return False
    words = ("plugin", "slurm")
    lists = all(isinstance(values[n], list) and all(isinstance(v, str) for v in values[n]) for n in words)
    texts = all(values[n] is None or isinstance(values[n], str) for n in ("timeout", "ray_address", "data_root"))
    slots, named = values["slots"], values["backend"] in tuple(BACKENDS) and values["device"] in ("auto", "cpu", "cuda")
    counted = slots is None or (isinstance(slots, int) and not isinstance(slots, bool))
    return lists and texts and counted and named and isinstance(values["download"], bool)


def machine_flags() -> list[str]:
    """The names under which parsed options have these flags."""
    parser = argparse.ArgumentParser()
    add_machine_arguments(parser)
    return list(vars(parser.parse_args([])))


def backend_of(options: argparse.Namespace) -> Backend:
    """The backend that the command line asks for; UserError where it cannot be reached."""
    timeout = None if options.timeout is None else seconds(options.timeout, "--timeout")
    for flag, given, name in (("--ray-address", options.ray_address, "ray"), ("--slurm", options.slurm, "slurm")):
        if given and options.backend != name:
            raise UserError(f"{flag} goes with --backend {name}; add that, or leave it out.")
    return find_backend(
        Choice(
            options.backend,
            options.device,
            options.slots,
            timeout,
            address=options.ray_address,
            slurm=options_of(options.slurm),
            work=run,
        )
    )
