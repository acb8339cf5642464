"""The requests of the client commands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from farm import client as farm_client
from farm.bootstrap import Farm
from farm.cli import demo
from farm.cli.batches import BatchClient
from farm.cli.client import CallFailed, Client
from farm.settings import Settings
from tests.service.bulk.bulks import job_ids
from tests.service.cli.commands import served
from tests.service.jobstore.jobs import BASE
from tests.webhook_receiver import Receiver, answer, close_early, running_receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


def test_a_call_shows_the_key(receiver: Receiver) -> None:
    with pytest.raises(CallFailed, match="is not a farm"):
        Client(Settings(url=receiver.url, api_key="a-key")).get("/queue")

    (call,) = receiver.at("/farm/v1/queue")
    assert call.headers["authorization"] == "Bearer a-key"


@pytest.mark.parametrize("key", ["k\u00e9", "\u72d0", "a\nb", "a\u202eb", "\x7f"])
def test_a_key_that_cannot_be_sent_is_refused_in_words(receiver: Receiver, key: str) -> None:
    with pytest.raises(CallFailed, match="copy it again"):
        Client(Settings(url=receiver.url, api_key=key)).get("/queue")

    assert receiver.received == []


@pytest.mark.parametrize(("key", "problem"), [(None, "asks for an API key"), ("wrong", "does not accept this API key")])
def test_a_missing_or_wrong_key_is_reported_with_the_setting(farm: Farm, key: str | None, problem: str) -> None:
    app = create_app(farm, base=BASE, with_keys=True, max_streams=4, max_held_calls=4, host_decides=True)
    with served(app) as url:
        client = BatchClient(Settings(url=url, api_key=key))
        for call in (
            lambda: client.get("/queue"),
            lambda: client.upload(b"{}"),
            lambda: next(client.events("/events")),
        ):
            with pytest.raises(CallFailed, match=f"^{url} {problem}. Set FARM_API_KEY, or "):
                call()


def test_an_image_is_fetched_without_the_key(receiver: Receiver) -> None:
    """It may lie in a bucket, whose signed URLs refuse a second credential."""
    content = Client(Settings(url="http://127.0.0.1:1", api_key="a-key")).download(f"{receiver.url}/fox.png")

    (call,) = receiver.at("/fox.png")
    assert content == b"ok"
    assert "authorization" not in call.headers


def test_polling_survives_a_short_outage_of_the_farm(receiver: Receiver) -> None:
    ills = [answer(503, Retry_After="0"), close_early, close_early]

    def recover(request: BaseHTTPRequestHandler) -> None:
        (ills.pop() if ills else answer(404))(request)

    receiver.behave = recover
    client = Client(Settings(url=receiver.url))

    with pytest.raises(CallFailed, match="is not a farm"):
        client.poll("/jobs/a")
    assert len(receiver.received) == 4


def test_nothing_else_is_sent_twice(receiver: Receiver) -> None:
    receiver.behave = close_early
    client = Client(Settings(url=receiver.url))

    with pytest.raises(CallFailed, match="gave no HTTP answer"):
        client.post("/jobs", {})
    assert len(receiver.received) == 1


SUBMITS: dict[str, Callable[[str], object]] = {
    "Client": lambda url: farm_client.Client(url).submit("a fox"),
    "AsyncClient": lambda url: asyncio.run(farm_client.AsyncClient(url).submit("a fox")),
    "farm demo": lambda url: demo.submit(Client(Settings(url=url)), 1, *demo.PROMPTS[0]),
}


@pytest.mark.parametrize("client", SUBMITS)
@pytest.mark.parametrize("safety", ["off", "bundled"])
def test_images_are_checked_by_default_if_the_farm_can(
    farm: Farm, open_api: Callable[..., FlaskClient], client: str, safety: str
) -> None:
    with served(open_api(safety=safety).application) as url:
        SUBMITS[client](url)

    (job_id,) = job_ids(farm)
    job = farm.store.get(job_id)
    assert job
    assert job.request.safety == (safety != "off")
