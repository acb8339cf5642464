"""`python -m tests.bench.ceiling`: how many jobs a second one Redis carries, by the farm's own calls.

Processes have jobs live their whole lives, as fast as they can: submit, claim, heartbeats with progress, result and
webhook. On a machine with few cores they are slower than Redis, so the ceiling follows from its processor time.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import redis
import structlog

from farm.domain.catalogue import BATCH_IMAGES
from farm.domain.delivery import Attempt, Outcome
from farm.domain.job import Claimed, NewJob, State, Webhook
from farm.jobstore.connection import connect
from farm.jobstore.store import JobStore
from farm.webhooks.store import DeliveryStore
from tests.bench.control import AMPLE, PROMPT, redis_seconds, running_redis
from tests.bench.figure import Figure, print_table
from tests.farms import running_farm, wait_for
from tests.service.jobstore.bulk_submit import submit_all
from tests.service.jobstore.jobs import FACTS, held, new_job, result
from tests.webhook_receiver import running_receiver
from workers.lease import PROGRESS_SECONDS

CALLERS = 50
#: A worker takes so long for an image, and sends a heartbeat with its progress every so often meanwhile.
IMAGE_SECONDS = 5.0
BATCH_HEARTBEATS = round(BATCH_IMAGES * IMAGE_SECONDS / PROGRESS_SECONDS)
#: The jobs of a whole farm, of which each image takes two workers half a second.
FARM_JOBS, FARM_STEP_MS, REST_SECONDS = 200, 17.0, 5

NOTE = f"""\
Jobs of {CALLERS} callers with prompts of {len(PROMPT)} characters and a webhook, an image each, four in a batch. The
store's calls: submit, claim, {BATCH_HEARTBEATS} heartbeats for a batch (an image takes {IMAGE_SECONDS:.0f} s),
complete; for the webhook claim, record and result. The farm: two workers whose images take
{28 * FARM_STEP_MS / 1000:.1f} s, with the API, Celery's messages and periodic rounds, less what it does at rest."""


class JobLives:
    """One process: a caller's submits, a worker and a courier, without what they do besides talking to Redis."""

    def __init__(self, url: str, number: int) -> None:
        client = connect(url)
        self._store, self._deliveries = JobStore(client, AMPLE), DeliveryStore(client)
        self._worker = f"w{number}"

    def run(self, seconds: float) -> int:
        """Have jobs live for so long, and return how many have ended."""
        ended, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            ended += self._batch()
        return ended

    def _batch(self) -> int:
        for new in jobs_with_webhooks(BATCH_IMAGES):
            self._store.submit(new)
        jobs = self._store.claim(self._worker, ["srpo"]).batch.jobs
        for beat in range(BATCH_HEARTBEATS):
            self._store.renew(self._worker, FACTS, [held(job, beat) for job in jobs])
        for job in jobs:
            assert self._store.complete(job, result(job))
        self._tell(jobs)
        return len(jobs)

    def _tell(self, jobs: Sequence[Claimed]) -> None:
        for _ in jobs:
            for due in self._deliveries.claim(1, lease_seconds=60):
                assert self._store.get(due.job)
                self._deliveries.finish(due, Outcome.DELIVERED, Attempt(due.created_us, 0.1, 200))


def jobs_with_webhooks(count: int) -> Iterator[NewJob]:
    """Yield jobs with a webhook for their end."""
    for number in range(count):
        webhook = Webhook(f"https://caller-{number % CALLERS}.example/hook", frozenset({State.COMPLETED}))
        yield new_job(f"caller-{number % CALLERS}", prompt=PROMPT, webhook=webhook)


def live(url: str, number: int, seconds: float) -> int:
    return JobLives(url, number).run(seconds)


def calls(folder: Path, *, processes: int, seconds: float, waiting: int) -> Iterator[Figure]:
    """Measure the store's own calls, with so many jobs waiting."""
    with running_redis(folder) as (url, client), ProcessPoolExecutor(processes) as pool:
        submit_all(client, AMPLE, jobs_with_webhooks(waiting))
        list(pool.map(live, [url] * processes, range(processes), [0.5] * processes))  # starts them
        began, busy = time.monotonic(), redis_seconds(client)
        ended = sum(pool.map(live, [url] * processes, range(processes), [seconds] * processes))
        took, busy = time.monotonic() - began, redis_seconds(client) - busy
    yield Figure(f"jobs of {processes} processes, whole lives", f"{ended / took:.0f}/s", busy / took, "Redis busy")
    yield ceiling("Redis's time for a job, by the store's calls", busy / ended)


def ceiling(what: str, seconds: float) -> Figure:
    return Figure(what, f"{1e6 * seconds:.0f} us", 0, f"ceiling {1 / seconds:.0f}/s", is_ratio=False)


def whole_farm(folder: Path) -> Figure:
    """Measure jobs of a whole farm, one after another, as fast as its workers render."""
    with (
        running_receiver() as receiver,
        running_farm(folder, 2, FARM_SIMULATED_STEP_MS=str(FARM_STEP_MS), FARM_WEBHOOK_ALLOW="127.0.0.1") as farm,
    ):
        client = farm.redis

        def submit(jobs: int) -> None:
            expected = len(receiver.received) + jobs
            for _ in range(jobs):
                farm.submit(prompt=PROMPT, webhook_url=receiver.url, webhook_events=["job.completed"])
            wait_for(lambda: len(receiver.received) >= expected, seconds=300, what="the webhooks")

        submit(8)
        at_rest = _rest(client)
        began, busy = time.monotonic(), redis_seconds(client)
        submit(FARM_JOBS)
        took, busy = time.monotonic() - began, redis_seconds(client) - busy
    return ceiling("Redis's time for a job, whole farm", (busy - at_rest * took) / FARM_JOBS)


def _rest(client: redis.Redis) -> float:
    """Return the share of a core that Redis uses for a farm at rest."""
    before = redis_seconds(client)
    time.sleep(REST_SECONDS)
    return (redis_seconds(client) - before) / REST_SECONDS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ceiling", description=__doc__)
    parser.add_argument("--processes", type=int, default=4, help="Processes that call Redis.")
    parser.add_argument("--seconds", type=float, default=20.0, help="For how long.")
    parser.add_argument("--waiting", type=int, default=10_000, help="Jobs that wait meanwhile.")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="farm-ceiling-") as folder:
        figures = [*calls(Path(folder) / "calls", **vars(options)), whole_farm(Path(folder) / "farm")]
    print_table(figures)
    print(f"\n{NOTE}")


if __name__ == "__main__":
    main()
