"""Operations of fal's queue and direct call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field

from api.http.fal_hosts import QUEUE, RUN
from api.openapi.operation import (
    GUARDED,
    IDEMPOTENCY_KEY,
    RATE_LIMITS,
    Body,
    Operation,
    Parameter,
    Response,
    Section,
    ServerSentEvent,
    error_responses,
    slug,
    webhook,
)
from farm.dialects import fal
from farm.dialects.answers import fal as answers
from farm.dialects.fields import FIELDS
from farm.domain.catalogue import MODELS, Model
from farm.domain.error_codes import JOB_FAILURES
from farm.domain.request import Priority

_IMAGE = "https://you.example/fox.png"


REQUEST_ID = Parameter("x-fal-request-id", "The request's id.", where="header", is_required=True)

_LOGS = Parameter("logs", "Include the log so far.", Literal["1", "true", "True", "0", "false", "False"])
_FAILED = "The request failed; the body is its error."
_SIGNED = {
    "X-Fal-Webhook-Request-Id": "The request's id.",
    "X-Fal-Webhook-User-Id": "The caller's id.",
    "X-Fal-Webhook-Timestamp": "Time of this attempt, in seconds since the epoch.",
    "X-Fal-Webhook-Signature": "ED25519, in hex; the keys are at `/.well-known/jwks.json`.",
}
#: What a lifecycle header does, up to the name of what is kept.
SHORTENS = "`expiration_duration_seconds` shortens, and cannot lengthen, the retention"
_CONDITIONS = {
    fal.REQUEST_TIMEOUT: "Seconds within which the request must start; otherwise it fails.",
    fal.LIFECYCLE: f"JSON; {SHORTENS} of the result.",
    fal.STORE_IO: "`0`: prompt and inputs are deleted when the request ends.",
    fal.NO_RETRY: "`1`: the request is not retried after a failure.",
    fal.RUNNER_HINT: "Worker affinity: requests with one hint go to the worker that took the last one, if it is idle.",
}
_HEADERS = (
    Parameter("X-Fal-Queue-Priority", "Low-priority requests wait behind normal ones.", Priority, "header"),
    IDEMPOTENCY_KEY,
    *(Parameter(name, about, where="header") for name, about in _CONDITIONS.items()),
    *(
        Parameter(name, f"Accepted without effect: {why}.", where="header")
        for name, why in fal.TOLERATED_HEADERS.items()
    ),
)
_PROXIED: tuple[Literal["get", "post", "put", "delete"], ...] = ("get", "post", "put", "delete")


def errors(*statuses: int) -> dict[int, Response]:
    """Return error responses in fal's format."""
    return error_responses(answers.FalError, *statuses)


def _failures() -> dict[int, Response]:
    """Return the responses to failed requests, by the status of the failure."""
    return {
        status: Response(_FAILED, answers.FalError)
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
        responses={
            **_failures(),
            **errors(*GUARDED, 404, 413, 422, 429),
            200: Response("The model's output.", answers.FalOutput, headers=(REQUEST_ID, *RATE_LIMITS)),
            504: Response(
                "The call's time limit was reached and the request continues; the message has the URL of its result.",
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
            Parameter("fal_webhook", "Webhook URL, called when the request has ended."),
            Parameter(
                "fal_max_queue_length",
                "Reject the request with 429 if more than this many wait for the model.",
                Annotated[int, Field(ge=0, le=2**31)],
            ),
            *_HEADERS,
        ),
        responses={
            200: Response(
                "The request has been recorded and will survive a crash of any process.",
                answers.FalHandle,
                headers=(REQUEST_ID, *RATE_LIMITS),
            ),
            **errors(*GUARDED, 404, 413, 422, 429),
        },
    )


def _body(model: Model) -> Body:
    return Body(FIELDS[model.name], {"prompt": model.example, **_example(model)})


def _example(model: Model) -> dict[str, Any]:
    """Return the fields beside the prompt that an example shows."""
    if not model.max_inputs:
        return {"aspect_ratio": "16:9"} if model.sizes else {}
    return {"image_url": _IMAGE} if model.max_inputs == 1 else {"image_urls": [_IMAGE, _IMAGE]}


def _of_application(app: str) -> Iterable[Operation]:
    """Yield the operations on requests; their URLs have only the owner and alias of the endpoint."""
    path = f"{QUEUE}/{app}/requests/{{request_id}}"
    results = {
        **_failures(),
        **errors(*GUARDED, 404, 422),
        200: Response("The output.", answers.FalOutput, headers=(REQUEST_ID,)),
    }
    yield Operation(
        "get",
        f"{path}/status",
        slug("status", app),
        f"Get the status of a request of {app}",
        parameters=(_LOGS,),
        responses={
            200: Response("The request has ended.", answers.FalStatus, headers=(REQUEST_ID,)),
            202: Response("The request waits or is running.", answers.FalStatus, headers=(REQUEST_ID,)),
            **errors(*GUARDED, 404, 422),
        },
    )
    yield Operation(
        "get",
        f"{path}/status/stream",
        slug("stream", app),
        f"Stream the status of a request of {app} until it has ended",
        parameters=(_LOGS,),
        responses={
            200: Response(
                "Server-sent events: statuses, each with the log lines not yet sent.",
                ServerSentEvent,
                "text/event-stream",
            ),
            **errors(*GUARDED, 404, 422, 429),
        },
    )
    yield Operation("get", path, slug("result", app), f"Get the output of a request of {app}", responses=results)
    yield Operation(
        "get",
        f"{path}/response",
        slug("response", app),
        f"Get the output of a request of {app} (alias)",
        responses=results,
    )
    yield Operation(
        "put",
        f"{path}/cancel",
        slug("cancel", app),
        f"Cancel a request of {app}",
        responses={
            **errors(*GUARDED, 404, 422),
            202: Response(
                "It does not start, or stops within one denoising step.",
                answers.FalCancelled,
                headers=(REQUEST_ID,),
            ),
            400: Response(
                "The request had already ended, or the call is malformed.",
                answers.FalAlreadyCompleted | answers.FalPlatformError,
            ),
        },
    )


_ENDPOINTS = [(model, endpoint) for model in MODELS for endpoint in model.of(fal.NAME)]
_APPLICATIONS = dict.fromkeys(fal.application(endpoint) for _, endpoint in _ENDPOINTS)

SECTION = Section(
    name="fal",
    description="fal's queue and direct call. Also at the root of hosts that replace fal's: `queue.` and `fal.`.",
    operations=(
        *(_run(model, endpoint) for model, endpoint in _ENDPOINTS),
        *(_submit(model, endpoint) for model, endpoint in _ENDPOINTS),
        *(operation for app in _APPLICATIONS for operation in _of_application(app)),
        *(
            Operation(
                method,
                "/fal/proxy",
                slug("proxy", method),
                "Forward any of these calls, as fal's JavaScript client sends them to its proxyUrl",
                parameters=(
                    Parameter(
                        "X-Fal-Target-Url", "The URL at fal that the call is for.", where="header", is_required=True
                    ),
                ),
                responses={
                    200: Response("The response of that call."),
                    **errors(*GUARDED, 404, 413, 422),
                },
            )
            for method in _PROXIED
        ),
    ),
    webhooks=(
        webhook("falRequest", "A request has ended (fal's format)", answers.FalSucceeded | answers.FalFailed, _SIGNED),
    ),
)
