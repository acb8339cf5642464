"""Webhooks of whole farms: delivered once, in time, whichever process dies, without slowing rendering down."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.farms import RunningFarm, pids, running_farm, wait_for
from tests.webhook_receiver import Receiver, answer, running_receiver


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    settings = {
        "FARM_SIMULATED_STEP_MS": "5",
        "FARM_WEBHOOK_ALLOW": "127.0.0.1",
        "FARM_WEBHOOK_SCHEDULE": "0.5s,0.5s,0.5s,30s",
    }
    with running_farm(tmp_path_factory.mktemp("webhooks") / "data", 2, **settings) as farm:
        yield farm


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


def ended(receiver: Receiver) -> dict[str, list[str]]:
    """Return the jobs whose end the receiver got, with the ids of the events."""
    result: dict[str, list[str]] = {}
    for came in receiver.received:
        if came.json["type"] in ("job.completed", "job.failed"):
            result.setdefault(came.json["data"]["id"], []).append(came.headers["webhook-id"])
    return result


def webhook_workers(farm: RunningFarm) -> list[int]:
    return pids(f"-m workers.background --data-dir {farm.data_dir}")


def test_every_state_of_a_job_has_its_webhook(farm: RunningFarm, receiver: Receiver) -> None:
    """News that is overtaken is dropped, so a busy machine may need more than one job to tell all of it."""
    for _ in range(10):
        receiver.received.clear()
        job_id = farm.submit(webhook_url=receiver.url, num_inference_steps=50, num_images=4)
        wait_for(lambda job_id=job_id: job_id in ended(receiver))  # type: ignore[misc]
        result = [(came.json["type"], came.json["sequence"]) for came in receiver.received]
        if result == [("job.created", 1), ("job.processing", 2), ("job.completed", 3)]:
            break

    assert result == [("job.created", 1), ("job.processing", 2), ("job.completed", 3)]
    assert farm.image(receiver.received[-1].json["data"])[:2] == b"\xff\xd8"


def test_the_webhook_of_a_cancelled_job_is_job_failed(farm: RunningFarm, receiver: Receiver) -> None:
    job_id = farm.submit(webhook_url=receiver.url, webhook_events=["job.failed"], num_inference_steps=50, num_images=4)
    farm.call("POST", f"/farm/v1/jobs/{job_id}/cancel")
    wait_for(lambda: job_id in ended(receiver))

    (came,) = receiver.received
    assert (came.json["type"], came.json["data"]["code"]) == ("job.failed", "cancelled")


def test_a_killed_webhook_worker_loses_nothing_and_waits_for_no_lease(farm: RunningFarm, receiver: Receiver) -> None:
    """Its parent sees it exit: what it was delivering comes again within seconds, not after a minute."""
    receiver.behave = receiver.hang
    job_ids = {farm.submit(webhook_url=receiver.url, webhook_events=["job.completed"]) for _ in range(20)}
    wait_for(lambda: receiver.received)
    (pid,) = webhook_workers(farm)

    os.kill(pid, signal.SIGKILL)
    for job_id in job_ids:
        farm.wait_for_end(job_id)
    receiver.behave = answer(200)

    wait_for(lambda: set(ended(receiver)) == job_ids)
    assert all(len(set(names)) == 1 for names in ended(receiver).values())
    wait_for(lambda: webhook_workers(farm) not in ([], [pid]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_background_worker_that_drains_ends_what_is_under_way(
    farm: RunningFarm, receiver: Receiver, number: signal.Signals
) -> None:
    receiver.behave = receiver.late
    job_id = farm.submit(webhook_url=receiver.url, webhook_events=["job.completed"])
    wait_for(lambda: receiver.received)
    (pid,) = wait_for(lambda: webhook_workers(farm))
    drained = drains(farm)

    os.kill(pid, number)
    farm.wait_for_end(job_id)
    assert webhook_workers(farm) == [pid]
    receiver.released.set()

    wait_for(lambda: webhook_workers(farm) not in ([], [pid]))
    assert drains(farm) == drained + 1
    assert farm.call("GET", f"/farm/v1/deliveries/{job_id}-3").json["status"] == "delivered"


def drains(farm: RunningFarm) -> int:
    """Return how often a child of the farm has exited with status 0."""
    return sum('"event": "child died"' in line and '"status": 0' in line for line in farm.log.read_text().splitlines())


def test_events_wait_for_a_receiver_that_was_down(farm: RunningFarm, receiver: Receiver) -> None:
    refused: list[str] = []

    def refuse(request: BaseHTTPRequestHandler) -> None:
        refused.append(request.path)
        answer(503)(request)

    receiver.behave = refuse
    job_ids = {farm.submit(webhook_url=receiver.url, webhook_events=["job.completed"]) for _ in range(3)}
    wait_for(lambda: len(refused) >= 3)
    receiver.behave = answer(200)

    found = wait_for(lambda: delivered(farm, 3), what="three deliveries")

    assert {item["job"] for item in found} == set(ended(receiver)) == job_ids
    assert sum(attempt["status"] == 503 for item in found for attempt in item["attempts"]) == len(refused)


def delivered(farm: RunningFarm, count: int) -> list[dict[str, Any]]:
    """Return the last so many deliveries, if all of them have arrived."""
    found: list[dict[str, Any]] = farm.call("GET", f"/farm/v1/deliveries?limit={count}").json["deliveries"]
    return found if {item["status"] for item in found} == {"delivered"} else []


def test_the_command_line_shows_and_repeats(farm: RunningFarm, receiver: Receiver) -> None:
    receiver.behave = answer(410)
    job_id = farm.submit(webhook_url=receiver.url + "/hook", webhook_events=["job.completed"])
    name = f"{job_id}-3"
    wait_for(lambda: "failed" in farm.cli("webhooks", "show", name).stdout)

    assert "HTTP 410" in farm.cli("webhooks", "show", name).stdout
    assert name in farm.cli("webhooks", "list", "--limit", "5").stdout
    receiver.behave = answer(200)
    assert farm.cli("webhooks", "redeliver", name).returncode == 0
    wait_for(lambda: "delivered" in farm.cli("webhooks", "show", name).stdout)
    assert {came.headers["webhook-id"] for came in receiver.received} == {name}


def test_a_receiver_is_tried_from_the_command_line(farm: RunningFarm, receiver: Receiver) -> None:
    good = farm.cli("webhooks", "test", receiver.url)
    receiver.behave = answer(500)
    bad = farm.cli("webhooks", "test", receiver.url)
    inside = farm.cli("webhooks", "test", "http://10.0.0.1/")

    assert (good.returncode, "HTTP 200" in good.stdout) == (0, True)
    assert (bad.returncode, "HTTP 500" in bad.stdout) == (1, True)
    assert (inside.returncode, "url" in inside.stderr) == (1, True)
    assert [came.json["type"] for came in receiver.received] == ["test", "test"]


@pytest.mark.alone
def test_dead_receivers_cost_the_renders_nothing(tmp_path: Path) -> None:
    """The same 60 jobs without webhooks, then with receivers that hang: the same time to within a fifth.

    At their best of three, since other programs have their share of this machine.
    """
    with (
        running_receiver() as dead,
        running_farm(tmp_path / "data", FARM_SIMULATED_STEP_MS="10", FARM_WEBHOOK_ALLOW="127.0.0.1") as farm,
    ):
        dead.behave = dead.hang
        quiet: list[float] = []
        beset: list[float] = []
        while not beset or (min(beset) >= 1.2 * min(quiet) and len(beset) < 3):
            quiet.append(seconds_of_60_jobs(farm))
            beset.append(seconds_of_60_jobs(farm, webhook_url=dead.url))
        assert dead.received
        dead.released.set()

    assert min(beset) < 1.2 * min(quiet), (quiet, beset)


def seconds_of_60_jobs(farm: RunningFarm, **fields: object) -> float:
    began = time.monotonic()
    for job_id in [farm.submit(num_inference_steps=5, **fields) for _ in range(60)]:
        farm.wait_for_end(job_id)
    return time.monotonic() - began
