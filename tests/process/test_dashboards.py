"""Dashboards and rules beside a real Prometheus that asks two APIs of one farm: no panel is empty, no figure double."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from farm.process import child
from monitoring.dashboards import DASHBOARDS, Dashboard
from tests import grafana
from tests.farms import RunningFarm, clean_environment, free_port, running_farm, wait_for
from tests.prometheus import Prometheus
from tests.unit.deploy import DEPLOY
from tests.webhook_receiver import Receiver, answer, running_receiver

#: Panels that a farm without cards leaves empty.
OF_CARDS = {"Card: at work", "Card: memory", "Card: power", "Card: temperature"}
JOBS, FAILED = 12, 3
#: Steps of the job that a worker returns because it drains, and of the others.
LONG, USUAL = 50, 28


@contextmanager
def second_api(farm: RunningFarm) -> Iterator[list[str]]:
    """Yield the address of another API on the same data folder, and that of its own port, which names callers."""
    port, own_port = free_port(), free_port()
    program = [sys.executable, "-m", "api", "--port", str(port), "--data-dir", str(farm.data_dir)]
    environment = clean_environment() | {"FARM_METRICS_PORT": str(own_port), "FARM_METRICS_CALLERS": "on"}
    process = subprocess.Popen(child.command(*program), env=environment, stderr=subprocess.DEVNULL)
    try:
        yield [f"127.0.0.1:{each}" for each in (port, own_port)]
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Prometheus]:
    """Yield a Prometheus beside a farm that has done some of everything."""
    folder = tmp_path_factory.mktemp("dashboards")
    environment = {"FARM_PIPELINE": "flux", "FARM_WEBHOOK_ALLOW": "127.0.0.1/32"}
    with running_farm(folder / "data", 2, **environment) as farm, second_api(farm) as second:
        rules = list(DEPLOY.glob("prometheus/rules/*.yml"))
        prometheus = Prometheus(folder, [f"127.0.0.1:{farm.port}", *second], rules=rules)
        with prometheus.running():
            _use(farm, receiver)
            done = f"max(farm_jobs_completed_total{{model='srpo'}}) == {JOBS}"
            wait_for(lambda: prometheus.query(done), seconds=60, what="the jobs in Prometheus")
            wait_for(
                lambda: prometheus.query(
                    "sum(farm:jobs_completed:rate5m) > 0 and on () sum(farm:webhook_lag_seconds_count:rate5m) > 0"
                ),
                seconds=60,
                what="the rates",
            )
            wait_for(lambda: prometheus.query("sum(farm:workers{state='warm'}) == 2"), seconds=60, what="both workers")
            yield prometheus


def _use(farm: RunningFarm, receiver: Receiver) -> None:
    order = partial(farm.submit, webhook_url=receiver.url, webhook_events=["job.completed"])
    returned = order(num_inference_steps=LONG)
    farm.wait_for_state(returned, "processing")
    worker = str(farm.redis.hget(f"srpo:job:{returned}", "worker"))
    os.kill(int(worker.split("-")[-2]), signal.SIGTERM)
    jobs = [returned, *(order(num_inference_steps=USUAL) for _ in range(JOBS - 1))]
    for job_id in jobs:
        farm.wait_for_end(job_id)
    wait_for(lambda: len(receiver.received) == JOBS, what="the webhooks")
    broken = {"model": "srpo-image-to-image", "prompt": "a fox", "image_url": f"{receiver.url}/none.png"}
    receiver.behave = answer(404)
    jobs += [farm.call("POST", "/farm/v1/jobs", broken).json["id"] for _ in range(FAILED)]
    for job_id in jobs:
        farm.wait_for_end(job_id)
    farm.call("POST", "/farm/v1/jobs", {"model": "srpo"})  # refused


def empty_panels(prometheus: Prometheus) -> list[str]:
    return [
        f"{dashboard.title}: {panel.title}: {expression}"
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        for expression, _ in panel.queries
        if panel.title not in OF_CARDS and not prometheus.query(expression)
    ]


def test_no_panel_is_empty(prometheus: Prometheus) -> None:
    with suppress(AssertionError):  # processes hand in what they counted now and then
        wait_for(lambda: not empty_panels(prometheus), seconds=30)

    assert empty_panels(prometheus) == []


def test_figures_are_those_that_were_caused_though_two_apis_report_them(prometheus: Prometheus) -> None:
    once = "sum(max without (instance) ({}))"
    truths = {
        once.format("farm_jobs_accepted_total"): JOBS + FAILED,
        once.format("farm_jobs_completed_total"): JOBS,
        once.format("farm_jobs_failed_total"): FAILED,
        once.format('farm_jobs_failed_total{code="file_download_error"}'): FAILED,
        once.format("farm_images_total"): JOBS,
        once.format('farm_job_retries_total{reason="drained"}'): 1,
        once.format("farm_denoising_steps_total"): LONG + (JOBS - 1) * USUAL,
        once.format("farm_job_wait_seconds_count"): JOBS,
        once.format("farm_job_duration_seconds_count"): JOBS,
        once.format("farm_caller_images_total{caller='local'}"): JOBS,
        once.format('farm_webhook_deliveries_total{outcome="delivered"}'): JOBS,
        "sum(farm:workers{state='warm'})": 2,
        "sum(farm:jobs_waiting)": 0,
        "max(farm:jobs_unaccounted)": 0,
    }

    def figures() -> dict[str, float]:
        return {expression: prometheus.value(expression) for expression in truths}

    with suppress(AssertionError):  # processes hand in what they counted now and then
        wait_for(lambda: figures() == truths, seconds=30)
    assert figures() == truths


def test_nothing_fires_and_each_rule_can_be_evaluated(prometheus: Prometheus) -> None:
    with urllib.request.urlopen(f"{prometheus.url}/api/v1/rules", timeout=5) as reply:
        groups = json.load(reply)["data"]["groups"]

    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 100
    assert [rule["name"] for rule in rules if rule.get("lastError")] == []
    assert prometheus.query('ALERTS{alertstate="firing", severity="page"}') == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grafana")
    grafana.build(folder)
    return folder


@pytest.mark.full
@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.title)
def test_grafanas_own_components_draw_every_panel(
    dashboard: Dashboard, prometheus: Prometheus, site: Path, tmp_path: Path
) -> None:
    drawn = dashboard.json()
    series = {panel["id"]: grafana.lines(prometheus, panel["targets"]) for panel in drawn["panels"]}
    with grafana.browser_page() as page:
        errors = grafana.draw(page, site, drawn, series)
        page.screenshot(path=tmp_path / f"{dashboard.uid}.png")
        texts = {
            panel["title"]: page.locator(f'[data-panel="{panel["title"]}"]').inner_text() for panel in drawn["panels"]
        }
        canvases = {title: page.locator(f'[data-panel="{title}"] canvas').count() for title in texts}

    assert errors == []
    assert {title for title, text in texts.items() if "No data" in text} <= set(OF_CARDS)
    assert [title for title, text in texts.items() if "NaN" in text] == []
    graphs = [panel["title"] for panel in drawn["panels"] if panel["type"] == "timeseries" and series[panel["id"]]]
    assert [title for title in graphs if not canvases[title]] == []
