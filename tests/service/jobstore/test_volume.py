"""The cost of a call in Redis, and of a waiting job, however many wait."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient

from farm.bootstrap import Farm
from farm.domain.job import NewJob
from farm.jobstore.store import JobStore
from tests.farms import wait_for
from tests.service.api import calls
from tests.service.jobstore.bulk_submit import submit_all
from tests.service.jobstore.jobs import FACTS, TERMS, held, new_job, record, result, submit, take, take_one

FEW, MANY, VERY_MANY = 100, 5_000, 100_000
AMPLE = replace(TERMS, queue_limit=1_000_000)
#: So often each call is made; what some of them ask now and then beside, for the next second, is left out.
TIMES = 5
#: What a waiting job may take, in bytes, with a prompt of 400 characters.
MAX_BYTES = 2048
PROMPT = "a red fox in the snow " * 18


def bulk(count: int, caller: str = "bulk", **fields: Any) -> Iterator[NewJob]:
    """Yield so many jobs, as submitted in fal's dialect."""
    for _ in range(count):
        new = new_job(caller, **{"prompt": PROMPT} | fields)
        yield replace(new, order=replace(new.order, endpoint="fal-ai/flux/srpo"))


def commands(client: redis.Redis, call: Callable[[], object]) -> Counter[str]:
    """Return the Redis commands of one call, those of its scripts included."""
    seen = []
    for _ in range(TIMES):
        client.config_resetstat()
        call()
        stats = client.info("commandstats")
        seen.append(Counter({name: facts["calls"] for name, facts in stats.items() if "resetstat" not in name}))
    minimum = seen[0]
    for others in seen[1:]:
        minimum &= others
    return minimum


POLLS = ("/farm/v1/jobs/{}", "/fal/queue/fal-ai/flux/requests/{}/status", "/api/v3/predictions/{}/result")


def costs(farm: Farm, api: FlaskClient, depth: int) -> dict[str, Counter[str]]:
    """Return the cost of frequent calls while so many jobs wait, each of which fills a batch."""
    farm.redis.flushdb()
    store = JobStore(farm.redis, AMPLE)
    store.renew("w1", FACTS, [])
    own = list(bulk(50, "local", images=4))
    submit_all(farm.redis, AMPLE, [*bulk(depth - 50, images=4), *own])
    ended: list[str] = []

    def finish() -> None:
        """Take one job through a worker: a claim, a heartbeat, the end."""
        job = take_one(store)
        store.renew("w1", FACTS, [held(job, 1)])
        assert store.complete(job, result(job))
        ended.append(job.id)

    def cost(call: Callable[[], object]) -> Counter[str]:
        return commands(farm.redis, call)

    finished = cost(finish)  # callers take turns: some of these are the API's own
    mine = next(job.id for job in own if job.id in ended)

    def ask(path: str) -> Callable[[], object]:
        def get() -> None:
            response = api.get(path)
            assert response.status_code < 300, response.text

        return get

    return (
        {"the way through a worker": finished}
        | {f"{path}, waiting": cost(ask(path.format(own[-1].id))) for path in POLLS}
        | {f"{path}, completed": cost(ask(path.format(mine))) for path in POLLS}
        | {
            "a reclaim round": cost(store.reap),
            "a claim of nothing": cost(lambda: store.claim("w2", ["kontext"])),
            "/farm/v1/queue": cost(ask("/farm/v1/queue")),
            "submit": cost(lambda: calls.submit(api)),
            "submit in fal's dialect": cost(lambda: calls.post_request(api)),
            "submit in WaveSpeed's dialect": cost(lambda: calls.post_prediction(api)),
            "submit and cancel": cost(lambda: store.cancel(submit(store, "other"))),
        }
    )


@pytest.mark.parametrize("many", [MANY, pytest.param(VERY_MANY, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
def test_every_call_costs_the_same_however_many_wait(farm: Farm, api: FlaskClient, many: int) -> None:
    """The cost is the number of commands that Redis runs for it."""
    few = costs(farm, api, FEW)

    assert costs(farm, api, many) == few
    assert all(0 < cost.total() < 150 for cost in few.values())
    assert all(few[f"{path}, completed"].total() == 1 for path in POLLS)


@pytest.mark.parametrize("many", [MANY, pytest.param(VERY_MANY, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
def test_a_claim_takes_hardly_longer_however_many_wait(client: redis.Redis, many: int) -> None:
    store = JobStore(client, AMPLE)
    took: dict[int, float] = {}
    for depth in (FEW, many):
        submit_all(client, AMPLE, (job for n in range(50) for job in bulk(depth // 50, f"caller-{n}")))
        took[depth] = median(_claim_seconds(store) for _ in range(100))

    # The depth of a sorted set goes into it by its logarithm; the rest is for a machine that is busy otherwise.
    assert took[many] < 5 * took[FEW]


def _claim_seconds(store: JobStore) -> float:
    """Return how long the claim of a full batch takes. As many jobs are submitted again."""
    began = time.perf_counter()
    batch = take(store)
    seconds = time.perf_counter() - began
    assert len(batch) == 4
    for _ in batch:
        submit(store, f"caller-{uuid.uuid4().int % 50}")
    return seconds


@pytest.mark.parametrize("many", [MANY, pytest.param(VERY_MANY, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
def test_a_waiting_job_takes_little_memory_and_does_not_delay_others(client: redis.Redis, many: int) -> None:
    """After a bulk of one caller, another's single image is among the next two claims, whatever its priority."""
    store = JobStore(client, AMPLE)
    # What was there before goes in a thread of Redis's own.
    wait_for(lambda: client.info("memory")["lazyfree_pending_objects"] == 0, what="an empty Redis")
    before = int(client.info("memory")["used_memory"])
    submit_all(client, AMPLE, bulk(many))
    each = (int(client.info("memory")["used_memory"]) - before) / many
    take(store)

    single = submit(store, "single", width=512)
    callers = [{record(store, job.id).caller for job in take(store)} for _ in range(2)]
    low = submit(store, "single", width=512, priority="low")
    batches = [[job.id for job in take(store)] for _ in range(8)]

    print(f"\n{each:.0f} bytes of Redis for each of {many} waiting jobs with prompts of {len(PROMPT)} characters")
    assert each < MAX_BYTES
    assert {"single"} in callers, single
    assert [low] in batches
