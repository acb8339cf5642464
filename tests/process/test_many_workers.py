"""Many workers on one Redis: those of a farm with the miniature, and claim loops of the real code beside them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import pytest

from farm.jobstore import redis_keys
from farm.process import child
from tests.farms import RunningFarm, clean_environment, running_farm, wait_for

pytestmark = [pytest.mark.full, pytest.mark.alone, pytest.mark.timeout(1200)]

WORKERS, PROCESSES, LOOPS = 4, 8, 12
JOBS = 2000
MINIATURE = {"FARM_PIPELINE": "flux", "FARM_QUEUE_LIMIT": "100000"}


def test_a_hundred_workers_lose_no_job_and_render_none_twice(tmp_path: Path) -> None:
    """A worker and a process with twelve loops are killed in mid-run: what they held is rendered by others."""
    with running_farm(tmp_path / "data", WORKERS, None, **MINIATURE) as farm, claim_loops(farm) as processes:
        job_ids = waiting_jobs(farm)
        began, redis_began = time.monotonic(), redis_seconds(farm)
        assert farm.call("POST", "/farm/v1/resume").status == 200
        wait_for(lambda: total(farm, "jobs_completed:srpo") > JOBS // 20, seconds=300, what="the first jobs")
        connections = farm.redis.info("clients")["connected_clients"]
        kill_at_work(farm, processes[0].pid)
        kill_at_work(farm, farm.worker_pids()[0])
        wait_for(lambda: total(farm, "jobs_completed:srpo") >= JOBS, seconds=600, what="all jobs")
        seconds, redis_busy = time.monotonic() - began, redis_seconds(farm) - redis_began
        views = [farm.job(job_id) for job_id in job_ids]
        ends, renderers = recorded_ends(farm), workers_of(farm, job_ids)
        starts, taken_back = int(farm.redis.get(f"{redis_keys.PREFIX}fence") or 0), total(farm, "jobs_taken_back")
        for view in views[:: JOBS // 20]:
            assert farm.image(view)

    print(
        f"{JOBS} jobs in {seconds:.0f} s; Redis: {redis_busy / seconds:.0%} of a core, {connections} connections; "
        f"{taken_back} jobs taken back, {len(renderers)} workers with results"
    )
    assert {view["status"] for view in views} == {"completed"}
    assert ends == Counter(job_ids)
    assert len({image["url"] for view in views for image in view["images"]}) == JOBS
    assert taken_back >= 1
    assert starts <= JOBS + taken_back
    assert sum(name.startswith("loop-") for name in renderers) > PROCESSES * LOOPS // 2
    assert any(not name.startswith("loop-") for name in renderers)


@contextmanager
def claim_loops(farm: RunningFarm) -> Iterator[list[subprocess.Popen[str]]]:
    """Yield processes with workers, all of which are ready."""
    with ExitStack() as stack:
        processes = [stack.enter_context(claim_loop(farm)) for _ in range(PROCESSES)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield processes


@contextmanager
def claim_loop(farm: RunningFarm) -> Iterator[subprocess.Popen[str]]:
    program = [sys.executable, "-m", "tests.claim_loops", "--data-dir", str(farm.data_dir), "--loops", str(LOOPS)]
    process = subprocess.Popen(child.command(*program), env=clean_environment(), stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def kill_at_work(farm: RunningFarm, pid: int) -> None:
    """Kill a process whose workers hold jobs."""

    def stops_at_work() -> bool:
        os.kill(pid, signal.SIGSTOP)
        if is_at_work(farm, pid):
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    wait_for(stops_at_work, seconds=60, what="jobs of a process that is to be killed")
    os.kill(pid, signal.SIGKILL)


def is_at_work(farm: RunningFarm, pid: int) -> bool:
    """Return True if a worker of this process holds a job: workers are named by it."""
    held = cast(list[str], farm.redis.zrange(f"{redis_keys.PREFIX}leases", 0, -1))
    return any(f"-{pid}-" in worker for worker in workers_of(farm, held))


def waiting_jobs(farm: RunningFarm) -> list[str]:
    """Return jobs that wait: the farm is paused."""
    assert farm.call("POST", "/farm/v1/pause").status == 200
    return [farm.submit(prompt=f"fox {number}", seed=number, num_inference_steps=2) for number in range(JOBS)]


def total(farm: RunningFarm, name: str) -> int:
    return int(farm.redis.hget(redis_keys.TOTALS, name) or 0)


def redis_seconds(farm: RunningFarm) -> float:
    used = farm.redis.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def recorded_ends(farm: RunningFarm) -> Counter[str]:
    """Return how often each job has ended, by the log of all changes."""
    entries = cast(list[tuple[str, dict[str, str]]], farm.redis.xrange(redis_keys.OUTBOX))
    return Counter(entry["job"] for _, entry in entries if entry["state"] in ("completed", "failed"))


def workers_of(farm: RunningFarm, job_ids: list[str]) -> set[str]:
    """Return the workers that have rendered jobs."""
    with farm.redis.pipeline(transaction=False) as pipeline:
        for job_id in job_ids:
            pipeline.hget(redis_keys.job(job_id), "worker")
        return set(pipeline.execute())
