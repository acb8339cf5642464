"""The first step of a job on an idle farm."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from statistics import median

import pytest

from farm.jobstore import redis_keys
from tests.farms import RunningFarm, running_farm, wait_for

#: Its timing needs the machine for itself.
pytestmark = pytest.mark.alone

#: Within so many seconds; Celery's event loop, if nothing wakes it, waits for up to one.
AT_ONCE = 0.3


def test_an_idle_worker_begins_a_job_at_once_also_after_others(data_dir: Path) -> None:
    with running_farm(data_dir, FARM_SIMULATED_STEP_MS="1") as farm:
        waits = [seconds_until_started(farm) for _ in range(7)]

    assert median(waits) < AT_ONCE, waits


def seconds_until_started(farm: RunningFarm) -> float:
    wait_for(lambda: farm.redis.scard(f"{redis_keys.PREFIX}idle_workers:srpo"), what="an idle worker")
    job = farm.wait_for_end(farm.submit(num_inference_steps=1))
    began, started = (datetime.fromisoformat(job[name]) for name in ("created_at", "started_at"))
    return (started - began).total_seconds()
