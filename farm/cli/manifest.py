"""The manifest of `farm render --from`: what became of each request, as JSONL for programs and CSV for people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from farm.printable import LONE_SURROGATES

JSON_NAME, CSV_NAME = "manifest.jsonl", "manifest.csv"
_COLUMNS = ("id", "status", "files", "prompt", "seed", "model", "error")


@dataclass(frozen=True, slots=True)
class Row:
    """The outcome of one request. `request` is the digest of its fields: with others it is another request."""

    id: str
    status: Literal["completed", "failed"]
    request: str
    prompt: str
    model: str
    files: tuple[str, ...] = ()
    seed: int | None = None
    job: str = ""
    code: str = ""
    error: str = ""
    #: HTTP status of a failure: below 500 the same request fails again.
    http_status: int = 200

    @property
    def may_work_later(self) -> bool:
        return self.status == "failed" and (self.http_status >= 500 or self.http_status in (408, 429))


def parse(content: bytes | None) -> dict[str, Row]:
    """Return the rows of a manifest by their ids. Lines that are not rows are ignored: they will be written anew."""
    rows: dict[str, Row] = {}
    for line in (content or b"").splitlines():
        try:
            fields: dict[str, Any] = json.loads(line)
            rows[fields["id"]] = Row(**{**fields, "files": tuple(fields["files"])})
        except (ValueError, TypeError, KeyError):
            continue
    return rows


def as_jsonl(rows: Iterable[Row]) -> bytes:
    return b"".join(json.dumps(asdict(row)).encode() + b"\n" for row in rows)


def as_csv(rows: Iterable[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for row in rows:
        fields = {**asdict(row), "files": " ".join(row.files)}
        writer.writerow([_harmless(fields[name]) for name in _COLUMNS])
    return text.getvalue().encode(errors=LONE_SURROGATES)


def _harmless(value: object) -> object:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
