"""Memory of a process over hundreds of renders: of every level and several sizes, with images that end early."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from farm.process.placement import WORKER_MEMORY, buffers_kept
from farm.settings import Settings
from tests.farms import clean_environment

#: Renders before the count begins, after which buffers of every size exist, and renders that count.
WARM_UP, RENDERS = 300, 500
MAX_GROWTH = 20_000_000


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("variables", [buffers_kept(Settings()), {}], ids=["as a worker", "without its variables"])
def test_five_hundred_renders_leave_nothing_behind(variables: dict[str, str]) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "tests.unit.pipelines.many_renders", str(WARM_UP), str(RENDERS)],
        env=clean_environment() | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(process.stdout)

    assert found["rendered"] == 0.8 * RENDERS
    assert found["after"] - found["before"] < MAX_GROWTH, found
    assert 0.5 < found["most"] / WORKER_MEMORY["flux"] < 1, found
