"""One run: a bulk through a farm of two workers, one of which is killed every few seconds; and what was observed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import openai
from openai.types import Batch

from farm.domain.catalogue import BATCH_IMAGES
from farm.jobstore import redis_keys
from tests.farms import RunningFarm, wait_for
from tests.volume.memory import MemorySamples

WORKERS = 2
#: Memory that a process may gain in the second half of a run, in MiB: allocators take and return some.
MAX_GROWTH = 16.0
#: Memory of Redis for a line until its batch is deleted. In a short run few lines share what does not grow.
MAX_REDIS_BYTES_A_LINE = 3000
_ENDS = ("completed", "failed", "expired", "cancelled")
_POLL_SECONDS = 0.5
#: Of so many lines the images are fetched.
_FETCHED = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """Size of a run: lines, seconds between kills of a worker, and interactive jobs that come meanwhile."""

    lines: int
    kill_seconds: float = 20.0
    interactive: int = 5


@dataclass(frozen=True, slots=True)
class Interactive:
    """A lone job during the run: its wait in seconds, and how many lines workers took while it waited."""

    seconds: float
    lines: int


@dataclass(slots=True)
class Observations:
    """Observations of a run."""

    lines: int
    seconds: float = 0.0
    kills: int = 0
    taken_back: int = 0
    redis_bytes_a_line: float = 0.0
    interactive: list[Interactive] = field(default_factory=list)
    memory: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    #: What is wrong; nothing should be.
    findings: list[str] = field(default_factory=list)


def run(plan: Plan, farm: RunningFarm) -> Observations:
    """Run a bulk on a farm that has just been started."""
    observed, memory = Observations(plan.lines), MemorySamples(farm.data_dir)
    redis_before = _redis_bytes(farm)
    with closing(openai.OpenAI(base_url=f"{farm.url}/v1", api_key="any", max_retries=5)) as client:
        began = time.monotonic()
        batch = _create(client, plan.lines)
        disturbances = Disturbances(plan, farm, observed)
        while (batch := client.batches.retrieve(batch.id)).status not in _ENDS:
            memory.take()
            disturbances.go_on(batch.request_counts.completed if batch.request_counts else 0)
            time.sleep(_POLL_SECONDS)
        observed.seconds = time.monotonic() - began
        observed.taken_back = int(farm.redis.hget(redis_keys.TOTALS, "jobs_taken_back") or 0)
        observed.redis_bytes_a_line = (_redis_bytes(farm) - redis_before) / plan.lines
        observed.memory = memory.growth()
        observed.findings = [*_wrong_results(client, batch, plan.lines, farm), *wrong_conduct(observed)]
    return observed


class Disturbances:
    """Kills a worker every few seconds, and submits a lone job now and then."""

    def __init__(self, plan: Plan, farm: RunningFarm, observed: Observations) -> None:
        self._plan = plan
        self._farm = farm
        self._observed = observed
        self._next_kill = time.monotonic() + plan.kill_seconds

    def go_on(self, completed: int) -> None:
        """Do what is due when so many lines are completed."""
        due = len(self._observed.interactive) + 1
        if due <= self._plan.interactive and completed >= due * self._plan.lines / (self._plan.interactive + 1):
            self._observed.interactive.append(self._submit_one())
        if time.monotonic() >= self._next_kill and completed < self._plan.lines:
            self._kill_one()

    def _kill_one(self) -> None:
        workers = self._farm.worker_pids()
        if len(workers) == WORKERS:
            os.kill(random.choice(workers), signal.SIGKILL)
            self._observed.kills += 1
            self._next_kill = time.monotonic() + self._plan.kill_seconds

    def _submit_one(self) -> Interactive:
        began = time.monotonic()
        job_id = self._farm.submit(num_inference_steps=4)
        # Each start of a job draws a fence: those drawn between are starts of lines.
        fence = int(self._farm.redis.get(f"{redis_keys.PREFIX}fence") or 0)
        wait_for(lambda: self._farm.job(job_id)["status"] != "created", seconds=60, what="its start")
        own = int(self._farm.redis.hget(redis_keys.job(job_id), "fence") or 0)
        return Interactive(time.monotonic() - began, max(0, own - fence - 1))


def _create(client: openai.OpenAI, lines: int) -> Batch:
    content = b"".join(_line(number) for number in range(lines))
    file = client.files.create(file=("lines.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h")


def _line(number: int) -> bytes:
    body = {"model": "srpo", "prompt": f"fox {number}", "seed": number, "size": "256x256", "response_format": "url"}
    line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/images/generations", "body": body}
    return json.dumps(line).encode() + b"\n"


def _wrong_results(client: openai.OpenAI, batch: Batch, lines: int, farm: RunningFarm) -> Iterator[str]:
    """Yield what is wrong with the output file: each line has one result, in the order of the input."""
    if batch.status != "completed" or batch.error_file_id or not batch.output_file_id:
        yield f"the batch is {batch.status}: {batch.request_counts}"
        return
    found = [json.loads(line) for line in client.files.content(batch.output_file_id).iter_lines()]
    yield from _if_not([line["custom_id"] for line in found] == [f"line-{n}" for n in range(lines)], "order of lines")
    yield from _if_not([_body(line)["seed"] for line in found] == list(range(lines)), "each its own request's result")
    yield from _if_not(len({line["response"]["request_id"] for line in found}) == lines, "a job of its own each")
    urls = [_body(line)["data"][0]["url"] for line in found]
    yield from _if_not(len(set(urls)) == lines, "an image of its own each")
    for url in urls[:: max(1, lines // _FETCHED)]:
        yield from _if_not(farm.fetch(url).startswith((b"\x89PNG", b"\xff\xd8")), f"an image at {url}")


def wrong_conduct(observed: Observations) -> Iterator[str]:
    for job in observed.interactive:
        yield from _if_not(job.lines <= BATCH_IMAGES, f"a lone job waits for one batch, not for {job.lines} lines")
    for kind, (before, after) in observed.memory.items():
        yield from _if_not(after - before <= MAX_GROWTH, f"flat memory of the {kind}: {before:.0f} to {after:.0f} MiB")
    found, limit = observed.redis_bytes_a_line, MAX_REDIS_BYTES_A_LINE
    yield from _if_not(found <= limit, f"at most {limit} bytes of Redis for a line, not {found:.0f}")


def _if_not(condition: bool, expectation: str) -> Iterator[str]:
    if not condition:
        yield f"expected: {expectation}"


def _body(line: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = line["response"]["body"]
    return body


def _redis_bytes(farm: RunningFarm) -> int:
    return int(farm.redis.info("memory")["used_memory"])


#: A farm as `make volume` has it.
ENVIRONMENT: Mapping[str, str] = {"FARM_SIMULATED_STEP_MS": "1", "FARM_LOG": "json"}
