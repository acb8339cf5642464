"""Errors of calls before their parameters are read: always JSON, in the dialect of the path."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from api.app import MAX_BODY
from api.http.body import IMAGES_BODY
from farm.bootstrap import Farm
from tests.service.api.calls import EDITS, FAL_QUEUE, FAL_RUN, GENERATIONS, UNKNOWN_ID, WAVESPEED, problem, refusal

#: Where images are asked for, and how large a body may be.
SUBMITS = [
    ("/farm/v1/jobs", IMAGES_BODY),
    (WAVESPEED, IMAGES_BODY),
    (FAL_QUEUE, MAX_BODY),
    (FAL_RUN, MAX_BODY),
    (GENERATIONS, MAX_BODY),
    (EDITS, IMAGES_BODY),
]


@pytest.mark.parametrize(("path", "maximum"), SUBMITS)
def test_a_body_that_is_too_large_is_413(api: FlaskClient, farm: Farm, path: str, maximum: int) -> None:
    body = b'{"model": "srpo", "prompt": "a fox"}'.ljust(maximum + 1)

    assert str(maximum) in refusal(api.post(path, data=body), 413, path=path)
    assert farm.redis.keys("srpo:job:*") == []


@pytest.mark.parametrize(("path", "maximum"), SUBMITS)
def test_a_body_of_the_largest_size_is_read(api: FlaskClient, path: str, maximum: int) -> None:
    body = b"{" + b" " * (maximum - 2) + b"}"
    status = 400 if path in (WAVESPEED, GENERATIONS, EDITS) else 422

    assert "required" in refusal(api.post(path, data=body), status, path=path)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (WAVESPEED, {"POST", "OPTIONS"}),
        (f"/farm/v1/jobs/{UNKNOWN_ID}/cancel", {"POST", "OPTIONS"}),
    ],
)
def test_the_wrong_method_is_405_with_the_right_one(api: FlaskClient, path: str, allowed: set[str]) -> None:
    response = api.get(path)

    assert f"GET is not allowed here; allowed: {', '.join(sorted(allowed))}." in refusal(response, 405, path=path)
    assert {method.strip() for method in response.headers["Allow"].split(",")} == allowed


@pytest.mark.parametrize("path", ["/nothing", "/farm/v1/nothing", "/fal/nothing", "/api/v3", "/v1/nothing"])
def test_an_address_where_nothing_is_is_named(api: FlaskClient, path: str) -> None:
    assert f"Not found: '{path}'. See /docs." in refusal(api.get(path), 404, path=path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/farm/v1/jobs"),
        ("PATCH", f"/farm/v1/jobs/{UNKNOWN_ID}"),
        ("POST", "/healthz"),
        ("DELETE", f"/api/v3/predictions/{UNKNOWN_ID}"),
        ("BREW", "/farm/v1/jobs"),
    ],
)
def test_any_other_method_is_405(api: FlaskClient, method: str, path: str) -> None:
    refusal(api.open(path, method=method), 405, path=path)


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/fal/queue/fal-ai/flux/requests/x", {"GET", "HEAD", "OPTIONS"}),
        ("/fal/queue/fal-ai/flux/requests/x/response", {"GET", "HEAD", "OPTIONS"}),
        ("/fal/queue/fal-ai/flux/requests/x/status", {"GET", "HEAD", "OPTIONS"}),
        ("/fal/queue/fal-ai/flux/requests/x/cancel", {"PUT", "OPTIONS"}),
        ("/api/v3/predictions/x", {"GET", "HEAD", "OPTIONS"}),
        ("/api/v3/predictions/x/result", {"GET", "HEAD", "OPTIONS"}),
        ("/api/v3/webhook/secret", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_post_to_what_has_another_method_is_no_unknown_model(
    api: FlaskClient, path: str, slash: str, allowed: set[str]
) -> None:
    response = api.post(path + slash, json={"prompt": "a fox"})

    refusal(response, 405, path=path)
    assert {method.strip() for method in response.headers["Allow"].split(",")} == allowed


@pytest.mark.parametrize("path", ["/farm/v1/jobs", WAVESPEED, FAL_QUEUE, "/files/x", "/healthz"])
def test_an_empty_answer_has_no_type(keyed: FlaskClient, path: str) -> None:
    response = keyed.options(path)

    assert (response.status_code, response.data) == (200, b"")
    assert "Content-Type" not in response.headers


@pytest.mark.parametrize("path", ["/farm/v1/jobs", f"/farm/v1/jobs/{UNKNOWN_ID}", "/farm/v1/deliveries"])
@pytest.mark.parametrize("query", ["statsu=failed", "limit=1&limit=2"])
def test_a_parameter_that_is_unknown_or_given_twice_is_refused(api: FlaskClient, path: str, query: str) -> None:
    (item,) = problem(api.get(f"{path}?{query}"), 422)["errors"]

    assert item["field"] == query.partition("=")[0]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/farm/v1/jobs"),
        ("DELETE", f"/farm/v1/jobs/{UNKNOWN_ID}"),
        ("POST", f"/farm/v1/jobs/{UNKNOWN_ID}/cancel"),
        ("GET", "/farm/v1/queue"),
        ("GET", "/farm/v1/workers"),
        ("GET", "/farm/v1/models"),
        ("GET", "/farm/v1/webhook_secret"),
        ("POST", "/farm/v1/deliveries"),
        ("GET", "/farm/v1/deliveries/x"),
        ("POST", "/farm/v1/deliveries/x/redeliver"),
    ],
)
def test_a_path_without_parameters_takes_none(api: FlaskClient, method: str, path: str) -> None:
    body = {"model": "srpo", "prompt": "a fox"}

    (item,) = problem(api.open(f"{path}?foo=1", method=method, json=body if method == "POST" else None), 422)["errors"]

    assert item["field"] == "foo"


@pytest.mark.parametrize(
    "host",
    [
        "queue.fal.run\tx",
        "fal.run, evil",
        "fal:abc",
        "fal:",
        "FAL.evil..com",
        "queue.fal.run x",
        "\u212aueue.fal.run",
        "evil host",
        "example.com@localhost",
        "localhost#.example.com",
        "localhost/.example.com",
        "[localhost]",
        "",
    ],
)
def test_an_invalid_host_header_is_refused(api: FlaskClient, keyed: FlaskClient, farm: Farm, host: str) -> None:
    for client in (api, keyed):
        response = client.post("/fal-ai/flux/srpo", json={"prompt": "a"}, environ_overrides={"HTTP_HOST": host})

        assert "Host" in problem(response, 400)["detail"]
    assert farm.redis.keys("srpo:job:*") == []


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/nothing", "/farm/v1/nothing", "/farm/v2/jobs", "/files/", "/farm"])
def test_an_unknown_path_is_404(api: FlaskClient, method: str, path: str) -> None:
    refusal(api.open(path, method=method), 404, path=path)


def test_an_unknown_path_of_wavespeed_is_404(api: FlaskClient) -> None:
    for path in ("/api/v3/media", "/api/v3/webhook/x", "/api/v3/predictions/x/y"):
        assert refusal(api.post(path, json={"prompt": "a fox"}), 404, path=path)


@pytest.mark.parametrize("path", ["/farm/v1//jobs", "//farm/v1/jobs", "/api/v3//wavespeed-ai/flux-srpo"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_doubled_slash_is_answered_in_json(api: FlaskClient, method: str, path: str) -> None:
    response = api.open(path, method=method, json={"model": "srpo", "prompt": "a"} if method == "POST" else None)

    assert "html" not in response.content_type
    assert response.is_json


@pytest.mark.parametrize("path", ["/farm/v1/jobs/", "/healthz/", "/farm/v1/jobs/x/"])
def test_a_slash_too_many_is_answered_in_json(api: FlaskClient, path: str) -> None:
    assert api.get(path).is_json


def test_a_model_that_cannot_be_written_is_still_named(api: FlaskClient) -> None:
    problem(api.post("/farm/v1/jobs", data=b'{"model": "\\ud800", "prompt": "a"}'), 404)


def test_nothing_of_the_inside_is_in_a_refusal(api: FlaskClient) -> None:
    for response in (
        api.post("/farm/v1/jobs", data=b"{"),
        api.get("/nothing"),
        api.get("/files/x"),
        api.post("/farm/v1/jobs", json={"model": "srpo", "prompt": 5}),
    ):
        assert "Traceback" not in response.text
        assert "<" not in response.text
        assert ".py" not in response.text
        assert "pydantic" not in response.text


def test_files_beside_the_program_are_not_served(api: FlaskClient) -> None:
    """Flask would serve a folder `static` of wherever the farm was started."""
    assert "static" not in {rule.endpoint for rule in api.application.url_map.iter_rules()}
