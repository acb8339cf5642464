"""Webhook deliveries: their states and their attempts. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

#: The event with which a caller tests a receiver. Those about a bulk are `batch.` and its state, those about a job its
#: state alone.
TEST = "test"
_ABOUT_A_BULK = "batch."
#: A webhook about the end of a job is late when it has not arrived so many seconds after that.
LATE_SECONDS = 60.0


def is_about_a_bulk(event: str) -> bool:
    """Return True for an event about the end of a bulk."""
    return event.startswith(_ABOUT_A_BULK)


class Outcome(StrEnum):
    """The state of a delivery, and what an attempt made of it."""

    #: The next attempt is due now or later.
    WAITING = "waiting"
    #: The receiver accepted it.
    DELIVERED = "delivered"
    #: The retry schedule is over, or the receiver refused it for good.
    FAILED = "failed"
    #: The state that it tells of has passed.
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: the response, or the error. `at_us` is when it began, `seconds` how long it took."""

    at_us: int
    seconds: float
    status: int = 0
    error: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that a courier has claimed. `url` is set only without a job; `attempts_made`: attempts so far.

    `job` is the id of what the event is about: a job or a bulk.
    """

    id: str
    job: str
    caller: str
    receiver: str
    url: str
    event: str
    sequence: int
    fence: int
    attempts_made: int
    is_manual: bool
    created_us: int
    #: When it was claimed, by Redis's clock.
    claimed_us: int
    #: Whether others were due when it was claimed.
    others_due: bool = True


@dataclass(frozen=True, slots=True)
class Delivery:
    """The record of a delivery. `due_us` is the time of the next attempt; 0: there is none.

    `job` is the id of what the event is about: a job or a bulk.
    """

    id: str
    job: str
    caller: str
    receiver: str
    event: str
    sequence: int
    state: Outcome
    created_us: int
    due_us: int
    attempts: tuple[Attempt, ...]
