"""`farm render --from`: a file of requests as batches, with every image in one folder, and a manifest.

What has been done is kept beside the images. So the same command, run again, goes on: batches that still run are waited
for, images that are there stay, and failed requests are tried again.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from farm import clock
from farm.cli import manifest
from farm.cli.batches import BatchClient
from farm.cli.client import CallFailed
from farm.cli.manifest import Row
from farm.cli.output import Output
from farm.cli.request_fields import image_urls
from farm.cli.request_file import FileRequest
from farm.concurrency.fan_out import for_each
from farm.domain.bulk import EDITS, GENERATIONS, TERMINAL, Endpoint
from farm.domain.catalogue import MAX_BULK_LINE
from farm.printable import say

#: The file that tells which batches still run.
STATE_NAME = ".farm-render.json"
#: Requests and bytes of one batch: its images are downloaded when all of it is done, while the next one is rendered.
PART_REQUESTS = 1000
PART_BYTES = 50_000_000
#: Batches that run at a time, so that the farm never waits for the next one.
PARTS_AT_A_TIME = 2
#: How often a request that failed for a passing reason is tried in one run.
MAX_TRIES = 3
#: Images that are downloaded at a time.
MAX_DOWNLOADS = 8
_POLL_SECONDS = 0.5
#: Fields that bring input images.
INPUT_FIELDS = ("image_url", "image_urls", "image", "images")
#: Most bytes that the image files of a request may have together: as data URIs they fit into a line, with its prompt.
MAX_FILE_BYTES = (MAX_BULK_LINE - 2**16) * 3 // 4


@dataclass(frozen=True, slots=True)
class Part:
    """Requests that were sent as one batch: id → digest. `batch` is empty until the farm has answered."""

    key: str
    endpoint: Endpoint
    file: str
    requests: Mapping[str, str]
    batch: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a run: a row for each request, in the order of the file."""

    rows: Sequence[Row]

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.status == "failed"]


class BulkRender:
    """Renders a list of requests into an output. `requests` have all fields of their calls, and name files of images.

    The files are read twice, and not kept: once for the digests of the requests, and when they are sent.
    """

    def __init__(self, client: BatchClient, output: Output, requests: Sequence[FileRequest], console: Console) -> None:
        self._client = client
        self._output = output
        self._console = console
        self._requests = {request.id: request for request in requests}
        self._digests = {request.id: digest(body_of(request)) for request in requests}
        self._earlier = manifest.parse(output.read(manifest.JSON_NAME))
        self._rows = self._kept_rows()
        parts = _parts(output.read(STATE_NAME))
        self._parts = [part for part in parts if self._is_own(part)]
        #: Those of other commands with the same output.
        self._foreign_parts = [part for part in parts if not self._is_own(part)]
        #: The requests that have neither an image nor a batch, and how often each was sent.
        self._todo = {request.id: request for request in requests if not self._is_settled(request.id)}
        self._tries: Counter[str] = Counter()
        self._lock = threading.Lock()

    def run(self, *, shows_progress: bool) -> Summary:
        """Render what has no image yet, and return the outcome. Raises FarmError."""
        with self._bar(shows_progress) as bar:
            bar.show(len(self._rows), len(self._requests))
            while self._fill():
                part = self._parts[0]
                batch = self._wait_for(part, bar)
                try:
                    self._collect(batch)
                finally:
                    self._save()
                self._parts.remove(part)
                self._settle(part)
                self._save()
        self._rows = {request.id: self._row(request) for request in self._requests.values()}
        self._save()
        self._output.write(manifest.CSV_NAME, manifest.as_csv(self._all_rows()))
        return Summary(list(self._rows.values()))

    def cancel(self) -> None:
        """Cancel the batches that run."""
        for part in self._parts:
            with suppress(CallFailed):  # it has ended
                self._client.cancel(part.batch)

    # What is to do

    def _kept_rows(self) -> dict[str, Row]:
        """Return the rows of an earlier run whose images are there, of the same requests."""
        present = self._output.names()
        return {
            row.id: row
            for row in self._earlier.values()
            if row.status == "completed" and row.request == self._digests.get(row.id) and present.issuperset(row.files)
        }

    def _is_own(self, part: Part) -> bool:
        """Return True if a part has any of the requests."""
        return any(self._digests.get(request_id) == sent for request_id, sent in part.requests.items())

    def _is_settled(self, request_id: str) -> bool:
        return request_id in self._rows or any(
            part.requests.get(request_id) == self._digests[request_id] for part in self._parts
        )

    def _fill(self) -> bool:
        """Send batches until enough run. Return True if any runs."""
        while self._todo and len(self._parts) < PARTS_AT_A_TIME:
            self._send(*self._next_lines())
        for number, part in enumerate(self._parts):
            if not part.batch:
                self._create(number, part)
        return bool(self._parts)

    def _next_lines(self) -> tuple[Endpoint, dict[str, bytes]]:
        """Return the lines of the next requests for one path, as many as one batch may have: id → line."""
        endpoint = endpoint_of(next(iter(self._todo.values())))
        lines: dict[str, bytes] = {}
        size = 0
        for request in self._todo.values():
            if endpoint_of(request) != endpoint:
                continue
            line = _line(request)
            size += len(line)
            if lines and (size > PART_BYTES or len(lines) == PART_REQUESTS):
                break
            lines[request.id] = line
        return endpoint, lines

    def _send(self, endpoint: Endpoint, lines: Mapping[str, bytes]) -> None:
        """Upload a part, and note it before its batch is created: a run that ends in between creates no second one."""
        file_id = self._client.upload(b"".join(lines.values()))
        digests = {request_id: self._digests[request_id] for request_id in lines}
        self._tries.update(digests.keys())
        for request_id in digests:
            del self._todo[request_id]
        self._parts.append(Part(secrets.token_hex(16), endpoint, file_id, digests))
        self._save_state()

    def _create(self, number: int, part: Part) -> None:
        batch = self._client.create(part.file, part.endpoint, key=part.key)
        self._parts[number] = replace(part, batch=batch["id"])
        self._save_state()

    # What comes back

    def _wait_for(self, part: Part, bar: _Bar) -> dict[str, Any] | None:
        """Return the batch of a part when it has ended; None if the farm no longer knows it."""
        finished = len(self._requests) - len(self._todo) - sum(len(other.requests) for other in self._parts)
        while True:
            batches = [self._client.batch(other.batch) for other in self._parts]
            bar.show(finished + sum(_done(batch) for batch in batches if batch), len(self._requests))
            batch = batches[self._parts.index(part)]
            if batch is None or batch["status"] in TERMINAL:
                return batch
            clock.pause(_POLL_SECONDS)

    def _collect(self, batch: Mapping[str, Any] | None) -> None:
        """Download the images of a batch, and note what became of its requests."""
        part = self._parts[0]
        if batch is None:
            return
        if batch["status"] == "failed":
            self._parts.remove(part)
            problems = (batch["errors"] or {"data": [{"message": "it did not say why"}]})["data"]
            raise CallFailed(f"The farm refused the requests: {problems[0]['message']}")
        # A request that has changed since it was sent is rendered anew.
        results = (
            result
            for result in self._client.results(batch)
            if part.requests.get(result["custom_id"]) == self._digests.get(result["custom_id"], "")
        )
        for_each(results, self._keep, threads=MAX_DOWNLOADS)

    def _settle(self, part: Part) -> None:
        """Have those requests of a part sent again that may work later."""
        for request_id, sent in part.requests.items():
            row = self._rows.get(request_id)
            is_passing = row is None or row.may_work_later
            if sent == self._digests.get(request_id) and is_passing and self._tries[request_id] < MAX_TRIES:
                self._todo[request_id] = self._requests[request_id]

    def _keep(self, result: Mapping[str, Any]) -> None:
        """Save the images of a request, and its row."""
        request = self._requests[result["custom_id"]]
        try:
            row = self._saved(request, result) if _is_success(result) else self._failed(request, result)
        except CallFailed as error:
            row = self._new_row(request, status="failed", error=str(error), http_status=503, job=_job_of(result))
        with self._lock:
            self._rows[request.id] = row

    def _saved(self, request: FileRequest, result: Mapping[str, Any]) -> Row:
        body = result["response"]["body"]
        names = [f"{stem}.{request.fields['output_format']}" for stem in request.stems(len(body["data"]))]
        for name, image in zip(names, body["data"], strict=True):
            self._output.write(name, self._client.download(image["url"]))
        return self._new_row(
            request, status="completed", files=tuple(names), seed=body.get("seed"), job=_job_of(result)
        )

    def _failed(self, request: FileRequest, result: Mapping[str, Any]) -> Row:
        if result["response"] is None:
            error, status = result["error"], 503
        else:
            error, status = result["response"]["body"]["error"], result["response"]["status_code"]
        return self._new_row(
            request,
            status="failed",
            code=str(error["code"]),
            error=error["message"],
            http_status=status,
            job=_job_of(result),
        )

    def _new_row(self, request: FileRequest, **fields: Any) -> Row:
        return Row(
            id=request.id,
            request=self._digests[request.id],
            prompt=request.fields["prompt"],
            model=request.fields["model"],
            **fields,
        )

    def _row(self, request: FileRequest) -> Row:
        lost = "The farm no longer knows the batch of this request; run the same command again."
        return self._rows.get(request.id) or self._new_row(request, status="failed", error=lost)

    # What is kept

    def _save(self) -> None:
        self._output.write(manifest.JSON_NAME, manifest.as_jsonl(self._all_rows()))
        self._save_state()

    def _all_rows(self) -> list[Row]:
        """Return the rows, and behind them those of other commands with the same output."""
        foreign = [row for row in self._earlier.values() if row.id not in self._requests]
        return [*self._rows.values(), *foreign]

    def _save_state(self) -> None:
        self._output.write(
            STATE_NAME, json.dumps([asdict(part) for part in (*self._parts, *self._foreign_parts)]).encode()
        )

    @contextmanager
    def _bar(self, shows_progress: bool) -> Iterator[_Bar]:
        columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, disable=not shows_progress) as progress:
            yield _Bar(progress)


class _Bar:
    """A progress bar over all requests."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("requests", total=None)

    def show(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)


class _Rate(ProgressColumn):
    """The rate of the last minutes."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


def digest(fields: Mapping[str, Any]) -> str:
    """Return the digest of a request's fields."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32]


def endpoint_of(request: FileRequest) -> Endpoint:
    """Return the path of a request: that for edits if it brings an image."""
    return EDITS if any(request.fields.get(name) for name in INPUT_FIELDS) else GENERATIONS


def body_of(request: FileRequest) -> dict[str, Any]:
    """Return the fields of a request with the content of the files that it names. Raises UnusableFile."""
    fields = dict(request.fields)
    read = partial(image_urls, source=request.id, max_bytes=MAX_FILE_BYTES)
    if "image_urls" in fields:
        fields["image_urls"] = read(fields["image_urls"])
    if "image_url" in fields:
        (fields["image_url"],) = read([fields["image_url"]])
    return fields


def _line(request: FileRequest) -> bytes:
    body = {**body_of(request), "response_format": "url"}
    line = {"custom_id": request.id, "method": "POST", "url": endpoint_of(request), "body": body}
    return json.dumps(line).encode() + b"\n"


def _parts(content: bytes | None) -> list[Part]:
    """Return the parts that an earlier run has left; none if its file cannot be read."""
    try:
        return [Part(**fields) for fields in json.loads(content or b"[]")]
    except (ValueError, TypeError):
        say(f"{STATE_NAME} cannot be read; what ran is rendered again.", file=sys.stderr)
        return []


def _done(batch: Mapping[str, Any]) -> int:
    counts = batch["request_counts"]
    return int(counts["completed"]) + int(counts["failed"])


def _is_success(result: Mapping[str, Any]) -> bool:
    response = result["response"]
    return response is not None and 200 <= response["status_code"] < 300


def _job_of(result: Mapping[str, Any]) -> str:
    return str(result["response"]["request_id"]) if result["response"] else ""
