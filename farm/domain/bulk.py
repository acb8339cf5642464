"""The bulk: a file of requests that a caller submits as one, and that becomes a job a line. Pure: no I/O, no clock.

OpenAI calls it a batch; in this farm a batch is what a worker renders together.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from farm.domain.limits import USUAL, Limits

#: Where the requests of a bulk would be sent one by one; it is the same for all of them.
Endpoint = Literal["/v1/images/generations", "/v1/images/edits"]
GENERATIONS: Endpoint = "/v1/images/generations"
EDITS: Endpoint = "/v1/images/edits"
#: Why a bulk ends before each of its lines has been a job.
Ending = Literal["expired", "cancelled"]
#: What a file of a bulk is: what its caller sent, the results of its lines, or those that failed.
Purpose = Literal["batch", "batch_output"]


class BulkState(StrEnum):
    """The state of a bulk, in OpenAI's words."""

    #: Its file is being checked.
    VALIDATING = "validating"
    #: Its lines become jobs.
    IN_PROGRESS = "in_progress"
    #: All of its jobs have ended, and its result files are being written.
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    #: Its file cannot be used: `errors` says why. No line became a job.
    FAILED = "failed"
    #: Its completion window is over. Lines that had ended by then have their results.
    EXPIRED = "expired"
    #: Its caller has cancelled it, and its jobs are being stopped.
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL


#: The states that end a bulk.
TERMINAL = frozenset({BulkState.COMPLETED, BulkState.FAILED, BulkState.EXPIRED, BulkState.CANCELLED})

#: The only table of transitions: state → the states that it may be reached from.
TRANSITIONS: Mapping[BulkState, frozenset[BulkState]] = {
    BulkState.IN_PROGRESS: frozenset({BulkState.VALIDATING}),
    BulkState.FINALIZING: frozenset({BulkState.VALIDATING, BulkState.IN_PROGRESS}),
    BulkState.CANCELLING: frozenset({BulkState.VALIDATING, BulkState.IN_PROGRESS}),
    BulkState.COMPLETED: frozenset({BulkState.FINALIZING}),
    BulkState.EXPIRED: frozenset({BulkState.FINALIZING}),
    BulkState.CANCELLED: frozenset({BulkState.CANCELLING}),
    # Later than from `validating` only if its file vanishes from the storage.
    BulkState.FAILED: frozenset(
        {BulkState.VALIDATING, BulkState.IN_PROGRESS, BulkState.FINALIZING, BulkState.CANCELLING}
    ),
}


@dataclass(frozen=True, slots=True)
class LineProblem:
    """One thing that makes the file of a bulk unusable. Lines are counted from 1; None: the whole file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class BulkFile:
    """A file that a caller has uploaded for a bulk, or that holds results. `key` is its name in storage.

    `bytes` is its size as it is downloaded, where images are in it, and `stored_bytes` that in storage. Times are
    microseconds since the epoch by Redis's clock.
    """

    id: str
    caller: str
    name: str
    purpose: Purpose
    bytes: int
    stored_bytes: int
    key: str
    created_us: int = 0
    expires_us: int = 0


@dataclass(frozen=True, slots=True)
class NewBulk:
    """A bulk that its caller has asked for."""

    id: str
    caller: str
    endpoint: Endpoint
    file: BulkFile
    #: The time for its completion, in the caller's words and in seconds.
    window: str
    window_seconds: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: How long its result files are kept. 0: as long as its images.
    output_seconds: int = 0
    webhook: str = ""
    #: The caller's limits, and the base of this farm's URLs as it reached it.
    limits: Limits = USUAL
    base: str = ""
    idempotency_key: str = ""
    body_digest: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of turning a bulk's file into jobs: its read bytes, and the number of the last read line."""

    offset: int = 0
    line: int = 0


#: Before the first line.
BEGINNING = Progress()


@dataclass(frozen=True, slots=True)
class Bulk:
    """The record of a bulk. Times are microseconds since the epoch by Redis's clock; 0: not yet."""

    id: str
    caller: str
    state: BulkState
    endpoint: Endpoint
    file: str
    key: str
    bytes: int
    window: str
    created_us: int
    expires_us: int
    kept_until_us: int
    base: str = ""
    limits: Limits = USUAL
    metadata: Mapping[str, str] = field(default_factory=dict)
    output_seconds: int = 0
    model: str = ""
    #: Number of requests, of those with a result, and of those without.
    total: int = 0
    completed: int = 0
    failed: int = 0
    progress: Progress = BEGINNING
    ending: Ending | None = None
    errors: tuple[LineProblem, ...] = ()
    output_file: str = ""
    error_file: str = ""
    #: State → when it was reached.
    reached_us: Mapping[BulkState, int] = field(default_factory=dict)

    def job_id(self, line: int) -> str:
        """Return the id of the job of a line: always the same one, so that no line becomes two jobs."""
        return str(uuid.uuid5(_namespace(self.id), str(line)))

    def result_file_id(self, kind: Literal["output", "error"]) -> str:
        """Return the id of a result file: always the same one, however often it is written."""
        return f"file-{uuid.uuid5(_namespace(self.id), kind).hex}"


def new_bulk_id() -> str:
    """Return a new id of a bulk."""
    return f"batch_{uuid.uuid4().hex}"


def new_file_id() -> str:
    """Return a new id of a file that a caller uploads."""
    return f"file-{uuid.uuid4().hex}"


def event_id(bulk_id: str) -> str:
    """Return the id, a UUID, of the webhook event about the end of a bulk."""
    return str(_namespace(bulk_id))


def _namespace(bulk_id: str) -> uuid.UUID:
    return uuid.UUID(hex=bulk_id.removeprefix("batch_"))
