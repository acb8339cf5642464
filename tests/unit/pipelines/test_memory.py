"""Memory of the pipeline over hundreds of renders, of every level, with images that end early."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROCESS = """
import gc, json, os
from dataclasses import replace
from pathlib import Path
from farm.domain.request import ImageRequest
from workers.pipelines.loading import load_miniature

def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

pipeline = load_miniature()
star = ImageRequest("srpo", "a red star", 256, 256, steps=6, guidance=4.5, seed=7)
levels = ("none", "regular", "high")

def render(number):
    request = replace(star, seed=number, prompt=f"a red star {number}", acceleration=levels[number % 3])
    last = 3 if number % 5 == 0 else None  # cancelled in mid-loop
    return len(list(pipeline.render([request], lambda _, step: step != last)))

for number in range(100):
    render(number)
before = resident()
rendered = sum(render(number) for number in range(500))
print(json.dumps([rendered, resident() - before]))
"""


@pytest.mark.full
@pytest.mark.timeout(900)
def test_five_hundred_renders_leave_nothing_behind() -> None:
    process = subprocess.run([sys.executable, "-c", PROCESS], capture_output=True, text=True, check=True)
    rendered, growth = json.loads(process.stdout)

    assert rendered == 400
    assert growth < 20e6
