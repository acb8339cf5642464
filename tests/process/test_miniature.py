"""The bundled miniature against what docs/miniature.md promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_the_miniature_renders_what_its_page_promises(tmp_path: Path) -> None:
    """Half of the images of `make evaluate-miniature`; its speeds are for an idle machine, and not asked here."""
    command = [sys.executable, "-m", "miniature", "evaluate", "--run", str(tmp_path), "--number", "100"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    missed = [line for line in done.stdout.splitlines() if "MISSED" in line and " s " not in line]
    assert missed == [], done.stdout + done.stderr
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width > grid.height > 1000
