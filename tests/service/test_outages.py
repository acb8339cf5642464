"""A Redis that dies or freezes: callers get an error within two seconds, and everything continues when it is back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from werkzeug.test import TestResponse

from api.app import create_app
from farm import clock, service
from farm.auth.api_keys import LOCAL
from farm.bootstrap import Farm, build
from farm.celery import RENDER_QUEUE
from farm.concurrency import periodic
from farm.concurrency.periodic import PeriodicThread
from farm.domain.delivery import Outcome
from farm.domain.errors import StoreUnavailable
from farm.domain.job import NewJob, State
from farm.domain.limits import Limits
from farm.jobstore import redis_keys
from farm.jobstore.store import Accepted, JobStore
from farm.process import embedded_redis
from farm.process.embedded_redis import EmbeddedRedis
from farm.settings import Settings
from tests.farms import folder_in_memory, wait_for
from tests.service.api.calls import (
    FAL_QUEUE,
    FAL_RUN,
    UNKNOWN_ID,
    WAVESPEED,
    bearer,
    fal_error,
    post_job,
    post_prediction,
    post_request,
    refusal,
    submit,
)
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import BASE, FACTS
from tests.service.webhooks.test_courier import CourierHarness
from tests.threads import ended_background_threads
from tests.webhook_receiver import running_receiver

CALLS = [
    ("POST", "/farm/v1/jobs"),
    ("GET", "/farm/v1/jobs"),
    ("GET", f"/farm/v1/jobs/{UNKNOWN_ID}"),
    ("DELETE", f"/farm/v1/jobs/{UNKNOWN_ID}"),
    ("POST", f"/farm/v1/jobs/{UNKNOWN_ID}/cancel"),
    ("GET", f"/farm/v1/jobs/{UNKNOWN_ID}/events"),
    ("GET", "/farm/v1/events"),
    ("GET", "/farm/v1/queue"),
    ("GET", "/farm/v1/workers"),
    ("POST", WAVESPEED),
    ("GET", f"/api/v3/predictions/{UNKNOWN_ID}/result"),
    ("POST", FAL_QUEUE),
    ("POST", FAL_RUN),
    ("GET", f"/fal/queue/fal-ai/flux/requests/{UNKNOWN_ID}/status"),
]


class Outage:
    """A farm whose Redis a test may stop."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.server = EmbeddedRedis(data_dir)
        self.server.start()

    def begin(self) -> None:
        """Build the parts of the farm, as a new process does."""
        self.farm: Farm = build(Settings(lease_seconds=1), self._data_dir, listens=True)
        self.api = self._client(with_keys=False)
        self.keyed = self._client(with_keys=True)

    def reset(self) -> None:
        """Reset to no jobs, a worker that has announced its model, and a key."""
        self.farm.redis.flushall()
        self.farm.store.renew("w", FACTS, [])
        self.key = self.farm.callers.create("root", is_admin=True)

    def _client(self, *, with_keys: bool) -> FlaskClient:
        return create_app(self.farm, base=BASE, with_keys=with_keys, max_streams=4, max_held_calls=4).test_client()

    def kill(self) -> None:
        assert self.server.process is not None
        self.server.process.kill()
        self.server.process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        assert self.server.process is not None
        os.kill(self.server.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.server.process.pid, signal.SIGCONT)

    def call(self, method: str, path: str, *, with_keys: bool = False) -> float:
        """Return the seconds after which the call is refused with 503, in the dialect of its path."""
        # A client of its own: they are called from several threads.
        api = (self.keyed if with_keys else self.api).application.test_client()
        began = clock.monotonic()
        body = {"prompt": "a fox"} if path in (WAVESPEED, FAL_QUEUE, FAL_RUN) else {"model": "srpo", "prompt": "a fox"}
        takes_body = method == "POST" and not path.endswith("/cancel")
        response = api.open(path, method=method, headers=bearer(self.key), json=body if takes_body else None)
        took = clock.monotonic() - began
        refusal(response, 503, path=path)
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        assert not self.is_named_in(response)
        return took

    def is_named_in(self, response: TestResponse) -> bool:
        """Return True if an answer contains the address of Redis, or a message of its client library."""
        result = f"{response.headers}{response.text}"
        return any(secret in result for secret in (self.server.url, str(self._data_dir), "unix", "Error 1", "Timeout"))


@contextmanager
def running_outage(data_dir: Path) -> Iterator[Outage]:
    """Yield a farm on a Redis of its own, which a test may stop."""
    outage = Outage(data_dir)
    try:
        with ended_background_threads():
            outage.begin()
            yield outage
    finally:
        outage.server.stop()


@pytest.fixture(scope="module")
def standing() -> Iterator[Outage]:
    with folder_in_memory() as data_dir, running_outage(data_dir) as outage:
        yield outage


@pytest.fixture
def outage(standing: Outage) -> Outage:
    standing.reset()
    return standing


@pytest.fixture
def dead(outage: Outage) -> Iterator[Outage]:
    outage.kill()
    yield outage
    outage.server.start()
    wait_for(lambda: post_job(outage.api).status_code == 202)


@pytest.mark.parametrize("with_keys", [False, True], ids=["open", "keyed"])
def test_a_dead_redis_is_503_soon(dead: Outage, with_keys: bool) -> None:
    for method, path in CALLS:
        assert dead.call(method, path, with_keys=with_keys) < 4


@pytest.mark.parametrize("with_keys", [False, True], ids=["open", "keyed"])
def test_a_frozen_redis_is_503_soon(outage: Outage, with_keys: bool) -> None:
    outage.farm.service.served()
    with outage.frozen(), ThreadPoolExecutor(len(CALLS)) as pool:
        times = list(pool.map(lambda call: outage.call(*call, with_keys=with_keys), CALLS))

    assert {call: took for call, took in zip(CALLS, times, strict=True) if took >= 4} == {}
    wait_for(lambda: post_job(outage.api).status_code == 202)


def test_a_direct_call_whose_redis_dies_gets_504_not_503(outage: Outage) -> None:
    """Its job is accepted: a client that repeats the call would have two."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post_request, outage.api.application.test_client(), FAL_RUN)
        (job,) = wait_for(lambda: jobs.take(outage.farm.store))
        outage.kill()
        response = answer.result()
    outage.server.start()

    assert fal_error(response, 504)["message"].endswith(f"/fal/queue/fal-ai/flux/requests/{job.id}")
    assert response.headers["X-Fal-Request-Timeout-Type"] == "user"
    wait_for(lambda: jobs.record(outage.farm.store, job.id))


def test_a_held_prediction_whose_redis_dies_is_answered_with_its_id(outage: Outage) -> None:
    with ThreadPoolExecutor(1) as pool:
        api = outage.api.application.test_client()
        answer = pool.submit(post_prediction, api, enable_sync_mode=True)
        (job,) = wait_for(lambda: jobs.take(outage.farm.store))
        outage.kill()
        response = answer.result()
    outage.server.start()

    prediction = response.get_json()["data"]
    assert (response.status_code, prediction["id"]) == (200, job.id)
    assert prediction["status"] in ("created", "processing")


@pytest.mark.parametrize("post", [post_request, post_prediction])
def test_a_submit_accepted_just_before_redis_dies_is_not_answered_with_503(
    outage: Outage, monkeypatch: pytest.MonkeyPatch, post: Callable[[FlaskClient], TestResponse]
) -> None:
    """Clients send again what is refused with 503: they would have two jobs."""
    store, accepted = outage.farm.store, []

    def submit_and_die(new: NewJob, limits: Limits, *, memory_is_shared: bool) -> Accepted:
        accepted.append(JobStore.submit(store, new, limits, memory_is_shared=memory_is_shared))
        outage.kill()
        return accepted[0]

    monkeypatch.setattr(store, "submit", submit_and_die)
    response = post(outage.api)
    monkeypatch.undo()
    outage.server.start()

    assert (response.status_code, accepted[0].id in response.text) == (200, True)
    wait_for(lambda: jobs.record(store, accepted[0].id))


def test_probes_tell_of_a_dead_redis(dead: Outage) -> None:
    metrics = dead.api.get("/metrics")

    assert dead.api.get("/healthz").status_code == 200
    readiness = dead.api.get("/readyz")
    assert (readiness.status_code, readiness.get_json()["status"]) == (503, "unready")
    assert not dead.is_named_in(readiness)
    families = {family.name: family for family in text_string_to_metric_families(metrics.text)}
    assert families["farm_store_up"].samples[0].value == 0


def test_accepted_jobs_survive_the_death_of_redis(outage: Outage) -> None:
    accepted = [submit(outage.api, seed=number) for number in range(20)]

    outage.kill()
    outage.server.start()

    assert [outage.api.get(f"/farm/v1/jobs/{job_id}").get_json()["seed"] for job_id in accepted] == list(range(20))
    assert submit(outage.api)


def test_reclaiming_survives(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker dies with Redis: its jobs are taken back one lease after Redis started again."""
    monkeypatch.setattr(periodic, "_INTERVAL_SECONDS", 0.015)
    job_id = jobs.submit(outage.farm.store)
    jobs.take_one(outage.farm.store)
    thread = PeriodicThread(outage.farm.service.reap)
    thread.start()
    try:
        outage.kill()
        outage.server.start()
        wait_for(lambda: jobs.state(outage.farm.store, job_id) is State.CREATED)
    finally:
        thread.stop()
        thread.join()


def test_reclaiming_survives_a_redis_that_refuses_writes(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic, "_INTERVAL_SECONDS", 0.015)
    client, store = outage.farm.redis, outage.farm.store
    job_id = jobs.submit(store)
    jobs.take_one(store)
    client.config_set("min-replicas-to-write", 1)
    thread = PeriodicThread(outage.farm.service.reap)
    thread.start()
    try:
        before = client.info("stats")["total_error_replies"]
        wait_for(lambda: client.info("stats")["total_error_replies"] > before + 2)
        client.config_set("min-replicas-to-write", 0)
        jobs.end_lease(client)
        wait_for(lambda: jobs.state(store, job_id) is State.CREATED)
    finally:
        client.config_set("min-replicas-to-write", 0)
        thread.stop()
        thread.join()


def test_changes_are_heard_again(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notification arrives, long before the next look into the record."""
    job_id = submit(outage.api)
    watched = outage.farm.service.watch(LOCAL, job_id, idle_seconds=60)
    next(watched)
    outage.kill()
    outage.server.start()
    wait_for(lambda: outage.farm.redis.pubsub_numsub(redis_keys.changes_channel(job_id))[0][1] > 0)
    monkeypatch.setattr(service, "_LOOK_SECONDS", 60)

    wait_for(lambda: is_cancelled(outage, job_id))

    seen = next(watched)
    assert seen is not None
    assert seen.code == "cancelled"


def is_cancelled(outage: Outage, job_id: str) -> bool:
    """Cancel a job; a connection from before the outage may fail once more."""
    with suppress(StoreUnavailable):
        return outage.farm.store.cancel(job_id) in ("cancelled", "ended")
    return False


def test_streams_that_begin_while_redis_is_frozen_do_not_wait_for_one_another(outage: Outage) -> None:
    """On a farm that has not listened for anything yet, so that each of them has to connect."""
    path = f"/farm/v1/jobs/{UNKNOWN_ID}/events"
    outage.begin()
    with outage.frozen(), ThreadPoolExecutor(4) as pool:
        times = list(pool.map(lambda _: outage.call("GET", path), range(4)))

    assert max(times) < 4


def test_a_stream_ends_with_an_error_when_redis_dies(outage: Outage) -> None:
    job_id = submit(outage.api)
    response = outage.api.get(f"/farm/v1/jobs/{job_id}/events", buffered=False)
    blocks = iter(response.response)
    assert [str(next(blocks))[:8] for _ in range(2)] == ["b'retry:", "b'id: 1."]
    outage.kill()

    last = next(blocks)

    outage.server.start()
    response.close()
    assert "store_unavailable" in str(last)


def test_deliveries_claimed_while_redis_was_frozen_are_made_soon(outage: Outage) -> None:
    """Redis answered a dropped connection when it thawed: the courier repeats its claim, long before the lease ends."""
    with running_receiver() as receiver, ThreadPoolExecutor(1) as pool:
        harness = CourierHarness(outage.farm)
        pool.submit(harness.courier.work).result()  # Redis knows the script now, so that the call arrives
        names = [f"{harness.submit(receiver.url)}-3" for _ in range(4)]
        harness.finish()
        with outage.frozen():
            working = pool.submit(harness.courier.work)
            began = clock.monotonic()
            wait_for(lambda: clock.monotonic() - began > 2)
        working.result()
        harness.until(lambda: all(harness.record(name).state is Outcome.DELIVERED for name in names))
        harness.courier.close()


def test_wake_ups_are_sent_again(outage: Outage) -> None:
    queue = f"{redis_keys.CELERY}{RENDER_QUEUE}"
    outage.farm.wake_ups.send(1)
    wait_for(lambda: outage.farm.redis.llen(queue) > 0)
    outage.kill()
    outage.farm.wake_ups.send(1)
    outage.server.start()
    outage.farm.redis.delete(queue)

    def rings() -> bool:
        outage.farm.wake_ups.send(1)
        return bool(outage.farm.redis.llen(queue))

    wait_for(rings)


class KilledAtFirst(EmbeddedRedis):
    """A server that is killed twice before it answers."""

    launches = 0

    def _launch(self) -> None:
        super()._launch()
        self.launches += 1
        if self.launches <= 2 and self.process is not None:
            self.process.kill()


def test_a_redis_that_is_killed_while_it_starts_is_started_again(tmp_path: Path) -> None:
    server = KilledAtFirst(tmp_path)
    server.start()
    try:
        assert (server.is_alive, server.launches) == (True, 3)
    finally:
        server.stop()


def test_a_redis_that_begins_a_new_file_is_asked_again_until_it_leaves(tmp_path: Path) -> None:
    """Asked once, it says that it cannot exit now, and goes on for ever."""
    with running_outage(tmp_path) as outage:
        outage.reset()
        jobs_before = [submit(outage.api, seed=seed) for seed in range(3)]
        outage.farm.redis.config_set("rdb-key-save-delay", 100_000)  # microseconds, for each of some twenty keys
        outage.farm.redis.config_set("appendonly", "no")
        outage.farm.redis.config_set("appendonly", "yes")

        began = clock.monotonic()
        outage.server.stop()

        assert clock.monotonic() - began < embedded_redis.STOP_SECONDS
        outage.server.start()
        assert [outage.farm.store.get(job) is not None for job in jobs_before] == [True, True, True]


def test_a_redis_that_does_not_leave_is_stopped_by_force_and_has_lost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farm.process.embedded_redis.STOP_SECONDS", 0.2)
    with running_outage(tmp_path) as outage:
        outage.reset()
        job = submit(outage.api)
        assert outage.server.process is not None
        os.kill(outage.server.process.pid, signal.SIGSTOP)
        outage.server.stop()
        outage.server.start()
        assert outage.farm.store.get(job) is not None
