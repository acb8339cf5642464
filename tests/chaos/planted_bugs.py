"""`python -m tests.chaos.planted_bugs HOW PROGRAM …`: a program of the farm, broken on purpose in one of six ways.

The judge must report each of them: one that finds nothing here finds nothing anywhere.
"""

from __future__ import annotations

import runpy
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from farm.concurrency.periodic import PeriodicThread
from farm.domain.job import Claimed, NewJob, Result
from farm.jobstore import redis_keys, scripts
from farm.jobstore.store import Accepted, JobStore
from farm.service import Service
from tests.chaos.faults import Schedule
from tests.chaos.requests import PLAIN
from tests.chaos.run import Plan
from workers.publish import Publisher

#: How late what should have come first comes, in seconds.
_LATE_SECONDS = 0.7

#: A `complete.lua` that asks neither for the fence nor for the state.
_FINISH = """
local id, result = ARGV[1], ARGV[3]
if redis.call('HGET', job_key(id), 'state') == 'created' then dequeue(id) end
redis.call('HSET', job_key(id), 'state', 'completed', 'result', result, 'finished_us', integer(now()))
redis.call('ZREM', P .. 'leases', id)
publish_state(id, 'completed', redis.call('HINCRBY', job_key(id), 'sequence', 1))
return 1
"""
_IS_FIRST_TIME = "local function is_first_time_in(state, sequence)\n"
#: What lines up the delivery of a completed job by itself.
_TELL = """
local job = redis.call('HMGET', job_key(ARGV[1]), 'caller', 'receiver', 'sequence')
enqueue_delivery(ARGV[1] .. '-' .. job[3], {job = ARGV[1], caller = job[1], receiver = job[2], event = 'completed',
  sequence = job[3]})
return 1
"""

_text = scripts.script_text


def answer_before_record() -> None:
    """Answer a submit before recording it."""
    record = Service._recorded

    def answer(self: Service, new: NewJob, *others: Any) -> Accepted:
        threading.Timer(_LATE_SECONDS, record, (self, new, *others)).start()
        return Accepted(new.id, repeated=False, idle_workers=0)

    patch.object(Service, "_recorded", answer).start()


def finish_without_fence() -> None:
    """Let the last attempt to finish win."""
    patch.object(
        scripts, "script_text", lambda name: scripts.with_shared(_FINISH) if name == "complete" else _text(name)
    ).start()


def upload_after_finish() -> None:
    """Complete a job before storing its images."""
    offer = Publisher._store_with_retry

    def late(self: Publisher, *print_and_content: Any) -> None:
        threading.Timer(_LATE_SECONDS, offer, (self, *print_and_content)).start()

    patch.object(Publisher, "_store_with_retry", late).start()


def event_outside_the_transition() -> None:
    """Complete a job, and queue its webhook in a separate step."""
    complete = JobStore.complete

    def complete_and_tell(self: JobStore, job: Claimed, result: Result) -> bool:
        won = complete(self, job, result)
        if won and self._redis.hexists(redis_keys.job(job.id), "receiver"):
            time.sleep(_LATE_SECONDS)
            self._redis.register_script(scripts.with_shared(_TELL))(args=[job.id])
        return won

    patch.object(
        scripts, "script_text", lambda name: _text(name).replace(_IS_FIRST_TIME, _IS_FIRST_TIME + _NEVER_COMPLETED)
    ).start()
    patch.object(JobStore, "complete", complete_and_tell).start()


_NEVER_COMPLETED = "  if state == 'completed' then return false end\n"


def reclaim_off() -> None:
    """Never reclaim the jobs of dead workers."""
    patch.object(PeriodicThread, "run", lambda _: None).start()


def wake_ups_are_the_truth() -> None:
    """Never repeat a wake-up: one that is lost was the only one."""
    patch.object(Service, "reap", lambda self: self._store.reap()).start()


#: A few jobs, no S3, and only the faults that show the bug.
_SMALL = Plan(
    jobs=12,
    seed=1,
    clients=12,
    workers=2,
    apis=1,
    habits=PLAIN,
    schedule=Schedule({"flush celery": 1}, (1.0, 2.0)),
    moody=False,
    patience=8.0,
    settings={"FARM_LEASE_SECONDS": "1"},
)
#: Jobs of one long step: a worker that comes back to one is at its end at once.
_ONE_STEP = replace(_SMALL, step_ms=500.0, habits=replace(PLAIN, steps=(1,)))

#: Each way of breaking the farm: how, the run that shows it, and the rule by which the judge must report it.
BREAKAGES: Mapping[str, tuple[Callable[[], None], Plan, str]] = {
    "answer before record": (
        answer_before_record,
        replace(_SMALL, schedule=Schedule({"kill api": 1}, (0.3, 0.9), maximum=4)),
        "lost",
    ),
    "finish without fence": (
        finish_without_fence,
        replace(_ONE_STEP, jobs=40, schedule=Schedule({"stop worker": 1}, (0.5, 1.0), only_busy=True), patience=30.0),
        "end changed",
    ),
    "upload after finish": (upload_after_finish, replace(_SMALL, jobs=4), "told too early"),
    "event outside the transition": (
        event_outside_the_transition,
        replace(
            _ONE_STEP,
            jobs=16,
            clients=16,
            step_ms=100.0,
            habits=replace(PLAIN, webhook=1),
            schedule=Schedule({"kill worker": 1}, (0.3, 0.6), maximum=4, only_busy=True),
        ),
        "webhook missing",
    ),
    "reclaim off": (
        reclaim_off,
        replace(_ONE_STEP, schedule=Schedule({"kill worker": 1}, (0.2, 0.3), maximum=2, only_busy=True)),
        "unfinished",
    ),
    "wake-ups are the truth": (
        wake_ups_are_the_truth,
        replace(
            _ONE_STEP,
            workers=1,
            schedule=Schedule({"kill worker": 1, "flush celery": 2}, (0.15, 0.3), maximum=12, only_busy=True),
        ),
        "unfinished",
    ),
}


def main() -> None:
    how, program = sys.argv[1], sys.argv[2]
    assert _IS_FIRST_TIME in _text("complete"), "state.lua has changed: this breaks nothing any longer"
    breakage, _, _ = BREAKAGES[how]
    breakage()
    sys.argv = [program, *sys.argv[3:]]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
