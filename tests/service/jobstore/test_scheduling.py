"""The pure policy chooses the jobs that the store's own claims give, for any queue and any worker."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farm.domain.job import Claimed, Conditions, NewJob, State
from farm.domain.scheduling import WHOLE_BATCH, Capacity, HeldJob, Scheduler, Waiting
from farm.jobstore import redis_keys
from farm.jobstore.store import Terms
from tests.service.jobstore.jobs import FACTS, new_job
from tests.service.jobstore.stepped_clock import SteppedStore

MODELS = ("srpo", "kontext")
BEGIN = 1_767_323_045
TERMS = Terms(lease_seconds=100_000, max_attempts=3, queue_limit=1000, result_ttl_seconds=3600)
WORKERS = ("w1", "w2", "w3")
ACTS = ("submit",) * 3 + ("claim",) * 9 + ("claim all",) * 2 + ("come back", "come back alone", "cancel", "pass time")

some_jobs = st.fixed_dictionaries(
    {
        "caller": st.sampled_from(("ada", "ada", "bob", "eve")),
        "priority": st.sampled_from(("normal", "normal", "low", "bulk")),
        "model": st.sampled_from(("srpo", "srpo", "kontext")),
        "width": st.sampled_from((256, 512)),
        "steps": st.sampled_from((1, 7, 28)),
        "images": st.sampled_from((1, 1, 1, 2, 4)),
        "conditions": st.builds(
            Conditions, start_within=st.sampled_from((0, 0, 0, 2)), runner_hint=st.sampled_from(("", "h"))
        ),
    }
)
#: Sums of time and cost of completed jobs: a cost of Kontext may take three times as long as one of SRPO.
some_measures: st.SearchStrategy[dict[str, float]] = st.sampled_from(
    (
        {},
        {"srpo:us": 5e6, "srpo:cost": 50.0},
        {"srpo:us": 5e6, "srpo:cost": 50.0, "kontext:us": 9e6, "kontext:cost": 30.0},
    )
)
some_models = st.sampled_from((MODELS, MODELS, MODELS[:1], MODELS[::-1]))


def waiting(new: NewJob, now: float) -> Waiting:
    """Return a submitted job as the policy sees it."""
    request, conditions = new.order.request, new.order.conditions
    job = Waiting(
        id=new.id,
        model=request.model,
        priority=new.order.priority,
        caller=new.caller,
        batch_key=request.batch_key,
        images=request.images,
        cost=request.cost,
        created=now,
        affinity=conditions.runner_hint,
    )
    if conditions.start_within:
        job.start_deadline = now + conditions.start_within
    return job


class Comparison:
    """Does the same to the store and to the policy."""

    def __init__(self, client: redis.Redis, data: st.DataObject) -> None:
        client.flushdb()
        self._redis = client
        self._draw = data.draw
        self._store = SteppedStore(client, TERMS)
        measured = data.draw(some_measures)
        self._policy = Scheduler(measured=measured)
        if measured:
            client.hset(redis_keys.PACE, mapping={name: repr(value) for name, value in measured.items()})
        self._jobs: dict[str, Waiting] = {}
        self._held: list[tuple[str, Claimed]] = []
        self._now = float(BEGIN)
        self._store.set_clock(BEGIN * 1_000_000)
        for worker in WORKERS:
            self._store.renew(worker, FACTS | {"models": ",".join(MODELS)}, [])
            self._claim(worker, MODELS, Capacity())

    def act(self) -> None:
        match self._draw(st.sampled_from(ACTS)):
            case "submit":
                for fields in self._draw(st.lists(some_jobs, min_size=1, max_size=9)):
                    self._submit(fields)
            case "claim":
                self._claim(self._draw(st.sampled_from(WORKERS)), self._draw(some_models), self._capacity())
            case "claim all":
                self._claim_all()
            case "come back":
                self._come_back(alone=False)
            case "come back alone":
                self._come_back(alone=True)
            case "cancel":
                self._cancel()
            case _:
                self._now += self._draw(st.sampled_from((0.25, 1.0, 2.0)))
                self._store.set_clock(round(self._now * 1e6))

    def _submit(self, fields: dict[str, Any]) -> None:
        # The same id in each run, though in no order: it decides between jobs of equal virtual start times.
        new = replace(new_job(**fields), id=str(uuid.uuid5(uuid.NAMESPACE_OID, str(len(self._jobs)))))
        self._store.submit(new)
        self._jobs[new.id] = waiting(new, self._now)
        self._policy.submit(self._jobs[new.id], self._now)

    def _capacity(self) -> Capacity:
        """Draw what a worker can take: mostly it holds nothing; else it claims ahead, or for one batch key."""
        if self._draw(st.integers(0, 2)):
            return WHOLE_BATCH
        keys = ("", *sorted({job.batch_key for job in self._jobs.values()}))
        held = [HeldJob(job.id, job.fence, 0) for _, job in self._held[-1:]]
        return Capacity(
            self._draw(st.integers(1, 4)), self._draw(st.sampled_from(keys)), held, self._draw(st.booleans())
        )

    def _claim(self, worker: str, models: tuple[str, ...], capacity: Capacity) -> None:
        claim = self._store.claim(worker, models, capacity)
        choice = self._policy.claim(worker, models, capacity, self._now)
        assert [job.id for job in claim.batch.jobs] == [job.id for job in choice.jobs]
        assert claim.is_deferred == choice.is_deferred
        self._held += [(worker, job) for job in claim.batch.jobs]

    def _claim_all(self) -> None:
        """Claim until nothing waits, and all workers are idle."""
        worker = 0
        while any(job.place for job in self._jobs.values()) or worker < len(WORKERS):
            self._claim(WORKERS[worker % len(WORKERS)], MODELS, WHOLE_BATCH)
            worker += 1

    def _come_back(self, *, alone: bool) -> None:
        """Return a job to the front of its queue: its worker drained, or it may be what broke its batch."""
        if not self._held:
            return
        _, job = self._held.pop(self._draw(st.integers(0, len(self._held) - 1)))
        back = self._jobs[job.id]
        if not alone:
            self._store.release(job)
        elif not self._failed_beside_others(job):
            return
        back.must_be_alone |= alone
        self._policy.give_back(back, self._now)

    def _failed_beside_others(self, job: Claimed) -> bool:
        """Fail a job. Return False if it was alone, and ends or waits for a while."""
        state = self._store.fail(job, "render_failed", "x", retry="alone")
        return state is State.CREATED and self._redis.zscore(redis_keys.DELAYED, job.id) is None

    def _cancel(self) -> None:
        there = [job_id for job_id, job in self._jobs.items() if job.place]
        if there:
            job_id = self._draw(st.sampled_from(there))
            self._store.cancel(job_id)
            self._policy.remove(self._jobs[job_id])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_policy_and_the_store_choose_the_same_jobs(client: redis.Redis, data: st.DataObject) -> None:
    comparison = Comparison(client, data)
    for _ in range(40):
        comparison.act()
