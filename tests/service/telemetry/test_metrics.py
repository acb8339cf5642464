"""The metrics of the whole farm: exact, there from 0 on, cheap to read, and the same from every API."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import redis
from flask.testing import FlaskClient

from farm.bootstrap import Farm
from farm.domain.delivery import Attempt, Outcome
from farm.domain.error_codes import JOB_FAILURES
from farm.domain.job import Claimed, State, Webhook
from farm.domain.measures import MEASURES
from farm.jobstore import redis_keys
from farm.jobstore.disk_guard import SUBMIT_RESERVE
from farm.jobstore.store import JobStore
from farm.telemetry import page, store_metrics
from farm.telemetry.disk_metrics import DiskCollector
from farm.uploads.uploads import MIN_FREE_BYTES
from tests.docs_snippets import DOCS
from tests.service.api import calls
from tests.service.api.calls import FAL_RUN, GENERATIONS
from tests.service.jobstore.jobs import (
    FACTS,
    TERMS,
    end_delays,
    lose,
    result,
    submit,
    take,
    take_one,
)
from tests.service.telemetry.scrape import Scrape

MODEL = {"model": "srpo", "priority": "normal"}


@pytest.mark.parametrize(
    "name", [name for name, measure in MEASURES.items() if not (measure.buckets or measure.is_by_caller)]
)
def test_every_value_of_a_label_is_there_before_anything_happened(api: FlaskClient, name: str) -> None:
    found, labels = Scrape(api), MEASURES[name].labels

    for values in product(*labels.values()):
        assert found.of(f"farm_{name}_total", **dict(zip(labels, values, strict=True))) == 0


@pytest.mark.parametrize("code", JOB_FAILURES)
def test_the_first_failure_of_each_kind_is_an_increase(api: FlaskClient, farm: Farm, code: str) -> None:
    labels = {"model": "srpo", "code": code}
    before = Scrape(api).of("farm_jobs_failed_total", **labels)
    submit(farm.store)
    farm.store.fail(take_one(farm.store), code, "x")

    assert (before, Scrape(api).of("farm_jobs_failed_total", **labels)) == (0, 1)


def test_a_code_of_another_version_is_not_lost(api: FlaskClient, farm: Farm) -> None:
    submit(farm.store)
    farm.store.fail(take_one(farm.store), "code_of_tomorrow", "x")

    assert Scrape(api).of("farm_jobs_failed_total", model="srpo", code="code_of_tomorrow") == 1


def test_a_silent_worker_is_lost_as_soon_as_its_lease_is_over(api: FlaskClient, farm: Farm) -> None:
    store = JobStore(farm.redis, replace(TERMS, lease_seconds=60))
    store.remove_worker("w", ["srpo"])
    for worker in ("dead", "alive"):
        store.renew(worker, FACTS, [])
    farm.redis.zincrby(redis_keys.WORKERS, -60_000_001, "dead")

    found = Scrape(api)

    assert (found.of("farm_workers", state="lost"), found.of("farm_workers", state="warm")) == (1, 1)
    assert [worker.facts["state"] for worker in farm.stats.workers()] == ["lost", "warm"]


def test_a_paused_farm_says_so(api: FlaskClient, farm: Farm) -> None:
    before = Scrape(api).of("farm_paused")
    farm.store.pause()

    assert (before, Scrape(api).of("farm_paused")) == (0, 1)


@pytest.mark.parametrize(
    ("path", "dialect", "fields"), [(FAL_RUN, "fal", {}), (GENERATIONS, "openai", {"model": "srpo"})]
)
def test_a_blocking_call_is_timed_apart(
    open_api: Callable[..., FlaskClient], farm: Farm, path: str, dialect: str, fields: dict[str, str]
) -> None:
    api = open_api(settings=farm.settings.model_copy(update={"hold_seconds": 0.2}))
    before = Scrape(api).of("farm_held_call_duration_seconds_count", dialect=dialect)
    assert api.post(path, json={"prompt": "a red fox"} | fields).status_code == 504

    found = Scrape(api)

    assert (before, found.of("farm_held_call_duration_seconds_count", dialect=dialect)) == (0, 1)
    assert 0.2 <= (found.of("farm_held_call_duration_seconds_sum", dialect=dialect) or 0) < 5
    assert [labels for name, labels in found.samples if name == "farm_http_request_duration_seconds_count"] == [
        (("route", "/metrics"),)
    ]
    assert (found.of("farm_held_calls"), found.of("farm_held_calls_max")) == (0, 4)


def test_no_series_tells_when_another_was_created(api: FlaskClient) -> None:
    calls.submit(api)

    assert [name for name, _ in Scrape(api).samples if name.endswith("_created")] == []


def test_a_job_counts_once_though_its_leases_were_lost(api: FlaskClient, farm: Farm, client: redis.Redis) -> None:
    submit(farm.store)
    late = take_one(farm.store)
    for _ in range(2):
        lose(client, farm.store)
        job = take_one(farm.store)
    assert not farm.store.complete(late, result(late))
    assert farm.store.complete(job, result(job))
    assert farm.store.complete(job, result(job)), "its answer was lost"

    found = Scrape(api)

    assert found.of("farm_jobs_completed_total", model="srpo") == 1
    assert found.of("farm_job_wait_seconds_count", **MODEL) == 1
    assert found.of("farm_job_duration_seconds_count", **MODEL) == 1
    assert found.total("farm_job_render_seconds_count") == found.total("farm_images_total") == 1
    assert found.of("farm_job_retries_total", reason="worker_lost") == found.of("farm_jobs_taken_back_total") == 2
    assert found.of("farm_fence_refusals_total", operation="complete") == 1
    assert found.of("farm_jobs_unaccounted") == 0


def test_jobs_without_an_attempt_left_are_counted(api: FlaskClient, farm: Farm, client: redis.Redis) -> None:
    def fail(job: Claimed) -> object:
        return farm.store.fail(job, "render_failed", "x", retry="again")

    for end in (fail, lambda _: lose(client, farm.store)):
        submit(farm.store)
        for _ in range(TERMS.max_attempts):
            end_delays(client)
            farm.store.reap()
            end(take_one(farm.store))

    found = Scrape(api)

    assert found.of("farm_jobs_exhausted_total") == 2
    assert found.of("farm_jobs_failed_total", model="srpo", code="attempts_exhausted") == 1
    assert found.of("farm_jobs_failed_total", model="srpo", code="render_failed") == 1
    assert found.of("farm_job_retries_total", reason="render_failed") == TERMS.max_attempts - 1


def test_times_are_those_of_the_job(api: FlaskClient, farm: Farm, client: redis.Redis) -> None:
    job_id = submit(farm.store, images=2)
    client.hincrby(redis_keys.job(job_id), "created_us", -7_000_000)
    job = take_one(farm.store)
    farm.store.complete(job, result(job))

    found = Scrape(api)

    for histogram in ("farm_job_wait_seconds", "farm_job_duration_seconds"):
        buckets = [found.of(f"{histogram}_bucket", le=bound, **MODEL) for bound in ("5.0", "10.0", "+Inf")]
        assert buckets == [0, 1, 1]
        assert 7 <= (found.of(f"{histogram}_sum", **MODEL) or 0) < 9
    assert found.of("farm_job_stage_seconds_sum", stage="denoise") == 1.0
    assert found.total("farm_job_render_seconds_sum") == pytest.approx(1.2345)
    assert (found.of("farm_batch_images_bucket", le="1.0"), found.of("farm_batch_images_bucket", le="2.0")) == (0, 1)


def test_renders_are_counted_by_model_level_and_size(api: FlaskClient, farm: Farm) -> None:
    for size in (512, 1024):
        submit(farm.store, images=2, width=size, height=size, steps=10)
        job = take_one(farm.store)
        farm.store.complete(job, replace(result(job), flagged=(True, False)))

    found = Scrape(api)

    kind = {"model": "srpo", "acceleration": "none"}
    assert [found.of("farm_images_total", size=size, **kind) for size in ("0.3MP", "1.3MP", "2.8MP")] == [2, 2, 0]
    assert found.of("farm_images_flagged_total", model="srpo") == 2
    assert found.of("farm_denoising_steps_total", **kind) == 40
    assert found.of("farm_megapixel_steps_total", **kind) == pytest.approx(20 * (512**2 + 1024**2) / 1e6)


def test_webhooks_are_timed_from_the_end_of_their_job(api: FlaskClient, farm: Farm) -> None:
    submit(farm.store, webhook=Webhook("https://hook.example/", frozenset({State.COMPLETED})))
    job = take_one(farm.store)
    farm.store.complete(job, result(job))
    for outcome in (Outcome.WAITING, Outcome.DELIVERED):
        (due,) = farm.deliveries.claim(1, lease_seconds=60)
        farm.deliveries.finish(due, outcome, Attempt(1, 2.0, 200))

    found = Scrape(api)

    assert [found.of("farm_webhook_attempts_total", outcome=word) for word in ("retry", "delivered", "failed")] == [
        1,
        1,
        0,
    ]
    assert (found.of("farm_webhook_attempt_seconds_count"), found.of("farm_webhook_attempt_seconds_sum")) == (2, 4)
    assert (found.of("farm_webhook_lag_seconds_count"), found.of("farm_webhooks_waiting")) == (1, 0)


def test_a_webhook_is_late_once_and_as_soon_as_that_is_known(api: FlaskClient, farm: Farm) -> None:
    late = []

    def attempt(outcome: Outcome, pause_seconds: float = 0) -> None:
        (due,) = farm.deliveries.claim(1, lease_seconds=60)
        farm.deliveries.finish(due, outcome, Attempt(1, 2.0, 500), pause_seconds=pause_seconds)
        late.append(Scrape(api).of("farm_webhooks_late_total"))
        if outcome is Outcome.WAITING:  # its pause is over
            queue = f"{due.caller} {due.receiver}"
            farm.redis.zadd(f"{redis_keys.PREFIX}delivery_queue:{queue}", {due.id: 0})
            farm.redis.zadd(redis_keys.DELIVERY_QUEUES, {queue: 0})

    for _ in range(2):
        submit(farm.store, webhook=Webhook("https://hook.example/", frozenset({State.COMPLETED})))
        job = take_one(farm.store)
        farm.store.complete(job, result(job))
        attempt(Outcome.WAITING, 30)
        attempt(Outcome.WAITING, 61)
        attempt(Outcome.WAITING, 120)
        attempt(Outcome.FAILED)

    assert late == [0, 1, 1, 1, 1, 2, 2, 2]


def test_a_webhook_that_is_refused_for_good_is_late(api: FlaskClient, farm: Farm) -> None:
    submit(farm.store, webhook=Webhook("https://hook.example/"))
    farm.store.fail(take_one(farm.store), "render_failed", "x", retry="never")
    (due,) = farm.deliveries.claim(1, lease_seconds=60)
    farm.deliveries.finish(due, Outcome.FAILED, Attempt(1, 2.0, 410))

    assert Scrape(api).of("farm_webhooks_late_total") == 1


def test_an_invariant_that_breaks_is_seen(api: FlaskClient, farm: Farm) -> None:
    for sources in ((), ("https://images.example/cat.png",), ()):
        submit(farm.store, sources=sources)
    farm.store.fail(take_one(farm.store), "render_failed", "x", retry="again")
    take_one(farm.store)
    assert Scrape(api).of("farm_jobs_unaccounted") == 0

    farm.redis.delete(redis_keys.LEASES)

    assert Scrape(api).of("farm_jobs_unaccounted") == 1


def test_two_apis_tell_the_same_of_the_farm(open_api: Callable[..., FlaskClient], farm: Farm) -> None:
    one, other = open_api(), open_api()
    for _ in range(2):
        calls.submit(one)
    job = take(farm.store)[0]
    farm.store.complete(job, result(job))
    names = {family.name for family in store_metrics.COUNTED.values()} | {"farm_jobs_waiting", "farm_jobs_processing"}

    def of_the_farm(api: FlaskClient) -> dict[object, float]:
        return {key: value for key, value in Scrape(api).samples.items() if key[0] in names}

    assert of_the_farm(one) == of_the_farm(other)
    assert sum(of_the_farm(one).values()) > 0


def test_a_part_that_cannot_be_read_costs_its_family(api: FlaskClient, farm: Farm) -> None:
    whole = {family.name for family in Scrape(api).families}
    farm.redis.set(redis_keys.WORK, "no hash")

    found = Scrape(api)

    assert whole - {family.name for family in found.families} == {"farm_images_waiting"}
    assert found.of("farm_scrape_failed_families") == 1


def test_the_disk_tells_what_it_has_left_and_what_is_refused_below(
    open_api: Callable[..., FlaskClient], farm: Farm
) -> None:
    own_redis = farm.settings.model_copy(update={"redis_url": farm.redis_url})
    found, of_own_redis = Scrape(open_api()), Scrape(open_api(settings=own_redis))

    total, _, free = shutil.disk_usage(farm.data_dir)
    assert found.of("farm_disk_free_bytes") == pytest.approx(free, abs=total / 10)
    for scrape, jobs in ((found, SUBMIT_RESERVE), (of_own_redis, None)):
        reserves = [scrape.of("farm_disk_reserve_bytes", refused=what) for what in ("uploads", "jobs")]
        assert reserves == [MIN_FREE_BYTES, jobs]


def test_a_disk_that_cannot_be_measured_costs_its_family() -> None:
    found = DiskCollector(Path("x" * 300), holds_jobs=True).collect()

    assert [metric.name for metric in found] == ["farm_disk_reserve_bytes"]


@contextmanager
def counted_trips(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count what this thread sends to Redis meanwhile: each is a round trip."""
    sent: list[int] = []
    send = redis.Connection.send_packed_command
    this_thread = threading.get_ident()

    def count(self: redis.Connection, command: object, check_health: bool = True) -> None:
        if threading.get_ident() == this_thread:
            sent.append(1)
        send(self, command, check_health)  # type: ignore[no-untyped-call]

    with monkeypatch.context() as patch:
        patch.setattr(redis.connection.AbstractConnection, "send_packed_command", count)
        yield sent


def test_a_scrape_is_few_round_trips(api: FlaskClient, farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        farm.store.renew(f"w{number}", FACTS, [])
    Scrape(api)

    with counted_trips(monkeypatch) as trips:
        Scrape(api)

    assert 1 <= len(trips) <= 6


def test_the_page_of_metrics_lists_what_a_scrape_has(api: FlaskClient) -> None:
    calls.submit(api)
    api.get("/farm/v1/jobs/unknown")
    listed = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", (DOCS / "metrics.md").read_text(), re.MULTILINE))
    found = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in Scrape(api).families
        if not family.name.startswith(("process_", "python_"))
    }

    of_callers = {family.name for family in page.families() if family.scope == "caller"}

    assert found == {name: kind for name, kind in listed.items() if name not in of_callers}
    assert listed.keys() == {family.name for family in page.families()}


def test_refused_calls_are_counted_by_their_code(api: FlaskClient, farm: Farm) -> None:
    calls.post_job(api, image_size="enormous")
    api.get("/farm/v1/jobs/unknown")
    for path in ("/nothing", "/nothing/else"):
        api.get(path)
    farm.tally.flush()

    found = Scrape(api)

    codes = ("invalid_request", "not_found", "unauthorized")
    assert [found.of("farm_refusals_total", code=code) for code in codes] == [1, 3, 0]
