"""The command line: one module a command, none of which imports torch when it starts."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import NoReturn

from kdbench import __version__
from kdbench.cli.say import complain, prepare_streams
from kdbench.errors import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_OK, UserError, reason

#: Command -> one line for ``kdbench --help``.
COMMANDS = {
    "run": "train what a suite asks for and is not recorded yet, then build the site",
    "status": "say what runs where, what is done, what failed and why, and how long it will take",
    "logs": "print what the worker printed that trains a trial, or trained it",
    "retry": "train again what failed in the last run, as that run was asked for",
    "site": "build the leaderboard from results files",
    "export": "write a trained student as a file for other programs: safetensors, ONNX, pt2",
    "results": "check results folders, put them together, take them away",
    "study": "train what a study needs, and say what came out of its claims",
    "tune": "choose each method's hyper-parameters from as many configurations, and judge the choice",
    "regress": "say of each row whether its accuracy dropped below that of a baseline",
    "baseline": "freeze a suite's records as what later trainings are compared with",
    "list": "list suites, studies, methods, models, data sets, pairs, teachers or supervisions",
    "show": "show what is known of a method, a suite, a study, a data set, a model or a pair",
    "check-method": "say whether a method keeps the contract, and what it costs",
    "new-suite": "write the file of a suite on your own pictures, by flags or by a few questions",
    "new-method": "write an installable package with a method, its test and its entry point",
    "doctor": "say what this machine has: packages, devices, data sets, teachers' weights, extras",
}


class _Parser(argparse.ArgumentParser):
    """One whose complaint is a sentence, and not its usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{reason(message.removeprefix('argument '))}; see {self.prog} --help.")


def module_of(command: str) -> ModuleType:
    """The module of a command: it has ``add_arguments(parser)`` and ``main(options) -> exit code``."""
    return importlib.import_module(f"kdbench.cli.{command.replace('-', '_')}")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; a user's mistake is one sentence on standard error."""
    prepare_streams()
    try:
        options = _parsed(sys.argv[1:] if arguments is None else arguments)
        return int(options.main(options))
    except UserError as error:
        complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that Python's own flush at exit does not complain, too
        return EXIT_OK
    except OSError as error:
        complain(f"the system refused: {reason(error)}; mend that and give the same command again, nothing is lost")
        return EXIT_INCOMPLETE


def _parsed(words: list[str]) -> argparse.Namespace:
    """The options of a command, whose ``main`` is among them; its flags may stand between its other words."""
    parser = _Parser(
        prog="kdbench", description="A benchmark suite and leaderboard for knowledge distillation.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"kdbench {__version__}")
    chosen, name = _chosen(parser, "command", COMMANDS, words)
    module = module_of(name)
    if hasattr(module, "VERBS"):
        words = words[1:]
        chosen, verb = _chosen(chosen, "verb", module.VERBS, words)
        module = module.module_of(verb)
    module.add_arguments(chosen)
    chosen.set_defaults(main=module.main)
    _check_words(chosen, words[1:])
    return chosen.parse_intermixed_args(words[1:])


def _check_words(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """UserError for what argparse would misread: an unknown flag as a word less, a flag without its value as unset."""
    for word in words[: words.index("--") if "--" in words else None]:
        flag, equals, value = word.partition("=")
        if not word or (equals and flag.startswith("--") and value in ("", "--")):
            raise UserError(
                f"{flag or 'a word of the command'} is empty; give it a value (perhaps a variable of the shell is not "
                f"set); see {parser.prog} --help."
            )
        if flag.startswith("--") and flag not in parser._option_string_actions:
            raise UserError(f"there is no flag {reason(flag)}; see {parser.prog} --help.")


def _chosen(
    parser: argparse.ArgumentParser, noun: str, lines: Mapping[str, str], words: list[str]
) -> tuple[argparse.ArgumentParser, str]:
    """The parser of the one among ``lines`` that the first of ``words`` names, and its name."""
    commands = parser.add_subparsers(dest=noun, metavar=noun.upper(), required=True)
    parsers = {
        name: commands.add_parser(name, help=line, description=f"{line[0].upper()}{line[1:]}.", allow_abbrev=False)
        for name, line in lines.items()
    }
    name = str(getattr(parser.parse_args(words[:1]), noun))
    return parsers[name], name
