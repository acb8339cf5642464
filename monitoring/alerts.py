"""Alerts: the burn rates of the objectives, and the few causes that are worth a person's time by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from farm.jobstore.memory_guard import FULL_AT
from farm.telemetry.thresholds import DISK_RESERVES, OVERDUE_ALERT_SECONDS, REDIS_MEMORY_SHARE
from monitoring.expressions import once, recorded
from monitoring.objectives import BURNS, MIN_EVENTS, OBJECTIVES, Burn, Objective, seconds

#: Where the runbook is: each alert has a section of its name.
RUNBOOK = "https://github.com/srpo-farm/srpo-farm/blob/main/docs/runbook.md"

Severity = Literal["page", "ticket"]


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert. `lasting` is how long its expression must hold, `section` its part of the runbook if not its name.

    `objective`, of a burn rate, is a label by which Alertmanager tells of the fastest only.
    """

    name: str
    expression: str
    severity: Severity
    summary: str
    lasting: str = "0m"
    section: str = ""
    objective: str = ""

    @property
    def runbook(self) -> str:
        """The URL of its section of the runbook."""
        return f"{RUNBOOK}#{(self.section or self.name).lower()}"

    def rule(self) -> dict[str, Any]:
        """Return the rule for Prometheus."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.lasting,
            "labels": {"severity": self.severity} | ({"objective": self.objective} if self.objective else {}),
            "annotations": {"summary": self.summary, "runbook_url": self.runbook},
        }


_STORAGE_ERRORS = 'increase(farm_storage_operations_total{outcome="error"}[5m])'
_STARTABLE = f"sum({recorded('farm_jobs_waiting')}) - (sum({recorded('farm_jobs_paused')}) or vector(0))"
_WORKERS = recorded("farm_workers")
#: Real weights may load for minutes while the first jobs wait, as after scaling from none.
_LOADING_SECONDS = 900
_IS_LOADING = (
    f'sum({_WORKERS}{{state="loading"}}) > 0 and on () max({recorded("farm_jobs_oldest_waiting_seconds")}) '
    f"< {_LOADING_SECONDS}"
)
#: Free bytes of the data folder's disk below which the first thing is refused.
_DISK_RESERVE = "max without (refused) (farm_disk_reserve_bytes)"
#: A forecast follows the last half hour, and must hold for an hour: a download, or a file that is rewritten, after
#: which the disk no longer fills, raises no alert.
_DISK_HOURS = 4
#: An API that reaches no Redis answers Prometheus, and its callers with 503.
_CUT_OFF = "farm_store_up == 0 and on () max(farm_store_up) == 1"

CAUSES = (
    Alert("FarmAbsent", 'absent(up{job="srpo-farm"} == 1)', "page", "No API of the farm answers Prometheus.", "2m"),
    Alert(
        "FarmApiDown",
        f'up{{job="srpo-farm"}} == 0 or {_CUT_OFF}',
        "ticket",
        "{{ $labels.instance }}: this API does not answer Prometheus, or does not reach Redis while others do.",
        "5m",
    ),
    Alert("FarmStoreDown", "max(farm_store_up) == 0", "page", "Redis does not answer any API.", "1m"),
    Alert(
        "FarmNobodyConsumes",
        f'{_STARTABLE} > 0 and on () (sum({_WORKERS}{{state="warm"}}) or vector(0)) == 0 unless on () ({_IS_LOADING})',
        "page",
        "{{ $value }} jobs wait, and no worker is ready.",
        "2m",
    ),
    Alert(
        "FarmPaused",
        f"{recorded('farm_paused')} == 1 or sum({recorded('farm_paused_groups')}) > 0",
        "ticket",
        "The farm, or jobs of it, have been paused for an hour.",
        "1h",
    ),
    Alert(
        "FarmWorkerLost",
        f'sum({_WORKERS}{{state=~"lost|faulty"}}) > 0 '
        f'or sum(increase(farm_job_retries_total{{reason="worker_lost"}}[5m])) > 0',
        "ticket",
        "A worker died, or cannot use its card.",
    ),
    Alert(
        "FarmJobsExhausted",
        "max(increase(farm_jobs_exhausted_total[10m])) > 0",
        "ticket",
        "A job failed in all its attempts.",
    ),
    Alert(
        "FarmRedisMemory",
        f"{recorded('farm_redis_memory_used_bytes')} / ({recorded('farm_redis_memory_max_bytes')} > 0) "
        f"> {REDIS_MEMORY_SHARE}",
        "page",
        f"Redis is {{{{ $value | humanizePercentage }}}} full; submits are refused at {100 * FULL_AT:.0f} %.",
        "5m",
    ),
    Alert(
        "FarmDiskFull",
        f"farm_disk_free_bytes < {DISK_RESERVES} * {_DISK_RESERVE}",
        "page",
        "{{ $labels.instance }}: the data folder's disk has {{ $value | humanize1024 }}B left; "
        "uploads will be refused, then jobs.",
        "1m",
        section="FarmDisk",
    ),
    Alert(
        "FarmDiskFilling",
        f"predict_linear(farm_disk_free_bytes[30m], {_DISK_HOURS} * 3600) < {_DISK_RESERVE}",
        "ticket",
        f"{{{{ $labels.instance }}}}: at this pace the data folder's disk is full within {_DISK_HOURS} hours.",
        "1h",
        section="FarmDisk",
    ),
    Alert(
        "FarmStorageErrors",
        f"sum({once(_STORAGE_ERRORS)}) > 0",
        "page",
        "The image storage does not answer, or refuses.",
        "2m",
    ),
    Alert(
        "FarmDeviceErrors",
        "max by (worker) (increase(farm_worker_device_memory_errors_total[1h])) > 0",
        "ticket",
        "The card of worker {{ $labels.worker }} reports memory errors that it could not correct.",
    ),
    Alert(
        "FarmWebhooksOverdue",
        f"{recorded('farm_webhook_overdue_seconds')} > {OVERDUE_ALERT_SECONDS}",
        "page",
        "Webhook deliveries have been due for {{ $value | humanizeDuration }}, and no webhook worker takes them.",
        "2m",
    ),
    Alert(
        "FarmScrapeIncomplete",
        "max(farm_scrape_failed_families) > 0",
        "ticket",
        "Part of the metrics cannot be read from Redis.",
        "10m",
    ),
    Alert(
        "FarmJobsUnaccounted",
        f"{recorded('farm_jobs_unaccounted')} != 0",
        "ticket",
        "Accepted jobs are not the sum of those that ended and those that are held.",
        "10m",
    ),
)


def alerts() -> list[Alert]:
    """Return every alert."""
    return [*(alert for objective in OBJECTIVES for alert in burn_rates(objective)), *CAUSES]


def burn_rates(objective: Objective) -> list[Alert]:
    """Return the alerts of an objective. They read what its own group records, and nothing of other groups."""
    return [burning(objective, burn) for burn in BURNS]


def burning(objective: Objective, burn: Burn) -> Alert:
    """Return the alert that an objective's budget burns at this rate."""
    limit = round(burn.rate * (1 - objective.share), 6)
    ratio = f"slo:{objective.name}:error_ratio"
    floor = f"slo:{objective.name}:events_rate{burn.long} * {seconds(burn.long)} >= {MIN_EVENTS}"
    expression = f"{ratio}{burn.long} > {limit} and {ratio}{burn.short} > {limit} and {floor}"
    if objective.is_pausable:
        waited = once(f"max_over_time(farm_jobs_paused[{burn.after_pause}])")
        released = f"sum({waited}) > sum({once('farm_jobs_paused')})"
        expression += f" and on () {once('farm_paused')} == 0 unless on () ({released})"
    return Alert(
        name=f"FarmSlo{objective.name.title()}{burn.long}",
        expression=expression,
        severity="page" if burn.severity == "page" else "ticket",
        summary=f"Too few {objective.title}: {{{{ $value | humanizePercentage }}}} over {burn.long} did not.",
        section=f"FarmSlo{objective.name.title()}",
        objective=objective.name,
    )
