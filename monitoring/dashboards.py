"""Dashboards for Grafana: each panel with its unit, its legend and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from farm.jobstore.memory_guard import FULL_AT
from farm.telemetry.thresholds import (
    DISK_RESERVES,
    OVERDUE_ALERT_SECONDS,
    OVERDUE_SECONDS,
    REDIS_MEMORY_SHARE,
)
from farm.uploads.uploads import MIN_FREE_BYTES
from monitoring.alerts import RUNBOOK
from monitoring.expressions import once, quantile, recorded
from monitoring.objectives import FARMS_OWN, OBJECTIVES

Kind = Literal["timeseries", "stat", "gauge", "bargauge", "table"]

#: Grafana's columns, and the rows of a panel by its kind.
_COLUMNS = 24
_HEIGHTS: dict[Kind, int] = {"timeseries": 8, "stat": 4, "gauge": 4, "bargauge": 8, "table": 8}
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
#: Events a second; the panel's title says which.
_RATE = "suffix:/s"
#: Colours of lines whose names say what is well, by regular expressions. Grafana would choose them by order.
_STATES = {"warm": "green", "loading": "blue", "draining": "yellow", "faulty": "red", "lost": "orange"}
_OUTCOMES = {"completed|ok|delivered": "green", "retry": "yellow", "failed|error": "red", "dropped": "orange"}
_STATUSES = {"2..": "green", "3..": "blue", "4..": "yellow", "5..": "red"}


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: its queries as expression and legend, and the values from which on it is yellow and red.

    `good`: the value from which on it is green, where less is bad. `soft_max`: what the axis shows at least.
    """

    title: str
    description: str
    queries: tuple[tuple[str, str], ...]
    unit: str
    kind: Kind = "timeseries"
    width: int = 8
    warn: float | None = None
    alarm: float | None = None
    good: float | None = None
    soft_max: float | None = None
    runbook: str = "Alerts"
    colors: Mapping[str, str] = field(default_factory=dict)
    is_stacked: bool = False

    def json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """Return the panel at a place of the grid."""
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
            "fieldConfig": {"defaults": self._defaults(), "overrides": list(self._overrides())},
            "options": self._options(),
            "links": [_link("Runbook", url=f"{RUNBOOK}#{self.runbook.lower()}")],
        } | ({"transformations": [_WITHOUT_VALUES]} if self.kind == "table" else {})

    def _defaults(self) -> dict[str, Any]:
        steps = [("green" if self.good is None else "red", None), ("green", self.good)]
        limits = [step for step in (*steps[1:], ("yellow", self.warn), ("red", self.alarm)) if step[1] is not None]
        thresholds = [{"color": color, "value": value} for color, value in (steps[0], *limits)]
        return {
            "unit": self.unit,
            "min": 0,
            "thresholds": {"mode": "absolute", "steps": thresholds},
        } | ({"custom": self._lines(bool(limits))} if self.kind == "timeseries" else {})

    def _lines(self, has_limits: bool) -> dict[str, Any]:
        return {
            "fillOpacity": 20 if self.is_stacked else 0,
            "lineWidth": 1,
            "stacking": {"mode": "normal" if self.is_stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if has_limits else "off"},
        } | ({} if self.soft_max is None else {"axisSoftMax": self.soft_max})

    def _overrides(self) -> Iterator[dict[str, Any]]:
        for names, color in self.colors.items():
            fixed = {"id": "color", "value": {"mode": "fixed", "fixedColor": color}}
            yield {"matcher": {"id": "byRegexp", "options": f"/^({names})$/"}, "properties": [fixed]}

    def _options(self) -> dict[str, Any]:
        if self.kind == "timeseries":
            legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
            return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
        if self.kind == "table":
            return {"showHeader": True, "cellHeight": "sm"}
        reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        return {"reduceOptions": reduced, "orientation": "horizontal" if self.kind == "bargauge" else "auto"}


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


#: A table of labels: neither the time of the query nor its value, which is 1, says anything.
_WITHOUT_VALUES = {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}
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
_FAILED = f"sum({recorded('farm_jobs_failed_total')}{{{FARMS_OWN}}})"
_FAILED_SHARE = f"{_FAILED} / ({_FAILED} + {_of('farm_jobs_completed_total')} > 0)"
_PAUSES = f"max({recorded('farm_paused')}) + (sum({recorded('farm_paused_groups')}) or vector(0))"
_TO_EMPTY = f"{_of('farm_images_waiting')} / ({_of('farm_images_total')} > 0) or 0 * {_of('farm_images_waiting')}"
_BUSY = f"avg({recorded('farm_worker_busy_seconds_total')})"

FARM = Dashboard(
    "srpo-farm",
    "Farm",
    (
        Panel(
            "Alerts", "Alerts that fire now. 0: the farm is well.", ((_FIRING, "firing"),), "short", "stat", 3, alarm=1
        ),
        Panel(
            "Paused",
            "Pauses now: of the farm, of models, priorities and callers. Their jobs wait on purpose.",
            ((_PAUSES, "pauses"),),
            "short",
            "stat",
            3,
            warn=1,
            runbook="FarmPaused",
        ),
        Panel(
            "Waiting jobs",
            "Jobs that wait for a worker, paused ones included.",
            ((_of("farm_jobs_waiting"), "jobs"),),
            "short",
            "stat",
            3,
            runbook="FarmNobodyConsumes",
        ),
        Panel(
            "Oldest waits for",
            "Age of the oldest waiting job.",
            ((f"max({recorded('farm_jobs_oldest_waiting_seconds')})", "oldest"),),
            "s",
            "stat",
            3,
            warn=60,
            alarm=600,
            runbook="FarmSloStart",
        ),
        Panel(
            "Failing",
            "Share of jobs that failed in the last five minutes for reasons that are not their callers'.",
            ((f"{_FAILED_SHARE} or vector(0)", "failed"),),
            "percentunit",
            "stat",
            3,
            warn=0.005,
            alarm=0.05,
            runbook="FarmSloSuccess",
        ),
        Panel(
            "Warm workers",
            "Workers that take jobs.",
            ((f'sum({recorded("farm_workers")}{{state="warm"}})', "warm"),),
            "short",
            "stat",
            3,
            runbook="FarmNobodyConsumes",
        ),
        Panel(
            "Workers busy", "Share of the time in which workers render.", ((_BUSY, "busy"),), "percentunit", "gauge", 3
        ),
        Panel(
            "Queue empty in",
            "Waiting images over the images of the last five minutes; 0 while nothing is rendered.",
            ((_TO_EMPTY, "to go"),),
            "s",
            "stat",
            3,
        ),
        Panel(
            "Waiting jobs by model",
            "Prepared jobs that wait.",
            ((_of("farm_jobs_waiting", "model, priority"), "{{model}} {{priority}}"),),
            "short",
            is_stacked=True,
        ),
        Panel(
            "Wait",
            "Time from a job's acceptance to its start.",
            _quantiles("farm_job_wait_seconds"),
            "s",
            warn=60,
            runbook="FarmSloStart",
        ),
        Panel(
            "Duration", "Time from a job's acceptance to its completion.", _quantiles("farm_job_duration_seconds"), "s"
        ),
        Panel(
            "Jobs ended",
            "Jobs that completed and failed.",
            ((_of("farm_jobs_completed_total"), "completed"), (_of("farm_jobs_failed_total"), "failed")),
            _RATE,
            colors=_OUTCOMES,
            runbook="FarmSloSuccess",
        ),
        Panel(
            "Failures by cause",
            "Failed jobs by their code, callers' own faults included.",
            ((f"{_of('farm_jobs_failed_total', 'code')} > 0", "{{code}}"),),
            _RATE,
            is_stacked=True,
            runbook="FarmSloSuccess",
        ),
        Panel(
            "Refused calls",
            "Calls that were refused, by code: limits, wrong requests, a full queue.",
            ((f"{_of('farm_refusals_total', 'code')} > 0", "{{code}}"),),
            _RATE,
            is_stacked=True,
        ),
        Panel(
            "Images",
            "Images of completed jobs.",
            ((_of("farm_images_total", "model"), "{{model}}"),),
            _RATE,
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
            soft_max=0.01,
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
            _RATE,
            colors=_STATUSES,
            is_stacked=True,
            runbook="FarmApiDown",
        ),
        Panel(
            "Redis memory",
            f"Memory that Redis uses of what it may; submits stop at {100 * FULL_AT:.0f} %.",
            (
                (
                    f"{recorded('farm_redis_memory_used_bytes')} / ({recorded('farm_redis_memory_max_bytes')} > 0)",
                    "used",
                ),
            ),
            "percentunit",
            warn=REDIS_MEMORY_SHARE,
            alarm=FULL_AT,
            soft_max=1,
            runbook="FarmRedisMemory",
        ),
        Panel(
            "Disk",
            "Free bytes of the data folder's disk, the least of all APIs, and those below which uploads and jobs are "
            "refused.",
            (
                ("min(farm_disk_free_bytes)", "free"),
                ("max by (refused) (farm_disk_reserve_bytes)", "{{refused}} refused"),
            ),
            "bytes",
            good=DISK_RESERVES * MIN_FREE_BYTES,
            runbook="FarmDisk",
        ),
        Panel(
            "Storage",
            "Operations on the image storage by outcome.",
            ((_of("farm_storage_operations_total", "outcome"), "{{outcome}}"),),
            _RATE,
            colors=_OUTCOMES,
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
            colors=_STATES,
            is_stacked=True,
            runbook="FarmWorkerLost",
        ),
        Panel(
            "Busy",
            "Share of the time in which a worker renders.",
            ((recorded("farm_worker_busy_seconds_total"), "{{worker}}"),),
            "percentunit",
            soft_max=1,
        ),
        Panel(
            "Silent for",
            "Time since the last heartbeat.",
            ((recorded("farm_worker_silent_seconds"), "{{worker}}"),),
            "s",
            warn=15,
            runbook="FarmWorkerLost",
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
            _RATE,
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
            _RATE,
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
            runbook="FarmDeviceErrors",
        ),
        Panel(
            "Card: memory",
            "Memory in use by any program.",
            ((recorded("farm_worker_device_memory_used_bytes"), "{{worker}}"),),
            "bytes",
            runbook="FarmDeviceErrors",
        ),
        Panel(
            "Card: power",
            "Power that each card draws.",
            ((recorded("farm_worker_device_power_watts"), "{{worker}}"),),
            "watt",
            runbook="FarmDeviceErrors",
        ),
        Panel(
            "Card: temperature",
            "Temperature of each card.",
            ((recorded("farm_worker_device_temperature_celsius"), "{{worker}}"),),
            "celsius",
            warn=80,
            alarm=90,
            runbook="FarmDeviceErrors",
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
            warn=OVERDUE_SECONDS,
            alarm=OVERDUE_ALERT_SECONDS,
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
            runbook="FarmSloWebhooks",
        ),
        Panel(
            "Webhook workers",
            "Processes that deliver, and prepare jobs.",
            ((recorded("farm_webhook_workers"), "workers"),),
            "short",
            "stat",
            6,
            good=1,
            runbook="FarmWebhooksOverdue",
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
            _RATE,
            colors=_OUTCOMES,
            runbook="FarmSloWebhooks",
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
            _RATE,
            colors=_OUTCOMES,
            runbook="FarmSloWebhooks",
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
            _RATE,
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
            _RATE,
            width=24,
        ),
    ),
)

DASHBOARDS = (FARM, WORKERS, WEBHOOKS, CALLERS)
