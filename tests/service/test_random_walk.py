"""Thousands of random operations on the job store, against what must hold whatever happens."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import redis

from farm.errors import IdempotencyConflict, NotFound
from farm.job import Claimed, Conditions, State
from farm.jobstore import keys
from farm.jobstore.store import JobStore
from tests.service.jobs import (
    FACTS,
    end_hold,
    end_preparation,
    end_start,
    end_waiting_for_callers,
    held,
    new_job,
    result,
)

OPERATIONS = 600
LOOK_EVERY = 15
CALLERS = ("ada", "bob", "eve")
WORKERS = ("w1", "w2", "w3")
SIDES = (256, 512)
SOURCE = "https://pictures.example/cat.png"
LEASE = 60.0


class Walk:
    """One walk: what was done, and what must be true of the store for it."""

    def __init__(self, client: redis.Redis, store: JobStore, seed: int) -> None:
        self._redis = client
        self._store = store
        self._dice = random.Random(seed)
        self.jobs: set[str] = set()
        self._claims: list[tuple[str, Claimed]] = []  # every claim there ever was, stale ones too
        self._unprepared: list[str] = []  # every job that was taken to be prepared
        self._calls: list[tuple[str, str]] = []  # every direct call: its job and its name
        self._ends: dict[str, str] = {}
        self._fence = 0

    def step(self) -> None:
        self._operation()()

    def _operation(self) -> Callable[[], object]:
        weights: dict[Callable[[], object], int] = {
            self._submit: 10,
            self._claim: 10,
            self._renew: 5,
            self._complete: 6,
            self._fail: 4,
            self._release: 2,
            self._cancel: 2,
            self._lose: 3,
            self._reap: 3,
            self._end_delays: 2,
            self._delete: 2,
            self._take_unprepared: 4,
            self._hold_unprepared: 1,
            self._prepare: 4,
            self._refuse: 1,
            self._lose_unprepared: 2,
            self._hang_up: 4,
            self._hold_calls: 2,
            self._let_be: 1,
            self._lose_calls: 1,
            self._end_rendering: 1,
            self._retry: 2,
            self._end_waiting_for_callers: 1,
            self._end_start: 2,
        }
        (chosen,) = self._dice.choices(list(weights), list(weights.values()))
        return chosen

    def _submit(self) -> None:
        dice = self._dice
        new = new_job(
            dice.choice(CALLERS),
            priority=dice.choice(("normal", "low")),
            width=dice.choice(SIDES),
            images=dice.randint(1, 4),
            sources=dice.choice(((), (), (SOURCE,))),
            key=dice.choice(("", "", "k1", "k2")),
            digest=dice.choice("ab"),
            conditions=Conditions(
                start_within=dice.choice((0, 0, 60)),
                may_retry=dice.choice((True, True, False)),
                keeps_payload=dice.choice((True, True, False)),
            ),
        )
        # Named by the dice, so that a seed gives the same walk again.
        name, call = (str(uuid.UUID(int=dice.getrandbits(128), version=4)) for _ in range(2))
        order = replace(new.order, call=dice.choice(("", call)), is_resent=dice.choice((True, False)))
        new = replace(new, id=name, order=order)
        try:
            job_id = self._store.submit(new).id
            assert self._store.submit(new).id == job_id  # the answer was lost
        except IdempotencyConflict:
            return
        self.jobs.add(job_id)
        if order.call:
            self._calls.append((job_id, order.call))

    def _claim(self) -> None:
        worker = self._dice.choice(WORKERS)
        batch = self._store.claim(worker, ["srpo"]).batch.jobs
        assert sum(job.request.images for job in batch) <= 4
        assert len({job.request.batch_key for job in batch}) <= 1
        for job in batch:
            assert job.fence > self._fence
            self._fence = job.fence
            self._claims.append((worker, job))

    def _any_claim(self) -> tuple[str, Claimed] | None:
        """Mostly a recent one; now and then one that must be stale."""
        if not self._claims:
            return None
        recent = self._claims[-8:] if self._dice.random() < 0.8 else self._claims
        return self._dice.choice(recent)

    def _renew(self) -> None:
        if claim := self._any_claim():
            worker, job = claim
            self._store.renew(worker, FACTS, [held(job, self._dice.randint(0, job.request.steps))])

    def _complete(self) -> None:
        if claim := self._any_claim():
            _, job = claim
            if self._store.complete(job, result(job)):
                assert self._store.complete(job, result(job))  # the answer was lost

    def _fail(self) -> None:
        if claim := self._any_claim():
            retry: Any = self._dice.choice(("never", "again", "alone"))
            self._store.fail(claim[1], "render_failed", "x", retry=retry)

    def _release(self) -> None:
        if claim := self._any_claim():
            self._store.release(claim[1])

    def _cancel(self) -> None:
        if self.jobs:
            self._store.cancel(self._dice.choice(sorted(self.jobs)))

    def _lose(self) -> None:
        for job_id in _members(self._redis, keys.LEASES):
            if self._dice.random() < 0.5:
                self._redis.zadd(keys.LEASES, {job_id: 0})

    def _reap(self) -> None:
        self._store.reap()

    def _take_unprepared(self) -> None:
        self._unprepared += [job.id for job in self._store.take_unprepared(self._dice.randint(1, 4), LEASE)]

    def _any_unprepared(self) -> str | None:
        """Mostly a recent one; now and then one that is anything by now."""
        recent = self._unprepared[-8:] if self._dice.random() < 0.8 else self._unprepared
        return self._dice.choice(recent) if recent else None

    def _hold_unprepared(self) -> None:
        if job_id := self._any_unprepared():
            self._store.hold_unprepared([job_id], LEASE)

    def _prepare(self) -> None:
        if job_id := self._any_unprepared():
            self._prepare_one(job_id)

    def _prepare_one(self, job_id: str) -> None:
        job = self._store.get(job_id)
        if job and job.request.sources:
            width = self._dice.choice(SIDES)
            ready = job.request.model_copy(update={"inputs": (f"{width}.png",), "width": width})
            if self._store.prepared(job_id, ready):
                assert self._store.prepared(job_id, ready)  # the answer was lost

    def _refuse(self) -> None:
        if (job_id := self._any_unprepared()) and self._store.refuse(job_id, "image_load_error", "x"):
            assert self._store.refuse(job_id, "image_load_error", "x")  # the answer was lost

    def _lose_unprepared(self) -> None:
        for job_id in [*_members(self._redis, keys.PREPARING), *_members(self._redis, keys.SUSPECTS)]:
            if self._dice.random() < 0.5:
                end_preparation(self._redis, job_id)

    def _hang_up(self) -> None:
        if self._calls:
            self._store.abandon(*self._dice.choice(self._calls[-20:]))

    def _hold_calls(self) -> None:
        self._store.hold_calls(self._calls[-20:])

    def _let_be(self) -> None:
        if self._calls:
            self._store.let_be(*self._dice.choice(self._calls[-20:]))

    def _lose_calls(self) -> None:
        """The API dies with some of them."""
        for job_id in _members(self._redis, keys.LETTING_GO):
            if self._dice.random() < 0.2:
                end_hold(self._redis, job_id)

    def _end_rendering(self) -> None:
        for job_id in _members(self._redis, keys.RENDER_BY):
            if self._dice.random() < 0.3:
                self._redis.zadd(keys.RENDER_BY, {job_id: 0})

    def _retry(self) -> None:
        if not self.jobs:
            return
        old = self._dice.choice(sorted(self.jobs))
        new = replace(new_job(self._dice.choice(CALLERS)), retry_of=old)
        new = replace(new, id=str(uuid.UUID(int=self._dice.getrandbits(128), version=4)))
        has_failed = _record(self._redis, old)["state"] == "failed"
        try:
            job_id = self._store.submit(new).id
        except NotFound:
            assert not has_failed
            return
        assert has_failed
        assert self._store.submit(replace(new, id="another")).id == job_id
        self.jobs.add(job_id)

    def _end_waiting_for_callers(self) -> None:
        end_waiting_for_callers(self._redis)

    def _end_start(self) -> None:
        for job_id in _members(self._redis, keys.START_BY):
            if self._dice.random() < 0.1:
                end_start(self._redis, job_id)

    def _end_delays(self) -> None:
        for job_id in _members(self._redis, keys.DELAYED):
            self._redis.zadd(keys.DELAYED, {job_id: 0})

    def _delete(self) -> None:
        if self.jobs:
            job_id = self._dice.choice(sorted(self.jobs))
            if self._store.delete(job_id):
                assert self._ends.pop(job_id, None) or self._has_ended(job_id)
                self.jobs.discard(job_id)

    def _has_ended(self, job_id: str) -> bool:
        """By the log of events: the record is gone."""
        return any(State(state).is_terminal for _, state in self._log().get(job_id, []))

    def finish(self) -> None:
        """Let everything end: no more faults, every claim is completed."""
        for _ in range(1000):
            self._end_delays()
            for job_id in _members(self._redis, keys.LEASES):
                self._redis.zadd(keys.LEASES, {job_id: 0})
            self._end_waiting_for_callers()
            self._store.reap()
            end_preparation(self._redis, *self.jobs)
            self._take_unprepared()
            for job_id in self._taken():
                self._prepare_one(job_id)
            batch = self._store.claim("last", ["srpo"]).batch.jobs
            if not batch and not self._store.are_unprepared():
                return
            for job in batch:
                self._store.complete(job, result(job))
        raise AssertionError("the store never runs empty")

    # What must hold

    def look(self) -> None:
        records = {job_id: _record(self._redis, job_id) for job_id in self.jobs}
        assert all(records.values()), "a job was lost"
        self._check_indexes(records)
        self._check_unprepared(records)
        self._check_deadlines(records)
        self._check_calls(records)
        self._check_waiting_counts(records)
        self._check_ends(records)
        self._check_events(records)

    def _check_indexes(self, records: dict[str, dict[str, str]]) -> None:
        """Each job is in exactly the indexes that its state asks for."""
        lanes = Counter(
            job_id
            for model in ("srpo", keys.PREPARATION)
            for priority in ("normal", "low")
            for job_id in _members(self._redis, keys.waiting(model, priority))
        )
        since = {
            job_id
            for lane in (("srpo", "normal"), ("srpo", "low"), (keys.PREPARATION, "srpo"))
            for job_id in _members(self._redis, keys.since(*lane))
        }
        taken = self._taken()
        delayed = set(_members(self._redis, keys.DELAYED))
        mates = {
            job_id for name in self._redis.scan_iter(f"{keys.PREFIX}mates:*") for job_id in _members(self._redis, name)
        }
        by_state = {state: {job for job, fields in records.items() if fields["state"] == state} for state in State}
        solo = {job_id for job_id, fields in records.items() if fields.get("solo") == "1"}

        assert set(lanes.values()) <= {1}
        assert set(lanes) | set(taken) == since
        assert len(lanes) + len(delayed) + len(taken) == len(by_state[State.CREATED])
        assert set(lanes) | delayed | set(taken) == by_state[State.CREATED]
        assert mates == set(lanes) - solo - self._named_unprepared(records)
        assert set(_members(self._redis, keys.LEASES)) == by_state[State.PROCESSING]
        assert set(_members(self._redis, keys.RENDER_BY)) == by_state[State.PROCESSING]
        assert set(_members(self._redis, keys.EXPIRY)) == by_state[State.COMPLETED] | by_state[State.FAILED]
        assert set(_members(self._redis, keys.JOBS)) == set(records)

    def _taken(self) -> list[str]:
        return [*_members(self._redis, keys.PREPARING), *_members(self._redis, keys.SUSPECTS)]

    def _named_unprepared(self, records: dict[str, dict[str, str]]) -> set[str]:
        return {job for job, fields in records.items() if fields["lane"].startswith(f"{keys.PREPARATION}:")}

    def _check_unprepared(self, records: dict[str, dict[str, str]]) -> None:
        """What is to be prepared is with a preparer or in the line for one, and in no other."""
        waiting = {
            job_id
            for priority in ("normal", "low")
            for job_id in _members(self._redis, keys.waiting(keys.PREPARATION, priority))
        }
        created = {job for job, fields in records.items() if fields["state"] == "created"}
        assert waiting | set(self._taken()) == self._named_unprepared(records) & created
        places = cast(dict[str, str], self._redis.hgetall(f"{keys.PREFIX}places"))
        assert {caller: int(count) for caller, count in places.items()} == Counter(
            records[job_id]["caller"] for job_id in self._taken()
        )
        live = f"({self._redis.time()[0] * 1_000_000}"
        assert self._redis.zcount(keys.SUSPECTS, live, "+inf") <= 1

    def _check_deadlines(self, records: dict[str, dict[str, str]]) -> None:
        limited = {job for job, fields in records.items() if "start_by_us" in fields and fields["state"] == "created"}
        assert set(_members(self._redis, keys.START_BY)) == limited
        for fields in records.values():
            forgotten = '"prompt":""' in fields["request"]
            assert forgotten <= State(fields["state"]).is_terminal
            assert not (State(fields["state"]).is_terminal and "blank" in fields)

    def _check_calls(self, records: dict[str, dict[str, str]]) -> None:
        """Nothing is left of direct calls whose job cannot be asked for again."""
        known = {name: _members(self._redis, name) for name in self._redis.scan_iter(f"{keys.PREFIX}direct:*")}
        jobs = {job_id: name for name, members in known.items() for job_id in members}
        waited_for = {
            name.removeprefix(f"{keys.PREFIX}calls:") for name in self._redis.scan_iter(f"{keys.PREFIX}calls:*")
        }

        assert {records[job_id]["direct"] for job_id in jobs} == set(known)
        assert all(records[job_id]["state"] != "failed" for job_id in jobs)
        assert waited_for <= set(jobs)
        assert set(_members(self._redis, keys.LETTING_GO)) <= set(jobs)
        completed = {job_id for job_id in jobs if records[job_id]["state"] == "completed"}
        assert completed <= set(_members(self._redis, keys.LETTING_GO))

    def _check_waiting_counts(self, records: dict[str, dict[str, str]]) -> None:
        counted = cast(dict[str, str], self._redis.hgetall(f"{keys.PREFIX}waiting_count"))
        waiting = Counter(fields["caller"] for fields in records.values() if fields["state"] == "created")

        assert {caller: int(count) for caller, count in counted.items()} == waiting

    def _check_ends(self, records: dict[str, dict[str, str]]) -> None:
        for job_id, fields in records.items():
            ended = State(fields["state"]).is_terminal
            assert 0 <= int(fields["attempt"]) <= 3, fields["attempt"]
            assert self._ends.get(job_id, fields["state"]) == fields["state"], "an end was taken back"
            assert ("finished_us" in fields) == ended
            assert ("result" in fields) == (fields["state"] == "completed")
            if ended:
                self._ends[job_id] = fields["state"]

    def _check_events(self, records: dict[str, dict[str, str]]) -> None:
        for job_id, told in self._log().items():
            assert [number for number, _ in told] == list(range(1, len(told) + 1))
            assert not any(State(state).is_terminal for _, state in told[:-1]), "two ends"
            if job_id in records:
                assert told[-1] == (int(records[job_id]["sequence"]), records[job_id]["state"])

    def _log(self) -> dict[str, list[tuple[int, str]]]:
        told: dict[str, list[tuple[int, str]]] = {}
        for _, fields in cast(list[tuple[str, dict[str, str]]], self._redis.xrange(keys.OUTBOX)):
            told.setdefault(fields["job"], []).append((int(fields["sequence"]), fields["state"]))
        return told


def _members(client: redis.Redis, key: str) -> list[str]:
    return cast(list[str], client.zrange(key, 0, -1))


def _record(client: redis.Redis, job_id: str) -> dict[str, str]:
    return cast(dict[str, str], client.hgetall(keys.job(job_id)))


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_every_job_has_one_place_and_one_end(client: redis.Redis, store: JobStore, seed: int) -> None:
    walk = Walk(client, store, seed)

    for number in range(OPERATIONS):
        walk.step()
        if number % LOOK_EVERY == 0:
            walk.look()
    walk.finish()

    walk.look()
    assert {str(client.hget(keys.job(job_id), "state")) for job_id in walk.jobs} <= {"completed", "failed"}
