"""Worker faults that a farm survives: pipelines that die, hang and fail, at every stage of a batch.

The workers are real but for their pipeline, storage and job store, which do what a prompt says
(`tests.faulty_worker`).
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from farm.celery import RENDER_QUEUE, application
from farm.jobstore import redis_keys
from farm.process import embedded_redis
from farm.process.child import EXIT_FAULTY, EXIT_HUNG, EXIT_NO_WAKEUPS
from tests.farms import RunningFarm, pids, running_farm, wait_for
from tests.faulty_worker import TIMEOUT_SECONDS
from tests.webhook_receiver import Receiver, running_receiver

LEASE = 2.0
KILLED = -signal.SIGKILL
#: What fills a batch.
FULL = {"num_images": 4}


class FaultyFarm(RunningFarm):
    """A farm whose workers fail on command; `receiver` gets every end."""

    def __init__(self, data_dir: Path, receiver: Receiver, *, workers: int, step_ms: float) -> None:
        environment = {
            "FARM_SIMULATED_STEP_MS": str(step_ms),
            "FARM_LEASE_SECONDS": str(LEASE),
            "FARM_WEBHOOK_ALLOW": "127.0.0.1",
            "FARM_LOG": "json",
        }
        super().__init__(data_dir, workers=workers, environment=environment, program="tests.faulty_farm")
        self._receiver = receiver

    def command(self, *faults: str) -> None:
        """Plan the behaviour of the next workers that start, one each."""
        folder = self.data_dir / "faults"
        folder.mkdir(parents=True, exist_ok=True)
        for fault in faults:
            (folder / fault).touch()

    def order(self, prompt: str, **fields: Any) -> str:
        """Submit a job of few steps with a webhook, and return its id."""
        result = {"webhook_url": self._receiver.url, "webhook_events": ["job.completed", "job.failed"]}
        return self.submit(**{"prompt": prompt, "num_inference_steps": 4} | result | fields)

    def ends(self, job_ids: list[str]) -> dict[str, dict[str, Any]]:
        """Return the jobs when all have ended, and each end was delivered, and no other."""
        views = {job_id: self.wait_for_end(job_id, seconds=120) for job_id in job_ids}
        wait_for(lambda: set(job_ids) <= set(self._ends_told()), seconds=60, what="every end told")
        assert set(self._ends_told().values()) == {1}
        return views

    def _ends_told(self) -> Counter[str]:
        """Return how many different ends the receiver got of each job."""
        events = {(came.json["data"]["id"], came.headers["webhook-id"]) for came in self._receiver.received}
        return Counter(job_id for job_id, _ in events)

    def deaths(self) -> Counter[int]:
        """Return how often children have died, by exit status."""
        lines = self.log.read_text().splitlines()
        return Counter(json.loads(line)["status"] for line in lines if '"event": "child died"' in line)

    def claims(self) -> Counter[str]:
        """Return how often jobs were claimed, by id."""
        lines = self.log.read_text().splitlines()
        return Counter(json.loads(line)["job"] for line in lines if '"event": "job claimed"' in line)

    def worker_pids(self) -> list[int]:
        return pids(f"-m tests.faulty_worker --data-dir {self.data_dir}")

    def attempts(self, job_id: str) -> int:
        return int(str(self.redis.hget(f"srpo:job:{job_id}", "attempt")))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@contextmanager
def faulty_farm(
    data_dir: Path, receiver: Receiver, *faults: str, workers: int = 2, step_ms: float = 5
) -> Iterator[FaultyFarm]:
    farm = FaultyFarm(data_dir, receiver, workers=workers, step_ms=step_ms)
    farm.command(*faults)
    farm.start()
    try:
        yield farm
    finally:
        status = farm.stop()
    assert status == 0, farm.log.read_text()[-3000:]


@pytest.mark.timeout(400)
def test_jobs_that_break_workers_do_not_harm_others(data_dir: Path, receiver: Receiver) -> None:
    """One job kills its worker each time, one fails each time, one hangs once, each beside others; and one worker can
    render nothing. The culprits fail after exactly three starts; everything else completes, and nothing is charged.
    """
    faults = {
        "die while denoising": "attempts_exhausted",
        "raise while denoising": "render_failed",
        "hang once while decoding": None,
    }
    with faulty_farm(data_dir, receiver, "fail while working", step_ms=20) as farm:
        culprits = {farm.order(prompt): code for prompt, code in faults.items()}
        innocent = [farm.order(f"fox {number}") for number in range(9)]
        views = farm.ends([*culprits, *innocent])

        assert {job_id: views[job_id]["code"] for job_id in culprits} == culprits
        assert [farm.attempts(job_id) for job_id, code in culprits.items() if code] == [3, 3]
        assert {views[job_id]["status"] for job_id in innocent} == {"completed"}

        def ended_by_the_bad_worker() -> bool:
            ends = farm.ends([farm.order("fox", **FULL) for _ in range(4)])
            assert {view["status"] for view in ends.values()} == {"completed"}
            return farm.deaths()[EXIT_FAULTY] > 0

        wait_for(ended_by_the_bad_worker, seconds=120, what="the end of the bad worker")
        deaths = farm.deaths()
        assert deaths[EXIT_HUNG] >= 1
        assert 3 <= deaths[KILLED] <= 4


@pytest.mark.full
@pytest.mark.timeout(400)
def test_a_worker_may_die_or_hang_at_any_stage(data_dir: Path, receiver: Receiver) -> None:
    """Cover engines that let no other thread run, a lost device, and loading, too."""
    stages = ("starting", "denoising", "decoding", "storing", "telling")
    faults = [
        *(f"die once while {stage}" for stage in stages),
        *(f"hang once while {stage}" for stage in stages if stage != "telling"),
        "freeze once while denoising",
        "lose once while denoising",
    ]
    with faulty_farm(data_dir, receiver, "hang while loading", workers=3) as farm:
        jobs = [farm.order(fault, **FULL) for fault in faults]
        views = farm.ends(jobs)

        assert {view["status"] for view in views.values()} == {"completed"}
        assert all(len(farm.image(view, number)) > 0 for view in views.values() for number in range(4))
        # Not its attempts: a worker claims a job while it renders another, and the death of two is charged to neither.
        assert min(farm.claims()[job_id] for job_id in jobs) >= 2
        # One death may be that of two faults, of a job that is rendered and one that is stored.
        assert len(list((data_dir / "faults").iterdir())) == len(faults)
        assert set(farm.deaths()) <= {KILLED, EXIT_HUNG, EXIT_FAULTY, 1}


@pytest.mark.full
@pytest.mark.timeout(400)
def test_a_job_that_always_hangs_fails_and_harms_no_other(data_dir: Path, receiver: Receiver) -> None:
    with faulty_farm(data_dir, receiver, workers=1, step_ms=20) as farm:
        farm.wait_for_state(farm.order("fox", **FULL), "completed")
        culprit, mate = farm.order("hang while starting"), farm.order("fox")
        views = farm.ends([culprit, mate])

        assert (views[culprit]["code"], farm.attempts(culprit)) == ("attempts_exhausted", 3)
        assert (views[mate]["status"], farm.attempts(mate)) == ("completed", 1)
        assert farm.deaths()[EXIT_HUNG] >= 3


@pytest.mark.full
@pytest.mark.timeout(400)
def test_a_worker_that_hears_nothing_is_replaced(data_dir: Path, receiver: Receiver) -> None:
    """A paused farm is silent, too, and no reason to leave."""
    with faulty_farm(data_dir, receiver, workers=1) as farm:
        assert application(str(embedded_redis.address(data_dir))).control.cancel_consumer(
            RENDER_QUEUE, reply=True, timeout=10
        )
        farm.redis.set(redis_keys.PAUSED, 1)
        (worker,) = farm.worker_pids()
        job_id = farm.order("fox")
        began = time.monotonic()
        wait_for(
            lambda: time.monotonic() - began > 2 * TIMEOUT_SECONDS, what="a silence that is longer than its patience"
        )
        assert farm.worker_pids() == [worker]
        farm.redis.delete(redis_keys.PAUSED)

        assert farm.ends([job_id])[job_id]["status"] == "completed"
        assert farm.deaths()[EXIT_NO_WAKEUPS] == 1


@pytest.mark.full
@pytest.mark.timeout(400)
def test_a_worker_that_stood_still_changes_nothing_that_another_did(data_dir: Path) -> None:
    """It wakes in the middle of a job that another has ended long ago, and goes on with the next."""
    settings = {"FARM_SIMULATED_STEP_MS": "50", "FARM_LEASE_SECONDS": str(LEASE)}
    with running_farm(data_dir, 2, **settings) as farm:
        job_id = farm.submit(num_inference_steps=40, **FULL)
        farm.wait_for_state(job_id, "processing")
        holder = partial(farm.redis.hget, f"srpo:job:{job_id}", "worker")
        worker = str(holder())

        pid = int(str(farm.redis.hget(f"srpo:worker:{worker}", "pid")))
        os.kill(pid, signal.SIGSTOP)
        try:
            view = farm.wait_for_end(job_id)
        finally:
            os.kill(pid, signal.SIGCONT)
        others = [farm.wait_for_end(farm.submit(num_inference_steps=2)) for _ in range(4)]

        assert {view["status"] for view in [view, *others]} == {"completed"}
        assert holder() != worker
        assert farm.job(job_id) == view
        assert pid in farm.worker_pids()
