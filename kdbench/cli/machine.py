"""The flags of every command that trains: on what, and where its data and plugins are."""

from __future__ import annotations

import argparse


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda where there is one"
    )
    parser.add_argument(
        "--slots", type=int, metavar="N", help="workers at a time; default: one a device, or one a CPU core"
    )
    parser.add_argument(
        "--data-root", metavar="DIR", help="the folder of data sets and weights (default: $KDBENCH_DATA)"
    )
    parser.add_argument("--download", action="store_true", help="fetch a missing data set from its official source")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="load a plugin file; may be given again"
    )


def machine_flags() -> list[str]:
    """The names under which parsed options have these flags."""
    parser = argparse.ArgumentParser()
    add_machine_arguments(parser)
    return list(vars(parser.parse_args([])))
