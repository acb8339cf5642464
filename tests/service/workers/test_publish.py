"""Publishing to a storage that is down, slow, or gone: the effect on the jobs."""

from __future__ import annotations

import gc
import io
import json
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest
from PIL import Image

from farm.bootstrap import Farm
from farm.domain.errors import StorageUnavailable
from farm.domain.job import State
from farm.jobstore.store import JobStore
from tests.farms import wait_for
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import TERMS, submit
from tests.service.workers.worker import Counting, FailingStorage, Opened, WorkerHarness
from workers import publish
from workers.pipelines.pipeline import RenderedImage
from workers.pipelines.simulated import SimulatedImage, SimulatedPipeline

DOWN = StorageUnavailable("The bucket 'b' does not answer.")


@pytest.fixture
def store(farm: Farm) -> JobStore:
    """Return a store in which a job that starts a second time fails."""
    return JobStore(farm.redis, replace(TERMS, max_attempts=1))


class Outage:
    """A storage that accepts nothing until the outage is over."""

    def __init__(self, farm: Farm) -> None:
        self.is_over = threading.Event()
        self.storage = FailingStorage(farm.storage, DOWN, lambda _: self.is_over.is_set())

    def is_felt(self, tries: int = 3) -> None:
        wait_for(lambda: self.storage.tried >= tries, what="tries to store an image")


@pytest.fixture
def outage(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> Outage:
    monkeypatch.setattr(publish, "STORAGE_RETRY_PAUSE", 0.05)
    return Outage(farm)


@pytest.fixture
def shop(farm: Farm, store: JobStore, outage: Outage) -> Iterator[WorkerHarness]:
    shop = WorkerHarness(farm, store, storage=outage.storage)
    shop.open()
    yield shop
    outage.is_over.set()
    shop.close()


def test_an_outage_costs_no_attempt(shop: WorkerHarness, store: JobStore, outage: Outage) -> None:
    """It lasts longer than a lease, which is renewed meanwhile, and more images wait than the backlog takes."""
    wanted = [submit(store, images=4) for _ in range(4)]
    shop.begin()
    outage.is_felt()
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 2 * TERMS.lease_seconds, what="the end of two leases")
    assert store.reap() == 0
    assert {jobs.state(store, job_id) for job_id in wanted} <= {State.PROCESSING, State.CREATED}

    outage.is_over.set()

    shop.join()
    ends = [shop.end_of(job_id) for job_id in wanted]
    assert {(job.state, job.attempt) for job in ends} == {(State.COMPLETED, 1)}
    assert [len(shop.images(job)) for job in ends] == [4] * 4


def test_a_job_is_failed_when_its_images_have_waited_for_long(
    shop: WorkerHarness, store: JobStore, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "STORAGE_RETRY_SECONDS", 1)
    job_id = submit(store)
    shop.work()

    job = shop.end_of(job_id)

    assert (job.state, job.code, job.error) == (State.FAILED, "storage_failed", str(DOWN))
    assert outage.storage.tried > 2


def test_a_cancelled_job_does_not_wait_for_the_storage(shop: WorkerHarness, store: JobStore, outage: Outage) -> None:
    job_id = submit(store)
    shop.work()
    outage.is_felt()

    assert store.cancel(job_id) == "stopping"

    wait_for(lambda: jobs.state(store, job_id) is State.FAILED)
    assert jobs.record(store, job_id).code == "cancelled"


def test_a_draining_worker_hands_back_what_it_cannot_store(
    shop: WorkerHarness, store: JobStore, outage: Outage
) -> None:
    """Uncounted and at once, also what its render thread was still waiting to hand over."""
    wanted = [submit(store, images=4) for _ in range(4)]
    shop.begin()
    outage.is_felt()
    began = time.monotonic()

    shop.draining.set()
    shop.join()
    shop.publisher.close(seconds=10)

    assert time.monotonic() - began < 8
    records = [jobs.record(store, job_id) for job_id in wanted]
    assert {(job.state, job.attempt) for job in records} == {(State.CREATED, 0)}


def test_a_draining_worker_does_not_wait_for_a_storage_that_hangs(
    farm: Farm, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its call never returns; the job is released when the time is up, and nothing overwrites later results."""
    go = threading.Event()
    shop = WorkerHarness(farm, store, storage=FailingStorage(farm.storage, DOWN, lambda _: go.wait(30)))
    shop.open()
    job_id = submit(store)
    shop.work()
    began = time.monotonic()

    shop.draining.set()
    shop.publisher.close(seconds=0.5)

    assert 0.4 < time.monotonic() - began < 10
    assert (jobs.state(store, job_id), jobs.record(store, job_id).attempt) == (State.CREATED, 0)
    (taken,) = jobs.take(store, "w2")
    go.set()
    shop.close()
    assert jobs.state(store, job_id) is State.PROCESSING
    assert store.complete(taken, jobs.result(taken))


def test_a_render_thread_that_waits_for_a_hanging_storage_comes_home(farm: Farm, store: JobStore) -> None:
    """The backlog is full and nothing of it moves; what it cannot hand over goes back."""
    go, pipeline = threading.Event(), Counting()
    storage = FailingStorage(farm.storage, DOWN, lambda _: go.wait(30))
    shop = WorkerHarness(farm, store, pipeline=pipeline, storage=storage)
    shop.open()
    wanted = [submit(store, images=4) for _ in range(3)]
    shop.begin()
    wait_for(lambda: pipeline.rendered > 8, what="one image more than the backlog takes")

    shop.draining.set()
    try:
        wait_for(lambda: jobs.state(store, wanted[2]) is State.CREATED, seconds=5, what="what was not handed over")
    finally:
        go.set()
        shop.close()

    assert {jobs.state(store, job_id) for job_id in wanted[:2]} == {State.COMPLETED}


def test_a_job_whose_images_can_be_stored_is_not_released(farm: Farm, store: JobStore) -> None:
    """A storage that is only slow gets its time."""
    slow = FailingStorage(farm.storage, DOWN, lambda _: not threading.Event().wait(0.3))
    shop = WorkerHarness(farm, store, storage=slow)
    shop.open()
    wanted = [submit(store) for _ in range(3)]
    shop.work()

    shop.close()

    assert {jobs.state(store, job_id) for job_id in wanted} == {State.COMPLETED}


def test_a_job_that_is_over_is_not_stored_any_further(
    shop: WorkerHarness, store: JobStore, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first image waited in vain; the others would be orphans."""
    monkeypatch.setattr(publish, "STORAGE_RETRY_SECONDS", -1)
    job_id = submit(store, images=4)

    job = shop.end_of(job_id)

    shop.publisher.close(seconds=5)
    assert (job.state, outage.storage.tried) in {(State.FAILED, tried) for tried in (1, 2)}


class Remembered(RenderedImage):
    """Supports weak references."""


class Remembering(SimulatedPipeline):
    """Knows which of the images that it rendered are still in memory."""

    def __init__(self) -> None:
        super().__init__(step_ms=0)
        self._rendered: list[weakref.ref[Remembered]] = []

    def finish(self, image: SimulatedImage) -> RenderedImage:
        plain = super().finish(image)
        rendered = Remembered(plain.pixels, plain.size)
        self._rendered.append(weakref.ref(rendered))
        return rendered

    @property
    def kept(self) -> int:
        return sum(image() is not None for image in self._rendered)


@pytest.fixture
def no_search_for_cycles() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_search_for_cycles")
def test_published_images_are_freed(farm: Farm, store: JobStore) -> None:
    """Images are large: freeing them must not depend on the garbage collector. Each thread keeps its last one."""
    pipeline = Remembering()
    shop = WorkerHarness(farm, store, pipeline=pipeline)
    shop.open()
    wanted = [submit(store, images=4) for _ in range(4)]

    assert {shop.end_of(job_id).state for job_id in wanted} == {State.COMPLETED}

    wait_for(lambda: pipeline.kept <= publish._THREADS, what="memory for other images")
    shop.close()


def test_an_image_is_brought_to_the_size_that_was_asked_for(open_worker: Opened, store: JobStore) -> None:
    """Scaled and cropped, where the model cannot render that size; the file says both."""
    job_id = submit(store, width=256, height=320, output_size=(512, 768), output_format="png")
    shop = open_worker()
    shop.work()

    (image,) = shop.end_of(job_id).result.images  # type: ignore[union-attr]  # a missing result fails the test

    with Image.open(io.BytesIO(shop.images(shop.end_of(job_id))[0])) as file:
        assert file.size == (image.width, image.height) == (512, 768)
        parameters = json.loads(file.text["parameters"])  # type: ignore[attr-defined]  # a PNG file has texts
    assert (parameters["width"], parameters["height"], parameters["output_size"]) == (256, 320, [512, 768])
