"""``kdbench new-suite``: the file of a suite on a folder of pictures, by flags or by a few questions."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.cli.say import many, say
from kdbench.errors import EXIT_OK, CheckpointError, UserError
from kdbench.methods import METHODS
from kdbench.models import get_spec
from kdbench.suites import Suite
from kdbench.suites.pictures import name_of
from kdbench.suites.start import NEW

#: Rows that a suite has where nobody names some: the student alone, logits, relations of logits, maps.
METHODS_ASKED = "ce,kd,dkd,fitnet"
#: A training from scratch of some thousand pictures; whoever has more of them, or less time, says so.
EPOCHS, BATCH, RATE, SEEDS = 60, 64, 0.05, 3
#: A teacher that has learnt before is fine-tuned for one in so many of the epochs, and at so much less of the rate.
FINE_EPOCHS, FINE_RATE = 4, 5
#: The seed of a teacher that is trained here, away from those of students.
TEACHER_SEED = 100


class Input(NamedTuple):
    """How an architecture's published weights see a picture, as its library has it."""

    size: int
    crop: float = 0.875
    resize: str = "short"
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", metavar="FOLDER", help="pictures, a folder for each class, or train and val or test with those"
    )
    parser.add_argument(
        "--teacher",
        metavar="MODEL[=FILE]",
        help="the teacher's architecture, and its weights; without weights it is trained",
    )
    parser.add_argument(
        "--student", action="append", default=[], metavar="MODEL", help="a student's architecture; may be given again"
    )
    parser.add_argument("--methods", metavar="A,B,...", help=f"the rows (default: {METHODS_ASKED})")
    parser.add_argument("--name", help="the suite's name (default: that of the folder of pictures)")
    parser.add_argument("--size", type=int, metavar="N", help="the side of pictures (default: the teacher's)")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3, help="1 for grey pictures (default: 3)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help=f"default: {EPOCHS}")
    parser.add_argument("--batch", type=int, default=BATCH, metavar="N", help=f"images a step (default: {BATCH})")
    parser.add_argument(
        "--lr", type=float, default=RATE, metavar="RATE", help=f"the highest learning rate (default: {RATE})"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"trials of a row (default: {SEEDS})")
    parser.add_argument("--out", metavar="FILE", help="where it is written (default: NAME.toml)")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="load a plugin file; may be given again"
    )


def main(options: argparse.Namespace) -> int:
    from kdbench.plugins import load_plugins
    from kdbench.suites import get_suite

    load_plugins(options.plugin)
    options.head = ""
    _ask(options)
    folder = Path(options.data).expanduser()
    name = options.name or name_of(folder)
    out = Path(options.out or f"{name}.toml")
    if out.suffix != ".toml":
        raise UserError(f"--out {out}: the file of a suite ends in .toml; name it {out}.toml.")
    if out.exists():
        raise UserError(f"{out} is there already; name another file with --out, or move it away.")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(options, name, folder, out)
        if _wants_new_head(get_suite(str(out))):
            file = options.teacher.partition("=")[2]
            say(f"{file} has a classifier of other classes: the teacher gets a new one, and is fine-tuned before it")
            say("  teaches; how, stands under [teachers.teacher.protocol].")
            options.head = NEW
            _write(options, name, folder, out)
        suite = get_suite(str(out))
    except UserError:
        out.unlink(missing_ok=True)  # nothing is left of what cannot be run
        raise
    trials = len(suite.rows) * len(suite.pairs) * len(suite.seeds)
    say(f"{out}: {suite.id}, {many(len(suite.rows), 'row')}, {many(trials, 'trial')}. Next:")
    say(f"  kdbench run --suite {shlex.quote(str(out))}")
    return EXIT_OK


def _write(options: argparse.Namespace, name: str, folder: Path, out: Path) -> None:
    out.write_text("\n".join(_lines(options, name, folder, out)) + "\n", encoding="utf-8")


def _ask(options: argparse.Namespace) -> None:
    """Ask on a terminal for what no flag says; UserError elsewhere."""
    asked = {
        "data": "The folder of your pictures, with a folder for each class",
        "teacher": "The teacher, such as timm/resnet50=weights.safetensors, or without weights to train it",
        "student": "The student, such as timm/mobilenetv3_small_100",
    }
    missing = [name for name in asked if not getattr(options, name)]
    if missing and not sys.stdin.isatty():
        flags = ", ".join(f"--{name}" for name in missing)
        raise UserError(f"new-suite: {flags} {'is' if len(missing) == 1 else 'are'} missing; kdbench new-suite --help.")
    for name in missing:
        answer = ""
        while not answer:
            answer = _answer(asked[name])
        setattr(options, name, [answer] if name == "student" else answer)
    if missing and options.methods is None:
        options.methods = _answer(f"Methods, separated by commas [{METHODS_ASKED}]") or None


def _answer(question: str) -> str:
    """What somebody types; UserError where nobody will, or where it is no text."""
    try:
        return input(f"{question}: ").strip()
    except EOFError:
        print()
        raise UserError(
            "new-suite: no answer came; nothing was written. kdbench new-suite --help names the flags."
        ) from None
    except UnicodeDecodeError:
        raise UserError("new-suite: the answer is not in the terminal's encoding; give it as a flag.") from None


def _lines(options: argparse.Namespace, name: str, folder: Path, out: Path) -> Iterator[str]:
    from kdbench.models.factory import check_available

    model, _, weights = options.teacher.partition("=")
    for each in (model, *options.student):
        check_available(each)
    rows = [word.strip() for word in (options.methods or METHODS_ASKED).split(",") if word.strip()]
    if not rows:
        raise UserError(f"--methods {options.methods}: no method is named; kdbench list methods names them.")
    for row in rows:
        METHODS.resolve(row)
    if options.seeds < 1:
        raise UserError(f"--seeds must be at least 1, not {options.seeds}.")
    sees = input_of(model, options.channels)
    if options.size is not None:
        sees = sees._replace(size=options.size, crop=1.0)
    teacher = get_spec(model).literature
    yield f"name = {_toml(name)}"
    yield "version = 1"
    yield f"title = {_toml(folder.resolve().name)}"
    yield f"summary = {_toml(f'Pictures in {folder.resolve().name}: {teacher} teaches.')}"
    yield f"seeds = {list(range(options.seeds))}"
    yield from _table("dataset", _dataset(options, name, folder, out, sees))
    yield from _table("protocol", _protocol(options))
    yield from _table("teachers.teacher", _teacher(options, model, weights, out, sees))
    if options.head:
        fine = {"epochs": max(options.epochs // FINE_EPOCHS, 1), "lr": options.lr / FINE_RATE}
        yield from _table("teachers.teacher.protocol", fine)
    for student in dict.fromkeys(options.student):
        yield from _table("[pairs]", {"teacher": "teacher", "student": student})
    for row in dict.fromkeys(rows):
        yield from _table("[methods]", {"name": row})


def _dataset(options: argparse.Namespace, name: str, folder: Path, out: Path, sees: Input) -> dict[str, Any]:
    return {
        "name": name,
        "folder": _place(folder, out),
        "size": sees.size,
        "channels": options.channels,
        "crop": sees.crop,
        "resize": sees.resize,
        "interpolation": sees.interpolation,
    }


def _protocol(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "epochs": options.epochs,
        "batch": options.batch,
        "lr": options.lr,
        "schedule": "onecycle",
        "augmentation": "resized_crop_flip",
    }


def _teacher(options: argparse.Namespace, model: str, weights: str, out: Path, sees: Input) -> dict[str, Any]:
    if not weights:
        return {"kind": "trained", "model": model, "seed": TEACHER_SEED}
    file = Path(weights).expanduser()
    if not file.is_file():
        raise UserError(f"--teacher: there is no file {weights}; name the teacher's weights, or leave them out.")
    own = {"mean": list(sees.mean), "std": list(sees.std)} if len(sees.mean) == options.channels else {}
    head = {"head": options.head, "seed": TEACHER_SEED} if options.head else {}
    return {"kind": "checkpoint", "model": model, "files": [_place(file, out)], **own, **head}


def _wants_new_head(suite: Suite) -> bool:
    """Whether the teacher's weights fit it but for the classifier; CheckpointError where they do not fit otherwise."""
    from kdbench.data import DATASETS
    from kdbench.teachers.ready import imported

    (teacher,), spec = suite.teachers.values(), DATASETS.get(suite.dataset)
    for file in map(Path, teacher.files):
        try:
            imported(teacher, spec, file)
        except CheckpointError as error:
            try:
                imported(replace(teacher, kind="init", head=NEW), spec, file)
            except CheckpointError:
                raise CheckpointError(f"{str(error).rstrip('.')}; they must be of this architecture.") from None
            return True
    return False


def input_of(model: str, channels: int = 3) -> Input:
    """How ``model`` sees pictures: timm's data configuration, torchvision's transform, or the side it was made for."""
    library, _, name = model.partition("/")
    if library == "timm" and channels == 3:
        import timm.data

        found = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        interpolation = found["interpolation"] if found["interpolation"] in ("bilinear", "bicubic") else "bilinear"
        resize = "squash" if found.get("crop_mode") == "squash" else "short"
        size, crop = found["input_size"][1], found["crop_pct"]
        return Input(size, crop, resize, interpolation, tuple(found["mean"]), tuple(found["std"]))
    if library == "torchvision" and channels == 3:
        import torchvision

        found = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        size = found.crop_size[0]
        crop = round(size / found.resize_size[0], 4)
        return Input(size, crop, "short", found.interpolation.value, tuple(found.mean), tuple(found.std))
    return Input(get_spec(model).input)


def _place(path: Path, out: Path) -> str:
    """``path`` as the file ``out`` names it: from its own folder where that is above."""
    whole = path.absolute()
    home = out.absolute().parent
    return str(whole.relative_to(home)) if whole.is_relative_to(home) else str(whole)


def _table(name: str, fields: Mapping[str, Any]) -> Sequence[str]:
    return ["", f"[{name}]", *(f"{field} = {_toml(value)}" for field, value in fields.items())]


def _toml(value: Any) -> str:
    """A plain value as TOML writes it: as JSON does, but for numbers that are none and for DEL."""
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
