"""Health checks and metrics: true, parseable, and without callers' names."""

from __future__ import annotations

from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from farm.bootstrap import Farm
from farm.domain.delivery import Attempt, Outcome
from tests.service.api.calls import UNKNOWN_ID, bearer, post_job, submit
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import FACTS


class Samples:
    """The samples of `/metrics`, by name and labels."""

    def __init__(self, api: FlaskClient) -> None:
        response = api.get("/metrics")
        assert response.status_code == 200
        families = text_string_to_metric_families(response.text)
        self.all = [sample for family in families for sample in family.samples]

    def of(self, name: str, **labels: str) -> float | None:
        for sample in self.all:
            if (sample.name, sample.labels) == (name, labels):
                return sample.value
        return None


def test_alive_and_ready(api: FlaskClient) -> None:
    assert (api.get("/healthz").status_code, api.get("/healthz").get_json()) == (200, {"status": "alive"})
    assert (api.get("/readyz").status_code, api.get("/readyz").get_json()) == (200, {"status": "ready"})


def test_an_api_whose_redis_refuses_writes_is_ready_for_reads(api: FlaskClient, farm: Farm) -> None:
    """All replicas would leave their load balancer together."""
    job_id = submit(api)
    farm.redis.config_set("maxmemory", 1)
    try:
        assert post_job(api).status_code == 429
        assert [api.get(path).status_code for path in ("/readyz", f"/farm/v1/jobs/{job_id}")] == [200, 200]
    finally:
        farm.redis.config_set("maxmemory", 0)


def test_metrics_are_there_before_anything_happened(farm: Farm, api: FlaskClient) -> None:
    farm.redis.flushall()

    found = Samples(api)

    assert (found.of("farm_store_up"), found.of("farm_jobs_processing")) == (1, 0)


def test_metrics_count_what_waits_and_runs(api: FlaskClient, farm: Farm) -> None:
    for priority in ("normal", "normal", "low"):
        submit(api, priority=priority, num_images=4)
    submit(api, enhance_prompt=True)
    job = jobs.take_one(farm.store, "w")
    farm.store.renew("w", FACTS, [jobs.held(job)])

    found = Samples(api)

    for priority in ("normal", "low"):
        assert found.of("farm_jobs_waiting", model="srpo", priority=priority) == 1
        assert 0 < (found.of("farm_jobs_oldest_waiting_seconds", model="srpo", priority=priority) or 0) < 10
    assert (found.of("farm_jobs_processing"), found.of("farm_workers", state="warm")) == (1, 1)
    assert found.of("farm_jobs_unprepared", model="srpo") == 1


def test_metrics_count_what_became_of_jobs(api: FlaskClient, farm: Farm) -> None:
    for _ in range(3):
        submit(api)
    completed, failed, _ = jobs.take(farm.store, "w")
    farm.store.complete(completed, jobs.result(completed))
    farm.store.fail(failed, "render_failed", "x")

    found = Samples(api)

    assert found.of("farm_jobs_accepted_total", model="srpo", priority="normal") == 3
    assert found.of("farm_jobs_completed_total", model="srpo") == 1
    assert found.of("farm_jobs_failed_total", model="srpo", code="render_failed") == 1
    assert found.of("farm_images_total", model="srpo", acceleration="none", size="0.3MP") == 1
    assert (found.of("farm_claims_total"), found.of("farm_jobs_unaccounted")) == (1, 0)


def test_metrics_count_what_became_of_deliveries(api: FlaskClient, farm: Farm) -> None:
    for _ in range(3):
        submit(api, webhook_url="https://hook.example/", webhook_events=["job.created"])
    for outcome in (Outcome.DELIVERED, Outcome.FAILED):
        (due,) = farm.deliveries.claim(1, lease_seconds=60)
        farm.deliveries.finish(due, outcome, Attempt(1, 1.0, 200))

    found = Samples(api)

    assert found.of("farm_webhooks_waiting") == 1
    assert found.of("farm_webhook_deliveries_total", outcome="delivered") == 1
    assert found.of("farm_webhook_attempts_total", outcome="failed") == 1


def test_metrics_count_answers_by_route(api: FlaskClient) -> None:
    submit(api)
    for name in ("x", "y"):
        api.get(f"/farm/v1/jobs/{name}")
    api.get("/nothing")

    found = Samples(api)

    name = "farm_http_requests_total"
    assert found.of(name, route="/farm/v1/jobs", method="POST", status="202") == 1
    assert found.of(name, route="/farm/v1/jobs/<job_id>", method="GET", status="404") == 2
    assert found.of(name, route="none", method="GET", status="404") == 1
    assert found.of("farm_http_request_duration_seconds_count", route="/farm/v1/jobs") == 1


def test_metrics_name_no_caller_job_or_prompt(keyed: FlaskClient, farm: Farm) -> None:
    key = farm.callers.create("ada-lovelace")
    job_id = submit(keyed, headers=bearer(key), prompt="a secret fox")
    jobs.take_one(farm.store)
    keyed.get(f"/farm/v1/jobs/{job_id}", headers=bearer(key))
    keyed.get(f"/files/{UNKNOWN_ID}")

    text = keyed.get("/metrics").text

    for private in ("ada-lovelace", job_id, UNKNOWN_ID, "secret", key):
        assert private not in text


def test_made_up_methods_make_no_series(api: FlaskClient) -> None:
    """Otherwise clients without a key could fill the memory of the API."""
    for number in range(5):
        api.open("/farm/v1/jobs", method=f"BREW{number}")

    assert "BREW" not in str(Samples(api).all)
