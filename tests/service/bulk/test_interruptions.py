"""Batches whose background process dies or stalls, or whose storage is away: no line is lost, and none is doubled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, BinaryIO

import openai
import pytest
from flask.testing import FlaskClient

from farm.auth.api_keys import LOCAL
from farm.bootstrap import Farm
from farm.bulk.store import BulkStore
from farm.bulk.validation import FileCheck
from farm.domain.bulk import BulkState, Endpoint, NewBulk, Progress, new_bulk_id
from farm.domain.errors import BulkEnded, StorageUnavailable, StoreUnavailable
from farm.domain.job import BulkLine
from farm.jobstore import redis_keys
from farm.storage.local import LocalStorage
from farm.storage.storage import Chunks, parse_key
from farm.webhooks.courier import Courier
from tests.farms import wait_for
from tests.service.bulk.bulks import (
    BATCHES,
    FILES,
    BulkHarness,
    HarnessOpener,
    create,
    job_ids,
    post_batch,
    request,
    upload,
)
from tests.service.jobstore import jobs
from tests.service.webhooks.test_courier import CourierHarness
from tests.service.workers.worker import folder_of
from tests.webhook_receiver import Receiver, answer, running_receiver
from workers.bulk import MAX_FAULTS

KEPT_BYTES = redis_keys.PREFIX + "kept_bytes"
RESULTS = ("output_file_id", "error_file_id")
ENDPOINT: Endpoint = "/v1/images/generations"


class AwayStorage(LocalStorage):
    """A storage that refuses the calls of these numbers, counted from 1 for each kind."""

    def __init__(self, farm: Farm, **refused: Sequence[int]) -> None:
        super().__init__(folder_of(farm.storage))
        self.calls: Counter[str] = Counter()
        self._refused = refused

    def open(self, key: str, start: int, stop: int) -> Chunks:
        self._refuse("open")
        return super().open(key, start, stop)

    def put_file(self, key: str, file: BinaryIO) -> None:
        self._refuse("put_file")
        super().put_file(key, file)

    def _refuse(self, call: str) -> None:
        self.calls[call] += 1
        if self.calls[call] in self._refused[call]:
            raise StorageUnavailable


def deliver(courier: Courier, receiver: Receiver, count: int) -> None:
    """Let the courier work until so many requests have come."""

    def look() -> bool:
        courier.work()
        return len(receiver.received) == count

    wait_for(look)


def results(harness: BulkHarness, batch: dict[str, Any]) -> list[str]:
    """Return the ids of all lines in both result files."""
    files = (batch["output_file_id"], batch["error_file_id"])
    return sorted(line["custom_id"] for file in files for line in harness.lines(file))


def test_lines_whose_submit_was_not_recorded_become_no_second_job(
    harness: BulkHarness, api: FlaskClient, farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the process had died between the two, three times."""
    advance, left = BulkStore.advance, [3]

    def dying(self: BulkStore, *arguments: Any) -> bool:
        left[0] -= 1
        if left[0] >= 0:
            raise StoreUnavailable
        return advance(self, *arguments)

    monkeypatch.setattr(BulkStore, "advance", dying)
    batch = harness.end_of(create(api, *map(request, range(5)), request("bad", n=99)))

    assert left[0] < 0
    assert len(job_ids(farm)) == 5
    assert batch["request_counts"] == {"total": 6, "completed": 5, "failed": 1}
    assert results(harness, batch) == sorted([*(f"r{number}" for number in range(5)), "rbad"])


def test_another_process_goes_on_where_a_dead_one_stopped(harness: BulkHarness, api: FlaskClient, farm: Farm) -> None:
    batch_id = create(api, *map(request, range(4)))
    lost = farm.bulks.claim(lease_seconds=0)
    assert lost
    assert lost.id == batch_id

    batch = harness.end_of(batch_id)

    assert batch["status"] == "completed"
    assert not farm.bulks.advance(lost, Progress(1, 1), {7: "x"})
    assert not farm.bulks.change(lost, BulkState.FAILED)
    farm.bulks.release(lost, pause_seconds=0)
    assert farm.bulks.claim(lease_seconds=30) is None
    assert harness.batch(batch_id) == batch


@pytest.mark.parametrize("happens", ["the last job ends", "the caller cancels"])
def test_a_change_during_a_look_at_a_batch_is_noticed_at_once(
    harness: BulkHarness, api: FlaskClient, farm: Farm, happens: str
) -> None:
    """It had looked before, and wants to look again in a minute."""
    batch_id = create(api, request(0))
    harness.until(lambda: len(job_ids(farm)) == 1, renders=False)
    wait_for(lambda: not farm.redis.hexists(f"{redis_keys.PREFIX}bulk:{batch_id}", "leased"))
    farm.redis.zadd(f"{redis_keys.PREFIX}bulk_due", {batch_id: 0})
    leased = farm.bulks.claim(60)
    assert leased
    if happens == "the last job ends":
        job = jobs.take_one(farm.store)
        farm.store.complete(job, jobs.result(job))
    else:
        api.post(f"{BATCHES}/{batch_id}/cancel")

    farm.bulks.release(leased, pause_seconds=60)

    assert farm.bulks.claim(60)


def test_a_bulk_of_a_process_that_is_seen_to_die_is_due_at_once(
    harness: BulkHarness, api: FlaskClient, farm: Farm
) -> None:
    batch_id = create(api, *map(request, range(4)))
    assert farm.bulks.claim(60, "b1")
    assert farm.bulks.claim(60, "b2") is None

    assert farm.store.worker_died("b2") == 0
    assert farm.store.worker_died("b1") == 1

    assert harness.end_of(batch_id)["status"] == "completed"
    assert farm.store.worker_died("b1") == 0


def test_no_line_becomes_a_job_once_its_batch_has_ended(harness: BulkHarness, api: FlaskClient, farm: Farm) -> None:
    """A process that comes back from a stall may still have some."""
    batch_id = create(api, request(1))
    api.post(f"{BATCHES}/{batch_id}/cancel")
    late = replace(jobs.new_job("local"), line=BulkLine(batch_id, 1, "url"))

    for _ in range(2):
        with pytest.raises(BulkEnded):
            farm.store.submit(late)
        harness.end_of(batch_id)

    assert job_ids(farm) == []


@pytest.mark.parametrize(
    ("opened", "put"),
    [((1, 2, 3), (1, 2, 3)), ((2, 4), (2,))],
    ids=["while lines are checked", "while they become jobs, and between both files of results"],
)
def test_a_storage_that_is_away_delays_a_batch_and_loses_nothing(
    harness: BulkHarness, api: FlaskClient, farm: Farm, opened: Sequence[int], put: Sequence[int]
) -> None:
    batch_id = create(api, *map(request, range(5)), request(5, n=99))
    away = AwayStorage(farm, open=opened, put_file=put)
    harness.runner.close()
    harness.runner = harness.open_runner(away)

    batch = harness.end_of(batch_id)

    assert away.calls["open"] > opened[-1]
    assert away.calls["put_file"] > put[-1]
    assert batch["request_counts"] == {"total": 6, "completed": 5, "failed": 1}
    assert results(harness, batch) == [f"r{number}" for number in range(6)]
    assert len(job_ids(farm)) == 5


def test_a_batch_whose_step_fails_again_and_again_ends(
    harness: BulkHarness, api: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.bulk.RETRY_SECONDS", 0)
    attempts: list[None] = []

    def broken(*_: Any, **__: Any) -> None:
        attempts.append(None)
        raise ValueError

    monkeypatch.setattr(FileCheck, "check", broken)
    batch = harness.end_of(create(api, request(1)))

    assert (batch["status"], len(attempts)) == ("failed", MAX_FAULTS)
    assert [error["code"] for error in batch["errors"]["data"]] == ["internal_error"]


@contextmanager
def memory_limit(farm: Farm, limit: int) -> Iterator[None]:
    """Limit Redis's memory to so many bytes."""
    farm.redis.config_set("maxmemory", limit)
    try:
        yield
    finally:
        farm.redis.config_set("maxmemory", 0)


def test_lines_wait_while_nothing_new_is_accepted(
    harness: BulkHarness, api: FlaskClient, farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that cannot become jobs: their errors take memory as well."""
    monkeypatch.setattr("workers.bulk.RETRY_SECONDS", 0)
    monkeypatch.setattr("farm.jobstore.memory_guard.MEMORY_READING_SECONDS", 0)
    batch_id = create(api, *(request(number, n=99) for number in range(3)))
    key = redis_keys.bulk(batch_id)

    with memory_limit(farm, round(farm.redis.info("memory")["used_memory"] / 0.88)):
        harness.until_in(batch_id, "in_progress", renders=False)
        looks = int(farm.redis.hget(key, "fence") or 0)
        harness.until(lambda: int(farm.redis.hget(key, "fence") or 0) > looks + 2, renders=False)
        assert farm.redis.exists(redis_keys.bulk_line_errors(batch_id)) == 0

    assert harness.end_of(batch_id)["request_counts"] == {"total": 3, "completed": 0, "failed": 3}


def test_errors_of_lines_wait_while_their_caller_keeps_as_much_as_one_may(
    open_harness: HarnessOpener,
    keyed: FlaskClient,
    farm: Farm,
    ada: dict[str, str],
    bob: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.bulk.MAX_LIMIT_PAUSE_SECONDS", 0)
    monkeypatch.setattr("farm.jobstore.memory_guard.MEMORY_READING_SECONDS", 0)
    harness = open_harness(keyed)
    with memory_limit(farm, 2 * farm.redis.info("memory")["used_memory"]):
        hers, his = [create(keyed, request(1, n=99), headers=headers) for headers in (ada, bob)]
        farm.redis.hset(KEPT_BYTES, "ada", farm.redis.info("memory")["maxmemory"])
        refused = post_batch(keyed, upload(keyed, request(1), headers=ada), ada)
        assert (refused.status_code, "batches" in refused.get_json()["error"]["message"]) == (429, True)

        assert harness.end_of(his, bob)["request_counts"]["failed"] == 1
        harness.until_in(hers, "in_progress", headers=ada)
        looks = int(farm.redis.hget(redis_keys.bulk(hers), "fence") or 0)
        harness.until(lambda: int(farm.redis.hget(redis_keys.bulk(hers), "fence") or 0) > looks + 2)
        assert harness.batch(hers, ada)["request_counts"]["failed"] == 0

        farm.redis.hset(KEPT_BYTES, "ada", 0)
        assert harness.end_of(hers, ada)["request_counts"]["failed"] == 1


def test_a_batch_counts_for_the_memory_of_its_caller_until_its_record_expires(
    harness: BulkHarness, api: FlaskClient, farm: Farm
) -> None:
    def kept_bytes() -> int:
        jobs_bytes = sum(int(farm.redis.hget(redis_keys.job(job_id), "bytes") or 0) for job_id in job_ids(farm))
        return int(farm.redis.hget(KEPT_BYTES, LOCAL.id) or 0) - jobs_bytes

    batch_id = create(api, request(1), request(2, n=99), metadata={"night": "x" * 512})
    of_record = kept_bytes()
    harness.until(lambda: farm.redis.exists(redis_keys.bulk_line_errors(batch_id)), renders=False)
    (error,) = farm.redis.hvals(redis_keys.bulk_line_errors(batch_id))
    assert (of_record > 1000, kept_bytes() > of_record + len(error)) == (True, True)

    harness.end_of(batch_id)
    assert of_record <= kept_bytes() < of_record + len(error)
    farm.redis.zadd(redis_keys.PREFIX + "bulk_expiry", {batch_id: 0})
    farm.bulks.claim(30)
    assert kept_bytes() == 0


def test_accepted_work_ends_while_the_job_store_is_full(harness: BulkHarness, api: FlaskClient, farm: Farm) -> None:
    batch_id = create(api, *map(request, range(3)), request(3, n=99))
    harness.until(lambda: len(job_ids(farm)) == 3, renders=False)
    done, running = jobs.take(farm.store, "w")

    with memory_limit(farm, 1):
        farm.store.complete(done, jobs.result(done))
        assert api.post(f"{BATCHES}/{batch_id}/cancel").get_json()["status"] == "cancelling"
        harness.until(lambda: jobs.record(farm.store, running.id).cancelling, renders=False)
        farm.store.fail(running, "cancelled", "x")
        batch = harness.until_in(batch_id, "cancelled", renders=False)

    assert batch["request_counts"] == {"total": 4, "completed": 1, "failed": 3}


def test_a_file_that_vanishes_fails_its_batch(harness: BulkHarness, api: FlaskClient, farm: Farm) -> None:
    batch_id = create(api, request(1))
    bulk = farm.bulks.get(batch_id)
    assert bulk
    farm.storage.remove(bulk.key)

    (error,) = harness.end_of(batch_id)["errors"]["data"]

    assert (error["code"], error["line"]) == ("file_not_found", None)


def test_jobs_images_and_results_of_a_batch_expire_with_it(harness: BulkHarness, api: FlaskClient, farm: Farm) -> None:
    """Its jobs, images and results are kept until the same time, however early it has ended."""
    batch = harness.end_of(create(api, *map(request, range(3)), request(3, n=99)))
    bulk = farm.bulks.get(batch["id"])
    assert bulk

    expiries = {farm.store.expires_us(job_id) for job_id in job_ids(farm)}
    assert expiries == {bulk.kept_until_us}
    assert {api.get(f"{FILES}/{batch[name]}").get_json()["expires_at"] for name in RESULTS} == {
        bulk.kept_until_us // 1_000_000
    }
    for name in RESULTS:
        file = farm.bulk_files.get(LOCAL, batch[name])
        until = parse_key(file.key)
        assert until
        assert until.until == bulk.kept_until_us // 1_000_000
    assert farm.redis.exists(redis_keys.bulk_open(bulk.id), redis_keys.bulk_line_errors(bulk.id)) == 0


def test_files_of_results_expire_as_early_as_their_caller_asked(harness: BulkHarness, api: FlaskClient) -> None:
    early = {"anchor": "created_at", "seconds": 3600}
    batch = harness.end_of(create(api, request(1), request(2, n=99), output_expires_after=early))

    files = [api.get(f"{FILES}/{batch[name]}").get_json() for name in RESULTS]
    assert [file["expires_at"] - file["created_at"] for file in files] == [3600, 3600]


@pytest.mark.parametrize(
    ("lines", "window_seconds", "cancels", "event"),
    [
        ([request(1)], 60, False, "batch.completed"),
        ([b"no request"], 60, False, "batch.failed"),
        ([request(1)], 0.001, False, "batch.expired"),
        ([request(1)], 60, True, "batch.cancelled"),
    ],
)
def test_the_webhook_of_a_batch_is_verified_by_openais_library(
    harness: BulkHarness,
    api: FlaskClient,
    farm: Farm,
    lines: list[Any],
    window_seconds: float,
    cancels: bool,
    event: str,
) -> None:
    file = farm.bulk_files.get(LOCAL, upload(api, *lines))
    with running_receiver() as receiver, closing(CourierHarness(farm).courier) as courier:
        new = NewBulk(new_bulk_id(), "local", ENDPOINT, file, "1m", window_seconds, webhook=f"{receiver.url}/hook")
        farm.bulks.create(new)
        if cancels:
            api.post(f"{BATCHES}/{new.id}/cancel")
        harness.end_of(new.id)
        deliver(courier, receiver, 1)
        (came,) = receiver.received

    client = openai.OpenAI(api_key="k", webhook_secret=farm.secrets.of("local"))
    notified = client.webhooks.unwrap(came.body, came.headers).model_dump()
    assert (notified["type"], notified["data"], notified["object"]) == (event, {"id": new.id}, "event")
    delivery = api.get("/farm/v1/deliveries").get_json()["deliveries"][0]
    assert (delivery["job"], delivery["event"], came.headers["webhook-id"]) == (new.id, event, delivery["id"])


def test_the_webhook_of_a_batch_goes_to_the_url_of_its_call(harness: BulkHarness, api: FlaskClient) -> None:
    batch_id = create(api, b"no request", webhook_url="https://93.184.216.34/hook")
    harness.end_of(batch_id)

    (delivery,) = api.get("/farm/v1/deliveries").get_json()["deliveries"]
    assert (delivery["job"], delivery["event"]) == (batch_id, "batch.failed")
    assert delivery["receiver"] == "https://93.184.216.34"


def test_the_webhook_of_a_batch_is_tried_again(harness: BulkHarness, api: FlaskClient, farm: Farm) -> None:
    file = farm.bulk_files.get(LOCAL, upload(api, b"no request"))
    with running_receiver() as receiver, closing(CourierHarness(farm).courier) as courier:
        receiver.behave = answer(503)
        new = NewBulk(new_bulk_id(), "local", ENDPOINT, file, "1m", 60, webhook=receiver.url)
        farm.bulks.create(new)
        harness.end_of(new.id)
        deliver(courier, receiver, 2)

        first, second = receiver.received
        assert (first.headers["webhook-id"], first.json["id"]) == (second.headers["webhook-id"], second.json["id"])
