"""Farms that several tests share, because starting one takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.farms import RunningFarm, running_farm


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """Yield a quick farm with one simulated worker."""
    with running_farm(tmp_path_factory.mktemp("simulated") / "data", FARM_SIMULATED_STEP_MS="5") as farm:
        yield farm


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"
