"""The record of one accepted request, its states, and the one table of what may follow what. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import urlsplit

from farm.domain.request import Priority, Request


class State(StrEnum):
    """Where a job stands. Cancelled, expired and rejected jobs are `failed`, and `code` says so."""

    #: Recorded, and waiting for a worker (again, when it was taken back from one).
    CREATED = "created"
    #: Held by a worker under a lease.
    PROCESSING = "processing"
    #: Ended well: its images are readable.
    COMPLETED = "completed"
    #: Ended otherwise; `code` says how (`farm.domain.error_codes`).
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        return self in (State.COMPLETED, State.FAILED)


#: The one table of transitions: state → the states it may be reached from. The job store's scripts are given it and
#: refuse anything else. `created` → `completed` is the late winner: a worker whose lease ran out, but whose job nobody
#: has claimed since, may still finish it.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.CREATED: frozenset({State.PROCESSING}),
    State.PROCESSING: frozenset({State.CREATED}),
    State.COMPLETED: frozenset({State.PROCESSING, State.CREATED}),
    State.FAILED: frozenset({State.PROCESSING, State.CREATED}),
}


#: The states that end a job.
TERMINAL = frozenset(state for state in State if state.is_terminal)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where to call back, and at which states."""

    url: str
    events: frozenset[State] = TERMINAL

    @property
    def receiver(self) -> str:
        """Scheme, host and port: whoever answers there is one receiver, and slows down only its own deliveries."""
        parts = urlsplit(self.url.lower())
        host = (parts.hostname or "").rstrip(".")
        host = f"[{host}]" if ":" in host else host
        is_usual = parts.port in (None, {"http": 80, "https": 443}.get(parts.scheme))
        return f"{parts.scheme}://{host}" if is_usual else f"{parts.scheme}://{host}:{parts.port}"


@dataclass(frozen=True, slots=True)
class Source:
    """An image that a request brings, named by `field`: a URL (a data URI, too), or the bytes themselves."""

    field: str
    url: str = ""
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a caller wants of a job beside its images."""

    #: Seconds within which it must have been started; else it ends as `start_timeout`. 0: no limit.
    start_within: float = 0.0
    #: Seconds for which result and record are kept after the end; 0, or more than the farm keeps them: the farm's own.
    keep_seconds: float = 0.0
    #: A job that may not be tried again ends with its first failure.
    may_retry: bool = True
    #: If not, prompt and inputs are forgotten with the end: they are empty in the record from then on, and no image
    #: tells the prompt.
    keeps_payload: bool = True
    #: The caller's jobs of the same hint go to the worker that took the last one, where that is idle; none if empty.
    runner_hint: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """A request as a dialect understood it, with what belongs to the job rather than to its images."""

    endpoint: str  # the id by which the caller named the model
    request: Request
    priority: Priority = "normal"
    #: In whose words the caller asked, and is answered when the farm calls back (`farm.dialects.registry`).
    dialect: str = "native"
    webhook: Webhook | None = None
    #: Answers carry the images' bytes instead of their URLs; the images are kept for an hour.
    inline: bool = False
    #: Images that the request brings; the service makes them the request's own `sources`.
    sources: tuple[Source, ...] = ()
    conditions: Conditions = Conditions()
    idempotency_key: str = ""
    #: Digest of query and body as they were sent: the same Idempotency-Key with another one is refused.
    body_digest: str = ""
    #: The direct call that waits for the answer, by a name of its own; none if nobody does. When it hangs up, an equal
    #: one of the same caller, without an Idempotency-Key, goes on with its job.
    call: str = ""
    #: The client says that it has sent this call before: it goes on with that one's job, even if that is still held.
    is_resent: bool = False


@dataclass(frozen=True, slots=True)
class NewJob:
    """An order before the job store has accepted it."""

    id: str
    caller: str
    order: Order
    #: The failed job that it repeats, if it repeats one.
    retry_of: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """A stored image of a job. `key` is its name in storage."""

    key: str
    width: int
    height: int
    content_type: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a completed job has to show. `timings` are seconds that were measured, by stage."""

    images: tuple[Image, ...]
    flagged: tuple[bool, ...]
    timings: dict[str, float]
    warnings: tuple[str, ...]
    build: str


@dataclass(frozen=True, slots=True)
class Job:
    """The record as the job store holds it. Times are microseconds since the epoch by Redis's clock, 0 if not yet."""

    id: str
    state: State
    caller: str
    endpoint: str
    request: Request
    priority: Priority = "normal"
    dialect: str = "native"
    webhook: Webhook | None = None
    inline: bool = False
    code: str = ""
    error: str = ""
    attempt: int = 0
    fence: int = 0
    sequence: int = 0
    step: int = 0  # denoising steps done, summed over the job's images
    cancelling: bool = False  # it ends as soon as its worker has stopped
    created_us: int = 0
    started_us: int = 0
    finished_us: int = 0
    result: Result | None = None
    #: The failed job that this one repeats, and the one that repeats this one; empty if there is none.
    retry_of: str = ""
    retried_as: str = ""

    @property
    def steps(self) -> int:
        """Denoising steps of all the job's images together."""
        return self.request.denoising_steps * self.request.images


@dataclass(frozen=True, slots=True)
class Search:
    """Which jobs of a caller are meant: created between two times, both included, in one state, by one endpoint."""

    after_us: int | None = None
    before_us: int | None = None
    state: State | None = None
    endpoint: str | None = None

    @property
    def is_by_time_only(self) -> bool:
        return self.state is None and self.endpoint is None

    def matches(self, state: str | None, endpoint: str | None) -> bool:
        """Whether a job of that time is wanted. A deleted one has neither, and is not."""
        return self.state in (None, state) and self.endpoint in (None, endpoint)


class Moment(NamedTuple):
    """A place in the order of all changes: milliseconds since the epoch by Redis's clock, and a number within each."""

    ms: int
    number: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Moment:
        """What `str` made of one."""
        ms, _, number = text.partition("-")
        return cls(int(ms), int(number))


def as_accepted(job_id: str, caller: str, order: Order, *, at_us: int) -> Job:
    """The job as far as is known where the job store, which accepted it about `at_us`, cannot be asked."""
    known = (job_id, State.CREATED, caller, order.endpoint, order.request, order.priority, order.dialect)
    return Job(*known, created_us=at_us)


#: Before all changes.
BEGINNING = Moment(0, 0)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a job's state, the `sequence`-th, as it is told to observers; the record has the rest."""

    moment: Moment
    job: str
    state: State
    sequence: int
    caller: str
    endpoint: str
    code: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job in a worker's hands: every later write must show `fence`."""

    id: str
    fence: int
    attempt: int
    request: Request
    #: If not, its images do not tell what was asked for either (`Conditions.keeps_payload`).
    keeps_payload: bool = True


@dataclass(frozen=True, slots=True)
class Batch:
    """What one claim took: jobs that agree in model, size and acceleration, at most four images in all."""

    jobs: tuple[Claimed, ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.jobs)
