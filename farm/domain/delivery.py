"""A call to a webhook: what is to be told to whom, and every try. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

#: The event of a delivery that belongs to no job; the others are named for the states.
TEST = "test"


class Outcome(StrEnum):
    """Where a delivery stands, also what a try made of it."""

    #: It is to be tried (again).
    WAITING = "waiting"
    #: The receiver took it.
    DELIVERED = "delivered"
    #: Its schedule is over, or the receiver will not have it.
    FAILED = "failed"
    #: There is nothing to tell any more.
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try: what came back, or why nothing did. `at_us` is when it began, `seconds` how long it took."""

    at_us: int
    seconds: float
    status: int = 0
    error: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery in a courier's hands. `url` only where it belongs to no job; `attempts_made` are those on record."""

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


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is on record. `due_us` is when it is tried next, 0 where it is not."""

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
