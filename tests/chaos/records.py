"""The records of callers, receivers and the fault injector. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.chaos.requests import Ask

#: A job that the farm accepted, and later said that it does not know.
UNKNOWN = "unknown"
#: The state of a job whose id a caller was told, and nothing more.
UNTOLD = "untold"
ENDS = ("completed", "failed")


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A caller got the id of its request's job."""

    ask: int
    job: str
    at: float


@dataclass(frozen=True, slots=True)
class Sight:
    """A state in which a caller saw a job. `images` are the names of its images, if known."""

    job: str
    at: float
    state: str
    code: str = ""
    images: tuple[str, ...] = ()
    #: When it was last started; 0: not told, or not yet.
    started: float = 0.0


@dataclass(frozen=True, slots=True)
class Given:
    """A direct call was answered with its job's images."""

    ask: int
    job: str


@dataclass(frozen=True, slots=True)
class CallAgain:
    """A caller hung up on a direct call and made an equal one: when each began and ended, and how often it was sent."""

    ask: int
    began: float
    hung_up: float
    again: float
    answered: float
    sent: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """A download of a completed job's image: the last answer, and whether it was the right image."""

    job: str
    number: int
    at: float
    status: int
    right: bool


@dataclass(frozen=True, slots=True)
class Cancel:
    """The answer to a cancel: `cancelled`, `stopping`, `accepted` (all that fal says) or `ended`."""

    job: str
    at: float
    outcome: str


@dataclass(frozen=True, slots=True)
class Deletion:
    """A caller was answered that its job is deleted."""

    job: str
    at: float


@dataclass(frozen=True, slots=True)
class ReceivedWebhook:
    """A webhook that reached a receiver: the address, the content, and the receiver's answer."""

    caller: str
    ask: int
    at: float
    answered: int
    job: str
    event: str
    state: str
    event_id: str
    genuine: bool
    images: tuple[str, ...] = ()

    @property
    def is_terminal(self) -> bool:
        return self.state in ENDS


@dataclass(frozen=True, slots=True)
class Overheard:
    """A caller's event stream said that a job is in this state."""

    caller: str
    job: str
    state: str


@dataclass(frozen=True, slots=True)
class Oddity:
    """An answer that no caller should get, by the name of the rule that it breaks."""

    rule: str
    subject: str
    what: str


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault that was injected, and the jobs that the broken process held."""

    kind: str
    at: float
    jobs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """The record of a job, as the API shows it at the end of the run."""

    job: str
    caller: str
    prompt: str
    state: str
    code: str
    images: tuple[str, ...]
    started: float
    created: float = 0.0
    ended: float = 0.0


@dataclass(slots=True)
class Observations:
    """All records of a run. Lists are only appended to, so many threads may write."""

    asks: dict[int, Ask] = field(default_factory=dict)
    accepted: list[Acceptance] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    given: list[Given] = field(default_factory=list)
    calls_again: list[CallAgain] = field(default_factory=list)
    fetches: list[Fetch] = field(default_factory=list)
    cancels: list[Cancel] = field(default_factory=list)
    #: Jobs for which a cancel was sent, whether or not it was answered.
    cancelling: set[str] = field(default_factory=set)
    deletions: list[Deletion] = field(default_factory=list)
    webhooks: list[ReceivedWebhook] = field(default_factory=list)
    overheard: list[Overheard] = field(default_factory=list)
    oddities: list[Oddity] = field(default_factory=list)
    injections: list[Injection] = field(default_factory=list)
    #: When all is over: what the API says of each job, what lies in storage after the sweep and how much of it the
    #: sweep removed, and what is left in the working sets of the job store.
    records: dict[str, Record] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    swept: int = 0
    sweep_log: str = ""
    left_behind: Mapping[str, int] = field(default_factory=dict)
    #: How often processes left that were not killed, by kind and exit status.
    exits: Mapping[tuple[str, int], int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def jobs(self) -> dict[str, Ask]:
        """Every job that any caller knows of, and its request."""
        return {one.job: self.asks[one.ask] for one in self.accepted}
