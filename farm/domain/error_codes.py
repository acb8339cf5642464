"""Error codes: the one table of what can go wrong, with the status and the word that each dialect has for it. Pure.

A code is a stable word for programs. It is sent with a refused call, or stored with a failed job, or both. To add one,
add a member to `Code` and its row to `FAILURES`; an exception class of `farm.domain.errors` names its code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Code(StrEnum):
    """Every error code of the farm."""

    # The call itself
    BAD_REQUEST = "bad_request"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BODY_TIMEOUT = "body_timeout"
    PRECONDITION_FAILED = "precondition_failed"
    BODY_TOO_LARGE = "request_entity_too_large"
    RANGE_NOT_SATISFIABLE = "requested_range_not_satisfiable"
    # What it asks for, and who asks
    INVALID_REQUEST = "invalid_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    FORBIDDEN_ADDRESS = "forbidden_address"
    NOT_FOUND = "not_found"
    UNKNOWN_MODEL = "unknown_model"
    MODEL_NOT_SERVED = "model_not_served"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    NOT_FINISHED = "not_finished"
    NOT_RETRYABLE = "not_retryable"
    BULK_ENDED = "batch_ended"
    UPLOAD_COMPLETE = "upload_complete"
    # Limits
    LIMIT_REACHED = "limit_reached"
    QUEUE_FULL = "queue_full"
    QUEUE_TOO_LONG = "queue_too_long"
    RATE_LIMITED = "rate_limited"
    IMAGES_USED_UP = "images_used_up"
    MEMORY_SHARE_USED_UP = "memory_share_used_up"
    UPLOAD_QUOTA_EXCEEDED = "upload_quota_exceeded"
    TOO_MANY_UPLOADS = "too_many_uploads"
    CONCURRENT_REQUESTS_LIMIT = "concurrent_requests_limit"
    STORE_FULL = "store_full"
    STORAGE_FULL = "storage_full"
    STORE_DISK_FULL = "disk_full"
    # The farm
    NOT_READY = "not_ready"
    REQUEST_TIMEOUT = "request_timeout"
    ENHANCER_UNAVAILABLE = "enhancer_unavailable"
    STORE_UNAVAILABLE = "store_unavailable"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    STORAGE_REFUSED = "storage_refused"
    STORAGE_FAILED = "storage_failed"
    CONFIGURATION_ERROR = "configuration_error"
    INTERNAL_ERROR = "internal_error"
    # Input images
    FILE_DOWNLOAD_ERROR = "file_download_error"
    FILE_TOO_LARGE = "file_too_large"
    IMAGE_LOAD_ERROR = "image_load_error"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_TOO_SMALL = "image_too_small"
    UNSUPPORTED_IMAGE_FORMAT = "unsupported_image_format"
    # Calls to other hosts
    UNREACHABLE = "unreachable"
    ANSWER_TOO_LARGE = "answer_too_large"
    # The job
    CANCELLED = "cancelled"
    CLIENT_DISCONNECTED = "client_disconnected"
    START_TIMEOUT = "start_timeout"
    RENDER_TIMEOUT = "render_timeout"
    PREPARATION_FAILED = "preparation_failed"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    RENDER_FAILED = "render_failed"
    OUT_OF_MEMORY = "out_of_memory"
    SAFETY_CHECK_FAILED = "safety_check_failed"


@dataclass(frozen=True, slots=True)
class CallFailure:
    """A refused call: its HTTP status, and what the dialects add to it.

    OpenAI's and WaveSpeed's paths answer 400 for an invalid request; WaveSpeed's number and OpenAI's type follow from
    the status.
    """

    status: int
    #: Seconds after which a retry may succeed; None: the same call fails again.
    retry_after: int | None = None
    #: When it may succeed, where the seconds follow from the caller's usage.
    again: str = ""
    #: fal's error type; empty: fal has none.
    fal: str = ""
    #: OpenAI's code; empty: the farm's own.
    openai: str = ""


@dataclass(frozen=True, slots=True)
class JobFailure:
    """A failed job: the HTTP status where a dialect answers a failed job with one, and the dialects' words for it.

    OpenAI's paths answer 400 for 422.
    """

    status: int
    #: fal's error type.
    fal: str
    #: Whom fal blames: errors of the model have a list as their `detail`, those of the platform a text.
    fal_blames: Literal["model", "platform"]
    #: WaveSpeed's number: 1401 invalid parameter, 1402 media not reached, 1403 execution failed, 1405 task failed.
    #: From 5000 on the same call may succeed later: 5000 internal error, 5003 unavailable.
    wavespeed: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A row of the table. `message` is sent where the farm has nothing more precise to say."""

    message: str
    #: None: no call is refused with this code.
    call: CallFailure | None = None
    #: None: no job ends with this code.
    job: JobFailure | None = None


_BACKEND = "internal_server_error"


def _of_input(code: Code, message: str, *, wavespeed: int = 1401) -> Failure:
    """Return the row of an input image that cannot be used: fal's error types are the farm's codes here."""
    return Failure(message, CallFailure(422), JobFailure(422, code.value, "model", wavespeed))


#: The table: code → what it means and how it is told.
FAILURES: Mapping[str, Failure] = {
    Code.BAD_REQUEST: Failure("The HTTP request is malformed.", CallFailure(400, fal="bad_request")),
    Code.METHOD_NOT_ALLOWED: Failure("The method is not allowed here; see /docs.", CallFailure(405)),
    Code.BODY_TIMEOUT: Failure("The request body arrived too slowly; send it again.", CallFailure(408)),
    Code.PRECONDITION_FAILED: Failure("The file does not match the precondition.", CallFailure(412)),
    Code.BODY_TOO_LARGE: Failure("The request body is too large.", CallFailure(413)),
    Code.RANGE_NOT_SATISFIABLE: Failure("The file does not have the requested range.", CallFailure(416)),
    Code.INVALID_REQUEST: Failure("The request is not valid.", CallFailure(422)),
    Code.UNAUTHORIZED: Failure(
        "Missing or invalid API key; send 'Authorization: Bearer <key>'.", CallFailure(401, openai="invalid_api_key")
    ),
    Code.FORBIDDEN: Failure("This API key is not allowed to do this.", CallFailure(403)),
    Code.FORBIDDEN_ADDRESS: Failure("The farm does not call this address; use a public one.", CallFailure(422)),
    Code.NOT_FOUND: Failure("Not found; see /docs.", CallFailure(404)),
    Code.UNKNOWN_MODEL: Failure(
        "No model has this id; /farm/v1/models lists them.", CallFailure(404, openai="model_not_found")
    ),
    Code.MODEL_NOT_SERVED: Failure(
        "No worker of this farm has the model loaded; choose another one.", CallFailure(400, fal="bad_request")
    ),
    Code.IDEMPOTENCY_CONFLICT: Failure(
        "This Idempotency-Key was sent before with another body; use a new key.", CallFailure(422, fal="bad_request")
    ),
    Code.NOT_FINISHED: Failure("The job has not ended yet; cancel it first.", CallFailure(409)),
    Code.NOT_RETRYABLE: Failure("The job cannot be retried; submit the request again.", CallFailure(409)),
    Code.BULK_ENDED: Failure("The batch has ended, or is about to.", CallFailure(409)),
    Code.UPLOAD_COMPLETE: Failure("This upload is complete; start a new one.", CallFailure(403)),
    Code.LIMIT_REACHED: Failure(
        "You have reached one of your limits; try again later.", CallFailure(429, 5, openai="rate_limit_exceeded")
    ),
    Code.QUEUE_FULL: Failure(
        "Too many of your jobs are waiting; try again when some have ended.",
        CallFailure(429, 5, openai="rate_limit_exceeded"),
    ),
    Code.MEMORY_SHARE_USED_UP: Failure(
        "Your jobs take as much memory as one caller may have; delete finished ones, or try again later.",
        CallFailure(429, 5, again="5 s; 60 s if finished jobs take it", openai="rate_limit_exceeded"),
    ),
    Code.QUEUE_TOO_LONG: Failure(
        "The queue is longer than the request accepts; try again later.",
        CallFailure(429, 5, openai="rate_limit_exceeded"),
    ),
    Code.RATE_LIMITED: Failure(
        "You have submitted too many requests within a minute; try again later.",
        CallFailure(429, 5, again="when the next one is allowed", openai="rate_limit_exceeded"),
    ),
    Code.IMAGES_USED_UP: Failure(
        "You have used up today's images; try again tomorrow (UTC).",
        CallFailure(429, 5, again="at midnight UTC", openai="insufficient_quota"),
    ),
    Code.UPLOAD_QUOTA_EXCEEDED: Failure(
        "You have uploaded too much; try again later, or name images by URL.",
        CallFailure(429, 60, openai="rate_limit_exceeded"),
    ),
    Code.TOO_MANY_UPLOADS: Failure(
        "You have started too many uploads within an hour; try again later.",
        CallFailure(429, 60, openai="rate_limit_exceeded"),
    ),
    Code.CONCURRENT_REQUESTS_LIMIT: Failure(
        "Too many blocking calls are open; submit to the queue, or try again later.",
        CallFailure(429, 2, fal="concurrent_requests_limit", openai="rate_limit_exceeded"),
    ),
    Code.STORE_FULL: Failure(
        "The job store has no memory left for new jobs; try again when some have ended.",
        CallFailure(429, 5, openai="rate_limit_exceeded"),
    ),
    Code.STORAGE_FULL: Failure(
        "The farm has no disk space left for uploads; try again later.", CallFailure(503, 5, fal="internal_error")
    ),
    Code.STORE_DISK_FULL: Failure(
        "The farm's disk has too little space left; try again later.", CallFailure(503, 30, fal="internal_error")
    ),
    Code.NOT_READY: Failure(
        "No worker is ready yet; try again in a few seconds.", CallFailure(503, 5, fal="runner_scheduling_failure")
    ),
    Code.REQUEST_TIMEOUT: Failure(
        "The image is not ready yet; the job goes on.", CallFailure(504, fal="request_timeout")
    ),
    Code.ENHANCER_UNAVAILABLE: Failure(
        "The prompt enhancer did not answer in time; try again later, or submit the prompt as it is.",
        CallFailure(503, 10),
    ),
    Code.STORE_UNAVAILABLE: Failure(
        "The job store (Redis) does not answer; try again in a few seconds.",
        CallFailure(503, 2, fal="internal_error"),
    ),
    Code.STORAGE_UNAVAILABLE: Failure(
        "The image storage does not answer; try again in a few seconds.",
        CallFailure(503, 5, fal="internal_error"),
        JobFailure(500, "internal_error", "platform", 5003),
    ),
    Code.STORAGE_REFUSED: Failure(
        "The image storage refuses the farm; its operator must check bucket, credentials and rights.",
        CallFailure(503, 5, fal="internal_error"),
        JobFailure(500, "internal_error", "platform", 5003),
    ),
    Code.STORAGE_FAILED: Failure(
        "The image could not be stored or read.",
        CallFailure(500, fal="internal_error"),
        JobFailure(500, "internal_error", "platform", 5003),
    ),
    Code.CONFIGURATION_ERROR: Failure("A setting of the farm cannot be used.", CallFailure(500)),
    Code.INTERNAL_ERROR: Failure(
        "The farm failed unexpectedly; its log has the reason.",
        CallFailure(500, fal="internal_error"),
        JobFailure(500, _BACKEND, "model", 5000),
    ),
    Code.FILE_DOWNLOAD_ERROR: _of_input(
        Code.FILE_DOWNLOAD_ERROR, "The image could not be downloaded; check its URL.", wavespeed=1402
    ),
    Code.FILE_TOO_LARGE: _of_input(Code.FILE_TOO_LARGE, "The image has too many bytes; send a smaller file."),
    Code.IMAGE_LOAD_ERROR: _of_input(Code.IMAGE_LOAD_ERROR, "The image cannot be read; send another file."),
    Code.IMAGE_TOO_LARGE: _of_input(Code.IMAGE_TOO_LARGE, "The image has too many pixels; send a smaller one."),
    Code.IMAGE_TOO_SMALL: _of_input(Code.IMAGE_TOO_SMALL, "The image has too few pixels; send a larger one."),
    Code.UNSUPPORTED_IMAGE_FORMAT: _of_input(
        Code.UNSUPPORTED_IMAGE_FORMAT, "The image format is not supported; send a JPEG, PNG or WebP."
    ),
    Code.UNREACHABLE: Failure("The address could not be reached, or sent an incomplete answer.", CallFailure(502)),
    Code.ANSWER_TOO_LARGE: Failure("The answer of the address is too large.", CallFailure(502)),
    Code.CANCELLED: Failure("The job was cancelled.", job=JobFailure(499, "client_cancelled", "platform", 1405)),
    Code.CLIENT_DISCONNECTED: Failure(
        "The client of a blocking call disconnected and did not call again.",
        job=JobFailure(499, "client_disconnected", "platform", 1405),
    ),
    # Not 5004, WaveSpeed's own timeout, which tells SDKs that the prediction goes on.
    Code.START_TIMEOUT: Failure(
        "The job was not started within the time that its caller set.",
        job=JobFailure(504, "startup_timeout", "platform", 5003),
    ),
    Code.RENDER_TIMEOUT: Failure(
        "Rendering took longer than the farm allows.", job=JobFailure(504, "generation_timeout", "model", 1403)
    ),
    Code.PREPARATION_FAILED: Failure(
        "The job's inputs could not be prepared in several attempts.",
        job=JobFailure(500, "internal_error", "platform", 5000),
    ),
    Code.ATTEMPTS_EXHAUSTED: Failure(
        "The job's workers died in each of several attempts.",
        job=JobFailure(500, "runner_server_error", "platform", 5000),
    ),
    Code.RENDER_FAILED: Failure("The image could not be rendered.", job=JobFailure(500, _BACKEND, "model", 1403)),
    Code.OUT_OF_MEMORY: Failure(
        "The image did not fit into the memory of the device.", job=JobFailure(500, _BACKEND, "model", 1403)
    ),
    Code.SAFETY_CHECK_FAILED: Failure(
        "The image could not be checked, so it was not published.", job=JobFailure(500, _BACKEND, "model", 5000)
    ),
}

#: A failed job with a code that another version of the farm wrote.
_UNKNOWN_JOB_FAILURE = JobFailure(500, _BACKEND, "model", 1405)

#: The codes with which jobs end, and what each means to the dialects.
JOB_FAILURES: Mapping[str, JobFailure] = {code: row.job for code, row in FAILURES.items() if row.job}


def job_failure(code: str) -> JobFailure:
    """Return how a job that failed with `code` is told."""
    return JOB_FAILURES.get(code, _UNKNOWN_JOB_FAILURE)
