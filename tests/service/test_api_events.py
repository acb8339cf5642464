"""Server-sent events: a job's present state, each change, and its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.routes import native
from farm import service
from farm.bootstrap import Farm
from farm.jobstore import keys
from tests.farms import wait_for
from tests.service import jobs
from tests.service.calls import problem, submit
from tests.service.jobs import FACTS


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the record often, so that no test waits for a hint."""
    monkeypatch.setattr(service, "_LOOK_SECONDS", 0.02)


def stream(api: FlaskClient, job_id: str) -> Iterator[str]:
    """The blocks of a job's stream, as they come."""
    response = api.get(f"/farm/v1/jobs/{job_id}/events", buffered=False)
    assert (response.status_code, response.mimetype) == (200, "text/event-stream")
    for chunk in response.response:
        yield chunk.decode() if isinstance(chunk, bytes) else chunk
    response.close()


def read(block: str) -> tuple[tuple[int, int], str, dict[str, Any]]:
    """An event's id, name and data."""
    fields = dict(line.split(": ", 1) for line in block.strip().splitlines())
    sequence, step = fields["id"].split(".")
    return (int(sequence), int(step)), fields["event"], json.loads(fields["data"])


def test_a_stream_goes_from_the_present_state_to_the_end(api: FlaskClient, farm: Farm) -> None:
    job_id = submit(api, num_inference_steps=4)
    events = stream(api, job_id)
    seen = [read(next(events))]
    job = jobs.take_one(farm.store)
    seen.append(read(next(events)))
    for step in (1, 2):
        farm.store.renew("w1", FACTS, [jobs.held(job, step)])
        seen.append(read(next(events)))
    farm.store.complete(job, jobs.result(job))
    seen += [read(block) for block in events]

    assert [name for _, name, _ in seen] == ["job.created", *["job.processing"] * 3, "job.completed"]
    assert [data["progress"]["step"] for _, _, data in seen] == [0, 0, 1, 2, 4]
    assert [number for number, _, _ in seen] == sorted({number for number, _, _ in seen})
    assert seen[-1][2] == api.get(f"/farm/v1/jobs/{job_id}").get_json()


def test_a_job_that_is_taken_back_shows_created_again(api: FlaskClient, farm: Farm) -> None:
    job_id = submit(api)
    jobs.take_one(farm.store)
    events = stream(api, job_id)
    seen = [read(next(events))]
    wait_for(lambda: farm.redis.info("server")["uptime_in_seconds"] >= 1)
    jobs.lose(farm.redis, farm.store)
    seen.append(read(next(events)))
    farm.store.cancel(job_id)
    seen += [read(block) for block in events]

    assert [name for _, name, _ in seen] == ["job.processing", "job.created", "job.failed"]
    assert [number for number, _, _ in seen] == sorted(number for number, _, _ in seen)


def test_the_stream_of_a_job_that_has_ended_is_its_end(api: FlaskClient) -> None:
    job_id = submit(api)
    api.post(f"/farm/v1/jobs/{job_id}/cancel")

    (event,) = stream(api, job_id)

    number, name, data = read(event)
    assert (number, name, data["code"]) == ((2, 0), "job.failed", "cancelled")


def test_a_quiet_stream_sends_a_comment(api: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "COMMENT_SECONDS", 0.05)
    events = stream(api, submit(api))
    next(events)

    assert next(events).startswith(":")
    assert next(events).endswith("\n\n")


def test_a_change_is_heard_at_once(api: FlaskClient, farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the hint, long before the next look into the record."""
    monkeypatch.setattr(service, "_LOOK_SECONDS", 60)
    job_id = submit(api)
    events = stream(api, job_id)
    next(events)
    wait_for(lambda: farm.redis.pubsub_numsub(keys.changes(job_id))[0][1] > 0)

    farm.store.cancel(job_id)

    assert read(next(events))[1] == "job.failed"


def test_streams_are_not_kept_or_changed_on_the_way(api: FlaskClient) -> None:
    job_id = submit(api)
    api.post(f"/farm/v1/jobs/{job_id}/cancel")

    headers = api.get(f"/farm/v1/jobs/{job_id}/events").headers

    assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-store", "no")


def test_one_stream_too_many_is_told_to_come_back(open_api: Callable[..., FlaskClient]) -> None:
    api = open_api(most_streams=2)
    job_id = submit(api)
    path = f"/farm/v1/jobs/{job_id}/events"
    first, second = (api.get(path, buffered=False) for _ in range(2))

    response = api.get(path)

    problem(response, 429)
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    first.close()
    third = api.get(path, buffered=False)
    assert third.status_code == 200
    second.close()
    third.close()


def test_a_job_that_is_deleted_ends_its_stream_with_an_error(api: FlaskClient, farm: Farm) -> None:
    """It is deleted between two looks, so that nobody sees its end."""
    job_id = submit(api)
    events = stream(api, job_id)
    next(events)
    farm.redis.delete(f"srpo:job:{job_id}")

    (last,) = events

    assert last.startswith("event: error\n")
    assert "not_found" in last
