"""The sweeper: what it removes from a folder and from a bucket, and what it keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from farm import clock
from farm.domain.delivery import Attempt, Outcome
from farm.domain.errors import StorageError, StorageUnavailable
from farm.domain.job import Claimed, Image, State, Webhook
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from farm.retention.sweep_state import SweepState
from farm.retention.sweeper import Sweeper
from farm.storage.local import LocalStorage
from farm.storage.s3 import Bucket, S3Storage
from farm.storage.storage import UNKNOWN_FARM, Page, Storage, new_key, new_upload_key, part_key
from farm.webhooks.store import DeliveryStore
from tests.s3 import S3
from tests.service.api.calls import UNKNOWN_ID
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import TERMS, submit, take_one

#: Older than everything, whatever the storage's clock says of what has just been stored.
ANY_AGE = -60.0


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    if request.param == "folder":
        return LocalStorage(tmp_path / "images")
    s3: S3 = request.getfixturevalue("s3")
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return S3Storage(Bucket.at(s3.place().url))


@pytest.fixture
def sweeper(store: JobStore, storage: Storage, client: redis.Redis) -> Sweeper:
    """Return the sweeper of a farm that has begun on an empty storage."""
    storage.mark(SweepState(client).farm_id())
    return Sweeper(store, storage=storage, sweep_state=SweepState(client))


def put(storage: Storage, job: Claimed, number: int = 0) -> str:
    """Store a new image of a job, and return its storage key."""
    key = new_key(job.id, job.fence, number, "png")
    storage.put(key, b"content")
    return key


def complete(store: JobStore, job: Claimed, *wanted: str) -> None:
    """End a job with these images."""
    images = tuple(Image(key, 256, 256, "image/png", 7) for key in wanted)
    assert store.complete(job, replace(jobs.result(job), images=images))


def names(storage: Storage) -> set[str]:
    """Return the names of all stored files."""
    page = storage.page("")
    found = set(page.entries)
    while page.cursor:
        page = storage.page(page.cursor)
        found |= set(page.entries)
    return {one.name for one in found}


def test_images_stay_until_the_terminal_webhook_is_delivered(
    sweeper: Sweeper, storage: Storage, store: JobStore, client: redis.Redis
) -> None:
    """A receiver that was away for a while is told of images that are there, and base64 answers are made of them."""
    brief, deliveries = JobStore(client, replace(TERMS, result_ttl_seconds=0.000001)), DeliveryStore(client)
    submit(store, webhook=Webhook("https://receiver.example/", frozenset({State.COMPLETED})))
    job = take_one(store)
    complete(brief, job, key := put(storage, job))
    sweeper.sweep()
    assert key in names(storage)

    (due,) = deliveries.claim(1, lease_seconds=60)
    deliveries.finish(due, Outcome.DELIVERED, Attempt(1, 0.1, 200))
    client.zadd(redis_keys.EXPIRY, {job.id: 0})
    sweeper.sweep()

    assert (key in names(storage), store.get(job.id)) == (False, None)


def test_expired_jobs_go_with_their_images_and_others_stay(
    sweeper: Sweeper, storage: Storage, store: JobStore, client: redis.Redis
) -> None:
    brief = JobStore(client, replace(TERMS, result_ttl_seconds=0.000001))
    stays, goes = [(submit(store, images=4), take_one(store))[1] for _ in range(2)]
    kept, lost = put(storage, stays), put(storage, goes)
    complete(store, stays, kept)
    complete(brief, goes, lost)

    sweeper.sweep()

    assert names(storage) == {kept}
    assert (store.get(goes.id), jobs.state(store, stays.id)) == (None, State.COMPLETED)


def test_images_of_unknown_jobs_go(sweeper: Sweeper, storage: Storage) -> None:
    storage.put(new_key(UNKNOWN_ID, 1, 0, "png"), b"content")

    sweeper.sweep(older_than=ANY_AGE)

    assert names(storage) == set()


def test_the_losers_of_a_completed_job_go_and_the_winner_stays(
    sweeper: Sweeper, storage: Storage, store: JobStore, client: redis.Redis
) -> None:
    job_id = submit(store)
    loser = take_one(store)
    put(storage, loser)
    jobs.lose(client, store, job_id)
    winner = take_one(store, "w2")
    won, doubled = put(storage, winner), put(storage, winner)
    assert won != doubled
    complete(store, winner, won)

    sweeper.sweep(older_than=ANY_AGE)

    assert names(storage) == {won}


def test_images_of_a_failed_job_go(sweeper: Sweeper, storage: Storage, store: JobStore) -> None:
    submit(store)
    job = take_one(store)
    put(storage, job)
    store.fail(job, "render_failed", "x")

    sweeper.sweep(older_than=ANY_AGE)

    assert names(storage) == set()


@pytest.mark.parametrize("taken_back", [False, True])
def test_images_of_an_attempt_that_may_still_win_stay(
    sweeper: Sweeper, storage: Storage, store: JobStore, client: redis.Redis, taken_back: bool
) -> None:
    """Their age does not matter: their worker may have been silent for long, but no other has claimed the job since."""
    job_id = submit(store, images=2)
    job = take_one(store)
    key = put(storage, job)
    if taken_back:
        jobs.lose(client, store, job_id)

    sweeper.sweep(older_than=ANY_AGE)

    assert names(storage) == {key}


def test_images_of_an_attempt_that_was_given_up_go(sweeper: Sweeper, storage: Storage, store: JobStore) -> None:
    submit(store)
    job = take_one(store)
    put(storage, job)
    store.fail(job, "render_failed", "x", retry="again")

    sweeper.sweep(older_than=ANY_AGE)

    assert names(storage) == set()


def test_a_redis_that_was_emptied_costs_no_image(
    sweeper: Sweeper, storage: Storage, store: JobStore, client: redis.Redis
) -> None:
    """Another Redis, set by mistake, is the same case."""
    submit(store)
    key = put(storage, take_one(store))
    client.flushall()

    sweeper.sweep(older_than=ANY_AGE)

    assert names(storage) == {key}
    assert len(storage.marks()) == 2


def test_a_farm_does_not_remove_images_of_another_farm_on_its_storage(
    sweeper: Sweeper, storage: Storage, store: JobStore, client: redis.Redis
) -> None:
    first = SweepState(client).farm_id()
    client.flushall()  # stands for the Redis of the second
    sweeper.sweep(older_than=ANY_AGE)
    submit(store)
    key = put(storage, take_one(store))
    client.flushall()
    client.set(redis_keys.FARM_ID, first)

    sweeper.sweep(older_than=ANY_AGE)

    assert names(storage) == {key}


def test_a_farm_that_shares_its_storage_says_so_once_a_turn_and_forgets_its_own_jobs(
    sweeper: Sweeper, storage: Storage, store: JobStore, client: redis.Redis
) -> None:
    storage.mark("0" * 32)
    submit(store)
    job = take_one(store)
    put(storage, job)
    complete(JobStore(client, replace(TERMS, result_ttl_seconds=0.000001)), job)
    strange = new_key(UNKNOWN_ID, 1, 0, "png")
    storage.put(strange, b"content")

    with capture_logs() as logs:
        sweeper.run_once()
        sweeper.run_once()

    (result,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert result["marks"] == ["farm-id-" + "0" * 32]
    assert "remove the other marks" in result["remedy"]
    assert (names(storage), store.get(job.id)) == ({strange}, None)


@pytest.mark.parametrize("own_first", [False, True])
def test_images_that_were_there_before_any_mark_stay_until_the_operator_says_whose_they_are(
    storage: Storage, store: JobStore, client: redis.Redis, own_first: bool
) -> None:
    submit(store)
    own = new_key(take_one(store).id, 1, 0, "png")
    strange = new_key(f"{'f' if own_first else '0'}{UNKNOWN_ID[1:]}", 1, 0, "png")
    for key in (own, strange):
        storage.put(key, b"content")
    sweeper = Sweeper(store, storage=storage, sweep_state=SweepState(client))

    sweeper.sweep(older_than=ANY_AGE)

    assert names(storage) == {own, strange}
    assert storage.marks() == {UNKNOWN_FARM, SweepState(client).farm_id()}


def test_a_first_mark_is_left_where_every_image_is_known(
    storage: Storage, store: JobStore, client: redis.Redis
) -> None:
    """Orphans are deleted at once."""
    submit(store)
    job = take_one(store)
    put(storage, job)
    store.fail(job, "render_failed", "x")

    Sweeper(store, storage=storage, sweep_state=SweepState(client)).sweep(older_than=ANY_AGE)

    assert (names(storage), storage.marks()) == (set(), {SweepState(client).farm_id()})


def test_a_young_image_is_not_removed(sweeper: Sweeper, storage: Storage) -> None:
    """It may have been stored after the records were looked at."""
    storage.put(new_key(UNKNOWN_ID, 1, 0, "png"), b"content")

    sweeper.sweep()
    sweeper.run_once()

    assert len(names(storage)) == 1


def test_a_job_that_cannot_be_removed_hinders_no_other_and_comes_again(
    store: JobStore, client: redis.Redis, tmp_path: Path
) -> None:
    class Stubborn(LocalStorage):
        def delete_job(self, job_id: str) -> None:
            if job_id == stuck.id:
                raise StorageError("It cannot be removed.")
            super().delete_job(job_id)

    storage = Stubborn(tmp_path)
    brief = JobStore(client, replace(TERMS, result_ttl_seconds=0.000001))
    stuck, *others = [(submit(store, images=4), take_one(store))[1] for _ in range(4)]
    for job in (stuck, *others):
        complete(brief, job, put(storage, job))
    sweeper = Sweeper(store, storage=storage, sweep_state=SweepState(client))

    sweeper.sweep()

    assert [store.get(job.id) for job in others] == [None] * 3
    assert client.zrange(redis_keys.EXPIRY, 0, -1) == [stuck.id]
    assert store.claim_expired() == []
    client.zadd(redis_keys.EXPIRY, {stuck.id: 0})
    assert store.claim_expired() == [stuck.id]


def test_a_storage_that_is_down_is_not_asked_for_each_of_many(
    store: JobStore, client: redis.Redis, tmp_path: Path
) -> None:
    asked = []

    class Down(LocalStorage):
        def delete_job(self, job_id: str) -> None:
            asked.append(job_id)
            raise StorageUnavailable

    brief = JobStore(client, replace(TERMS, result_ttl_seconds=0.000001))
    for _ in range(10):
        submit(store, images=4)
        complete(brief, take_one(store))

    Sweeper(store, storage=Down(tmp_path), sweep_state=SweepState(client)).sweep()

    assert len(asked) == 3
    assert len(client.zrange(redis_keys.EXPIRY, 0, -1)) == 10


def test_one_process_at_a_time_looks_page_by_page_through_what_is_stored(
    store: JobStore, client: redis.Redis, tmp_path: Path
) -> None:
    looked = []

    class Counting(LocalStorage):
        def page(self, cursor: str) -> Page:
            looked.append(cursor)
            return super().page(cursor)

    storage = Counting(tmp_path)
    for number in range(3):
        storage.put(new_key(f"{number}{number}{UNKNOWN_ID[2:]}", 1, 0, "png"), b"content")
    storage.mark(SweepState(client).farm_id())
    processes = [Sweeper(store, storage=storage, sweep_state=SweepState(client)) for _ in range(3)]

    for _ in range(4):
        for process in processes:
            process.run_once()
        client.delete(redis_keys.SWEEP_LOCK)  # a minute is over

    assert looked == ["", "00", "11", ""]


@pytest.mark.parametrize(("shared", "hours"), [(False, 0), (True, 0), (False, 48)])
def test_uploads_whose_time_is_over_go_with_their_parts_and_others_stay(
    sweeper: Sweeper, storage: Storage, monkeypatch: pytest.MonkeyPatch, shared: bool, hours: int
) -> None:
    """Another farm's, too: their names tell. For a while a job may still ask for one that it was accepted with.

    Of the time Redis's clock decides: one machine whose clock is ahead would remove what has just arrived.
    """
    if shared:
        storage.mark("0" * 32)
    now = clock.now_us() // 1_000_000
    old, just_over, young = (new_upload_key("png", until=now + after) for after in (-4000, -60, 60))
    parts = [part_key(key, 1, "0" * 64) for key in (old, just_over, young)]
    for name in (old, just_over, young, *parts):
        storage.put(name, b"upload")
    now_us = clock.now_us
    monkeypatch.setattr(clock, "now_us", lambda: now_us() + hours * 3_600_000_000)

    sweeper.sweep(older_than=ANY_AGE)

    assert names(storage) == {just_over, young, *parts[1:]}


def test_uploads_are_no_sign_of_another_farm(storage: Storage, store: JobStore, client: redis.Redis) -> None:
    key = new_upload_key("png", until=9_999_999_999)
    storage.put(key, b"upload")

    Sweeper(store, storage=storage, sweep_state=SweepState(client)).sweep(older_than=ANY_AGE)

    assert (names(storage), storage.marks()) == ({key}, {SweepState(client).farm_id()})
