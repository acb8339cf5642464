"""Many calls that wait cost little: whoever polls beside them hardly notices."""

from __future__ import annotations

import json
import resource
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from api.server import MOST_HELD, MOST_STREAMS
from tests.farms import RunningFarm, running_farm, wait_for

#: What a poll may take beside all of them, at the median, in seconds.
MOST_SECONDS = 0.05
#: Long enough to meet every one of them as it looks into its record.
MEASURED_SECONDS = 3.0

CALL = {"prompt": "a fox", "image_size": {"width": 256, "height": 256}}


@pytest.fixture
def usual_limit() -> Iterator[None]:
    """As many open files as a shell allows at first."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (now, most))


@pytest.mark.usefixtures("usual_limit")
def test_a_poll_beside_as_many_held_calls_and_streams_as_there_may_be_is_quick(data_dir: Path) -> None:
    """400 direct calls and 200 event streams at once, while the worker takes a second for a step."""
    with running_farm(data_dir, FARM_SIMULATED_STEP_MS="1000") as farm, ExitStack() as stack:
        job_id = farm.submit(model="fal-ai/flux/srpo")
        for _ in range(MOST_HELD):
            stack.enter_context(sent(farm, "POST", "/fal/run/fal-ai/flux/srpo", json.dumps(CALL)))
        events = f"/farm/v1/jobs/{job_id}/events"
        streams = [stack.enter_context(sent(farm, "GET", events)) for _ in range(MOST_STREAMS)]
        wait_for(lambda: jobs(farm) == MOST_HELD + 1, what="every held call's job")
        for stream in streams:
            wait_for_event(stream)

        times = poll_for_some_seconds(farm, f"/fal/queue/fal-ai/flux/requests/{job_id}/status")

        assert statistics.median(times) < MOST_SECONDS
        assert farm.call("POST", "/fal/run/fal-ai/flux/srpo", CALL).status == 429
        assert jobs(farm) == MOST_HELD + 1

        stack.close()  # everybody leaves without an answer
        wait_for(lambda: is_held(farm), seconds=10, what="a place for the next one")


def is_held(farm: RunningFarm) -> bool:
    """Whether a new call is held rather than told to come back."""
    with sent(farm, "POST", "/fal/run/fal-ai/flux/srpo", json.dumps(CALL)) as connection:
        connection.settimeout(1)
        try:
            assert connection.recv(64).startswith(b"HTTP/1.1 429")
        except TimeoutError:
            return True
        return False


@contextmanager
def sent(farm: RunningFarm, method: str, path: str, body: str = "") -> Iterator[socket.socket]:
    """A connection on which a request was sent."""
    with socket.create_connection(("127.0.0.1", farm.port), timeout=30) as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(f"{head}{body}".encode())
        yield connection


def wait_for_event(connection: socket.socket) -> None:
    seen = b""
    while b"event: job." not in seen:
        received = connection.recv(4096)
        assert received, seen
        seen += received


def jobs(farm: RunningFarm) -> int:
    """How many there are that have not ended."""
    queue: dict[str, int] = farm.call("GET", "/farm/v1/queue").json
    return queue["waiting"] + queue["processing"]


def poll_for_some_seconds(farm: RunningFarm, path: str) -> list[float]:
    """How long each poll took, in seconds."""
    times = []
    until = time.monotonic() + MEASURED_SECONDS
    while (began := time.monotonic()) < until:
        assert farm.call("GET", path).status == 202
        times.append(time.monotonic() - began)
    return times
