"""A worker in this process: renderer, publisher and lease, put together as in `workers/process.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from PIL import Image

from farm.bootstrap import Farm
from farm.domain.job import Job, State
from farm.domain.request import ImageRequest
from farm.jobstore.connection import connect_to_listen
from farm.jobstore.notifications import listen_for_stops
from farm.jobstore.previews import PreviewChannels
from farm.jobstore.store import JobStore
from farm.storage.local import LocalStorage
from farm.storage.storage import Storage
from tests.farms import wait_for
from tests.service.jobstore import jobs
from workers.encode import Encoder
from workers.health import FailureCounter
from workers.lease import Lease
from workers.pipelines.pipeline import NO_INPUTS, InputImages, Pipeline, RenderedImage
from workers.pipelines.simulated import SimulatedImage, SimulatedPipeline
from workers.previews import Previews
from workers.publish import Publisher
from workers.render import Renderer
from workers.safety import Checker


class Stepwise(SimulatedPipeline):
    """Waits for permission before an image starts, and before each step of those in flight.

    `steps` are those that were permitted: the seed of each image, and its steps that were done then.
    """

    def __init__(self) -> None:
        super().__init__(step_ms=0)
        self.leave = threading.Semaphore(0)
        self.asked = threading.Semaphore(0)
        self.done = threading.Semaphore(0)
        self.steps: list[tuple[int, int]] = []

    def start(self, request: ImageRequest, inputs: InputImages = NO_INPUTS) -> SimulatedImage:
        with self._permitted():
            self.steps.append((request.seed, 0))
            return super().start(request, inputs)

    def advance(self, images: Sequence[SimulatedImage]) -> None:
        with self._permitted():
            super().advance(images)
            self.steps += [(image.request.seed, image.step) for image in images]

    @contextmanager
    def _permitted(self) -> Iterator[None]:
        self.asked.release()
        assert self.leave.acquire(timeout=10), "nobody gave leave"
        yield
        self.done.release()

    def go(self, steps: int = 1) -> None:
        """Let so many images start or steps happen, one after another, and return when the last one is done."""
        for _ in range(steps):
            assert self.asked.acquire(timeout=10), "the pipeline asks for no step"
            self.leave.release()
            assert self.done.acquire(timeout=10), "nobody does the step"


class Counting(SimulatedPipeline):
    """Counts the images it has finished."""

    def __init__(self) -> None:
        super().__init__(step_ms=0)
        self.rendered = 0

    def finish(self, image: SimulatedImage) -> RenderedImage:
        self.rendered += 1
        return super().finish(image)


class Broken(SimulatedPipeline):
    """Raises `error` at the second step of a prompt `poison`.

    `flights` are the prompts that were in flight together, and `failed` those of each step that failed.
    """

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(step_ms=0)
        self.error = error or ValueError("the engine stumbles")
        self.flights: list[list[str]] = []
        self.failed: list[list[str]] = []

    def advance(self, images: Sequence[SimulatedImage]) -> None:
        prompts = [image.request.prompt for image in images]
        if prompts not in self.flights[-1:]:
            self.flights.append(prompts)
        if any(image.request.prompt == "poison" and image.step == 1 for image in images):
            self.failed.append(prompts)
            raise self.error
        super().advance(images)


class FailingStorage(LocalStorage):
    """Stores images while `works` says so, asked with how many were tried before."""

    def __init__(self, storage: Storage, error: Exception, works: Callable[[int], bool]) -> None:
        super().__init__(folder_of(storage))
        self._error = error
        self._works = works
        self.tried = 0

    def put(self, key: str, content: bytes) -> None:
        self.tried += 1
        if not self._works(self.tried - 1):
            raise self._error
        super().put(key, content)


def folder_of(storage: Storage) -> Path:
    """Return the folder in which a local storage keeps its files."""
    return Path(storage.place.partition(":")[2])


class Flagging:
    """Flags an image if `unsafe` returns True, and raises what it raises. `tolerances` are those of the calls."""

    def __init__(self, unsafe: Callable[[Image.Image], bool]) -> None:
        self._unsafe = unsafe
        self.tolerances: list[int] = []

    def check(self, image: Image.Image, tolerance: int) -> bool:
        self.tolerances.append(tolerance)
        return self._unsafe(image)

    def use_card(self, device: str | None) -> None:
        pass


class WorkerHarness:
    """One worker. `work` renders until no job waits; images are published in other threads."""

    def __init__(
        self,
        farm: Farm,
        store: JobStore,
        *,
        pipeline: Pipeline | None = None,
        storage: Storage | None = None,
        checker: Checker | None = None,
        name: str = "w1",
        has_others: bool = False,
        with_previews: bool = False,
        lease_seconds: float = jobs.TERMS.lease_seconds,
    ) -> None:
        self.farm = farm
        self.store = store
        self.storage = storage or farm.storage
        self.draining = threading.Event()
        self.failure_counter = FailureCounter(self.draining.set, has_others=lambda: has_others)
        self.pipeline = pipeline or SimulatedPipeline(step_ms=0)
        facts = jobs.FACTS | {"weights": self.pipeline.weights, "build": self.pipeline.build}
        self.lease = Lease(store, worker=name, facts=lambda: facts, seconds=lease_seconds)
        encoder = Encoder(weights=self.pipeline.weights, build=self.pipeline.build, with_prompt=True)
        self.publisher = Publisher(
            store,
            storage=self.storage,
            encoder=encoder,
            checker=checker or Flagging(lambda _: False),
            lease=self.lease,
            failure_counter=self.failure_counter,
            draining=self.draining,
        )
        self.previews = Previews(PreviewChannels(farm.redis), pipeline=self.pipeline, lease=self.lease)
        self.renderer = Renderer(
            store,
            worker=name,
            pipeline=self.pipeline,
            storage=self.storage,
            lease=self.lease,
            failure_counter=self.failure_counter,
            publisher=self.publisher,
            wake_ups=farm.wake_ups,
            has_work=lambda: farm.stats.waiting(self.pipeline.models) > 0,
            draining=self.draining,
            previews=self.previews if with_previews else None,
        )
        # Takes nothing back: on a loaded machine a lease may run out though its worker lives.
        self._patient = JobStore(farm.redis, replace(jobs.TERMS, lease_seconds=1_000_000))
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        self.lease.start()
        self.previews.start()
        listen_for_stops(connect_to_listen(self.farm.redis_url), self.lease.stop_rendering)

    def work(self) -> None:
        self.renderer.work()

    def begin(self) -> None:
        """Work in a thread of its own."""
        self._thread = threading.Thread(target=self.renderer.work)
        self._thread.start()

    def join(self) -> None:
        """Wait until rendering has ended."""
        assert self._thread is not None
        self._thread.join(10)
        assert not self._thread.is_alive(), "the renderer does not come to an end"
        self._thread = None

    def close(self) -> None:
        self.draining.set()
        if self._thread is not None:
            self.join()
        self.renderer.close()
        self.publisher.close(seconds=10)
        self.lease.close()
        self.previews.close()

    def end_of(self, job_id: str) -> Job:
        """Return the job when it has ended; jobs that wait for a retry get it at once."""

        def ended() -> Job | None:
            job = jobs.record(self.store, job_id)
            if job.state.is_terminal:
                return job
            jobs.end_delays(self.farm.redis)
            self._patient.reap()
            if job.state is State.CREATED and self._thread is None:
                self.work()
            return None

        job = wait_for(ended, seconds=30, what=f"the end of {job_id}")
        assert job is not None
        return job

    def images(self, job: Job) -> list[bytes]:
        """Return the bytes of a completed job's images."""
        assert job.result is not None
        return [self.storage.read(image.key) for image in job.result.images]


#: Opens a worker of these parts.
Opened = Callable[..., WorkerHarness]
