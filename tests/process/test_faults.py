"""Faults that a farm survives: killed workers, a killed Redis, drains, and its own violent end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from farm.jobstore.stats import StoreStats
from farm.process import child
from farm.process.child import EXIT_CONFIG
from tests.farms import RunningFarm, clean_environment, running_farm, wait_for

LEASE = 2.0


def events(farm: RunningFarm) -> Counter[tuple[str, str]]:
    """Return how often each job reached each state, by the outbox, which is written with the changes themselves."""
    entries = cast(list[tuple[str, dict[str, str]]], farm.redis.xrange("srpo:outbox"))
    return Counter((fields["job"], fields["state"]) for _, fields in entries)


def test_two_workers_render_each_of_200_jobs_once(data_dir: Path) -> None:
    with running_farm(data_dir, 2, FARM_SIMULATED_STEP_MS="2") as farm:
        ids = [farm.submit(num_inference_steps=4, seed=number, prompt=f"fox {number}") for number in range(200)]
        views = [farm.wait_for_end(job_id) for job_id in ids]

        assert {view["status"] for view in views} == {"completed"}
        seen = events(farm)
        assert all(seen[job_id, state] == 1 for job_id in ids for state in ("created", "processing", "completed"))
        assert len(list(data_dir.glob("images/*/*.jpeg"))) == 200
        assert all(farm.redis.hget(f"srpo:job:{job_id}", "attempt") == "1" for job_id in ids)


def test_a_killed_workers_jobs_complete_on_another(data_dir: Path) -> None:
    """Within the lease and five seconds; each ends once, and the crash of a batch of several is not counted."""
    environment = {"FARM_SIMULATED_STEP_MS": "100", "FARM_LEASE_SECONDS": str(LEASE)}
    with running_farm(data_dir, 2, **environment) as farm:
        blockers = [farm.submit(num_inference_steps=8, image_size="square") for _ in range(2)]
        for blocker in blockers:
            farm.wait_for_state(blocker, "processing")
        ids = [farm.submit(num_inference_steps=20) for _ in range(8)]
        found = wait_for(lambda: batch_of_several(farm, ids), what="a batch of several")
        assert found is not None
        worker, held = found

        os.kill(int(str(farm.redis.hget(f"srpo:worker:{worker}", "pid"))), signal.SIGKILL)
        for job_id in held:
            wait_for(partial(is_held_by_another, farm, job_id, worker), seconds=LEASE + 5, what="a second claim")
        views = [farm.wait_for_end(job_id) for job_id in [*blockers, *ids]]

        assert {view["status"] for view in views} == {"completed"}
        assert all(events(farm)[job_id, "completed"] == 1 for job_id in ids)
        assert {farm.redis.hget(f"srpo:job:{job_id}", "attempt") for job_id in held} == {"1"}


def test_a_killed_worker_of_this_machine_costs_seconds_and_no_lease(data_dir: Path) -> None:
    """At the default lease of 15 s: another worker, which is idle, has the job at once."""
    with running_farm(data_dir, 2, FARM_SIMULATED_STEP_MS="50") as farm:
        job_id = farm.submit(num_inference_steps=20)
        farm.wait_for_state(job_id, "processing")
        worker = str(farm.redis.hget(f"srpo:job:{job_id}", "worker"))

        began = time.monotonic()
        os.kill(int(str(farm.redis.hget(f"srpo:worker:{worker}", "pid"))), signal.SIGKILL)
        view = farm.wait_for_end(job_id)

        assert time.monotonic() - began < 8
        assert view["status"] == "completed"
        assert farm.redis.hget(f"srpo:job:{job_id}", "attempt") == "2"


def test_the_parent_of_a_killed_worker_reports_its_death(data_dir: Path) -> None:
    """`farm worker` has the worker below it, passes on how it ended, and has told the job store by then."""
    with running_farm(data_dir, 1, FARM_SIMULATED_STEP_MS="50") as farm:
        (first,) = farm.worker_pids()
        program = [sys.executable, "-m", "farm.cli", "worker", "--data-dir", str(data_dir)]
        parent = subprocess.Popen(child.command(*program), env=clean_environment() | {"FARM_PIPELINE": "simulated"})
        try:
            wait_for(lambda: len(StoreStats(farm.redis).workers()) == 2, seconds=60, what="the second worker")
            (second,) = set(farm.worker_pids()) - {first}
            os.kill(second, signal.SIGKILL)

            assert parent.wait(20) == 128 + signal.SIGKILL
            assert [worker.facts["pid"] for worker in StoreStats(farm.redis).workers()] == [str(first)]
        finally:
            parent.kill()
            parent.wait()


def batch_of_several(farm: RunningFarm, ids: list[str]) -> tuple[str, list[str]] | None:
    """Return a worker that holds several of these jobs, and which."""
    holders = {job_id: str(farm.redis.hget(f"srpo:job:{job_id}", "worker")) for job_id in ids}
    for worker in set(holders.values()) - {"None"}:
        held = [job_id for job_id in ids if holders[job_id] == worker]
        if len(held) > 1:
            return worker, held
    return None


def is_held_by_another(farm: RunningFarm, job_id: str, worker: str) -> bool:
    state, holder = farm.redis.hmget(f"srpo:job:{job_id}", "state", "worker")
    return state in ("processing", "completed") and holder != worker


def test_a_killed_redis_loses_nothing_that_was_accepted(data_dir: Path) -> None:
    """50 accepted jobs wait; Redis is killed at once; it comes back with all of them, and all complete."""
    with running_farm(data_dir, FARM_SIMULATED_STEP_MS="2", FARM_LEASE_SECONDS=str(LEASE)) as farm:
        ids = [farm.submit(num_inference_steps=20) for _ in range(50)]
        (redis_pid,) = farm.redis_pids()
        os.kill(redis_pid, signal.SIGKILL)
        wait_for(lambda: farm.redis_pids() not in ([], [redis_pid]), what="a new Redis")
        wait_for(lambda: farm.call("GET", "/readyz").status == 200, what="readiness")

        views = [farm.wait_for_end(job_id) for job_id in ids]

        assert {view["status"] for view in views} == {"completed"}
        assert all(events(farm)[job_id, "completed"] == 1 for job_id in ids)


def test_callers_soon_get_503_while_redis_is_away(data_dir: Path) -> None:
    """503 in the dialect's shape, also from a Redis that hangs; and the farm recovers by itself."""
    with running_farm(data_dir) as farm:
        (redis_pid,) = farm.redis_pids()
        os.kill(redis_pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            answer = farm.call("POST", "/api/v3/wavespeed-ai/flux-srpo", {"prompt": "a fox"})
            took = time.monotonic() - began
        finally:
            os.kill(redis_pid, signal.SIGCONT)

        assert (answer.status, answer.json["code"], answer.json["data"]["code"]) == (503, 503, 5003)
        assert "Retry-After" in answer.headers
        assert took < 4
        wait_for(lambda: farm.call("GET", "/readyz").status == 200, what="readiness")
        assert farm.wait_for_end(farm.submit(num_inference_steps=2))["status"] == "completed"


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_drain_ends_within_a_second_of_a_step(data_dir: Path, number: signal.Signals) -> None:
    """A signal in the middle of a batch: the jobs are handed back uncounted, at once, and the worker exits 0."""
    with running_farm(data_dir, FARM_SIMULATED_STEP_MS="200") as farm:
        ids = [farm.submit(num_inference_steps=40) for _ in range(2)]
        for job_id in ids[:1]:
            farm.wait_for_state(job_id, "processing")
        (worker,) = farm.worker_pids()

        os.kill(worker, number)
        began = time.monotonic()
        wait_for(lambda: worker not in farm.worker_pids(), what="the worker's end")
        took = time.monotonic() - began

        assert took < 1.2
        wait_for(lambda: farm.worker_pids(), what="the next worker")
        farm.wait_for_state(ids[0], "processing")
        assert farm.redis.hget(f"srpo:job:{ids[0]}", "attempt") == "1"
        assert "'status': 0" in farm.log.read_text() or '"status": 0' in farm.log.read_text()
        for job_id in ids:
            farm.call("POST", f"/farm/v1/jobs/{job_id}/cancel")


def test_a_cancelled_job_stops_within_a_step(data_dir: Path) -> None:
    """A running one stops within a step, a waiting one never starts; both end `failed`, code `cancelled`."""
    with running_farm(data_dir, FARM_SIMULATED_STEP_MS="1000") as farm:
        running = farm.submit(num_inference_steps=50)
        farm.wait_for_state(running, "processing")
        waiting = farm.submit(num_inference_steps=50)

        assert farm.call("POST", f"/farm/v1/jobs/{waiting}/cancel").json["outcome"] == "cancelled"
        began = time.monotonic()
        answer = farm.call("POST", f"/farm/v1/jobs/{running}/cancel")
        view = farm.wait_for_end(running)

        assert (answer.status, answer.json["outcome"]) == (202, "stopping")
        assert time.monotonic() - began < 1 + 2  # a step, and what a busy machine adds
        assert (view["status"], view["code"]) == ("failed", "cancelled")
        assert farm.job(waiting)["code"] == "cancelled"
        assert farm.job(waiting)["started_at"] is None


def test_a_killed_farm_leaves_no_process(data_dir: Path) -> None:
    """The next farm takes over its folder, with every accepted job."""
    farm = RunningFarm(data_dir, environment={"FARM_SIMULATED_STEP_MS": "50", "FARM_LEASE_SECONDS": str(LEASE)})
    farm.start()
    ids = [farm.submit(num_inference_steps=10) for _ in range(6)]
    assert len(farm.pids()) >= 4
    assert farm.process is not None
    assert farm.process.stdout is not None

    farm.process.kill()
    farm.process.wait()
    farm.process.stdout.close()
    wait_for(lambda: not farm.pids(), what="the end of every process")

    farm.start()
    try:
        views = [farm.wait_for_end(job_id) for job_id in ids]
    finally:
        farm.stop()
    assert {view["status"] for view in views} == {"completed"}


@pytest.mark.full
def test_a_redis_that_does_not_come_back_ends_the_farm(data_dir: Path) -> None:
    """The farm logs the reason, exits with a status that says so, and leaves no process behind."""
    farm = RunningFarm(data_dir)
    farm.start()
    farm.submit()
    (redis_pid,) = farm.redis_pids()
    (increments,) = (data_dir / "redis" / "appendonlydir").glob("*.incr.aof")
    os.kill(redis_pid, signal.SIGSTOP)
    increments.write_bytes(b"no command" + increments.read_bytes())
    os.kill(redis_pid, signal.SIGKILL)
    assert farm.process is not None
    assert farm.process.stdout is not None

    status = farm.process.wait(60)

    farm.process.stdout.close()
    assert status == EXIT_CONFIG  # no restart mends it
    assert "The embedded Redis did not start; its log is" in farm.log.read_text()
    wait_for(lambda: not farm.pids(), what="the end of every process")


def test_a_folder_that_cannot_be_written_fails_the_job_with_a_code(data_dir: Path) -> None:
    """It is retried, then fails; nothing half-published is left."""
    images, moved = data_dir / "images", data_dir / "moved"
    with running_farm(data_dir, FARM_MAX_ATTEMPTS="2", FARM_SIMULATED_STEP_MS="1") as farm:
        images.rename(moved)
        images.write_text("in the way")  # root may write into any folder, but not below a file
        view = farm.wait_for_end(farm.submit(num_inference_steps=2))

        assert (view["status"], view["code"], view["images"]) == ("failed", "storage_failed", [])
        images.unlink()
        moved.rename(images)
        assert farm.wait_for_end(farm.submit(num_inference_steps=2))["status"] == "completed"
