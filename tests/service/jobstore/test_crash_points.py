"""A process dies before or after each of its calls to Redis, the storage and receivers, or one of them fails.

Each story is told once undisturbed, which counts its calls, and then once for every call and every ill. The other
processes go on where it stopped, and its caller sends again what was not answered well. Afterwards every job has one
end, every image of a completed one is there, every end was told, and no key and no file is left that the undisturbed
story would not have left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from farm.auth.api_keys import LOCAL
from farm.concurrency import retry
from farm.domain.error_codes import Code
from farm.domain.errors import FarmError
from farm.domain.job import Order, Source, Webhook
from farm.jobstore import redis_keys
from tests.failing_calls import Died, Ill
from tests.farms import folder_in_memory
from tests.images import data_uri, sample_image
from tests.service.api.calls import FAL_RUN, FOX
from tests.service.crashing_farm import MODELS, WORKER, CrashingFarm, a_crashing_farm, at_work
from tests.service.jobstore import jobs
from tests.service.workers.worker import Broken, WorkerHarness
from tests.unit.dialects.samples import a_request
from tests.webhook_receiver import answer, running_receiver
from workers import background, health
from workers.enhancer import Template
from workers.pipelines.simulated import SimulatedImage, SimulatedPipeline

IMAGE = data_uri(sample_image())
FULL = pytest.mark.full


@pytest.fixture(scope="module")
def standing(redis_url: str) -> Iterator[CrashingFarm]:
    with (
        folder_in_memory() as folder,
        running_receiver() as receiver,
        a_crashing_farm(redis_url, folder, receiver, listens=True) as crashing_farm,
    ):
        yield crashing_farm


@pytest.fixture
def crashing_farm(standing: CrashingFarm, monkeypatch: pytest.MonkeyPatch) -> CrashingFarm:
    """Return a farm whose dead process ends its threads without a message."""
    usual = threading.excepthook
    monkeypatch.setattr(threading, "excepthook", lambda ended: None if ended.exc_type is Died else usual(ended))
    monkeypatch.setattr(retry, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(health, "_FIRST_PAUSE", 0.0)
    return standing


class Story:
    """The actions of a process. They may be repeated any number of times."""

    #: How many jobs there may be afterwards, and how they end.
    jobs: tuple[int, ...] = (1,)
    end = ""

    def before(self, crashing_farm: CrashingFarm) -> None:
        """Set up the state in which the process begins."""

    def act(self, crashing_farm: CrashingFarm) -> None:
        """Run the process from its beginning to its end."""
        raise NotImplementedError

    def again(self, crashing_farm: CrashingFarm) -> None:
        """Repeat the call, as its caller would without a good answer."""


class Call(Story):
    """A call to the API, which is repeated until it succeeds."""

    good: tuple[int, ...] = (200, 202)

    def before(self, crashing_farm: CrashingFarm) -> None:
        self.answered = False

    def send(self, api: FlaskClient) -> TestResponse:
        raise NotImplementedError

    def act(self, crashing_farm: CrashingFarm) -> None:
        response = self.send(crashing_farm.api)
        self.answered = response.status_code in self.good
        assert self.answered or response.status_code == 503, response.text

    def again(self, crashing_farm: CrashingFarm) -> None:
        while not self.answered:
            self.act(crashing_farm)


class Submit(Call):
    """A submit with an Idempotency-Key, a webhook, and an input image."""

    def send(self, api: FlaskClient) -> TestResponse:
        body = {"model": "kontext", "prompt": "a red fox", "image_url": IMAGE, "webhook_url": self.url}
        wanted = {"webhook_events": ["job.completed", "job.failed"]}
        return api.post("/farm/v1/jobs", json=body | wanted, headers={"Idempotency-Key": "k"})

    def before(self, crashing_farm: CrashingFarm) -> None:
        super().before(crashing_farm)
        self.url = crashing_farm.receiver.url


class SubmitWithoutKey(Call):
    """A submit without an Idempotency-Key: repeating it may make a second job."""

    jobs = (1, 2)

    def send(self, api: FlaskClient) -> TestResponse:
        return api.post("/farm/v1/jobs", json=FOX)


class DirectCall(Call):
    """A direct call with a quick worker, so that it finds its job completed."""

    jobs = (1, 2)
    # Once it is accepted, it is not told to come back, but where its answer will be.
    good = (200, 504)

    def before(self, crashing_farm: CrashingFarm) -> None:
        super().before(crashing_farm)
        crashing_farm.failing_calls.then["submit"] = crashing_farm.complete

    def send(self, api: FlaskClient) -> TestResponse:
        return api.post(FAL_RUN, json={"prompt": "a red fox"})


class Cancel(Call):
    """A cancel of a waiting job."""

    end = Code.CANCELLED

    def before(self, crashing_farm: CrashingFarm) -> None:
        super().before(crashing_farm)
        self.job = crashing_farm.submit()

    def send(self, api: FlaskClient) -> TestResponse:
        return api.post(f"/farm/v1/jobs/{self.job}/cancel")


class CancelRunning(Cancel):
    """A cancel of a running job, whose worker learns of it with its next heartbeat."""

    def before(self, crashing_farm: CrashingFarm) -> None:
        super().before(crashing_farm)
        (self.held,) = jobs.take(crashing_farm.well.store, "w")

    def again(self, crashing_farm: CrashingFarm) -> None:
        super().again(crashing_farm)
        assert crashing_farm.well.store.renew("w", WORKER, [jobs.held(self.held)]) == [self.job]
        crashing_farm.well.store.fail(self.held, Code.CANCELLED, "x")


class Delete(Call):
    """A deletion. The record goes last, so that it can be repeated."""

    good = (204, 404)
    jobs = (0,)

    def before(self, crashing_farm: CrashingFarm) -> None:
        super().before(crashing_farm)
        self.job = crashing_farm.submit()
        crashing_farm.complete()
        crashing_farm.promised.clear()

    def send(self, api: FlaskClient) -> TestResponse:
        return api.delete(f"/farm/v1/jobs/{self.job}")


class Prepare(Story):
    """The preparation of a job with two input images and a prompt to enhance."""

    inputs: tuple[str, ...] = (IMAGE, IMAGE)

    def before(self, crashing_farm: CrashingFarm) -> None:
        self.job = crashing_farm.well.service.submit(LOCAL, self._order()).id
        crashing_farm.promised.add(self.job)

    def _order(self) -> Order:
        sources = tuple(Source("image_urls", image) for image in self.inputs)
        return Order("kontext", a_request(model="kontext", enhance=True), sources=sources)

    def act(self, crashing_farm: CrashingFarm) -> None:
        at_work(background._preparer(crashing_farm.mortal, Template(), "b1"))


class PrepareInVain(Prepare):
    """The preparation of an image whose head is valid, and whose body is missing."""

    inputs = (data_uri(sample_image()[:60]),)
    end = "image_load_error"


class Rendering(Story):
    """A worker from its first claim until no job waits."""

    jobs = (2,)

    def before(self, crashing_farm: CrashingFarm) -> None:
        crashing_farm.submit(images=2)
        crashing_farm.submit()

    def pipeline(self, shop: list[WorkerHarness]) -> SimulatedPipeline:
        return Beating(lambda: shop[0].lease._renew())

    def act(self, crashing_farm: CrashingFarm) -> None:
        opened: list[WorkerHarness] = []
        opened.append(
            WorkerHarness(crashing_farm.mortal, crashing_farm.mortal.store, pipeline=self.pipeline(opened), name="w")
        )
        shop = opened[0]
        try:
            shop.work()
        finally:
            shop.draining.set()
            shop.renderer.close()
            shop.publisher.close(seconds=10)
        shop.store.remove_worker("w", MODELS)


class Beating(SimulatedPipeline):
    """A pipeline that calls `beat` in the middle of each image that is first in flight."""

    def __init__(self, beat: Callable[[], None]) -> None:
        super().__init__(step_ms=0)
        self._beat = beat

    def advance(self, images: Sequence[SimulatedImage]) -> None:
        super().advance(images)
        if images[0].step == 2:
            self._beat()


class RenderingPoison(Rendering):
    """A worker whose engine fails on one of two jobs; the other is not affected."""

    def before(self, crashing_farm: CrashingFarm) -> None:
        crashing_farm.submit(prompt="poison")
        crashing_farm.submit()

    def pipeline(self, shop: list[WorkerHarness]) -> SimulatedPipeline:
        return Broken()


class Draining(Rendering):
    """A worker that drains in the middle of a batch."""

    def pipeline(self, shop: list[WorkerHarness]) -> SimulatedPipeline:
        return Beating(lambda: shop[0].draining.set())


class Cancelled(Rendering):
    """A worker whose only job is cancelled while it is rendered, or before it is rendered again."""

    jobs = (1,)
    end = Code.CANCELLED

    def before(self, crashing_farm: CrashingFarm) -> None:
        self.job = crashing_farm.submit(images=2)
        self.cancel = partial(crashing_farm.well.store.cancel, self.job)

    def pipeline(self, shop: list[WorkerHarness]) -> SimulatedPipeline:
        def cancel_and_beat() -> None:
            self.cancel()
            shop[0].lease._renew()

        return Beating(cancel_and_beat)

    def again(self, crashing_farm: CrashingFarm) -> None:
        self.cancel()


class Delivering(Story):
    """A courier with a working receiver."""

    def before(self, crashing_farm: CrashingFarm) -> None:
        crashing_farm.submit(webhook=Webhook(crashing_farm.receiver.url))
        crashing_farm.complete()

    def act(self, crashing_farm: CrashingFarm) -> None:
        at_work(background._courier(crashing_farm.mortal, "b1"))


class DeliveringInVain(Delivering):
    """A courier with a receiver that fails at first."""

    def before(self, crashing_farm: CrashingFarm) -> None:
        super().before(crashing_farm)
        crashing_farm.receiver.behave = answer(500)

    def again(self, crashing_farm: CrashingFarm) -> None:
        crashing_farm.receiver.behave = answer(200)


class Sweeping(Story):
    """A sweeper with an expired job."""

    jobs = (0,)

    def before(self, crashing_farm: CrashingFarm) -> None:
        self.job = crashing_farm.submit()
        crashing_farm.complete()
        crashing_farm.promised.clear()
        crashing_farm.well.redis.zadd(redis_keys.EXPIRY, {self.job: 0})

    def act(self, crashing_farm: CrashingFarm) -> None:
        crashing_farm.mortal.sweeper.sweep()

    def again(self, crashing_farm: CrashingFarm) -> None:
        if crashing_farm.everything():
            crashing_farm.well.redis.zadd(redis_keys.EXPIRY, {self.job: 0})
            crashing_farm.well.sweeper.sweep()


STORIES = (
    *(Submit, SubmitWithoutKey, DirectCall, Cancel, CancelRunning, Delete, Prepare, PrepareInVain),
    *(Rendering, RenderingPoison, Draining, Cancelled, Delivering, DeliveringInVain, Sweeping),
)


def tell(crashing_farm: CrashingFarm, story: Story, ill: Ill | None = None, at: int = -1) -> tuple[list[str], set[str]]:
    """Run one life of the process and what follows; return its calls, and the kinds of keys that stay."""
    crashing_farm.reset()
    story.before(crashing_farm)
    crashing_farm.failing_calls.begin(ill, at)
    try:
        story.act(crashing_farm)
    except (Died, FarmError):
        """Nothing more comes from it."""
    calls = crashing_farm.failing_calls.calls
    crashing_farm.struck += crashing_farm.failing_calls.has_struck
    crashing_farm.failing_calls.begin()
    story.again(crashing_farm)
    crashing_farm.go_on()
    ends = [jobs.record(crashing_farm.well.store, job_id).code for job_id in crashing_farm.everything()]
    assert len(ends) in story.jobs
    assert set(ends) <= {story.end}
    crashing_farm.judge()
    return calls, crashing_farm.kinds_left()


# To die before a call is to die after the one before, and a call that was lost is the lesser of the other two.
@pytest.mark.parametrize(
    "ill",
    [Ill.DIES_AFTER, Ill.ANSWER_LOST, *(pytest.param(ill, marks=FULL) for ill in (Ill.DIES_BEFORE, Ill.CALL_LOST))],
)
@pytest.mark.parametrize("story", STORIES)
def test_whatever_befalls_a_call_nothing_is_lost_or_doubled(
    crashing_farm: CrashingFarm, story: Callable[[], Story], ill: Ill
) -> None:
    tell(crashing_farm, story())  # the first image of a farm marks its storage, too
    calls, kinds = tell(crashing_farm, story())
    crashing_farm.struck = 0

    for at in range(len(calls)):
        try:
            _, left = tell(crashing_farm, story(), ill, at)
            assert left <= kinds, "something stays for good"
        except AssertionError as error:
            raise AssertionError(f"{ill} at call {at} of {calls}") from error
    # Signs of life are given by the clock: now and then there is one less.
    assert crashing_farm.struck >= max(1, len(calls) - 1)
