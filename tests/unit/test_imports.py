"""Imports: the API and the webhook worker load no module that only pipelines need, and the layers are as documented."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "boto3"}


@pytest.mark.parametrize(
    "module", ["api.app", "farm.cli.main", "workers.render", "workers.process", "workers.pipelines.simulated"]
)
def test_a_module_of_the_control_plane_loads_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert module.split(".")[0] in loaded
    assert HEAVY & set(loaded) == set()


def test_the_architecture_page_has_the_layers_that_are_enforced() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    (layers,) = [each["layers"] for each in tool["importlinter"]["contracts"] if each.get("exhaustive")]
    drawn = re.findall(r"^ (?:farm/|     )       ([a-z_ ]+)$", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)

    assert [line.split() for line in drawn] == [layer.split(" | ") for layer in layers]
