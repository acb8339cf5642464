"""Whole farms with a bucket of a real S3 server, while it is away."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from farm.bootstrap import build
from farm.settings import Settings
from farm.storage.storage import new_key, parse_key
from tests.farms import RunningFarm, running_farm, wait_for
from tests.fault_proxies import Fault, FaultyWay, faulty_way, refusal
from tests.s3 import S3, Place
from tests.unit.dialects.samples import JOB_ID, a_request
from workers.pipelines.simulated import SimulatedPipeline

#: A put that was answered well, with the digest of something else, and stored nothing; and an image that is cut off.
NOT_DONE = Fault(answer=b'HTTP/1.1 200 OK\r\nETag: "0"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
SHORT = Fault(
    answer=b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nLast-Modified: Sat, 21 Nov 2026 12:07:21 GMT\r\n"
    b"Connection: close\r\n\r\n"
)
JOBS = 200
LEASE = 2.0


@pytest.fixture
def way(s3: S3) -> Iterator[FaultyWay]:
    with faulty_way(s3.port) as way:
        yield way


@pytest.fixture
def place(s3: S3) -> Place:
    return s3.place()


@pytest.fixture
def environment(s3: S3, way: FaultyWay, place: Place) -> dict[str, str]:
    return s3.environment(way.port) | {
        "FARM_STORAGE_URL": place.url,
        "FARM_SIMULATED_STEP_MS": "5",
        "FARM_LEASE_SECONDS": str(LEASE),
    }


def submit_one(farm: RunningFarm, number: int) -> str:
    return farm.submit(prompt="a fox", seed=number, num_inference_steps=4, output_format="png")


def right_pixels(number: int) -> bytes:
    """Return the image of `submit_one`, rendered here."""
    request = a_request(prompt="a fox", seed=number, steps=4, width=256, height=256)
    (rendered,) = SimulatedPipeline(0).render([request.image(0)], lambda _index, _step: True)
    return rendered.image.tobytes()


def pixels(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        return image.tobytes()


def completed(farm: RunningFarm) -> int:
    return int(str(farm.redis.hget("srpo:totals", "jobs_completed:srpo") or 0))


def stay(seconds: float) -> None:
    """Wait for the duration of an outage."""
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > until, seconds=seconds + 5)


def short_outage(way: FaultyWay) -> None:
    way.go_down()
    stay(5)
    way.inject(refusal(503, "SlowDown"))
    way.come_up()
    stay(5)
    way.heal()


def long_outage(way: FaultyWay) -> None:
    """Break the storage for a minute: away, overloaded, silent, broken in every other way, and away again."""
    short_outage(way)
    faults = (Fault(reset=True), Fault(cut_after=0), Fault(bytes_per_second=50), refusal(500, "InternalError"))
    for fault, seconds in ((Fault(silent=True), 20), *((fault, 3) for fault in faults)):
        way.inject(fault)
        stay(seconds)
        way.heal()
    way.go_down()
    stay(18)
    way.come_up()


def half_a_minute_of_everything(way: FaultyWay) -> None:
    """Each kind of trouble for some of the requests: refused, not answered, slow, done badly, and not done at all."""
    way.inject(refusal(500, "InternalError"), share=0.1)
    way.inject(refusal(503, "SlowDown"), share=0.1)
    way.inject(Fault(silent=True), share=0.05)
    way.inject(Fault(bytes_taken_per_second=1000), "PUT", share=0.1)
    way.inject(NOT_DONE, "PUT", share=0.1)
    way.inject(SHORT, "HEAD", share=0.1)
    stay(30)
    way.heal()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "outage",
    [
        short_outage,
        pytest.param(long_outage, marks=pytest.mark.full),
        pytest.param(half_a_minute_of_everything, marks=pytest.mark.full),
    ],
    ids=["ten seconds", "a minute", "some of everything"],
)
def test_storage_that_goes_down_in_the_middle_of_200_jobs_costs_no_image(
    data_dir: Path,
    environment: dict[str, str],
    way: FaultyWay,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    outage: Any,
) -> None:
    """It costs no attempt either, the API stays quick, and no orphan is left in the bucket."""
    with running_farm(data_dir, 2, **environment) as farm:
        ids = [submit_one(farm, number) for number in range(JOBS)]
        wait_for(lambda: completed(farm) >= JOBS // 5, what="a part of the jobs")
        outage(way)
        assert completed(farm) < JOBS, "the outage came too late"

        wait_for(lambda: completed(farm) == JOBS, seconds=90, what="the end of all jobs")
        views = [farm.job(job_id) for job_id in ids]
        assert [view["status"] for view in views] == ["completed"] * JOBS
        assert {farm.redis.hget(f"srpo:job:{job_id}", "attempt") for job_id in ids} == {"1"}
        assert farm.redis.hget("srpo:totals", "jobs_taken_back") is None
        assert all(pixels(farm.image(view)) == right_pixels(number) for number, view in enumerate(views))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        build(Settings(), data_dir).sweeper.sweep(older_than=-60)
        images = [name for name in place.names() if parse_key(name)]
        assert sorted(images) == sorted(view["images"][0]["url"].rpartition("/")[2] for view in views)


def test_while_storage_is_away_the_farm_goes_on_and_can_be_stopped_and_started(
    data_dir: Path, environment: dict[str, str], way: FaultyWay
) -> None:
    """Callers are told of it where it matters; a drain hands the rendered images back, uncounted, in time."""
    farm = RunningFarm(data_dir, environment=environment)
    farm.start()
    first = farm.wait_for_end(submit_one(farm, 0))
    path = first["images"][0]["url"].removeprefix(farm.url)
    way.go_down()
    ids = [submit_one(farm, number) for number in range(1, 20)]
    wait_for(lambda: "image not stored yet" in farm.log.read_text(), what="an image that waits")

    answer = farm.call("GET", path)

    assert (answer.status, answer.json["code"]) == (503, "storage_unavailable")
    assert farm.call("GET", "/readyz").status == 200
    began = time.monotonic()
    assert farm.stop() == 0
    assert time.monotonic() - began < 10
    way.come_up()
    farm.start()
    try:
        views = [farm.wait_for_end(job_id) for job_id in ids]
        assert farm.image(first)
        assert [view["status"] for view in views] == ["completed"] * len(ids)
        assert {farm.redis.hget(f"srpo:job:{job_id}", "attempt") for job_id in ids} == {"1"}
        assert pixels(farm.image(views[0])) == right_pixels(1)
    finally:
        farm.stop()


def test_a_download_that_is_broken_off_closes_its_connection_to_the_bucket(
    data_dir: Path, environment: dict[str, str], way: FaultyWay, place: Place
) -> None:
    """A download of many megabytes is broken off in its middle, ten times."""
    key = new_key(JOB_ID, 1, 0, "png")
    place.put(key, bytes(20_000_000))
    with running_farm(data_dir, **environment) as farm:
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", farm.port)) as caller:
                caller.sendall(f"GET /files/{key} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
                assert caller.recv(100).startswith(b"HTTP/1.1 200")
        wait_for(lambda: way.asked("GET") >= 10, what="the last download's begin")

        # The one that asks for heads may stay.
        wait_for(lambda: way.open_connections <= 2, what="the end of every download")


def test_a_bucket_that_cannot_be_used_stops_the_start_with_a_line(data_dir: Path, environment: dict[str, str]) -> None:
    farm = RunningFarm(data_dir, environment=environment | {"AWS_ENDPOINT_URL": "not an address"})

    with pytest.raises(AssertionError, match=r"FARM_STORAGE_URL: boto3 cannot use its settings: .*not an address"):
        farm.start()

    assert farm.process is not None
    assert farm.process.wait(20) != 0
    assert farm.process.stdout is not None
    farm.process.stdout.close()
