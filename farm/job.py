"""The record of one accepted request, its states, and the one table of what may follow what. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from farm.request import Priority, Request


class State(StrEnum):
    """Where a job stands. Cancelled, expired and rejected jobs are `failed`, with a code that says so."""

    #: Recorded, and waiting for a worker (again, when it was taken back from one).
    CREATED = "created"
    #: Held by a worker under a lease.
    PROCESSING = "processing"
    #: Ended well: its pictures are readable.
    COMPLETED = "completed"
    #: Ended otherwise; `code` says how.
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


class Code(StrEnum):
    """Why a job ended `failed`, for programs. Errors of the farm's own add theirs (`farm.errors`)."""

    CANCELLED = "cancelled"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"


@dataclass(frozen=True, slots=True)
class Image:
    """A stored picture of a job. `key` is its name in storage."""

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
    endpoint: str  # the id by which the caller named the model
    request: Request
    priority: Priority = "normal"
    code: str = ""
    error: str = ""
    attempt: int = 0
    fence: int = 0
    sequence: int = 0
    step: int = 0  # denoising steps done, summed over the job's images
    cancelling: bool = False
    created_us: int = 0
    started_us: int = 0
    finished_us: int = 0
    result: Result | None = None

    @property
    def steps(self) -> int:
        """Denoising steps of all the job's images together."""
        return self.request.steps * self.request.images


@dataclass(frozen=True, slots=True)
class NewJob:
    """What is known of a job before the job store has accepted it."""

    id: str
    caller: str
    endpoint: str
    request: Request
    priority: Priority = "normal"
    idempotency_key: str = ""
    #: Digest of the body as it was sent: the same Idempotency-Key with another one is refused.
    body_digest: str = ""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job in a worker's hands: every later write must show `fence`."""

    id: str
    fence: int
    attempt: int
    request: Request


@dataclass(frozen=True, slots=True)
class Batch:
    """What one claim took: jobs that agree in model, size and acceleration, at most four images in all."""

    jobs: tuple[Claimed, ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.jobs)


#: Most images that one claim takes.
BATCH_IMAGES = 4
