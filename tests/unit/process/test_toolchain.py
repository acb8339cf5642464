"""The compilers that torch needs."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from farm.process.toolchain import missing


def install(folder: Path, name: str) -> None:
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)


def test_a_missing_tool_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert missing("cuda") == "a compiler and Python's header files (sudo apt install gcc python3-dev)"

    install(tmp_path, "clang")
    assert missing("cuda") == "Python's header files (sudo apt install python3-dev)"

    (tmp_path / "Python.h").touch()
    assert missing("cuda") is None
    assert missing("cpu") == "a compiler (sudo apt install g++)"

    monkeypatch.setenv("CXX", "ccache")
    install(tmp_path, "g++")
    assert missing("cpu") == "a compiler (sudo apt install g++)"

    monkeypatch.setenv("CXX", f"{tmp_path / 'g++'} -O2")
    assert missing("cpu") is None
