"""Memory of a process over hundreds of renders: of every level and several sizes, with images that end early."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from statistics import median

import pytest

from farm.process.placement import WORKER_MEMORY, buffers_kept
from farm.settings import Settings
from tests.farms import clean_environment

#: Renders before the count begins, after which buffers of every size exist; parts of those that count; renders of each.
WARM_UP, PARTS, RENDERS = 150, 5, 100
#: Bytes by which memory may grow in a part. A leak shows in each of them: a megabyte is less than a prompt's embeddings
#: per render. The allocator may keep one more large buffer in any, by how encoding and rendering overlap.
MAX_GROWTH, MAX_TOTAL_GROWTH = 1_000_000, 100_000_000


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("variables", [buffers_kept(Settings()), {}], ids=["as a worker", "without its variables"])
def test_five_hundred_renders_leave_nothing_behind(variables: dict[str, str]) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "tests.unit.pipelines.many_renders", *map(str, (WARM_UP, PARTS, RENDERS))],
        env=clean_environment() | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(process.stdout)
    memory = found["memory"]

    assert found["rendered"] == 0.8 * PARTS * RENDERS
    assert median(after - before for before, after in pairwise(memory)) < MAX_GROWTH, found
    assert memory[-1] - memory[0] < MAX_TOTAL_GROWTH, found
    assert 0.5 < found["most"] / WORKER_MEMORY["flux"] < 1, found
