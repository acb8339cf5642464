"""The job: its record, its states, and the table of state transitions. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from farm.domain.request import Request
from farm.domain.scheduling import QueuePriority


class State(StrEnum):
    """The state of a job. Cancelled, expired and rejected jobs are `failed`, and `code` says so."""

    #: Queued: accepted, or returned to the queue by a worker or its lapsed lease.
    CREATED = "created"
    #: Claimed by a worker under a lease.
    PROCESSING = "processing"
    #: Rendered: its images can be read.
    COMPLETED = "completed"
    #: Ended without images; `code` says how (`farm.domain.error_codes`).
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        return self in (State.COMPLETED, State.FAILED)


#: The only table of transitions: state → the states it may be reached from. The job store's scripts receive it and
#: refuse any other. `created` → `completed` is the late winner: a worker whose lease lapsed may still complete a job
#: that no other worker has claimed since.
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
    """A webhook: its URL, and the states that trigger it."""

    url: str
    events: frozenset[State] = TERMINAL

    @property
    def receiver(self) -> str:
        """Scheme, host and port of the receiver: a slow one delays its own deliveries only."""
        parts = urlsplit(self.url.lower())
        host = (parts.hostname or "").rstrip(".")
        host = f"[{host}]" if ":" in host else host
        is_usual = parts.port in (None, {"http": 80, "https": 443}.get(parts.scheme))
        return f"{parts.scheme}://{host}" if is_usual else f"{parts.scheme}://{host}:{parts.port}"


@dataclass(frozen=True, slots=True)
class Source:
    """An input image, named by `field` of the request: a URL (http, https or data), or its bytes."""

    field: str
    url: str = ""
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditions that a caller sets for the job itself."""

    #: Seconds within which it must start, or it fails with `start_timeout`. 0: no limit.
    start_within: float = 0.0
    #: Seconds for which result and record are kept after the end. 0, or more than the farm's own limit: that limit.
    keep_seconds: float = 0.0
    #: False: the first failure is final.
    may_retry: bool = True
    #: False: prompt and inputs are removed from the record at the end, and the image files do not contain the prompt.
    keeps_payload: bool = True
    #: Affinity: the caller's jobs of one hint go to the worker that claimed the last one, if it is idle. Empty: none.
    runner_hint: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """A submit as its dialect parsed it: the request, and what belongs to the job rather than to its images."""

    endpoint: str  # the id by which the caller named the model
    request: Request
    priority: QueuePriority = "normal"
    #: The dialect of the submit and of its webhooks (`farm.dialects.registry`).
    dialect: str = "native"
    webhook: Webhook | None = None
    #: Responses contain the images' bytes instead of their URLs; the images are kept for an hour.
    inline: bool = False
    #: The input images; the service stores them and names them in the request's own `sources`.
    sources: tuple[Source, ...] = ()
    conditions: Conditions = Conditions()
    idempotency_key: str = ""
    #: Digest of query and body: the same Idempotency-Key with another digest is refused.
    body_digest: str = ""
    #: Unique name of the blocking call that waits for the result; empty: none does. If it ends without the result, an
    #: equal call of the same caller, without an Idempotency-Key, takes over its job.
    call: str = ""

    def with_notes(self, notes: tuple[str, ...]) -> Order:
        """Return the order with further warnings in its result."""
        request = self.request
        return replace(self, request=request.model_copy(update={"notes": (*request.notes, *notes)})) if notes else self


@dataclass(frozen=True, slots=True)
class BulkLine:
    """Line of a bulk that a job stands for: it is kept as long as that one, and its result is in its output file."""

    bulk: str
    #: Microseconds since the epoch by Redis's clock.
    kept_until_us: int
    #: The form of the images in the output file.
    result_format: str


@dataclass(frozen=True, slots=True)
class Origin:
    """The call that submitted a job, by which people find it in logs and traces. Empty: unknown."""

    #: The id that the call brought along, or was given.
    request_id: str = ""
    #: The id of its API key.
    key_id: str = ""
    #: Its trace context (W3C).
    traceparent: str = ""


UNKNOWN_ORIGIN = Origin()


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job on a worker, until it ended (0: it goes on), and why: `completed`, a code, or what took it back.

    `step` is how many denoising steps it came to. Times are as in `Job`.
    """

    worker: str
    #: The machine of the worker; empty: unknown.
    host: str
    started_us: int
    ended_us: int
    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class NewJob:
    """An order that the job store has not yet accepted."""

    id: str
    caller: str
    order: Order
    #: The failed job that it retries; empty: none.
    retry_of: str = ""
    #: The base of this farm's URLs as its caller reached it; empty: unknown.
    base: str = ""
    line: BulkLine | None = None
    origin: Origin = UNKNOWN_ORIGIN

    def in_trace(self, traceparent: str) -> NewJob:
        """Return the job with another trace context."""
        return replace(self, origin=replace(self.origin, traceparent=traceparent))


@dataclass(frozen=True, slots=True)
class Image:
    """A stored image of a job. `key` is its name in storage."""

    key: str
    width: int
    height: int
    content_type: str
    bytes: int


#: Key in a result's timings: the denoising steps at which the transformer ran, of all images together.
FULL_STEPS = "full_steps"


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a completed job. `timings` are measured seconds by stage; under `FULL_STEPS`, a number of steps."""

    images: tuple[Image, ...]
    flagged: tuple[bool, ...]
    timings: dict[str, float]
    warnings: tuple[str, ...]
    build: str


@dataclass(frozen=True, slots=True)
class Job:
    """The job's record. Times are microseconds since the epoch by Redis's clock; 0: not yet."""

    id: str
    state: State
    caller: str
    endpoint: str
    request: Request
    priority: QueuePriority = "normal"
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
    #: The base of this farm's URLs as its caller reached it, for webhooks; empty: unknown.
    base: str = ""
    #: The failed job that this one retries, and the job that retries this one; empty: none.
    retry_of: str = ""
    retried_as: str = ""
    #: The form of the images in the output file, of a line of a bulk.
    result_format: str = ""
    origin: Origin = field(default=UNKNOWN_ORIGIN, compare=False)

    def in_trace(self, traceparent: str) -> Job:
        """Return the job with another trace context."""
        return replace(self, origin=replace(self.origin, traceparent=traceparent))

    @property
    def steps(self) -> int:
        """Denoising steps of all the job's images together."""
        return self.request.denoising_steps * self.request.images


@dataclass(frozen=True, slots=True)
class Search:
    """A filter for a caller's jobs: creation time (both ends included), state, endpoint and dialect.

    Only jobs of the dialect `wavespeed` can be found by it.
    """

    after_us: int | None = None
    before_us: int | None = None
    state: State | None = None
    endpoint: str | None = None
    dialect: Literal["wavespeed"] | None = None

    @property
    def is_by_time_only(self) -> bool:
        return self.state is None and self.endpoint is None

    def matches(self, state: str | None, endpoint: str | None) -> bool:
        """Return True if a job with this state and endpoint passes the filter; a deleted job has neither."""
        return self.state in (None, state) and self.endpoint in (None, endpoint)


class Moment(NamedTuple):
    """A cursor in the stream of all changes: milliseconds since the epoch by Redis's clock, and a number within."""

    ms: int
    number: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Moment:
        """Return the cursor that `str` wrote as `text`."""
        ms, _, number = text.partition("-")
        return cls(int(ms), int(number))


def as_accepted(job_id: str, caller: str, order: Order, *, at_us: int) -> Job:
    """Return the job as it was accepted at about `at_us`, for when the job store cannot be read afterwards."""
    known = (job_id, State.CREATED, caller, order.endpoint, order.request, order.priority, order.dialect)
    return Job(*known, created_us=at_us)


#: The cursor before the first change.
BEGINNING = Moment(0, 0)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a job's state, as the event feed has it. `sequence` counts the job's changes."""

    moment: Moment
    job: str
    state: State
    sequence: int
    caller: str
    endpoint: str
    code: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that a worker has claimed. Every later write must present the fencing token `fence`."""

    id: str
    fence: int
    attempt: int
    request: Request
    #: Nothing else is rendered, published or claimed by its worker meanwhile: it may have killed a worker.
    must_be_alone: bool = False
    #: False: its image files do not contain the prompt (`Conditions.keeps_payload`).
    keeps_payload: bool = True
    #: Seconds from its acceptance to this start.
    wait_seconds: float = 0.0
    origin: Origin = UNKNOWN_ORIGIN


@dataclass(frozen=True, slots=True)
class Batch:
    """The jobs of one claim: equal in model and token count."""

    jobs: tuple[Claimed, ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.jobs)
