"""Imports of the API and the webhook worker: no module that only pipelines need, or only a bucket."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "boto3"}


@pytest.mark.parametrize(
    "module", ["api.app", "farm.cli.main", "workers.render", "workers.process", "workers.pipelines.simulated"]
)
def test_a_module_of_the_control_plane_loads_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert module.split(".")[0] in loaded
    assert HEAVY & set(loaded) == set()
