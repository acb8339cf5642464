"""The job store as it should be, in plain Python: what each call answers, and what lies in Redis afterwards.

Nothing here is kept that can be worked out: each job has one place, and every index is made by looking at all jobs.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from farm.domain.catalogue import BATCH_IMAGES
from farm.domain.job import NewJob, State
from farm.domain.request import Request
from farm.jobstore.record import blank, fields_of
from farm.jobstore.redis_keys import PREFIX
from farm.jobstore.store import MOST_TAKES, Held, Retry, Terms
from tests.service.jobstore.stepped_clock import Content

SECOND = 1_000_000
#: For so long a direct call is believed to wait after a sign of life of its API, and may be asked for again after that.
HOLD = 3 * SECOND
AGAIN = 30 * SECOND
#: For so long a job is left to the worker that its hint prefers, and that worker is remembered.
HINT = SECOND
#: How long what was sent inline is kept, and how long a removal has to come about.
HOUR = 3600 * SECOND
REMOVAL = 60 * SECOND
#: Before all turns, in the order of coming back.
FRONT = 4 * 10**15
#: So many of a line are looked at for one that may be taken.
LOOKED_AT = 16


def us(seconds: float) -> int:
    return round(seconds * 1e6)


@dataclass
class Entry:
    """A job as it should stand. `place` is the one set that it is in, and `score` what it is sorted by there."""

    new: NewJob
    request: Request
    lane: str
    cost: float
    turn: float
    created: int
    place: str = "waiting"
    score: float = 0
    state: State = State.CREATED
    sequence: int = 1
    attempt: int = 0
    fence: int = 0
    step: int = 0
    solo: bool = False
    start_by: int | None = None
    render_by: int = 0
    stopping: str = ""
    code: str = ""
    direct: str = ""
    #: What the record has from a certain moment on.
    later: Content = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.new.id

    @property
    def caller(self) -> str:
        return self.new.caller

    @property
    def is_unprepared(self) -> bool:
        return self.lane.startswith("unprepared:")

    @property
    def mates(self) -> int:
        return int(self.later["mates"])

    @property
    def once(self) -> bool:
        return not self.new.order.conditions.may_retry

    @property
    def hint(self) -> str:
        return self.new.order.conditions.runner_hint

    def is_late(self, now: int) -> bool:
        return self.start_by is not None and self.start_by <= now


@dataclass
class Lane:
    """Virtual time of a line of jobs, and of each caller in it: what it was accepted for, and what was claimed."""

    clock: float = 0
    asked: dict[str, float] = field(default_factory=dict)
    given: dict[str, float] = field(default_factory=dict)


@dataclass
class Worker:
    present: float | None = None
    shares: dict[str, float] = field(default_factory=dict)
    is_warm: bool = False
    drains: bool = False
    nonce: str = ""
    answer: Content = field(default_factory=dict)


class Model:
    """One store. `now` is the time, in microseconds."""

    def __init__(self, terms: Terms, now: int) -> None:
        self.now = now
        self.jobs: dict[str, Entry] = {}
        self.log: list[tuple[str, str, int]] = []
        self._terms = terms
        self._fence = 0
        self._lanes: defaultdict[str, Lane] = defaultdict(Lane)
        self._workers: dict[str, Worker] = {}
        self._seen: dict[str, int] = {}
        self._idle: defaultdict[str, set[str]] = defaultdict(set)
        self._models: set[str] = set()
        self._totals: Counter[str] = Counter()
        self._keys: dict[str, tuple[str, str]] = {}
        self._directs: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._calls: defaultdict[str, set[str]] = defaultdict(set)
        self._joined: dict[str, str] = {}
        self._letting_go: dict[str, int] = {}
        self._hints: dict[tuple[str, str], str] = {}
        self.is_paused = False

    # What callers do

    def submit(self, new: NewJob) -> tuple[str, str, int]:
        """The verdict, the job's id, and how many workers stand idle."""
        order = new.order
        key = f"{PREFIX}idempotency:{new.caller}:{order.idempotency_key}" if order.idempotency_key else ""
        call = order.call if order.body_digest else ""
        direct = f"{PREFIX}direct:{new.caller}:{order.body_digest}" if call and not key else ""
        if new.id in self.jobs:
            return "accepted", new.id, self._wanted(order.request.model)
        failed = self.jobs.get(new.retry_of)
        if failed and (repeated := failed.later.get("retried_as")) in self.jobs:
            return "repeated", repeated, 0
        if new.retry_of and (failed is None or failed.state is not State.FAILED):
            return "unknown", "", 0
        if key in self._keys:
            known, digest = self._keys[key]
            return ("repeated", known, 0) if digest == order.body_digest else ("conflict", "", 0)
        if direct and call in self._joined:
            return "repeated", self._joined[call], 0
        if direct and (equal := self._equal(direct, is_resent=order.is_resent)):
            self._join(direct, equal, call)
            return "repeated", equal, 0
        if self._waiting_count()[new.caller] >= self._terms.queue_limit:
            return "full", "", 0

        entry = self._accept(new)
        if key:
            self._keys[key] = new.id, order.body_digest
            entry.later["idempotency"] = key
        if direct:
            entry.direct = direct
            self._calls[new.id].add(call)
            self._hold(new.id, direct)
        if failed:
            failed.later["retried_as"] = new.id
        return "accepted", new.id, 0 if entry.is_unprepared else self._wanted(order.request.model)

    def _wanted(self, model: str) -> int:
        """Workers that are to be woken."""
        return 0 if self.is_paused else len(self._idle[model])

    def _accept(self, new: NewJob) -> Entry:
        fields = fields_of(new)
        lane, cost = str(fields["lane"]), float(fields["cost"])
        within = new.order.conditions.start_within
        turn = self._next_turn(lane, new.caller, cost)
        entry = Entry(new, new.order.request, lane, cost, turn, self.now, score=turn, solo="solo" in fields)
        entry.start_by = self.now + us(within) if within else None
        self.jobs[new.id] = entry
        self._totals["jobs:created:"] += 1
        self._tell(entry)
        if not entry.is_unprepared:
            self._leave_to_preferred(entry)
        return entry

    def _leave_to_preferred(self, entry: Entry) -> None:
        if entry.hint:
            entry.later["hint_until_us"] = self.now + HINT

    def cancel(self, job_id: str) -> str:
        return self._stop(job_id, "cancelled")

    def delete(self, job_id: str) -> bool:
        return self._forget(job_id, is_wanted=True)

    def forget(self, job_id: str) -> bool:
        return self._forget(job_id, is_wanted=False)

    def expired(self, count: int) -> list[str]:
        ids = [entry.id for entry in self._due("expiry")][:count]
        for job_id in ids:
            self.jobs[job_id].score = self.now + REMOVAL
        return ids

    def _forget(self, job_id: str, *, is_wanted: bool) -> bool:
        entry = self.jobs.get(job_id)
        if entry is None:
            return True
        if not entry.state.is_terminal:
            return False
        if entry.direct:
            self._let_go(job_id, entry.direct)
        key = entry.later.get("idempotency", "")
        if is_wanted and self._keys.get(key, ("",))[0] == job_id:
            del self._keys[key]
        del self.jobs[job_id]
        return True

    # Direct calls

    def abandon(self, job_id: str, call: str) -> bool:
        entry = self.jobs.get(job_id)
        if entry is None or not entry.direct:
            return False
        has_waited = call in self._calls[job_id]
        self._calls[job_id].discard(call)
        if self._calls[job_id] or job_id not in self._directs[entry.direct]:
            return False
        if has_waited:
            self._directs[entry.direct][job_id] = self.now
            self._letting_go[job_id] = self.now + AGAIN
        return True

    def job_of(self, new: NewJob) -> str:
        """The job with which a direct call goes on."""
        return self._joined.get(new.order.call, new.id)

    def hold_calls(self, calls: Iterable[tuple[str, str]]) -> None:
        for job_id, call in calls:
            entry = self.jobs.get(job_id)
            waits = entry and not entry.state.is_terminal and call in self._calls[job_id]
            if entry and waits and self._directs[entry.direct][job_id] != math.inf:
                self._hold(job_id, entry.direct)

    def let_be(self, job_id: str, call: str) -> None:
        self._calls[job_id].discard(call)
        entry = self.jobs.get(job_id)
        if entry and not entry.state.is_terminal and job_id in self._directs[entry.direct]:
            self._directs[entry.direct][job_id] = math.inf
            self._letting_go.pop(job_id, None)

    def _equal(self, direct: str, *, is_resent: bool) -> str:
        """The job of an equal call that nobody waits for any more; or any, for a call that is sent again."""
        jobs = sorted((until, job_id) for job_id, until in self._directs[direct].items())
        left = [job_id for until, job_id in jobs if 0 < until <= self.now]
        return left[-1] if left else jobs[-1][1] if jobs and is_resent else ""

    def _join(self, direct: str, equal: str, call: str) -> None:
        self._joined[call] = equal
        self._calls[equal].add(call)
        if self.jobs[equal].state is State.COMPLETED:
            self._directs[direct][equal] = -1
        else:
            self._hold(equal, direct)

    def _hold(self, job_id: str, direct: str) -> None:
        self._directs[direct][job_id] = self.now + HOLD
        self._letting_go[job_id] = self.now + HOLD + AGAIN

    def _let_go(self, job_id: str, direct: str) -> None:
        self._directs[direct].pop(job_id, None)
        self._calls.pop(job_id, None)
        self._letting_go.pop(job_id, None)

    # What preparers do

    def take_unprepared(self, count: int, lease: float) -> list[str]:
        """A job that was lost, if none such is being prepared; then those whose turn it is."""
        taken: list[str] = []
        while len(taken) < count and (lost := self._first_lost()):
            self._give(lost, "suspects", us(lease), taken)
        for priority in self._priorities("preparations"):
            lane = f"unprepared:{priority}"
            while len(taken) < count and (line := self._line(lane)):
                first = next((entry for entry in line[:LOOKED_AT] if self._has_room(entry.caller)), line[0])
                self._advance(lane, first.score)
                self._give(first, "preparing", us(lease), taken)
        return taken

    def _has_room(self, caller: str) -> bool:
        """Whether a caller would have at most half of all places with one more."""
        places = self._places()
        return 2 * (places[caller] + 1) <= places.total() + 1

    def _places(self) -> Counter[str]:
        return Counter(entry.caller for entry in [*self._in_place("preparing"), *self._in_place("suspects")])

    def _first_lost(self) -> Entry | None:
        suspects = self._in_place("suspects")
        if any(entry.score > self.now for entry in suspects):
            return None
        return next(iter([*self._due("suspects"), *self._due("preparing")]), None)

    def _give(self, entry: Entry, place: str, lease: int, taken: list[str]) -> None:
        entry.later["takes"] = entry.later.get("takes", 0) + 1
        if entry.later["takes"] > MOST_TAKES:
            self._finish_waiting(entry, "preparation_failed")
            return
        entry.place, entry.score = place, self.now + lease
        taken.append(entry.id)

    def hold_unprepared(self, job_ids: Iterable[str], lease: float) -> None:
        for job_id in job_ids:
            if (entry := self.jobs.get(job_id)) and entry.place in ("preparing", "suspects"):
                entry.score = self.now + us(lease)

    def release_unprepared(self, job_id: str) -> None:
        entry = self.jobs.get(job_id)
        if entry is None or entry.place not in ("preparing", "suspects"):
            return
        entry.later["takes"] -= 1
        if entry.place == "suspects":
            entry.score = self.now
        else:
            entry.place, entry.score = "waiting", self.now - FRONT

    def prepared(self, job_id: str, request: Request) -> bool:
        entry = self.jobs.get(job_id)
        if entry and not entry.is_unprepared and self._request(entry) == request.model_dump_json():
            return True
        if entry is None or entry.state is not State.CREATED or not entry.is_unprepared:
            return False
        entry.lane, entry.cost, entry.request = f"{request.model}:{entry.new.order.priority}", request.cost, request
        entry.turn = entry.score = self._next_turn(entry.lane, entry.caller, request.cost)
        entry.place = "waiting"
        self._leave_to_preferred(entry)
        return True

    def refuse(self, job_id: str, code: str) -> bool:
        entry = self.jobs.get(job_id)
        if entry is None or not entry.is_unprepared:
            return False
        if entry.state is not State.CREATED:
            return entry.code == code
        self._finish_waiting(entry, code)
        return True

    # What workers do

    def claim(self, worker: str, models: Sequence[str], nonce: str) -> Content:
        """What waits, for how many idle workers, and the jobs as (id, fence, attempt)."""
        doer = self._workers.get(worker) or Worker()
        if doer.nonce == nonce:
            there = [job for job in doer.answer["jobs"] if job[0] in self.jobs]
            return doer.answer | {"jobs": there}
        self._workers[worker] = doer
        self._seen.setdefault(worker, self.now)
        doer.present = doer.present or 0
        head = None if doer.drains or self.is_paused else self._head(worker, models)
        for model in models:
            (self._idle[model].discard if head or doer.drains else self._idle[model].add)(worker)
        doer.nonce, doer.answer = nonce, {"waiting": 0, "idle": 0, "jobs": []}
        if head:
            self._advance(head.lane, head.score)
            model = head.request.model
            others = len(self._idle[model])
            batch = [head]
            self._take(head, worker, doer)
            self._take_mates(batch, worker, doer, others)
            for entry in batch:
                entry.later["mates"] = len(batch) - 1
            jobs = [(entry.id, entry.fence, entry.attempt) for entry in batch]
            doer.answer = {"waiting": self._waiting(model), "idle": others, "jobs": jobs}
        doer.shares = {caller: share for caller, share in doer.shares.items() if share > doer.present}
        return doer.answer

    def _head(self, worker: str, models: Sequence[str]) -> Entry | None:
        """Of the first of each model: one that came back, else one of the caller that has had least of this worker."""
        doer = self._workers[worker]
        assert doer.present is not None
        for priority in self._priorities("claims"):
            heads = [first for model in models if (first := self._first_of(f"{model}:{priority}", worker))]
            if heads:
                shares = [-1 if head.score < 0 else self._share(doer, head.caller) for head in heads]
                best = min(range(len(heads)), key=lambda i: (shares[i], heads[i].created, i))
                doer.present = max(doer.present, shares[best])
                return heads[best]
        return None

    def _first_of(self, lane: str, worker: str) -> Entry | None:
        left = 0
        for entry in self._line(lane):
            if entry.is_late(self.now):
                self._finish_waiting(entry, "start_timeout")
            elif left < LOOKED_AT and self._is_left(entry, worker):
                left += 1
            else:
                return entry
        return None

    def _is_left(self, entry: Entry, worker: str) -> bool:
        """Whether another worker is to have it: it took the last one with the hint, and stands idle."""
        preferred = self._hints.get((entry.caller, entry.hint), worker)
        doer = self._workers.get(preferred)
        if preferred == worker or doer is None or not entry.hint or entry.later["hint_until_us"] <= self.now:
            return False
        is_alive = self._seen[preferred] > self.now - us(self._terms.lease_seconds)
        return is_alive and doer.is_warm and not doer.drains and preferred in self._idle[entry.request.model]

    def _take(self, entry: Entry, worker: str, doer: Worker) -> None:
        self._fence += 1
        entry.fence, entry.attempt, entry.step = self._fence, entry.attempt + 1, 0
        entry.render_by = self.now + us(self._terms.render_seconds)
        entry.later |= {"worker": worker, "started_us": self.now, "render_by_us": entry.render_by}
        entry.place, entry.score = "leases", self.now + us(self._terms.lease_seconds)
        self._lanes[entry.lane].given[entry.caller] = entry.turn + entry.cost
        doer.shares[entry.caller] = self._share(doer, entry.caller) + entry.cost
        if entry.hint:
            self._hints[entry.caller, entry.hint] = worker
        self._go(entry, State.PROCESSING)

    def _take_mates(self, batch: list[Entry], worker: str, doer: Worker, others: int) -> None:
        head = batch[0]
        if head.solo:
            return
        room = BATCH_IMAGES - head.request.images
        share = math.ceil((self._waiting(head.request.model) + 1) / (others + 1))
        own, mates = head.new.order.priority, self._mates()
        for priority in (own, "normal" if own == "low" else "low"):
            for entry in mates[f"{head.request.batch_key}:{priority}"][:LOOKED_AT]:
                fits = len(batch) < share and entry.request.images <= room
                if fits and not entry.is_late(self.now) and not self._is_left(entry, worker):
                    room -= entry.request.images
                    batch.append(entry)
                    self._take(entry, worker, doer)

    def renew(self, worker: str, models: Sequence[str], held: Sequence[Held]) -> list[str]:
        """The ids whose rendering must stop."""
        stop = [job.id for job in held if not self._renew(job)]
        doer = self._workers.setdefault(worker, Worker())
        doer.is_warm = True
        self._seen[worker] = self.now
        self._models |= set(models)
        if not held and not doer.drains:
            for model in models:
                self._idle[model].add(worker)
        return stop

    def _renew(self, job: Held) -> bool:
        entry = self._held(job.id, job.fence)
        if entry is None:
            return False
        if entry.state is State.CREATED:
            entry.attempt += 1 if entry.mates else 0
            entry.render_by = entry.later["render_by_us"]
            self._go(entry, State.PROCESSING)
        entry.place, entry.score = "leases", self.now + us(self._terms.lease_seconds)
        entry.step = job.step
        return not entry.stopping

    def complete(self, job_id: str, fence: int, result: str) -> bool:
        entry = self._held(job_id, fence)
        if entry is None:
            ended = self.jobs.get(job_id)
            return ended is not None and ended.state is State.COMPLETED and ended.fence == fence
        if entry.stopping:
            self._finish(entry, State.FAILED, entry.stopping)
            return False
        self._finish(entry, State.COMPLETED, result=result)
        self._totals["images"] += entry.request.images
        return True

    def fail(self, job_id: str, fence: int, code: str, retry: Retry, delay: int) -> State | None:
        entry = self._held(job_id, fence)
        if entry is None:
            return None
        blameless = retry == "alone" and entry.mates > 0
        is_last = entry.attempt >= self._terms.max_attempts and not blameless
        if entry.stopping:
            self._finish(entry, State.FAILED, entry.stopping)
        elif retry == "never" or entry.once or is_last:
            self._finish(entry, State.FAILED, code)
        elif entry.state is State.PROCESSING:
            if retry == "alone":
                self._isolate(entry)
            entry.fence = 0
            self._take_back(entry, 0 if blameless else delay)
        return entry.state

    def release(self, job_id: str, fence: int) -> None:
        entry = self._held(job_id, fence)
        if entry is None:
            return
        if entry.stopping:
            self._finish(entry, State.FAILED, entry.stopping)
        elif entry.state is State.PROCESSING:
            entry.attempt -= 1
            entry.fence = 0
            self._take_back(entry, 0)

    def drain(self, worker: str) -> bool:
        if worker not in self._workers:
            return False
        self._workers[worker].drains = True
        for model in self._models:
            self._idle[model].discard(worker)
        return True

    def leave(self, worker: str, models: Sequence[str]) -> None:
        for model in models:
            self._idle[model].discard(worker)
        self._workers.pop(worker, None)
        self._seen.pop(worker, None)

    # What every process does

    def reap(self, *, hold: bool) -> int:
        """How many jobs were taken back. `hold`: signs of life cannot be judged."""
        self._shorten()
        taken = [] if hold else self._due("leases")
        for entry in taken:
            self._totals["reaped"] += 1
            self._take_from_the_dead(entry)
        for entry in self._too_long():
            if hold:
                entry.render_by = self.now + us(self._terms.render_seconds)
            else:
                self._cut_short(entry)
        for entry in self._late():
            self._finish_waiting(entry, "start_timeout")
        for job_id in [] if hold else self._let_go_by_now():
            self._let_go(job_id, self.jobs[job_id].direct)
            self._stop(job_id, "client_disconnected")
        for entry in self._due("delayed"):
            entry.place, entry.score = "waiting", self.now - FRONT
        silent = self.now - us(3 * self._terms.lease_seconds)
        for worker in [worker for worker, seen in self._seen.items() if seen <= silent]:
            self.leave(worker, sorted(self._models))
        return len(taken)

    def _shorten(self) -> None:
        """The clock was set back: nothing lies further ahead than it can."""
        lease = max(us(3 * self._terms.lease_seconds), 60 * SECOND)
        delay = SECOND * 2**self._terms.max_attempts
        longest = {"leases": lease, "preparing": lease, "suspects": lease, "delayed": delay}
        for entry in self.jobs.values():
            entry.score = min(entry.score, self.now + longest.get(entry.place, math.inf))
            entry.render_by = min(entry.render_by, self.now + us(self._terms.render_seconds))
        self._seen = {worker: min(seen, self.now) for worker, seen in self._seen.items()}
        self._letting_go = {job_id: min(until, self.now + 2 * AGAIN) for job_id, until in self._letting_go.items()}

    def _take_from_the_dead(self, entry: Entry) -> None:
        if entry.stopping:
            self._finish(entry, State.FAILED, entry.stopping)
        elif entry.once or (entry.attempt >= self._terms.max_attempts and not entry.mates):
            self._finish(entry, State.FAILED, "attempts_exhausted")
        else:
            self._isolate(entry)
            self._take_back(entry, 0)

    def _too_long(self) -> list[Entry]:
        found = [entry for entry in self.jobs.values() if entry.state is State.PROCESSING]
        found = [entry for entry in found if entry.render_by <= self.now]
        return sorted(found, key=lambda entry: (entry.render_by, entry.id))

    def _cut_short(self, entry: Entry) -> None:
        if entry.stopping:
            self._finish(entry, State.FAILED, entry.stopping)
        elif not entry.mates:
            self._finish(entry, State.FAILED, "render_timeout")
        else:
            self._isolate(entry)
            entry.fence = 0
            self._take_back(entry, 0)

    def _late(self) -> list[Entry]:
        late = [entry for entry in self.jobs.values() if entry.state is State.CREATED and entry.is_late(self.now)]
        return sorted(late, key=lambda entry: (entry.start_by, entry.id))

    def _let_go_by_now(self) -> list[str]:
        return [
            job_id
            for until, job_id in sorted((at, job_id) for job_id, at in self._letting_go.items())
            if until <= self.now
        ]

    # How a job goes from state to state

    def _go(self, entry: Entry, state: State) -> None:
        entry.state = state
        entry.sequence += 1
        self._tell(entry)

    def _tell(self, entry: Entry) -> None:
        self.log.append((entry.id, entry.state.value, entry.sequence))

    def _stop(self, job_id: str, code: str) -> str:
        entry = self.jobs.get(job_id)
        if entry is None:
            return "unknown"
        if entry.state is State.CREATED:
            self._finish_waiting(entry, code)
            return "cancelled"
        if entry.state is State.PROCESSING:
            entry.stopping = entry.stopping or code
            if entry.direct:
                self._let_go(job_id, entry.direct)
            return "stopping"
        return "ended"

    def _finish(self, entry: Entry, state: State, code: str = "", *, result: str = "") -> None:
        order = entry.new.order
        wanted = order.conditions.keep_seconds or self._terms.result_ttl_seconds
        kept = min(us(self._terms.result_ttl_seconds), us(wanted), HOUR if order.inline else us(wanted))
        entry.place, entry.score, entry.code = "expiry", self.now + kept, code
        entry.later["finished_us"] = self.now
        if result:
            entry.later["result"] = result
        self._end_direct(entry, state)
        self._totals[f"jobs:{state}:{code}"] += 1
        self._go(entry, state)

    def _end_direct(self, entry: Entry, state: State) -> None:
        """A failure is worth another try; images that nobody was sent may be asked for."""
        held_until = self._directs[entry.direct].get(entry.id)
        if held_until is None:
            return
        if state is State.FAILED:
            self._let_go(entry.id, entry.direct)
        elif held_until > self.now:
            self._directs[entry.direct][entry.id] = -1
            self._letting_go[entry.id] = self.now + AGAIN

    def _finish_waiting(self, entry: Entry, code: str) -> None:
        """A job that never got to a worker: who has no other waiting pays nothing for it."""
        self._finish(entry, State.FAILED, code)
        if not self._waiting_count()[entry.caller]:
            lane = self._lanes[entry.lane]
            lane.asked[entry.caller] = lane.given.get(entry.caller, 0)

    def _take_back(self, entry: Entry, delay: int) -> None:
        entry.step = 0
        entry.place, entry.score = ("delayed", self.now + delay) if delay else ("waiting", self.now - FRONT)
        self._go(entry, State.CREATED)

    def _isolate(self, entry: Entry) -> None:
        entry.attempt -= 1 if entry.mates else 0
        entry.solo = True

    # Turns

    def _next_turn(self, name: str, caller: str, cost: float) -> float:
        lane = self._lanes[name]
        turn = max(lane.clock, lane.asked.get(caller, 0))
        lane.asked[caller] = turn + cost
        return turn

    def _advance(self, name: str, turn: float) -> None:
        """Whose time is over is forgotten."""
        lane = self._lanes[name]
        if turn > lane.clock:
            lane.clock = turn
            lane.asked = {caller: end for caller, end in lane.asked.items() if end > turn}
            lane.given = {caller: end for caller, end in lane.given.items() if end > turn}

    def _priorities(self, counter: str) -> tuple[str, str]:
        self._totals[counter] += 1
        return ("low", "normal") if self._totals[counter] % 8 == 0 else ("normal", "low")

    @staticmethod
    def _share(doer: Worker, caller: str) -> float:
        return max(doer.present or 0, doer.shares.get(caller, 0))

    # What can be worked out

    def _held(self, job_id: str, fence: int) -> Entry | None:
        entry = self.jobs.get(job_id)
        return entry if entry and entry.fence == fence and not entry.state.is_terminal else None

    def _in_place(self, place: str) -> list[Entry]:
        found = [entry for entry in self.jobs.values() if entry.place == place]
        return sorted(found, key=lambda entry: (entry.score, entry.id))

    def _due(self, place: str) -> list[Entry]:
        return [entry for entry in self._in_place(place) if entry.score <= self.now]

    def _line(self, lane: str) -> list[Entry]:
        return [entry for entry in self._in_place("waiting") if entry.lane == lane]

    def _waiting(self, model: str) -> int:
        return len(self._line(f"{model}:normal")) + len(self._line(f"{model}:low"))

    def _waiting_count(self) -> Counter[str]:
        return Counter(entry.caller for entry in self.jobs.values() if entry.state is State.CREATED)

    def _mates(self) -> defaultdict[str, list[Entry]]:
        found: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in self._in_place("waiting"):
            if not entry.solo and not entry.is_unprepared:
                found[f"{entry.request.batch_key}:{entry.new.order.priority}"].append(entry)
        return found

    # What lies in Redis

    def content(self) -> Content:
        """All keys without their prefix, as `tests.service.jobstore.stepped_clock.look` reads them."""
        found: defaultdict[str, Content] = defaultdict(dict)
        for entry in self.jobs.values():
            self._show(entry, found)
        for name, lane in self._lanes.items():
            found[f"asked:{name}"] |= lane.asked
            found[f"given:{name}"] |= lane.given
            found[f"clock:{name}"] |= {"": lane.clock} if lane.clock else {}
        for name, doer in self._workers.items():
            found[f"worker:{name}"] = {} if doer.present is None else {"present": doer.present}
            found[f"worker:{name}"] |= {"drain": 1} if doer.drains else {}
            found[f"shares:{name}"] |= doer.shares
        for name, workers in self._idle.items():
            found[f"idle:{name}"] |= dict.fromkeys(workers, True)
        for name, jobs in self._directs.items():
            found[name.removeprefix(PREFIX)] |= jobs
        for name, (job_id, digest) in self._keys.items():
            found[name.removeprefix(PREFIX)] = {"id": job_id, "digest": digest}
        for call, job_id in self._joined.items():
            found[f"joined:{call}"] = {"": job_id}
        for job_id, calls in self._calls.items():
            found[f"calls:{job_id}"] |= dict.fromkeys(calls, True)
        found["waiting_count"] |= self._waiting_count()
        found["places"] |= self._places()
        found["paused"] |= {"": 1} if self.is_paused else {}
        for (caller, hint), preferred in self._hints.items():
            found[f"hint:{caller}:{hint}"] = {"": preferred}
        found["letting_go"] |= self._letting_go
        found["workers"] |= self._seen
        found["totals"] |= self._totals
        return {name: content for name, content in found.items() if content or name.startswith("worker:")}

    def _show(self, entry: Entry, found: defaultdict[str, Content]) -> None:
        place = f"waiting:{entry.lane}" if entry.place == "waiting" else entry.place
        found[place][entry.id] = entry.score
        found["jobs"][entry.id] = found[f"jobs:{entry.caller}"][entry.id] = entry.created
        if entry.place in ("waiting", "preparing", "suspects"):
            since = f"unprepared:{entry.request.model}" if entry.is_unprepared else entry.lane
            found[f"since:{since}"][entry.id] = entry.created
        if entry.place == "waiting" and not entry.solo and not entry.is_unprepared:
            found[f"mates:{entry.request.batch_key}:{entry.new.order.priority}"][entry.id] = entry.score
        if entry.state is State.PROCESSING:
            found["render_by"][entry.id] = entry.render_by
        if entry.state is State.CREATED and entry.start_by is not None:
            found["start_by"][entry.id] = entry.start_by
        found[f"job:{entry.id}"] = self._record(entry)

    @staticmethod
    def _request(entry: Entry) -> str:
        keeps = entry.new.order.conditions.keeps_payload or not entry.state.is_terminal
        return entry.request.model_dump_json() if keeps else blank(entry.request)

    def _record(self, entry: Entry) -> Content:
        request, conditions = entry.request, entry.new.order.conditions
        record: Content = fields_of(entry.new) | {
            "lane": entry.lane,
            "cost": entry.cost,
            "batch_key": request.batch_key,
            "images": request.images,
            "request": self._request(entry),
            "state": entry.state.value,
            "sequence": entry.sequence,
            "attempt": entry.attempt,
            "fence": entry.fence,
            "step": entry.step,
            "turn": entry.turn,
            "created_us": entry.created,
        }
        record.pop("blank", None)
        if not conditions.keeps_payload and not entry.state.is_terminal:
            record["blank"] = blank(request)
        optional = {
            "solo": int(entry.solo),
            "start_by_us": entry.start_by,
            "stopping": entry.stopping,
            "code": entry.code,
            "direct": entry.direct,
        }
        return record | {name: value for name, value in optional.items() if value} | entry.later
