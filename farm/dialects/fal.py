"""fal's dialect: queue, direct call and webhooks, after fal's documentation and clients. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Literal, TypeVar

from farm import clock
from farm.dialects.answers import fal as answers
from farm.dialects.error_response import ErrorResponse
from farm.dialects.fal_lifecycle import parse_keep_seconds
from farm.dialects.fields import FIELDS, UNKNOWN_PARAMETER, image_field, parse
from farm.dialects.links import Links
from farm.domain.catalogue import named
from farm.domain.delivery import Due
from farm.domain.error_codes import job_failure
from farm.domain.errors import FarmError, InvalidRequest, NotFound, Problem
from farm.domain.job import Conditions, Image, Job, Order, Result, State

V = TypeVar("V")

NAME = "fal"

#: fal's request headers that set conditions of a job. An invalid value is an error.
REQUEST_TIMEOUT = "X-Fal-Request-Timeout"
LIFECYCLE = "X-Fal-Object-Lifecycle-Preference"
STORE_IO = "X-Fal-Store-IO"
NO_RETRY = "X-Fal-No-Retry"
RUNNER_HINT = "X-Fal-Runner-Hint"

#: fal's request headers that are accepted without effect, with the reason.
TOLERATED_HEADERS = {
    "X-Fal-Retry-Config": "fal ignores it too, on models that it shares",
    "X-Fal-Tags": "labels for fal's own reports",
    "X-App-Fal-Disable-Fallback": "there is no other model to fall back to",
}

#: Where parameters outside the body are sent, for the first part of an error's `loc`.
_LOCATIONS = {
    "fal_webhook": "query",
    "fal_max_queue_length": "query",
    "logs": "query",
    "X-Fal-Queue-Priority": "header",
    "Idempotency-Key": "header",
}

#: Error types of time limits that the caller set, or accepted by making a direct call.
_CALLER_TIMEOUTS = ("request_timeout", "startup_timeout")

#: Seconds, as both clients write them: a third of ten has 16 decimal places.
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,20})?")
#: A start timeout must be more than this, in seconds. Source: fal's page on platform headers.
_MIN_START_TIMEOUT = 0.1
#: Maximum length of a runner hint, in characters.
_MAX_AFFINITY_LENGTH = 256
#: Boolean values in headers.
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

#: Maximum length of a value that an error repeats in `input`, in characters of JSON.
_MAX_INPUT_LENGTH = 1000


def read(body: Mapping[str, Any], *, endpoint: str, model: str, default_seed: int) -> Order:
    """Parse a request body into an order for `model`; `default_seed` is used if the body has no seed."""
    fields = parse(FIELDS[model], body)
    request = fields.request(named(model), default_seed=default_seed)
    return Order(endpoint, request, dialect=NAME, inline=fields.sync_mode, sources=fields.sources())


def conditions(header: Callable[[str], str | None], *, max_keep_seconds: float) -> Conditions:
    """Parse the conditions of a job from a submit's headers. Raises InvalidRequest, which names the header.

    `max_keep_seconds`: how long the farm keeps results.
    """
    read_keep_seconds = partial(parse_keep_seconds, max_seconds=max_keep_seconds)
    return Conditions(
        start_within=_read(header, REQUEST_TIMEOUT, _read_seconds, 0.0),
        keep_seconds=_read(header, LIFECYCLE, read_keep_seconds, 0),
        may_retry=not _read(header, NO_RETRY, _read_flag, False),
        keeps_payload=_read(header, STORE_IO, _read_flag, True),
        runner_hint=_read(header, RUNNER_HINT, _read_affinity, ""),
    )


def _read(header: Callable[[str], str | None], name: str, read: Callable[[str], V], default: V) -> V:
    if (text := header(name)) is None:
        return default
    try:
        return read(text)
    except InvalidRequest as error:
        raise InvalidRequest([Problem(name, str(error), "bad_request", text)]) from None


def _read_seconds(text: str) -> float:
    seconds = float(text) if _SECONDS.fullmatch(text) else 0.0
    if seconds <= _MIN_START_TIMEOUT:
        message = f"'{text[:40]}' is not a time limit; allowed: seconds, more than {_MIN_START_TIMEOUT}, such as 2.5"
        raise InvalidRequest([Problem("", message, "float_parsing")])
    return seconds


def _read_flag(text: str) -> bool:
    if (flag := _FLAGS.get(text.lower())) is None:
        message = f"'{text[:40]}' is not a boolean; allowed: {', '.join(_FLAGS)}"
        raise InvalidRequest([Problem("", message, "bool_parsing")])
    return flag


def _read_affinity(text: str) -> str:
    if not (0 < len(text) <= _MAX_AFFINITY_LENGTH and text.isascii() and text.isprintable()):
        message = f"the hint is invalid; allowed: 1 to {_MAX_AFFINITY_LENGTH} printable ASCII characters"
        raise InvalidRequest([Problem("", message, "string_pattern_mismatch")])
    return text


def application(endpoint: str) -> str:
    """Return owner and alias, the part of an endpoint's id that clients put into the URLs of requests."""
    return "/".join(endpoint.split("/")[:2])


def urls(endpoint: str, request_id: str, queue: str) -> answers.FalUrls:
    """Return the URLs of a request; `queue` is the base URL of the queue."""
    url = f"{queue}/{application(endpoint)}/requests/{request_id}"
    return {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}


def submitted(job: Job, queue: str, *, position: int) -> answers.FalHandle:
    """Build the answer to a submit."""
    return {**_request(job, queue, position), "gateway_request_id": job.id}


def status(job: Job, queue: str, *, position: int, logs: list[answers.FalLogLine] | None) -> answers.FalStatus:
    """Build the answer to a status call. fal has no failed state: such a request is completed, with an error."""
    answer: answers.FalStatus = {**_request(job, queue, position), "logs": logs}
    if job.state.is_terminal:
        answer["metrics"] = {"inference_time": job.result.timings["inference"] if job.result else None}
    if job.state is State.FAILED:
        answer["error"], answer["error_type"] = job.error, job_failure(job.code).fal
    return answer


def _request(job: Job, queue: str, position: int) -> answers.FalRequest:
    links = urls(job.endpoint, job.id, queue)
    if job.state is State.CREATED:
        return {"status": "IN_QUEUE", "queue_position": position, "request_id": job.id, **links}
    return {"status": "COMPLETED" if job.state.is_terminal else "IN_PROGRESS", "request_id": job.id, **links}


def logs(job: Job, *, seen_us: int) -> list[answers.FalLogLine]:
    """Build the log of a request so far; `seen_us` is when its step was read.

    No two lines have the same message, so a stream can tell by it which lines it has already sent.
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


def _line(message: str, at_us: int, level: Literal["INFO", "WARN", "ERROR"] = "INFO") -> answers.FalLogLine:
    return {"message": message, "level": level, "source": "USER", "timestamp": clock.iso(at_us)}


def outcome(job: Job, links: Links) -> tuple[int, answers.FalOutput | answers.FalError]:
    """Return HTTP status and body of a finished request: its output or its error. Raises StorageError and NotFound."""
    return (200, output(job, job.result, links)) if job.result else failure(job)


def output(job: Job, result: Result, links: Links) -> answers.FalOutput:
    """Build the model's output. A field without a value is left out, since some clients do not accept null."""
    answer: answers.FalOutput = {
        "images": [_image(image, links, inline=job.inline) for image in result.images],
        "timings": {"inference": result.timings["inference"]},
        "seed": job.request.seed,
        "has_nsfw_concepts": list(result.flagged),
        "prompt": job.request.prompt,
    }
    if result.warnings:
        answer["warnings"] = list(result.warnings)
    return answer


def _image(image: Image, links: Links, *, inline: bool) -> answers.FalImage:
    return {
        "url": links.data(image) if inline else links.file(image.key),
        "width": image.width,
        "height": image.height,
        "content_type": image.content_type,
        "file_name": image.key.rpartition("/")[2],
        "file_size": image.bytes,
    }


def failure(job: Job) -> tuple[int, answers.FalError]:
    """Return HTTP status and body of a request that failed."""
    failed = job_failure(job.code)
    if failed.fal_blames == "platform":
        return failed.status, {"detail": job.error, "message": job.error, "error_type": failed.fal}
    detail: answers.FalFieldError = {"loc": _location(job), "msg": job.error, "type": failed.fal}
    return failed.status, {"detail": [detail], "message": job.error, "error_type": failed.fal}


def _location(job: Job) -> list[str]:
    """Return the location of the model's error: an input image if it is to blame, else the whole body."""
    if job_failure(job.code).status != HTTPStatus.UNPROCESSABLE_ENTITY:  # no input image is to blame
        return ["body"]
    # The message begins with the name of the field.
    fields = (name for name in job.request.source_fields if job.error.startswith((f"{name}:", f"{name} ")))
    field = next(fields, image_field(job.request.model))
    return ["body", *(field.split(".") if field else ())]


def unfinished() -> answers.FalPlatformError:
    """Build the answer to a call for the result of a request that has not ended."""
    message = "Request is still in progress"
    return {"detail": message, "message": message, "error_type": "bad_request"}


def cancelled(outcome: str) -> tuple[int, answers.FalCancelled | answers.FalAlreadyCompleted]:
    """Return HTTP status and body of the answer to a cancel with this outcome."""
    if outcome in ("cancelled", "stopping"):
        return 202, {"status": "CANCELLATION_REQUESTED"}
    message = "The request has already ended."
    return 400, {"status": "ALREADY_COMPLETED", "detail": message, "message": message}


def timed_out(endpoint: str, request_id: str, queue: str) -> answers.FalPlatformError:
    """Build the answer to a direct call that has reached its time limit."""
    url = urls(endpoint, request_id, queue)["response_url"]
    message = f"The request has not ended yet and continues; its result will be at {url}"
    return {"detail": message, "message": message, "error_type": "request_timeout"}


def webhook_body(job: Job, _due: Due, links: Links) -> answers.FalSucceeded | answers.FalFailed:
    """Build the body of the webhook of a finished request."""
    return _succeeded(job, job.result, links) if job.result else _failed(job)


def _succeeded(job: Job, result: Result, links: Links) -> answers.FalSucceeded:
    body: answers.FalSucceeded = {"request_id": job.id, "gateway_request_id": job.id, "status": "OK", "payload": None}
    try:
        body["payload"] = output(job, result, links)
    except NotFound as error:
        body["payload_error"] = str(error)
    return body


def _failed(job: Job) -> answers.FalFailed:
    code, payload = failure(job)
    return {
        "request_id": job.id,
        "gateway_request_id": job.id,
        "status": "ERROR",
        "error": f"Invalid status code: {code}",
        "payload": payload,
    }


def error_response(status: int, error: FarmError) -> ErrorResponse:
    """Build the error response."""
    body = problem(error)
    return ErrorResponse(status, body, error_headers(body, may_retry=error.retry_after is not None))


def problem(error: FarmError) -> answers.FalError:
    """Build an error. The Python client reads `detail`, the JavaScript client `message`, programs `error_type`."""
    message = str(error)
    if isinstance(error, InvalidRequest):
        return {"detail": [_detail(item) for item in error.problems], "message": message}
    body: answers.FalPlatformError = {"detail": message, "message": message}
    if isinstance(error, NotFound):
        body["status"] = "NOT_FOUND"
    if slug := error.call_failure.fal:
        body["error_type"] = slug
    return body


def error_headers(body: Mapping[str, Any], *, may_retry: bool = False) -> dict[str, str]:
    """Return the headers of an error: its type, and whether a retry can succeed."""
    slug = body.get("error_type")
    headers: dict[str, str] = {"X-Fal-Error-Type": slug} if slug else {}
    if slug in _CALLER_TIMEOUTS:
        # The clients do not retry a request whose time limit was the caller's own.
        headers["X-Fal-Request-Timeout-Type"] = "user"
    return headers | ({"X-Fal-Needs-Retry": "1", "X-Fal-Retryable": "true"} if may_retry else {})


def _detail(item: Problem) -> answers.FalFieldError:
    # Strings only: the AI SDK rejects the whole error otherwise.
    location = [_location_root(item), *(item.field.split(".") if item.field else ())]
    detail: answers.FalFieldError = {"loc": location, "msg": item.message, "type": item.kind}
    if item.context:
        detail["ctx"] = dict(item.context)
    is_known = item.kind not in ("missing", "json_invalid") and (item.value is not None or location[0] == "body")
    if is_known and _is_repeatable(item.value):
        detail["input"] = item.value
    return detail


def _location_root(item: Problem) -> str:
    if item.kind == UNKNOWN_PARAMETER:
        return "query"
    return "body" if item.kind == "extra_forbidden" else _LOCATIONS.get(item.field, "body")


def _is_repeatable(value: object) -> bool:
    try:
        return len(json.dumps(value, allow_nan=False)) <= _MAX_INPUT_LENGTH
    except (ValueError, RecursionError):
        return False
