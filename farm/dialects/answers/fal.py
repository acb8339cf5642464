"""Answers of fal's queue, direct call, storage and CDN, and bodies of its webhooks."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict


class FalFieldError(TypedDict, closed=True):
    """An error of one field. The first part of `loc` says where the field was: body, query or header."""

    loc: list[str]
    msg: str
    type: str
    ctx: NotRequired[dict[str, Any]]
    input: NotRequired[Any]


class FalModelError(TypedDict, closed=True):
    """The call is invalid, or the model failed."""

    detail: list[FalFieldError]
    message: str
    error_type: NotRequired[str]


class FalPlatformError(TypedDict, closed=True):
    """The farm refused or failed the call; `error_type` is a stable word for programs."""

    detail: str
    message: str
    status: NotRequired[str]
    error_type: NotRequired[str]


FalError = FalModelError | FalPlatformError


class FalUrls(TypedDict, closed=True):
    """URLs of a request in the queue."""

    response_url: str
    status_url: str
    cancel_url: str


FalState = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]


class FalRequestFields(TypedDict):
    """The fields that every answer about a request begins with."""

    status: FalState
    queue_position: NotRequired[int]
    request_id: str
    response_url: str
    status_url: str
    cancel_url: str


class FalRequest(FalRequestFields, closed=True):
    """A request's state and URLs; `queue_position` is there while it waits."""


class FalHandle(FalRequestFields, closed=True):
    """A request that has been recorded."""

    gateway_request_id: str


class FalLogLine(TypedDict, closed=True):
    """A line of a request's log."""

    message: str
    level: Literal["INFO", "WARN", "ERROR"]
    source: Literal["USER"]
    timestamp: str


class FalMetrics(TypedDict, closed=True):
    """Seconds that the model took; null if it failed."""

    inference_time: float | None


class FalStatus(FalRequestFields, closed=True):
    """The state of a request. A failed one is `COMPLETED`, with `error` and `error_type`."""

    logs: list[FalLogLine] | None
    metrics: NotRequired[FalMetrics]
    error: NotRequired[str]
    error_type: NotRequired[str]


class FalImage(TypedDict, closed=True):
    """A rendered image; `url` is a data URI if the request was submitted with `sync_mode`."""

    url: str
    width: int
    height: int
    content_type: str
    file_name: str
    file_size: int


class FalTimings(TypedDict, closed=True):
    """Seconds."""

    inference: float


class FalOutput(TypedDict, closed=True):
    """The model's output. `prompt` is the text that was rendered."""

    images: list[FalImage]
    timings: FalTimings
    seed: int
    has_nsfw_concepts: list[bool]
    prompt: str
    warnings: NotRequired[list[str]]


class FalCancelled(TypedDict, closed=True):
    """The request was cancelled, or stops within one denoising step."""

    status: Literal["CANCELLATION_REQUESTED"]


class FalAlreadyCompleted(TypedDict, closed=True):
    """The request had already ended."""

    status: Literal["ALREADY_COMPLETED"]
    detail: str
    message: str


class FalSucceeded(TypedDict, closed=True):
    """A request has succeeded. If its images have been deleted, `payload` is null and `payload_error` says so."""

    request_id: str
    gateway_request_id: str
    status: Literal["OK"]
    payload: FalOutput | None
    payload_error: NotRequired[str]


class FalFailed(TypedDict, closed=True):
    """A request has failed; `payload` is the body that its result answers with."""

    request_id: str
    gateway_request_id: str
    status: Literal["ERROR"]
    error: str
    payload: FalError


class FalUpload(TypedDict, closed=True):
    """`upload_url` takes the file, once and without a key; `file_url` is where it can be read afterwards."""

    upload_url: str
    file_url: str


class FalToken(TypedDict, closed=True):
    """A token that replaces the key at the CDN until it expires."""

    token: str
    token_type: Literal["Bearer"]
    base_url: str
    expires_at: str


class FalFile(TypedDict, closed=True):
    """The URL of a stored file."""

    access_url: str


class FalMultipartUpload(TypedDict, closed=True):
    """The URL at which the file will be stored; its parts go to addresses below it, under this id."""

    access_url: str
    uploadId: str


class FalPart(TypedDict, closed=True):
    """A part that has been stored."""

    partNumber: int
    etag: str


class SigningKey(TypedDict, closed=True):
    """An ED25519 public key (RFC 8037); `kid` is its thumbprint (RFC 7638), `x` is base64url."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    kid: str
    x: str
    use: Literal["sig"]
    alg: Literal["EdDSA"]


class SigningKeys(TypedDict, closed=True):
    """The public keys that verify webhooks in fal's dialect."""

    keys: list[SigningKey]
