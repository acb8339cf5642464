"""The line about each end of a run, and of a job: its event, level and cause, and whose job it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import redis
from structlog.testing import capture_logs

from farm.domain.job import Origin
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from tests.service.jobstore.jobs import TERMS, end_delays, lose, new_job, result, take_one


def fails(store: JobStore, _: redis.Redis) -> None:
    store.fail(take_one(store), "render_failed", "It failed.", retry="never", cause="ZeroDivisionError")


def fails_by_its_caller(store: JobStore, _: redis.Redis) -> None:
    store.fail(take_one(store), "file_download_error", "It failed.", retry="never")


def is_tried_again(store: JobStore, _: redis.Redis) -> None:
    store.fail(take_one(store), "render_failed", "It failed.", retry="again", cause="ZeroDivisionError")


def is_drained(store: JobStore, _: redis.Redis) -> None:
    store.release(take_one(store))


def loses_its_worker(store: JobStore, client: redis.Redis) -> None:
    take_one(store)
    lose(client, store)


def exhausts_its_attempts(store: JobStore, client: redis.Redis) -> None:
    for _ in range(TERMS.max_attempts):
        end_delays(client)
        loses_its_worker(store, client)


def comes_back_late(store: JobStore, client: redis.Redis) -> None:
    late = take_one(store)
    lose(client, store)
    take_one(store, "w2")
    store.complete(late, result(late))


def is_cancelled(store: JobStore, client: redis.Redis) -> None:
    (job_id,) = client.zrange(redis_keys.JOBS, 0, -1)
    store.cancel(str(job_id))


#: What becomes of a job → its last line: event, level, and more of what it has.
LINES: dict[Callable[[JobStore, redis.Redis], None], tuple[str, str, dict[str, object]]] = {
    fails: ("job failed", "warning", {"code": "render_failed", "cause": "ZeroDivisionError", "attempt": 1}),
    fails_by_its_caller: ("job failed", "info", {"code": "file_download_error"}),
    is_tried_again: ("job returned", "warning", {"reason": "render_failed", "cause": "ZeroDivisionError"}),
    is_drained: ("job returned", "info", {"reason": "drained"}),
    loses_its_worker: ("job taken back", "warning", {"reason": "worker_lost", "from_worker": "w1"}),
    exhausts_its_attempts: ("job exhausted", "error", {"code": "attempts_exhausted", "attempt": TERMS.max_attempts}),
    comes_back_late: ("job lost", "warning", {"attempt": 1}),
    is_cancelled: ("job cancelled", "info", {"code": "cancelled", "attempt": 0}),
}


@pytest.mark.parametrize("happens", LINES)
def test_each_end_has_a_line(
    store: JobStore, client: redis.Redis, happens: Callable[[JobStore, redis.Redis], None]
) -> None:
    event, level, more = LINES[happens]
    with capture_logs() as lines:
        job_id = store.submit(replace(new_job(), origin=Origin("call-7", "key-1"))).id
        happens(store, client)

    last = [line for line in lines if line.get("job") == job_id][-1]
    expected = more | {"event": event, "log_level": level, "model": "srpo", "request_id": "call-7", "key": "key-1"}
    assert {name: last.get(name) for name in expected} == expected
