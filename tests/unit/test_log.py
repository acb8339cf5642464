"""The log: whole tracebacks, and nothing of what the functions in them held."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.farms import clean_environment

PROGRAM = """
import logging, sys, structlog
from farm.telemetry import set_up_log

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
