"""Conformance of answers to the API's own document: status, content type, headers, shape."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import flask
from pydantic import TypeAdapter, ValidationError
from werkzeug.routing import Map

from api.openapi.document import SECTIONS
from api.openapi.operation import Operation, Response

Described = dict[tuple[str, str], list[Operation]]


def described(url_map: Map) -> Described:
    """Return the description of each view and method. Raises werkzeug's NotFound for a path without a route."""
    adapter = url_map.bind("localhost")
    found: Described = {}
    for operation in (item for section in SECTIONS for item in section.operations):
        method = operation.method.upper()
        rule, _ = adapter.match(operation.path.replace("{", "").replace("}", ""), method, return_rule=True)
        found.setdefault((rule.endpoint, method), []).append(operation)
    return found


class Listener:
    """Checks every answer of an application, and records what was wrong with them."""

    def __init__(self, app: flask.Flask) -> None:
        self._described = described(app.url_map)
        self.wrong: list[str] = []
        app.after_request_funcs.setdefault(None, []).insert(0, self._hear)  # the first of them hears last

    def _hear(self, response: flask.Response) -> flask.Response:
        rule, method = flask.request.url_rule, flask.request.method.replace("HEAD", "GET")
        operations = self._described.get((rule.endpoint, method), []) if rule else []
        complaints = [_complaint(operation, response) for operation in operations]
        if complaints and all(complaints):
            self.wrong.append(f"{flask.request.method} {flask.request.path}: {complaints[0]}")
        return response


def _complaint(operation: Operation, response: flask.Response) -> str:
    """Return what is wrong with the answer; empty if nothing is."""
    answer = operation.responses.get(response.status_code)
    if answer is None:
        return f"{response.status_code} is not described: {response.get_data(as_text=True)[:300]}"
    missing = [header.name for header in answer.headers if header.is_required and header.name not in response.headers]
    if missing:
        return f"{response.status_code} lacks {', '.join(missing)}"
    if response.is_streamed or flask.request.method == "HEAD" or response.status_code == 304:
        return ""
    return _complaint_of_body(answer, response)


def _complaint_of_body(answer: Response, response: flask.Response) -> str:
    if not answer.media_types:
        return "" if not response.data else f"{response.status_code} has a body"
    if response.mimetype not in answer.media_types:
        return f"{response.mimetype} is not described: {answer.media_types}"
    if not response.mimetype.endswith("json") or answer.type is None:
        return ""
    # Half a surrogate pair, which an answer may repeat escaped, is nothing that pydantic reads.
    content = json.dumps(response.get_json(), ensure_ascii=False).encode(errors="replace")
    try:
        _adapter(answer.type).validate_json(content, strict=True)
    except ValidationError as error:
        return f"{response.status_code} has another shape: {error}"
    return ""


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
