"""The life of a batch in a worker: rendered, checked, stored, and only then completed."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from PIL import Image

from farm import clock
from farm.bootstrap import Farm
from farm.domain.errors import NotFound, StorageError, StoreUnavailable
from farm.domain.job import Claimed, Conditions, State
from farm.domain.request import ImageRequest
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from farm.storage.local import LocalStorage
from farm.storage.storage import Storage
from tests.farms import wait_for
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import TERMS, submit
from tests.service.workers.worker import (
    Broken,
    Counting,
    FailingStorage,
    Flagging,
    Opened,
    Stepwise,
    WorkerHarness,
    folder_of,
)
from workers import claims, health, publish
from workers.health import MAX_FAILURES_IN_A_ROW
from workers.pipelines.pipeline import NO_INPUTS, InputImages, RenderedImage
from workers.pipelines.simulated import SimulatedImage, SimulatedPipeline


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses of a worker: after repeated failures, and between looks for jobs, as these steps are short."""
    monkeypatch.setattr(health, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(claims, "_PAUSE", 0.0)


@pytest.fixture
def store(farm: Farm) -> JobStore:
    """Return a store with two attempts per job, so that tests that use them up are short."""
    return JobStore(farm.redis, replace(TERMS, max_attempts=2))


def pixels(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        return image.tobytes()


def test_a_job_is_rendered_stored_and_completed(open_worker: Opened, store: JobStore) -> None:
    job_id = submit(store, width=301, height=257, images=2, output_format="png")
    shop = open_worker()

    job = shop.end_of(job_id)

    assert (job.state, job.attempt) == (State.COMPLETED, 1)
    assert job.result is not None
    assert job.result.build == SimulatedPipeline(0).build
    assert [(image.width, image.height, image.content_type) for image in job.result.images] == [
        (301, 257, "image/png")
    ] * 2
    assert [image.bytes for image in job.result.images] == [len(content) for content in shop.images(job)]
    assert len({pixels(content) for content in shop.images(job)}) == 2


def test_every_stage_is_timed(open_worker: Opened, store: JobStore) -> None:
    job_id = submit(store, steps=3, images=2)
    job = open_worker(pipeline=SimulatedPipeline(step_ms=5)).end_of(job_id)

    assert job.result is not None
    timings = job.result.timings
    assert {"start", "denoise", "inference", "encode", "upload"} <= set(timings)
    assert all(seconds >= 0 for seconds in timings.values())
    assert 0.015 <= timings["denoise"] <= timings["inference"] < 5
    assert timings["full_steps"] == 2 * 3


def test_full_steps_are_reported_beside_the_requested_steps(open_worker: Opened, store: JobStore) -> None:
    job_id = submit(store, steps=28, acceleration="regular", output_format="png")
    shop = open_worker()
    job = shop.end_of(job_id)

    assert job.result is not None
    assert job.result.timings["full_steps"] == 14
    with Image.open(io.BytesIO(shop.images(job)[0])) as file:
        parameters = json.loads(file.text["parameters"])  # type: ignore[attr-defined]  # a PNG file has texts
    assert (parameters["acceleration"], parameters["steps"], parameters["full_steps"]) == ("regular", 28, 14)


def test_everything_that_waits_is_rendered(open_worker: Opened, store: JobStore) -> None:
    wanted = [submit(store, seed=number) for number in range(10)]
    shop = open_worker()

    shop.work()

    assert {shop.end_of(job_id).state for job_id in wanted} == {State.COMPLETED}


@pytest.mark.parametrize("output_format", ["png", "jpeg"])
def test_the_same_seed_gives_the_same_image_alone_and_in_company(
    open_worker: Opened, store: JobStore, output_format: str
) -> None:
    shop = open_worker()
    alone = shop.end_of(submit(store, seed=7, output_format=output_format))
    mates = [submit(store, seed=seed, output_format=output_format) for seed in (6, 7)]
    series = shop.end_of(submit(store, seed=5, images=4, output_format=output_format))

    (expected,) = shop.images(alone)
    in_company = shop.end_of(mates[1])

    assert shop.images(in_company) == [expected]
    assert shop.images(series)[2] == expected
    assert shop.images(series)[1] == shop.images(shop.end_of(mates[0]))[0]


def test_the_same_image_comes_again_after_a_crash(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    shop = open_worker()
    (expected,) = shop.images(shop.end_of(submit(store, seed=7)))
    again = submit(store, seed=7)
    jobs.take_one(store, "dead")
    wait_for(lambda: jobs.lose(farm.redis, store, again) or jobs.state(store, again) is State.CREATED)

    job = shop.end_of(again)

    assert (job.attempt, shop.images(job)) == (2, [expected])


def test_images_are_stored_before_the_job_is_completed(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    """While the second of two images is on its way to storage the job is still processing."""
    go = threading.Event()
    storage = FailingStorage(farm.storage, StorageError(), lambda tried: tried == 0 or go.wait(10))
    shop = open_worker(storage=storage)
    job_id = submit(store, images=2)
    shop.work()
    wait_for(lambda: storage.tried == 2)
    assert jobs.state(store, job_id) is State.PROCESSING

    go.set()

    assert len(shop.images(shop.end_of(job_id))) == 2


def test_progress_is_visible_while_a_job_runs(open_worker: Opened, store: JobStore) -> None:
    pipeline = Stepwise()
    shop = open_worker(pipeline=pipeline)
    job_id = submit(store, steps=3, images=2)
    shop.begin()
    pipeline.go(4)

    wait_for(lambda: jobs.record(store, job_id).step == 4)

    pipeline.go(1)
    shop.join()
    assert shop.end_of(job_id).state is State.COMPLETED


def test_a_cancelled_job_stops_within_one_step(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    pipeline = Stepwise()
    shop = open_worker(pipeline=pipeline)
    job_id = submit(store, steps=50)
    shop.begin()
    pipeline.go(3)

    assert store.cancel(job_id) == "stopping"
    wait_for(lambda: shop.lease.must_stop(claimed(store, job_id)))
    pipeline.go(1)
    shop.join()

    job = shop.end_of(job_id)
    assert (job.state, job.code, job.result) == (State.FAILED, "cancelled", None)
    assert pipeline.steps == [(7, 0), (7, 1), (7, 2), (7, 3)]


def claimed(store: JobStore, job_id: str) -> Claimed:
    """Return the job as its worker knows it."""
    job = jobs.record(store, job_id)
    return Claimed(job.id, job.fence, job.attempt, job.request)


def test_the_mates_of_a_cancelled_job_go_on(open_worker: Opened, store: JobStore) -> None:
    pipeline = Stepwise()
    shop = open_worker(pipeline=pipeline)
    cancelled, kept = submit(store, steps=3), submit(store, steps=3)
    shop.begin()
    pipeline.go(2)

    store.cancel(cancelled)
    wait_for(lambda: shop.lease.must_stop(claimed(store, cancelled)))
    pipeline.go(3)
    shop.join()

    assert shop.end_of(cancelled).code == "cancelled"
    assert (shop.end_of(kept).state, shop.end_of(kept).attempt) == (State.COMPLETED, 1)


def test_a_job_that_is_cancelled_while_it_is_published_ends_cancelled(
    open_worker: Opened, store: JobStore, farm: Farm
) -> None:
    go = threading.Event()
    storage = FailingStorage(farm.storage, StorageError(), lambda _: go.wait(10))
    shop = open_worker(storage=storage)
    job_id = submit(store)
    shop.work()
    store.cancel(job_id)

    go.set()

    job = shop.end_of(job_id)
    assert (job.state, job.code, job.result) == (State.FAILED, "cancelled", None)


def test_draining_hands_back_what_is_not_denoised(open_worker: Opened, store: JobStore) -> None:
    """At once, uncounted, and before later jobs."""
    pipeline = Stepwise()
    shop = open_worker(pipeline=pipeline)
    short, long = submit(store, steps=2), submit(store, steps=50)
    later = submit(store, width=512)
    shop.begin()
    pipeline.go(3)

    shop.draining.set()
    pipeline.go(1)
    shop.join()

    wait_for(lambda: jobs.state(store, short) is State.COMPLETED)
    handed_back = jobs.record(store, long)
    assert (handed_back.state, handed_back.attempt, handed_back.step) == (State.CREATED, 0, 0)
    assert jobs.ids(jobs.take(store, "w2")) == [long]
    assert jobs.state(store, later) is State.CREATED


def test_a_draining_worker_takes_nothing_new(open_worker: Opened, store: JobStore) -> None:
    job_id = submit(store)
    shop = open_worker()
    shop.draining.set()

    shop.work()

    assert jobs.state(store, job_id) is State.CREATED


def submit_suspect(farm: Farm, store: JobStore, **fields: Any) -> str:
    """Submit a job whose first attempt was counted: it may have killed its worker."""
    job_id = submit(store, **fields)
    farm.redis.hset(redis_keys.job(job_id), "attempt", 1)
    return job_id


@pytest.mark.parametrize("first", ["suspect", "other"])
def test_nothing_is_rendered_beside_a_job_that_may_have_killed_a_worker(
    open_worker: Opened, store: JobStore, farm: Farm, first: str
) -> None:
    """Publishing counts, too, its own and other jobs': jobs that died with it would be charged as well."""
    go, pipeline = threading.Event(), Broken()
    storage = FailingStorage(farm.storage, StorageError(), lambda _: go.wait(20))
    shop = open_worker(storage=storage, pipeline=pipeline)
    suspect, other = partial(submit_suspect, farm, store, prompt="suspect"), partial(submit, store, prompt="other")
    submits = [suspect, other] if first == "suspect" else [other, suspect]
    ids = [submits[0](images=4), submits[1](images=3)]
    shop.begin()
    wait_for(lambda: storage.tried == 2, what="the first one on its way to storage")  # by two threads

    assert not wait_in_vain(lambda: len(pipeline.flights) > 1)
    assert [jobs.state(store, job_id) for job_id in ids] == [State.PROCESSING, State.CREATED]
    go.set()
    shop.join()

    assert pipeline.flights == [[first] * 4, [{"suspect": "other", "other": "suspect"}[first]] * 3]
    assert {shop.end_of(job_id).state for job_id in ids} == {State.COMPLETED}


def wait_in_vain(condition: Callable[[], bool]) -> bool:
    """Return True if the condition comes true within a fifth of a second, which it should not."""
    try:
        return wait_for(condition, seconds=0.2)
    except AssertionError:
        return False


def test_a_job_that_breaks_the_pipeline_harms_no_other(open_worker: Opened, store: JobStore) -> None:
    """The batch is tried again one by one; only the culprit fails, after its attempts."""
    pipeline = Broken()
    shop = open_worker(pipeline=pipeline)
    innocent = [submit(store, prompt=f"fox {number}") for number in range(3)]
    culprit = submit(store, prompt="poison")

    job = shop.end_of(culprit)

    assert [(end.state, end.attempt) for end in map(shop.end_of, innocent)] == [(State.COMPLETED, 1)] * 3
    assert (job.state, job.code, job.attempt, job.result) == (State.FAILED, "render_failed", 2, None)
    assert job.error == "The pipeline could not render the image (ValueError)."
    assert sorted(map(len, pipeline.failed)) == [1, 1, 4]
    assert all([f"fox {number}"] in pipeline.flights for number in range(3))


def test_finished_images_of_a_broken_batch_are_not_rendered_again(open_worker: Opened, store: JobStore) -> None:
    pipeline = Broken()
    shop = open_worker(pipeline=pipeline)
    done, culprit = submit(store, prompt="fox", steps=1), submit(store, prompt="poison", steps=2)

    assert shop.end_of(culprit).state is State.FAILED
    assert shop.end_of(done).state is State.COMPLETED


class AlteringPipeline(SimulatedPipeline):
    """Renders what `change` makes of each image."""

    def __init__(self, change: Callable[[RenderedImage], RenderedImage]) -> None:
        super().__init__(step_ms=0)
        self._change = change

    def finish(self, image: SimulatedImage) -> RenderedImage:
        return self._change(super().finish(image))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": (255, 256)}, "196608 bytes of (255, 256)"),
        ({"pixels": bytes(256 * 256)}, "65536 bytes of (256, 256)"),
    ],
    ids=["the wrong size", "no colours"],
)
def test_an_image_that_does_not_fit_the_request_is_not_published(
    open_worker: Opened, store: JobStore, farm: Farm, change: dict[str, Any], words: str
) -> None:
    storage = FailingStorage(farm.storage, StorageError(), lambda _: True)
    pipeline = AlteringPipeline(lambda rendered: replace(rendered, **change))

    job = open_worker(pipeline=pipeline, storage=storage).end_of(submit(store))

    assert (job.state, job.code, storage.tried) == (State.FAILED, "render_failed", 0)
    assert words in job.error


def test_a_batch_that_does_not_fit_into_memory_is_retried_job_by_job(open_worker: Opened, farm: Farm) -> None:
    """Only what does not fit alone either fails, the second time, with a code of its own."""
    patient = JobStore(farm.redis, TERMS)
    pipeline = Broken(MemoryError("the device is full"))
    shop = open_worker(store=patient, pipeline=pipeline)
    innocent = [submit(patient, prompt=f"fox {number}") for number in range(3)]
    culprit = submit(patient, prompt="poison")

    job = shop.end_of(culprit)

    assert [(end.state, end.attempt) for end in map(shop.end_of, innocent)] == [(State.COMPLETED, 1)] * 3
    assert (job.state, job.code, job.attempt) == (State.FAILED, "out_of_memory", 2)
    assert job.error == "The image did not fit into the memory of the device (MemoryError)."
    assert sorted(map(len, pipeline.failed)) == [1, 1, 4]


def test_a_worker_whose_device_is_lost_takes_nothing_more(open_worker: Opened, store: JobStore) -> None:
    """Its batch comes back job by job, uncharged."""
    shop = open_worker(pipeline=Broken(RuntimeError("CUDA error: device-side assert triggered")))
    batch = [submit(store, prompt=prompt) for prompt in ("fox", "poison")]
    waiting = submit(store, width=512)

    shop.work()

    assert shop.failure_counter.is_faulty
    assert [(job.state, job.attempt) for job in map(partial(jobs.record, store), [*batch, waiting])] == [
        (State.CREATED, 0)
    ] * 3
    assert [len(jobs.take(store, worker)) for worker in ("w2", "w3", "w4")] == [1, 1, 1]


def test_a_worker_that_fails_again_and_again_takes_nothing_more(open_worker: Opened, store: JobStore) -> None:
    poison = [submit(store, prompt="poison", images=4) for _ in range(MAX_FAILURES_IN_A_ROW)]
    pipeline = Broken()
    shop = open_worker(pipeline=pipeline)
    fox = submit(store, images=4)

    shop.work()

    assert shop.failure_counter.is_faulty
    assert len(pipeline.failed) == MAX_FAILURES_IN_A_ROW
    assert {jobs.state(store, job_id) for job_id in [*poison, fox]} == {State.CREATED}


def test_a_worker_that_cannot_check_takes_nothing_more(open_worker: Opened, store: JobStore) -> None:
    """A failure counts wherever it is met, and a storage that is down is not the worker's fault."""

    def broken(_: Image.Image) -> bool:
        raise ValueError("no weights")

    wanted = [submit(store, images=4) for _ in range(2 * MAX_FAILURES_IN_A_ROW)]
    shop = open_worker(checker=Flagging(broken))

    shop.work()

    wait_for(lambda: shop.failure_counter.is_faulty)
    shop.publisher.close(seconds=10)
    assert {jobs.state(store, job_id) for job_id in wanted} == {State.CREATED}


def test_a_storage_that_is_down_says_nothing_of_the_worker(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    storage = FailingStorage(farm.storage, StorageError("The disk is full."), lambda _: False)
    shop = open_worker(storage=storage)
    wanted = [submit(store, images=4) for _ in range(MAX_FAILURES_IN_A_ROW + 1)]

    shop.work()

    assert {shop.end_of(job_id).code for job_id in wanted} == {"storage_failed"}
    assert not shop.failure_counter.is_faulty


def test_one_bad_worker_does_not_use_up_what_others_can_render(
    open_worker: Opened, store: JobStore, farm: Farm
) -> None:
    """It takes the job again and again, but only its first failure counts."""
    pipeline = Broken()
    bad, good = open_worker(pipeline=pipeline, has_others=True), open_worker(name="w2")
    job_id = submit(store, prompt="poison")
    while not bad.failure_counter.is_faulty:
        jobs.end_delays(farm.redis)
        store.reap()
        bad.work()

    job = good.end_of(job_id)

    assert (job.state, job.attempt, len(pipeline.failed)) == (State.COMPLETED, 2, MAX_FAILURES_IN_A_ROW)


@pytest.mark.parametrize("prompt", ["poison", "fox"])
def test_a_job_whose_end_cannot_be_recorded_is_left_to_its_lease(
    open_worker: Opened, store: JobStore, farm: Farm, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    """The worker does not go on holding a job of which nothing more will come."""
    silent = SilentStore(farm.redis, TERMS)
    monkeypatch.setattr(publish, "STORE_RETRY_SECONDS", 0.1)
    shop = open_worker(store=silent, pipeline=Broken())
    job_id = submit(silent, prompt=prompt)
    shop.work()
    wait_for(lambda: silent.asked > 1)

    wait_for(lambda: farm.redis.hget("srpo:worker:w1", "jobs") == "0")

    silent.is_silent = False
    jobs.lose(farm.redis, store, job_id)
    assert jobs.take_one(store, "w2").id == job_id


class SilentStore(JobStore):
    """Fails to record the end of any job while it `is_silent`."""

    is_silent = True
    asked = 0

    def fail(self, *arguments: Any, **options: Any) -> State | None:
        self._refuse()
        return super().fail(*arguments, **options)

    def complete(self, *arguments: Any) -> bool:
        self._refuse()
        return super().complete(*arguments)

    def _refuse(self) -> None:
        self.asked += 1
        if self.is_silent:
            raise StoreUnavailable


def test_a_job_store_that_does_not_answer_is_no_hang_of_the_pipeline(
    open_worker: Opened, farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = SilentStore(farm.redis, TERMS)
    shop = open_worker(store=silent, pipeline=Broken())
    submit(silent, prompt="poison")
    shop.begin()
    wait_for(lambda: silent.asked > 1, what="the failure that cannot be told")

    assert not hangs_in(shop, 10_000, monkeypatch)

    silent.is_silent = False
    shop.join()


def hangs_in(shop: WorkerHarness, seconds: float, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return True if the worker would count as hung after so many more seconds."""
    now = clock.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(os, "_exit", lambda _: None)  # else the whole run would end
        patch.setattr(clock, "monotonic", lambda: now + seconds)
        return any(watchdog.is_hung for watchdog in shop.lease._watchdogs)


class HangingStorage(LocalStorage):
    """A storage that hangs until `go`."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(folder_of(storage))
        self.go = threading.Event()
        self.asked = threading.Event()

    def put(self, key: str, content: bytes) -> None:
        self._hang()
        super().put(key, content)

    def read(self, key: str) -> bytes:
        self._hang()
        raise NotFound

    def _hang(self) -> None:
        self.asked.set()
        assert self.go.wait(20)


@pytest.mark.parametrize("inputs", [(), ("an input",)], ids=["put", "read"])
def test_a_storage_that_hangs_for_ever_is_found(
    open_worker: Opened, store: JobStore, farm: Farm, monkeypatch: pytest.MonkeyPatch, inputs: tuple[str, ...]
) -> None:
    """Each stage has its limit: storing an image, and reading a job's inputs."""
    storage = HangingStorage(farm.storage)
    shop = open_worker(storage=storage)
    submit(store, inputs=inputs)
    shop.begin()
    assert storage.asked.wait(10)
    try:
        assert not hangs_in(shop, 580, monkeypatch)
        assert hangs_in(shop, 601, monkeypatch)
    finally:
        storage.go.set()
    shop.join()


def test_storage_that_fails_once_costs_another_try(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    storage = FailingStorage(farm.storage, StorageError("The disk is full."), lambda tried: tried > 0)
    shop = open_worker(storage=storage)

    job = shop.end_of(submit(store))

    assert (job.state, job.attempt, len(shop.images(job))) == (State.COMPLETED, 2, 1)


@pytest.mark.parametrize("error", [StorageError("The disk is full."), RuntimeError("The disk is full.")])
def test_storage_that_always_fails_fails_the_job(
    open_worker: Opened, store: JobStore, farm: Farm, error: Exception
) -> None:
    storage = FailingStorage(farm.storage, error, lambda _: False)

    job = open_worker(storage=storage).end_of(submit(store, images=2))

    code = error.code if isinstance(error, StorageError) else "internal_error"
    assert (job.state, job.code, job.attempt, job.result) == (State.FAILED, code, 2, None)
    assert ("The disk is full." in job.error) == isinstance(error, StorageError)


def test_half_a_job_is_not_published(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    """One of its two images can never be stored."""
    storage = FailingStorage(farm.storage, StorageError("The disk is full."), lambda tried: tried % 2 == 0)

    job = open_worker(storage=storage).end_of(submit(store, images=2))

    assert (job.state, job.code, job.result) == (State.FAILED, "storage_failed", None)
    assert [name for _, name in jobs.events(farm.redis, job.id)].count("completed") == 0


@pytest.mark.parametrize("keeps", [True, False])
def test_an_image_tells_no_prompt_that_is_to_be_forgotten(open_worker: Opened, store: JobStore, keeps: bool) -> None:
    job_id = submit(store, prompt="a secret fox", output_format="png", conditions=Conditions(keeps_payload=keeps))
    shop = open_worker()

    (content,) = shop.images(shop.end_of(job_id))

    assert (b"a secret fox" in content) == keeps
    assert b'"seed": 7' in content


def test_a_flagged_image_is_black_and_reported(open_worker: Opened, store: JobStore) -> None:
    seen: list[tuple[int, int]] = []

    def unsafe(image: Image.Image) -> bool:
        seen.append(image.size)
        return True

    shop = open_worker(checker=Flagging(unsafe))
    job = shop.end_of(submit(store, output_format="png"))

    assert job.result is not None
    assert (job.state, job.result.flagged, seen) == (State.COMPLETED, (True,), [(256, 256)])
    assert set(pixels(shop.images(job)[0])) == {0}


def test_only_what_is_flagged_is_black(open_worker: Opened, store: JobStore) -> None:
    shop = open_worker()
    first, second = map(pixels, shop.images(shop.end_of(submit(store, images=2, output_format="png"))))
    checked = open_worker(checker=Flagging(lambda image: image.tobytes() == second), name="w2")

    job = checked.end_of(submit(store, images=2, output_format="png"))

    assert job.result is not None
    assert job.result.flagged == (False, True)
    assert [pixels(content) for content in checked.images(job)] == [first, b"\0" * len(second)]


def test_an_image_without_the_safety_check_is_not_flagged(open_worker: Opened, store: JobStore) -> None:
    shop = open_worker(checker=Flagging(lambda _: True))

    job = shop.end_of(submit(store, safety=False))

    assert job.result is not None
    assert (job.state, job.result.flagged) == (State.COMPLETED, (False,))


def test_an_image_that_cannot_be_checked_is_not_published(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    def broken(_: Image.Image) -> bool:
        raise ValueError("no weights")

    storage = FailingStorage(farm.storage, StorageError(), lambda _: True)
    job = open_worker(checker=Flagging(broken), storage=storage).end_of(submit(store))

    assert (job.state, job.code, job.result) == (State.FAILED, "safety_check_failed", None)
    assert "no weights" not in job.error
    assert storage.tried == 0


def test_a_worker_without_a_checker_publishes_nothing_that_is_to_be_checked(
    open_worker: Opened, store: JobStore, farm: Farm
) -> None:
    """A job that was accepted while workers had one, before they were started again without. It is not even begun."""

    class Unwilling(SimulatedPipeline):
        def start(self, request: ImageRequest, inputs: InputImages = NO_INPUTS) -> SimulatedImage:
            raise ValueError("this would be for nothing")

    storage = FailingStorage(farm.storage, StorageError(), lambda _: True)
    shop = open_worker(pipeline=Unwilling(0), storage=storage)
    shop.publisher._checker = None

    job = shop.end_of(submit(store))

    assert (job.state, job.code, job.result) == (State.FAILED, "safety_check_failed", None)
    assert storage.tried == 0
    assert not shop.failure_counter.is_faulty


def test_warnings_reach_the_result(open_worker: Opened, store: JobStore) -> None:
    class Wordy(SimulatedPipeline):
        def finish(self, image: SimulatedImage) -> RenderedImage:
            return replace(super().finish(image), warnings=("long prompt",))

    job = open_worker(pipeline=Wordy(0)).end_of(submit(store, images=2))

    assert job.result is not None
    assert job.result.warnings == ("long prompt",)


def test_a_worker_whose_job_was_given_to_another_stops_and_changes_nothing(
    open_worker: Opened, store: JobStore, farm: Farm
) -> None:
    pipeline = Stepwise()
    shop = open_worker(pipeline=pipeline)
    job_id = submit(store, steps=50)
    shop.begin()
    pipeline.go(2)
    ours = claimed(store, job_id)
    theirs = claim_away(farm, store, job_id)
    wait_for(lambda: shop.lease.must_stop(ours))
    pipeline.go(1)
    shop.join()

    assert (jobs.state(store, job_id), jobs.record(store, job_id).fence) == (State.PROCESSING, theirs.fence)
    assert store.complete(theirs, jobs.result(theirs)) is True


def claim_away(farm: Farm, store: JobStore, job_id: str) -> Claimed:
    """Let another worker claim the job; its own worker's renewals come between, so retry."""

    def take() -> Claimed | None:
        jobs.lose(farm.redis, store, job_id)
        batch = jobs.take(store, "w2")
        return batch[0] if batch else None

    job = wait_for(take)
    assert job is not None
    return job


def test_slow_storage_is_no_hang_of_the_pipeline(
    open_worker: Opened, store: JobStore, farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The render thread waits for the backlog of eight images; a worker that took this for a hang would leave."""
    go, pipeline = threading.Event(), Counting()
    storage = FailingStorage(farm.storage, StorageError(), lambda _: go.wait(10))
    shop = open_worker(pipeline=pipeline, storage=storage)
    for number in range(4):
        submit(store, images=4, seed=number)
    shop.begin()
    wait_for(lambda: pipeline.rendered == 9, what="one image more than the backlog takes")
    now = clock.monotonic()

    with monkeypatch.context() as patch:
        patch.setattr(os, "_exit", lambda _: None)  # else a failure of this test would end the whole run
        patch.setattr(clock, "monotonic", lambda: now + 60)
        try:
            wait_for(lambda: not shop.lease.watchdog.is_hung, seconds=5, what="a watchdog at rest")
        finally:
            go.set()
    shop.join()


def test_a_worker_does_not_hold_jobs_that_have_ended(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    """Completed, failed and cancelled ones alike: nothing of them is renewed any more."""
    shop = open_worker(pipeline=Broken())
    for prompt in ("fox", "owl", "poison"):
        shop.end_of(submit(store, prompt=prompt))

    wait_for(lambda: farm.redis.hget("srpo:worker:w1", "jobs") == "0")


def test_a_stored_image_of_a_lost_job_goes_with_the_job(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    """Images of failed attempts are deleted with the job."""
    storage = FailingStorage(farm.storage, StorageError("The disk is full."), lambda tried: tried % 2 == 0)
    job = open_worker(storage=storage).end_of(submit(store, images=2))
    left = list(folder_of(farm.storage).rglob(f"*{job.id}*"))
    assert left

    farm.storage.delete_job(job.id)

    assert list(folder_of(farm.storage).rglob(f"*{job.id}*")) == []


def test_a_start_that_lasts_too_long_stops_within_one_step(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    pipeline = Stepwise()
    shop = open_worker(pipeline=pipeline)
    job_id = submit(store, steps=50)
    shop.begin()
    pipeline.go(2)

    farm.redis.zadd(redis_keys.RENDER_DEADLINE, {job_id: 0})
    farm.redis.zincrby(redis_keys.LEASES, 30e6, job_id)  # this machine may be slow
    store.reap()
    wait_for(lambda: shop.lease.must_stop(claimed(store, job_id)), what="the worker's being told")
    pipeline.go()
    shop.join()

    assert (jobs.record(store, job_id).code, len(pipeline.steps)) == ("render_timeout", 3)


def test_a_job_joins_those_in_flight_within_two_steps(open_worker: Opened, store: JobStore) -> None:
    pipeline = Stepwise()
    shop = open_worker(pipeline=pipeline)
    for seed in (1, 2, 3):
        submit(store, seed=seed, steps=50)
    shop.begin()
    pipeline.go(5)  # three starts and two steps

    joining = submit(store, seed=4, steps=2)
    while jobs.state(store, joining) is not State.PROCESSING:
        pipeline.go()
    wait_for_claim(shop)
    others = max(step for _, step in pipeline.steps)
    while (4, 0) not in pipeline.steps:
        pipeline.go()

    assert max(step for _, step in pipeline.steps) <= others + 2
    pipeline.go(2)
    assert shop.end_of(joining).state is State.COMPLETED
    assert {seed for seed, step in pipeline.steps if step == others + 2} == {1, 2, 3}, "the others went on"
    shop.draining.set()
    pipeline.go()
    shop.join()


def wait_for_claim(shop: WorkerHarness) -> None:
    """Wait until what was claimed ahead is ready to join, or joins."""
    wait_for(lambda: (ahead := shop.renderer._claims._ahead) is None or ahead.done(), what="a ready job")


def test_inputs_are_read_beside_the_steps_of_what_is_in_flight(
    open_worker: Opened, store: JobStore, farm: Farm
) -> None:
    storage, pipeline = HangingStorage(farm.storage), Stepwise()
    shop = open_worker(storage=storage, pipeline=pipeline)
    submit(store, seed=1, steps=50)
    shop.begin()
    pipeline.go(2)
    submit(store, inputs=("an input",))
    while not storage.asked.wait(0.25):  # it looks for jobs between two steps, and not between all of them
        pipeline.go()
    _, before = pipeline.steps[-1]

    pipeline.go(5)

    assert pipeline.steps[-1] == (1, before + 5)
    storage.go.set()
    shop.draining.set()
    pipeline.go()
    shop.join()


class SlowEncoder(Stepwise):
    """Is told when the encoding of a prompt may end; the first one's is not waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded: list[str] = []
        self.is_encoding, self.may_end = threading.Event(), threading.Event()

    def encode_prompt(self, request: ImageRequest) -> None:
        self.encoded.append(request.prompt)
        if len(self.encoded) > 1:
            self.is_encoding.set()
            assert self.may_end.wait(20)


def test_prompts_are_encoded_beside_the_steps_of_what_is_in_flight(open_worker: Opened, store: JobStore) -> None:
    pipeline = SlowEncoder()
    shop = open_worker(pipeline=pipeline)
    submit(store, prompt="a fox", seed=1, steps=50)
    shop.begin()
    pipeline.go(2)
    submit(store, prompt="an owl", seed=2)
    while not pipeline.is_encoding.wait(0.25):  # it looks for jobs between two steps, and not between all of them
        pipeline.go()
    _, before = pipeline.steps[-1]

    pipeline.go(5)

    assert pipeline.steps[-1] == (1, before + 5)
    assert pipeline.encoded == ["a fox", "an owl"]
    pipeline.may_end.set()
    shop.draining.set()
    pipeline.go()
    shop.join()


def test_a_job_that_was_claimed_ahead_never_starts_once_it_is_cancelled(open_worker: Opened, store: JobStore) -> None:
    pipeline = Stepwise()
    shop = open_worker(pipeline=pipeline)
    rendered, ahead = submit(store, seed=1, images=4, steps=4), submit(store, seed=9, width=512)
    shop.begin()
    pipeline.go(7)  # four starts and three steps: those in flight leave soon
    wait_for(lambda: jobs.state(store, ahead) is State.PROCESSING, what="a claim ahead")

    assert store.cancel(ahead) == "stopping"
    wait_for(lambda: shop.lease.must_stop(claimed(store, ahead)))
    pipeline.go()
    shop.join()

    assert shop.end_of(ahead).code == "cancelled"
    assert shop.end_of(rendered).state is State.COMPLETED
    assert not [step for step in pipeline.steps if step[0] == 9]


def test_draining_hands_back_what_was_claimed_ahead(open_worker: Opened, store: JobStore) -> None:
    pipeline = Stepwise()
    shop = open_worker(pipeline=pipeline)
    submit(store, images=4, steps=3)
    ahead = submit(store, width=512)
    shop.begin()
    pipeline.go(6)
    wait_for(lambda: jobs.state(store, ahead) is State.PROCESSING, what="a claim ahead")

    shop.draining.set()
    pipeline.go()
    shop.join()

    released = jobs.record(store, ahead)
    assert (released.state, released.attempt) == (State.CREATED, 0)


def test_an_image_that_cannot_start_harms_none_in_flight(open_worker: Opened, store: JobStore) -> None:
    class Refusing(SimulatedPipeline):
        def start(self, request: ImageRequest, inputs: InputImages = NO_INPUTS) -> SimulatedImage:
            if request.prompt == "poison":
                raise ValueError("the engine stumbles")
            return super().start(request, inputs)

    shop = open_worker(pipeline=Refusing(0))
    fox, culprit = submit(store, prompt="fox"), submit(store, prompt="poison")
    shop.work()

    assert (jobs.record(store, fox).attempt, shop.end_of(fox).state) == (1, State.COMPLETED)
    assert (shop.end_of(culprit).code, shop.end_of(culprit).attempt) == ("render_failed", 2)
