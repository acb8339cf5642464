"""A job of the farm beside a bare Celery task: the rate of submits, and of what one worker process gets done.

The task does nothing, and nothing of it is kept: no record, no order, no webhook, no result. The difference is what a
farm adds. `celery -A tests.bench.bare_celery worker` serves the application, on the broker of `BARE_CELERY_BROKER`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import celery
import redis

from farm.jobstore import redis_keys
from farm.jobstore.connection import broker_url, connect
from farm.jobstore.store import JobStore
from farm.process import child
from farm.process.embedded_redis import EmbeddedRedis
from tests.bench.control import AMPLE, PROMPT
from tests.bench.figure import Figure
from tests.farms import clean_environment, running_farm, wait_for
from tests.service.jobstore.jobs import new_job

_BROKER = "BARE_CELERY_BROKER"
#: The list of a queue's messages in Redis is named like the queue.
_QUEUE = "celery"
_COMPLETED = "jobs_completed:srpo"

ROUNDS, CALLS = 11, 200
JOBS, TASKS = 400, 4000
#: So many are done before the time counts.
WARM_UP = 50

NOTE = f"""\
Celery: `apply_async` and the store's `submit` from one thread, in turn, on one Redis, with prompts of {len(PROMPT)}
characters. Tasks: `celery worker --pool solo`, tasks that do nothing, results ignored. Jobs: a farm with one simulated
worker, images of 256x256 in one step of no length, four in a batch, encoded, stored and recorded."""

app = celery.Celery("bare", broker=os.environ.get(_BROKER, "memory://"), set_as_current=False)


@app.task(ignore_result=True)
def do_nothing(prompt: str) -> None:
    """Take the prompt, as a job has one."""


def figures(folder: Path) -> Iterator[Figure]:
    """Yield the table's rows about Celery. `folder` takes the data."""
    server = EmbeddedRedis(folder / "celery")
    server.start()
    try:
        app.conf.broker_url = broker_url(server.url)
        yield _submits(connect(server.url))
        tasks = _task_rate(server.url)
    finally:
        server.stop()
    jobs = _job_rate(folder / "farm")
    yield Figure("jobs of one worker beside no-op tasks of Celery", f"{jobs:.0f}/s", jobs / tasks, f"{tasks:.0f}/s")


def _submits(client: redis.Redis) -> Figure:
    store = JobStore(client, AMPLE)

    def submit() -> None:
        store.submit(new_job(prompt=PROMPT))

    def send() -> None:
        do_nothing.apply_async((PROMPT,))

    for call in (submit, send):
        _rate(call)  # opens the connections
    pairs = [(_rate(submit), _rate(send)) for _ in range(ROUNDS)]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(mine / bare for mine, bare in pairs)
    client.flushdb()
    return Figure("submit (job store) beside Celery's apply_async", f"{ours:.0f}/s", ratio, f"{theirs:.0f}/s")


def _rate(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        call()
    return CALLS / (time.perf_counter() - began)


def _task_rate(url: str) -> float:
    """Return how many tasks a second a worker of Celery's does."""
    client = redis.Redis.from_url(url)
    for _ in range(TASKS):
        do_nothing.apply_async((PROMPT,))
    with _worker(url):
        return _rate_of(lambda: TASKS - int(client.llen(_QUEUE)), TASKS)


@contextmanager
def _worker(url: str) -> Iterator[None]:
    program = [sys.executable, "-m", "celery", "-A", "tests.bench.bare_celery", "worker", "--pool", "solo"]
    environment = clean_environment() | {_BROKER: broker_url(url)}
    process = subprocess.Popen(
        child.command(*program, "--without-gossip", "--without-mingle"),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def _job_rate(folder: Path) -> float:
    """Return how many jobs a second a worker of the farm does."""
    with running_farm(folder, FARM_SIMULATED_STEP_MS="0") as farm:
        assert farm.call("POST", "/farm/v1/pause").status == 200
        for _ in range(JOBS):
            farm.submit(prompt=PROMPT, num_inference_steps=1)
        client = farm.redis
        assert farm.call("POST", "/farm/v1/resume").status == 200
        return _rate_of(lambda: int(client.hget(redis_keys.TOTALS, _COMPLETED) or 0), JOBS)


def _rate_of(done: Callable[[], int], count: int) -> float:
    """Return the rate at which `done` rises, between the first few and `count`."""
    wait_for(lambda: done() >= WARM_UP, seconds=60, what="the first of them")
    first, began = done(), time.perf_counter()
    wait_for(lambda: done() >= count, seconds=120, what="the last of them")
    return (count - first) / (time.perf_counter() - began)
