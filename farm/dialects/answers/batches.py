"""Answers of OpenAI's file and batch calls."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict

from farm.domain.bulk import BulkState, Endpoint, Purpose


class FileObject(TypedDict, closed=True):
    """A file. `bytes` is its size as it is downloaded."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: Literal["processed"]
    status_details: None


class FileList(TypedDict, closed=True):
    """A page of files. Pass `last_id` on as `after` for the next one."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(TypedDict, closed=True):
    """A file that no longer exists."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class BatchError(TypedDict, closed=True):
    """One reason why the input file cannot be used. `line` is counted from 1; null: the whole file."""

    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(TypedDict, closed=True):
    """The reasons why a batch has failed."""

    object: Literal["list"]
    data: list[BatchError]


class RequestCounts(TypedDict, closed=True):
    """The number of requests, of those with a result, and of those without."""

    total: int
    completed: int
    failed: int


class BatchObject(TypedDict, closed=True):
    """A batch. Times are seconds since the epoch, null if the state has not been reached.

    `model` is null if the requests name several.
    """

    id: str
    object: Literal["batch"]
    endpoint: Endpoint
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BulkState
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchList(TypedDict, closed=True):
    """A page of batches, newest first. Pass `last_id` on as `after` for the next one."""

    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class LineResponse(TypedDict, closed=True):
    """The answer to a request, as it would have been to a single call. `request_id` is the id of its job."""

    status_code: int
    request_id: str
    body: dict[str, Any]


class LineFailure(TypedDict, closed=True):
    """The reason why a request was not executed: `batch_expired` or `batch_cancelled`."""

    code: str
    message: str


class ResultLine(TypedDict, closed=True):
    """A line of an output file or of an error file."""

    id: str
    custom_id: str
    response: LineResponse | None
    error: LineFailure | None


class BatchOfEvent(TypedDict, closed=True):
    """The batch that an event is about."""

    id: str


class BatchEvent(TypedDict, closed=True):
    """The webhook event about the end of a batch."""

    id: str
    object: Literal["event"]
    created_at: int
    type: Literal["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"]
    data: BatchOfEvent
