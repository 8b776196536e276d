"""kdbench's own C code: built by the machine's compiler when it is first wanted, and kept in the cache folder.

Its functions take addresses, so nothing of torch is compiled, and ctypes lets other threads run meanwhile.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from kdbench.errors import UserError, reason
from kdbench.paths import cache_dir

SOURCE = Path(__file__).with_name("norms.c")
#: No -ffast-math, and no fusing of products and sums that the source does not ask for: bits are not the compiler's.
OPTIONS = ("-O2", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared")
#: How compilers are asked for the instructions of this processor, which not all of them know.
NATIVE: tuple[tuple[str, ...], ...] = (("-march=native",), ("-mcpu=native",), ())
COMPILERS = ("cc", "gcc", "clang")


@cache
def library() -> ctypes.CDLL:
    """The compiled functions. UserError where there is no C compiler that builds them."""
    compiler = find_compiler()
    options, predefined = _understood(compiler)
    made_of = (SOURCE.read_bytes(), shlex.join(options).encode(), predefined)
    name = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:20]
    built = cache_dir() / "kernels" / f"{name}.so"
    if not built.exists():
        _build([*compiler, *options], built)
    try:
        return ctypes.CDLL(str(built))
    except OSError as error:
        raise UserError(
            f"kdbench cannot load its C code ({reason(error)}); delete {built}, or set KDBENCH_CACHE to a folder that "
            "code may be loaded from."
        ) from None


def find_compiler() -> list[str]:
    """The command of ``$CC``, else the first of COMPILERS that there is. UserError where there is none."""
    chosen = shlex.split(os.environ.get("CC", ""))
    for command in [chosen] if chosen else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    raise UserError(
        "The protocol compiles batch normalisation, but there is no C compiler here; "
        'install gcc or clang (or name one in $CC), or set compile = "none".'
    )


def _understood(compiler: list[str]) -> tuple[list[str], bytes]:
    """Options for this processor that ``compiler`` knows, and what it then predefines: its version, the instructions.

    So a cache folder that machines share has one file for each kind of them.
    """
    for native in NATIVE:
        asked = [*compiler, *OPTIONS, *native, "-dM", "-E", "-x", "c", os.devnull]
        said = subprocess.run(asked, capture_output=True, stdin=subprocess.DEVNULL)
        if said.returncode == 0:
            return [*OPTIONS, *native], said.stdout
    raise UserError(f"{shlex.join(compiler)} does not work as a C compiler here; name another one in $CC.")


def _build(command: list[str], built: Path) -> None:
    """Compile to ``built``, which appears whole or not at all: several workers may do so at once."""
    try:
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            made = Path(folder) / built.name
            run = [*command, str(SOURCE), "-o", str(made), "-lm"]
            said = subprocess.run(run, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
            if said.returncode == 0:
                made.replace(built)
    except OSError as error:
        raise UserError(
            f"kdbench cannot build its C code ({reason(error)}); look at {built.parent}, or set KDBENCH_CACHE to "
            "another folder."
        ) from None
    if said.returncode:
        last = (said.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(
            f'{command[0]} does not compile {SOURCE}: {reason(last)}; set compile = "none", or $CC to another one.'
        )
