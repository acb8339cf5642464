"""The size and the cost of a scrape, a process's own port, and figures of callers."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import urllib3
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from farm.bootstrap import Farm
from farm.domain.catalogue import MODELS
from farm.domain.measures import MAX_CALLERS
from farm.jobstore import redis_keys
from farm.jobstore.reading import CallerReading
from farm.settings import Settings
from farm.telemetry import port
from farm.telemetry.caller_metrics import CallerCollector
from farm.telemetry.worker_metrics import FIGURES, MAX_WORKERS, WorkerCollector
from tests.farms import free_port
from tests.service.api import calls
from tests.service.jobstore.jobs import FACTS, result, submit, take_one
from tests.service.telemetry.scrape import Scrape

#: A worker with every figure, as one with a card sends them.
FIGURED = FACTS | {"host": "h", "device": "cuda:0", "version": "1"} | {"models": ",".join(m.name for m in MODELS)}
FIGURED |= {family.name.removeprefix("farm_worker_"): "1.5" for family in FIGURES if family.name != "farm_worker_jobs"}


def test_the_figures_of_a_worker_come_with_its_heartbeat(api: FlaskClient, farm: Farm) -> None:
    farm.store.renew("w9", FIGURED, [])

    found = Scrape(api)

    for family in FIGURES:
        assert found.of(family.name, worker="w9") == (0 if family.name == "farm_worker_jobs" else 1.5), family.name
    labels = {"worker": "w9", "host": "h", "device": "cuda:0", "weights": "miniature", "build": "b", "version": "1"}
    assert found.of("farm_worker_info", **labels) == 1


def test_eight_workers_make_no_more_than_three_thousand_series(api: FlaskClient, farm: Farm) -> None:
    for number in range(8):
        farm.store.renew(f"machine-with-a-long-name-{number}", FIGURED, [])
    for rule in {rule.rule for rule in api.application.url_map.iter_rules()}:
        for method in ("GET", "POST", "DELETE"):
            api.open(rule.replace("<", "").replace(">", ""), method=method)

    count = len(Scrape(api).samples)

    print(f"\n{count} series")
    assert 1000 < count <= 3000


def test_very_many_workers_are_reported_by_state_only(api: FlaskClient, farm: Farm) -> None:
    for number in range(MAX_WORKERS + 1):
        farm.store.renew(f"w{number}", FIGURED, [])
    farm.store.remove_worker("w", ["srpo"])

    found = Scrape(api)

    assert found.of("farm_workers", state="warm") == MAX_WORKERS + 1
    assert [name for name, _ in found.samples if name.startswith("farm_worker_")] == []


def fill(client: redis.Redis, jobs: int) -> None:
    """Have so many jobs wait, of as much as a scrape can see of them."""
    for start in range(0, jobs, 10_000):
        ids = {f"job-{number}": number for number in range(start, min(jobs, start + 10_000))}
        with client.pipeline(transaction=False) as pipeline:
            pipeline.zadd(redis_keys.queue_by_age("srpo", "normal"), ids)
            pipeline.zadd(redis_keys.JOBS, ids)
            pipeline.execute()


@pytest.mark.alone
@pytest.mark.parametrize("jobs", [20_000, pytest.param(1_000_000, marks=[pytest.mark.full])])
def test_a_scrape_of_a_thousand_workers_takes_less_than_50_ms(api: FlaskClient, farm: Farm, jobs: int) -> None:
    for number in range(1000):
        farm.store.renew(f"w{number}", FIGURED, [])
    fill(farm.redis, jobs)

    def seconds() -> float:
        began = time.perf_counter()
        assert api.get("/metrics").status_code == 200
        return time.perf_counter() - began

    took = sorted(seconds() for _ in range(20))

    print(
        f"\na scrape with 1,000 workers and {jobs} jobs: fastest {took[0] * 1e3:.1f} ms, median {took[10] * 1e3:.1f} ms"
    )
    assert took[0] < 0.05


@contextmanager
def taken(first: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", first)):
        yield


def page(number: int) -> str:
    response = urllib3.request("GET", f"http://127.0.0.1:{number}/metrics", retries=False, timeout=5)
    return response.data.decode()


def test_a_process_serves_its_own_metrics_at_the_first_free_port() -> None:
    first = free_port()
    with taken(first):
        port.serve(Settings(metrics_port=first), WorkerCollector("w1", lambda: dict(FIGURED)))

    assert 'farm_worker_busy_seconds_total{worker="w1"} 1.5' in page(first + 1)


def test_a_port_that_is_taken_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_port()
    monkeypatch.setattr(port, "MAX_PORTS", 1)

    with taken(first), capture_logs() as lines:
        port.serve(Settings(metrics_port=first))

    assert [(line["log_level"], line["first_port"]) for line in lines] == [("warning", first)]


def test_no_port_is_opened_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_one(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(port, "start_http_server", open_one)

    port.serve(Settings())


def test_callers_have_figures_at_a_port_of_its_own_only(api: FlaskClient, farm: Farm) -> None:
    for number in range(MAX_CALLERS + 3):
        submit(farm.store, f"caller-{number}", images=1 if number else 2)
        job = take_one(farm.store)
        farm.store.complete(job, result(job))
    submit(farm.store, "ada")
    registry = CollectorRegistry()
    registry.register(CallerCollector(lambda: CallerReading.of(farm.redis)))

    found = generate_latest(registry).decode().splitlines()

    images = dict(line.rsplit(" ", 1) for line in found if line.startswith("farm_caller_images_total{"))
    assert images['farm_caller_images_total{caller="caller-0"}'] == "2.0"
    assert len(images) == MAX_CALLERS + 1
    assert sum(map(float, images.values())) <= MAX_CALLERS + 4
    assert 'farm_caller_jobs_waiting{caller="ada"} 1.0' in found
    assert "caller-0" not in api.get("/metrics").text
    assert calls.UNKNOWN_ID not in api.get("/metrics").text
