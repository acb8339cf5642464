"""What the client commands send, and to whom."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from farm.cli.client import CallFailed, Client
from farm.settings import Settings
from tests.receiver import Receiver, running_receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


def test_a_call_shows_the_key(receiver: Receiver) -> None:
    with pytest.raises(CallFailed, match="is no farm"):
        Client(Settings(url=receiver.url, api_key="a-key")).get("/queue")

    (call,) = receiver.at("/farm/v1/queue")
    assert call.headers["authorization"] == "Bearer a-key"


def test_a_picture_is_fetched_without_the_key(receiver: Receiver) -> None:
    """It may lie in a bucket, whose signed URLs refuse a second credential."""
    content = Client(Settings(url="http://127.0.0.1:1", api_key="a-key")).download(f"{receiver.url}/fox.png")

    (call,) = receiver.at("/fox.png")
    assert content == b"ok"
    assert "authorization" not in call.headers
