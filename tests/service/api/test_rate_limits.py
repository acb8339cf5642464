"""Limits per caller: submits per minute, images per day, waiting jobs. Counted in Redis, for all processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from farm import clock
from farm.bootstrap import Farm, build
from farm.domain.errors import LimitReached
from farm.domain.limits import DAY, Limits, Quota
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from farm.settings import Settings
from tests.farms import wait_for
from tests.service.api.calls import (
    FAL_QUEUE,
    FAL_RUN,
    GENERATIONS,
    UNKNOWN_ID,
    WAVESPEED,
    bearer,
    fal_error,
    gateway_error,
    openai_error,
    post_job,
    problem,
    submit,
)
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import BASE, FACTS, new_job
from tests.service.jobstore.redis_commands import cost_of

SPENT = redis_keys.usage("ada")


@pytest.fixture(autouse=True)
def same_day() -> None:
    """Keep a test from crossing midnight (UTC), when the daily count starts anew."""
    wait_for(lambda: clock.now_us() / 1e6 % DAY < DAY - 30, seconds=40)


def go_on(client: redis.Redis, seconds: float) -> None:
    """Let so many seconds of the rate limit pass."""
    client.hincrby(SPENT, "busy_until_us", -round(seconds * 1e6))


def over(store: JobStore, limits: Limits, **fields: Any) -> LimitReached:
    """Return the refusal of a submit."""
    with pytest.raises(LimitReached) as caught:
        store.submit(new_job(**fields), limits)
    return caught.value


# In the job store


def test_as_many_submits_as_a_minute_has_may_come_at_once_then_one_by_one(store: JobStore, client: redis.Redis) -> None:
    limits = Limits(rate=3)
    for left in (2, 1, 0):
        assert store.submit(new_job(), limits).quotas[0].left == left

    refused = over(store, limits)
    go_on(client, 20)

    assert (refused.code, 1 <= refused.retry_after <= 20) == ("rate_limited", True)
    assert store.submit(new_job(), limits).quotas[0].left == 0
    assert over(store, limits).code == "rate_limited"


def test_an_idle_caller_regains_one_full_minute_of_its_rate(store: JobStore, client: redis.Redis) -> None:
    limits = Limits(rate=2)
    store.submit(new_job(), limits)
    go_on(client, 3600)

    assert [store.submit(new_job(), limits).quotas[0].left for _ in range(2)] == [1, 0]
    assert over(store, limits).code == "rate_limited"


def test_images_are_counted_by_the_day(store: JobStore, client: redis.Redis) -> None:
    limits = Limits(images_per_day=5)
    (quota,) = store.submit(new_job(images=3), limits).quotas
    assert quota == Quota("images", 5, DAY, 2, quota.reset_seconds)
    assert quota.reset_seconds == pytest.approx(DAY - clock.now_us() / 1e6 % DAY, abs=60)

    refused = over(store, limits, images=3)

    assert (refused.code, refused.stands_seconds) == ("images_used_up", 0)
    assert store.submit(new_job(images=2), limits).quotas[0].left == 0
    assert over(store, limits).stands_seconds > 0
    client.hincrby(SPENT, "day", -1)
    assert store.submit(new_job(images=4), limits).quotas[0].left == 1


def test_a_day_that_is_used_up_says_honestly_when_the_next_begins(store: JobStore) -> None:
    limits = Limits(images_per_day=1)
    store.submit(new_job(), limits)

    assert over(store, limits).retry_after == pytest.approx(DAY - clock.now_us() / 1e6 % DAY, abs=60)


def test_a_refused_submit_uses_up_no_limit(store: JobStore, client: redis.Redis) -> None:
    limits = Limits(rate=2, waiting=1, images_per_day=3)
    store.submit(new_job(images=2), limits)
    before = client.hgetall(SPENT), jobs.names(client), client.xlen(redis_keys.OUTBOX)

    assert over(store, limits).code == "queue_full"
    assert over(store, replace(limits, waiting=0), images=2).code == "images_used_up"
    assert over(store, replace(limits, waiting=0, rate=1)).code == "rate_limited"

    assert (client.hgetall(SPENT), jobs.names(client), client.xlen(redis_keys.OUTBOX)) == before


def test_a_repeated_submit_is_neither_counted_nor_refused(store: JobStore) -> None:
    limits = Limits(rate=1, waiting=1, images_per_day=1)
    new = new_job(key="k", digest="d")
    first = store.submit(new, limits)

    again = store.submit(new_job(key="k", digest="d"), limits)

    assert (again.id, again.quotas[0].left, again.quotas[1].left) == (first.id, 0, 0)
    assert store.submit(new, limits).id == first.id


def test_a_cancelled_job_still_counts(store: JobStore) -> None:
    """Otherwise cancelled jobs would use the farm for nothing."""
    limits = Limits(images_per_day=1)
    store.cancel(store.submit(new_job(), limits).id)

    assert over(store, limits).code == "images_used_up"


def test_a_limit_of_0_is_no_limit(store: JobStore, client: redis.Redis) -> None:
    store = JobStore(client, replace(jobs.TERMS, queue_limit=1, rate_limit=1, images_per_day=1))
    none = Limits(rate=0, waiting=0, images_per_day=0)

    assert [store.submit(new_job(), none).quotas for _ in range(3)] == [(), (), ()]
    assert not client.exists(SPENT)


def test_callers_are_counted_each_for_itself(store: JobStore) -> None:
    limits = Limits(rate=1)
    store.submit(new_job("ada"), limits)

    assert store.submit(new_job("bob"), limits).quotas[0].left == 0


def test_counts_expire_after_a_day(store: JobStore, client: redis.Redis) -> None:
    store.submit(new_job(), Limits(rate=1))

    assert 0 < client.ttl(SPENT) <= DAY


# Over HTTP


@pytest.fixture
def limited(farm: Farm, open_api: Callable[..., FlaskClient]) -> FlaskClient:
    """Return an API with keys, where ada may submit twice a minute."""
    return open_api(with_keys=True)


@pytest.fixture
def ada(farm: Farm) -> dict[str, str]:
    return bearer(farm.callers.create("ada", limits=Limits(rate=2, images_per_day=10)))


SHAPES: dict[str, tuple[dict[str, Any], Callable[[TestResponse, int], dict[str, Any]]]] = {
    "/farm/v1/jobs": ({"model": "srpo", "prompt": "a fox"}, problem),
    FAL_QUEUE: ({"prompt": "a fox"}, fal_error),
    FAL_RUN: ({"prompt": "a fox"}, fal_error),
    WAVESPEED: ({"prompt": "a fox"}, gateway_error),
    GENERATIONS: ({"model": "srpo", "prompt": "a fox"}, openai_error),
}


def test_each_submit_gets_what_is_left_of_its_limits(limited: FlaskClient, ada: dict[str, str]) -> None:
    answers = [
        post_job(limited, headers=ada),
        limited.post(FAL_QUEUE, json={"prompt": "a fox", "num_images": 2}, headers=ada),
    ]

    assert [answer.status_code for answer in answers] == [202, 200]
    for answer, left in zip(answers, ((1, 9), (0, 7)), strict=True):
        assert answer.headers["RateLimit-Policy"] == '"submits";q=2;w=60, "images";q=10;w=86400'
        result = answer.headers["RateLimit"]
        assert result.startswith(f'"submits";r={left[0]};t=')
        assert f'"images";r={left[1]};t=' in result


@pytest.mark.parametrize("path", SHAPES)
def test_over_the_rate_each_dialect_says_so_in_its_own_shape(
    limited: FlaskClient, ada: dict[str, str], path: str
) -> None:
    submit(limited, headers=ada)
    submit(limited, headers=ada)
    body, shape = SHAPES[path]

    for _ in range(2):  # found out in the job store, and remembered
        refused = limited.post(path, json=body, headers=ada)

        assert "2 requests a minute" in str(shape(refused, 429))
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.headers["RateLimit"].startswith('"submits";r=0;t=')


def test_openais_libraries_do_not_wait_for_the_next_day(farm: Farm, limited: FlaskClient, ada: dict[str, str]) -> None:
    """They wait for any `Retry-After` by themselves, unless `X-Should-Retry` tells them not to."""
    spent = bearer(farm.callers.create("eve", limits=Limits(images_per_day=1)))
    for key in (spent, ada, ada):
        submit(limited, headers=key)
    body, _ = SHAPES[GENERATIONS]

    tomorrow, soon = (limited.post(GENERATIONS, json=body, headers=key) for key in (spent, ada))

    assert int(tomorrow.headers["Retry-After"]) > 60
    assert tomorrow.headers["X-Should-Retry"] == "false"
    assert (soon.status_code, soon.headers.get("X-Should-Retry")) == (429, None)


def test_polls_go_on_while_submits_are_refused(limited: FlaskClient, ada: dict[str, str]) -> None:
    job_id = submit(limited, headers=ada)
    submit(limited, headers=ada)
    problem(post_job(limited, headers=ada), 429)

    answers = [limited.get(f"/farm/v1/jobs/{job_id}", headers=ada) for _ in range(10)]

    assert {answer.status_code for answer in answers} == {200}
    assert not any("RateLimit" in answer.headers for answer in answers)
    assert limited.post(f"/farm/v1/jobs/{job_id}/cancel", headers=ada).status_code == 200


def test_each_refused_call_costs_one_read(limited: FlaskClient, farm: Farm, ada: dict[str, str]) -> None:
    submit(limited, headers=ada)
    submit(limited, headers=ada)
    problem(post_job(limited, headers=ada), 429)

    def hammer() -> None:
        for _ in range(20):
            problem(post_job(limited, headers=ada), 429)

    assert cost_of(hammer, farm.redis) == {"hgetall": 20}


@pytest.mark.parametrize("limits", [Limits(waiting=1), Limits(images_per_day=1)])
def test_a_call_refused_by_another_limit_costs_one_read(
    limited: FlaskClient, farm: Farm, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    eve = bearer(farm.callers.create("eve", limits=limits))
    submit(limited, headers=eve)
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    problem(post_job(limited, headers=eve), 429)

    assert cost_of(lambda: problem(post_job(limited, headers=eve), 429), farm.redis) == {"hgetall": 1}


def test_a_refusal_is_remembered_until_its_time_is_over(
    limited: FlaskClient, farm: Farm, ada: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(limited, headers=ada)
    submit(limited, headers=ada)
    first = post_job(limited, headers=ada)
    now = clock.monotonic()
    go_on(farm.redis, 30)

    monkeypatch.setattr(clock, "monotonic", lambda: now + 10)
    later = post_job(limited, headers=ada)
    monkeypatch.setattr(clock, "monotonic", lambda: now + 31)

    assert int(later.headers["Retry-After"]) < int(first.headers["Retry-After"])
    submit(limited, headers=ada)


def test_other_limits_hold_from_the_next_call_on(limited: FlaskClient, farm: Farm, ada: dict[str, str]) -> None:
    submit(limited, headers=ada)
    submit(limited, headers=ada)
    problem(post_job(limited, headers=ada), 429)

    assert farm.callers.limit("ada", Limits(rate=1000)) == 1

    assert post_job(limited, headers=ada).headers["RateLimit-Policy"] == '"submits";q=1000;w=60'


def test_a_repeated_idempotency_key_finds_its_job_over_the_limit(limited: FlaskClient, ada: dict[str, str]) -> None:
    job_id = submit(limited, headers=ada | {"Idempotency-Key": "k"})
    submit(limited, headers=ada)
    problem(post_job(limited, headers=ada), 429)

    assert submit(limited, headers=ada | {"Idempotency-Key": "k"}) == job_id
    problem(post_job(limited, headers=ada | {"Idempotency-Key": "another"}), 429)


def test_a_refusal_is_its_callers_own(limited: FlaskClient, ada: dict[str, str], bob: dict[str, str]) -> None:
    submit(limited, headers=ada)
    submit(limited, headers=ada)
    problem(post_job(limited, headers=ada), 429)

    answer = post_job(limited, headers=bob)

    assert answer.status_code == 202
    assert "RateLimit" not in answer.headers


def test_two_apis_count_together(farm: Farm, open_api: Callable[..., FlaskClient], ada: dict[str, str]) -> None:
    one, other = open_api(with_keys=True), open_api(with_keys=True)
    submit(one, headers=ada)
    submit(other, headers=ada)

    problem(post_job(one, headers=ada), 429)
    problem(post_job(other, headers=ada), 429)


def test_the_limits_of_the_settings_hold_for_callers_without_their_own(redis_dir: Path, farm: Farm) -> None:
    strict = build(Settings(rate_limit=1, images_per_day=7), redis_dir)
    farm.store.renew("w", FACTS, [])
    app = create_app(strict, base=BASE, with_keys=False, max_streams=4, max_held_calls=4)
    api = app.test_client()

    first = post_job(api)

    assert first.headers["RateLimit-Policy"] == '"submits";q=1;w=60, "images";q=7;w=86400'
    assert problem(post_job(api), 429)["code"] == "rate_limited"


def test_a_wrong_key_costs_one_read_wherever_it_comes(limited: FlaskClient, farm: Farm) -> None:
    submit(limited, headers=bearer(farm.callers.create("eve")))
    wrong = bearer("farm_00000000_" + "a" * 43)
    calls = [("POST", "/farm/v1/jobs"), ("GET", f"/farm/v1/jobs/{UNKNOWN_ID}"), ("POST", "/fal/cdn/files/upload")]

    def try_all(headers: dict[str, str]) -> None:
        for method, path in calls:
            assert limited.open(path, method=method, headers=headers).status_code == 401

    assert cost_of(lambda: try_all(wrong), farm.redis) == {"hgetall": len(calls)}
    assert cost_of(lambda: try_all(bearer("nonsense")), farm.redis) == {}
