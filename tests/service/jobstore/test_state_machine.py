"""The job store's scripts against a model of them: any calls, in any order, at any time.

Hypothesis draws what is done. After each step the answer must be the model's, and all of Redis what the model says: so
nothing is lost, nothing ends twice, and nothing is left behind that nobody forgets.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from farm.domain.errors import IdempotencyConflict, LimitReached, NotFound
from farm.domain.job import Claimed, Conditions, NewJob, State
from farm.domain.pause import Group
from farm.domain.scheduling import Capacity, HeldJob
from farm.jobstore import redis_keys
from farm.jobstore.store import Retry, Terms
from tests.service.jobstore.jobs import FACTS, held, new_job, result
from tests.service.jobstore.stepped_clock import SteppedStore, look
from tests.service.jobstore.store_model import SECOND, Model

TERMS = Terms(lease_seconds=15, max_attempts=3, queue_limit=6, result_ttl_seconds=7 * 86400, render_seconds=900)
BEGIN_US = 1_767_323_045_678_901
CALLERS = ("ada", "bob")
WORKERS = ("w1", "w2")
MODELS = ("srpo", "kontext")
SOURCE = "https://images.example/cat.png"
PREPARER_SECONDS = 60.0
#: Seconds by which the clock steps: nearly nothing, past a lease, past a delay or a worker's silence, past what is kept
#: for 20, 30 or 60 seconds, for 15 minutes, an hour, a day and a week; and back.
STEPS = (0.000_001, 2, 2, 5, 16, 16, 16, 21, 34, 61, 61, 901, 3601, 86_401, 604_801, -1, -20, -3600)

#: What Redis itself forgets, by its own clock.
EXPIRE = {"affinity", "idempotency", "joined_job"}

some_callers = st.sampled_from(CALLERS)
some_workers = st.sampled_from(WORKERS)
some_models = st.sampled_from((MODELS, MODELS, MODELS[:1], MODELS[::-1]))
some_retries: st.SearchStrategy[Retry] = st.sampled_from(("never", "again", "alone"))
some_groups = st.sampled_from(
    [Group("model", MODELS[0]), Group("priority", "normal"), *[Group("caller", caller) for caller in CALLERS]]
)
some_steps = st.sampled_from(STEPS)
some_conditions = st.builds(
    Conditions,
    start_within=st.sampled_from((0, 0, 20)),
    keep_seconds=st.sampled_from((0, 0, 60)),
    may_retry=st.sampled_from((True, True, False)),
    keeps_payload=st.booleans(),
    runner_hint=st.sampled_from(("", "", "h")),
)
some_fields = st.fixed_dictionaries(
    {
        "priority": st.sampled_from(("normal", "normal", "low", "bulk")),
        "model": st.sampled_from(("srpo", "srpo", "kontext")),
        "width": st.sampled_from((256, 256, 512)),
        "images": st.sampled_from((1, 1, 2, 3, 4)),
        "sources": st.sampled_from(((), (), (SOURCE,))),
        "key": st.sampled_from(("", "", "", "k1", "k2")),
        "digest": st.sampled_from("ab"),
        "conditions": some_conditions,
    }
)
#: What is done, and how often beside the rest.
ACTS = {
    "submit": 30,
    "submit_again": 6,
    "cancel": 3,
    "change_priority": 3,
    "delete": 2,
    "call": 6,
    "claim_while_paused": 1,
    "pause_or_resume_a_group": 4,
    "drain": 1,
    "claim_unprepared": 5,
    "claim_unprepared_of_others": 1,
    "prepare": 5,
    "refuse": 1,
    "renew_unprepared": 1,
    "release_unprepared": 1,
    "claim": 7,
    "claim_later": 6,
    "claim_again": 2,
    "renew": 8,
    "complete": 6,
    "fail": 6,
    "release": 2,
    "die": 2,
    "step_clock": 4,
    "reap_later": 10,
    "reap_while_signs_of_life_cannot_be_judged": 1,
    "remove_expired": 2,
    "end_all": 1,
}
some_acts = st.sampled_from([act for act, often in ACTS.items() for _ in range(often)])

#: Of a worker that holds nothing.
WHOLE_BATCH = Capacity()

T = TypeVar("T")
Hand = tuple[str, Claimed]


class Comparison(RuleBasedStateMachine):
    """Applies each act to the store and to the model, and compares them.

    One rule draws them all. With several, Hypothesis would omit some in each run; one without submits tests nothing.
    """

    def __init__(self, client: redis.Redis) -> None:
        super().__init__()
        client.flushdb()
        self._redis = client
        self._store = SteppedStore(client, TERMS)
        self._store.set_clock(BEGIN_US)
        self._model = Model(TERMS, BEGIN_US)
        self._names = 0
        self._heard: list[tuple[str, str, int]] = []
        self._last_entry = "0"
        self._orders: list[NewJob] = []
        self._hands: list[Hand] = []
        self._unprepared: list[str] = []
        self._last_claims: dict[str, tuple[Sequence[str], Capacity, str]] = {}
        for worker in WORKERS:
            self._renew(worker, [])

    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        self._draw = data.draw
        act: Callable[[], None] = getattr(self, data.draw(some_acts, label="act"))
        act()

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        expected, found = self._model.content(), look(self._redis)
        for name in {*expected, *found} - {"fence", "models", "outbox"}:
            assert _without_words(name, found.get(name)) == expected.get(name), name
        self._heard += self._news()
        assert self._heard == self._model.log

    def _news(self) -> list[tuple[str, str, int]]:
        """Return the outbox entries since the last call."""
        found = self._redis.xrange(redis_keys.OUTBOX, min=f"({self._last_entry}")
        entries = cast(list[tuple[str, dict[str, str]]], found)
        if entries:
            self._last_entry = entries[-1][0]
        return [(result["job"], result["state"], int(result["sequence"])) for _, result in entries]

    def _one_of(self, several: Sequence[T]) -> T | None:
        """Draw a job: mostly a recent one; sometimes any."""
        return several[-1 - self._draw(st.integers(0, len(several) - 1))] if several else None

    def _name(self) -> str:
        """Return an id that is the same in each run, though in no order."""
        self._names += 1
        return str(uuid.uuid5(uuid.NAMESPACE_OID, str(self._names)))

    # What callers do

    def submit(self) -> None:
        fields: dict[str, Any] = self._draw(some_fields, label="job")
        new = new_job(self._draw(some_callers), **fields)
        order = replace(
            new.order, call=self._draw(st.sampled_from(("", self._name()))), inline=self._draw(st.booleans())
        )
        self._submit(replace(new, id=self._name(), order=order))

    def submit_again(self) -> None:
        new = self._one_of(self._orders)
        if new is None:
            return
        order = replace(new.order, call=new.order.call and self._name())
        match self._draw(st.sampled_from(("its answer was lost", "sent again", "by hand")), label="why"):
            case "sent again":
                new = replace(new, id=self._name(), order=order)
            case "by hand":
                order = replace(order, call="", idempotency_key="")
                new = replace(new, id=self._name(), order=order, retry_of=new.id)
        self._submit(new)

    def _submit(self, new: NewJob) -> None:
        self._orders.append(new)
        assert self._verdict(new) == self._model.submit(new)

    def _verdict(self, new: NewJob) -> tuple[str, str, int]:
        try:
            accepted = self._store.submit(new)
        except LimitReached:
            return "full", "", 0
        except IdempotencyConflict:
            return "conflict", "", 0
        except NotFound:
            return "unknown", "", 0
        return "repeated" if accepted.repeated else "accepted", accepted.id, accepted.idle_workers

    def cancel(self) -> None:
        if new := self._one_of(self._orders):
            assert self._store.cancel(new.id) == self._model.cancel(new.id)

    def change_priority(self) -> None:
        """Have some jobs served as single ones, as those of a late bulk are."""
        several = [new.id for new in (self._one_of(self._orders) for _ in range(2)) if new]
        assert self._store.change_priority(several, "normal") == self._model.change_priority(several, "normal")

    def delete(self) -> None:
        if new := self._one_of(self._orders):
            assert self._store.delete(new.id) == self._model.delete(new.id)

    def call(self) -> None:
        """Let a direct call wait, hang up, or be answered: with images if its job is completed, else with their URL."""
        new = self._one_of([new for new in self._orders if new.order.call])
        if new is None:
            return
        call, job_id = new.order.call, self._model.job_of(new)
        match self._draw(st.sampled_from(("waits", "hangs up", "is answered"))):
            case "waits":
                self._store.call_heartbeat([(job_id, call)])
                self._model.call_heartbeat([(job_id, call)])
            case "hangs up":
                assert self._store.call_disconnected(job_id, call) == self._model.call_disconnected(job_id, call)
            case _ if job_id in self._model.jobs and self._model.jobs[job_id].state is State.COMPLETED:
                self._store.call_answered(job_id, call)
                self._model.call_answered(job_id, call)
            case _:
                self._store.keep_after_call(job_id, call)
                self._model.keep_after_call(job_id, call)

    # What operators do

    def claim_while_paused(self) -> None:
        self._store.pause()
        self._model.is_paused = True
        self.claim()
        self._store.resume()
        self._model.is_paused = False

    def pause_or_resume_a_group(self) -> None:
        group = self._draw(some_groups)
        if self._draw(st.booleans()):
            self._store.pause(group)
            self._model.pause(group)
        else:
            self._resume(group)

    def _resume(self, group: Group) -> None:
        assert self._store.resume(group) == self._model.resume(group)

    def drain(self) -> None:
        worker = self._draw(some_workers)
        assert self._store.drain_worker(worker) == self._model.drain_worker(worker)
        self.claim()
        self._leave(worker)

    def _leave(self, worker: str) -> None:
        self._store.remove_worker(worker, MODELS)
        self._model.remove_worker(worker, MODELS)

    # What preparers do

    def claim_unprepared(self) -> None:
        self._unprepared += self._take_unprepared(self._draw(st.integers(1, 3)))

    def _take_unprepared(self, count: int) -> list[str]:
        return self._unprepared_of_others(count, ())

    def claim_unprepared_of_others(self) -> None:
        """One caller has its share in this preparer."""
        self._unprepared += self._unprepared_of_others(2, [self._draw(some_callers)])

    def _unprepared_of_others(self, count: int, not_of: Sequence[str]) -> list[str]:
        worker = self._draw(some_workers)
        jobs = self._store.claim_unprepared(count, PREPARER_SECONDS, not_of=not_of, worker=worker)
        job_ids = [job.id for job in jobs]
        assert job_ids == self._model.claim_unprepared(worker, count, PREPARER_SECONDS, not_of)
        return job_ids

    def prepare(self) -> None:
        if job_id := self._one_of(self._unprepared):
            self._prepare(job_id)

    def _prepare(self, job_id: str) -> None:
        """Prepare a job; its image determines its size."""
        job = self._store.get(job_id)
        if job and job.request.sources:
            ready = job.request.model_copy(update={"inputs": ("cat.png",), "width": 512})
            done = self._model.finish_preparation(job_id, ready)
            assert self._store.finish_preparation(job_id, ready) == done
            assert self._store.finish_preparation(job_id, ready) == done, "its answer was lost"

    def refuse(self) -> None:
        if job_id := self._one_of(self._unprepared):
            done = self._model.fail_preparation(job_id, "image_load_error")
            assert self._store.fail_preparation(job_id, "image_load_error", "x") == done
            assert self._store.fail_preparation(job_id, "image_load_error", "x") == done, "its answer was lost"

    def renew_unprepared(self) -> None:
        if job_id := self._one_of(self._unprepared):
            self._store.renew_unprepared([job_id], PREPARER_SECONDS)
            self._model.renew_unprepared([job_id], PREPARER_SECONDS)

    def release_unprepared(self) -> None:
        if job_id := self._one_of(self._unprepared):
            self._store.release_unprepared(job_id)
            self._model.release_unprepared(job_id)

    # What workers do

    def claim(self) -> None:
        worker = self._draw(some_workers)
        jobs = self._claim(worker, self._draw(some_models), self._draw_capacity(worker))
        self._hands += [(worker, job) for job in jobs]

    def _draw_capacity(self, worker: str) -> Capacity:
        """Draw what a worker can take beside some of the jobs that it holds, or believes that it holds."""
        hands = [job for name, job in self._hands if name == worker]
        last = hands[len(hands) - self._draw(st.integers(0, min(3, len(hands)))) :]
        keys = ("", "", *{job.request.batch_key for job in last})
        return Capacity(
            images=self._draw(st.integers(1, 4)),
            batch_key=self._draw(st.sampled_from(keys)),
            held=[held(job) for job in last],
            claims_ahead=self._draw(st.booleans()),
        )

    def claim_later(self) -> None:
        """Claim when time has passed and before anything is reaped."""
        self.step_clock()
        self.claim()

    def _claim(self, worker: str, models: Sequence[str], capacity: Capacity = WHOLE_BATCH) -> tuple[Claimed, ...]:
        self._last_claims[worker] = models, capacity, self._name()
        return self._claimed(worker)

    def claim_again(self) -> None:
        """Repeat a claim whose answer was lost."""
        worker = self._draw(some_workers)
        if worker in self._last_claims:
            self._claimed(worker)

    def _claimed(self, worker: str) -> tuple[Claimed, ...]:
        models, capacity, nonce = self._last_claims[worker]
        claim = self._store.claim(worker, models, capacity, nonce=nonce)
        jobs = [(job.id, job.fence, job.attempt, job.must_be_alone) for job in claim.batch.jobs]
        found = {"waiting": claim.waiting, "idle": claim.idle_workers, "jobs": jobs, "deferred": claim.is_deferred}
        assert found == self._model.claim(worker, models, capacity, nonce)
        return claim.batch.jobs

    def renew(self) -> None:
        count = self._draw(st.integers(0, 4))
        hands = [hand for _ in range(count) if (hand := self._one_of(self._hands))]
        self._renew(self._draw(some_workers), [held(job, count) for _, job in hands])

    def _renew(self, worker: str, jobs: list[HeldJob]) -> None:
        facts = FACTS | {"models": ",".join(MODELS)}
        assert self._store.renew(worker, facts, jobs) == self._model.renew(worker, MODELS, jobs)

    def complete(self) -> None:
        if hand := self._one_of(self._hands):
            self._complete(hand[1])

    def _complete(self, job: Claimed) -> None:
        for _ in range(2):  # as if the answer were lost
            assert self._store.complete(job, result(job)) == self._model.complete(job.id, job.fence, result(job))

    def fail(self) -> None:
        if hand := self._one_of(self._hands):
            self._fail(hand[1], self._draw(some_retries))

    def _fail(self, job: Claimed, retry: Retry) -> None:
        state = self._store.fail(job, "render_failed", "x", retry=retry)
        until_us = self._redis.zscore(redis_keys.DELAYED, job.id) or 0
        delay_us = round(until_us) - self._model.now
        assert state == self._model.fail(job.id, job.fence, "render_failed", retry, delay_us)
        if state is State.CREATED and until_us:
            assert delay_us <= 2 ** (TERMS.max_attempts - 1) * SECOND

    def release(self) -> None:
        if hand := self._one_of(self._hands):
            _, job = hand
            self._store.release(job)
            self._model.release(job.id, job.fence)

    def die(self) -> None:
        """Let a worker's process exit, and its parent report it. The next worker has another id."""
        worker = self._draw(some_workers)
        assert self._store.worker_died(worker) == self._model.worker_died(worker)
        self._redis.delete(redis_keys.worker(worker))

    # What time does

    def step_clock(self) -> None:
        self._step(self._draw(some_steps, label="seconds"))

    def _step(self, seconds: float) -> None:
        self._model.now += round(seconds * SECOND)
        self._store.set_clock(self._model.now)

    def reap_later(self) -> None:
        self.step_clock()
        self._reap()

    def reap_while_signs_of_life_cannot_be_judged(self) -> None:
        self._reap(hold=True)

    def _reap(self, *, hold: bool = False) -> None:
        self._store.holds = hold
        assert self._store.reap() == self._model.reap(hold=hold)

    def remove_expired(self) -> None:
        expired = self._store.claim_expired(100)
        assert expired == self._model.claim_expired(100)
        for job_id in expired:
            assert self._store.forget(job_id) == self._model.forget(job_id)

    def end_all(self) -> None:
        """Inject no more faults: every job ends, and two weeks later nothing is left of it."""
        for worker in WORKERS:
            self._leave(worker)
        for group in [*self._model.paused]:
            self._resume(group)
        while any(not job.state.is_terminal for job in self._model.jobs.values()):
            self._step(61)
            self._reap()
            for job_id in self._take_unprepared(4):
                self._prepare(job_id)
            for job in self._claim("w1", MODELS):
                self._complete(job)
        self._step(2 * TERMS.result_ttl_seconds)
        self._reap()
        self.remove_expired()
        left = {name.split(":")[0]: name for name in look(self._redis)}
        assert left.keys() <= {
            "vclock",
            "accepted_vfinish",
            "claimed_vfinish",
            "totals",
            "pace",
            "caller_images",
            "daily_usage",
            "fence",
            "models",
            "outbox",
            *EXPIRE,
        }
        assert all(self._redis.ttl(redis_keys.PREFIX + left[name]) > 0 for name in left.keys() & EXPIRE)


def _without_words(name: str, content: Any) -> Any:
    """Return the content without what the model does not know: error messages, and workers' facts."""
    if content and name.startswith("job:"):
        assert ("error" in content) == (content["state"] == "failed")
        runs = {"runs": json.loads(content["runs"])} if "runs" in content else {}
        return {field: value for field, value in content.items() if field != "error"} | runs
    if content and name.startswith("idempotency:"):
        return json.loads(content[""])
    if content and name == "worker_facts":
        return dict.fromkeys(content, True)
    if content and name.startswith("worker:"):
        return {field: value for field, value in content.items() if field in ("vclock", "draining")}
    return content


def _run(client: redis.Redis, **limits: Any) -> None:
    class WithClient(Comparison):
        def __init__(self) -> None:
            super().__init__(client)

    run_state_machine_as_test(
        WithClient,
        settings=settings(
            deadline=None, suppress_health_check=list(HealthCheck), report_multiple_bugs=False, database=None, **limits
        ),
    )


@pytest.mark.timeout(600)  # a failure is made small first
def test_the_store_does_what_its_model_does(client: redis.Redis) -> None:
    """Always the same walks, so that a failure is there again."""
    _run(client, max_examples=30, stateful_step_count=100, derandomize=True)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_the_store_does_what_its_model_does_for_long(client: redis.Redis) -> None:
    """Other walks each time; a failure prints its steps. Several runs, because one keeps all that it has drawn."""
    for _ in range(8):
        _run(client, max_examples=500, stateful_step_count=60)
