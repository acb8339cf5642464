"""Python programs, run with frameworks that call image APIs. They are installed apart: they need other versions."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.reports import Ran, outcome

HOME = Path(__file__).parent
_REQUIREMENTS = HOME / "requirements.txt"
_ENVIRONMENT = HOME.parents[1] / ".venv" / "frameworks"
#: How long the frameworks may take to be installed, in seconds: once for each version of requirements.txt.
INSTALL_SECONDS = 900

_HEAD = """
import json
def report(value):
    print("report " + json.dumps(value))
"""


def run(program: str, *, seconds: float = 120, **environment: str) -> Ran:
    """Run a program that calls `report(value)`; it must end by itself, with status 0."""
    _install()
    done = subprocess.run(
        [_ENVIRONMENT / "bin" / "python", "-"],
        input=_HEAD + program,
        env=_environment() | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    return outcome(done)


@cache
def _install() -> None:
    """Install the frameworks that requirements.txt names, if missing. Tests in several processes do so once."""
    with _REQUIREMENTS.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install_alone()


def _install_alone() -> None:
    mark = _ENVIRONMENT / f".installed-{hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()[:16]}"
    if mark.exists():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", _ENVIRONMENT], check=True)
    pip = [str(_ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(_REQUIREMENTS)], check=True, timeout=INSTALL_SECONDS)
    mark.touch()


def _environment() -> dict[str, str]:
    """Return this process's environment without settings and providers' keys, and with calls to no other host."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FARM_", "FAL_", "OPENAI_"))}
    return kept | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
