"""Compilers of this machine, which torch needs to compile kernels when a model first runs."""

from __future__ import annotations

import shlex
import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from farm.settings import environment

Device = Literal["cuda", "cpu"]
#: What torch looks for: a variable, the programs that it falls back to, and the Debian package that brings one.
#: Triton, which compiles for cards, builds the caller of each kernel in C; for the CPU torch writes C++.
_COMPILERS: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "cuda": ("CC", ("gcc", "clang"), "gcc"),
    "cpu": ("CXX", ("g++", "clang++"), "g++"),
}


def missing(kind: Device) -> str | None:
    """Return what this machine lacks to compile for such a device, with the command that brings it; None if nothing."""
    variable, programs, package = _COMPILERS[kind]
    chosen = environment().get(variable)
    wanted = shlex.split(chosen)[:1] if chosen else programs
    lacking = [] if any(map(shutil.which, wanted)) else [("a compiler", package)]
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        lacking.append(("Python's header files", "python3-dev"))
    if not lacking:
        return None
    things, packages = zip(*lacking, strict=True)
    return f"{' and '.join(things)} (sudo apt install {' '.join(packages)})"
