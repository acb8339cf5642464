"""`/farm/v1/deliveries`, the webhook fields of a submit, and the keys that verify webhooks."""

from __future__ import annotations

from typing import Any, cast

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from farm.bootstrap import Farm
from farm.domain.delivery import Attempt, Outcome
from farm.domain.limits import Limits
from farm.jobstore import redis_keys
from farm.webhooks import signing
from farm.webhooks.store import MAX_REDELIVERIES_PER_MINUTE, MAX_TESTS_PER_MINUTE
from tests.service.api.calls import post_job, problem, submit

HOOK = "https://hook.example/x"
#: URLs that are refused by their looks; the guard's own tests have many more.
FORBIDDEN = ["http://127.0.0.1/", "http://localhost:8000/", "ftp://hook.example/", "http://[::1]/", "hook.example", ""]


def deliveries(api: FlaskClient, headers: dict[str, str] | None = None, query: str = "") -> list[dict[str, Any]]:
    response = api.get(f"/farm/v1/deliveries{query}", headers=headers)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.get_json()["deliveries"]
    return found


def test_a_delivery_shows_its_event_receiver_and_attempts(api: FlaskClient, farm: Farm) -> None:
    job_id = submit(api, webhook_url=HOOK)
    tries = [
        Attempt(1_700_000_000_000_000, 0.25, 503, answer="busy"),
        Attempt(1_700_000_005_000_000, 15.0, error="slow"),
    ]
    for attempt, pause in zip(tries, (0, 60), strict=True):
        (due,) = farm.deliveries.claim(1, lease_seconds=60)
        farm.deliveries.finish(due, Outcome.WAITING, attempt, pause_seconds=pause)

    (shown,) = deliveries(api)
    assert shown == api.get(f"/farm/v1/deliveries/{job_id}-1").get_json()
    assert (shown["id"], shown["job"], shown["event"]) == (f"{job_id}-1", job_id, "job.created")
    assert (shown["receiver"], shown["status"]) == ("https://hook.example", "waiting")
    assert shown["attempts"] == [
        {"at": "2023-11-14T22:13:20.000000Z", "seconds": 0.25, "status": 503, "error": None, "answer": "busy"},
        {"at": "2023-11-14T22:13:25.000000Z", "seconds": 15.0, "status": None, "error": "slow", "answer": None},
    ]
    assert shown["next_try_at"] > shown["created_at"]


def test_deliveries_come_in_pages_newest_first(api: FlaskClient) -> None:
    names = [f"{submit(api, webhook_url=HOOK, webhook_events=['job.created'])}-1" for _ in range(5)]

    first = api.get("/farm/v1/deliveries?limit=3").get_json()
    second = api.get(f"/farm/v1/deliveries?limit=3&before={first['before']}").get_json()

    assert [item["id"] for item in first["deliveries"] + second["deliveries"]] == names[::-1]
    assert second["before"] is None


@pytest.mark.parametrize("query", ["?limit=0", "?limit=101", "?limit=x", "?before=-1"])
def test_a_page_that_cannot_be_is_refused(api: FlaskClient, query: str) -> None:
    problem(api.get(f"/farm/v1/deliveries{query}"), 422)


def test_callers_see_their_own_deliveries_only(
    keyed: FlaskClient, ada: dict[str, str], bob: dict[str, str], admin: dict[str, str]
) -> None:
    name = f"{submit(keyed, headers=ada, webhook_url=HOOK)}-1"

    assert [item["id"] for item in deliveries(keyed, ada)] == [name]
    assert deliveries(keyed, bob) == []
    assert [item["id"] for item in deliveries(keyed, admin)] == [name]
    theirs = keyed.get(f"/farm/v1/deliveries/{name}", headers=bob)
    unknown = keyed.get(f"/farm/v1/deliveries/{name[:-3]}00-1", headers=bob)
    assert (theirs.status_code, theirs.get_json()["code"]) == (unknown.status_code, unknown.get_json()["code"])
    assert keyed.post(f"/farm/v1/deliveries/{name}/redeliver", headers=bob).status_code == 404


def test_a_delivery_is_repeated_by_hand(api: FlaskClient, farm: Farm) -> None:
    name = f"{submit(api, webhook_url=HOOK)}-1"
    farm.deliveries.finish(farm.deliveries.claim(1, lease_seconds=60)[0], Outcome.FAILED, Attempt(1, 1.0, 410))
    assert farm.deliveries.claim(1, lease_seconds=60) == []

    response = api.post(f"/farm/v1/deliveries/{name}/redeliver")

    assert (response.status_code, response.get_json()["status"]) == (202, "waiting")
    assert [due.id for due in farm.deliveries.claim(1, lease_seconds=60)] == [name]


def test_a_receiver_can_be_tried(api: FlaskClient, farm: Farm) -> None:
    response = api.post("/farm/v1/deliveries", json={"url": HOOK})

    shown = response.get_json()
    assert (response.status_code, shown["event"], shown["job"]) == (202, "test", None)
    (due,) = farm.deliveries.claim(1, lease_seconds=60)
    assert (due.id, due.url) == (shown["id"], HOOK)


def try_receiver(api: FlaskClient, headers: dict[str, str] | None = None) -> TestResponse:
    return api.post("/farm/v1/deliveries", json={"url": HOOK}, headers=headers)


def test_a_caller_has_so_many_test_deliveries_a_minute(keyed: FlaskClient, ada: dict[str, str], farm: Farm) -> None:
    """Each is kept for an hour."""
    statuses = [try_receiver(keyed, ada).status_code for _ in range(MAX_TESTS_PER_MINUTE + 1)]
    refused = try_receiver(keyed, ada)

    assert statuses == [202] * MAX_TESTS_PER_MINUTE + [429]
    assert problem(refused, 429)["code"] == "rate_limited"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert post_job(keyed, headers=ada).status_code == 202
    expiry = cast(list[tuple[str, float]], farm.redis.zrange(redis_keys.EXPIRY, 0, -1, withscores=True))
    kept_us = [until_us for _, until_us in expiry]
    assert len(kept_us) == MAX_TESTS_PER_MINUTE
    assert max(kept_us) <= farm.stats.now_us() + 3_600_000_000


def test_redeliveries_have_a_rate_of_their_own(api: FlaskClient, farm: Farm) -> None:
    name = try_receiver(api).get_json()["id"]
    path = f"/farm/v1/deliveries/{name}/redeliver"

    # On a busy machine some of the minute's rate comes back meanwhile.
    statuses = [api.post(path).status_code for _ in range(2 * MAX_REDELIVERIES_PER_MINUTE)]

    assert statuses[:MAX_REDELIVERIES_PER_MINUTE] == [202] * MAX_REDELIVERIES_PER_MINUTE
    assert 429 in statuses


@pytest.mark.parametrize("is_again", [False, True])
def test_deliveries_by_hand_count_as_submits(
    keyed: FlaskClient, ada: dict[str, str], farm: Farm, *, is_again: bool
) -> None:
    name = try_receiver(keyed, ada).get_json()["id"]
    farm.callers.limit("ada", Limits(rate=2))
    path = f"/farm/v1/deliveries/{name}/redeliver"

    def act() -> int:
        return (keyed.post(path, headers=ada) if is_again else try_receiver(keyed, ada)).status_code

    assert [act(), post_job(keyed, headers=ada).status_code] == [202, 202]
    assert [act(), post_job(keyed, headers=ada).status_code] == [429, 429]


@pytest.mark.parametrize("url", FORBIDDEN)
def test_an_address_that_may_not_be_called_is_refused_by_name(api: FlaskClient, farm: Farm, url: str) -> None:
    submitted = problem(post_job(api, webhook_url=url), 422)
    tried = problem(api.post("/farm/v1/deliveries", json={"url": url}), 422)

    assert [error["field"] for error in submitted["errors"]] == ["webhook_url"]
    assert [error["field"] for error in tried["errors"]] == ["url"]
    assert farm.stats.waiting() == 0


@pytest.mark.parametrize("body", [{}, {"url": 1}, {"url": HOOK, "x": 1}, [], "x"])
def test_a_trial_of_nothing_is_refused(api: FlaskClient, body: object) -> None:
    problem(api.post("/farm/v1/deliveries", json=body), 422)


def test_each_caller_has_a_secret_of_its_own_that_stays(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str], bob: dict[str, str]
) -> None:
    first, again, other = (
        keyed.get("/farm/v1/webhook_secret", headers=headers).get_json()["secret"] for headers in (ada, ada, bob)
    )

    assert first == again == farm.secrets.of("ada")
    assert first.startswith("whsec_")
    assert first != other


def test_the_public_key_needs_no_api_key_and_stays(keyed: FlaskClient, farm: Farm) -> None:
    response = keyed.get("/.well-known/jwks.json")

    assert response.status_code == 200
    assert response.get_json() == signing.jwks(farm.secrets.signing_key())
    assert [key["crv"] for key in response.get_json()["keys"]] == ["Ed25519"]
    assert "max-age" in response.headers["Cache-Control"]
