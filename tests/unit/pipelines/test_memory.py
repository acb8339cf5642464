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
#: Bytes by which what is allocated may grow in a part: less than if it kept the latents of each image. A leak shows in
#: each part. Memory grows by a few large buffers more that the allocator keeps, by how encoding and rendering overlap.
MAX_ALLOCATED_GROWTH, MAX_MEMORY_GROWTH = 1_000_000, 100_000_000


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
    allocated, memory = found["allocated"], found["memory"]

    assert found["rendered"] == 0.8 * PARTS * RENDERS
    assert median(after - before for before, after in pairwise(allocated)) < MAX_ALLOCATED_GROWTH, found
    assert memory[-1] - memory[0] < MAX_MEMORY_GROWTH, found
    assert 0.5 < found["most"] / WORKER_MEMORY["flux"] < 1, found
