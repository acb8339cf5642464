"""Submits in every dialect: wrong bodies, idempotency keys, unserved models, full queues, blocking calls."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from farm.bootstrap import Farm, build
from farm.settings import Settings
from tests.farms import wait_for
from tests.service.api.calls import post_job, problem, submit
from tests.service.api.dialects import DIALECTS, Dialect
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import BASE, FACTS

EVERY_DIALECT = pytest.mark.parametrize("dialect", DIALECTS, ids=str)
EVERY_WAITING_CALL = pytest.mark.parametrize("dialect", [dialect for dialect in DIALECTS if dialect.waits], ids=str)

#: Bodies that are no JSON object, or hold what JSON or UTF-8 cannot.
WRONG_BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"srpo"',
    b"model=srpo&prompt=a",
    b"\x00\xff",
    b"[" * 100_000,
    b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    b'{"model": "srpo", "prompt": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"model": "srpo", "prompt": "a", "seed": 1' + b"0" * 5000 + b"}",
    b'{"model": "srpo", "prompt": "a", "seed": 1' + b"0" * 4000 + b"}",
    b'{"model": "srpo", "prompt": "a", "guidance_scale": 1e999}',
    b'{"model": "srpo", "prompt": "a", "guidance_scale": NaN}',
    b'{"model": "srpo", "prompt": "\\ud800"}',
    b'{"model": "srpo", "prompt": "\xed\xa0\x80"}',
    b'{"model": "srpo", "prompt": "a", "\\ud800": 1}',
]
KEY = {"Idempotency-Key": "k"}


def recorded(farm: Farm) -> int:
    """Return the number of jobs."""
    return sum(1 for _ in farm.redis.scan_iter("srpo:job:*"))


@pytest.fixture
def hasty(open_api: Callable[..., FlaskClient], farm: Farm) -> FlaskClient:
    """Return an API whose blocking calls time out at once."""
    return open_api(settings=farm.settings.model_copy(update={"hold_seconds": 0.05}))


@EVERY_DIALECT
def test_a_submit_becomes_a_job_of_its_dialect(hasty: FlaskClient, farm: Farm, dialect: Dialect) -> None:
    response = dialect.submit(hasty)

    assert response.status_code == dialect.accepted, response.text
    job = jobs.record(farm.store, dialect.job_id(response))
    assert (job.dialect, job.request.model, job.request.prompt) == (dialect.dialect, "srpo", "a fox")


@EVERY_DIALECT
def test_a_body_that_is_no_json_object_is_rejected(hasty: FlaskClient, farm: Farm, dialect: Dialect) -> None:
    for data in WRONG_BODIES:
        dialect.error(hasty.post(dialect.path, data=data))

    assert recorded(farm) == 0


@EVERY_DIALECT
def test_every_wrong_field_is_named_and_nothing_is_recorded(hasty: FlaskClient, farm: Farm, dialect: Dialect) -> None:
    message = dialect.error(dialect.submit(hasty, seed=-5, output_format="webp", colour="red", enhance_prompt=1))

    assert [name for name in ("seed", "output_format", "colour", "enhance_prompt") if f"{name}: " not in message] == []
    assert recorded(farm) == 0


@EVERY_DIALECT
@pytest.mark.parametrize("value", [float("nan"), 10**300, "a" * 100_000, "\ud800", [[[[]]]]], ids=lambda v: repr(v)[:9])
def test_an_error_is_json_whatever_was_sent(hasty: FlaskClient, dialect: Dialect, value: object) -> None:
    assert "seed: " in dialect.error(dialect.submit(hasty, seed=value))


@pytest.mark.parametrize("level", ["none", "regular", "high", None])
@pytest.mark.parametrize("dialect", [one for one in DIALECTS if one.dialect != "wavespeed"], ids=str)
def test_every_dialect_takes_every_level_of_acceleration_and_has_its_own_default(
    hasty: FlaskClient, farm: Farm, dialect: Dialect, level: str | None
) -> None:
    response = dialect.submit(hasty, acceleration=level) if level else dialect.submit(hasty)

    request = jobs.record(farm.store, dialect.job_id(response)).request
    default = "regular" if dialect.dialect in ("aimlapi", "siraya") else "none"
    assert (request.acceleration, request.notes) == (level or default, ())


@EVERY_DIALECT
def test_an_unknown_parameter_of_the_address_is_rejected_by_name(
    hasty: FlaskClient, farm: Farm, dialect: Dialect
) -> None:
    assert "mode" in dialect.error(hasty.post(f"{dialect.path}?mode=fast", json=dialect.body))
    assert recorded(farm) == 0


@EVERY_DIALECT
def test_a_model_that_no_worker_serves_is_rejected_with_those_that_are_served(
    hasty: FlaskClient, dialect: Dialect
) -> None:
    path, body = dialect.not_served

    assert dialect.model_id in dialect.error(hasty.post(path, json=body), 400)


@EVERY_DIALECT
def test_submits_get_503_with_retry_after_before_the_first_worker(farm: Farm, dialect: Dialect) -> None:
    api = create_app(farm, base=BASE, with_keys=False, max_streams=1, max_held_calls=1).test_client()

    response = dialect.submit(api)

    dialect.error(response, 503)
    assert 1 <= int(response.headers["Retry-After"]) <= 60


@EVERY_DIALECT
def test_a_full_queue_tells_when_to_come_back(redis_dir: Path, farm: Farm, dialect: Dialect) -> None:
    small = build(Settings(queue_limit=1, hold_seconds=0.05), redis_dir, listens=True)
    small.store.renew("w", FACTS, [])
    api = create_app(small, base=BASE, with_keys=False, max_streams=1, max_held_calls=1).test_client()
    assert dialect.submit(api, seed=1).status_code == dialect.accepted

    response = dialect.submit(api, seed=2)

    dialect.error(response, 429)
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert recorded(farm) == 1


# Idempotency keys


@EVERY_DIALECT
def test_the_same_key_and_body_is_the_same_job(hasty: FlaskClient, farm: Farm, dialect: Dialect) -> None:
    first, again = (dialect.submit(hasty, KEY) for _ in range(2))

    assert first.status_code == again.status_code == dialect.accepted
    assert dialect.job_id(first) == dialect.job_id(again)
    assert recorded(farm) == 1


@EVERY_DIALECT
def test_the_same_key_with_another_body_is_rejected(hasty: FlaskClient, farm: Farm, dialect: Dialect) -> None:
    dialect.submit(hasty, KEY)

    dialect.error(dialect.submit(hasty, KEY, seed=8), 422)
    assert recorded(farm) == 1


@EVERY_DIALECT
def test_a_rejected_submit_does_not_use_up_its_key(hasty: FlaskClient, dialect: Dialect) -> None:
    dialect.error(dialect.submit(hasty, KEY, seed="x"))

    assert dialect.submit(hasty, KEY).status_code == dialect.accepted


@EVERY_DIALECT
def test_a_key_has_at_most_255_characters(hasty: FlaskClient, dialect: Dialect) -> None:
    assert dialect.submit(hasty, {"Idempotency-Key": "k" * 255}).status_code == dialect.accepted

    assert "Idempotency-Key" in dialect.error(dialect.submit(hasty, {"Idempotency-Key": "k" * 256}))


# Calls that wait


def one_at_a_time(farm: Farm, seconds: float) -> FlaskClient:
    """Return a client of an API that holds one call, for so many seconds."""
    farm.store.renew("w", FACTS, [])
    held = replace(farm, settings=farm.settings.model_copy(update={"hold_seconds": seconds}))
    return create_app(held, base=BASE, with_keys=False, max_streams=1, max_held_calls=1).test_client()


@EVERY_WAITING_CALL
def test_one_waiting_call_too_many_gets_retry_after_and_makes_no_job(farm: Farm, dialect: Dialect) -> None:
    api = one_at_a_time(farm, 20)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(dialect.submit, api)
        (job,) = wait_for(lambda: jobs.take(farm.store))
        response = dialect.submit(api.application.test_client(), seed=2)
        farm.store.fail(job, "render_failed", "It did not work.")
        waiting.result()

    dialect.error(response, 429)
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert recorded(farm) == 1


@EVERY_WAITING_CALL
def test_calls_sent_again_after_a_timeout_are_one_job(hasty: FlaskClient, farm: Farm, dialect: Dialect) -> None:
    """A count of retries from the client makes no difference."""
    for count in range(3):
        dialect.submit(hasty, {"X-Stainless-Retry-Count": str(count)})
        dialect.submit(hasty)

    assert recorded(farm) == 1
    dialect.submit(hasty, seed=8)
    assert recorded(farm) == 2


@EVERY_WAITING_CALL
def test_the_slot_of_a_call_is_free_after_its_answer(farm: Farm, dialect: Dialect) -> None:
    api = one_at_a_time(farm, 0.05)

    for _ in range(2):
        dialect.error(dialect.submit(api, seed="x"))
        assert dialect.submit(api).status_code == dialect.accepted


def test_a_job_is_accepted_before_the_first_worker_if_workers_will_bring_its_model(farm: Farm, redis_dir: Path) -> None:
    """Otherwise scaling from zero could not begin: no job, no worker, and no worker, no job."""
    settings = Settings(serves=frozenset({"srpo"}))
    scaled = replace(build(settings, redis_dir), settings=farm.settings)
    api = create_app(scaled, base=BASE, with_keys=False, max_streams=1, max_held_calls=1).test_client()

    job_id = submit(api)

    assert problem(post_job(api, model="kontext"), 400)["code"] == "model_not_served"
    served = {model["name"]: model["served"] for model in api.get("/farm/v1/models").get_json()["models"]}
    assert (served["srpo"], served["kontext"]) == (True, False)
    assert [job.id for job in farm.store.claim("first", ["srpo"]).batch.jobs] == [job_id]
