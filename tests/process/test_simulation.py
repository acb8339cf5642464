"""`farm simulate` beside a real farm: both run the same trace, and agree within a tenth."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from farm.domain.catalogue import BATCH_IMAGES
from farm.simulation.farm import Cards, SimulatedFarm
from farm.simulation.trace import Arrival, Mix, made_up
from tests.farms import RunningFarm, running_farm

WORKERS, STEP_SECONDS, STEPS = 2, 0.1, 28
#: More than the workers can do for a while: jobs wait, and priorities matter.
MIX = Mix(
    {"srpo": 1},
    {"256x256": 1},
    {"none": 1},
    {"1": 3, "2": 1, "4": 1},
    {"normal": 2, "low": 1},
    STEPS,
    callers=5,
)


def seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def run(farm: RunningFarm, arrivals: Iterable[Arrival]) -> list[tuple[Arrival, dict[str, Any]]]:
    """Submit the jobs at their times, and return them with their records once all have ended."""
    began, submitted = time.monotonic(), []
    for arrival in arrivals:
        time.sleep(max(0.0, began + arrival.at - time.monotonic()))
        fields = {"num_images": arrival.shape.images, "num_inference_steps": STEPS, "priority": arrival.priority}
        submitted.append((arrival, farm.submit(**fields)))
    return [(arrival, farm.wait_for_end(job_id, seconds=120)) for arrival, job_id in submitted]


def measured_step(records: list[tuple[Arrival, dict[str, Any]]]) -> float:
    """Return how long a step took, as an operator measures the pace of a card: no wait is exact to the millisecond."""
    singles = (record for arrival, record in records if arrival.shape.images == 1)
    return mean(float(record["timings"]["inference"]) for record in singles) / STEPS


@pytest.mark.full
@pytest.mark.alone
def test_the_simulation_and_a_farm_agree_within_a_tenth(tmp_path: Path) -> None:
    trace = made_up(MIX, rate=2.25, hours=40 / 3600, swing=0, seed=3)
    alike = [Arrival(arrival.at, "local", arrival.priority, arrival.shape) for arrival in trace]

    with running_farm(tmp_path / "data", WORKERS, FARM_SIMULATED_STEP_MS=str(1000 * STEP_SECONDS)) as farm:
        records = run(farm, alike)
    cards = Cards(WORKERS, together=BATCH_IMAGES, step_seconds=measured_step(records), ahead_seconds=1.0)
    simulated = SimulatedFarm(cards).run(alike)

    totals = defaultdict(list)
    for arrival, record in records:
        totals[arrival.priority].append(seconds(record["finished_at"]) - seconds(record["created_at"]))
    last = max(seconds(record["finished_at"]) for _, record in records)
    length = last - min(seconds(record["created_at"]) for _, record in records)
    assert length == pytest.approx(simulated.end - alike[0].at, rel=0.1)
    for name, times in totals.items():
        assert mean(times) == pytest.approx(mean(simulated.times[name].to_end), rel=0.1), name
