"""OpenAI's file and batch calls, after its Python library: requests, lines of files, answers, webhook events. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from farm.dialects import fields
from farm.dialects.answers import batches as answers
from farm.dialects.fields import Input, Whole
from farm.dialects.openai_common import error_response, failure
from farm.domain.bulk import Bulk, BulkFile, BulkState, Ending, Endpoint, LineProblem
from farm.domain.catalogue import MAX_BULK_SECONDS
from farm.domain.delivery import Due
from farm.domain.errors import FarmError, InvalidRequest, Problem
from farm.domain.job import Job

#: How long a file may be kept, in seconds.
MIN_KEEP_SECONDS, MAX_KEEP_SECONDS = 3600, 2592000
MAX_METADATA, MAX_METADATA_NAME, MAX_METADATA_VALUE = 16, 64, 512
MAX_CUSTOM_ID = 512
#: So many characters of what is wrong with a line are shown, whole problems: errors of all lines are in the job store.
MAX_LINE_MESSAGE = 500
#: Pages of files, and of batches: the most items, and how many without a limit.
MAX_FILES, DEFAULT_FILES = 10_000, 10_000
MAX_BATCHES, DEFAULT_BATCHES = 100, 20

_METHOD = "POST"
_LINE_FIELDS = ("custom_id", "method", "url", "body")
_WINDOW = re.compile(r"([1-9][0-9]{0,6})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: The reasons for which a line was not executed, as OpenAI's clients know them.
_ENDINGS: Mapping[Ending, str] = {
    "expired": "This request was not executed before the completion window was over.",
    "cancelled": "This request was not executed: its batch was cancelled.",
}


class KeepTime(Input):
    """Lifetime of a file, counted from its creation."""

    anchor: Literal["created_at"]
    seconds: Annotated[Whole, Field(ge=MIN_KEEP_SECONDS, le=MAX_KEEP_SECONDS)]


class FileForm(Input):
    """The texts of an upload's form, beside its file."""

    purpose: Literal["batch"]
    expires_after: KeepTime | None = None


class BatchInput(Input):
    """The body of a call that creates a batch. `webhook_url` is the farm's own."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: str
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(max_length=MAX_METADATA_NAME)],
                Annotated[str, Field(max_length=MAX_METADATA_VALUE)],
            ],
            Field(max_length=MAX_METADATA),
        ]
        | None
    ) = None
    output_expires_after: KeepTime | None = None
    webhook_url: Annotated[str, Field(min_length=1)] | None = None

    @property
    def window_seconds(self) -> int:
        """The time for the completion of the batch. Raises InvalidRequest."""
        match = _WINDOW.fullmatch(self.completion_window)
        seconds = int(match[1]) * _UNITS[match[2]] if match else 0
        if not 0 < seconds <= MAX_BULK_SECONDS:
            message = f"allowed: 24h, or another time in s, m, h or d, up to {MAX_BULK_SECONDS // 86400}d"
            raise InvalidRequest([Problem("completion_window", message, "window_range", self.completion_window)])
        return seconds


@dataclass(frozen=True, slots=True)
class Line:
    """A request in the file of a batch."""

    custom_id: str
    body: Mapping[str, Any]


class BadLine(Exception):
    """A line that makes the whole file unusable."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        self.code = code
        self.param = param
        super().__init__(message)

    def at(self, line: int) -> LineProblem:
        """Return the problem with the number of its line."""
        return LineProblem(self.code, str(self), line, self.param)


def read_form(texts: Mapping[str, Any]) -> FileForm:
    """Parse the texts of an upload's form. Raises InvalidRequest."""
    keep = texts.get("expires_after")
    if isinstance(keep, dict):
        seconds = keep.get("seconds")
        if isinstance(seconds, str) and seconds.isascii() and seconds.isdigit():
            texts = {**texts, "expires_after": {**keep, "seconds": int(seconds[:20])}}
    return fields.parse(FileForm, texts)


def read_batch(body: Mapping[str, Any]) -> BatchInput:
    """Parse the body of a call that creates a batch. Null is as absent. Raises InvalidRequest."""
    return fields.parse(BatchInput, {name: value for name, value in body.items() if value is not None})


def read_line(content: bytes, endpoint: Endpoint) -> Line:
    """Parse a line of an input file. Raises BadLine."""
    try:
        line = fields.decode(content)
    except InvalidRequest as error:
        reason = error.shortened(MAX_LINE_MESSAGE)
        raise BadLine("invalid_json_line", f"The line is not a JSON object: {reason}") from error
    _refuse_other_fields(line)
    custom_id, method, url, body = (line.get(name) for name in _LINE_FIELDS)
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID:
        raise BadLine("invalid_custom_id", f"Send a text of 1 to {MAX_CUSTOM_ID} characters.", "custom_id")
    if method != _METHOD:
        raise BadLine("invalid_method", f"Send '{_METHOD}'.", "method")
    if url != endpoint:
        raise BadLine("mismatched_endpoint", f"Send the endpoint of the batch, '{endpoint}'.", "url")
    if not isinstance(body, dict):
        raise BadLine("invalid_body", "Send the request as a JSON object.", "body")
    return Line(custom_id, body)


def _refuse_other_fields(line: Mapping[str, Any]) -> None:
    for name in _LINE_FIELDS:
        if name not in line:
            raise BadLine("missing_required_parameter", f"The field {name} is missing.", name)
    others = [name for name in line if name not in _LINE_FIELDS]
    if others:
        allowed = ", ".join(_LINE_FIELDS)
        raise BadLine("unknown_parameter", f"Unknown field; allowed: {allowed}.", others[0][:80])


def file(item: BulkFile) -> answers.FileObject:
    """Build the answer that shows a file."""
    return {
        "id": item.id,
        "object": "file",
        "bytes": item.bytes,
        "created_at": item.created_us // 1_000_000,
        "expires_at": item.expires_us // 1_000_000,
        "filename": item.name,
        "purpose": item.purpose,
        "status": "processed",
        "status_details": None,
    }


def files(items: Sequence[BulkFile], count: int) -> answers.FileList:
    """Build the answer with a page of `count` files; `items` has one more if there are more."""
    shown = [file(item) for item in items[:count]]
    first, last = _ends(items[:count])
    return {"object": "list", "data": shown, "first_id": first, "last_id": last, "has_more": len(items) > count}


def deleted(file_id: str) -> answers.DeletedFile:
    """Build the answer to a deletion."""
    return {"id": file_id, "object": "file", "deleted": True}


def batch(bulk: Bulk) -> answers.BatchObject:
    """Build the answer that shows a batch."""

    def at(state: BulkState) -> int | None:
        us = bulk.reached_us.get(state)
        return us // 1_000_000 if us else None

    return {
        "id": bulk.id,
        "object": "batch",
        "endpoint": bulk.endpoint,
        "model": bulk.model or None,
        "errors": {"object": "list", "data": [_error(problem) for problem in bulk.errors]} if bulk.errors else None,
        "input_file_id": bulk.file,
        "completion_window": bulk.window,
        "status": bulk.state,
        "output_file_id": bulk.output_file or None,
        "error_file_id": bulk.error_file or None,
        "created_at": bulk.created_us // 1_000_000,
        "in_progress_at": at(BulkState.IN_PROGRESS),
        "expires_at": bulk.expires_us // 1_000_000,
        "finalizing_at": at(BulkState.FINALIZING),
        "completed_at": at(BulkState.COMPLETED),
        "failed_at": at(BulkState.FAILED),
        "expired_at": at(BulkState.EXPIRED),
        "cancelling_at": at(BulkState.CANCELLING),
        "cancelled_at": at(BulkState.CANCELLED),
        "request_counts": {"total": bulk.total, "completed": bulk.completed, "failed": bulk.failed},
        "metadata": dict(bulk.metadata) or None,
    }


def batches(items: Sequence[Bulk], count: int) -> answers.BatchList:
    """Build the answer with a page of `count` batches; `items` has one more if there are more."""
    shown = [batch(item) for item in items[:count]]
    first, last = _ends(items[:count])
    return {"object": "list", "data": shown, "first_id": first, "last_id": last, "has_more": len(items) > count}


def _ends(items: Sequence[Bulk | BulkFile]) -> tuple[str | None, str | None]:
    """Return the ids of the first and of the last item of a page."""
    return (items[0].id, items[-1].id) if items else (None, None)


def _error(problem: LineProblem) -> answers.BatchError:
    return {"code": problem.code, "message": problem.message, "param": problem.param, "line": problem.line}


def succeeded(custom_id: str, job: Job, status: int, body: Mapping[str, Any]) -> answers.ResultLine:
    """Build the line of a request whose images were rendered; `body` is the answer to a single call."""
    return _line(custom_id, job.id, status, body)


def failed(custom_id: str, job_id: str, status: int, error: FarmError) -> answers.ResultLine:
    """Build the line of a request that was refused, or whose job failed."""
    shown = error.shortened(MAX_LINE_MESSAGE) if isinstance(error, InvalidRequest) else error
    response = error_response(status, shown)
    return _line(custom_id, job_id, response.status, response.body)


def failed_job(custom_id: str, job: Job) -> answers.ResultLine:
    """Build the line of a request whose job failed."""
    return failed(custom_id, job.id, *failure(job))


def not_executed(custom_id: str, job_id: str, ending: Ending) -> answers.ResultLine:
    """Build the line of a request that was not executed before the batch ended."""
    error: answers.LineFailure = {"code": f"batch_{ending}", "message": _ENDINGS[ending]}
    return {"id": _request_id(job_id), "custom_id": custom_id, "response": None, "error": error}


def _line(custom_id: str, job_id: str, status: int, body: Mapping[str, Any]) -> answers.ResultLine:
    response: answers.LineResponse = {"status_code": status, "request_id": job_id, "body": dict(body)}
    return {"id": _request_id(job_id), "custom_id": custom_id, "response": response, "error": None}


def _request_id(job_id: str) -> str:
    return f"batch_req_{job_id.replace('-', '')}"


def encoded(line: answers.ResultLine) -> bytes:
    """Return a line of a result file, in ASCII: lone surrogates, which UTF-8 cannot hold, stay as they came."""
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def event(due: Due) -> answers.BatchEvent:
    """Build the body of the webhook about the end of a batch."""
    return {
        "id": f"evt_{due.id.partition('-0')[0].replace('-', '')}",
        "object": "event",
        "created_at": due.created_us // 1_000_000,
        "type": cast("Any", due.event),
        "data": {"id": due.job},
    }
