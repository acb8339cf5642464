"""Files of requests for `farm render --from`: JSONL, CSV, or a prompt a line."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from farm.dialects.openai_common import form_fields
from farm.domain.catalogue import MAX_IMAGES
from farm.domain.errors import FarmError

STANDARD_INPUT = "-"
Form = Literal["jsonl", "csv", "tsv", "text"]
#: The end of a file's name → its form. Any other file has a prompt a line.
_FORMS: Mapping[str, Form] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv"}
#: Characters that stay in a file name.
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
MAX_ID = 200
#: The name of contact sheets, which no image may have.
CONTACT_SHEET = "contact-sheet"


class UnusableRequests(FarmError):
    """A file of requests that cannot be read."""


@dataclass(frozen=True, slots=True)
class FileRequest:
    """A request of the file: its id, its fields under fal's names, and the number of its line."""

    id: str
    fields: Mapping[str, Any]
    line: int = 0

    @property
    def stem(self) -> str:
        """The name of its image files, without their numbers and extension."""
        name = _UNSAFE.sub("-", self.id).strip(".") or "image"
        return f"image-{name}" if name.lower().startswith(CONTACT_SHEET) else name

    def stems(self, count: int) -> list[str]:
        """Return the names of so many images, without an extension."""
        return [f"{self.stem}-{number}" for number in range(1, count + 1)] if count > 1 else [self.stem]

    @property
    def count(self) -> int:
        """The number of its images; 1 if the farm will refuse what it says."""
        count = self.fields.get("num_images", self.fields.get("n"))
        return count if count in range(1, MAX_IMAGES + 1) else 1


def read_requests(name: str) -> list[FileRequest]:
    """Return the requests of a file, or of the standard input. Raises UnusableRequests, with the number of the line."""
    text = _text(name)
    rows = list(_rows(text, _form_of(name, text)))
    width = len(str(len(rows)))
    requests = [_request(fields, f"{number:0{width}}", line) for number, (line, fields) in enumerate(rows, 1)]
    if not requests:
        raise UnusableRequests(f"--from: {name} has no requests.")
    return requests


def _text(name: str) -> str:
    try:
        content = sys.stdin.buffer.read() if name == STANDARD_INPUT else Path(name).read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UnusableRequests(f"--from: cannot read {name}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UnusableRequests(f"--from: {name} is not UTF-8 text.") from error


def _form_of(name: str, text: str) -> Form:
    if name != STANDARD_INPUT:
        return _FORMS.get(PurePath(name).suffix.lower(), "text")
    if text.lstrip().startswith("{"):
        return "jsonl"
    columns = next(csv.reader([text.lstrip().partition("\n")[0].rstrip()]), [])
    # A lone `prompt` would be the first prompt of a text.
    return "csv" if len(columns) > 1 and "prompt" in columns else "text"


def _rows(text: str, form: Form) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the fields of each request with the number of its line."""
    if form in ("csv", "tsv"):
        yield from _csv_rows(text, "\t" if form == "tsv" else ",")
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _json_row(line, number) if form == "jsonl" else {"prompt": line.strip()}


def _json_row(line: str, number: int) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise UnusableRequests(f"--from, line {number}: it is not JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise UnusableRequests(f"--from, line {number}: it must be a JSON object.")
    return fields


def _csv_rows(text: str, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        if reader.fieldnames and "prompt" not in reader.fieldnames:
            name = "tab" if delimiter == "\t" else "comma"
            raise UnusableRequests(
                f"--from, line 1: it must name the columns, of which one is 'prompt', with a {name} between them."
            )
        for row in reader:
            if None in row:
                raise UnusableRequests(f"--from, line {reader.line_num}: it has more values than the first line.")
            yield reader.line_num, form_fields({name: value for name, value in row.items() if value})
    except csv.Error as error:
        raise UnusableRequests(f"--from, line {reader.line_num + 1}: it is not CSV: {error}.") from error


def _request(fields: Mapping[str, Any], default_id: str, line: int) -> FileRequest:
    request_id = fields.get("id", default_id)
    if not isinstance(request_id, str | int) or not 0 < len(str(request_id)) <= MAX_ID:
        raise UnusableRequests(f"--from, line {line}: id must be a text of 1 to {MAX_ID} characters.")
    if not isinstance(fields.get("prompt"), str):
        raise UnusableRequests(f"--from, line {line}: prompt is missing; send a text.")
    return FileRequest(str(request_id), {name: value for name, value in fields.items() if name != "id"}, line)


def refuse_shared_files(requests: Iterable[FileRequest]) -> None:
    """Raise UnusableRequests if two requests write one file; names of files may differ in more than case."""
    seen: dict[str, str] = {}
    for request in requests:
        for name in {stem.lower() for stem in (request.stem, *request.stems(request.count))}:
            if name in seen:
                raise UnusableRequests(
                    f"--from, line {request.line}: the id '{request.id}' makes the same files as '{seen[name]}'. "
                    "Their names have the letters a to z, digits, '.', '_' and '-' of the ids, in any case."
                )
            seen[name] = request.id
