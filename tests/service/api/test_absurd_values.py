"""Absurd values of every header and query parameter that the API reads, at every route: never a fault of the farm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from itertools import chain, count
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
    "since",
    "until",
    "caller",
    "format",
    "after",
    "order",
    "purpose",
    DIGITS,
    "é",
]
#: What stands in a route's path for its variables.
_VARIABLE = re.compile(r"<[^>]*?(\w+)>")


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
def paths(api: FlaskClient, farm: Farm) -> list[tuple[str, str]]:
    job_id = jobs.submit(farm.store, "local")
    key = new_key(job_id, 1, 0, "png")
    farm.storage.put(key, b"an image")
    assert isinstance(api.application, Flask)
    return sorted({*routes(api.application, {"job_id": job_id, "key": key, "endpoint": "fal-ai/flux/srpo"})})


def test_no_header_is_a_fault_of_the_farm(api: FlaskClient, paths: list[tuple[str, str]]) -> None:
    """Every header at every route, with one value after the other."""
    turn = count()
    for method, path in paths:
        for header in HEADERS:
            value = ABSURD[next(turn) % len(ABSURD)]
            check(api, method, path, headers={"Content-Type": "application/json"} | {header: value})


def test_every_documented_header_and_parameter_is_tried(api: FlaskClient) -> None:
    documented: dict[str, set[str]] = {"header": set(), "query": set()}
    for path in api.get("/openapi.json").json["paths"].values():
        for parameter in chain(*(call.get("parameters", ()) for call in path.values())):
            documented.get(parameter["in"], set()).add(parameter["name"].lower())

    assert len(documented["query"]) > 10
    assert documented["header"] <= {name.lower() for name in HEADERS}
    assert documented["query"] <= {name.lower() for name in PARAMETERS}


def test_no_query_parameter_is_a_fault_of_the_farm(api: FlaskClient, paths: list[tuple[str, str]]) -> None:
    turn = count()
    for method, path in paths:
        for name in PARAMETERS:
            value = ABSURD[next(turn) % len(ABSURD)]
            check(api, method, path, query_string={name: value}, content_type="application/json")
