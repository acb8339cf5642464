"""Data classes that describe a route: its parameters, its request body and its responses."""

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
    """A server-sent event; `data` is JSON."""

    data: str
    event: NotRequired[str]
    id: NotRequired[str]
    retry: NotRequired[int]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a request, or a header of a response. `type` is any type that pydantic knows."""

    name: str
    description: str
    type: Any = str
    where: Literal["query", "header", "path"] = "query"
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """A response with one status. `type` is the type of its body; a body of bytes has a `media_type` only."""

    description: str
    type: Any = None
    media_type: str = ""
    headers: tuple[Parameter, ...] = ()

    @property
    def media_types(self) -> tuple[str, ...]:
        """The types of content that the body may have; JSON by default, none without a body."""
        if self.media_type:
            return tuple(self.media_type.split(", "))
        return ("application/json",) if self.type is not None else ()


@dataclass(frozen=True, slots=True)
class Body:
    """A request body: its type, an example, and the type of the same body sent as a form. Without a type, bytes."""

    type: Any = None
    example: Mapping[str, Any] | None = None
    form: Any = None
    media_type: str = "application/json"
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class Operation:
    """A route with one method: its parameters, its request body, and its responses by status.

    `path` has braces around its parameters; `name` is unique in the whole document.
    """

    method: Literal["get", "post", "put", "delete"]
    path: str
    name: str
    summary: str
    responses: Mapping[int, Response]
    body: Body | None = None
    parameters: tuple[Parameter, ...] = ()
    #: It needs no API key.
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """Operations that belong together, under one heading. Webhooks are requests that the farm sends."""

    name: str
    description: str
    operations: tuple[Operation, ...]
    webhooks: tuple[Operation, ...] = field(default=())


def slug(verb: str, target: str) -> str:
    """Return the name of an operation, fit for URLs and for generated code."""
    return f"{verb}_{target.replace('/', '_')}"


RETRY_AFTER = Parameter("Retry-After", "Seconds to wait before the next try.", int, "header", is_required=True)
#: The caller's rate limits, if it has any.
RATE_LIMITS = (
    Parameter(
        "RateLimit-Policy",
        "Your limits, `submits` per minute and `images` per day, as in draft-ietf-httpapi-ratelimit-headers.",
        where="header",
    ),
    Parameter("RateLimit", "What is left of each limit, and the seconds until it is reset.", where="header"),
)
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "The same key with the same request returns the same job; with another request it is an error. "
    "Kept until 24 h after the job's end.",
    where="header",
)

#: Problem details (RFC 9457).
PROBLEM = "application/problem+json"

#: Responses that the server sends before any route is reached.
UNREADABLE: Mapping[int, Response] = {
    414: Response("The URL is longer than 4,094 bytes.", UnreadableRequest, PROBLEM),
    431: Response("A header is longer than 8,190 bytes, or there are too many headers.", UnreadableRequest, PROBLEM),
}

#: What an error status means, for routes that do not describe it more closely.
_DESCRIPTIONS = {
    400: "The request is malformed, or no worker of this farm has loaded the model.",
    401: "The API key is missing or invalid.",
    403: "The API key lacks permission; or the farm runs without keys, and the request is not from this machine.",
    404: "Not found. Another caller's objects cannot be told apart from those that do not exist.",
    408: "The body stopped arriving.",
    409: "The job has not ended yet.",
    413: "The body is too large.",
    422: "The request is invalid; the response names each invalid field and the allowed values.",
    429: "A rate limit is reached, the queue is full, or too many calls are open. Try again after `Retry-After`.",
    503: "The job store or the image storage is unavailable, or no worker is ready. Try again after `Retry-After`.",
}
#: Headers of errors that are worth another try.
_HEADERS = {429: (RETRY_AFTER, *RATE_LIMITS), 503: (RETRY_AFTER,)}
#: Error statuses of every route, and those of every route that needs an API key.
ANYWHERE = (400, 403)
GUARDED = (*ANYWHERE, 401, 503)


def with_model_ids(fields: type[BaseModel], ids: Iterable[str], name: str = "") -> type[BaseModel]:
    """Return the type of a request body whose `model` must be one of `ids`."""
    model_id: Any = Literal[tuple(ids)]
    return create_model(name or fields.__name__, __base__=fields, __doc__=fields.__doc__, model=(model_id, ...))


def any_of(types: Iterable[type[BaseModel]]) -> Any:
    """Return the union of these types, told apart by the field `model`."""
    return Annotated[reduce(or_, types), Field(discriminator="model")]


def error_responses(body_type: Any, *statuses: int, media_type: str = "") -> dict[int, Response]:
    """Return error responses of these statuses, all with the same type of body."""
    return {
        status: Response(_DESCRIPTIONS[status], body_type, media_type, headers=_HEADERS.get(status, ()))
        for status in sorted(set(statuses))
    }


def webhook(name: str, summary: str, body_type: Any, headers: Mapping[str, str]) -> Operation:
    """Describe a request that the farm sends; `headers` are names and descriptions."""
    return Operation(
        "post",
        name,
        slug("on", name),
        summary,
        body=Body(body_type),
        parameters=tuple(
            Parameter(header, description, where="header", is_required=True) for header, description in headers.items()
        ),
        responses={
            200: Response("Delivered: any 2xx status within 15 s."),
            410: Response("Rejected for good: not retried. Redirects are not retried either."),
            503: Response("Any other status: retried on schedule, or after `Retry-After`."),
        },
        is_open=True,
    )
