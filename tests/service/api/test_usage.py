"""Usage of callers: counted once for each completed job, shown to its caller and to admins, as JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient

from farm.bootstrap import Farm
from farm.domain.job import FULL_STEPS
from farm.jobstore import redis_keys
from farm.jobstore.daily_usage import DailyUsage
from farm.jobstore.store import JobStore
from farm.settings import Settings
from tests.service.api.calls import problem
from tests.service.jobstore.jobs import TERMS, lose, result, submit, take_one

TIMINGS = {"device": 1.25, FULL_STEPS: 30}
#: 0.25 megapixels, two images of 28 steps.
FIELDS: dict[str, Any] = {"width": 500, "height": 500, "steps": 28, "images": 2}


@pytest.fixture
def usage(farm: Farm) -> DailyUsage:
    return DailyUsage(farm.redis)


@pytest.fixture
def priced(open_api: Callable[..., FlaskClient]) -> FlaskClient:
    return open_api(with_keys=True, settings=Settings(price_per_image=0.015))


def render(store: JobStore, caller: str = "ada", *, model: str = "srpo", **timings: float) -> None:
    """Complete a job of this caller."""
    submit(store, caller, model=model, **FIELDS)
    (job,) = store.claim("w1", [model]).batch.jobs
    assert store.complete(job, replace(result(job), timings=TIMINGS | timings))


def move(client: redis.Redis, caller: str, days: int) -> str:
    """Make today's usage of a caller that of so many days ago, and return that day."""
    today = (DailyUsage(client).today() - date(1970, 1, 1)).days
    client.rename(redis_keys.daily_usage(caller, today), redis_keys.daily_usage(caller, today - days))
    seen_us = client.zscore(redis_keys.DAILY_USAGE, f"{caller}:{today}") or 0
    client.zrem(redis_keys.DAILY_USAGE, f"{caller}:{today}")
    client.zadd(redis_keys.DAILY_USAGE, {f"{caller}:{today - days}": seen_us - days * 86_400_000_000})
    return (date(1970, 1, 1) + timedelta(days=today - days)).isoformat()


def report(api: FlaskClient, headers: dict[str, str], query: str = "") -> Any:
    response = api.get(f"/farm/v1/usage?{query}", headers=headers)
    assert response.status_code == 200, response.text
    return response.get_json()


def test_a_caller_sees_what_was_computed_for_it(
    priced: FlaskClient, store: JobStore, ada: dict[str, str], usage: DailyUsage
) -> None:
    """30 of 56 steps were computed."""
    render(store)
    render(store, device=0.5)

    found = report(priced, ada)

    figures = {"images": 4, "megapixel_steps": 15.0, "device_seconds": 1.75, "cost": 0.06}
    today = usage.today()
    assert found == {
        "since": (today - timedelta(days=30)).isoformat(),
        "until": today.isoformat(),
        "price_per_image": 0.015,
        "usage": [{"day": today.isoformat(), "caller": "ada", "model": "srpo", **figures}],
        "total": figures,
    }


def test_models_are_counted_apart(priced: FlaskClient, store: JobStore, ada: dict[str, str]) -> None:
    for model, device in (("srpo", 1.0), ("kontext", 4.0), ("srpo", 0.5)):
        render(store, model=model, device=device)

    found = report(priced, ada)
    rows = list(csv.DictReader(io.StringIO(priced.get("/farm/v1/usage?format=csv", headers=ada).text)))

    seen = [(row["model"], row["images"], row["device_seconds"], row["cost"]) for row in found["usage"]]
    assert seen == [("kontext", 2, 4.0, 0.03), ("srpo", 4, 1.5, 0.06)]
    assert [(row["model"], row["images"], row["cost"]) for row in rows] == [
        ("kontext", "2", "0.03"),
        ("srpo", "4", "0.06"),
    ]
    assert (found["total"]["images"], found["total"]["device_seconds"], found["total"]["cost"]) == (6, 5.5, 0.09)


def test_a_job_counts_once_though_its_lease_was_lost(store: JobStore, client: redis.Redis, usage: DailyUsage) -> None:
    submit(store, **FIELDS)
    first = take_one(store)
    lose(client, store)
    second = take_one(store, "w2")
    ended = replace(result(second), timings=TIMINGS)

    assert [store.complete(job, ended) for job in (first, second, second)] == [False, True, True]

    (found,) = usage.between(usage.today(), usage.today())
    assert (found.images, found.megapixel_steps, found.device_seconds) == (2, 7.5, 1.25)


def test_failed_and_cancelled_jobs_do_not_count(store: JobStore, usage: DailyUsage) -> None:
    submit(store)
    store.fail(take_one(store), "render_failed", "It failed.")
    store.cancel(submit(store))
    stopped = submit(store)
    job = take_one(store)
    store.cancel(stopped)
    assert not store.complete(job, result(job))

    assert usage.between(usage.today(), usage.today()) == []


def test_a_caller_sees_its_own_and_an_admin_all(
    keyed: FlaskClient, store: JobStore, ada: dict[str, str], bob: dict[str, str], admin: dict[str, str]
) -> None:
    render(store, "ada")
    render(store, "bob")

    def seen(headers: dict[str, str], query: str = "") -> list[str]:
        return [row["caller"] for row in report(keyed, headers, query)["usage"]]

    assert (seen(ada), seen(bob), seen(admin)) == (["ada"], ["bob"], ["ada", "bob"])
    assert (seen(ada, "caller=ada"), seen(admin, "caller=bob"), seen(admin, "caller=carol")) == (["ada"], ["bob"], [])
    assert "admin" in problem(keyed.get("/farm/v1/usage?caller=bob", headers=ada), 403)["detail"]


def test_days_are_chosen_and_in_order(
    keyed: FlaskClient, store: JobStore, client: redis.Redis, ada: dict[str, str], admin: dict[str, str]
) -> None:
    render(store)
    old = move(client, "ada", 40)
    render(store)
    recent = move(client, "ada", 3)
    render(store)
    today = DailyUsage(client).today().isoformat()

    for headers in (ada, admin):

        def days(query: str = "", headers: dict[str, str] = headers) -> list[str]:
            return [row["day"] for row in report(keyed, headers, query)["usage"]]

        assert days() == [recent, today]
        assert days(f"since={old}") == [old, recent, today]
        assert days(f"since={old}&until={recent}") == [old, recent]
        assert days(f"until={old}") == [old]


@pytest.mark.parametrize(("query", "headers"), [("format=csv", {}), ("", {"Accept": "text/csv"})])
def test_csv(
    priced: FlaskClient, store: JobStore, usage: DailyUsage, ada: dict[str, str], query: str, headers: dict[str, str]
) -> None:
    render(store)

    response = priced.get(f"/farm/v1/usage?{query}", headers=ada | headers)

    assert response.mimetype == "text/csv"
    assert "usage.csv" in response.headers["Content-Disposition"]
    (row,) = csv.DictReader(io.StringIO(response.text))
    expected = {"caller": "ada", "model": "srpo", "images": "2", "megapixel_steps": "7.5", "device_seconds": "1.25"}
    assert row == {"day": usage.today().isoformat(), **expected, "cost": "0.03"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("since=yesterday", "since"),
        ("since=20260131", "since"),
        ("until=2026-02-30", "until"),
        ("since=2026-02-01&until=2026-01-01", "since"),
        ("since=2024-01-01&until=2026-01-01", "since"),
        ("format=xml", "format"),
        ("model=srpo", "model"),
    ],
)
def test_a_wrong_parameter_is_named(keyed: FlaskClient, ada: dict[str, str], query: str, field: str) -> None:
    body = problem(keyed.get(f"/farm/v1/usage?{query}", headers=ada), 422)

    assert [error["field"] for error in body["errors"]] == [field]


@pytest.mark.parametrize("until", ["0001-01-01", "9999-12-31"])
def test_absurd_days_have_no_usage(keyed: FlaskClient, ada: dict[str, str], admin: dict[str, str], until: str) -> None:
    for headers in (ada, admin):
        assert report(keyed, headers, f"until={until}")["usage"] == []


def test_a_day_is_kept_for_its_time(client: redis.Redis, usage: DailyUsage) -> None:
    """Its mark goes with the next completed job."""
    store = JobStore(client, replace(TERMS, usage_seconds=100.0))
    render(store, "ada")
    today = (usage.today() - date(1970, 1, 1)).days
    assert 90 < client.ttl(redis_keys.daily_usage("ada", today)) <= 100
    move(client, "ada", 1)
    render(store, "bob")

    assert client.zrange(redis_keys.DAILY_USAGE, 0, -1) == [f"bob:{today}"]
