"""A farm with twice the load it can render: it refuses, loses nothing, and everything else keeps its pace."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from statistics import median

import pytest

from farm.domain.job import Moment
from tests.farms import Answer, RunningFarm, running_farm, wait_for
from tests.process.test_events import events, stream
from tests.webhook_receiver import Receiver, answer, running_receiver

#: Its timing needs the machine for itself.
pytestmark = pytest.mark.alone

STEPS, STEP_MS, QUEUE_LIMIT = 4, 25, 15
#: Each job fills a batch: so many can one worker end in a second.
CAPACITY = 1000 / (STEPS * STEP_MS)
SUBMITTERS = 4
#: How many times as long as on the idle farm anything may take, and what a busy machine adds to that, in seconds.
RATIO, SLACK = 4, 0.25


def submit(farm: RunningFarm, receiver: Receiver) -> Answer:
    size = {"width": 256, "height": 256}
    fields = {"model": "srpo", "prompt": "a fox", "image_size": size, "num_inference_steps": STEPS, "num_images": 4}
    return farm.call("POST", "/farm/v1/jobs", fields | {"webhook_url": receiver.url})


def result(receiver: Receiver) -> set[str]:
    """Return the jobs whose completion was reported."""
    return {came.json["data"]["id"] for came in receiver.received if came.json["type"] == "job.completed"}


class Observers:
    """A client that polls, one that follows events, and a webhook receiver: how long each waits, in seconds."""

    def __init__(self, farm: RunningFarm, receiver: Receiver) -> None:
        self._farm = farm
        self._receiver = receiver
        self._arrived: dict[str, float] = {}
        self._polls: list[float] = []
        self._events: list[float] = []
        self._judged = 0
        self._over = threading.Event()
        self._follows = threading.Event()
        receiver.behave = self._note_arrival

    @contextmanager
    def watching(self, pool: ThreadPoolExecutor) -> Iterator[None]:
        work: list[Future[None]] = [pool.submit(self._poll), pool.submit(self._follow)]
        wait_for(self._follows.is_set, what="the stream of events")
        try:
            yield
        finally:
            self._over.set()
            submit(self._farm, self._receiver)  # so that one more event comes
            for each in work:
                each.result(timeout=30)

    def medians(self) -> dict[str, float]:
        """Return the medians since the last call."""
        counted = {"polls": self._polls, "events": self._events, "webhooks": self._calls()}
        self._polls, self._events, self._judged = [], [], len(self._receiver.received)
        assert all(len(seconds) >= 5 for seconds in counted.values()), counted
        return {what: median(seconds) for what, seconds in counted.items()}

    def _poll(self) -> None:
        job_id = self._farm.submit()
        while not self._over.wait(0.05):
            began = time.perf_counter()
            self._farm.job(job_id)
            self._polls.append(time.perf_counter() - began)

    def _follow(self) -> None:
        with stream(self._farm.url) as response:
            for event_id, name, _ in events(response):
                self._follows.set()
                if name != "listening":
                    self._events.append(time.time() - Moment.parse(event_id).ms / 1000)
                if self._over.is_set():
                    return

    def _note_arrival(self, request: BaseHTTPRequestHandler) -> None:
        self._arrived[request.headers["webhook-id"]] = time.time()
        answer(200)(request)

    def _calls(self) -> list[float]:
        result = [came for came in self._receiver.received[self._judged :] if came.json["type"] == "job.completed"]
        ended = [datetime.fromisoformat(came.json["data"]["finished_at"]).timestamp() for came in result]
        return [self._arrived[came.headers["webhook-id"]] - end for came, end in zip(result, ended, strict=True)]


class Crowd:
    """Callers that submit twice what the farm can render, at an even pace, whatever the answers."""

    def __init__(self, farm: RunningFarm, receiver: Receiver) -> None:
        self._farm = farm
        self._receiver = receiver
        self._over = threading.Event()
        self.accepted: list[str] = []
        self.refused: list[Answer] = []

    def press(self, pool: ThreadPoolExecutor, *, seconds: float) -> None:
        work = [pool.submit(self._press) for _ in range(SUBMITTERS)]
        self._over.wait(seconds)
        self._over.set()
        for each in work:
            each.result(timeout=30)

    def _press(self) -> None:
        pause = SUBMITTERS / (2 * CAPACITY)
        due = time.monotonic()
        while not self._over.wait(max(0, due - time.monotonic())):
            due = max(due, time.monotonic() - 1) + pause
            answered = submit(self._farm, self._receiver)
            if answered.status == 202:
                self.accepted.append(answered.json["id"])
            else:
                self.refused.append(answered)


@pytest.mark.parametrize("seconds", [5, pytest.param(120, marks=[pytest.mark.full, pytest.mark.timeout(400)])])
def test_at_twice_its_capacity_a_farm_refuses_and_keeps_its_pace(tmp_path: Path, seconds: float) -> None:
    settings = {
        "FARM_SIMULATED_STEP_MS": str(STEP_MS),
        "FARM_QUEUE_LIMIT": str(QUEUE_LIMIT),
        "FARM_WEBHOOK_ALLOW": "127.0.0.1",
    }
    with (
        running_receiver() as receiver,
        running_farm(tmp_path / "data", **settings) as farm,
        ThreadPoolExecutor(SUBMITTERS + 2) as pool,
    ):
        observers, crowd = Observers(farm, receiver), Crowd(farm, receiver)
        with observers.watching(pool):
            for _ in range(8):
                farm.wait_for_end(submit(farm, receiver).json["id"])
            wait_for(lambda: len(result(receiver)) >= 8, what="the webhooks of the idle farm")
            idle = observers.medians()

            crowd.press(pool, seconds=seconds)
            last = time.monotonic()
            busy = observers.medians()

            # A caller that comes back when it is told to is accepted.
            pause = int(crowd.refused[-1].headers["Retry-After"])
            wait_for(lambda: time.monotonic() - last >= pause, seconds=2 * pause)
            assert submit(farm, receiver).status == 202
        ends = [farm.wait_for_end(job_id) for job_id in crowd.accepted]
        wait_for(lambda: set(crowd.accepted) <= result(receiver), what="the webhooks of all that was accepted")

    assert {view["status"] for view in ends} == {"completed"}
    assert {(refusal.status, refusal.json["code"]) for refusal in crowd.refused} == {(429, "queue_full")}
    assert all(1 <= int(refusal.headers["Retry-After"]) <= 60 for refusal in crowd.refused)
    # It went on rendering, and much was refused, also where the machine has little time for either.
    assert len(crowd.accepted) > QUEUE_LIMIT + CAPACITY * seconds / 5
    assert len(crowd.refused) > CAPACITY * seconds / 5
    for what, typical in busy.items():
        assert typical <= RATIO * idle[what] + SLACK, (what, idle, busy)
    print(f"\n{len(crowd.accepted)} accepted, {len(crowd.refused)} refused; idle {idle}, busy {busy}")
