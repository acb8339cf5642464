"""The files in deploy/ that are written from the rules, alerts and dashboards."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import yaml

from monitoring import expressions
from monitoring.alerts import CAUSES, Alert, burn_rates
from monitoring.dashboards import DASHBOARDS
from monitoring.objectives import OBJECTIVES, Objective, recording_rules

_HEAD = "# Written by `make docs` from monitoring/: change it there.\n"


def files() -> dict[str, str]:
    """Return the text of each file, by its path below deploy/."""
    dashboards = {f"grafana/dashboards/{one.uid}.json": json.dumps(one.json(), indent=2) + "\n" for one in DASHBOARDS}
    return {
        "prometheus/rules/farm.yml": _yaml({"groups": groups()}),
        "kustomize/overlays/monitoring/rules.yaml": _yaml(_resource(groups())),
        **dashboards,
    }


def groups() -> list[dict[str, Any]]:
    """Return the groups of rules.

    Prometheus evaluates the rules of a group in their order, but groups at different times: what a rule reads of
    another group is up to an interval old. So alerts are in the group that records what they read.
    """
    return [_group("farm", expressions.recording_rules(), CAUSES), *map(_group_of, OBJECTIVES)]


def _group_of(objective: Objective) -> dict[str, Any]:
    return _group(f"farm-{objective.name}", recording_rules(objective), burn_rates(objective))


def _group(name: str, recording: list[dict[str, str]], alerts: Iterable[Alert]) -> dict[str, Any]:
    return {"name": name, "rules": [*recording, *(alert.rule() for alert in alerts)]}


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
