"""`farm demo` that is told to stop: nothing of its farm is left."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.farms import clean_environment, wait_for

pytestmark = pytest.mark.full


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_stopped_twice_removes_its_farm(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    changes = {"TMPDIR": str(folder), "FARM_PIPELINE": "simulated", "FARM_SIMULATED_STEP_MS": "2000"}
    program = [sys.executable, "-m", "farm.cli", "demo", "--out", str(tmp_path / "out")]
    demo = subprocess.Popen(program, env=clean_environment() | changes, stderr=subprocess.PIPE)
    wait_for(lambda: any(folder.glob("srpo-farm-demo-*/redis/appendonlydir")), what="the demo's Redis")

    demo.send_signal(number)
    demo.send_signal(number)

    _, error = demo.communicate(timeout=120)
    assert (demo.returncode, b"Traceback" in error) == (128 + number, False)
    assert list(folder.iterdir()) == []
