"""A receiver with every kind of fault at once: each event arrives, under one id, and correctly signed every time."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler

import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from farm.bootstrap import Farm
from farm.domain.delivery import Outcome
from tests.service.webhooks.test_courier import CourierHarness
from tests.webhook_receiver import Receiver, answer, close_early, running_receiver

EVENTS = 40


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


def drip(request: BaseHTTPRequestHandler) -> None:
    """Send a byte of the head now and then, as long as the client waits for more."""
    with suppress(OSError):
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drop: ")
        while not threading.Event().wait(0.1):
            request.wfile.write(b"x")


def take_and_say_nothing(request: BaseHTTPRequestHandler) -> None:
    """Receive the request without an answer, so that its sender repeats it."""
    close_early(request)


def test_every_event_arrives_at_a_receiver_with_every_trouble(farm: Farm, receiver: Receiver) -> None:
    """Three in ten requests are refused, one in ten hangs, and others are slow, or never answered."""
    dice, lock = random.Random(7), threading.Lock()
    troubles = [answer(500)] * 2 + [answer(503, Retry_After="0"), receiver.hang, drip, take_and_say_nothing]
    arrived: list[str] = []

    def behave(request: BaseHTTPRequestHandler) -> None:
        with lock:
            trouble = dice.choice([*troubles, *([None] * 4)])
        if trouble is not None:
            trouble(request)
            return
        arrived.append(request.headers["webhook-id"])
        answer(200)(request)

    receiver.behave = behave
    harness = CourierHarness(farm, (0.05,) * 40, seconds=1.0)
    names = {f"{harness.submit(receiver.url)}-3" for _ in range(EVENTS)}
    harness.finish()
    harness.until(lambda: all(harness.record(name).state is not Outcome.WAITING for name in names))
    harness.courier.close()

    assert {harness.record(name).state for name in names} == {Outcome.DELIVERED}
    assert set(arrived) == names
    assert len(receiver.received) > EVENTS
    verifier = Verifier(farm.secrets.of("ada"))
    for came in receiver.received:
        verifier.verify(came.body, dict(came.headers))
