"""The stdout of commands is their result's: whatever is logged or shown meanwhile is on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from farm.doctor.examination import Examination
from farm.doctor.finding import Finding, good
from tests.farms import clean_environment
from tests.service.cli.commands import Runner


def logged_findings(_: Examination) -> Iterator[Finding]:
    """Log as storage and Redis do when they fail, then find something."""
    structlog.get_logger("farm.storage").warning("the storage does not answer", detail="\x1b[2J")
    try:
        raise ValueError("in vain")
    except ValueError:
        structlog.get_logger("farm.jobstore").exception("Redis refused a command")
    yield good("nothing", "is wrong")


def test_the_doctors_json_is_json_whatever_is_logged(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Examination, "findings", logged_findings)

    ended = run("doctor", "--json", "--data-dir", str(tmp_path))

    assert json.loads(ended.out)["findings"][0]["text"] == "is wrong"
    assert "the storage does not answer" in ended.err
    assert "ValueError: in vain" in ended.err
    assert "\x1b[2J" not in ended.err


def farm(*words: str, stdout: int | TextIO) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "farm.cli", *words]
    return subprocess.Popen(program, env=clean_environment(), stdout=stdout, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("words", [["doctor"], ["doctor", "--json"], ["--version"], ["--help"], ["keys", "--help"]])
def test_a_reader_that_leaves_ends_the_command_in_silence(tmp_path: Path, words: list[str]) -> None:
    """As `farm jobs | head -1` does."""
    reading, writing = os.pipe()
    os.close(reading)
    ended = farm(*words, *(["--data-dir", str(tmp_path)] if words[0] == "doctor" else []), stdout=writing)
    os.close(writing)

    _, err = ended.communicate(timeout=60)

    assert (ended.returncode, err) == (1, "")


def test_an_error_of_the_system_is_one_line() -> None:
    program = "from farm.cli import main; main.app = lambda **_: open('/nowhere/a file'); main.main()"
    ended = subprocess.run([sys.executable, "-c", program], env=clean_environment(), capture_output=True, check=False)

    assert (ended.returncode, ended.stderr) == (1, b"farm: /nowhere/a file: No such file or directory\n")


def test_an_output_without_space_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = farm("doctor", "--data-dir", str(tmp_path), stdout=full)
        _, err = ended.communicate(timeout=60)

    assert (ended.returncode, err) == (1, "farm: cannot write the output: No space left on device\n")
