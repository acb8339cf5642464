"""The faults that `farm top` shows: every alert's cause is among them."""

from __future__ import annotations

from typing import Any

import pytest

from farm.cli.figures import Figures
from farm.cli.troubles import events, troubles
from monitoring.alerts import alerts

WELL = """
farm_jobs_waiting{model="srpo",priority="normal"} 3
farm_jobs_paused{model="srpo",priority="normal"} 0
farm_workers{state="warm"} 1
farm_webhook_workers 1
farm_redis_memory_used_bytes 10
farm_redis_memory_max_bytes 100
farm_disk_free_bytes 50e9
farm_disk_reserve_bytes{refused="uploads"} 1e9
farm_disk_reserve_bytes{refused="jobs"} 3e7
farm_worker_device_memory_errors_total{worker="w"} 0
farm_job_retries_total{reason="worker_lost"} 5
farm_job_retries_total{reason="drained"} 5
farm_jobs_exhausted_total 2
farm_storage_operations_total{operation="put",outcome="error"} 7
farm_storage_operations_total{operation="put",outcome="ok"} 7
"""
_ERROR = {"operation": "put", "reason": "It does not answer.", "at": "", "seconds_ago": 3.2}
#: Alert → what makes it fire, and the line that tells of it.
NOW: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "FarmNobodyConsumes": ('farm_workers{state="warm"} 0', [], "3 jobs wait, and no worker is ready"),
    "FarmWorkerLost": ('farm_workers{state="faulty"} 1', [], "workers that are faulty: 1"),
    "FarmRedisMemory": ("farm_redis_memory_used_bytes 75", [], "Redis is 75% full; submits are refused at 80%"),
    "FarmDisk": (
        "farm_disk_free_bytes 1.9e9",
        [],
        "the disk of the data folder has 1.9 GB left; refused are uploads below 1.0 GB, jobs below 30.0 MB",
    ),
    "FarmStorageErrors": ("", [_ERROR], "storage: put failed 3 s ago: It does not answer."),
    "FarmDeviceErrors": (
        'farm_worker_device_memory_errors_total{worker="w"} 2',
        [],
        "the card of worker w could not correct 2 memory errors over its life",
    ),
    "FarmWebhooksOverdue": ("farm_webhook_overdue_seconds 61", [], "webhooks have been due for 61 s"),
    "FarmScrapeIncomplete": (
        "farm_scrape_failed_families 4",
        [],
        "4 metrics cannot be read from Redis; the API's log names them",
    ),
    "FarmJobsUnaccounted": (
        "farm_jobs_unaccounted 1",
        [],
        "accepted jobs minus those that ended or are held: 1, not 0",
    ),
}
#: Alert → the counter that it follows, and what is said of two more.
SINCE = {
    "FarmWorkerLost": (
        'farm_job_retries_total{reason="worker_lost"} 7',
        "2 jobs were taken back from workers that died",
    ),
    "FarmJobsExhausted": ("farm_jobs_exhausted_total 4", "2 jobs failed in all their attempts"),
    "FarmStorageErrors": (
        'farm_storage_operations_total{operation="put",outcome="error"} 9',
        "2 operations on the storage failed",
    ),
}
#: Alerts whose causes are in other parts of what it shows.
ELSEWHERE = {
    "FarmAbsent": "nothing answers",
    "FarmApiDown": "nothing answers, where it is the API at FARM_URL",
    "FarmStoreDown": "the API's answer",
    "FarmPaused": "the first line",
    "FarmSloStart": "how long the oldest job has waited",
    "FarmSloSuccess": "the failures by cause",
    "FarmSloWebhooks": "the failing receivers",
}


def figures(change: str) -> Figures:
    """Return the figures of a farm that is well, but for this line."""
    name = change.partition(" ")[0]
    lines = [line for line in WELL.splitlines() if not name or line.partition(" ")[0] != name]
    return Figures("\n".join([*lines, change, ""]))


def test_a_farm_that_is_well_has_no_troubles() -> None:
    well = figures("")

    assert list(troubles(well, [])) == []
    assert list(events(well, well)) == []
    assert list(troubles(Figures(""), [])) == []


@pytest.mark.parametrize("alert", NOW)
def test_the_cause_of_an_alert_is_shown(alert: str) -> None:
    change, errors, line = NOW[alert]

    assert list(troubles(figures(change), errors)) == [line]


@pytest.mark.parametrize("alert", SINCE)
def test_events_since_the_first_look_are_shown(alert: str) -> None:
    change, line = SINCE[alert]

    assert list(events(figures(""), figures(change))) == [f"since this began: {line}"]


def test_jobs_that_are_paused_need_no_worker() -> None:
    paused = Figures(
        'farm_jobs_waiting{model="srpo"} 3\nfarm_jobs_paused{model="srpo"} 3\nfarm_workers{state="warm"} 0\n'
    )

    assert list(troubles(paused, [])) == []


def test_no_alert_is_silent() -> None:
    names = {alert.name if not alert.section else alert.section for alert in alerts()}

    assert names == NOW.keys() | SINCE.keys() | ELSEWHERE.keys()
