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
    return {
        "prometheus/rules/recording.yml": _yaml({"groups": recording()}),
        "prometheus/rules/alerts.yml": _yaml({"groups": alerting()}),
        "kustomize/overlays/monitoring/rules.yaml": _yaml(_resource([*recording(), *alerting()])),
        **dashboards,
    }


def recording() -> list[dict[str, Any]]:
    """Return the groups of recording rules."""
    groups = {"farm": expressions.recording_rules(), "farm-objectives": objectives.recording_rules()}
    return [{"name": name, "rules": rules} for name, rules in groups.items()]


def alerting() -> list[dict[str, Any]]:
    """Return the groups of alerts."""
    return [{"name": "farm-alerts", "rules": [alert.rule() for alert in alerts()]}]


def _resource(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the rules for the Prometheus operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "srpo-farm"},
        "spec": {"groups": groups},
    }


def _yaml(value: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, width=1000)
    return _HEAD + text
