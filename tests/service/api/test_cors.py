"""CORS and security headers of every answer: which pages may read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask.testing import FlaskClient
from werkzeug.wrappers import Response

from farm import clock
from farm.bootstrap import Farm
from farm.jobstore import redis_keys
from farm.settings import Settings
from farm.storage.storage import new_key
from tests.service.api.calls import FAL_QUEUE, GENERATIONS, UNKNOWN_ID, WAVESPEED, post_job, submit
from tests.service.jobstore import jobs

PAGE = "https://app.example"
OTHER = "https://other.example"
#: Every kind of answer: JSON, errors in each dialect, streams, images, pages, nothing at all.
PATHS = [
    "/farm/v1/jobs",
    "/farm/v1/events",
    f"/farm/v1/jobs/{UNKNOWN_ID}",
    f"/fal/queue/fal-ai/flux/requests/{UNKNOWN_ID}",
    f"/api/v3/predictions/{UNKNOWN_ID}",
    "/v1/models/none",
    "/files/none",
    "/docs",
    "/docs/swagger-ui.css",
    "/openapi.json",
    "/healthz",
    "/metrics",
    "/nothing",
]

Opened = Callable[..., FlaskClient]


@pytest.fixture
def opened(farm: Farm, open_api: Opened) -> Opened:
    """Open an API with these settings."""

    def open_one(*, with_keys: bool = True, **settings: Any) -> FlaskClient:
        return open_api(with_keys=with_keys, settings=Settings(**settings))

    return open_one


def cors(response: Response) -> dict[str, str]:
    return {name: value for name, value in response.headers if name.startswith("Access-Control-")}


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_tells_browsers_to_be_careful(keyed: FlaskClient, ada: dict[str, str], path: str) -> None:
    with keyed.get(path, headers=ada) as response:
        headers = response.headers

    assert headers.getlist("X-Content-Type-Options") == ["nosniff"]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert len(headers.getlist("Cache-Control")) == 1
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Strict-Transport-Security" not in headers
    assert cors(response) == {}
    assert "Vary" not in headers


def test_pages_cannot_be_framed_and_load_only_from_their_origin(keyed: FlaskClient) -> None:
    headers = keyed.get("/docs").headers

    assert headers["X-Frame-Options"] == "DENY"
    (policy,) = headers.getlist("Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'self'")
    assert "X-Frame-Options" not in keyed.get("/healthz").headers


@pytest.mark.parametrize("path", ["/farm/v1/jobs", "/healthz", "/metrics", "/nothing", "/farm/v1/events"])
def test_answers_for_a_caller_are_not_cached(keyed: FlaskClient, ada: dict[str, str], path: str) -> None:
    with keyed.get(path, headers=ada) as response:
        assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("host", "scheme", "is_told"),
    [("farm.example", "https", True), ("farm.example", "http", False), ("localhost:8000", "https", False)],
)
def test_hsts_is_sent_over_tls_only(keyed: FlaskClient, host: str, scheme: str, is_told: bool) -> None:
    """HSTS is not sent for localhost, where other programs answer under the same name."""
    response = keyed.get("/healthz", base_url=f"{scheme}://{host}")

    assert ("Strict-Transport-Security" in response.headers) == is_told


# Images


def image(farm: Farm, job_id: str) -> str:
    key = new_key(job_id, 1, 0, "png")
    farm.storage.put(key, b"\x89PNG\r\n\x1a\n")
    return f"/files/{key}"


def cache(api: FlaskClient, path: str) -> str:
    with api.get(path) as response:
        assert response.status_code == 200
        return response.headers["Cache-Control"]


def test_pages_may_show_images(keyed: FlaskClient, farm: Farm) -> None:
    with keyed.get(image(farm, UNKNOWN_ID)) as response:
        assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"


def test_an_image_is_kept_by_its_own_callers_browser_for_as_long_as_its_job_lives(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str]
) -> None:
    submit(keyed, headers=ada)
    job = jobs.take_one(farm.store)
    path = image(farm, job.id)
    assert cache(keyed, path) == "private, no-cache"  # it has not ended yet

    farm.store.complete(job, jobs.result(job))
    assert cache(keyed, path) == "private, max-age=86400"
    farm.redis.zadd(redis_keys.EXPIRY, {job.id: clock.now_us() + 30_500_000})

    private, _, age = cache(keyed, path).partition(", max-age=")
    assert (private, 25 <= int(age) <= 30) == ("private", True)
    farm.redis.zadd(redis_keys.EXPIRY, {job.id: clock.now_us() - 1})
    assert cache(keyed, path) == "private, no-cache"


# Pages of other origins


def test_a_page_that_is_allowed_reads_every_answer(opened: Opened, ada: dict[str, str]) -> None:
    api = opened(cors=f"{PAGE},http://localhost:3000")

    for path in PATHS:
        with api.get(path, headers=ada | {"Origin": PAGE}) as response:
            assert cors(response) == {
                "Access-Control-Allow-Origin": PAGE,
                "Access-Control-Expose-Headers": "*",
            }, path
            assert "Origin" in response.headers["Vary"]
    assert cors(api.post("/farm/v1/jobs", json={}, headers={"Origin": PAGE}))  # a refusal, too


@pytest.mark.parametrize("origin", [OTHER, "null", "", "http://app.example", f"{PAGE}:8443", f"{PAGE}.evil.example"])
def test_a_foreign_origin_gets_no_cors_headers(opened: Opened, ada: dict[str, str], origin: str) -> None:
    api = opened(cors=PAGE)
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}

    answers = [api.get("/farm/v1/jobs", headers=ada | {"Origin": origin}), api.options("/farm/v1/jobs", headers=asked)]

    for answer in answers:
        assert cors(answer) == {}
        assert answer.headers["Vary"] == "Origin"  # lest a cache hands it to the page that is


def test_answers_vary_by_origin_also_without_one(opened: Opened) -> None:
    assert opened(cors=PAGE).get("/healthz").headers["Vary"] == "Origin"


def test_any_page_may_be_allowed(opened: Opened, ada: dict[str, str]) -> None:
    answer = opened(cors="*").get("/farm/v1/jobs", headers=ada | {"Origin": OTHER})

    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Vary" not in answer.headers


@pytest.mark.parametrize("path", ["/farm/v1/jobs", FAL_QUEUE, WAVESPEED, GENERATIONS, "/fal/proxy", "/nothing"])
@pytest.mark.parametrize("host", ["farm.example", "queue.fal.run"])
def test_a_preflight_request_gets_the_allowed_headers(opened: Opened, path: str, host: str) -> None:
    headers = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-fal-queue-priority",
        "Host": host,
    }

    answer = opened(cors=PAGE).options(path, headers=headers)

    assert (answer.status_code, answer.data) == (204, b"")
    assert cors(answer) == {
        "Access-Control-Allow-Origin": PAGE,
        "Access-Control-Expose-Headers": "*",
        "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, DELETE",
        "Access-Control-Allow-Headers": "authorization,content-type,x-fal-queue-priority",
        "Access-Control-Max-Age": "7200",
    }
    assert answer.headers["Vary"] == "Origin"


def test_without_keys_only_named_pages_get_in(opened: Opened) -> None:
    """If any page were allowed, every page that this machine's user opens could use the farm."""
    named, anybody = opened(with_keys=False, cors=PAGE), opened(with_keys=False, cors="*")

    assert post_job(named, headers={"Origin": PAGE}).status_code == 202
    assert post_job(named, headers={"Origin": OTHER}).status_code == 403
    refused = post_job(anybody, headers={"Origin": OTHER})
    assert (refused.status_code, "FARM_CORS" in refused.text) == (403, True)
    assert post_job(anybody, headers={"Origin": "http://localhost:3000"}).status_code == 202


# Proxies

FORWARDED = {
    "X-Forwarded-For": "203.0.113.9, 198.51.100.7",
    "X-Forwarded-Proto": "http, https",
    "X-Forwarded-Host": "spoof.example, queue.farm.example",
    "X-Forwarded-Prefix": "/below",
    "X-Forwarded-Port": "1",
}


@pytest.mark.parametrize(
    ("hops", "seen"),
    [
        (0, ("127.0.0.1", "http://farm.example/")),
        (1, ("198.51.100.7", "https://queue.farm.example/")),
        (2, ("203.0.113.9", "http://spoof.example/")),
        (3, ("127.0.0.1", "http://farm.example/")),
    ],
)
def test_forwarding_headers_of_as_many_proxies_as_configured_are_trusted(
    opened: Opened, hops: int, seen: tuple[str, str]
) -> None:

    api = opened(proxy_hops=hops)
    heard: list[tuple[str | None, str]] = []

    @api.application.before_request
    def hear() -> None:
        heard.append((flask.request.remote_addr, flask.request.root_url))

    api.get("/healthz", base_url="http://farm.example", headers=FORWARDED)

    assert heard == [seen]


def test_a_trusted_proxys_host_stands_for_fals(opened: Opened, ada: dict[str, str]) -> None:
    body = {"prompt": "a fox"}

    answer = opened(proxy_hops=1).post("/fal-ai/flux/srpo", json=body, headers=ada | FORWARDED)

    assert answer.get_json()["status_url"].startswith("https://queue.farm.example/fal-ai/flux/requests/")


def test_without_keys_a_proxy_is_refused_however_many_are_trusted(opened: Opened) -> None:
    answer = opened(with_keys=False, proxy_hops=1).get("/healthz", headers={"X-Forwarded-For": "203.0.113.9"})

    assert (answer.status_code, "FARM_AUTH=keys" in answer.text) == (403, True)
