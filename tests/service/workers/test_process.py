"""A worker that loads: memory that runs out ends it in one line, and its parent does not start it again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from farm.bootstrap import Farm
from farm.domain.errors import ConfigurationError
from workers.lease import StageTimeouts
from workers.pipelines.pipeline import Pipeline
from workers.pipelines.simulated import SimulatedPipeline
from workers.process import WorkerProcess


def run_out() -> None:
    raise MemoryError("the device is full")


class Full(SimulatedPipeline):
    """A pipeline whose first image does not fit beside the weights."""

    def warm_up(self) -> None:
        run_out()


@pytest.mark.parametrize("load", [run_out, lambda: Full(0)], ids=["weights", "first image"])
def test_memory_that_runs_out_before_the_first_job_is_no_reason_to_start_again(
    farm: Farm, load: Callable[[], Pipeline]
) -> None:
    worker = WorkerProcess(farm, load, StageTimeouts(), worker="w1", device="cuda:1")

    with pytest.raises(ConfigurationError, match=r"memory ran out while the model was loaded \(the device is full\)"):
        worker._warm_pipeline(None)
