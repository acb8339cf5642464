"""The scheduling policy: what jobs cost, and which of those that wait a worker is given. Pure: no I/O, no clock.

1. Priorities are served in their order. So that none starves, `low` comes first in one claim of 8, and `bulk` in one of
   64. A bulk that is late for its completion window is served as `normal`.
2. Within a priority, callers share the workers by the work they ask for (start-time fair queueing): a job has a virtual
   start time, the end of its caller's job before it. A worker of several models also keeps virtual time of its own, in
   seconds: the cost of a job times the measured pace of its model. Jobs that come back from a worker go before all
   others.
3. The first job is never held back to make a batch full. Jobs of its batch key fill what it leaves free, those of its
   own priority before others, and no more than this worker's share while others are idle.
4. A worker claims only jobs of models that it has warm. A job with an affinity is reserved for a moment for the worker
   that took the last one, if that is idle.
5. A worker that renders leaves jobs to idle workers, and takes only the job that is first: nothing overtakes it.

The job store's scripts follow this policy in Redis, with the numbers of `parameters()`; `farm simulate` runs
`Scheduler`.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Literal, NamedTuple, get_args

from farm.domain.catalogue import BATCH_IMAGES, TOKEN_SIDE

#: The priorities of queues, first to last. `bulk` is for the lines of bulk files.
QueuePriority = Literal["normal", "low", "bulk"]
PRIORITIES: tuple[QueuePriority, ...] = get_args(QueuePriority)
#: Every so many claims the priorities are served in another order; the first that divides the claim's number counts.
ORDERS: Mapping[int, tuple[QueuePriority, ...]] = {64: ("bulk", "low", "normal"), 8: ("low", "normal", "bulk")}

#: The orders of as many turns as come before they repeat.
_ORDER_OF_TURN = tuple(
    next((order for every, order in ORDERS.items() if turn % every == 0), PRIORITIES) for turn in range(max(ORDERS))
)

#: So many jobs of a queue are passed over at most because they are reserved for other workers.
MAX_PASSED_OVER = 16
#: So many jobs of a batch key and priority are looked at to fill a batch.
MAX_CANDIDATES = 16
#: For so long a job is reserved for the worker that its affinity prefers, and that worker is remembered.
RESERVED_SECONDS = 1
AFFINITY_SECONDS = 600
#: By how much sooner than all virtual start times jobs come that return, in seconds.
FRONT_SECONDS = 4e9

#: Tokens that a step computes beside those of the image: the prompt's, and those of an input that Kontext reads.
TEXT_TOKENS = 512
INPUT_TOKENS = 4096
_TOKENS_OF_A_MEGAPIXEL = 1e6 / TOKEN_SIDE**2 + TEXT_TOKENS
#: The weight of what was measured before, each time a job is completed.
PACE_DECAY = 0.98
#: Seconds for a cost of 1, until a job of any model was measured.
ASSUMED_PACE = 0.2
#: After this share of its completion window a bulk must keep up with it.
PUNCTUAL_FROM = 0.5


def parameters() -> dict[str, object]:
    """Return the numbers of the policy that the job store's scripts use."""
    return {
        "priorities": PRIORITIES,
        "orders": [[every, order] for every, order in ORDERS.items()],
        "max_passed_over": MAX_PASSED_OVER,
        "max_candidates": MAX_CANDIDATES,
        "reserved_seconds": RESERVED_SECONDS,
        "affinity_seconds": AFFINITY_SECONDS,
        "front_seconds": FRONT_SECONDS,
        "pace_decay": PACE_DECAY,
        "assumed_pace": ASSUMED_PACE,
    }


def cost_of(*, images: int, pixels: int, full_steps: int, inputs: int = 0) -> float:
    """Return the cost of a job: full steps × tokens of all images, in full steps of a megapixel.

    `inputs`: images that each step reads beside the one that it computes.
    """
    tokens = pixels / TOKEN_SIDE**2 + TEXT_TOKENS + inputs * INPUT_TOKENS
    return images * max(1, full_steps) * tokens / _TOKENS_OF_A_MEGAPIXEL


def pace_of(model: str, sums: Mapping[str, float]) -> float:
    """Return the seconds for a cost of 1, as measured: of the model's own jobs, else of all jobs, else as assumed.

    `sums` has `{model}:us` and `{model}:cost` of completed jobs, in which each counts the less the longer ago it was.
    """
    for names in ([model], [name.removesuffix(":us") for name in sums if name.endswith(":us")]):
        cost = sum(sums.get(f"{name}:cost", 0.0) for name in names)
        if cost:
            return sum(sums.get(f"{name}:us", 0.0) for name in names) / 1e6 / cost
    return ASSUMED_PACE


def bulk_priority(*, done: float, passed: float) -> QueuePriority:
    """Return the priority of a bulk's jobs, from the shares of its lines that are done and of its window that passed.

    In the second half of its window a bulk that is behind shares its caller's turns with the caller's single jobs.
    """
    return "normal" if passed >= PUNCTUAL_FROM and done < passed else "bulk"


def priority_order(turn: int) -> tuple[QueuePriority, ...]:
    """Return the order in which the `turn`-th claim looks at the priorities."""
    return _ORDER_OF_TURN[turn % len(_ORDER_OF_TURN)]


def share_of(waiting: int, idle: int) -> int:
    """Return the most jobs of a batch, if so many wait, its first included, and so many other workers are idle."""
    return math.ceil(waiting / (idle + 1))


@dataclass(slots=True, eq=False)
class Waiting:
    """A job that waits. Times are in seconds."""

    id: str | int
    model: str
    priority: QueuePriority
    caller: str
    batch_key: str
    images: int
    cost: float
    created: float = 0.0
    #: Until when it must have been started.
    start_deadline: float = math.inf
    affinity: str = ""
    #: It shares a batch with no other, because it may have killed a worker.
    must_be_alone: bool = False
    vstart: float = 0.0
    reserved_until: float = -math.inf
    #: The name of its queue, and the number of its place there; 0 while it is in none.
    queue: str = ""
    place: int = 0


#: A job in a queue: its virtual start time, then what orders equal ones, then its place when it was put there.
_Entry = tuple[float, "str | int", int, Waiting]


class JobQueue:
    """Jobs by virtual start time. One that was taken elsewhere is left in the heap until it comes up."""

    def __init__(self) -> None:
        self._heap: list[_Entry] = []

    def push(self, job: Waiting, score: float) -> None:
        heapq.heappush(self._heap, (score, job.id, job.place, job))

    def head(self) -> tuple[float, Waiting] | None:
        """Return the first job with its score."""
        heap = self._heap
        while heap:
            score, _, place, job = heap[0]
            if place == job.place:
                return score, job
            heapq.heappop(heap)
        return None

    def first(self, count: int) -> Iterator[tuple[float, Waiting]]:
        """Yield up to `count` jobs, each with its score. Those that still wait afterwards stay in the queue."""
        passed: list[_Entry] = []
        try:
            while len(passed) < count and self._heap:
                entry = heapq.heappop(self._heap)
                if entry[2] == entry[3].place:
                    passed.append(entry)
                    yield entry[0], entry[3]
        finally:
            for entry in passed:
                if entry[2] == entry[3].place:
                    heapq.heappush(self._heap, entry)


@dataclass(slots=True)
class FairClock:
    """The virtual clock of a queue, and for each caller the virtual ends of its accepted and of its claimed jobs."""

    now: float = 0.0
    accepted: dict[str, float] = field(default_factory=dict)
    claimed: dict[str, float] = field(default_factory=dict)

    def next_start(self, caller: str, cost: float) -> float:
        """Return the virtual start time of a caller's next job."""
        start = self.accepted.get(caller, 0.0)
        if start < self.now:
            start = self.now
        self.accepted[caller] = start + cost
        return start

    def refund(self, caller: str) -> None:
        """Have a caller without waiting jobs go on at the end of its claimed ones: it pays for what it got."""
        self.accepted[caller] = self.claimed.get(caller, 0.0)


@dataclass(slots=True)
class _Worker:
    """The virtual clock of a worker, and for each caller the virtual time up to which it has worked for it: seconds."""

    now: float = 0.0
    served: dict[str, float] = field(default_factory=dict)

    def served_until(self, caller: str) -> float:
        served = self.served.get(caller, 0.0)
        return served if served > self.now else self.now


@dataclass(frozen=True, slots=True)
class HeldJob:
    """A job that a worker holds, and the denoising steps done of all its images together."""

    id: str
    fence: int
    step: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """The capacity of a worker: up to so many images, beside the jobs that it holds."""

    images: int = BATCH_IMAGES
    #: The batch key of what it renders, which the next job must have; empty: any.
    batch_key: str = ""
    held: Sequence[HeldJob] = ()
    #: True while it renders: it leaves jobs to idle workers, and is not idle itself if it is given none.
    claims_ahead: bool = False


#: The capacity of a worker that holds nothing.
WHOLE_BATCH = Capacity()


class Choice(NamedTuple):
    """The jobs that a worker is given. `is_deferred`: the first job is not for this worker now."""

    jobs: Sequence[Waiting] = ()
    is_deferred: bool = False


NOTHING = Choice()
DEFERRED = Choice(is_deferred=True)


class _Head(NamedTuple):
    """The first job of a claim, its score in its queue, and until when the worker has worked for its caller."""

    job: Waiting
    score: float
    served: float

    @property
    def order(self) -> tuple[float, float]:
        return self.served, self.job.created


class Scheduler:
    """The waiting jobs of a farm, and the policy's choice for each claim. All workers are alive and warm."""

    def __init__(self, *, fills_batches: bool = True, measured: Mapping[str, float] | None = None) -> None:
        """`fills_batches`: False if no worker can take more images than those of the first job.

        `measured` are sums as `pace_of` takes them.
        """
        self._fills_batches = fills_batches
        self._pace = cache(partial(pace_of, sums=measured or {}))
        self._queues: defaultdict[str, JobQueue] = defaultdict(JobQueue)
        self._candidates: defaultdict[str, JobQueue] = defaultdict(JobQueue)
        self._clocks: defaultdict[str, FairClock] = defaultdict(FairClock)
        self._workers: defaultdict[str, _Worker] = defaultdict(_Worker)
        self._waiting: Counter[str] = Counter()
        self._waiting_of: Counter[str] = Counter()
        self._affinities: dict[tuple[str, str], tuple[str, float]] = {}
        self._total = 0
        self._claims = 0
        self._places = 0
        #: Model → the workers that were given nothing when they asked.
        self.idle: defaultdict[str, dict[str, None]] = defaultdict(dict)
        #: Jobs that were not started before their deadlines.
        self.late: list[Waiting] = []

    def waiting(self, model: str) -> int:
        """Return how many jobs of a model wait."""
        return self._waiting[model]

    def submit(self, job: Waiting, now: float) -> None:
        """Add a job to its queue."""
        job.queue = f"{job.model}:{job.priority}"
        job.vstart = self._clocks[job.queue].next_start(job.caller, job.cost)
        if job.affinity:
            job.reserved_until = now + RESERVED_SECONDS
        self._enqueue(job, job.vstart)

    def give_back(self, job: Waiting, now: float) -> None:
        """Add a job that was claimed before all others."""
        self._enqueue(job, now - FRONT_SECONDS)

    def remove(self, job: Waiting) -> None:
        """Remove a job that waits, because it was cancelled or is late."""
        self._dequeue(job)
        if not self._waiting_of[job.caller]:
            self._clocks[job.queue].refund(job.caller)

    def claim(self, name: str, models: Sequence[str], capacity: Capacity, now: float) -> Choice:
        """Return the jobs that a worker of these models is given; they wait no longer."""
        self._claims += 1
        worker = self._workers[name]
        head = self._head(name, worker, models, now) if self._total else None
        if head is None:
            if not capacity.claims_ahead:
                self._set_idle(name, models, is_idle=True)
            return NOTHING
        is_deferred = self._is_deferred(head.job, name, capacity)
        if not is_deferred or not capacity.claims_ahead:
            self._set_idle(name, models, is_idle=False)
        if is_deferred:
            self._claims -= 1
            return DEFERRED
        return Choice(self._batch(head, name, worker, capacity, now))

    def _enqueue(self, job: Waiting, score: float) -> None:
        self._places += 1
        job.place = self._places
        self._queues[job.queue].push(job, score)
        if self._fills_batches and not job.must_be_alone:
            self._candidates[f"{job.batch_key}:{job.priority}"].push(job, score)
        self._total += 1
        self._waiting[job.model] += 1
        self._waiting_of[job.caller] += 1

    def _dequeue(self, job: Waiting) -> None:
        job.place = 0
        self._total -= 1
        self._waiting[job.model] -= 1
        self._waiting_of[job.caller] -= 1

    def _head(self, name: str, worker: _Worker, models: Sequence[str], now: float) -> _Head | None:
        """Return one that came back, else that of the caller whom this worker served least, else the oldest."""
        for priority in priority_order(self._claims):
            best: _Head | None = None
            for model in models:
                head = self._first(f"{model}:{priority}", name, worker, now)
                if head and (best is None or head.order < best.order):
                    best = head
            if best:
                return best
        return None

    def _first(self, queue: str, name: str, worker: _Worker, now: float) -> _Head | None:
        head = self._queues[queue].head()
        if head is None:
            return None
        score, job = head
        if job.affinity or job.start_deadline <= now:
            return self._first_allowed(queue, name, worker, now)
        return _Head(job, score, -1 if score < 0 else worker.served_until(job.caller))

    def _first_allowed(self, queue: str, name: str, worker: _Worker, now: float) -> _Head | None:
        """Return the first job of a queue that is neither late nor reserved for another worker."""
        passed_over = 0
        for score, job in self._queues[queue].first(100):
            if job.start_deadline <= now:
                self.remove(job)
                self.late.append(job)
            elif passed_over < MAX_PASSED_OVER and self._is_reserved(job, name, now):
                passed_over += 1
            else:
                return _Head(job, score, -1 if score < 0 else worker.served_until(job.caller))
        return None

    def _is_reserved(self, job: Waiting, name: str, now: float) -> bool:
        if not job.affinity or job.reserved_until <= now:
            return False
        preferred, until = self._affinities.get((job.caller, job.affinity), (name, now))
        return preferred != name and until > now and preferred in self.idle[job.model]

    def _is_deferred(self, job: Waiting, name: str, capacity: Capacity) -> bool:
        if (job.must_be_alone and capacity.held) or capacity.batch_key not in ("", job.batch_key):
            return True
        if not capacity.claims_ahead:
            return False
        idle = self.idle[job.model]
        return self._waiting[job.model] <= len(idle) - (name in idle)

    def _set_idle(self, name: str, models: Collection[str], *, is_idle: bool) -> None:
        for model in models:
            if is_idle:
                self.idle[model][name] = None
            else:
                self.idle[model].pop(name, None)

    def _batch(self, head: _Head, name: str, worker: _Worker, capacity: Capacity, now: float) -> list[Waiting]:
        clock = self._clocks[head.job.queue]
        clock.now = max(clock.now, head.score)
        worker.now = max(worker.now, head.served)
        job, batch = head.job, [head.job]
        free = 0 if job.must_be_alone else capacity.images - job.images
        limit = share_of(self._waiting[job.model], len(self.idle[job.model])) if free > 0 else 1
        self._start(job, name, worker, now)
        if limit > 1:
            self._fill(batch, free, limit, name, worker, now)
        return batch

    def _fill(self, batch: list[Waiting], free: int, limit: int, name: str, worker: _Worker, now: float) -> None:
        own = batch[0].priority
        for priority in (own, *(other for other in PRIORITIES if other != own)):
            if free <= 0 or len(batch) >= limit:
                return
            for _, job in self._candidates[f"{batch[0].batch_key}:{priority}"].first(MAX_CANDIDATES):
                if job.images <= free and job.start_deadline > now and not self._is_reserved(job, name, now):
                    free -= job.images
                    batch.append(job)
                    self._start(job, name, worker, now)
                    if free <= 0 or len(batch) >= limit:
                        return

    def _start(self, job: Waiting, name: str, worker: _Worker, now: float) -> None:
        self._dequeue(job)
        self._clocks[job.queue].claimed[job.caller] = job.vstart + job.cost
        worker.served[job.caller] = worker.served_until(job.caller) + job.cost * self._pace(job.model)
        if job.affinity:
            self._affinities[job.caller, job.affinity] = (name, now + AFFINITY_SECONDS)
