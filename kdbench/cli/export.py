"""``kdbench export ROW --to FILE``: a trained student as a file for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kdbench.cli.say import say
from kdbench.cli.suite_names import suite_ids
from kdbench.errors import EXIT_OK, UserError

#: The endings of files that can be written.
ENDINGS = (".safetensors", ".onnx", ".pt2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "trial", metavar="ROW", help="the beginning of a key, a row's label, 'LABEL seed N', or a trial's title"
    )
    parser.add_argument(
        "--to", required=True, metavar="FILE", help=f"the file; its ending is one of {', '.join(ENDINGS)}"
    )
    parser.add_argument("--suite", metavar="SUITE", help="the suite of the row, as name@version or as a file")
    parser.add_argument("--pair", metavar="NAME", help="the pair of the row")
    parser.add_argument("--results", default="results", metavar="DIR", help="the results folder (default: results)")


def main(options: argparse.Namespace) -> int:
    from kdbench.cli.results import results_folder
    from kdbench.plugins import load_plugins
    from kdbench.records import Store
    from kdbench.records.find import find, kept_weights_of, title_of

    path = Path(options.to)
    if path.suffix not in ENDINGS:
        raise UserError(f"--to {path}: its ending says what is written; use one of {', '.join(ENDINGS)}.")
    if path.is_dir():
        raise UserError(f"--to {path} is a folder; name a file.")
    load_plugins()
    store = Store(results_folder(options.results))
    suite = suite_ids([options.suite])[0] if options.suite else ""
    record = find(store, options.trial, suite, options.pair or "")
    kept = kept_weights_of(store, record)
    from kdbench.students.export import write
    from kdbench.students.student import read_student

    student = read_student(kept)
    write(student, path)
    score = record["scores"][record["identity"]["protocol"]["selection"]]
    say(f"{path}: {title_of(record)}, top-1 {score['top1']:.2f} on the test images after epoch {score['epoch']}.")
    say(_how_to_use(path.suffix, student))
    return EXIT_OK


def _how_to_use(ending: str, student: Any) -> str:
    about = student.about
    shape = "x".join(map(str, about.image_shape))
    if ending != ".safetensors":
        return f"It reads images [N, {shape.replace('x', ', ')}] in [0, 1], and normalises them itself."
    if about.method and not student.alone:
        return f"It holds what {about.method} deploys, which kdbench.load_student alone puts together."
    mean, std = list(about.mean), list(about.std)
    library, _, name = about.model.partition("/")
    if library == "timm":
        channels = "" if about.image_shape[0] == 3 else f", in_chans={about.image_shape[0]}"
        loads = f"timm.create_model({name!r}, num_classes={about.classes}{channels})"
    elif library == "torchvision":
        loads = f"torchvision.models.get_model({name!r}, num_classes={about.classes})"
    else:
        loads = f"kdbench's {about.model} for {about.classes} classes"
    return f"It loads into {loads}, which wants images of {shape} normalised by mean {mean} and std {std}."
