"""Blocking calls: many cost little, a disconnect frees their slot, and their jobs wait for an equal call."""

from __future__ import annotations

import json
import resource
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import pytest

from api.server import MAX_HELD_CALLS, MAX_STREAMS
from farm.jobstore import redis_keys
from tests.farms import RunningFarm, running_farm, wait_for

#: Its timing needs the machine for itself.
pytestmark = pytest.mark.alone

#: What a poll may take beside all of them, at the median, in seconds.
MAX_SECONDS = 0.05
#: Long enough to meet every one of them as it looks into its record.
MEASURED_SECONDS = 3.0
#: So many direct calls, and for so long, must not starve those that poll.
BURST = 200
BURST_SECONDS = 60.0

RUN = "/fal/run/fal-ai/flux/srpo"
CALL = {"prompt": "a fox", "image_size": {"width": 256, "height": 256}}


@pytest.fixture
def usual_limit() -> Iterator[None]:
    """Lower the limit on open files to that of a shell."""
    now, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, maximum))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (now, maximum))


@pytest.mark.usefixtures("usual_limit")
def test_a_poll_beside_as_many_held_calls_and_streams_as_there_may_be_is_quick(data_dir: Path) -> None:
    """400 direct calls and 200 event streams at once, while the worker takes a second for a step."""
    with running_farm(data_dir, FARM_SIMULATED_STEP_MS="1000") as farm, ExitStack() as stack:
        job_id = farm.submit(model="fal-ai/flux/srpo")
        for _ in range(MAX_HELD_CALLS):
            stack.enter_context(sent(farm, "POST", RUN, json.dumps(CALL)))
        events = f"/farm/v1/jobs/{job_id}/events"
        streams = [stack.enter_context(sent(farm, "GET", events)) for _ in range(MAX_STREAMS)]
        wait_for(lambda: jobs(farm) == MAX_HELD_CALLS + 1, what="every held call's job")
        for stream in streams:
            wait_for_event(stream)

        times = poll_for_some_seconds(farm, f"/fal/queue/fal-ai/flux/requests/{job_id}/status")

        assert statistics.median(times) < MAX_SECONDS
        assert farm.call("POST", RUN, CALL).status == 429
        assert jobs(farm) == MAX_HELD_CALLS + 1

        stack.close()  # everybody leaves without an answer
        wait_for(lambda: is_held(farm), seconds=10, what="a place for the next one")


@pytest.mark.usefixtures("usual_limit")
@pytest.mark.full
def test_a_minute_of_direct_calls_does_not_starve_polling(data_dir: Path) -> None:
    with running_farm(data_dir, FARM_SIMULATED_STEP_MS="3000") as farm, ExitStack() as stack:
        job_id = farm.submit(model="fal-ai/flux/srpo", num_inference_steps=50)
        for _ in range(BURST):
            stack.enter_context(sent(farm, "POST", RUN, json.dumps(CALL)))
        wait_for(lambda: jobs(farm) == BURST + 1, what="every held call's job")

        times = poll_for_some_seconds(farm, f"/fal/queue/fal-ai/flux/requests/{job_id}/status", BURST_SECONDS)

        assert statistics.median(times) < MAX_SECONDS
        assert max(times) < 2


def test_a_job_is_kept_for_half_a_minute_after_its_caller_disconnected(data_dir: Path) -> None:
    """One waits, and one is rendered: of either the caller leaves, and one of them comes back."""
    # No silence counts before Redis has run for the time of a lease.
    with running_farm(data_dir, FARM_SIMULATED_STEP_MS="300", FARM_LEASE_SECONDS="3") as farm:
        short = json.dumps(CALL | {"num_inference_steps": 4})
        with sent(farm, "POST", RUN, json.dumps(CALL | {"num_inference_steps": 50, "num_images": 4})):
            wait_for(lambda: jobs(farm) == 1, what="the first call's job")
            (running,) = ids(farm)
            farm.wait_for_state(running, "processing")
            with sent(farm, "POST", RUN, short):
                wait_for(lambda: jobs(farm) == 2, what="the second call's job")
                (waiting,) = set(ids(farm)) - {running}
        wait_for(lambda: let_go(farm) == {running, waiting}, what="two jobs that nobody waits for")

        with sent(farm, "POST", RUN, short) as again:
            wait_for(lambda: let_go(farm) == {running}, what="a job that is waited for again")
            farm.redis.zadd(redis_keys.ABANDON_DEADLINE, {running: 0})  # half a minute later
            left = farm.wait_for_end(running)
            assert (left["status"], left["code"]) == ("failed", "client_disconnected")
            assert left["progress"]["step"] < left["progress"]["steps"]
            again.settimeout(60)
            head = again.recv(4096).decode()

        assert head.startswith("HTTP/1.1 200")
        assert f"x-fal-request-id: {waiting}" in head
        assert set(ids(farm)) == {running, waiting}


def ids(farm: RunningFarm) -> list[str]:
    """Return the ids of all jobs."""
    return [job["id"] for job in farm.call("GET", "/farm/v1/jobs").json["jobs"]]


def let_go(farm: RunningFarm) -> set[str]:
    """Return the jobs whose callers have disconnected, and may come back."""
    seconds, _ = farm.redis.time()
    # For half a minute from when they left; where somebody waits, that is still to begin.
    return set(cast(list[str], farm.redis.zrangebyscore(redis_keys.ABANDON_DEADLINE, 0, (seconds + 30) * 1_000_000)))


def is_held(farm: RunningFarm) -> bool:
    """Return True if a new call is held rather than refused."""
    with sent(farm, "POST", RUN, json.dumps(CALL)) as connection:
        connection.settimeout(1)
        try:
            assert connection.recv(64).startswith(b"HTTP/1.1 429")
        except TimeoutError:
            return True
        return False


@contextmanager
def sent(farm: RunningFarm, method: str, path: str, body: str = "") -> Iterator[socket.socket]:
    """Yield a connection on which a request was sent."""
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
    """Return how many jobs have not ended."""
    queue: dict[str, int] = farm.call("GET", "/farm/v1/queue").json
    return queue["waiting"] + queue["processing"]


def poll_for_some_seconds(farm: RunningFarm, path: str, seconds: float = MEASURED_SECONDS) -> list[float]:
    """Return how long each poll took, in seconds."""
    times = []
    until = time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        assert farm.call("GET", path).status == 202
        times.append(time.monotonic() - began)
    return times
