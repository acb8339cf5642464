"""Blocking calls: their jobs after a disconnect, a repeat, or a timeout."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from farm.bootstrap import Farm
from farm.concurrency.background_thread import BackgroundThread
from farm.domain.errors import StoreUnavailable
from farm.domain.job import Claimed, Job, State
from farm.jobstore import redis_keys
from farm.settings import Settings
from tests.farms import wait_for
from tests.service.api.calls import FAL_RUN, WAVESPEED
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import BASE, FACTS

OPENAI = "/v1/images/generations"
PATHS = [FAL_RUN, WAVESPEED, OPENAI]
#: What each of them is asked for, and waits for.
BODIES: dict[str, dict[str, Any]] = {
    FAL_RUN: {"prompt": "a red fox"},
    WAVESPEED: {"prompt": "a red fox", "enable_sync_mode": True},
    OPENAI: {"prompt": "a red fox", "model": "srpo"},
}


class Connection:
    """A call on a connection that its client may cut."""

    def __init__(self, api: FlaskClient, pool: ThreadPoolExecutor, path: str, headers: dict[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._caller = socket.create_connection(server.getsockname())
            self._answering, _ = server.accept()
        self.answer: Future[TestResponse] = pool.submit(
            # A client of its own: they are called from several threads.
            api.application.test_client().post,
            path,
            json=BODIES[path],
            headers=headers,
            environ_overrides={"gunicorn.socket": self._answering},
        )

    def hang_up(self) -> None:
        self._caller.close()

    def close(self) -> None:
        self.hang_up()
        self.answer.exception(timeout=10)
        self._answering.close()


class Calls:
    """Makes calls, and cuts at the end those that are still open."""

    def __init__(self, api: FlaskClient) -> None:
        self._api = api
        self._pool = ThreadPoolExecutor(4)
        self._made: list[Connection] = []

    def make(self, path: str, **headers: str) -> Connection:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = Connection(self._api, self._pool, path, named)
        self._made.append(connection)
        return connection

    def close(self) -> None:
        for connection in self._made:
            connection.close()
        self._pool.shutdown()


@pytest.fixture
def calls(api: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    monkeypatch.setattr("farm.service._LOOK_SECONDS", 0.05)
    made = Calls(api)
    yield made
    made.close()


def known(farm: Farm) -> list[Job]:
    return farm.store.page(None, before_us=None, count=9)


def only_job(farm: Farm) -> Job:
    (job,) = wait_for(lambda: known(farm), what="a job")
    return job


def is_abandoned(farm: Farm, job: Job) -> bool:
    direct = f"{redis_keys.PREFIX}direct_calls:{job.caller}:*"
    left_at_us = [farm.redis.zscore(name, job.id) for name in farm.redis.scan_iter(direct)]
    return any(0 < (at_us or 0) <= farm.stats.now_us() for at_us in left_at_us)


def hung_up(farm: Farm, calls: Calls, path: str) -> Job:
    """Return the job of a call whose client disconnected."""
    call = calls.make(path)
    job = only_job(farm)
    call.hang_up()
    wait_for(lambda: is_abandoned(farm, job), what="the job's being let go")
    assert call.answer.result(timeout=10)  # its thread is free
    return job


def complete(farm: Farm, job: Claimed) -> None:
    done = jobs.result(job)
    farm.storage.put(done.images[0].key, b"an image")
    farm.store.complete(job, done)


@pytest.mark.parametrize("path", PATHS)
def test_an_equal_call_after_a_disconnect_joins_the_same_job(farm: Farm, calls: Calls, path: str) -> None:
    job = hung_up(farm, calls, path)

    again = calls.make(path)
    wait_for(lambda: not is_abandoned(farm, job), what="somebody who waits for it")
    complete(farm, jobs.take_one(farm.store))

    assert again.answer.result(timeout=10).status_code == 200
    assert [(known_job.id, known_job.state) for known_job in known(farm)] == [(job.id, State.COMPLETED)]


@pytest.mark.parametrize("path", PATHS)
def test_a_job_ends_if_no_equal_call_follows_the_disconnect(farm: Farm, calls: Calls, path: str) -> None:
    job = hung_up(farm, calls, path)

    jobs.end_waiting_for_callers(farm.redis)
    farm.service.reap()

    assert jobs.record(farm.store, job.id).code == "client_disconnected"


def test_an_equal_call_after_completion_is_answered_at_once(farm: Farm, calls: Calls) -> None:
    job = hung_up(farm, calls, FAL_RUN)
    complete(farm, jobs.take_one(farm.store))

    response = calls.make(FAL_RUN).answer.result(timeout=10)

    assert (response.status_code, response.headers["x-fal-request-id"]) == (200, job.id)


def test_an_equal_call_gets_a_job_whose_caller_disconnected_at_its_end(
    farm: Farm, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was made, and the client had disconnected."""
    monkeypatch.setattr("farm.service._LOOK_SECONDS", 60)  # only the end is heard of
    call = calls.make(FAL_RUN)
    job = only_job(farm)
    wait_for(lambda: farm.redis.pubsub_numsub(redis_keys.changes_channel(job.id))[0][1] > 0, what="a call that listens")
    call.hang_up()
    complete(farm, jobs.take_one(farm.store))
    call.answer.result(timeout=10)

    response = calls.make(FAL_RUN).answer.result(timeout=10)

    assert response.headers["x-fal-request-id"] == job.id


def test_a_key_says_how_its_caller_comes_back(farm: Farm, calls: Calls) -> None:
    call = calls.make(FAL_RUN, Idempotency_Key="k")
    job = only_job(farm)
    call.hang_up()
    call.answer.result(timeout=10)

    assert not is_abandoned(farm, job)
    again = calls.make(FAL_RUN, Idempotency_Key="k")
    complete(farm, jobs.take_one(farm.store))
    assert again.answer.result(timeout=10).headers["x-fal-request-id"] == job.id


def test_equal_calls_that_wait_beside_one_another_are_two_jobs(farm: Farm, calls: Calls) -> None:
    calls.make(FAL_RUN)
    calls.make(FAL_RUN)

    wait_for(lambda: len(known(farm)) == 2, what="two jobs")


@pytest.mark.parametrize("count", ["0", "1", "9" * 5000, "-1", "1.5", "NaN", "one"])
def test_a_client_that_counts_its_retries_gets_a_job_of_its_own(farm: Farm, calls: Calls, count: str) -> None:
    """The first call still waits, so its answer is not lost."""
    calls.make(OPENAI)
    calls.make(OPENAI, x_stainless_retry_count=count)

    wait_for(lambda: len(known(farm)) == 2, what="two jobs")


def test_an_equal_call_joins_the_job_of_one_that_has_just_disconnected(
    farm: Farm, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call's own thread has not noticed it yet."""
    monkeypatch.setattr("farm.service._LOOK_SECONDS", 60)
    monkeypatch.setattr("farm.service._GIVE_UP_SECONDS", 60)
    first = calls.make(OPENAI)
    job = only_job(farm)
    wait_for(lambda: farm.redis.pubsub_numsub(redis_keys.changes_channel(job.id))[0][1] > 0, what="a call that listens")
    first.hang_up()

    second = calls.make(OPENAI)
    wait_for(lambda: farm.redis.keys(f"{redis_keys.PREFIX}joined_job:*"), what="a call that joined the job")
    complete(farm, jobs.take_one(farm.store))

    assert second.answer.result(timeout=10).headers["x-request-id"] == job.id
    assert len(known(farm)) == 1


@pytest.mark.parametrize("header", [{}, {"x_stainless_retry_count": "1"}])
def test_an_answered_job_is_given_to_no_other_call(farm: Farm, calls: Calls, header: dict[str, str]) -> None:
    for _ in range(3):
        call = calls.make(OPENAI)
        complete(farm, wait_for(lambda: jobs.take(farm.store), what="a job")[0])
        assert call.answer.result(timeout=10).status_code == 200

    calls.make(OPENAI, **header)

    wait_for(lambda: len(known(farm)) == 4, what="four jobs")


@pytest.mark.parametrize("was_away", [False, True])
def test_a_call_answered_without_heartbeats_is_answered(
    farm: Farm, calls: Calls, monkeypatch: pytest.MonkeyPatch, *, was_away: bool
) -> None:
    """Redis took no heartbeats for seconds, for a full disk for example, and perhaps not the report of the answer."""
    heard, call_answered = threading.Event(), farm.store.call_answered

    def answered(job_id: str, call: str) -> None:
        if was_away and not heard.is_set():
            heard.set()
            raise StoreUnavailable
        call_answered(job_id, call)

    monkeypatch.setattr(farm.store, "call_answered", answered)
    monkeypatch.setattr(farm.store, "call_heartbeat", lambda held: None)
    first = calls.make(OPENAI)
    job = only_job(farm)
    jobs.end_hold(farm.redis, job.id)
    complete(farm, jobs.take_one(farm.store))
    assert first.answer.result(timeout=10).status_code == 200
    wait_for(lambda: not is_abandoned(farm, job), what="the answer's being reported")

    calls.make(OPENAI)

    wait_for(lambda: len(known(farm)) == 2, what="two jobs")


def test_a_call_that_waited_for_too_long_leaves_its_job_alone(farm: Farm) -> None:
    """Its caller was told where the image will be."""
    farm.store.renew("w", FACTS, [])
    hasty = replace(farm, settings=Settings(hold_seconds=0.05))
    api = create_app(hasty, base=BASE, with_keys=False, max_streams=1, max_held_calls=1).test_client()

    response = api.post(FAL_RUN, json=BODIES[FAL_RUN])

    assert response.status_code == 504
    jobs.end_waiting_for_callers(farm.redis)
    farm.store.reap()
    assert only_job(farm).state is State.CREATED


def test_a_call_whose_heartbeats_cannot_start_has_no_job(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine allows no more threads: a caller that is told of a failure must not have a job that goes on."""
    farm.store.renew("w", FACTS, [])
    hasty = replace(farm, settings=Settings(hold_seconds=0.05))
    api = create_app(hasty, base=BASE, with_keys=False, max_streams=1, max_held_calls=1).test_client()

    def refuse(_: BackgroundThread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(BackgroundThread, "start", refuse)
        status = api.post(FAL_RUN, json=BODIES[FAL_RUN]).status_code
    assert (status, known(farm)) == (500, [])

    assert api.post(FAL_RUN, json=BODIES[FAL_RUN]).status_code == 504
    assert only_job(farm).state is State.CREATED


def test_a_call_shows_that_it_waits(farm: Farm, calls: Calls) -> None:
    """However long it waits, its job is neither continued by another call nor abandoned."""
    calls.make(FAL_RUN)
    job = only_job(farm)

    for _ in range(2):
        jobs.end_hold(farm.redis, job.id)
        wait_for(lambda: not is_abandoned(farm, job), what="a sign of life")

    assert farm.redis.zscore(redis_keys.ABANDON_DEADLINE, job.id)


def test_a_call_that_was_answered_shows_none(farm: Farm, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    result: list[tuple[str, ...]] = []
    monkeypatch.setattr(farm.store, "call_heartbeat", lambda held: result.append(tuple(sorted(job for job, _ in held))))
    quick, slow = calls.make(FAL_RUN), calls.make(FAL_RUN)
    wait_for(lambda: len(known(farm)) == 2, what="two jobs")
    both = tuple(sorted(job.id for job in known(farm)))
    wait_for(lambda: result and result[-1] == both, what="one sign of life for both calls")

    done, *_ = jobs.take(farm.store)
    complete(farm, done)
    wait_for(lambda: quick.answer.done() or slow.answer.done(), what="an answer")

    wait_for(lambda: result[-1] == tuple(job_id for job_id in both if job_id != done.id), what="a sign for the other")


def test_a_job_is_kept_after_a_504_though_redis_was_away(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job store is told as soon as it answers again."""
    farm.store.renew("w", FACTS, [])
    hasty = replace(farm, settings=Settings(hold_seconds=0.05))
    api = create_app(hasty, base=BASE, with_keys=False, max_streams=1, max_held_calls=1).test_client()
    keep_after_call, away = farm.store.keep_after_call, threading.Event()

    def listen(job_id: str, call: str) -> None:
        if not away.is_set():
            away.set()
            raise StoreUnavailable
        keep_after_call(job_id, call)

    monkeypatch.setattr(farm.store, "keep_after_call", listen)
    api.post(FAL_RUN, json=BODIES[FAL_RUN])
    job = only_job(farm)

    kept = (redis_keys.job(job.id), "kept_after_call")
    wait_for(lambda: farm.redis.hget(*kept) == "1", what="the job store's having heard")
    assert away.is_set()
