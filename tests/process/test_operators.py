"""Operators' commands on a running farm: pause, resume, drain, manual retry; and calls whose API is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import cast

from farm.jobstore import redis_keys
from tests.farms import RunningFarm, pids, running_farm, wait_for

RUN = "/fal/run/fal-ai/flux/srpo"
CALL = json.dumps({"prompt": "a fox", "image_size": {"width": 256, "height": 256}, "num_inference_steps": 2})


def test_operators_have_their_way(data_dir: Path) -> None:
    with running_farm(data_dir, 2, FARM_SIMULATED_STEP_MS="2") as farm:
        assert farm.cli("pause").returncode == 0
        cancelled, waiting = farm.submit(), farm.submit()
        farm.call("POST", f"/farm/v1/jobs/{cancelled}/cancel")
        again = farm.cli("jobs", "retry", cancelled).stdout.strip()
        assert (farm.job(cancelled)["retried_as"], farm.job(again)["status"]) == (again, "created")
        assert farm.job(waiting)["status"] == "created"

        assert farm.cli("resume").returncode == 0
        assert {farm.wait_for_end(job_id)["status"] for job_id in (waiting, again)} == {"completed"}

        drain_one(farm)
        assert farm.wait_for_end(farm.submit())["status"] == "completed"
        kill_the_api(farm)
        assert len(farm.worker_pids()) == 1


def drain_one(farm: RunningFarm) -> None:
    """Drain one worker, and check that it exits in order and is not restarted."""
    drained, stays = farm.worker_pids()
    (worker,) = (w["id"] for w in farm.call("GET", "/farm/v1/workers").json["workers"] if int(w["pid"]) == drained)

    assert farm.cli("workers", "drain", worker).returncode == 0

    wait_for(lambda: farm.worker_pids() == [stays], what="the worker's leaving")
    wait_for(lambda: "child was drained and is not restarted" in farm.log.read_text(), what="the supervisor's log line")
    assert worker not in [w["id"] for w in farm.call("GET", "/farm/v1/workers").json["workers"]]
    assert "no worker" in farm.cli("workers", "drain", worker).stderr.lower()


def kill_the_api(farm: RunningFarm) -> None:
    """Wait until a direct call counts as disconnected: an equal one then continues its job."""
    known = ids(farm)
    farm.redis.set(redis_keys.PAUSED, 1)
    with call(farm):
        (job_id,) = wait_for(lambda: ids(farm) - known, what="the call's job")
        held = farm.redis.zscore(redis_keys.ABANDON_DEADLINE, job_id)
        wait_for(lambda: farm.redis.zscore(redis_keys.ABANDON_DEADLINE, job_id) != held, what="a sign of life")
        for pid in pids(f"-m api --host 127.0.0.1 --port {farm.port}"):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: is_left(farm, job_id), what="no call waiting for the job")
    farm.redis.zincrby(redis_keys.ABANDON_DEADLINE, 30e6, job_id)  # this machine may be slow
    wait_for(lambda: answers(farm), seconds=60, what="a new API")

    with call(farm) as again:
        wait_for(lambda: not is_left(farm, job_id), what="somebody who waits for the job")
        assert ids(farm) == known | {job_id}
        farm.call("POST", "/farm/v1/resume")
        again.settimeout(60)
        assert f"x-fal-request-id: {job_id}" in again.recv(4096).decode()


def call(farm: RunningFarm) -> socket.socket:
    """Make a direct call whose answer is not read yet."""
    connection = socket.create_connection(("127.0.0.1", farm.port), timeout=30)
    head = f"POST {RUN} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(CALL)}\r\n\r\n"
    connection.sendall(f"{head}{CALL}".encode())
    return connection


def ids(farm: RunningFarm) -> set[str]:
    """Return the ids of all jobs."""
    return set(cast(list[str], farm.redis.zrange(redis_keys.JOBS, 0, -1)))


def is_left(farm: RunningFarm, job_id: str) -> bool:
    """Return True if no client waits for the job of a direct call."""
    seconds, _ = farm.redis.time()
    held_until_us = farm.redis.zscore(str(farm.redis.hget(redis_keys.job(job_id), "direct_key")), job_id)
    return held_until_us is not None and held_until_us < seconds * 1_000_000


def answers(farm: RunningFarm) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", farm.port), timeout=1):
            return True
    except OSError:
        return False
