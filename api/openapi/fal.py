"""`/fal`: fal's queue and direct call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field

from api.http.fal_hosts import QUEUE, RUN
from api.openapi.operation import (
    GUARDED,
    IDEMPOTENCY_KEY,
    RATE_LIMITS,
    Answer,
    Body,
    Operation,
    Parameter,
    Section,
    ServerSentEvent,
    slug,
    webhook,
)
from api.openapi.operation import refusals as refused
from farm.dialects import fal
from farm.dialects.answers import fal as answers
from farm.dialects.fields import FIELDS
from farm.domain.catalogue import MODELS, Model
from farm.domain.error_codes import JOB_FAILURES
from farm.domain.request import Priority

_IMAGE = "https://you.example/fox.png"
_EXAMPLES: dict[str, dict[str, Any]] = {
    "srpo": {"prompt": "a red fox in fresh snow"},
    "srpo-image-to-image": {"prompt": "the same fox in summer", "image_url": _IMAGE},
    "kontext-text-to-image": {"prompt": "a red fox in fresh snow", "aspect_ratio": "16:9"},
    "kontext": {"prompt": "put a scarf on the fox", "image_url": _IMAGE},
    "kontext-multi": {"prompt": "the two foxes side by side", "image_urls": [_IMAGE, _IMAGE]},
}


REQUEST_ID = Parameter("x-fal-request-id", "The request's id.", where="header", is_required=True)

_LOGS = Parameter("logs", "Whether the log so far comes with it.", Literal["1", "true", "True", "0", "false", "False"])
_FAILED = "The request failed; the body is its own error."
_SIGNED = {
    "X-Fal-Webhook-Request-Id": "The request's id.",
    "X-Fal-Webhook-User-Id": "The caller's.",
    "X-Fal-Webhook-Timestamp": "Of this try, in seconds since the epoch.",
    "X-Fal-Webhook-Signature": "ED25519, in hex; the keys are at `/.well-known/jwks.json`.",
}
_CONDITIONS = {
    fal.REQUEST_TIMEOUT: "Seconds within which it must have been started, else it fails.",
    fal.LIFECYCLE: "JSON: `expiration_duration_seconds` shortens how long the result is kept.",
    fal.STORE_IO: "`0`: the prompt is forgotten with the end.",
    fal.NO_RETRY: "`1`: the first failure is the last.",
    fal.RUNNER_HINT: "Your requests of the same hint go to the worker that took the last one, where that stands idle.",
}
_HEADERS = (
    Parameter("X-Fal-Queue-Priority", "Low waits behind all normal ones.", Priority, "header"),
    IDEMPOTENCY_KEY,
    *(Parameter(name, about, where="header") for name, about in _CONDITIONS.items()),
    *(
        Parameter(name, f"Taken, and changes nothing here: {why}.", where="header")
        for name, why in fal.TOLERATED_HEADERS.items()
    ),
)
_PROXIED: tuple[Literal["get", "post", "put", "delete"], ...] = ("get", "post", "put", "delete")


def refusals(*statuses: int) -> dict[int, Answer]:
    """Refusals in fal's shape."""
    return refused(answers.FalError, *statuses)


def _failures() -> dict[int, Answer]:
    """How a request that failed is answered: with the status of its own failure."""
    return {
        status: Answer(_FAILED, answers.FalError)
        for status in sorted({failed.status for failed in JOB_FAILURES.values()})
    }


def _run(model: Model, endpoint: str) -> Operation:
    return Operation(
        "post",
        f"{RUN}/{endpoint}",
        slug("run", endpoint),
        f"Direct call: {model.title}",
        body=_body(model),
        parameters=_HEADERS,
        answers={
            **_failures(),
            **refusals(*GUARDED, 404, 413, 422, 429),
            200: Answer("What the model gives back.", answers.FalOutput, headers=(REQUEST_ID, *RATE_LIMITS)),
            504: Answer(
                "It was waited for as long as may be, and goes on: the text says where its result will be.",
                answers.FalError,
                headers=(REQUEST_ID,),
            ),
        },
    )


def _submit(model: Model, endpoint: str) -> Operation:
    return Operation(
        "post",
        f"{QUEUE}/{endpoint}",
        slug("queue", endpoint),
        f"Queue: {model.title}",
        body=_body(model),
        parameters=(
            Parameter("fal_webhook", "Where to call back when it has ended."),
            Parameter(
                "fal_max_queue_length",
                "Refuse it (429) where more than so many wait for the model.",
                Annotated[int, Field(ge=0, le=2**31)],
            ),
            *_HEADERS,
        ),
        answers={
            200: Answer(
                "The request is on record: from here on it is not lost.",
                answers.FalHandle,
                headers=(REQUEST_ID, *RATE_LIMITS),
            ),
            **refusals(*GUARDED, 404, 413, 422, 429),
        },
    )


def _body(model: Model) -> Body:
    return Body(FIELDS[model.name], _EXAMPLES[model.name])


def _of_application(app: str) -> Iterable[Operation]:
    """What may be asked about requests; their addresses keep owner and alias of the endpoint only."""
    path = f"{QUEUE}/{app}/requests/{{request_id}}"
    told = {
        **_failures(),
        **refusals(*GUARDED, 404, 422),
        200: Answer("Its output.", answers.FalOutput, headers=(REQUEST_ID,)),
    }
    yield Operation(
        "get",
        f"{path}/status",
        slug("status", app),
        f"Where a request of {app} stands",
        parameters=(_LOGS,),
        answers={
            200: Answer("It has ended.", answers.FalStatus, headers=(REQUEST_ID,)),
            202: Answer("It waits or runs.", answers.FalStatus, headers=(REQUEST_ID,)),
            **refusals(*GUARDED, 404, 422),
        },
    )
    yield Operation(
        "get",
        f"{path}/status/stream",
        slug("stream", app),
        f"How a request of {app} gets on, until it has ended",
        parameters=(_LOGS,),
        answers={
            200: Answer(
                "Server-sent events: statuses, each with the lines of the log that were not sent before.",
                ServerSentEvent,
                "text/event-stream",
            ),
            **refusals(*GUARDED, 404, 422, 429),
        },
    )
    yield Operation("get", path, slug("result", app), f"The output of a request of {app}", answers=told)
    yield Operation("get", f"{path}/response", slug("response", app), "The same", answers=told)
    yield Operation(
        "put",
        f"{path}/cancel",
        slug("cancel", app),
        f"Cancel a request of {app}",
        answers={
            **refusals(*GUARDED, 404, 422),
            202: Answer("It does not start, or stops.", answers.FalCancelled, headers=(REQUEST_ID,)),
            400: Answer(
                "It had ended, or the call is malformed.", answers.FalAlreadyCompleted | answers.FalPlatformError
            ),
        },
    )


_ENDPOINTS = [(model, endpoint) for model in MODELS for endpoint in model.of(fal.NAME)]
_APPLICATIONS = dict.fromkeys(fal.application(endpoint) for _, endpoint in _ENDPOINTS)

SECTION = Section(
    name="fal",
    about="fal's queue and direct call. The same at the root of hosts that stand for fal's: `queue.`, `fal.`.",
    operations=(
        *(_run(model, endpoint) for model, endpoint in _ENDPOINTS),
        *(_submit(model, endpoint) for model, endpoint in _ENDPOINTS),
        *(operation for app in _APPLICATIONS for operation in _of_application(app)),
        *(
            Operation(
                method,
                "/fal/proxy",
                slug("proxy", method),
                "Any of these calls, as fal's JavaScript client sends it to a proxyUrl",
                parameters=(
                    Parameter("X-Fal-Target-Url", "The URL at fal that is meant.", where="header", is_required=True),
                ),
                answers={
                    200: Answer("The answer of the call that is meant."),
                    **refusals(*GUARDED, 404, 413, 422),
                },
            )
            for method in _PROXIED
        ),
    ),
    webhooks=(
        webhook(
            "falRequest", "A request has ended: as fal tells it", answers.FalSucceeded | answers.FalFailed, _SIGNED
        ),
    ),
)
