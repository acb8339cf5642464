"""What is said of a route: its parameters, its body, and every answer it may give. Data; `document` writes it out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, Field, create_model
from typing_extensions import TypedDict

from farm.dialects.answers.native import UnreadableRequest


class ServerSentEvent(TypedDict, closed=True):
    """An event of a stream; `data` is JSON."""

    data: str
    event: NotRequired[str]
    id: NotRequired[str]
    retry: NotRequired[int]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a call, or a header of an answer. `kind` is its type, as pydantic knows types."""

    name: str
    about: str
    kind: Any = str
    where: Literal["query", "header", "path"] = "query"
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What one status means. `kind` is the type of the body; without one, `media_type` alone says what is sent."""

    about: str
    kind: Any = None
    media_type: str = ""
    headers: tuple[Parameter, ...] = ()

    @property
    def media_types(self) -> tuple[str, ...]:
        """Where there is a body, its types; JSON unless it says otherwise."""
        if self.media_type:
            return tuple(self.media_type.split(", "))
        return ("application/json",) if self.kind is not None else ()


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent with a call: its type, and an example; the type of the same as a form. Without a type: bytes."""

    kind: Any = None
    example: Mapping[str, Any] | None = None
    form: Any = None
    media_type: str = "application/json"
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class Operation:
    """A route: what it does, and all that may be sent to it and may come back.

    `path` has braces for what varies; `name` is the operation's own in the whole document.
    """

    method: Literal["get", "post", "put", "delete"]
    path: str
    name: str
    summary: str
    answers: Mapping[int, Answer]
    body: Body | None = None
    parameters: tuple[Parameter, ...] = ()
    #: No key is asked for.
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """Routes that belong together, and what is to be known of them all. Webhooks are calls that the farm makes."""

    name: str
    about: str
    operations: tuple[Operation, ...]
    webhooks: tuple[Operation, ...] = field(default=())


def slug(verb: str, what: str) -> str:
    """The name of an operation: what is done, and to what. It ends in addresses and in generated programs."""
    return f"{verb}_{what.replace('/', '_')}"


RETRY_AFTER = Parameter("Retry-After", "Seconds after which a new try makes sense.", int, "header", is_required=True)
#: What is left of a caller's limits, where it has any.
RATE_LIMITS = (
    Parameter(
        "RateLimit-Policy",
        "Your limits: `submits` a minute and `images` a day, as draft-ietf-httpapi-ratelimit-headers has it.",
        where="header",
    ),
    Parameter("RateLimit", "What is left of them, and in how many seconds all of it is there again.", where="header"),
)
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "The same key and call again are the same job; the same key with another call is refused. "
    "Kept until 24 h after the job's end.",
    where="header",
)

#: Problem details (RFC 9457).
PROBLEM = "application/problem+json"


#: What the server answers in every route's place.
UNREAD: Mapping[int, Answer] = {
    414: Answer("The address is longer than 4,094 bytes.", UnreadableRequest, PROBLEM),
    431: Answer("A header is longer than 8,190 bytes, or there are too many.", UnreadableRequest, PROBLEM),
}

#: What a refusal means, by its status, where a route does not say more.
_REASONS = {
    400: "The call is malformed, or no worker of this farm has the model loaded.",
    401: "No valid key came with the call.",
    403: "The key may not do that; or the farm runs without keys, and the call is not this machine's own.",
    404: "Nothing is here under this name. What belongs to another caller cannot be told from what is not there.",
    408: "The body has stopped coming.",
    409: "The job has not ended yet.",
    413: "The body is too large.",
    422: "Something in the call is wrong; the answer names each field and what is allowed.",
    429: "You are over one of your limits, too much waits, or too many calls are held; come back.",
    503: "The job store or the image storage does not answer, or no worker is ready yet; come back.",
}
#: Those that say when to come back.
_HEADERS = {429: (RETRY_AFTER, *RATE_LIMITS), 503: (RETRY_AFTER,)}
#: What every route may answer, and what every route may answer that asks for a key.
ANYWHERE = (400, 403)
GUARDED = (*ANYWHERE, 401, 503)


def named(fields: type[BaseModel], ids: Iterable[str], name: str = "") -> type[BaseModel]:
    """What a submit takes where the model is told in it, with the ids by which it is named there."""
    told: Any = Literal[tuple(ids)]
    return create_model(name or fields.__name__, __base__=fields, __doc__=fields.__doc__, model=(told, ...))


def any_of(kinds: Iterable[type[BaseModel]]) -> Any:
    """One of these types, as the field `model` says."""
    return Annotated[reduce(or_, kinds), Field(discriminator="model")]


def refusals(kind: Any, *statuses: int, media_type: str = "") -> dict[int, Answer]:
    """Refusals of these statuses, in one shape."""
    return {
        status: Answer(_REASONS[status], kind, media_type, headers=_HEADERS.get(status, ()))
        for status in sorted(set(statuses))
    }


def webhook(name: str, summary: str, kind: Any, headers: Mapping[str, str]) -> Operation:
    """A call that the farm makes: the type of its body, and what its headers say."""
    return Operation(
        "post",
        name,
        slug("on", name),
        summary,
        body=Body(kind),
        parameters=tuple(
            Parameter(header, about, where="header", is_required=True) for header, about in headers.items()
        ),
        answers={
            200: Answer("Any 2xx within 15 s: taken."),
            410: Answer("Not wanted: it is not tried again. Nor is it after a redirect."),
            503: Answer("Anything else: it is tried again, by the schedule or after `Retry-After`."),
        },
        is_open=True,
    )
