"""A driver program of NVIDIA cards that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

#: Two cards as nvidia-smi prints them for the farm; the second one's driver does not report memory.
TWO_CARDS = "GPU-0a, NVIDIA H100 80GB HBM3, 81559, 80994\nGPU-1b, NVIDIA GB10, [N/A], [N/A]"


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, says: str, status: int = 0) -> None:
    """Install a driver program that prints this."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
