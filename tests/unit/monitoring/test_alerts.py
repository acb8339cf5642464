"""Each alert by Prometheus's own tests: it fires on its event, others stay silent, and it resolves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.alerts import CAUSES, alerts
from tests.unit.deploy import DEPLOY
from tests.unit.monitoring.test_files import promtool

pytestmark = pytest.mark.slow

#: Minutes of each series.
_LENGTH = 900
_API = {"a", "b"}

_DISK = "farm_disk_free_bytes"
_PAUSED_JOBS = 'farm_jobs_paused{model="srpo",priority="normal"}'

#: A farm that is well, as both of its APIs report it: series → its values by the minute.
HEALTHY = {
    'up{job="srpo-farm"}': "1x900",
    "farm_store_up": "1x900",
    "farm_paused": "0x900",
    'farm_paused_groups{kind="model",name="srpo"}': "0x900",
    _PAUSED_JOBS: "0x900",
    'farm_jobs_waiting{model="srpo",priority="normal"}': "3x900",
    'farm_workers{state="warm"}': "2x900",
    'farm_workers{state="lost"}': "0x900",
    'farm_job_retries_total{reason="worker_lost"}': "0x900",
    "farm_jobs_exhausted_total": "0x900",
    "farm_redis_memory_used_bytes": "10x900",
    "farm_redis_memory_max_bytes": "100x900",
    _DISK: "50000x900",
    'farm_disk_reserve_bytes{refused="uploads"}': "1000x900",
    'farm_disk_reserve_bytes{refused="jobs"}': "30x900",
    'farm_storage_operations_total{operation="put",outcome="ok"}': "0+30x900",
    'farm_storage_operations_total{operation="put",outcome="error"}': "0x900",
    'farm_worker_device_memory_errors_total{worker="w"}': "0x900",
    "farm_webhook_overdue_seconds": "0x900",
    "farm_scrape_failed_families": "0x900",
    "farm_jobs_unaccounted": "0x900",
    'farm_job_wait_seconds_count{model="srpo",priority="normal"}': "0+60x900",
    'farm_job_wait_seconds_bucket{model="srpo",priority="normal",le="60.0"}': "0+60x900",
    'farm_jobs_completed_total{model="srpo"}': "0+60x900",
    'farm_jobs_failed_total{model="srpo",code="render_failed"}': "0x900",
    'farm_jobs_failed_total{model="srpo",code="cancelled"}': "0x900",
    "farm_webhooks_late_total": "0x900",
    'farm_webhook_lag_seconds_bucket{le="60.0"}': "0+60x900",
}

_WAITED = 'farm_job_wait_seconds_bucket{model="srpo",priority="normal",le="60.0"}'
_WAITS = 'farm_job_wait_seconds_count{model="srpo",priority="normal"}'
_WARM = 'farm_workers{state="warm"}'
_LOADING = 'farm_workers{state="loading"}'
_OLDEST = 'farm_jobs_oldest_waiting_seconds{model="srpo",priority="normal"}'
_FAILED = 'farm_jobs_failed_total{model="srpo",code="render_failed"}'
_CANCELLED = 'farm_jobs_failed_total{model="srpo",code="cancelled"}'
_STORAGE = 'farm_storage_operations_total{operation="put",outcome="error"}'
_CARD = 'farm_worker_device_memory_errors_total{worker="w"}'

#: Alert → what changes, when it fires and when it has resolved, in minutes. The first hour is well.
EVENTS: dict[str, tuple[dict[str, str], int, int]] = {
    "FarmStoreDown": ({"farm_store_up": "1x60 0x10 1x830"}, 65, 75),
    "FarmNobodyConsumes": ({_WARM: "2x60 0x10 2x830"}, 65, 75),
    "FarmPaused": ({"farm_paused": "0x60 1x70 0x770"}, 125, 135),
    "FarmWorkerLost": ({'farm_workers{state="lost"}': "0x60 1x10 0x830"}, 65, 75),
    "FarmJobsExhausted": ({"farm_jobs_exhausted_total": "0x60 1x840"}, 63, 80),
    "FarmRedisMemory": ({"farm_redis_memory_used_bytes": "10x60 75x20 10x820"}, 70, 85),
    "FarmDiskFull": ({_DISK: "50000x60 1900x10 50000x830"}, 65, 75),
    "FarmDiskFilling": ({_DISK: "50000x60 49750-250x99 25000x740"}, 150, 200),
    "FarmStorageErrors": ({_STORAGE: "0x60 1 2 3 4 5 6 7 8 9 10x831"}, 66, 80),
    "FarmDeviceErrors": ({_CARD: "0x60 1x840"}, 63, 130),
    "FarmWebhooksOverdue": ({"farm_webhook_overdue_seconds": "0x60 100x10 0x830"}, 65, 75),
    "FarmScrapeIncomplete": ({"farm_scrape_failed_families": "0x60 1x20 0x820"}, 75, 85),
    "FarmJobsUnaccounted": ({"farm_jobs_unaccounted": "0x60 1x20 0x820"}, 75, 85),
}
#: What must not fire anything.
HARMLESS: dict[str, dict[str, str]] = {
    "a healthy farm": {},
    "cancelled jobs": {_CANCELLED: "0x60 0+60x840"},
    "a pause with waiting jobs": {
        "farm_paused": "0x60 1x50 0x790",
        _PAUSED_JOBS: "0x60 3x50 0x790",
        _WAITED: "0+60x60 3600x840",
        _WARM: "2x60 0x50 2x790",
    },
    "a model that is paused, and its workers stopped": {
        'farm_paused_groups{kind="model",name="srpo"}': "0x60 1x50 0x790",
        _PAUSED_JOBS: "0x60 3x50 0x790",
        _WARM: "2x60 0x50 2x790",
    },
    "weights that load for minutes after scaling from none": {
        _WARM: "2x60 0x10 2x830",
        _LOADING: "0x60 1x10 0x830",
        _OLDEST: "0x60 0+60x10 0x830",
    },
    "a bulk that waits": {
        'farm_job_wait_seconds_count{model="srpo",priority="bulk"}': "0+60x900",
        'farm_job_wait_seconds_bucket{model="srpo",priority="bulk",le="60.0"}': "0x900",
    },
    "a download that takes half of the disk": {_DISK: "50000x60 47500-2500x9 25000x830"},
    "files that are rewritten again and again": {_DISK: "50000x60 " + "50000 40000 45000 35000 " * 210},
    "a disk that would be full in a day": {_DISK: "50000x60 50000-35x600 29000x240"},
    "no jobs at all": {name: "0x900" for name in HEALTHY if name.endswith("_total") or "_seconds_" in name},
    "one failure of few jobs": {
        'farm_jobs_completed_total{model="srpo"}': "0x60 1x840",
        _FAILED: "0x60 1x840",
    },
}
#: Objectives → what burns their budget. The page of an hour comes first.
BURNING: dict[str, dict[str, str]] = {
    "Start": {_WAITED: "0+60x120 7200x780"},
    "Success": {_FAILED: "0x120 0+60x780"},
    "Webhooks": {
        "farm_webhooks_late_total": "0x120 0+60x780",
        'farm_webhook_lag_seconds_bucket{le="60.0"}': "0+60x120 7200x780",
    },
}


def series(changes: dict[str, str]) -> list[dict[str, str]]:
    """Return the farm's series with these changes, as each API reports them, or only the one that a change names."""
    of_one = {name: values for name, values in changes.items() if "instance=" in name}
    of_each = {name: values for name, values in (HEALTHY | changes).items() if name not in of_one}
    reported = {_of_instance(name, api): values for name, values in of_each.items() for api in sorted(_API)}
    return [{"series": name, "values": values} for name, values in (reported | of_one).items()]


def _of_instance(name: str, api: str) -> str:
    head, _, labels = name.rstrip("}").partition("{")
    return f'{head}{{{labels}{"," if labels else ""}instance="{api}"}}'


def firing(minute: int, *names: str) -> dict[str, Any]:
    """Return the expectation that these alerts, and no others, fire at a minute."""
    severities = {alert.name: alert.severity for alert in alerts()}
    return {
        "expr": 'max by (alertname, severity) (ALERTS{alertstate="firing"})',
        "eval_time": f"{minute}m",
        "exp_samples": [
            {"labels": f'{{alertname="{name}", severity="{severities[name]}"}}', "value": 1} for name in names
        ],
    }


def check(
    folder: Path, changes: dict[str, str], *expected: dict[str, Any], alerts_expected: Sequence[dict[str, Any]] = ()
) -> None:
    file = folder / "test.yml"
    rules = [str(DEPLOY / "prometheus" / "rules" / "farm.yml")]
    test = {
        "interval": "1m",
        "input_series": series(changes),
        "promql_expr_test": list(expected),
        "alert_rule_test": list(alerts_expected),
    }
    file.write_text(yaml.safe_dump({"rule_files": rules, "evaluation_interval": "1m", "tests": [test]}))

    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", EVENTS)
def test_an_alert_fires_alone_and_resolves(tmp_path: Path, name: str) -> None:
    changes, fires, resolved = EVENTS[name]

    check(tmp_path, changes, firing(59), firing(fires, name), firing(resolved))


@pytest.mark.parametrize("harmless", HARMLESS)
def test_nothing_fires_on(tmp_path: Path, harmless: str) -> None:
    check(tmp_path, HARMLESS[harmless], *(firing(minute) for minute in (59, 65, 75, 105, 140)))


@pytest.mark.parametrize("objective", BURNING)
def test_a_budget_that_burns_pages_within_the_hour(tmp_path: Path, objective: str) -> None:
    burns = [f"FarmSlo{objective}{window}" for window in ("1h", "6h", "3d")]

    check(tmp_path, BURNING[objective], firing(119), firing(180, *burns))


@pytest.mark.parametrize("paused", ["0x60 1x59 0x780", "0x900"], ids=["farm", "group"])
def test_jobs_that_waited_for_the_end_of_a_pause_may_start_late(tmp_path: Path, paused: str) -> None:
    """An hour's jobs wait, and then start within ten minutes beside new ones."""
    changes = {
        "farm_paused": paused,
        _PAUSED_JOBS: "0x60 60+60x59 0x780",
        _WAITS: "0+60x60 3600x59 4020+420x9 7860+60x770",
        _WAITED: "0+60x60 3600x59 3600x9 3660+60x770",
    }

    check(tmp_path, changes, *(firing(minute) for minute in (59, 100, 121, 125, 130, 140, 180, 420)))


@pytest.mark.full
def test_an_alert_fires_on_late_starts_long_after_a_pause(tmp_path: Path) -> None:
    changes = {_PAUSED_JOBS: "0x60 5x9 0x840", _WAITED: "0+60x500 30000x400"}

    check(tmp_path, changes, firing(499), firing(620, "FarmSloStart1h", "FarmSloStart6h", "FarmSloStart3d"))


def test_both_alerts_fire_when_every_api_is_gone(tmp_path: Path) -> None:
    check(tmp_path, {'up{job="srpo-farm"}': "1x60 0x840"}, firing(59), firing(70, "FarmAbsent", "FarmApiDown"))


def test_an_alert_fires_on_one_api_that_does_not_reach_redis(tmp_path: Path) -> None:
    changes = {'farm_store_up{instance="b"}': "1x60 0x20 1x820"}

    check(tmp_path, changes, firing(59), firing(70, "FarmApiDown"), firing(85))


def test_an_alert_fires_on_weights_that_never_load(tmp_path: Path) -> None:
    changes = {_WARM: "2x60 0x840", _LOADING: "0x60 1x840", _OLDEST: "0x60 0+60x840"}

    check(tmp_path, changes, firing(74), firing(80, "FarmNobodyConsumes"))


def test_the_text_of_an_alert_has_its_figures(tmp_path: Path) -> None:
    texts = {
        "FarmRedisMemory": "Redis is 75% full; submits are refused at 80 %.",
        "FarmNobodyConsumes": "3 jobs wait, and no worker is ready.",
    }
    severities = {alert.name: alert.severity for alert in alerts()}
    runbooks = {alert.name: alert.runbook for alert in alerts()}
    expected = [
        {
            "eval_time": "70m",
            "alertname": name,
            "exp_alerts": [
                {
                    "exp_labels": {"severity": severities[name]},
                    "exp_annotations": {"summary": text, "runbook_url": runbooks[name]},
                }
            ],
        }
        for name, text in texts.items()
    ]
    changes = {"farm_redis_memory_used_bytes": "10x60 75x840", _WARM: "2x60 0x840"}

    check(tmp_path, changes, alerts_expected=expected)


def test_the_port_of_a_worker_does_not_double_what_the_apis_tell_of_it(tmp_path: Path) -> None:
    changes = {
        'farm_worker_jobs{worker="w",job="srpo-farm",instance="a"}': "3x900",
        'farm_worker_jobs{worker="w",job="srpo-farm-workers",instance="w:9100"}': "3x900",
    }
    once = {"expr": "sum by (worker) (farm:worker_jobs)", "eval_time": "5m"}

    check(tmp_path, changes, once | {"exp_samples": [{"labels": '{worker="w"}', "value": 3}]})


def test_every_cause_has_a_test() -> None:
    causes = {alert.name for alert in CAUSES}

    assert causes == set(EVENTS) | {"FarmAbsent", "FarmApiDown"}
