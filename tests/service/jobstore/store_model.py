"""A model of the job store in plain Python: the answer of each call, and the content of Redis afterwards.

Nothing here is kept that can be worked out: each job has one place, and every index is made by looking at all jobs.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from farm.domain import scheduling
from farm.domain.job import NewJob, Result, State
from farm.domain.measures import MEASURES, completion, computed_megapixel_steps
from farm.domain.pause import Group
from farm.domain.request import Request
from farm.domain.scheduling import PRIORITIES, Capacity, HeldJob, QueuePriority
from farm.jobstore.record import fields_of, redacted, result_text
from farm.jobstore.redis_keys import PREFIX
from farm.jobstore.store import MAX_PREPARATION_ATTEMPTS, Retry, Terms
from tests.service.jobstore.stepped_clock import Content

SECOND = 1_000_000
DAY = 86400 * SECOND
#: For so long after a heartbeat a direct call counts as connected, and after that an equal call may reconnect.
CALL_TIMEOUT = 3 * SECOND
RECONNECT = 30 * SECOND
#: For so long a job is reserved for the worker that its affinity prefers.
AFFINITY = scheduling.RESERVED_SECONDS * SECOND
#: How long what was sent inline is kept, and how long a removal has to come about.
HOUR = 3600 * SECOND
REMOVAL = 60 * SECOND
#: Before all virtual start times, in the order of coming back.
FRONT = int(scheduling.FRONT_SECONDS) * SECOND
#: So many jobs of a queue are looked at for one that may be taken.
LOOKED_AT = scheduling.MAX_CANDIDATES


def us(seconds: float) -> int:
    return round(seconds * 1e6)


@dataclass
class Entry:
    """A job in the model. `index` is the one set that it is in, and `score` its score there."""

    new: NewJob
    request: Request
    queue: str
    cost: float
    vstart: float
    created: int
    bytes: int = 0
    index: str = "waiting"
    score: float = 0
    state: State = State.CREATED
    sequence: int = 1
    attempt: int = 0
    fence: int = 0
    step: int = 0
    render_alone: bool = False
    start_deadline: int | None = None
    render_deadline: int = 0
    stop_code: str = ""
    code: str = ""
    direct: str = ""
    #: The preparer that has it.
    held_by: str = ""
    #: What the record has from a certain moment on.
    later: Content = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.new.id

    @property
    def caller(self) -> str:
        return self.new.caller

    @property
    def labels(self) -> str:
        return f"{self.request.model}:{self.new.order.priority}"

    @property
    def place(self) -> str:
        """Return the counter of its work."""
        if self.state is State.CREATED:
            return "unprepared" if self.is_unprepared else "waiting"
        return "processing" if self.state is State.PROCESSING else ""

    @property
    def is_unprepared(self) -> bool:
        return self.queue.startswith("unprepared:")

    @property
    def batch_peers(self) -> int:
        return int(self.later["batch_peers"])

    @property
    def must_be_alone(self) -> bool:
        return self.render_alone or self.attempt > 0

    @property
    def no_retry(self) -> bool:
        return not self.new.order.conditions.may_retry

    @property
    def affinity(self) -> str:
        return self.new.order.conditions.runner_hint

    def is_late(self, now: int) -> bool:
        return self.start_deadline is not None and self.start_deadline <= now


@dataclass
class Queue:
    """Virtual clock of a job queue, and for each caller the virtual end of its accepted and of its claimed jobs."""

    vclock: float = 0
    accepted_vfinish: dict[str, float] = field(default_factory=dict)
    claimed_vfinish: dict[str, float] = field(default_factory=dict)


@dataclass
class Worker:
    vclock: float | None = None
    vfinish: dict[str, float] = field(default_factory=dict)
    is_warm: bool = False
    is_draining: bool = False
    nonce: str = ""
    answer: Content = field(default_factory=dict)


class Model:
    """The model of one store. `now` is the time, in microseconds."""

    def __init__(self, terms: Terms, now: int) -> None:
        self.now = now
        self.jobs: dict[str, Entry] = {}
        self.log: list[tuple[str, str, int]] = []
        self._terms = terms
        self._fence = 0
        self._queues: defaultdict[str, Queue] = defaultdict(Queue)
        self._workers: dict[str, Worker] = {}
        self._seen: dict[str, int] = {}
        self._idle: defaultdict[str, set[str]] = defaultdict(set)
        self._models: set[str] = set()
        self._totals: Counter[str] = Counter()
        self._caller_images: Counter[str] = Counter()
        self._usage: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._usage_seen: dict[str, int] = {}
        self._paces: dict[str, tuple[float, float]] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._direct_calls: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._waiting_calls: defaultdict[str, set[str]] = defaultdict(set)
        self._joined_jobs: dict[str, str] = {}
        self._abandon_deadlines: dict[str, int] = {}
        self._affinities: dict[tuple[str, str], str] = {}
        self.is_paused = False
        self.paused: dict[Group, int] = {}
        self._resuming: set[str] = set()

    # What operators do

    def pause(self, group: Group) -> None:
        self.paused.setdefault(group, self.now)
        if group.kind == "caller":
            self._resuming.discard(group.name)
            for entry in self._in_index("waiting"):
                if entry.caller == group.name and not entry.is_unprepared:
                    entry.index = "paused_jobs"

    def resume(self, group: Group) -> bool:
        if group not in self.paused:
            return False
        del self.paused[group]
        if group.kind == "caller":
            self._resuming.add(group.name)
            for name, queue in self._queues.items():
                if not name.startswith("unprepared:"):
                    self._refund(queue, group.name)
        return True

    @staticmethod
    def _refund(queue: Queue, caller: str) -> None:
        """Let the caller go on at the virtual end of what it was given."""
        queue.accepted_vfinish.pop(caller, None)
        if caller in queue.claimed_vfinish:
            queue.accepted_vfinish[caller] = queue.claimed_vfinish[caller]

    def _bring_back(self) -> None:
        """Return the jobs of callers that are paused no longer to their queues."""
        for entry in self._in_index("paused_jobs"):
            if entry.caller in self._resuming:
                if entry.score >= 0:
                    entry.vstart = entry.score = self._next_vstart(entry.queue, entry.caller, entry.cost)
                entry.index = "waiting"
        self._resuming = set()

    def _enqueue(self, entry: Entry, score: float) -> None:
        is_aside = Group("caller", entry.caller) in self.paused and not entry.is_unprepared
        entry.index, entry.score = "paused_jobs" if is_aside else "waiting", score

    # What callers do

    def submit(self, new: NewJob) -> tuple[str, str, int]:
        """Return the verdict, the job's id, and how many workers are idle."""
        order = new.order
        key = f"{PREFIX}idempotency:{new.caller}:{order.idempotency_key}" if order.idempotency_key else ""
        call = order.call if order.body_digest else ""
        direct = f"{PREFIX}direct_calls:{new.caller}:{order.body_digest}" if call and not key else ""
        if new.id in self.jobs:
            return "accepted", new.id, self._wanted(new)
        failed = self.jobs.get(new.retry_of)
        if failed and (repeated := failed.later.get("retried_as")) in self.jobs:
            return "repeated", repeated, 0
        if new.retry_of and (failed is None or failed.state is not State.FAILED):
            return "unknown", "", 0
        if key in self._keys:
            known, digest = self._keys[key]
            return ("repeated", known, 0) if digest == order.body_digest else ("conflict", "", 0)
        if direct and call in self._joined_jobs:
            return "repeated", self._joined_jobs[call], 0
        if direct and (equal := self._equal(direct)):
            self._join(direct, equal, call)
            return "repeated", equal, 0
        if self._waiting_count()[new.caller] >= self._terms.queue_limit:
            return "full", "", 0

        entry = self._accept(new)
        if key:
            self._keys[key] = new.id, order.body_digest
            entry.later["idempotency_key"] = key
        if direct:
            entry.direct = direct
            self._waiting_calls[new.id].add(call)
            self._record_heartbeat(new.id, direct)
        if failed:
            failed.later["retried_as"] = new.id
        return "accepted", new.id, 0 if entry.is_unprepared else self._wanted(new)

    def _wanted(self, new: NewJob) -> int:
        """Return how many workers to wake."""
        model = new.order.request.model
        groups = {Group("model", model), Group("priority", new.order.priority), Group("caller", new.caller)}
        return 0 if self.is_paused or groups & self.paused.keys() else len(self._idle[model])

    def _accept(self, new: NewJob) -> Entry:
        fields = fields_of(new)
        queue, cost = str(fields["queue"]), float(fields["cost"])
        size, within = int(fields["bytes"]), new.order.conditions.start_within
        vstart = self._next_vstart(queue, new.caller, cost)
        entry = Entry(
            new, new.order.request, queue, cost, vstart, self.now, size, render_alone="render_alone" in fields
        )
        self._enqueue(entry, vstart)
        entry.start_deadline = self.now + us(within) if within else None
        self.jobs[new.id] = entry
        self._totals[f"jobs_accepted:{new.order.request.model}:{new.order.priority}"] += 1
        self._publish(entry)
        if not entry.is_unprepared:
            self._reserve_for_preferred_worker(entry)
        return entry

    def _reserve_for_preferred_worker(self, entry: Entry) -> None:
        if entry.affinity:
            entry.later["affinity_deadline_us"] = self.now + AFFINITY

    def cancel(self, job_id: str) -> str:
        return self._stop(job_id, "cancelled")

    def change_priority(self, job_ids: Iterable[str], priority: QueuePriority) -> int:
        changed = 0
        for entry in [self.jobs[job_id] for job_id in job_ids if job_id in self.jobs]:
            if entry.state is State.CREATED and entry.new.order.priority != priority:
                changed += 1
                entry.new = replace(entry.new, order=replace(entry.new.order, priority=priority))
                entry.queue = f"{entry.queue.rpartition(':')[0]}:{priority}"
                if entry.index == "waiting":
                    self._rejoin(entry)
        return changed

    def _rejoin(self, entry: Entry) -> None:
        if entry.score >= 0:
            entry.vstart = entry.score = self._next_vstart(entry.queue, entry.caller, entry.cost)
        self._enqueue(entry, entry.score)

    def delete(self, job_id: str) -> bool:
        return self._forget(job_id, is_requested=True)

    def forget(self, job_id: str) -> bool:
        return self._forget(job_id, is_requested=False)

    def claim_expired(self, count: int) -> list[str]:
        ids = [entry.id for entry in self._due("expiry")][:count]
        for job_id in ids:
            self.jobs[job_id].score = self.now + REMOVAL
        return ids

    def _forget(self, job_id: str, *, is_requested: bool) -> bool:
        entry = self.jobs.get(job_id)
        if entry is None:
            return True
        if not entry.state.is_terminal:
            return False
        if entry.direct:
            self._forget_direct_call(job_id, entry.direct)
        key = entry.later.get("idempotency_key", "")
        if is_requested and self._keys.get(key, ("",))[0] == job_id:
            del self._keys[key]
        del self.jobs[job_id]
        return True

    # Direct calls

    def call_disconnected(self, job_id: str, call: str) -> bool:
        entry = self.jobs.get(job_id)
        if entry is None or not entry.direct:
            return False
        return self._end_call_without_result(job_id, entry.direct, call)

    def job_of(self, new: NewJob) -> str:
        """Return the job that a repeated direct call continues."""
        return self._joined_jobs.get(new.order.call, new.id)

    def call_heartbeat(self, calls: Iterable[tuple[str, str]]) -> None:
        for job_id, call in calls:
            entry = self.jobs.get(job_id)
            waits = entry and not entry.state.is_terminal and call in self._waiting_calls[job_id]
            if entry and waits:
                self._record_heartbeat(job_id, entry.direct)

    def call_answered(self, job_id: str, call: str) -> None:
        entry = self.jobs.get(job_id)
        if entry and entry.direct and call in self._waiting_calls[job_id]:
            self._waiting_calls[job_id].discard(call)
            if job_id in self._direct_calls[entry.direct]:
                self._direct_calls[entry.direct][job_id] = -1

    def keep_after_call(self, job_id: str, call: str) -> None:
        entry = self.jobs.get(job_id)
        if entry is None or not entry.direct:
            return
        if not entry.state.is_terminal:
            entry.later["kept_after_call"] = 1
        self._end_call_without_result(job_id, entry.direct, call)

    def _end_call_without_result(self, job_id: str, direct: str, call: str) -> bool:
        has_waited = call in self._waiting_calls[job_id]
        self._waiting_calls[job_id].discard(call)
        if self._waiting_calls[job_id] or job_id not in self._direct_calls[direct]:
            return False
        if has_waited:
            self._direct_calls[direct][job_id] = self.now
            self._abandon_deadlines[job_id] = self.now + RECONNECT
        return True

    def _equal(self, direct: str) -> str:
        """Return the last job of an equal call whose result no call has received or waits for, or an empty id."""
        left = [(until, job_id) for job_id, until in self._direct_calls[direct].items() if 0 < until <= self.now]
        return max(left)[1] if left else ""

    def _join(self, direct: str, equal: str, call: str) -> None:
        self._joined_jobs[call] = equal
        self._waiting_calls[equal].add(call)
        if self.jobs[equal].state is State.COMPLETED:
            self._direct_calls[direct][equal] = -1
        else:
            self._record_heartbeat(equal, direct)

    def _record_heartbeat(self, job_id: str, direct: str) -> None:
        self._direct_calls[direct][job_id] = self.now + CALL_TIMEOUT
        self._abandon_deadlines[job_id] = self.now + CALL_TIMEOUT + RECONNECT

    def _forget_direct_call(self, job_id: str, direct: str) -> None:
        self._direct_calls[direct].pop(job_id, None)
        self._waiting_calls.pop(job_id, None)
        self._abandon_deadlines.pop(job_id, None)

    # What preparers do

    def claim_unprepared(self, worker: str, count: int, lease: float, not_of: Sequence[str] = ()) -> list[str]:
        """Return a job that was lost, unless another such is being prepared; then the first of other callers."""
        taken: list[str] = []
        while len(taken) < count and (lost := self._first_lost()):
            self._lease(lost, "preparing_again", us(lease), worker, taken)
        for priority in self._priority_order("preparations"):
            queue = f"unprepared:{priority}"
            while len(taken) < count:
                queued = [entry for entry in self._queued(queue)[:LOOKED_AT] if entry.caller not in not_of]
                if not queued:
                    break
                first = next((entry for entry in queued if self._is_within_share(entry.caller)), queued[0])
                self._advance_vclock(queue, first.score)
                self._lease(first, "preparing", us(lease), worker, taken)
        return taken

    def _is_within_share(self, caller: str) -> bool:
        """Return True if a caller would have at most half of all preparations with one more."""
        preparing = self._preparing_count()
        return 2 * (preparing[caller] + 1) <= preparing.total() + 1

    def _preparing_count(self) -> Counter[str]:
        return Counter(entry.caller for entry in [*self._in_index("preparing"), *self._in_index("preparing_again")])

    def _first_lost(self) -> Entry | None:
        lost = self._in_index("preparing_again")
        if any(entry.score > self.now for entry in lost):
            return None
        return next(iter([*self._due("preparing_again"), *self._due("preparing")]), None)

    def _lease(self, entry: Entry, index: str, lease: int, worker: str, taken: list[str]) -> None:
        entry.later["preparation_attempts"] = entry.later.get("preparation_attempts", 0) + 1
        if entry.later["preparation_attempts"] > MAX_PREPARATION_ATTEMPTS:
            self._finish_waiting(entry, "preparation_failed")
            return
        entry.index, entry.score = index, self.now + lease
        entry.held_by = worker
        taken.append(entry.id)

    def renew_unprepared(self, job_ids: Iterable[str], lease: float) -> None:
        for job_id in job_ids:
            if (entry := self.jobs.get(job_id)) and entry.index in ("preparing", "preparing_again"):
                entry.score = self.now + us(lease)

    def release_unprepared(self, job_id: str) -> None:
        entry = self.jobs.get(job_id)
        if entry is None or entry.index not in ("preparing", "preparing_again"):
            return
        entry.later["preparation_attempts"] -= 1
        entry.held_by = ""
        if entry.index == "preparing_again":
            entry.score = self.now
        else:
            self._enqueue(entry, self.now - FRONT)

    def finish_preparation(self, job_id: str, request: Request) -> bool:
        entry = self.jobs.get(job_id)
        if entry and not entry.is_unprepared and self._request(entry) == request.model_dump_json():
            return True
        if entry is None or entry.state is not State.CREATED or not entry.is_unprepared:
            return False
        entry.queue, entry.cost, entry.request = f"{request.model}:{entry.new.order.priority}", request.cost, request
        entry.vstart = self._next_vstart(entry.queue, entry.caller, request.cost)
        self._enqueue(entry, entry.vstart)
        self._observe("job_preparation_seconds", self.now - entry.created)
        self._reserve_for_preferred_worker(entry)
        return True

    def fail_preparation(self, job_id: str, code: str) -> bool:
        entry = self.jobs.get(job_id)
        if entry is None or not entry.is_unprepared:
            return False
        if entry.state is not State.CREATED:
            return entry.code == code
        self._finish_waiting(entry, code)
        return True

    # What workers do

    def claim(self, worker: str, models: Sequence[str], capacity: Capacity, nonce: str) -> Content:
        """Return the jobs as (id, fence, attempt, alone), what else waits, for how many idle workers, if deferred."""
        doer = self._workers.get(worker) or Worker()
        if doer.nonce == nonce:
            there = [job for job in doer.answer["jobs"] if job[0] in self.jobs]
            return doer.answer | {"jobs": there}
        self._workers[worker] = doer
        self._seen.setdefault(worker, self.now)
        doer.vclock = doer.vclock or 0
        head, vfinish = (None, 0.0) if doer.is_draining or self.is_paused else self._head(worker, models)
        deferred = head is not None and self._is_deferred(head, worker, capacity)
        if deferred:
            head = None
            self._totals["claims"] -= 1
        is_idle = not head and not deferred and not doer.is_draining
        for model in models if head or not capacity.claims_ahead else ():
            (self._idle[model].add if is_idle else self._idle[model].discard)(worker)
        doer.nonce, doer.answer = nonce, {"waiting": 0, "idle": 0, "jobs": [], "deferred": deferred}
        if head:
            doer.vclock = max(doer.vclock, vfinish)
            self._advance_vclock(head.queue, head.score)
            model = head.request.model
            others = len(self._idle[model])
            batch = [head]
            alone = head.must_be_alone
            self._start(head, worker, doer)
            if not alone:
                self._fill_batch(batch, capacity.images, worker, doer, others)
            self._join_batch(batch, capacity.held)
            self._observe("batch_images", sum(entry.request.images for entry in batch) * SECOND)
            jobs = [(entry.id, entry.fence, entry.attempt, alone) for entry in batch]
            doer.answer |= {"waiting": self._waiting(model), "idle": others, "jobs": jobs}
        doer.vfinish = {caller: share for caller, share in doer.vfinish.items() if share > doer.vclock}
        return doer.answer

    def _head(self, worker: str, models: Sequence[str]) -> tuple[Entry | None, float]:
        """Return the first job of all models: one that came back, else of the caller served least by this worker.

        Also return the virtual time up to which the worker has worked for its caller.
        """
        doer = self._workers[worker]
        assert doer.vclock is not None
        for priority in self._open(self._priority_order("claims")):
            heads = [first for model in models if (first := self._first_of(f"{model}:{priority}", worker))]
            if heads:
                vfinish = [-1 if head.score < 0 else self._vfinish_of(doer, head.caller) for head in heads]
                best = min(range(len(heads)), key=lambda i: (vfinish[i], heads[i].created, i))
                return heads[best], vfinish[best]
        return None, 0

    def _open(self, priorities: Iterable[str]) -> list[str]:
        """Return those of these priorities that are not paused."""
        paused = {group.name for group in self.paused if group.kind == "priority"}
        return [priority for priority in priorities if priority not in paused]

    def _is_deferred(self, head: Entry, worker: str, capacity: Capacity) -> bool:
        if head.must_be_alone and capacity.held:
            return True
        if capacity.batch_key not in ("", head.request.batch_key):
            return True
        model = head.request.model
        available = [name for name in self._idle[model] if name != worker and self._is_available(name, model)]
        return capacity.claims_ahead and self._waiting(model) <= len(available)

    def _join_batch(self, batch: list[Entry], held: Sequence[HeldJob]) -> None:
        """Count as peers all that the worker holds at a time."""
        found = [entry for job in held if (entry := self._leased(job.id, job.fence))]
        peers = [entry for entry in found if entry.state is State.PROCESSING]
        for entry in peers:
            entry.later["batch_peers"] = entry.batch_peers + len(batch)
        for entry in batch:
            entry.later["batch_peers"] = len(batch) - 1 + len(peers)

    def _first_of(self, queue: str, worker: str) -> Entry | None:
        left = 0
        if Group("model", queue.split(":")[0]) in self.paused:
            return None
        for entry in self._queued(queue):
            if entry.is_late(self.now):
                self._finish_waiting(entry, "start_timeout")
            elif left < LOOKED_AT and self._is_reserved(entry, worker):
                left += 1
            else:
                return entry
        return None

    def _is_reserved(self, entry: Entry, worker: str) -> bool:
        """Return True if the job is reserved for the idle worker that claimed the last one with this affinity."""
        preferred = self._affinities.get((entry.caller, entry.affinity), worker)
        if preferred == worker or not entry.affinity or entry.later["affinity_deadline_us"] <= self.now:
            return False
        return self._is_available(preferred, entry.request.model)

    def _is_available(self, worker: str, model: str) -> bool:
        doer = self._workers.get(worker)
        if doer is None or worker not in self._idle[model]:
            return False
        is_alive = self._seen[worker] > self.now - us(self._terms.lease_seconds)
        return is_alive and doer.is_warm and not doer.is_draining

    def _start(self, entry: Entry, worker: str, doer: Worker) -> None:
        self._fence += 1
        entry.fence, entry.attempt, entry.step = self._fence, entry.attempt + 1, 0
        entry.render_deadline = self.now + us(self._terms.render_seconds)
        entry.later |= {"worker": worker, "started_us": self.now, "render_deadline_us": entry.render_deadline}
        entry.index, entry.score = "leases", self.now + us(self._terms.lease_seconds)
        self._queues[entry.queue].claimed_vfinish[entry.caller] = entry.vstart + entry.cost
        seconds = entry.cost * self._pace(entry.request.model)
        doer.vfinish[entry.caller] = self._vfinish_of(doer, entry.caller) + seconds
        if entry.affinity:
            self._affinities[entry.caller, entry.affinity] = worker
        if entry.sequence == 1:
            self._observe(f"job_wait_seconds:{entry.labels}", self.now - entry.created)
        self._go(entry, State.PROCESSING)

    def _fill_batch(self, batch: list[Entry], images: int, worker: str, doer: Worker, others: int) -> None:
        head = batch[0]
        capacity = images - head.request.images
        share = scheduling.share_of(self._waiting(head.request.model) + 1, others)
        own, candidates = head.new.order.priority, self._batch_candidates()
        for priority in (own, *(other for other in self._open(PRIORITIES) if other != own)):
            for entry in candidates[f"{head.request.batch_key}:{priority}"][:LOOKED_AT]:
                fits = len(batch) < share and entry.request.images <= capacity and not entry.must_be_alone
                if fits and not entry.is_late(self.now) and not self._is_reserved(entry, worker):
                    capacity -= entry.request.images
                    batch.append(entry)
                    self._start(entry, worker, doer)

    def renew(self, worker: str, models: Sequence[str], held: Sequence[HeldJob]) -> list[str]:
        """Return the ids of the jobs that must stop."""
        stop = [job.id for job in held if not self._renew(job)]
        doer = self._workers.setdefault(worker, Worker())
        doer.is_warm = True
        self._seen[worker] = self.now
        self._models |= set(models)
        if not held and not doer.is_draining:
            for model in models:
                self._idle[model].add(worker)
        return stop

    def _renew(self, job: HeldJob) -> bool:
        entry = self._leased(job.id, job.fence)
        if entry is None:
            return False
        if entry.state is State.CREATED:
            entry.attempt += 1 if entry.batch_peers else 0
            entry.render_deadline = entry.later["render_deadline_us"]
            self._go(entry, State.PROCESSING)
        entry.index, entry.score = "leases", self.now + us(self._terms.lease_seconds)
        entry.step = job.step
        return not entry.stop_code

    def complete(self, job_id: str, fence: int, result: Result) -> bool:
        entry = self._leased(job_id, fence)
        if entry is None:
            ended = self.jobs.get(job_id)
            is_repeated = ended is not None and ended.state is State.COMPLETED and ended.fence == fence
            self._count("fence_refusals:complete", unless=is_repeated)
            return is_repeated
        if entry.stop_code:
            self._finish(entry, State.FAILED, entry.stop_code)
            return False
        self._finish(entry, State.COMPLETED, result=result_text(result))
        self._totals.update(completion(entry.request, result))
        self._count_daily_usage(entry, result)
        known = self._paces.get(entry.request.model, (0, 0))
        learned = (us(result.timings["device"]), entry.cost)
        self._paces[entry.request.model] = (0.98 * known[0] + learned[0], 0.98 * known[1] + learned[1])
        return True

    def _count_daily_usage(self, entry: Entry, result: Result) -> None:
        day, model = f"{entry.caller}:{self.now // DAY}", entry.request.model
        self._usage_seen = {
            name: at for name, at in self._usage_seen.items() if at > self.now - us(self._terms.usage_seconds)
        }
        self._usage_seen[day] = self.now
        self._usage[day].update(
            {
                f"{model}:images": entry.request.images,
                f"{model}:megapixel_steps": round(computed_megapixel_steps(entry.request, result) * 1e6),
                f"{model}:device_us": us(result.timings["device"]),
            }
        )

    def fail(self, job_id: str, fence: int, code: str, retry: Retry, delay: int) -> State | None:
        entry = self._leased(job_id, fence)
        if entry is None:
            self._totals["fence_refusals:fail"] += 1
            return None
        blameless = retry == "alone" and entry.batch_peers > 0
        is_last = entry.attempt >= self._terms.max_attempts and not blameless
        if entry.stop_code:
            self._finish(entry, State.FAILED, entry.stop_code)
        elif retry == "never" or entry.no_retry or is_last:
            self._count("jobs_exhausted", unless=retry == "never" or entry.no_retry)
            self._finish(entry, State.FAILED, code)
        elif entry.state is State.PROCESSING:
            if retry == "alone":
                self._isolate(entry)
            entry.fence = 0
            self._take_back(entry, code, 0 if blameless else delay)
        return entry.state

    def release(self, job_id: str, fence: int) -> None:
        entry = self._leased(job_id, fence)
        if entry is None:
            self._totals["fence_refusals:release"] += 1
            return
        if entry.stop_code:
            self._finish(entry, State.FAILED, entry.stop_code)
        elif entry.state is State.PROCESSING:
            entry.attempt -= 1
            entry.fence = 0
            self._take_back(entry, "drained", 0)

    def drain_worker(self, worker: str) -> bool:
        if worker not in self._workers:
            return False
        self._workers[worker].is_draining = True
        for model in self._models:
            self._idle[model].discard(worker)
        return True

    def remove_worker(self, worker: str, models: Sequence[str]) -> None:
        for model in models:
            self._idle[model].discard(worker)
        self._workers.pop(worker, None)
        self._seen.pop(worker, None)

    def worker_died(self, worker: str) -> int:
        """Return how many jobs were taken back from it, as a renderer or as a preparer."""
        taken = [entry for entry in self._in_index("leases") if entry.later["worker"] == worker]
        for entry in taken:
            self._totals["jobs_taken_back"] += 1
            self._take_from_dead_worker(entry)
        self.remove_worker(worker, sorted(self._models))
        prepared = [*self._in_index("preparing"), *self._in_index("preparing_again")]
        lost = [entry for entry in prepared if entry.held_by == worker]
        for entry in lost:
            entry.score = self.now
            entry.held_by = ""
        return len(taken) + len(lost)

    # What every process does

    def reap(self, *, hold: bool) -> int:
        """Return how many jobs were reclaimed. `hold`: heartbeats cannot be judged."""
        self._shorten()
        taken = [] if hold else self._due("leases")
        for entry in taken:
            self._totals["jobs_taken_back"] += 1
            self._take_from_dead_worker(entry)
        for entry in self._overdue_runs():
            if hold:
                entry.render_deadline = self.now + us(self._terms.render_seconds)
            else:
                self._time_out(entry)
        for entry in self._late():
            self._finish_waiting(entry, "start_timeout")
        for job_id in [] if hold else self._abandoned():
            self._forget_direct_call(job_id, self.jobs[job_id].direct)
            if "kept_after_call" not in self.jobs[job_id].later:
                self._stop(job_id, "client_disconnected")
        for entry in self._due("delayed"):
            self._enqueue(entry, self.now - FRONT)
        self._bring_back()
        silent = self.now - us(3 * self._terms.lease_seconds)
        for worker in [worker for worker, seen in self._seen.items() if seen <= silent]:
            self.remove_worker(worker, sorted(self._models))
        return len(taken)

    def _shorten(self) -> None:
        """Bound all times after the clock was set back: none lies further ahead than possible."""
        lease = max(us(3 * self._terms.lease_seconds), 60 * SECOND)
        delay = SECOND * 2**self._terms.max_attempts
        longest = {"leases": lease, "preparing": lease, "preparing_again": lease, "delayed": delay}
        for entry in self.jobs.values():
            entry.score = min(entry.score, self.now + longest.get(entry.index, math.inf))
            entry.render_deadline = min(entry.render_deadline, self.now + us(self._terms.render_seconds))
        self._seen = {worker: min(seen, self.now) for worker, seen in self._seen.items()}
        self._abandon_deadlines = {
            job_id: min(until, self.now + 2 * RECONNECT) for job_id, until in self._abandon_deadlines.items()
        }

    def _take_from_dead_worker(self, entry: Entry) -> None:
        if entry.stop_code:
            self._finish(entry, State.FAILED, entry.stop_code)
        elif entry.no_retry or (entry.attempt >= self._terms.max_attempts and not entry.batch_peers):
            self._count("jobs_exhausted", unless=entry.no_retry)
            self._finish(entry, State.FAILED, "attempts_exhausted")
        else:
            self._isolate(entry)
            self._take_back(entry, "worker_lost", 0)

    def _overdue_runs(self) -> list[Entry]:
        found = [entry for entry in self.jobs.values() if entry.state is State.PROCESSING]
        found = [entry for entry in found if entry.render_deadline <= self.now]
        return sorted(found, key=lambda entry: (entry.render_deadline, entry.id))

    def _time_out(self, entry: Entry) -> None:
        if entry.stop_code:
            self._finish(entry, State.FAILED, entry.stop_code)
        elif not entry.batch_peers:
            self._finish(entry, State.FAILED, "render_timeout")
        else:
            self._isolate(entry)
            entry.fence = 0
            self._take_back(entry, "render_timeout", 0)

    def _late(self) -> list[Entry]:
        late = [entry for entry in self.jobs.values() if entry.state is State.CREATED and entry.is_late(self.now)]
        return sorted(late, key=lambda entry: (entry.start_deadline, entry.id))

    def _abandoned(self) -> list[str]:
        return [
            job_id
            for until, job_id in sorted((at, job_id) for job_id, at in self._abandon_deadlines.items())
            if until <= self.now
        ]

    # How a job goes from state to state

    def _go(self, entry: Entry, state: State) -> None:
        entry.state = state
        entry.sequence += 1
        self._publish(entry)

    def _publish(self, entry: Entry) -> None:
        self.log.append((entry.id, entry.state.value, entry.sequence))

    def _stop(self, job_id: str, code: str) -> str:
        entry = self.jobs.get(job_id)
        if entry is None:
            return "unknown"
        if entry.state is State.CREATED:
            self._finish_waiting(entry, code)
            return "cancelled"
        if entry.state is State.PROCESSING:
            entry.stop_code = entry.stop_code or code
            if entry.direct:
                self._forget_direct_call(job_id, entry.direct)
            return "stopping"
        return "ended"

    def _finish(self, entry: Entry, state: State, code: str = "", *, result: str = "") -> None:
        order = entry.new.order
        wanted = order.conditions.keep_seconds or self._terms.result_ttl_seconds
        kept = min(us(self._terms.result_ttl_seconds), us(wanted), HOUR if order.inline else us(wanted))
        entry.index, entry.score, entry.code = "expiry", self.now + kept, code
        if entry.state is State.PROCESSING or state is State.COMPLETED:
            self._end_run(entry, code or "completed")
        entry.later["finished_us"] = self.now
        if result:
            entry.later["result"] = result
        self._finish_direct_call(entry, state)
        if state is State.COMPLETED:
            self._totals[f"jobs_completed:{entry.request.model}"] += 1
            self._observe(f"job_duration_seconds:{entry.labels}", self.now - entry.created)
        else:
            self._totals[f"jobs_failed:{entry.request.model}:{code}"] += 1
        self._totals[f"caller_jobs:{entry.caller}:{state}"] += 1
        self._caller_images[entry.caller] += entry.request.images if state is State.COMPLETED else 0
        self._go(entry, state)

    def _end_run(self, entry: Entry, reason: str) -> None:
        """Keep the last ten runs; one that had been taken for ended ends again."""
        started = entry.later["started_us"]
        runs = [run for run in entry.later.get("runs", []) if run["started_us"] != str(started)]
        run = {"worker": entry.later["worker"], "host": "", "started_us": str(started), "ended_us": str(self.now)}
        entry.later["runs"] = [*runs, run | {"step": entry.step, "reason": reason}][-10:]

    def _finish_direct_call(self, entry: Entry, state: State) -> None:
        """Forget the direct call of a failed job; else a call that still waits may be repeated for a while."""
        held_until = self._direct_calls[entry.direct].get(entry.id)
        if held_until is None:
            return
        if state is State.FAILED:
            self._forget_direct_call(entry.id, entry.direct)
        elif held_until > self.now:
            self._direct_calls[entry.direct][entry.id] = -1
            self._abandon_deadlines[entry.id] = self.now + RECONNECT

    def _finish_waiting(self, entry: Entry, code: str) -> None:
        """Undo the charge for a job that never reached a worker, if its caller has no other job waiting."""
        self._finish(entry, State.FAILED, code)
        if not self._waiting_count()[entry.caller]:
            queue = self._queues[entry.queue]
            queue.accepted_vfinish[entry.caller] = queue.claimed_vfinish.get(entry.caller, 0)

    def _count(self, name: str, *, unless: bool) -> None:
        if not unless:
            self._totals[name] += 1

    def _observe(self, histogram: str, value: int) -> None:
        """Count a value of a histogram, in millionths."""
        bounds = MEASURES[histogram.split(":")[0]].buckets
        bucket = sum(1 for bound in bounds if value > bound * SECOND)
        self._totals.update({f"{histogram}:{bucket}": 1, f"{histogram}:sum": value})

    def _take_back(self, entry: Entry, reason: str, delay: int) -> None:
        self._totals[f"job_retries:{reason}"] += 1
        self._end_run(entry, reason)
        entry.step = 0
        if delay:
            entry.index, entry.score = "delayed", self.now + delay
        else:
            self._enqueue(entry, self.now - FRONT)
        self._go(entry, State.CREATED)

    def _isolate(self, entry: Entry) -> None:
        entry.attempt -= 1 if entry.batch_peers else 0
        entry.render_alone = True

    # Turns

    def _next_vstart(self, name: str, caller: str, cost: float) -> float:
        queue = self._queues[name]
        vstart = max(queue.vclock, queue.accepted_vfinish.get(caller, 0))
        queue.accepted_vfinish[caller] = vstart + cost
        return vstart

    def _advance_vclock(self, name: str, vstart: float) -> None:
        """Advance the virtual clock, and forget callers that are behind it."""
        queue = self._queues[name]
        if vstart > queue.vclock:
            queue.vclock = vstart
            queue.accepted_vfinish = {caller: end for caller, end in queue.accepted_vfinish.items() if end > vstart}
            queue.claimed_vfinish = {caller: end for caller, end in queue.claimed_vfinish.items() if end > vstart}

    def _priority_order(self, counter: str) -> tuple[str, ...]:
        self._totals[counter] += 1
        return scheduling.priority_order(self._totals[counter])

    @staticmethod
    def _vfinish_of(doer: Worker, caller: str) -> float:
        return max(doer.vclock or 0, doer.vfinish.get(caller, 0))

    # What can be worked out

    def _pace(self, model: str) -> float:
        """Return the seconds for a cost of 1."""
        own = self._paces.get(model)
        time, cost = own or map(sum, zip((0, 0), *self._paces.values(), strict=True))
        return time / 1e6 / cost if cost else 0.2

    def _leased(self, job_id: str, fence: int) -> Entry | None:
        entry = self.jobs.get(job_id)
        return entry if entry and entry.fence == fence and not entry.state.is_terminal else None

    def _in_index(self, index: str) -> list[Entry]:
        found = [entry for entry in self.jobs.values() if entry.index == index]
        return sorted(found, key=lambda entry: (entry.score, entry.id))

    def _due(self, index: str) -> list[Entry]:
        return [entry for entry in self._in_index(index) if entry.score <= self.now]

    def _queued(self, queue: str) -> list[Entry]:
        return [entry for entry in self._in_index("waiting") if entry.queue == queue]

    def _waiting(self, model: str) -> int:
        return sum(len(self._queued(f"{model}:{priority}")) for priority in self._open(PRIORITIES))

    def _waiting_count(self) -> Counter[str]:
        return Counter(entry.caller for entry in self.jobs.values() if entry.state is State.CREATED)

    def _batch_candidates(self) -> defaultdict[str, list[Entry]]:
        found: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in self._in_index("waiting"):
            if not entry.render_alone and not entry.is_unprepared:
                found[f"{entry.request.batch_key}:{entry.new.order.priority}"].append(entry)
        return found

    # What lies in Redis

    def content(self) -> Content:
        """Return all keys without their prefix, as `tests.service.jobstore.stepped_clock.look` reads them."""
        found: defaultdict[str, Content] = defaultdict(dict)
        for entry in self.jobs.values():
            self._show(entry, found)
        for name, queue in self._queues.items():
            found[f"accepted_vfinish:{name}"] |= queue.accepted_vfinish
            found[f"claimed_vfinish:{name}"] |= queue.claimed_vfinish
            found[f"vclock:{name}"] |= {"": queue.vclock} if queue.vclock else {}
        for name, doer in self._workers.items():
            found[f"worker:{name}"] = {} if doer.vclock is None else {"vclock": doer.vclock}
            found[f"worker:{name}"] |= {"draining": 1} if doer.is_draining else {}
            found[f"worker_vfinish:{name}"] |= doer.vfinish
        for name, workers in self._idle.items():
            found[f"idle_workers:{name}"] |= dict.fromkeys(workers, True)
        for name, jobs in self._direct_calls.items():
            found[name.removeprefix(PREFIX)] |= jobs
        for name, (job_id, digest) in self._keys.items():
            found[name.removeprefix(PREFIX)] = {"id": job_id, "digest": digest}
        for call, job_id in self._joined_jobs.items():
            found[f"joined_job:{call}"] = {"": job_id}
        for job_id, calls in self._waiting_calls.items():
            found[f"waiting_calls:{job_id}"] |= dict.fromkeys(calls, True)
        found["waiting_count"] |= self._waiting_count()
        for entry in self.jobs.values():
            for name in ("kept_bytes", *(["waiting_bytes"] if entry.state is State.CREATED else ())):
                found[name][entry.caller] = found[name].get(entry.caller, 0) + entry.bytes
        found["preparing_count"] |= self._preparing_count()
        found["paused"] |= {"": 1} if self.is_paused else {}
        found["paused_groups"] |= {f"{group.kind}:{group.name}": since for group, since in self.paused.items()}
        found["resuming"] |= dict.fromkeys(self._resuming, True)
        for (caller, affinity), preferred in self._affinities.items():
            found[f"affinity:{caller}:{affinity}"] = {"": preferred}
        found["abandon_deadline"] |= self._abandon_deadlines
        found["workers"] |= self._seen
        found["totals"] |= self._totals
        found["totals"] |= {f"caller_images:{caller}": count for caller, count in self._caller_images.items() if count}
        found["caller_images"] |= self._caller_images
        found["daily_usage"] |= self._usage_seen
        found |= {f"daily_usage:{day}": dict(usage) for day, usage in self._usage.items()}
        found["work"] |= self._work()
        found["worker_facts"] |= {name: True for name, doer in self._workers.items() if doer.is_warm}
        for model, (time, cost) in self._paces.items():
            found["pace"] |= {f"{model}:us": time, f"{model}:cost": cost}
        return {name: content for name, content in found.items() if content or name.startswith("worker:")}

    def _work(self) -> Counter[str]:
        work: Counter[str] = Counter()
        for entry in self.jobs.values():
            if entry.place:
                work[f"{entry.place}:{entry.request.model}:images"] += entry.request.images
                work[f"{entry.place}:{entry.request.model}:cost"] += us(entry.cost)
        return work

    def _show(self, entry: Entry, found: defaultdict[str, Content]) -> None:
        indexes = {"waiting": f"queue:{entry.queue}", "paused_jobs": f"paused_jobs:{entry.caller}"}
        index = indexes.get(entry.index, entry.index)
        found[index][entry.id] = entry.score
        found["jobs"][entry.id] = found[f"jobs:{entry.caller}"][entry.id] = entry.created
        if entry.index in ("waiting", "paused_jobs", "preparing", "preparing_again"):
            since = f"unprepared:{entry.request.model}" if entry.is_unprepared else entry.queue
            found[f"queue_by_age:{since}"][entry.id] = entry.created
        if entry.index == "waiting" and not entry.render_alone and not entry.is_unprepared:
            found[f"batch_candidates:{entry.request.batch_key}:{entry.new.order.priority}"][entry.id] = entry.score
        if entry.state is State.PROCESSING:
            found["render_deadline"][entry.id] = entry.render_deadline
        if entry.state is State.CREATED and entry.start_deadline is not None:
            found["start_deadline"][entry.id] = entry.start_deadline
        found[f"job:{entry.id}"] = self._record(entry)

    @staticmethod
    def _request(entry: Entry) -> str:
        keeps = entry.new.order.conditions.keeps_payload or not entry.state.is_terminal
        return entry.request.model_dump_json() if keeps else redacted(entry.request)

    def _record(self, entry: Entry) -> Content:
        request, conditions = entry.request, entry.new.order.conditions
        record: Content = fields_of(entry.new) | {
            "bytes": entry.bytes,
            "queue": entry.queue,
            "cost": entry.cost,
            "batch_key": request.batch_key,
            "images": request.images,
            "request": self._request(entry),
            "state": entry.state.value,
            "sequence": entry.sequence,
            "attempt": entry.attempt,
            "fence": entry.fence,
            "step": entry.step,
            "vstart": entry.vstart,
            "created_us": entry.created,
        }
        record.pop("redacted_request", None)
        if not conditions.keeps_payload and not entry.state.is_terminal:
            record["redacted_request"] = redacted(request)
        optional = {
            "render_alone": int(entry.render_alone),
            "start_deadline_us": entry.start_deadline,
            "stop_code": entry.stop_code,
            "code": entry.code,
            "direct_key": entry.direct,
            "held_by": entry.held_by if entry.index in ("preparing", "preparing_again") else "",
        }
        return record | {name: value for name, value in optional.items() if value} | entry.later
