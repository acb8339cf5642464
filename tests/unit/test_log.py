"""The log: whole tracebacks, without the local variables of the functions in them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from farm import __version__
from tests.farms import clean_environment

PROGRAM = """
import logging, sys, structlog
from farm.telemetry.log import set_up_log

set_up_log(sys.argv[1])

def fail():
    key = "".join(("sec", "ret"))
    raise ValueError("in vain")

for tell in (logging.getLogger("library").exception, structlog.get_logger("farm").exception):
    try:
        fail()
    except ValueError:
        tell("something failed")
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_tells_no_ones_key(form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, form], env=clean_environment(), capture_output=True, text=True, check=True
    )

    assert done.stderr.count("ValueError: in vain") == 2
    assert done.stderr.count("in fail") == 2
    assert "secret" not in done.stdout + done.stderr
    assert "Warning" not in done.stderr  # of a traceback that is formatted twice


HOSTILE = r"""
import structlog
from farm.telemetry.log import set_up_log

set_up_log("console")
structlog.get_logger("farm").info("webhook\x1b[2J", error="\x1b]0;x\x07", url="\u202eb\x9b", said="a b\r\n\x1b[1m")
try:
    raise ValueError("\x1b[2J")
except ValueError:
    structlog.get_logger("farm").exception("failed")
"""


def test_text_of_others_does_not_control_the_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE], env=clean_environment(), capture_output=True, text=True, check=True
    )

    result = re.sub(r"\x1b\[\d*m", "", done.stderr)  # the log's own colours
    assert [character for character in result if not character.isprintable() and character != "\n"] == []
    for shown in (r"webhook\x1b[2J", r"\x1b]0;x\x07", r"\u202eb\x9b", r"\x1b[1m", r"ValueError: \x1b[2J"):
        assert shown in result


NAMED = """
import logging, structlog
from farm.telemetry.log import set_up_log

set_up_log("json", service="worker", worker="w1")
structlog.get_logger("farm.jobs").info("job claimed", job="a", key=None)
logging.getLogger("library").warning("careful")
structlog.get_logger("farm.jobs").debug("nothing for operators")
"""


def test_each_line_names_the_process_that_wrote_it() -> None:
    done = subprocess.run([sys.executable, "-c", NAMED], env=clean_environment(), capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]

    assert [(line["event"], line["logger"], line["level"]) for line in lines] == [
        ("job claimed", "farm.jobs", "info"),
        ("careful", "library", "warning"),
    ]
    for line in lines:
        assert (line["service"], line["worker"], line["version"]) == ("worker", "w1", __version__)
        assert line["pid"] > 0
        assert "key" not in line, "unknown fields are left out"


SPEAKING = """
import structlog
from farm.printable import announce
from farm.telemetry.log import set_up_log

set_up_log("json")
for number in range(1000):
    structlog.get_logger("farm").info("a line", number=number)
announce("farm ready")
open("went on", "w").close()
"""
#: Outputs that take nothing, as redirections of a shell: a full disk, and a pipe whose reader is gone.
TAKES_NOTHING = {"a full disk": "> /dev/full 2> /dev/full", "a closed pipe": "> >(true) 2>&1"}


@pytest.mark.parametrize("redirection", TAKES_NOTHING.values(), ids=TAKES_NOTHING)
def test_a_service_goes_on_without_its_log(tmp_path: Path, redirection: str) -> None:
    program = ["bash", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, SPEAKING]
    subprocess.run(program, env=clean_environment(), cwd=tmp_path, check=False)

    assert (tmp_path / "went on").exists()


def test_a_command_runs_with_closed_streams() -> None:
    program = ["bash", "-c", 'exec "$0" -m farm.cli --version <&- >&- 2>&-', sys.executable]
    assert subprocess.run(program, env=clean_environment(), check=False).returncode == 0


def test_a_command_that_reads_a_closed_input_finds_it_empty() -> None:
    program = ["bash", "-c", 'exec "$0" -m farm.cli render --from - <&-', sys.executable]

    found = subprocess.run(program, env=clean_environment(), check=False, capture_output=True, text=True)

    assert (found.returncode, found.stderr) == (1, "farm: --from: - has no requests.\n")
