"""The benchmarks and their requirements: long tests only, since they need the machine to themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.farms import clean_environment


@pytest.mark.full
@pytest.mark.timeout(900)
def test_meets_every_requirement() -> None:
    bench = subprocess.run(
        [sys.executable, "-m", "tests.bench"], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert bench.returncode == 0, bench.stdout + bench.stderr


def test_without_a_card_the_render_benchmark_says_so_and_is_no_failure() -> None:
    bench = subprocess.run(
        [sys.executable, "-m", "tests.bench.gpu"],
        env=clean_environment() | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (bench.returncode, bench.stdout) == (0, "No render benchmark: no CUDA card is here.\n"), bench.stderr
