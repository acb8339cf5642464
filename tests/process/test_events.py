"""Events over real HTTP: for clients whose connection breaks, for those that leave, and when the farm stops."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path

import pytest
import urllib3

from api.server import MAX_STREAMS
from farm import clock
from farm.bootstrap import Farm
from farm.process import child
from farm.process.supervisor import API_GRACE_SECONDS
from tests.farms import RunningFarm, clean_environment, free_port, wait_for
from tests.service.jobstore import jobs

#: Its timing needs the machine for itself.
pytestmark = pytest.mark.alone

ALL = "/farm/v1/events"

_EVENT = re.compile(r"id: (\S+)\nevent: (\S+)\ndata: (.+)\n\n")


@contextmanager
def stream(url: str, path: str = ALL, *, seen: str = "") -> Iterator[urllib3.BaseHTTPResponse]:
    """Yield a stream over a connection of its own, which breaks when the block ends."""
    headers = {"Last-Event-ID": seen} if seen else {}
    with urllib3.PoolManager(retries=False, timeout=30) as http:
        response = http.request("GET", url + path, headers=headers, preload_content=False)
        try:
            yield response
        finally:
            response.close()


@contextmanager
def admitted(url: str) -> Iterator[urllib3.BaseHTTPResponse]:
    """Yield a stream, as soon as one more is accepted."""
    with ExitStack() as stack:

        def try_once() -> urllib3.BaseHTTPResponse | None:
            response = stack.enter_context(stream(url))
            return response if response.status == 200 else None

        response = wait_for(try_once, what="room for one more stream")
        assert response is not None
        yield response


def events(response: urllib3.BaseHTTPResponse) -> Iterator[tuple[str, str, str]]:
    """Yield id, name and data of each event."""
    text = ""
    for chunk in response.read_chunked():
        text += chunk.decode()
        end = 0
        for match in _EVENT.finditer(text):
            end = match.end()
            yield match[1], match[2], match[3]
        text = text[end:]


def read(farm: RunningFarm, seen: str, count: int) -> list[tuple[str, str, str]]:
    """Read so many changes after the event with this id; then the connection breaks."""
    with stream(farm.url, seen=seen) as response:
        assert response.status == 200
        return list(islice((event for event in events(response) if event[1] != "listening"), count))


def test_a_connection_that_breaks_again_and_again_loses_nothing(simulated: RunningFarm) -> None:
    """50 jobs run meanwhile: every event comes exactly once, in the order of each job."""
    with stream(simulated.url) as response:
        start, _, _ = next(events(response))
    heard: list[tuple[str, str, str]] = []
    with ThreadPoolExecutor(4) as pool:
        submitting = pool.map(lambda seed: simulated.submit(seed=seed, num_inference_steps=2), range(50))
        while len(heard) < 150:
            heard += read(simulated, heard[-1][0] if heard else start, min(7, 150 - len(heard)))
        ids = list(submitting)

    result = jobs.outbox(simulated.redis)
    assert [place for place, _, _ in heard] == result[result.index(start) + 1 if start in result else 0 :]
    for job_id in ids:
        names = [name for _, name, data in heard if job_id in data]
        assert names == ["job.created", "job.processing", "job.completed"]


def test_a_job_can_be_watched_over_broken_connections(simulated: RunningFarm) -> None:
    """Each time what is new comes; after the end there is nothing more to come back for."""
    job_id = simulated.submit(num_inference_steps=50)
    path = f"/farm/v1/jobs/{job_id}/events"
    seen = [("", "", "")]
    while seen[-1][1] != "job.completed":
        with stream(simulated.url, path, seen=seen[-1][0]) as response:
            seen.append(next(events(response)))

    places = [tuple(map(int, place.split("."))) for place, _, _ in seen[1:]]
    assert len(places) > 1
    assert places == sorted(set(places))
    assert simulated.call("GET", path, Last_Event_ID=seen[-1][0]).status == 204


def test_a_closed_stream_frees_its_slot(simulated: RunningFarm) -> None:
    """The maximum number of streams is open, and all get events; one more is accepted when they have closed."""
    with ExitStack() as stack:
        open_ones = [events(stack.enter_context(admitted(simulated.url))) for _ in range(MAX_STREAMS)]
        assert {next(coming)[1] for coming in open_ones} == {"listening"}
        refused = simulated.call("GET", ALL)
        assert (refused.status, refused.headers["Retry-After"]) == (429, "2")
        simulated.submit(num_inference_steps=1)
        assert all([next(coming)[1] for _ in range(3)][-1] == "job.completed" for coming in open_ones)
    left_at = clock.monotonic()
    with admitted(simulated.url):
        assert clock.monotonic() - left_at < 5


def test_streams_do_not_delay_an_api_that_stops(redis_dir: Path, farm: Farm) -> None:
    """They end well, within the second in which they look, and their connections with them."""
    job_id, port = jobs.submit(farm.store), free_port()
    program = [sys.executable, "-m", "api", "--port", str(port), "--data-dir", str(redis_dir)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(child.command(*program), env=clean_environment()) as process, ExitStack() as stack:
        stack.callback(process.kill)
        wait_for(lambda: answers(url))
        paths = [ALL, f"/farm/v1/jobs/{job_id}/events"] * 5
        coming = [events(stack.enter_context(stream(url, path))) for path in paths]
        for each in coming:
            next(each)

        process.terminate()
        asked_at = clock.monotonic()

        assert [list(each) for each in coming] == [[]] * len(coming)
        assert clock.monotonic() - asked_at < 4  # an API that waited for them would end them after five
        assert process.wait(API_GRACE_SECONDS) == 0


def answers(url: str) -> bool:
    with urllib3.PoolManager(retries=False) as http, suppress(urllib3.exceptions.HTTPError):
        return http.request("GET", f"{url}/healthz").status == 200
    return False
