"""CPU time and memory that a request body without images costs the farm, measured in a process of its own."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import flask

from api.app import MAX_BODY
from api.http import multipart
from api.http.body import IMAGES_BODY
from farm.bulk.lines import LineReader
from farm.bulk.validation import FileCheck
from farm.dialects import fields, native
from farm.domain.errors import InvalidRequest, Problem
from farm.storage.storage import Chunks, Storage
from tests.hostile_bodies import BODIES
from tests.image_costs import Cost, measured


def body_cost(table: str, name: str) -> Cost:
    """Measure a hostile body."""
    content = BODIES[table][name]()
    return measured(lambda: _READERS[table](content))


def _read_json(content: bytes) -> None:
    native.read(fields.decode(content), model="srpo", default_seed=1)


def _read_form(content: bytes) -> None:
    """Read a form as the API does, in the context of a request."""
    app = flask.Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.extensions["body_memory"] = SimpleNamespace(reserve=lambda _: None)
    sent: Any = {"data": content, "content_type": "multipart/form-data; boundary=x", "method": "POST"}
    with app.test_request_context("/", **sent):
        multipart.read_form(max_bytes=IMAGES_BODY)


def _check_batch(content: bytes) -> None:
    """Check the file of a batch as the webhook worker does, and raise its first problem."""
    storage = cast(Storage, SimpleNamespace(open=lambda _key, start, stop: _chunks(content, start, stop)))
    reader = LineReader(storage, "key", len(content))
    checked = FileCheck("/v1/images/generations").check(reader.lines(), stop=lambda: False)
    assert checked
    if checked.problems:
        raise InvalidRequest([Problem("", checked.problems[0].message, checked.problems[0].code)])


def _chunks(content: bytes, start: int, stop: int) -> Chunks:
    return Chunks(io.BytesIO(content[start:stop]), stop - start)


_READERS: Mapping[str, Callable[[bytes], None]] = {"JSON": _read_json, "form": _read_form, "batch": _check_batch}
