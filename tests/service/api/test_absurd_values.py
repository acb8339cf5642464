"""Absurd values of every header and query parameter that the API reads, at every route: never a fault of the farm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from farm.bootstrap import Farm
from farm.storage.storage import new_key
from tests.service.api.calls import UNKNOWN_ID, refusal
from tests.service.jobstore import jobs

DIGITS = "9" * 5000
ABSURD = [
    DIGITS,
    "-" + DIGITS,
    "1" * 400 + ".5",
    "1e999999",
    "NaN",
    "",
    " ",
    "\x00",
    "é\xff",
    "x" * 8000,
    "," * 4000,
    f'"{DIGITS}"',
    f"bytes={DIGITS}-{DIGITS}0",
    f"bytes=-{DIGITS}",
    f"Mon, 01 Jan {DIGITS} 00:00:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 -2359",
    f"application/json; charset={DIGITS}; boundary=é",
    "{" * 4000,
    f'{{"expiration_duration_seconds": {DIGITS}}}',
    f"{DIGITS}.{DIGITS}",
    f"{DIGITS}-{DIGITS}",
    f"Bearer {DIGITS}",
    "http://[",
    "%00%ff%",
]
HEADERS = [
    "Content-Length",
    "Content-Type",
    "Content-Encoding",
    "Transfer-Encoding",
    "X-Stainless-Retry-Count",
    "Idempotency-Key",
    "Last-Event-ID",
    "Range",
    "If-Range",
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "Authorization",
    "Host",
    "Origin",
    "Sec-Fetch-Site",
    "Access-Control-Request-Method",
    "X-Fal-Request-Timeout",
    "X-Fal-Object-Lifecycle-Preference",
    "X-Fal-Object-Lifecycle",
    "X-Fal-No-Retry",
    "X-Fal-Store-IO",
    "X-Fal-Runner-Hint",
    "X-Fal-Queue-Priority",
    "X-Fal-Target-Url",
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Real-IP",
    "X-Fal-File-Name",
    "X-Fal-Retry-Config",
    "X-App-Fal-Disable-Fallback",
    "X-Fal-Tags",
    "X-Request-Id",
    "Accept",
    "traceparent",
    "Access-Control-Request-Headers",
]
PARAMETERS = [
    "limit",
    "before",
    "status",
    "name",
    "last_event_id",
    "page",
    "page_size",
    "created_after",
    "created_before",
    "model",
    "webhook",
    "logs",
    "fal_webhook",
    "fal_max_queue_length",
    "fal_jwt_token",
    "include_inputs",
    "since",
    "until",
    "caller",
    "format",
    "after",
    "order",
    "purpose",
    "priority",
    "storage_type",
    "previews",
    "ids",
    DIGITS,
    "é",
]
#: What stands in a route's path for its variables.
_VARIABLE = re.compile(r"<[^>]*?(\w+)>")
#: The same in the API's description.
_DOCUMENTED_VARIABLE = re.compile(r"{(\w+)}")


def routes(app: Flask, known: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the method and the path of every route, once; `known` are values of variables."""
    for rule in app.url_map.iter_rules():
        if rule.rule.endswith("/"):
            continue
        path = _VARIABLE.sub(lambda match: known.get(match[1], UNKNOWN_ID), rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, path


def check(api: FlaskClient, method: str, path: str, **sent: Any) -> None:
    # Only what is not held is a whole request.
    body = b'{"prompt": "a"}' if path.startswith("/fal/queue/") else b"{}"
    response = api.open(path, method=method, data=body, **sent)
    with closing(response):
        assert response.status_code < 500, (method, path, sent, response.text)
        assert response.mimetype != "text/html" or path in ("/docs", "/queue")
        if response.status_code >= 400 and response.status_code not in (404, 405):
            refusal(response, response.status_code, path=path)


@pytest.fixture
def known(farm: Farm) -> dict[str, str]:
    """Return values of paths' variables that exist."""
    job_id = jobs.submit(farm.store, "local")
    key = new_key(job_id, 1, 0, "png")
    farm.storage.put(key, b"an image")
    return {"job_id": job_id, "request_id": job_id, "key": key, "name": key, "endpoint": "fal-ai/flux/srpo"}


@pytest.fixture
def paths(api: FlaskClient, known: dict[str, str]) -> list[tuple[str, str]]:
    assert isinstance(api.application, Flask)
    return sorted({*routes(api.application, known)})


def test_no_header_is_a_fault_of_the_farm(api: FlaskClient, paths: list[tuple[str, str]]) -> None:
    """Every header at every route, with one value after the other."""
    turn = count()
    for method, path in paths:
        for header in HEADERS:
            value = ABSURD[next(turn) % len(ABSURD)]
            check(api, method, path, headers={"Content-Type": "application/json"} | {header: value})


def documented(api: FlaskClient) -> Iterator[tuple[str, str, str, str]]:
    """Yield each parameter of each call in the API's description: method, path, whether in header or query, name."""
    description: Any = api.get("/openapi.json").json
    for path, calls in description["paths"].items():
        for method, call in calls.items():
            for parameter in call.get("parameters", ()):
                if parameter["in"] in ("header", "query"):
                    yield method.upper(), path, parameter["in"], parameter["name"]


def test_every_documented_header_and_parameter_is_tried(api: FlaskClient) -> None:
    names = {(where, name.lower()) for _, _, where, name in documented(api)}

    assert len(names) > 30
    assert names <= {*(("header", name.lower()) for name in HEADERS), *(("query", name.lower()) for name in PARAMETERS)}


@pytest.mark.full
def test_no_documented_parameter_is_a_fault_of_the_farm_whatever_it_says(
    api: FlaskClient, known: dict[str, str]
) -> None:
    """Every value in every place where it is read, which the tables with one value after the other may miss."""
    for method, template, where, name in documented(api):
        path = _DOCUMENTED_VARIABLE.sub(lambda match: known.get(match[1], UNKNOWN_ID), template)
        for value in ABSURD:
            sent: dict[str, Any] = {"headers": {name: value}} if where == "header" else {"query_string": {name: value}}
            check(api, method, path, content_type="application/json", **sent)


def test_no_query_parameter_is_a_fault_of_the_farm(api: FlaskClient, paths: list[tuple[str, str]]) -> None:
    turn = count()
    for method, path in paths:
        for name in PARAMETERS:
            value = ABSURD[next(turn) % len(ABSURD)]
            check(api, method, path, query_string={name: value}, content_type="application/json")
