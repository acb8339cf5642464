"""With keys off: programs of this machine have access, and no request from elsewhere."""

from __future__ import annotations

from collections import Counter

import pytest
from flask import Flask
from flask.testing import FlaskClient

from farm.bootstrap import Farm
from tests.service.api.calls import FAL_QUEUE, GENERATIONS, WAVESPEED, post_job, refusal, submit
from tests.service.jobstore import jobs

PATHS = ["/farm/v1/jobs", WAVESPEED, FAL_QUEUE, GENERATIONS, "/farm/v1/events", "/metrics", "/nothing"]


@pytest.mark.parametrize("key", [None, "Bearer anything", "Key x", "nonsense"])
def test_any_key_or_none_is_the_caller_local(api: FlaskClient, farm: Farm, key: str | None) -> None:
    job_id = submit(api, headers={"Authorization": key} if key else None)

    assert jobs.record(farm.store, job_id).caller == "local"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Host", "farm.example"),
        ("X-Forwarded-Proto", "https"),
        ("x-forwarded-anything", ""),
        ("Forwarded", "for=203.0.113.9"),
        ("X-Real-IP", "203.0.113.9"),
        ("Via", "1.1 squid"),
        ("X-Original-URL", "/"),
        ("True-Client-IP", "203.0.113.9"),
        ("CF-Connecting-IP", "203.0.113.9"),
        ("Fly-Client-IP", "203.0.113.9"),
        ("Fastly-Client-IP", "203.0.113.9"),
        ("Tailscale-User-Login", "ada@example.com"),
        ("CDN-Loop", "cdn"),
        ("Origin", "https://example.com"),
        ("Origin", "http://127.0.0.1.example.com"),
        ("Origin", "http://localhost.example.com"),
        ("Origin", "null"),
        ("Origin", ""),
        ("Origin", "http://["),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "anything"),
        ("Sec-Fetch-Site", ""),
        ("Host", "example.com"),
        ("Host", "example.com:8000"),
        ("Host", "127.0.0.1.example.com"),
        ("Host", "localhost.example.com"),
        ("Host", "192.168.1.2"),
        ("Host", "0.0.0.0"),
        ("Host", "[::2]:8000"),
        ("Host", "xfal.run"),
    ],
)
def test_a_call_from_elsewhere_is_rejected_on_every_path(api: FlaskClient, name: str, value: str) -> None:
    for path in PATHS:
        response = api.open(path, method="POST" if path in PATHS[:4] else "GET", headers={name: value}, json={})

        text = refusal(response, 403, path=path)
        assert name.lower() in text.lower()
        assert "FARM_AUTH=keys" in text


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST",
        "127.0.0.1",
        "127.8.9.10:80",
        "[::1]",
        "[::1]:8000",
        "farm.localhost",
        "localhost.",
    ],
)
def test_host_names_of_this_machine_are_allowed(api: FlaskClient, host: str) -> None:
    assert post_job(api, headers={"Host": host}).status_code == 202


@pytest.mark.parametrize(
    "host",
    [
        "fal.run",
        "queue.fal.run",
        "rest.fal.ai",
        "rest.alpha.fal.ai",
        "v3.fal.media",
        "fal.farm.example",
        "queue.farm.example:8443",
        "rest.farm.example",
        "cdn.farm.example",
    ],
)
def test_fals_host_names_are_allowed(api: FlaskClient, host: str) -> None:
    """Other tests check what is served under them."""
    assert api.get("/files/x", headers={"Host": host}).status_code == 404


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "https://[::1]:8443"])
def test_pages_of_this_machine_are_allowed(api: FlaskClient, origin: str) -> None:
    assert post_job(api, headers={"Origin": origin}).status_code == 202


NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
IFRAME = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}


def test_no_route_answers_a_page_of_another_site(api: FlaskClient) -> None:
    """Streams included: a page could hold all of them. A browser need not say which page it is, whatever the method."""
    assert isinstance(api.application, Flask)
    tried = Counter[str]()
    for rule in api.application.url_map.iter_rules():
        path = rule.rule.replace("<", "").replace(">", "")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            if method == "GET" and path.startswith("/files/"):
                continue
            for headers in ({}, NAVIGATION, IFRAME):
                if headers is not NAVIGATION or method != "GET" or path not in ("/", "/queue", "/docs"):
                    response = api.open(path, method=method, headers={"Sec-Fetch-Site": "cross-site"} | headers)
                    assert "Sec-Fetch-Site" in refusal(response, 403, path=path)
                    tried[method] += 1
    assert tried["GET"] > 30
    assert tried["POST"] > 30
    assert {"PUT", "DELETE"} <= tried.keys()


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/farm/v1/jobs", {"Sec-Fetch-Site": "none"}),
        ("/farm/v1/jobs", {"Sec-Fetch-Site": "same-origin"}),
        ("/farm/v1/jobs", {"Sec-Fetch-Site": "same-site"}),  # another port of localhost
        ("/farm/v1/jobs", {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:3000"}),
        ("/docs", {"Sec-Fetch-Site": "cross-site"} | NAVIGATION),
        ("/queue", {"Sec-Fetch-Site": "cross-site"} | NAVIGATION),
    ],
)
def test_pages_of_this_machine_and_links_are_allowed(api: FlaskClient, path: str, headers: dict[str, str]) -> None:
    assert api.get(path, headers=headers).status_code == 200


def test_any_page_may_show_a_file(api: FlaskClient) -> None:
    assert api.get("/files/x", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}).status_code == 404


def test_a_page_of_the_same_site_is_foreign_under_a_name_that_is_not_localhost(api: FlaskClient) -> None:
    headers = {"Host": "queue.farm.example", "Sec-Fetch-Site": "same-site"}

    assert api.get("/fal-ai/flux/srpo/requests/x/status", headers=headers).status_code == 403


def test_local_sees_every_job_and_the_workers(api: FlaskClient, farm: Farm) -> None:
    job_id = jobs.submit(farm.store, "ada")

    assert api.get(f"/farm/v1/jobs/{job_id}").status_code == 200
    assert api.get("/farm/v1/workers").status_code == 200
