"""Dashboards against a strict JSON Schema of Grafana's own types (`python -m tests.grafana.schema` makes it)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jsonschema import Draft7Validator, ValidationError

from monitoring.dashboards import DASHBOARDS, FARM, Dashboard
from tests.grafana.schema import FILE

SCHEMAS: dict[str, Any] = json.loads(FILE.read_text())
#: What the data source of Prometheus has in an annotation, besides what all have.
_OF_PROMETHEUS = ("expr", "titleFormat")


def errors(dashboard: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a dashboard, each with its place."""
    frame = copy.deepcopy(dashboard)
    for annotation in frame["annotations"]["list"]:
        for name in _OF_PROMETHEUS:
            del annotation[name]
    yield from _errors(SCHEMAS["Dashboard"], frame, "")
    for panel in dashboard["panels"]:
        kinds = SCHEMAS[panel["type"]]
        yield from _errors(kinds["Options"], panel["options"], f"{panel['title']}: options")
        if "FieldConfig" in kinds:
            custom = panel["fieldConfig"]["defaults"].get("custom", {})
            yield from _errors(kinds["FieldConfig"], custom, f"{panel['title']}: custom")


def _errors(schema: Any, value: Any, place: str) -> Iterator[str]:
    for error in Draft7Validator(schema).iter_errors(value):
        deepest = max(_causes(error), key=lambda cause: len(cause.absolute_path))
        yield f"{place}{deepest.json_path}: {deepest.message}"


def _causes(error: ValidationError) -> Iterator[ValidationError]:
    yield error
    for cause in error.context or ():
        yield from _causes(cause)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.title)
def test_a_dashboard_is_one_by_grafanas_own_types(dashboard: Dashboard) -> None:
    assert list(errors(dashboard.json())) == []


def _misspell(panel: dict[str, Any]) -> None:
    panel["discription"] = panel.pop("description")


def _quote(panel: dict[str, Any]) -> None:
    panel["gridPos"]["w"] = "12"


def _invent_option(panel: dict[str, Any]) -> None:
    panel["options"]["reduceOption"] = {}


def _invent_mode(panel: dict[str, Any]) -> None:
    panel["fieldConfig"]["defaults"]["thresholds"]["mode"] = "relative"


@pytest.mark.parametrize("fault", [_misspell, _quote, _invent_option, _invent_mode])
def test_a_fault_is_found(fault: Callable[[dict[str, Any]], None]) -> None:
    dashboard = FARM.json()
    fault(dashboard["panels"][0])

    assert len(list(errors(dashboard))) == 1
