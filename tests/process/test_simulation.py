"""`farm simulate` beside a real farm: both run a trace of two sizes and a bulk, and agree within a tenth."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any, cast

import openai
import pytest

from farm.domain.catalogue import BATCH_IMAGES
from farm.jobstore import redis_keys
from farm.simulation.farm import Cards, SimulatedFarm
from farm.simulation.trace import Arrival, Mix, made_up, shape_of
from tests.farms import RunningFarm, running_farm, wait_for

WORKERS, STEP_SECONDS, STEPS = 2, 0.1, 28
SMALL, LARGE = (256, 256), (512, 512)
#: More than the workers can do for a while: jobs wait, and priorities and batches of one size matter.
MIX = Mix(
    {"srpo": 1},
    {"256x256": 2, "512x512": 1},
    {"none": 1},
    {"1": 3, "2": 1, "4": 1},
    {"normal": 2, "low": 1},
    STEPS,
    callers=5,
)
BULK = [Arrival(0.0, "local", "bulk", shape_of("srpo", SMALL, STEPS, 1, "none"))] * 40


#: Jobs of `low` have few turns, each of which a batch that begins a little sooner or later may move.
TOLERANCES = {"normal": 0.1, "bulk": 0.1, "low": 0.25}


def total_seconds(record: Mapping[str, Any]) -> float:
    return seconds(record["finished_at"]) - seconds(record["created_at"])


def seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def run(farm: RunningFarm, singles: Sequence[Arrival]) -> dict[str, list[dict[str, Any]]]:
    """Start the bulk, submit the other jobs at their times, and return the records by priority once all have ended."""
    send_bulk(farm)
    began, job_ids = time.monotonic(), defaultdict(list)
    for arrival in singles:
        time.sleep(max(0.0, began + arrival.at - time.monotonic()))
        width, height = size_of(arrival)
        job_ids[arrival.priority].append(
            farm.submit(
                image_size={"width": width, "height": height},
                num_images=arrival.shape.images,
                num_inference_steps=STEPS,
                priority=arrival.priority,
            )
        )
    own = {job_id for found in job_ids.values() for job_id in found}
    everything = cast(list[str], farm.redis.zrange(redis_keys.JOBS, 0, -1))
    job_ids["bulk"] = [job_id for job_id in everything if job_id not in own]
    return {name: [farm.wait_for_end(job_id, seconds=120) for job_id in found] for name, found in job_ids.items()}


def size_of(arrival: Arrival) -> tuple[int, int]:
    return SMALL if arrival.shape.batch_key == BULK[0].shape.batch_key else LARGE


def send_bulk(farm: RunningFarm) -> None:
    """Create a batch, and wait until its lines are jobs."""
    body = {"model": "srpo", "prompt": "a fox", "size": "256x256", "num_inference_steps": STEPS}
    line = {"method": "POST", "url": "/v1/images/generations", "body": body | {"response_format": "url"}}
    content = "\n".join(json.dumps(line | {"custom_id": str(number)}) for number in range(len(BULK))).encode()
    with closing(openai.OpenAI(base_url=f"{farm.url}/v1", api_key="any")) as client:
        file = client.files.create(file=("lines.jsonl", content), purpose="batch")
        client.batches.create(input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h")
    wait_for(lambda: farm.redis.zcard(redis_keys.JOBS) == len(BULK), what="the jobs of the bulk")


def measured_step(records: Sequence[dict[str, Any]]) -> float:
    """Return how long a step took, as an operator measures the pace of a card: no wait is exact to the millisecond."""
    return mean(float(record["timings"]["inference"]) for record in records) / STEPS


@pytest.mark.full
@pytest.mark.alone
def test_the_simulation_and_a_farm_agree_within_a_tenth(tmp_path: Path) -> None:
    trace = made_up(MIX, rate=1.9, hours=40 / 3600, swing=0, seed=3)
    singles = [Arrival(arrival.at, "local", arrival.priority, arrival.shape) for arrival in trace]
    assert {size_of(arrival) for arrival in singles} == {SMALL, LARGE}

    with running_farm(tmp_path / "data", WORKERS, FARM_SIMULATED_STEP_MS=str(1000 * STEP_SECONDS)) as farm:
        records = run(farm, singles)
    step_seconds = measured_step(records["bulk"])
    cards = Cards(WORKERS, together=BATCH_IMAGES, step_seconds=step_seconds, ahead_seconds=1.0)
    simulated = SimulatedFarm(cards).run([*BULK, *singles])

    everything = [record for found in records.values() for record in found]
    last = max(seconds(record["finished_at"]) for record in everything)
    length = last - min(seconds(record["created_at"]) for record in everything)
    assert length == pytest.approx(simulated.end, rel=0.1)
    times = {name: [total_seconds(record) for record in found] for name, found in records.items()}
    expected = {name: simulated.times[name].to_end for name in times}
    assert mean(chain(*times.values())) == pytest.approx(mean(chain(*expected.values())), rel=0.1)
    for name, tolerance in TOLERANCES.items():
        assert mean(times[name]) == pytest.approx(mean(expected[name]), rel=tolerance), name
