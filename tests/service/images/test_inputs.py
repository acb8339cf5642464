"""Input images: read by the worker; and which job fails if one is missing."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from farm.bootstrap import Farm
from farm.domain.errors import StorageUnavailable
from farm.domain.job import Job, State
from farm.jobstore.store import JobStore
from farm.storage.local import LocalStorage
from farm.storage.storage import new_input_key
from tests.farms import wait_for
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import TERMS, submit
from tests.service.workers.worker import Broken, Flagging, Opened, Stepwise, WorkerHarness, folder_of
from workers import claims


@pytest.fixture
def store(farm: Farm) -> JobStore:
    return JobStore(farm.redis, TERMS)


def sample_image(mode: str = "RGB") -> Image.Image:
    return Image.merge(
        "RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.new("L", (256, 256))]
    ).convert(mode)


def stored(farm: Farm, content: bytes | Image.Image) -> str:
    """Store an input, and return its storage key."""
    if isinstance(content, Image.Image):
        file = io.BytesIO()
        content.save(file, "PNG")
        content = file.getvalue()
    key = new_input_key(str(uuid.uuid4()), 0, "png")
    farm.storage.put(key, content)
    return key


def edit(store: JobStore, *keys: str, **fields: Any) -> str:
    return submit(store, **({"model": "kontext-multi", "inputs": keys, "output_format": "png"} | fields))


def remix(store: JobStore, key: str, **fields: Any) -> str:
    return edit(store, key, **({"model": "srpo-image-to-image", "strength": 0.8} | fields))


def image_of(shop: WorkerHarness, job: Job) -> Image.Image:
    (content,) = shop.images(job)
    return Image.open(io.BytesIO(content)).convert("RGB")


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_the_pipeline_gets_the_image_that_the_job_names(
    open_worker: Opened, store: JobStore, farm: Farm, mode: str
) -> None:
    image, shop = sample_image(mode), open_worker()

    job = shop.end_of(remix(store, stored(farm, image), strength=0.0, width=300, height=280))

    expected = image.convert("RGB").resize((300, 280), Image.Resampling.LANCZOS)
    assert image_of(shop, job).tobytes() == expected.tobytes()


def test_a_job_without_steps_is_completed_and_says_so(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    job = open_worker().end_of(remix(store, stored(farm, sample_image()), strength=0.0))

    assert job.result is not None
    assert (job.state, job.steps) == (State.COMPLETED, 0)
    assert {"start", "denoise", "inference"} <= job.result.timings.keys()


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\x89PNG\r\n\x1a\n broken"])
def test_an_input_that_is_not_there_or_no_image_fails_its_own_job_only(
    open_worker: Opened, store: JobStore, farm: Farm, content: bytes | None
) -> None:
    good = stored(farm, sample_image())
    bad = new_input_key(str(uuid.uuid4()), 0, "png") if content is None else stored(farm, content)
    keys_of = {"first": [good], "broken": [good, bad], "last": [good]}
    wanted = [edit(store, *keys, prompt=prompt) for prompt, keys in keys_of.items()]
    pipeline = Broken()
    shop = open_worker(pipeline=pipeline)

    first, broken, last = (shop.end_of(job_id) for job_id in wanted)

    assert [job.state for job in (first, broken, last)] == [State.COMPLETED, State.FAILED, State.COMPLETED]
    assert (broken.code, broken.attempt) == ("render_failed", 1)
    assert bad in broken.error
    assert pipeline.flights == [["first", "last"]]


def test_a_cut_off_input_is_no_image(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    file = io.BytesIO()
    sample_image().save(file, "PNG")

    job = open_worker().end_of(edit(store, stored(farm, file.getvalue()[:-2000])))

    assert (job.state, job.code) == (State.FAILED, "render_failed")
    assert "cannot be read" in job.error


class Reading(LocalStorage):
    """Counts reads, and raises while `fails` returns True for a key and the number of earlier reads."""

    def __init__(self, farm: Farm, fails: Callable[[str, int], bool], error: Exception | None = None) -> None:
        super().__init__(folder_of(farm.storage))
        self._fails = fails
        self._error = error or StorageUnavailable("The bucket 'b' does not answer.")
        self.keys: list[str] = []

    def read(self, key: str) -> bytes:
        self.keys.append(key)
        if self._fails(key, len(self.keys) - 1):
            raise self._error
        return super().read(key)


def test_an_image_that_several_jobs_name_is_read_once_a_batch(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    one, other = stored(farm, sample_image()), stored(farm, sample_image("L"))
    wanted = [edit(store, one, other), edit(store, one), edit(store, one, images=2)]
    storage = Reading(farm, lambda *_: False)
    shop = open_worker(storage=storage)

    shop.work()

    assert {shop.end_of(job_id).state for job_id in wanted} == {State.COMPLETED}
    assert storage.keys == [one, other]


def test_a_storage_that_is_down_for_a_while_costs_no_try(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    """More often than a job may be tried."""
    storage = Reading(farm, lambda _, before: before < TERMS.max_attempts + 1)
    job_id = edit(store, stored(farm, sample_image()))

    job = open_worker(storage=storage).end_of(job_id)

    assert (job.state, job.attempt) == (State.COMPLETED, 1)


def test_a_storage_that_breaks_costs_another_try(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    bad, good = stored(farm, sample_image()), stored(farm, sample_image("L"))
    storage = Reading(farm, lambda key, before: key == bad and before == 0, RuntimeError("boom"))
    wanted = [edit(store, bad), edit(store, good)]
    shop = open_worker(storage=storage)

    late, mate = (shop.end_of(job_id) for job_id in wanted)

    assert (late.state, late.attempt) == (State.COMPLETED, 2)
    assert (mate.state, mate.attempt) == (State.COMPLETED, 1)


def test_a_storage_that_never_answers_fails_the_job(
    open_worker: Opened, store: JobStore, farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "STORAGE_RETRY_SECONDS", 0.1)
    shop = open_worker(storage=Reading(farm, lambda *_: True))

    job = shop.end_of(edit(store, stored(farm, sample_image())))

    assert (job.state, job.code, job.attempt) == (State.FAILED, "storage_failed", TERMS.max_attempts)
    assert "inputs could not be read" in job.error


def test_a_cancelled_job_waits_for_no_storage(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    storage = Reading(farm, lambda *_: True)
    shop = open_worker(storage=storage)
    job_id = edit(store, stored(farm, sample_image()))
    shop.begin()
    wait_for(lambda: storage.keys)

    store.cancel(job_id)

    assert shop.end_of(job_id).code == "cancelled"
    shop.join()


def test_a_draining_worker_hands_back_what_it_could_not_read(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    job_id = edit(store, stored(farm, sample_image()))

    def fails(*_: object) -> bool:
        shop.draining.set()
        return True

    shop = open_worker(storage=Reading(farm, fails))
    shop.work()

    job = jobs.record(store, job_id)
    assert (job.state, job.attempt) == (State.CREATED, 0)


def test_a_worker_that_could_not_read_holds_nothing(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    shop = open_worker()
    shop.end_of(edit(store, new_input_key(str(uuid.uuid4()), 0, "png")))

    wait_for(lambda: farm.redis.hget("srpo:worker:w1", "jobs") == "0")


def test_progress_counts_the_steps_that_image_to_image_does(open_worker: Opened, store: JobStore, farm: Farm) -> None:
    pipeline = Stepwise()
    shop = open_worker(pipeline=pipeline)
    job_id = remix(store, stored(farm, sample_image()), steps=10, strength=0.2)
    shop.begin()
    pipeline.go(2)

    wait_for(lambda: jobs.record(store, job_id).step == 1)
    assert jobs.record(store, job_id).steps == 2
    pipeline.go(1)
    shop.join()
    assert shop.end_of(job_id).state is State.COMPLETED


@pytest.mark.parametrize("tolerance", [1, 6])
def test_an_image_to_image_result_is_checked_with_the_requested_tolerance(
    open_worker: Opened, store: JobStore, farm: Farm, tolerance: int
) -> None:
    checker = Flagging(lambda _: True)
    shop = open_worker(checker=checker)

    job = shop.end_of(remix(store, stored(farm, sample_image()), strength=0.0, safety_tolerance=tolerance))

    assert job.result is not None
    assert (job.result.flagged, checker.tolerances) == ((True,), [tolerance])
    assert image_of(shop, job).getextrema() == ((0, 0),) * 3
