"""With keys on: no access without one, and no caller sees another's jobs."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from farm.bootstrap import Farm
from tests.service.api.calls import (
    EDITS,
    FAL_QUEUE,
    FAL_RUN,
    GENERATIONS,
    UNKNOWN_ID,
    WAVESPEED,
    bearer,
    post_job,
    post_prediction,
    problem,
    refusal,
    submit,
)
from tests.service.jobstore import jobs

GUARDED = [
    ("POST", "/farm/v1/jobs"),
    ("GET", "/farm/v1/jobs"),
    ("GET", f"/farm/v1/jobs/{UNKNOWN_ID}"),
    ("GET", f"/farm/v1/jobs/{UNKNOWN_ID}/history"),
    ("GET", "/farm/v1/jobs/events"),
    ("DELETE", f"/farm/v1/jobs/{UNKNOWN_ID}"),
    ("POST", f"/farm/v1/jobs/{UNKNOWN_ID}/cancel"),
    ("POST", f"/farm/v1/jobs/{UNKNOWN_ID}/retry"),
    ("GET", f"/farm/v1/jobs/{UNKNOWN_ID}/events"),
    ("GET", "/farm/v1/events"),
    ("GET", "/farm/v1/bulks"),
    ("GET", "/farm/v1/queue"),
    ("GET", "/farm/v1/workers"),
    ("POST", "/farm/v1/workers/x/drain"),
    ("POST", "/farm/v1/pause"),
    ("POST", "/farm/v1/resume"),
    ("GET", "/farm/v1/models"),
    ("GET", "/farm/v1/usage"),
    ("GET", "/farm/v1/deliveries"),
    ("POST", "/farm/v1/deliveries"),
    ("GET", f"/farm/v1/deliveries/{UNKNOWN_ID}-1"),
    ("POST", f"/farm/v1/deliveries/{UNKNOWN_ID}-1/redeliver"),
    ("GET", "/farm/v1/webhook_secret"),
    ("GET", "/farm/v1/keys"),
    ("POST", "/farm/v1/keys"),
    ("DELETE", "/farm/v1/keys"),
    ("POST", WAVESPEED),
    ("GET", f"/api/v3/predictions/{UNKNOWN_ID}"),
    ("GET", f"/api/v3/predictions/{UNKNOWN_ID}/result"),
    ("GET", "/api/v3/predictions"),
    ("POST", "/api/v3/predictions"),
    ("POST", "/api/v3/predictions/delete"),
    ("GET", "/api/v3/webhook/secret"),
    ("POST", FAL_QUEUE),
    ("POST", FAL_RUN),
    ("GET", f"/fal/queue/fal-ai/flux/requests/{UNKNOWN_ID}"),
    ("GET", f"/fal/queue/fal-ai/flux/requests/{UNKNOWN_ID}/response"),
    ("GET", f"/fal/queue/fal-ai/flux/requests/{UNKNOWN_ID}/status"),
    ("PUT", f"/fal/queue/fal-ai/flux/requests/{UNKNOWN_ID}/cancel"),
    ("GET", f"/fal/queue/fal-ai/flux/requests/{UNKNOWN_ID}/"),
    ("GET", f"/fal/queue/fal-ai/flux/requests/{UNKNOWN_ID}/response/"),
    ("GET", f"/fal/queue/fal-ai/flux/requests/{UNKNOWN_ID}/status/"),
    ("PUT", f"/fal/queue/fal-ai/flux/requests/{UNKNOWN_ID}/cancel/"),
    ("GET", f"/fal/queue/fal-ai/flux/requests/{UNKNOWN_ID}/status/stream"),
    ("GET", f"/fal/queue/fal-ai/flux/requests/{UNKNOWN_ID}/status/stream/"),
    ("POST", "/fal/rest/storage/upload/initiate"),
    ("POST", "/fal/rest/storage/upload/initiate/"),
    ("POST", "/fal/rest/storage/upload/initiate-multipart"),
    ("POST", "/fal/rest/storage/upload/initiate-multipart/"),
    ("POST", "/fal/rest/storage/auth/token"),
    ("POST", "/fal/rest/storage/auth/token/"),
    ("POST", "/fal/cdn/files/upload"),
    ("POST", "/fal/cdn/files/upload/"),
    ("POST", "/fal/cdn/files/upload/multipart"),
    ("POST", "/fal/cdn/files/upload/multipart/"),
    ("PUT", "/files/x/multipart/x/1"),
    ("PUT", "/files/x/multipart/x/1/"),
    ("POST", "/files/x/multipart/x/complete"),
    ("POST", "/files/x/multipart/x/complete/"),
    ("GET", "/api/v3/models"),
    ("GET", "/api/v3/models/"),
    ("POST", "/api/v3/media/uploads"),
    ("POST", "/api/v3/media/upload/binary"),
    ("POST", "/fal/proxy"),
    ("POST", "/fal/proxy/"),
    ("POST", GENERATIONS),
    ("POST", EDITS),
    ("POST", "/farm/v1/enhance"),
    ("GET", "/v1/models"),
    ("GET", "/v1/files"),
    ("POST", "/v1/files"),
    ("GET", "/v1/files/file-x"),
    ("DELETE", "/v1/files/file-x"),
    ("GET", "/v1/files/file-x/content"),
    ("GET", "/v1/batches"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/batches/batch_x"),
    ("POST", "/v1/batches/batch_x/cancel"),
    ("GET", "/v1/models/flux/srpo"),
]
OPEN = {
    "/healthz",
    "/readyz",
    "/metrics",
    "/files/<key>",
    "/.well-known/jwks.json",
    "/",
    "/queue",
    "/page/models.json",
    "/page/<name>",
    "/openapi.json",
    "/docs",
    "/docs/<name>",
    # An upload's own address is all the right there is.
    "/fal/cdn/upload/<ticket_id>",
    "/fal/cdn/upload/<ticket_id>/",
    "/fal/cdn/upload/<ticket_id>/<number>",
    "/fal/cdn/upload/<ticket_id>/<number>/",
    "/fal/cdn/upload/<ticket_id>/complete",
    "/fal/cdn/upload/<ticket_id>/complete/",
    "/api/v3/media/uploads/<ticket_id>",
}


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Key x", "Bearer farm_00000000_" + "a" * 43, "Basic eDp5", "\xff"]
)
def test_every_route_is_closed_without_a_valid_key(keyed: FlaskClient, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}

    for method, path in GUARDED:
        response = keyed.open(path, method=method, headers=headers, json={} if method == "POST" else None)
        refusal(response, 401, path=path)


def test_every_route_asks_for_a_key_or_is_known_to_be_open(keyed: FlaskClient) -> None:
    """A new route fails here until it stands in one of the two lists."""
    adapter = keyed.application.url_map.bind("localhost")
    guarded = {adapter.match(path, method, return_rule=True)[0].rule for method, path in GUARDED}
    rules = {rule.rule for rule in keyed.application.url_map.iter_rules()}

    assert rules - guarded == OPEN


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "Key ", "KEY ", "", "Bearer  "])
def test_a_key_may_come_in_several_ways(keyed: FlaskClient, farm: Farm, scheme: str) -> None:
    key = farm.callers.create("ada")

    assert keyed.get("/farm/v1/jobs", headers={"Authorization": f"{scheme}{key}"}).status_code == 200


def test_a_revoked_key_is_refused_at_once(keyed: FlaskClient, farm: Farm, ada: dict[str, str]) -> None:
    submit(keyed, headers=ada)
    farm.callers.revoke("ada")

    problem(post_job(keyed, headers=ada), 401)


def test_a_job_belongs_to_the_caller_of_its_key(keyed: FlaskClient, farm: Farm, ada: dict[str, str]) -> None:
    job_id = submit(keyed, headers=ada)

    assert jobs.record(farm.store, job_id).caller == "ada"
    renewed = bearer(farm.callers.create("ada"))
    assert keyed.get(f"/farm/v1/jobs/{job_id}", headers=renewed).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/farm/v1/jobs/{}"),
        ("GET", "/farm/v1/jobs/{}/history"),
        ("DELETE", "/farm/v1/jobs/{}"),
        ("POST", "/farm/v1/jobs/{}/cancel"),
        ("GET", "/farm/v1/jobs/{}/events"),
        ("GET", "/api/v3/predictions/{}"),
        ("GET", "/api/v3/predictions/{}/result"),
    ],
)
def test_another_callers_waiting_job_looks_like_an_unknown_one(
    keyed: FlaskClient, ada: dict[str, str], bob: dict[str, str], method: str, path: str
) -> None:
    """`test_privacy` sees the same of an ended job for every route."""
    job_id = submit(keyed, headers=ada)

    headers = bob | {"X-Request-Id": "the same"}
    others, unknown = (keyed.open(path.format(name), method=method, headers=headers) for name in (job_id, UNKNOWN_ID))

    assert (others.status_code, unknown.status_code) == (404, 404)
    assert others.text.replace(job_id, UNKNOWN_ID) == unknown.text
    assert {name: value for name, value in others.headers if name != "Date"} == {
        name: value for name, value in unknown.headers if name != "Date"
    }


def test_nothing_happens_to_a_job_that_another_tries_to_end(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str], bob: dict[str, str]
) -> None:
    job_id = submit(keyed, headers=ada)

    keyed.post(f"/farm/v1/jobs/{job_id}/cancel", headers=bob)
    keyed.delete(f"/farm/v1/jobs/{job_id}", headers=bob)

    assert keyed.get(f"/farm/v1/jobs/{job_id}", headers=ada).get_json()["status"] == "created"


def test_a_caller_sees_its_own_jobs_in_the_list_and_an_admin_all(
    keyed: FlaskClient, ada: dict[str, str], bob: dict[str, str], admin: dict[str, str]
) -> None:
    adas, bobs = submit(keyed, headers=ada), submit(keyed, headers=bob)

    def listed(headers: dict[str, str]) -> list[str]:
        return [view["id"] for view in keyed.get("/farm/v1/jobs", headers=headers).get_json()["jobs"]]

    assert (listed(ada), listed(bob), listed(admin)) == ([adas], [bobs], [bobs, adas])


def test_an_admin_may_act_on_any_job(keyed: FlaskClient, ada: dict[str, str], admin: dict[str, str]) -> None:
    job_id = submit(keyed, headers=ada)

    assert keyed.get(f"/farm/v1/jobs/{job_id}", headers=admin).status_code == 200
    assert keyed.post(f"/farm/v1/jobs/{job_id}/cancel", headers=admin).get_json()["outcome"] == "cancelled"
    assert keyed.delete(f"/farm/v1/jobs/{job_id}", headers=admin).status_code == 204


def test_only_an_admin_may_see_the_workers(keyed: FlaskClient, ada: dict[str, str], admin: dict[str, str]) -> None:
    assert problem(keyed.get("/farm/v1/workers", headers=ada), 403)["code"] == "forbidden"
    assert keyed.get("/farm/v1/workers", headers=admin).status_code == 200


def test_an_idempotency_key_is_its_callers_own(keyed: FlaskClient, ada: dict[str, str], bob: dict[str, str]) -> None:
    adas = submit(keyed, headers=ada | {"Idempotency-Key": "k"})

    response = post_job(keyed, headers=bob | {"Idempotency-Key": "k"}, prompt="an owl")

    assert response.status_code == 202
    assert response.get_json()["id"] != adas


def test_wavespeed_jobs_are_private_too(keyed: FlaskClient, ada: dict[str, str], bob: dict[str, str]) -> None:
    job_id = post_prediction(keyed, headers=ada).get_json()["data"]["id"]

    assert keyed.get(f"/farm/v1/jobs/{job_id}", headers=ada).status_code == 200
    problem(keyed.get(f"/farm/v1/jobs/{job_id}", headers=bob), 404)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.9"},
        {"Origin": "https://example.com"},
        {"Host": "farm.example"},
        {"Forwarded": "for=203.0.113.9"},
    ],
)
def test_with_keys_a_proxy_may_stand_in_front(keyed: FlaskClient, ada: dict[str, str], headers: dict[str, str]) -> None:
    assert post_job(keyed, headers=ada | headers).status_code == 202


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_probes_need_no_key(keyed: FlaskClient, path: str) -> None:
    assert keyed.get(path).status_code == 200
