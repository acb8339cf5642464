"""The log of a whole farm: one job is followed by its request id, with a fault at each station; no secret is in it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.farms import RunningFarm, farm_command, running_farm, wait_for
from tests.webhook_receiver import Receiver, answer, running_receiver

CANARY = "a canary that sings 7f3a9c51"
REQUEST_ID = "follow-me-1"
#: What the log says of the job: which service, and what. Services write side by side: each one's lines are in order.
GOLDEN = [
    ("api", "call refused"),
    ("api", "job accepted"),
    ("webhooks", "job prepared"),
    ("worker", "job claimed"),
    ("any", "job taken back"),
    ("worker", "job claimed"),
    ("worker", "job completed"),
    ("webhooks", "webhook attempted"),
    ("webhooks", "webhook attempted"),
    ("api", "job deleted"),
]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


def lines_of(farm: RunningFarm) -> list[dict[str, Any]]:
    return [json.loads(line) for line in farm.log.read_text().splitlines() if line.startswith("{")]


def followed(farm: RunningFarm) -> list[dict[str, Any]]:
    return [line for line in lines_of(farm) if line.get("request_id") == REQUEST_ID]


def kill_the_worker_of(farm: RunningFarm, job_id: str) -> str:
    worker = str(farm.redis.hget(f"srpo:job:{job_id}", "worker"))
    os.kill(int(str(farm.redis.hget(f"srpo:worker:{worker}", "pid"))), signal.SIGKILL)
    return worker


def test_a_job_is_followed_by_its_request_id(data_dir: Path, receiver: Receiver) -> None:
    statuses = iter([500])
    receiver.behave = lambda request: answer(next(statuses, 200))(request)
    environment = {
        "FARM_AUTH": "keys",
        "FARM_LOG": "json",
        "FARM_SIMULATED_STEP_MS": "100",
        "FARM_LEASE_SECONDS": "1",
        "FARM_WEBHOOK_ALLOW": "127.0.0.1",
        "FARM_WEBHOOK_SCHEDULE": "0.1s",
    }
    with running_farm(data_dir, 2, **environment) as farm:
        key = farm_command("keys", "create", "ada", "--data-dir", str(data_dir)).stdout.strip()
        headers = {"Authorization": f"Bearer {key}", "X-Request-Id": REQUEST_ID}
        body = {"model": "srpo", "prompt": CANARY, "image_size": "square", "num_inference_steps": 20}
        refused = farm.call("POST", "/farm/v1/jobs", body | {"image_size": CANARY}, **headers)
        body |= {"enhance_prompt": True, "webhook_url": f"{receiver.url}/hook", "webhook_events": ["job.completed"]}
        accepted = farm.call("POST", "/farm/v1/jobs", body, **headers)
        assert (refused.status, accepted.status) == (422, 202)
        assert refused.headers["X-Request-Id"] == accepted.headers["X-Request-Id"] == REQUEST_ID
        job_id = accepted.json["id"]

        # Its line, too: a worker that is killed before it has written that leaves none.
        wait_for(lambda: "job claimed" in {line["event"] for line in followed(farm)}, what="a claim")
        killed = kill_the_worker_of(farm, job_id)
        wait_for(lambda: len(receiver.received) == 2, seconds=60, what="the second attempt")
        deleted = wait_for(lambda: farm.call("DELETE", f"/farm/v1/jobs/{job_id}", **headers).status == 204)
        assert deleted
        wait_for(lambda: len(followed(farm)) >= len(GOLDEN), what="the last line")
        metrics = farm.call("GET", "/metrics").body.decode()
        found = followed(farm)

    logged = [("any" if line["event"] == "job taken back" else line["service"], line["event"]) for line in found]
    assert sorted(logged, key=_service) == sorted(GOLDEN, key=_service)
    about_job = [line for line in found if line["event"] != "call refused"]
    assert {line["job"] for line in about_job} == {job_id}
    assert {line.get("key") for line in found if "webhook" not in line["event"]} == {key.split("_")[1]}
    assert [line["attempt"] for line in about_job if "attempt" in line and "claimed" in line["event"]] == [1, 2]
    _check_faults(found, killed)
    log = farm.log.read_text()
    for secret in (CANARY, "7f3a9c51", key, key.split("_", 2)[2]):
        assert secret not in log
        assert secret not in metrics
    assert receiver.received[0].headers["x-request-id"] == REQUEST_ID


def _service(logged: tuple[str, str]) -> str:
    return logged[0]


def _check_faults(found: list[dict[str, Any]], killed: str) -> None:
    of = {line["event"]: line for line in found}
    first, second = (line for line in found if line["event"] == "webhook attempted")
    assert (of["call refused"]["code"], of["call refused"]["fields"]) == ("invalid_request", ["image_size"])
    assert (of["job taken back"]["from_worker"], of["job taken back"]["level"]) == (killed, "warning")
    assert of["job completed"]["worker"] != killed
    assert of["job completed"]["images"] == 1
    assert of["job completed"]["wait"] > 0
    assert of["job completed"]["render"] > 1
    assert (first["level"], first["status"], first["delivery_attempt"]) == ("warning", 500, 1)
    assert first["next_seconds"] >= 0.1
    assert (second["level"], second["status"], second["outcome"]) == ("info", 200, "delivered")
    assert second["receiver"].startswith("http://127.0.0.1:")
