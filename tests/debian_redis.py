"""Debian's Redis, for tests that need another server than the embedded one: with TLS, older, or as a Sentinel."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PACKAGES = ("redis-server", "redis-tools", "liblzf1", "libjemalloc2")


@contextmanager
def debian_redis(folder: Path) -> Iterator[str]:
    """Yield the `redis-server` of this machine, else Debian's, unpacked in a folder and not installed."""
    if found := shutil.which("redis-server"):
        yield found
        return
    if not shutil.which("apt-get") or _run_in(folder, "apt-get", "download", *_PACKAGES):
        pytest.skip("no redis-server is here, and apt-get brings none; run: sudo apt install redis-server")
    for package in folder.glob("*.deb"):
        assert _run_in(folder, "dpkg", "-x", package.name, ".") == 0
    libraries = ":".join({str(library.parent) for library in folder.rglob("*.so.*")})
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LD_LIBRARY_PATH", libraries)
        yield str(folder / "usr" / "bin" / "redis-server")


def _run_in(folder: Path, *command: str) -> int:
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode
