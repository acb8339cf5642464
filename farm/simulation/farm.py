"""The simulated farm: discrete events instead of Redis, processes and cards; the policy is the farm's own."""

from __future__ import annotations

import heapq
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from farm.domain.scheduling import ASSUMED_PACE, Capacity, Scheduler, Waiting
from farm.simulation.trace import Arrival, Shape

#: By how much rounding may keep an image from its last step, in steps.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Cards:
    """The workers of a farm, each with a card of its own. All of them serve every model of the trace."""

    count: int
    #: Seconds for a cost of 1: a full step of a megapixel.
    pace: float = ASSUMED_PACE
    #: Images that share a forward; 1: a worker renders one after another, as with FARM_FORWARD=exact.
    together: int = 1
    #: How many times as many images a second a full flight makes as single images.
    gain: float = 1.0
    #: Seconds of a step, whatever is in flight: the simulated pipeline's. None: by the cost.
    step_seconds: float | None = None
    #: So many seconds before images leave the flight a worker claims what takes their place. A farm's workers do so a
    #: second before, which takes longer to simulate, and matters where images take little more.
    ahead_seconds: float = 0.0
    #: Seconds from a claim to the first step, and from the last step to the stored image, beside the card's work.
    start_seconds: float = 0.01
    end_seconds: float = 0.05

    @property
    def speed(self) -> float:
        """The cost that all of them render in a second."""
        return self.count * self.gain / self.pace


@dataclass(slots=True)
class Times:
    """Seconds of each job: from its submit to its first step, and to its end."""

    to_start: array[float] = field(default_factory=lambda: array("d"))
    to_end: array[float] = field(default_factory=lambda: array("d"))


@dataclass(slots=True)
class Outcome:
    """The findings of a simulation. `times` are by priority."""

    times: defaultdict[str, Times] = field(default_factory=lambda: defaultdict(Times))
    images: int = 0
    #: Images of a claim → number of claims.
    batches: Counter[int] = field(default_factory=Counter)
    busy_seconds: float = 0.0
    #: When the last job had ended.
    end: float = 0.0

    @property
    def jobs(self) -> int:
        return sum(len(times.to_end) for times in self.times.values())


@dataclass(slots=True, eq=False)
class _Run:
    """A job on a worker, and how many of its images have not ended."""

    job: Waiting
    shape: Shape
    images_left: int
    has_started: bool = False


@dataclass(slots=True, eq=False)
class _Member:
    """Images that are rendered one after another: one, or all of a job. `steps_left` counts the full steps of all."""

    run: _Run
    images: int
    steps_left: float


@dataclass(slots=True, eq=False)
class _Worker:
    name: str
    flight: list[_Member] = field(default_factory=list)
    #: Claimed images that have not joined the flight.
    pending: deque[_Member] = field(default_factory=deque)
    #: When `steps_left` was brought up to date, and how long a step takes since.
    updated: float = 0.0
    step_seconds: float = 1.0
    #: The number of the flight's last change: an event of an earlier one is void.
    version: int = 0
    #: The batch key for which its flight has a place.
    open_for: str = ""


class SimulatedFarm:
    """Workers that claim by the policy, and take the predicted time."""

    def __init__(self, cards: Cards) -> None:
        self._cards = cards
        #: The models of the jobs so far: workers need not ask for others.
        self._models: list[str] = []
        self._shares = cards.together > 1
        #: What a worker claims that renders nothing; and True if those that render something claim, too.
        self._whole = Capacity(cards.together)
        self._claims_ahead = self._shares or cards.ahead_seconds > 0
        self._policy = Scheduler(fills_batches=self._shares)
        self._workers = {name: _Worker(name) for name in map(str, range(cards.count))}
        self._shapes: dict[str | int, Shape] = {}
        self._events: list[tuple[float, int, _Worker, int]] = []
        self._numbers = 0
        #: Batch key → busy workers whose flight has a place for it.
        self._open: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._outcome = Outcome()

    def run(self, arrivals: Iterable[Arrival]) -> Outcome:
        """Return what becomes of jobs that arrive in this order, once all have ended."""
        events = self._events
        for arrival in arrivals:
            while events and events[0][0] <= arrival.at:
                self._next_event()
            self._arrive(arrival)
        while events:
            self._next_event()
        return self._outcome

    def _arrive(self, arrival: Arrival) -> None:
        self._numbers += 1
        shape, now = arrival.shape, arrival.at
        job = Waiting(
            self._numbers,
            shape.model,
            arrival.priority,
            arrival.caller,
            shape.batch_key,
            shape.images,
            shape.cost,
            now,
        )
        self._shapes[job.id] = shape
        if job.model not in self._models:
            self._add_model(job.model, now)
        self._policy.submit(job, now)
        name = next(iter(self._policy.idle[job.model]), None) or next(iter(self._open[job.batch_key]), None)
        if name:
            self._work(self._workers[name], now)

    def _add_model(self, model: str, now: float) -> None:
        """Have the workers serve a model: those that render nothing are idle for it, too."""
        self._models.append(model)
        for worker in self._workers.values():
            if not worker.flight:
                self._work(worker, now)

    def _next_event(self) -> None:
        now, _, worker, version = heapq.heappop(self._events)
        if version == worker.version:
            self._work(worker, now)

    def _work(self, worker: _Worker, now: float) -> None:
        """Advance what is in flight, end what is denoised, and claim and start what there is a place for."""
        self._advance(worker, now)
        if worker.pending:
            self._start_pending(worker, now)
        while not worker.pending and self._claim(worker, now):
            self._start_pending(worker, now)
        self._schedule(worker, now)

    def _advance(self, worker: _Worker, now: float) -> None:
        flight = worker.flight
        if flight:
            passed = now - worker.updated
            self._outcome.busy_seconds += passed
            steps = passed / worker.step_seconds
            worker.flight = []
            for member in flight:
                member.steps_left -= steps
                if member.steps_left <= _ROUNDING:
                    self._end(member, now)
                else:
                    worker.flight.append(member)
        worker.updated = now

    def _end(self, member: _Member, now: float) -> None:
        run, outcome = member.run, self._outcome
        run.images_left -= member.images
        if not run.images_left:
            outcome.images += run.job.images
            outcome.end = now + self._cards.end_seconds
            outcome.times[run.job.priority].to_end.append(outcome.end - run.job.created)

    def _free(self, worker: _Worker) -> int:
        return self._cards.together - len(worker.flight)

    def _claim(self, worker: _Worker, now: float) -> bool:
        """Claim jobs for the free places, and return True if there were any."""
        capacity = self._capacity(worker) if worker.flight else self._whole
        jobs = self._policy.claim(worker.name, self._models, capacity, now).jobs if capacity else ()
        if not jobs:
            return False
        images = 0
        for job in jobs:
            images += job.images
            worker.pending.extend(self._members(_Run(job, self._shapes.pop(job.id), job.images)))
        self._outcome.batches[images] += 1
        return True

    def _capacity(self, worker: _Worker) -> Capacity | None:
        """Return what a worker claims that renders: for the free places, and those that will soon be free."""
        if not self._claims_ahead:
            return None
        flight, ahead = worker.flight, self._cards.ahead_seconds + _ROUNDING
        soon = sum(member.steps_left * worker.step_seconds <= ahead for member in flight)
        images = self._free(worker) + soon
        key = "" if soon == len(flight) else flight[0].run.job.batch_key
        return Capacity(images, key, (), claims_ahead=True) if images else None

    def _members(self, run: _Run) -> list[_Member]:
        steps, images = run.shape.steps, run.job.images
        if not self._shares:
            return [_Member(run, images, images * steps)]
        return [_Member(run, 1, steps) for _ in range(images)]

    def _start_pending(self, worker: _Worker, now: float) -> None:
        pending, flight, together = worker.pending, worker.flight, self._cards.together
        while pending and len(flight) < together:
            run = pending[0].run
            if flight and flight[0].run.job.batch_key != run.job.batch_key:
                return
            flight.append(pending.popleft())
            if not run.has_started:
                run.has_started = True
                waited = now + self._cards.start_seconds - run.job.created
                self._outcome.times[run.job.priority].to_start.append(waited)

    def _schedule(self, worker: _Worker, now: float) -> None:
        """Note when the next image leaves the flight."""
        worker.version += 1
        flight = worker.flight
        if flight:
            worker.step_seconds = self._step_seconds(flight[0].run.shape, len(flight))
            steps = flight[0].steps_left
            for member in flight[1:]:
                steps = min(steps, member.steps_left)
            left, ahead = steps * worker.step_seconds, self._cards.ahead_seconds
            if ahead and not worker.pending and left - ahead > _ROUNDING:
                left -= ahead
            self._numbers += 1
            heapq.heappush(self._events, (now + left, self._numbers, worker, worker.version))
        if self._shares:
            self._note_place(worker)

    def _note_place(self, worker: _Worker) -> None:
        """Note whether a job of the flight's batch key could join it."""
        flight = worker.flight
        is_open = flight and not worker.pending and self._free(worker) > 0
        open_for = flight[0].run.job.batch_key if is_open else ""
        if open_for != worker.open_for:
            self._open[worker.open_for].pop(worker.name, None)
            worker.open_for = open_for
            if open_for:
                self._open[open_for][worker.name] = None

    def _step_seconds(self, shape: Shape, images: int) -> float:
        cards = self._cards
        if cards.step_seconds is not None:
            return cards.step_seconds
        gain = 1 + (cards.gain - 1) * (images - 1) / max(1, cards.together - 1)
        return images * shape.step_cost * cards.pace / gain
