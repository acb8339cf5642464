"""The courier against misbehaving receivers: schedule, one id, fresh signatures, and a record of every attempt."""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any, cast

import pytest
import time_machine
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks.webhooks import Webhook as Verifier

from farm import clock
from farm.bootstrap import Farm
from farm.dialects import native
from farm.domain.delivery import Delivery, Outcome
from farm.domain.job import State, Webhook
from farm.jobstore import redis_keys
from farm.ssrf_safe_http import SsrfSafeClient
from farm.webhooks import courier as couriers
from farm.webhooks import signing
from farm.webhooks.courier import Courier
from tests.farms import wait_for
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import BASE
from tests.service.jobstore.stepped_clock import SteppedScripts, set_clock
from tests.webhook_receiver import Behaviour, Receiver, answer, close_early, running_receiver

QUICK = (0.01, 0.01, 0.01)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


class CourierHarness:
    """A courier whose schedule takes no time, unless a test sets one."""

    def __init__(self, farm: Farm, schedule: tuple[float, ...] = QUICK, *, seconds: float = 1.0) -> None:
        self.farm = farm
        self.courier = Courier(
            farm.deliveries,
            store=farm.store,
            outbound=SsrfSafeClient(frozenset({"127.0.0.1"}), seconds=seconds),
            secrets=farm.secrets,
            links=lambda _: farm.links(BASE),
            schedules=dict.fromkeys(("native", "fal", "wavespeed"), schedule),
        )

    def submit(self, url: str, *, dialect: str = "native", events: frozenset[State] | None = None) -> str:
        new = jobs.new_job("ada", webhook=Webhook(url, events) if events else Webhook(url))
        self.farm.store.submit(replace(new, order=replace(new.order, dialect=dialect)))
        return new.id

    def finish(self) -> None:
        """Complete every waiting job."""
        while taken := jobs.take(self.farm.store):
            for job in taken:
                self.farm.store.complete(job, jobs.result(job))

    def post(self, url: str, *, dialect: str = "native") -> str:
        """Submit and complete a job, let its delivery run to its end, and return the delivery's id."""
        job_id = self.submit(url, dialect=dialect)
        self.finish()
        name = f"{job_id}-3"
        self.until(lambda: self.record(name).state is not Outcome.WAITING)
        return name

    def until(self, condition: Callable[[], bool]) -> None:
        def look() -> bool:
            self.courier.work()
            return condition()

        wait_for(look)

    def record(self, name: str) -> Delivery:
        found = self.farm.deliveries.get(name)
        assert found is not None
        return found


def spy(monkeypatch: pytest.MonkeyPatch, target: object, name: str) -> list[object]:
    """Record the results of a method's calls."""
    method, results = getattr(target, name), []

    def recorded(*arguments: Any, **options: Any) -> Any:
        results.append(method(*arguments, **options))
        return results[-1]

    monkeypatch.setattr(target, name, recorded)
    return results


@pytest.fixture
def harness(farm: Farm) -> Iterator[CourierHarness]:
    harness = CourierHarness(farm)
    yield harness
    harness.courier.close()


def test_the_farms_own_webhook_is_verified_by_the_published_library(
    harness: CourierHarness, receiver: Receiver
) -> None:
    name = harness.post(f"{receiver.url}/hook?x=1")

    (came,) = receiver.received
    event = Verifier(harness.farm.secrets.of("ada")).verify(came.body, dict(came.headers))
    assert (came.path, came.headers["webhook-id"]) == ("/hook?x=1", name)
    assert (event["type"], event["sequence"]) == ("job.completed", 3)
    assert event["data"]["status"] == "completed"
    assert event["data"]["images"][0]["url"].startswith(f"{BASE}/files/")


def test_a_single_delivery_is_claimed_once_and_no_other_one_is_looked_for(
    harness: CourierHarness, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = spy(monkeypatch, harness.farm.deliveries, "claim")
    job_id = harness.submit(receiver.url, events=frozenset({State.COMPLETED}))
    harness.finish()

    harness.courier.work()
    harness.courier.close()  # waits until it is delivered

    assert harness.record(f"{job_id}-3").state is Outcome.DELIVERED
    assert len(claims) == 1


def test_one_notification_is_enough_for_more_deliveries_than_a_receiver_takes_at_a_time(
    harness: CourierHarness, receiver: Receiver
) -> None:
    names = [f"{harness.submit(receiver.url, events=frozenset({State.COMPLETED}))}-3" for _ in range(12)]
    harness.finish()

    harness.courier.work()

    wait_for(lambda: all(harness.record(name).state is Outcome.DELIVERED for name in names))


def test_without_spans_of_the_farms_own_a_receiver_gets_the_trace_context_of_the_caller(
    harness: CourierHarness, receiver: Receiver
) -> None:
    new = jobs.new_job("ada", webhook=Webhook(receiver.url)).in_trace(TRACE)
    harness.farm.store.submit(new)
    harness.post(receiver.url)

    harness.until(lambda: len(receiver.received) == 2)
    assert {came.json["data"]["id"]: came.headers.get("traceparent") for came in receiver.received}[new.id] == TRACE
    assert [came.headers.get("traceparent") for came in receiver.received].count(None) == 1


def test_wavespeeds_webhook_is_the_prediction_signed_its_way(harness: CourierHarness, receiver: Receiver) -> None:
    harness.post(receiver.url, dialect="wavespeed")

    (came,) = receiver.received
    signed = f"{came.headers['webhook-id']}.{came.headers['webhook-timestamp']}.".encode() + came.body
    key = harness.farm.secrets.of("ada").removeprefix("whsec_").encode()
    assert came.headers["webhook-signature"] == "v3," + hmac.new(key, signed, hashlib.sha256).hexdigest()
    assert (came.json["status"], came.json["input"]["prompt"]) == ("completed", "a red fox")


def test_fals_webhook_is_verified_with_the_published_key(harness: CourierHarness, receiver: Receiver) -> None:
    name = harness.post(receiver.url, dialect="fal")

    (came,) = receiver.received
    key = signing.jwks(harness.farm.secrets.signing_key())["keys"][0]["x"]
    names = ("request-id", "user-id", "timestamp")
    lines = [came.headers[f"x-fal-webhook-{part}"] for part in names] + [hashlib.sha256(came.body).hexdigest()]
    Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key + "=")).verify(
        bytes.fromhex(came.headers["x-fal-webhook-signature"]), "\n".join(lines).encode()
    )
    assert (came.json["request_id"], came.json["status"]) == (name.removesuffix("-3"), "OK")
    assert came.json["payload"]["images"][0]["url"].startswith(BASE)


@pytest.fixture
def stepped(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what sets Redis's clock to a second, as deliveries read it."""
    monkeypatch.setattr(farm.deliveries, "_scripts", SteppedScripts(farm.redis))
    return lambda seconds: set_clock(farm.redis, seconds * 1_000_000)


@pytest.mark.parametrize("dialect", ["native", "fal", "wavespeed"])
def test_each_try_has_the_same_id_and_a_signature_of_its_own(
    farm: Farm, receiver: Receiver, stepped: Callable[[int], None], dialect: str
) -> None:
    """Receivers refuse a signature that is minutes off: it has Redis's time, whatever the courier's own clock says."""
    harness, now = CourierHarness(farm), farm.redis.time()[0]
    stepped(now + 1)
    receiver.behave = answer(500)
    job_id = harness.submit(receiver.url, dialect=dialect)
    harness.finish()
    with time_machine.travel(now - 86_400, tick=True):
        harness.until(lambda: len(harness.record(f"{job_id}-3").attempts) == 1)
        receiver.behave = answer(200)
        stepped(now + 401)
        harness.until(lambda: harness.record(f"{job_id}-3").state is Outcome.DELIVERED)
    harness.courier.close()

    first, second = receiver.received
    stamp = "x-fal-webhook-timestamp" if dialect == "fal" else "webhook-timestamp"
    signature = stamp.replace("timestamp", "signature")
    name = "x-fal-webhook-request-id" if dialect == "fal" else "webhook-id"
    assert first.headers[name] == second.headers[name]
    assert [int(came.headers[stamp]) for came in (first, second)] == [now + 1, now + 401]
    assert [attempt.at_us // 1_000_000 for attempt in harness.record(f"{job_id}-3").attempts] == [now + 1, now + 401]
    assert first.headers[signature] != second.headers[signature]
    assert first.body == second.body


@pytest.mark.parametrize(
    ("behaviour", "shown"),
    [(answer(500), 500), (answer(404), 404), (answer(429), 429), (close_early, 0)],
    ids=["500", "404", "429", "closes early"],
)
def test_a_failing_delivery_is_retried_until_the_schedule_ends(
    harness: CourierHarness, receiver: Receiver, behaviour: Behaviour, shown: int
) -> None:
    receiver.behave = behaviour

    delivery = harness.record(harness.post(receiver.url))

    assert delivery.state is Outcome.FAILED
    assert [attempt.status for attempt in delivery.attempts] == [shown] * (1 + len(QUICK))
    assert all(bool(attempt.error) == (shown == 0) for attempt in delivery.attempts)
    assert len({came.headers["webhook-id"] for came in receiver.received}) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308, 410])
def test_a_redirect_or_gone_ends_it(harness: CourierHarness, receiver: Receiver, status: int) -> None:
    receiver.behave = answer(status, Location=f"{receiver.url}/elsewhere")

    delivery = harness.record(harness.post(receiver.url + "/hook"))

    assert (delivery.state, [attempt.status for attempt in delivery.attempts]) == (Outcome.FAILED, [status])
    assert [came.path for came in receiver.received] == ["/hook"]


def test_a_receiver_that_hangs_is_left_when_its_time_is_up(farm: Farm, receiver: Receiver) -> None:
    harness = CourierHarness(farm, (), seconds=0.3)
    receiver.behave = receiver.hang

    delivery = harness.record(harness.post(receiver.url))
    harness.courier.close()

    (attempt,) = delivery.attempts
    assert delivery.state is Outcome.FAILED
    assert 0.25 < attempt.seconds < 10
    assert attempt.error


def test_a_delivery_whose_body_cannot_be_made_fails_on_record(
    harness: CourierHarness, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("boom")

    monkeypatch.setattr(native, "view", fail)

    delivery = harness.record(harness.post(receiver.url))

    assert (delivery.state, len(delivery.attempts)) == (Outcome.FAILED, 1 + len(QUICK))
    assert all(attempt.error and "boom" not in attempt.error for attempt in delivery.attempts)
    assert receiver.received == []


def test_a_dropped_delivery_is_sent_when_redelivered_by_hand(harness: CourierHarness, receiver: Receiver) -> None:
    job_id = harness.submit(receiver.url, events=frozenset(State))
    harness.finish()
    harness.until(lambda: harness.record(f"{job_id}-1").state is Outcome.DROPPED)
    receiver.received.clear()
    harness.farm.deliveries.redeliver(f"{job_id}-1")
    harness.until(lambda: harness.record(f"{job_id}-1").state is Outcome.DELIVERED)

    assert "job.created" in [came.json["type"] for came in receiver.received]


def test_only_the_head_of_an_answer_is_kept(harness: CourierHarness, receiver: Receiver) -> None:
    def talk(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "4000")
        request.end_headers()
        request.wfile.write(b"\xff" * 4000)

    receiver.behave = talk
    name = harness.post(receiver.url)

    assert len(harness.record(name).attempts[0].answer) == 512
    assert int(cast(int, harness.farm.redis.memory_usage(f"srpo:delivery_attempts:{name}"))) < 3000


def test_a_name_that_leads_inside_is_not_called(farm: Farm, receiver: Receiver) -> None:
    harness = CourierHarness(farm)
    delivery = harness.record(harness.post("http://169.254.169.254/latest"))
    harness.courier.close()

    (attempt,) = delivery.attempts
    assert (delivery.state, attempt.status) == (Outcome.FAILED, 0)
    assert "169.254.169.254" in attempt.error


def test_the_pauses_are_those_of_the_schedule(farm: Farm, receiver: Receiver) -> None:
    harness = CourierHarness(farm, (5, 30, 120))
    receiver.behave = answer(503)
    name = f"{harness.submit(receiver.url)}-3"
    harness.finish()
    pauses = []
    for tries in range(1, 4):
        harness.until(lambda tries=tries: len(harness.record(name).attempts) == tries)  # type: ignore[misc]
        pauses.append((harness.record(name).due_us - clock.now_us()) / 1e6)
        line = f"ada {receiver.url}"
        farm.redis.zadd(f"srpo:delivery_queue:{line}", {name: 0})
        farm.redis.zadd(redis_keys.DELIVERY_QUEUES, {line: 0})
    harness.courier.close()

    assert all(wanted - 2 < pause <= wanted * 1.2 for wanted, pause in zip((5, 30, 120), pauses, strict=True))


def test_a_receiver_may_ask_for_a_longer_pause(farm: Farm, receiver: Receiver) -> None:
    harness = CourierHarness(farm, (5,))
    receiver.behave = answer(429, Retry_After="600")
    name = f"{harness.submit(receiver.url)}-3"
    harness.finish()
    harness.until(lambda: len(harness.record(name).attempts) == 1)
    harness.courier.close()

    assert 590 < (harness.record(name).due_us - clock.now_us()) / 1e6 <= 601


def test_a_receiver_that_hangs_does_not_delay_others(farm: Farm, receiver: Receiver) -> None:
    harness = CourierHarness(farm, seconds=60)
    with running_receiver() as dead:
        dead.behave = dead.hang
        hanging = [f"{harness.submit(dead.url)}-3" for _ in range(20)]
        for _ in range(20):
            harness.submit(receiver.url)
        harness.finish()

        harness.until(lambda: len(receiver.received) == 20)

        assert not any(harness.record(name).attempts for name in hanging)
    harness.courier.close()


def test_several_couriers_deliver_each_event_once(farm: Farm, receiver: Receiver) -> None:
    harnesses = [CourierHarness(farm) for _ in range(3)]
    names = {f"{harnesses[0].submit(receiver.url)}-3" for _ in range(60)}
    harnesses[0].finish()
    threads = [threading.Thread(target=harness.courier.work) for harness in harnesses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    harnesses[0].until(lambda: len(receiver.received) >= 60)
    for harness in harnesses:
        harness.courier.close()

    assert sorted(came.headers["webhook-id"] for came in receiver.received) == sorted(names)


def test_news_that_a_later_state_has_overtaken_is_dropped(harness: CourierHarness, receiver: Receiver) -> None:
    job_id = harness.submit(receiver.url, events=frozenset(State))
    harness.finish()

    def states() -> list[Outcome]:
        return [harness.record(f"{job_id}-{number}").state for number in (1, 2, 3)]

    harness.until(lambda: Outcome.WAITING not in states())

    assert [came.json["type"] for came in receiver.received] == ["job.completed"]
    assert states() == [Outcome.DROPPED, Outcome.DROPPED, Outcome.DELIVERED]


def test_a_draining_courier_takes_nothing_more_and_ends_what_it_began(farm: Farm, receiver: Receiver) -> None:
    harness = CourierHarness(farm)
    receiver.behave = receiver.late
    first = f"{harness.submit(receiver.url)}-3"
    harness.finish()
    harness.until(lambda: len(receiver.received) == 1)
    harness.courier.drain()
    second = f"{harness.submit(receiver.url)}-3"
    harness.finish()
    harness.courier.work()
    receiver.released.set()
    harness.courier.close()

    assert (harness.record(first).state, harness.record(second).state) == (Outcome.DELIVERED, Outcome.WAITING)


def test_a_courier_that_dies_in_mid_try_is_replaced(
    farm: Farm, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(couriers, "LEASE_SECONDS", 0.3)
    harness = CourierHarness(farm)
    name = f"{harness.submit(receiver.url)}-3"
    harness.finish()
    farm.deliveries.claim(1, lease_seconds=0.3)  # taken by somebody who is never heard of again

    harness.until(lambda: harness.record(name).state is Outcome.DELIVERED)
    harness.courier.close()
