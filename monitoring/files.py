"""The files in deploy/ that are written from the rules, alerts and dashboards."""

from __future__ import annotations

import json
from typing import Any

import yaml

from monitoring import expressions, objectives
from monitoring.alerts import alerts
from monitoring.dashboards import DASHBOARDS

_HEAD = "# Written by `make docs` from monitoring/: change it there.\n"


def files() -> dict[str, str]:
    """Return the text of each file, by its path below deploy/."""
    dashboards = {f"grafana/dashboards/{one.uid}.json": json.dumps(one.json(), indent=2) + "\n" for one in DASHBOARDS}
    return {"prometheus/rules/recording.yml": recording(), "prometheus/rules/alerts.yml": alerting(), **dashboards}


def recording() -> str:
    """Return the recording rules."""
    groups = {"farm": expressions.recording_rules(), "farm-objectives": objectives.recording_rules()}
    return _yaml([{"name": name, "rules": rules} for name, rules in groups.items()])


def alerting() -> str:
    """Return the alerts."""
    return _yaml([{"name": "farm-alerts", "rules": [alert.rule() for alert in alerts()]}])


def _yaml(groups: list[dict[str, Any]]) -> str:
    text: str = yaml.safe_dump({"groups": groups}, sort_keys=False, width=1000)
    return _HEAD + text
