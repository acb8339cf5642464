"""Dashboards for Grafana: each panel with its unit, its legend and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from monitoring.alerts import RUNBOOK
from monitoring.expressions import once, quantile, recorded
from monitoring.objectives import OBJECTIVES

Kind = Literal["timeseries", "stat", "gauge", "bargauge", "table"]

#: Grafana's columns, and the rows of a panel by its kind.
_COLUMNS = 24
_HEIGHTS: dict[Kind, int] = {"timeseries": 8, "stat": 4, "gauge": 4, "bargauge": 8, "table": 8}
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: its queries as expression and legend, and the values from which on it is yellow and red."""

    title: str
    description: str
    queries: tuple[tuple[str, str], ...]
    unit: str
    kind: Kind = "timeseries"
    width: int = 8
    warn: float | None = None
    alarm: float | None = None
    runbook: str = ""
    is_stacked: bool = False

    def json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """Return the panel at a place of the grid."""
        links = [_link("Runbook", url=f"{RUNBOOK}#{self.runbook.lower()}")] if self.runbook else []
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": _DATASOURCE,
            "gridPos": {"h": _HEIGHTS[self.kind], "w": self.width, "x": x, "y": y},
            "targets": [
                {"refId": chr(65 + at), "expr": expression, "legendFormat": legend, "datasource": _DATASOURCE}
                | ({"instant": True, "format": "table"} if self.kind == "table" else {})
                for at, (expression, legend) in enumerate(self.queries)
            ],
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": self._options(),
            "links": links,
        }

    def _defaults(self) -> dict[str, Any]:
        steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
        if self.warn is not None:
            steps.append({"color": "yellow", "value": self.warn})
        if self.alarm is not None:
            steps.append({"color": "red", "value": self.alarm})
        stacking = {"mode": "normal" if self.is_stacked else "none", "group": "A"}
        custom = {"fillOpacity": 20 if self.is_stacked else 0, "lineWidth": 1, "stacking": stacking}
        return {
            "unit": self.unit,
            "min": 0,
            "thresholds": {"mode": "absolute", "steps": steps},
        } | ({"custom": custom} if self.kind == "timeseries" else {})

    def _options(self) -> dict[str, Any]:
        if self.kind == "timeseries":
            legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
            return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
        if self.kind == "table":
            return {"showHeader": True, "cellHeight": "sm"}
        return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "orientation": "auto"}


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard: rows of panels, each filled from left to right."""

    uid: str
    title: str
    panels: tuple[Panel, ...] = field(default=())

    def json(self) -> dict[str, Any]:
        """Return the dashboard as Grafana reads it."""
        return {
            "uid": self.uid,
            "title": self.title,
            "tags": ["srpo-farm"],
            "schemaVersion": 41,
            "editable": True,
            "refresh": "30s",
            "time": {"from": "now-3h", "to": "now"},
            "templating": {"list": [_DATASOURCE_VARIABLE]},
            "annotations": {"list": [_ALERTS_FIRING]},
            "links": [_link("srpo-farm", tags=["srpo-farm"])],
            "panels": list(_placed(self.panels)),
        }


_DATASOURCE_VARIABLE = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
_ALERTS_FIRING = {
    "name": "Alerts",
    "datasource": _DATASOURCE,
    "enable": True,
    "iconColor": "red",
    "expr": 'ALERTS{alertname=~"Farm.*", alertstate="firing"}',
    "titleFormat": "{{alertname}}",
}


def _link(title: str, *, url: str = "", tags: Iterable[str] = ()) -> dict[str, Any]:
    """Return a link to a page, or to the dashboards with these tags."""
    return {
        "title": title,
        "type": "link" if url else "dashboards",
        "tags": list(tags),
        "asDropdown": False,
        "keepTime": not url,
        "icon": "external link",
        "tooltip": "",
        "url": url,
        "targetBlank": bool(url),
        "includeVars": False,
    }


def _placed(panels: Iterable[Panel]) -> Iterator[dict[str, Any]]:
    x = y = height = 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > _COLUMNS:
            x, y, height = 0, y + height, 0
        yield panel.json(number, x, y)
        x, height = x + panel.width, max(height, _HEIGHTS[panel.kind])


def _of(metric: str, by: str = "") -> str:
    return f"sum by ({by}) ({recorded(metric)})" if by else f"sum({recorded(metric)})"


def _quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    return tuple((quantile(share, metric), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99))


def _largest(expression: str) -> str:
    return f"topk(10, {once(expression)})"


_FIRING = 'count(ALERTS{alertname=~"Farm.*", alertstate="firing"}) or vector(0)'
_FAILED_SHARE = (
    f"{_of('farm_jobs_failed_total')} / ({_of('farm_jobs_failed_total')} + {_of('farm_jobs_completed_total')})"
)
_TO_EMPTY = f"{_of('farm_images_waiting')} / ({_of('farm_images_total')} > 0) or 0 * {_of('farm_images_waiting')}"
_BUSY = f"avg({recorded('farm_worker_busy_seconds_total')})"

FARM = Dashboard(
    "srpo-farm",
    "Farm",
    (
        Panel(
            "Alerts", "Alerts that fire now. 0: the farm is well.", ((_FIRING, "firing"),), "short", "stat", 4, alarm=1
        ),
        Panel(
            "Waiting jobs", "Jobs that wait for a worker.", ((_of("farm_jobs_waiting"), "jobs"),), "short", "stat", 4
        ),
        Panel(
            "Oldest waits since",
            "Age of the oldest waiting job.",
            ((f"max({recorded('farm_jobs_oldest_waiting_seconds')})", "oldest"),),
            "s",
            "stat",
            4,
            warn=60,
            alarm=600,
            runbook="FarmSloStart",
        ),
        Panel(
            "Failing",
            "Share of ended jobs that failed in the last five minutes, whoever is to blame.",
            ((f"{_FAILED_SHARE} or vector(0)", "failed"),),
            "percentunit",
            "stat",
            4,
            warn=0.01,
            alarm=0.05,
            runbook="FarmSloSuccess",
        ),
        Panel(
            "Workers busy", "Share of the time in which workers render.", ((_BUSY, "busy"),), "percentunit", "gauge", 4
        ),
        Panel(
            "Queue empty in",
            "Waiting images over the images of the last five minutes; 0 while nothing is rendered.",
            ((_TO_EMPTY, "to go"),),
            "s",
            "stat",
            4,
        ),
        Panel(
            "Waiting jobs by model",
            "Prepared jobs that wait.",
            ((_of("farm_jobs_waiting", "model, priority"), "{{model}} {{priority}}"),),
            "short",
            is_stacked=True,
        ),
        Panel("Wait", "Time from a job's acceptance to its start.", _quantiles("farm_job_wait_seconds"), "s", warn=60),
        Panel(
            "Duration", "Time from a job's acceptance to its completion.", _quantiles("farm_job_duration_seconds"), "s"
        ),
        Panel(
            "Jobs ended",
            "Jobs that completed and failed.",
            ((_of("farm_jobs_completed_total"), "completed"), (_of("farm_jobs_failed_total"), "failed")),
            "ops",
        ),
        Panel(
            "Failures by cause",
            "Failed jobs by their code.",
            ((f"{_of('farm_jobs_failed_total', 'code')} > 0", "{{code}}"),),
            "ops",
            is_stacked=True,
            runbook="FarmSloSuccess",
        ),
        Panel(
            "Refused calls",
            "Calls that were refused, by code: limits, wrong requests, a full queue.",
            ((f"{_of('farm_refusals_total', 'code')} > 0", "{{code}}"),),
            "ops",
            is_stacked=True,
        ),
        Panel(
            "Images",
            "Images of completed jobs.",
            ((_of("farm_images_total", "model"), "{{model}}"),),
            "ops",
            is_stacked=True,
        ),
        Panel(
            "Where the time goes",
            "Mean time of a job in each stage on its worker.",
            (
                (
                    f"{_of('farm_job_stage_seconds_sum', 'stage')} / {_of('farm_job_stage_seconds_count', 'stage')}",
                    "{{stage}}",
                ),
            ),
            "s",
            is_stacked=True,
        ),
        Panel(
            "Service levels",
            "Share of bad events over an hour, of each objective.",
            tuple((f"slo:{one.name}:error_ratio1h", one.name) for one in OBJECTIVES),
            "percentunit",
        ),
        Panel(
            "HTTP",
            "Time of answers, without held calls and streams.",
            (
                (
                    "histogram_quantile(0.95, sum by (le) (rate(farm_http_request_duration_seconds_bucket[5m])))",
                    "p95",
                ),
            ),
            "s",
        ),
        Panel(
            "Answers by status",
            "HTTP answers of all replicas.",
            (("sum by (status) (rate(farm_http_requests_total[5m]))", "{{status}}"),),
            "reqps",
            is_stacked=True,
        ),
        Panel(
            "Redis memory",
            "Memory that Redis uses of what it may; submits stop at 80 %.",
            (
                (
                    f"{recorded('farm_redis_memory_used_bytes')} / ({recorded('farm_redis_memory_max_bytes')} > 0)",
                    "used",
                ),
            ),
            "percentunit",
            warn=0.7,
            alarm=0.8,
            runbook="FarmRedisMemory",
        ),
        Panel(
            "Storage",
            "Operations on the image storage by outcome.",
            ((_of("farm_storage_operations_total", "outcome"), "{{outcome}}"),),
            "ops",
            runbook="FarmStorageErrors",
        ),
    ),
)

WORKERS = Dashboard(
    "srpo-farm-workers",
    "Workers and devices",
    (
        Panel(
            "Workers",
            "Render workers by state.",
            ((_of("farm_workers", "state"), "{{state}}"),),
            "short",
            is_stacked=True,
            runbook="FarmWorkerLost",
        ),
        Panel(
            "Busy",
            "Share of the time in which a worker renders.",
            ((recorded("farm_worker_busy_seconds_total"), "{{worker}}"),),
            "percentunit",
        ),
        Panel(
            "Silent for",
            "Time since the last heartbeat.",
            ((recorded("farm_worker_silent_seconds"), "{{worker}}"),),
            "s",
            warn=15,
        ),
        Panel("Jobs held", "Jobs that a worker holds.", ((recorded("farm_worker_jobs"), "{{worker}}"),), "short"),
        Panel(
            "Images of a batch",
            "Mean number of images of a claimed batch, of at most four.",
            ((f"{_of('farm_batch_images_sum')} / {_of('farm_batch_images_count')}", "images"),),
            "short",
        ),
        Panel(
            "Retries",
            "Started jobs that returned to their queue, by reason.",
            ((f"{_of('farm_job_retries_total', 'reason')} > 0", "{{reason}}"),),
            "ops",
            runbook="FarmWorkerLost",
        ),
        Panel(
            "Render time",
            "Time from the first denoising step to the last decoded image.",
            _quantiles("farm_job_render_seconds"),
            "s",
        ),
        Panel(
            "Full steps",
            "Share of denoising steps that were computed in full; the others were extrapolated.",
            (
                (
                    f"{_of('farm_full_steps_total', 'acceleration')} "
                    f"/ {_of('farm_denoising_steps_total', 'acceleration')}",
                    "{{acceleration}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Megapixel steps",
            "Work done.",
            ((_of("farm_megapixel_steps_total", "model"), "{{model}}"),),
            "ops",
            is_stacked=True,
        ),
        Panel(
            "Memory",
            "Memory of each worker's process.",
            ((recorded("farm_worker_resident_memory_bytes"), "{{worker}}"),),
            "bytes",
        ),
        Panel(
            "Prompt cache",
            "Share of prompts whose embeddings were cached.",
            (
                (
                    f"{_of('farm_worker_prompt_cache_hits_total')} / ({_of('farm_worker_prompt_cache_hits_total')} "
                    f"+ {_of('farm_worker_prompt_cache_misses_total')})",
                    "hits",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Load time",
            "Time that loading the weights took.",
            ((recorded("farm_worker_load_seconds"), "{{worker}}"),),
            "s",
            "bargauge",
        ),
        Panel(
            "Card: at work",
            "As the driver samples it.",
            ((recorded("farm_worker_device_utilization_ratio"), "{{worker}}"),),
            "percentunit",
        ),
        Panel(
            "Card: memory",
            "Memory in use by any program.",
            ((recorded("farm_worker_device_memory_used_bytes"), "{{worker}}"),),
            "bytes",
        ),
        Panel(
            "Card: power",
            "Power that each card draws.",
            ((recorded("farm_worker_device_power_watts"), "{{worker}}"),),
            "watt",
        ),
        Panel(
            "Card: temperature",
            "Temperature of each card.",
            ((recorded("farm_worker_device_temperature_celsius"), "{{worker}}"),),
            "celsius",
            warn=80,
            alarm=90,
        ),
        Panel(
            "Workers in detail",
            "What each worker is.",
            (("max by (worker, host, device, weights, build, version) (farm_worker_info)", ""),),
            "short",
            "table",
            16,
        ),
    ),
)

WEBHOOKS = Dashboard(
    "srpo-farm-webhooks",
    "Webhooks",
    (
        Panel(
            "Waiting",
            "Deliveries that are due now or later.",
            ((recorded("farm_webhooks_waiting"), "deliveries"),),
            "short",
            "stat",
            6,
        ),
        Panel(
            "Overdue for",
            "How long the first due delivery has waited for a webhook worker.",
            ((recorded("farm_webhook_overdue_seconds"), "overdue"),),
            "s",
            "stat",
            6,
            warn=10,
            alarm=60,
            runbook="FarmWebhooksOverdue",
        ),
        Panel(
            "Failing receivers",
            "Receivers whose last attempt failed.",
            ((recorded("farm_webhook_failing_receivers"), "receivers"),),
            "short",
            "stat",
            6,
            warn=1,
        ),
        Panel(
            "Webhook workers",
            "Processes that deliver, and prepare jobs.",
            ((recorded("farm_webhook_workers"), "workers"),),
            "short",
            "stat",
            6,
        ),
        Panel(
            "Lag",
            "Time from a job's end until its webhook was delivered.",
            _quantiles("farm_webhook_lag_seconds"),
            "s",
            width=12,
            warn=60,
            runbook="FarmSloWebhooks",
        ),
        Panel(
            "Attempts",
            "Delivery attempts by outcome.",
            ((_of("farm_webhook_attempts_total", "outcome"), "{{outcome}}"),),
            "ops",
            width=12,
            is_stacked=True,
        ),
        Panel(
            "Receivers' answers",
            "Time that an attempt took.",
            _quantiles("farm_webhook_attempt_seconds"),
            "s",
            width=12,
        ),
        Panel(
            "Deliveries ended",
            "Finished deliveries by outcome.",
            ((_of("farm_webhook_deliveries_total", "outcome"), "{{outcome}}"),),
            "ops",
            width=12,
        ),
    ),
)

CALLERS = Dashboard(
    "srpo-farm-callers",
    "Callers",
    (
        Panel(
            "Images by caller",
            "Images of completed jobs. Needs FARM_METRICS_CALLERS=on.",
            ((_largest("rate(farm_caller_images_total[5m])"), "{{caller}}"),),
            "ops",
            width=12,
            is_stacked=True,
        ),
        Panel(
            "Waiting by caller",
            "Jobs that have not started.",
            ((_largest("farm_caller_jobs_waiting"), "{{caller}}"),),
            "short",
            width=12,
            is_stacked=True,
        ),
        Panel(
            "Failed by caller",
            "Failed jobs.",
            ((_largest('rate(farm_caller_jobs_total{state="failed"}[5m])'), "{{caller}}"),),
            "ops",
            width=24,
        ),
    ),
)

DASHBOARDS = (FARM, WORKERS, WEBHOOKS, CALLERS)
