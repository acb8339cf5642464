"""fal's dialect: queue, direct call and webhooks of `fal-ai/flux/srpo`. Facts from its pages and clients. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from farm import clock
from farm.delivery import Due
from farm.dialects.fields import UNKNOWN_PARAMETER, SrpoFields, parse
from farm.dialects.refusal import Refusal
from farm.errors import (
    FarmError,
    IdempotencyConflict,
    InvalidRequest,
    ModelNotServed,
    NotFound,
    NotReady,
    Problem,
    RenderError,
    SafetyError,
    StorageError,
    StorageUnavailable,
    StoreUnavailable,
    TooManyHeld,
)
from farm.job import Code, Image, Job, Order, Result, State
from farm.links import Links

NAME = "fal"

#: fal's request headers that are taken and change nothing here, each for its reason.
TOLERATED_HEADERS = {
    "X-Fal-Request-Timeout": "a limit on the time until the start, which is not kept yet",
    "X-Fal-Runner-Hint": "a wish for a certain runner; any worker renders the same pixels",
    "X-Fal-Object-Lifecycle-Preference": "FARM_RESULT_TTL says how long pictures are kept, for all jobs alike",
    "X-Fal-Store-IO": "the record is what makes a job survive a crash; it goes with the result",
    "X-Fal-No-Retry": "a started job is retried only when its worker died or its picture could not be stored",
    "X-Fal-Retry-Config": "fal ignores it too, on models that it shares",
    "X-Fal-Tags": "labels for fal's own reports",
    "X-App-Fal-Disable-Fallback": "there is no other model to fall back to",
}

#: What is no field of the body, by the name under which it is refused.
_PLACES = {
    "fal_webhook": "query",
    "fal_max_queue_length": "query",
    "logs": "query",
    "X-Fal-Queue-Priority": "header",
    "Idempotency-Key": "header",
}

#: How a failed job is told: its code → HTTP status, fal's slug, and who is to blame. The model's errors have a list
#: as their `detail`, the platform's a text.
FAILURES: dict[str, tuple[int, str, Literal["model", "platform"]]] = {
    Code.CANCELLED: (499, "client_cancelled", "platform"),
    Code.ATTEMPTS_EXHAUSTED: (500, "runner_server_error", "platform"),
    StorageError.code: (500, "internal_error", "platform"),
    StorageUnavailable.code: (500, "internal_error", "platform"),
    RenderError.code: (500, "internal_server_error", "model"),
    SafetyError.code: (500, "internal_server_error", "model"),
    FarmError.code: (500, "internal_server_error", "model"),
}
_UNFORESEEN = FAILURES[FarmError.code]

#: fal's slugs for what goes wrong with a call rather than with a job, by the farm's codes. The others have none.
_SLUGS = {
    "bad_request": "bad_request",
    ModelNotServed.code: "bad_request",
    IdempotencyConflict.code: "bad_request",
    TooManyHeld.code: "concurrent_requests_limit",
    NotReady.code: "runner_scheduling_failure",
    StoreUnavailable.code: "internal_error",
    StorageError.code: "internal_error",
    StorageUnavailable.code: "internal_error",
    FarmError.code: "internal_error",
}

#: Longest value, as JSON, that an error repeats in `input`, in characters.
_REPEATED = 1000


def read(body: Mapping[str, Any], *, endpoint: str, model: str, spare_seed: int) -> Order:
    """A body as an order for `model`. `spare_seed` is taken where the caller gives none."""
    fields = parse(SrpoFields, body)
    request = fields.request(model, spare_seed=spare_seed)
    return Order(endpoint, request, dialect=NAME, inline=fields.sync_mode)


def application(endpoint: str) -> str:
    """Owner and alias: all that clients keep of an endpoint's id when they ask about a request."""
    return "/".join(endpoint.split("/")[:2])


def urls(endpoint: str, request_id: str, queue: str) -> dict[str, str]:
    """Where to ask about a request; `queue` begins every URL of the queue."""
    url = f"{queue}/{application(endpoint)}/requests/{request_id}"
    return {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}


def submitted(job: Job, queue: str, *, position: int) -> dict[str, Any]:
    """The answer to a submit."""
    return _about(job, queue, position) | {"gateway_request_id": job.id}


def status(job: Job, queue: str, *, position: int, logs: list[dict[str, str]] | None) -> dict[str, Any]:
    """Where a request stands. fal knows no failed state: such a request is completed, with an error."""
    answer: dict[str, Any] = _about(job, queue, position) | {"logs": logs}
    if job.state.is_terminal:
        answer["metrics"] = {"inference_time": job.result.timings["inference"] if job.result else None}
    if job.state is State.FAILED:
        _, slug, _ = FAILURES.get(job.code, _UNFORESEEN)
        answer |= {"error": job.error, "error_type": slug}
    return answer


def _about(job: Job, queue: str, position: int) -> dict[str, Any]:
    if job.state is State.CREATED:
        where: dict[str, Any] = {"status": "IN_QUEUE", "queue_position": position}
    else:
        where = {"status": "COMPLETED" if job.state.is_terminal else "IN_PROGRESS"}
    return where | {"request_id": job.id} | urls(job.endpoint, job.id, queue)


def logs(job: Job, *, seen_us: int) -> list[dict[str, str]]:
    """What is known of a request's way so far, as lines; `seen_us` is when its step was looked up.

    A line's message names it: whoever was sent some already is sent those whose messages it has not got.
    """
    lines = [_line("Accepted.", job.created_us)]
    if job.started_us and job.state is not State.CREATED:
        lines.append(_line(f"Started, attempt {max(1, job.attempt)}.", job.started_us))
    if job.state is State.PROCESSING and job.step:
        lines.append(_line(f"Step {job.step} of {job.steps}.", seen_us))
    if job.result:
        lines += [_line(warning, job.finished_us, "WARN") for warning in job.result.warnings]
        lines.append(_line(f"Completed, inference took {job.result.timings['inference']:.2f} s.", job.finished_us))
    if job.state is State.FAILED:
        lines.append(_line(job.error, job.finished_us, "ERROR"))
    return lines


def _line(message: str, at_us: int, level: str = "INFO") -> dict[str, str]:
    return {"message": message, "level": level, "source": "USER", "timestamp": clock.iso(at_us)}


def outcome(job: Job, links: Links) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of a finished request: its output, or its failure. Raises StorageError and NotFound."""
    return (200, output(job, job.result, links)) if job.result else failure(job)


def output(job: Job, result: Result, links: Links) -> dict[str, Any]:
    """What the model gives back. A field without a value is left out: some clients take no null."""
    answer = {
        "images": [_image(image, links, inline=job.inline) for image in result.images],
        "timings": {"inference": result.timings["inference"]},
        "seed": job.request.seed,
        "has_nsfw_concepts": list(result.flagged),
        "prompt": job.request.prompt,
    }
    return answer | ({"warnings": list(result.warnings)} if result.warnings else {})


def _image(image: Image, links: Links, *, inline: bool) -> dict[str, Any]:
    return {
        "url": links.data(image) if inline else links.file(image.key),
        "width": image.width,
        "height": image.height,
        "content_type": image.content_type,
        "file_name": image.key.rpartition("/")[2],
        "file_size": image.bytes,
    }


def failure(job: Job) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of a request that failed."""
    code, slug, blamed = FAILURES.get(job.code, _UNFORESEEN)
    told = [{"loc": ["body"], "msg": job.error, "type": slug}] if blamed == "model" else job.error
    return code, {"detail": told, "message": job.error, "error_type": slug}


def unfinished() -> dict[str, Any]:
    """The answer to who asks for a result too early."""
    message = "Request is still in progress"
    return {"detail": message, "message": message, "error_type": "bad_request"}


def cancelled(outcome: str) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of the answer to a cancel, by what became of it."""
    if outcome in ("cancelled", "stopping"):
        return 202, {"status": "CANCELLATION_REQUESTED"}
    message = "The request has ended already."
    return 400, {"status": "ALREADY_COMPLETED", "detail": message, "message": message}


def overdue(endpoint: str, request_id: str, queue: str) -> dict[str, Any]:
    """The answer to a direct call that was held as long as may be."""
    url = urls(endpoint, request_id, queue)["response_url"]
    message = f"The picture is not ready yet, and goes on being made; it will be at {url}"
    return {"detail": message, "message": message, "error_type": "request_timeout"}


def letter(job: Job, _due: Due, links: Links) -> dict[str, Any]:
    """What a webhook is told of a finished request."""
    head: dict[str, Any] = {"request_id": job.id, "gateway_request_id": job.id}
    try:
        code, payload = outcome(job, links)
    except NotFound as error:
        return head | {"status": "OK", "payload": None, "payload_error": str(error)}
    if code == 200:
        return head | {"status": "OK", "payload": payload}
    return head | {"status": "ERROR", "error": f"Invalid status code: {code}", "payload": payload}


def refusal(status: int, error: FarmError) -> Refusal:
    """A refusal with its headers."""
    body = problem(error)
    return Refusal(status, body, error_headers(body, may_retry=hasattr(error, "retry_after")))


def problem(error: FarmError) -> dict[str, Any]:
    """A refusal. `detail` is for the Python client, `message` for the JavaScript one, `error_type` for programs."""
    message = str(error)
    if isinstance(error, InvalidRequest):
        return {"detail": [_detail(item) for item in error.problems], "message": message}
    body: dict[str, Any] = {"detail": message, "message": message}
    if isinstance(error, NotFound):
        body["status"] = "NOT_FOUND"
    if slug := _SLUGS.get(error.code):
        body["error_type"] = slug
    return body


def error_headers(body: Mapping[str, Any], *, may_retry: bool = False) -> dict[str, str]:
    """What the headers of a refusal or a failure repeat of its body, and whether it is worth to come back."""
    headers = {"X-Fal-Error-Type": str(body["error_type"])} if "error_type" in body else {}
    return headers | ({"X-Fal-Needs-Retry": "1", "X-Fal-Retryable": "true"} if may_retry else {})


def _detail(item: Problem) -> dict[str, Any]:
    # Strings only, or the AI SDK reads nothing of it.
    location = [_place(item), *(item.field.split(".") if item.field else ())]
    detail: dict[str, Any] = {"loc": location, "msg": item.message, "type": item.kind}
    if item.context:
        detail["ctx"] = dict(item.context)
    if item.kind not in ("missing", "json_invalid") and _is_repeatable(item.value):
        detail["input"] = item.value
    return detail


def _place(item: Problem) -> str:
    if item.kind == UNKNOWN_PARAMETER:
        return "query"
    return "body" if item.kind == "extra_forbidden" else _PLACES.get(item.field, "body")


def _is_repeatable(value: object) -> bool:
    try:
        return len(json.dumps(value, allow_nan=False)) <= _REPEATED
    except (ValueError, RecursionError):
        return False
