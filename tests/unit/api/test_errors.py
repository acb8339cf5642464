"""Errors as responses: the status of a class or its parents, and no detail that is for operators alone."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from contextlib import closing, suppress
from typing import Any

import flask
import pytest
import structlog
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from api.http import errors
from farm.domain.errors import (
    FarmError,
    InvalidRequest,
    NotFound,
    Problem,
    QueueTooLong,
    StorageUnavailable,
    StoreUnavailable,
)
from farm.telemetry.repeats import Repeats

#: What no caller may read.
SECRETS = ("10.0.0.7:6379", "bucket-of-ada", "/srv/farm")


class NewLimit(QueueTooLong):
    """An error class that is in no table."""

    code = "new_limit"  # type: ignore[assignment]  # on purpose


def client_of(error: Exception) -> FlaskClient:
    app = flask.Flask(__name__)
    errors.install(app, count=lambda _code: None)

    def fail() -> str:
        raise error

    app.add_url_rule("/", "fail", fail, methods=["GET", "POST"])
    app.add_url_rule("/fal/queue/x", "fal", fail)
    app.add_url_rule("/api/v3/x", "wavespeed", fail)
    app.add_url_rule("/v1/x", "openai", fail)
    return app.test_client()


def test_a_new_subclass_is_answered_like_its_parent() -> None:
    response = client_of(NewLimit()).get("/")

    assert (response.status_code, response.headers["Retry-After"]) == (429, "5")
    assert response.get_json()["code"] == "new_limit"


@pytest.mark.parametrize("path", ["/", "/fal/queue/x", "/api/v3/x", "/v1/x"])
@pytest.mark.parametrize("kind", [StoreUnavailable, StorageUnavailable, FarmError])
def test_operators_read_the_detail_and_callers_do_not(kind: type[FarmError], path: str) -> None:
    client = client_of(kind(detail=" ".join(SECRETS)))

    with capture_logs() as logs:
        response = client.get(path)

    assert not any(secret in f"{response.headers}{response.text}" for secret in SECRETS)
    assert all(secret in logs[0]["error"] for secret in SECRETS)


def test_an_outage_does_not_fill_the_log() -> None:
    client = client_of(StoreUnavailable(detail="down"))

    with capture_logs() as logs:
        for _ in range(100):
            client.get("/")

    assert len(written(logs)) == 1


def written(logs: Sequence[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    """Return those of the lines that the log of a process has."""
    found = []
    with closing(Repeats()) as repeats:
        for line in logs:
            with suppress(structlog.DropEvent):
                found.append(repeats(None, "", {**line, "level": line["log_level"], "logger": "api"}))
    return found


def test_refused_reads_are_not_logged() -> None:
    with capture_logs() as logs:
        client_of(NotFound()).get("/")

    assert logs == []


def test_a_refused_submit_is_logged_without_what_its_caller_sent() -> None:
    problems = [Problem("prompt", f"{SECRETS[0]} is too long", "too_long", SECRETS[0])]
    with capture_logs() as logs:
        client_of(InvalidRequest(problems)).post("/", headers={"X-Request-Id": "r1"})

    (line,) = logs
    assert (line["event"], line["code"], line["fields"]) == ("call refused", "invalid_request", ["prompt"])
    assert (line["request_id"], line["route"]) == ("r1", "/")
    assert SECRETS[0] not in str(line)


def test_of_a_bug_the_log_has_the_traceback_and_the_caller_nothing() -> None:
    with capture_logs() as logs:
        response = client_of(ValueError(SECRETS[0])).get("/")

    assert response.status_code == 500
    assert SECRETS[0] not in response.text
    assert isinstance(logs[0]["exc_info"], ValueError)
