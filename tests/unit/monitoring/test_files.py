"""Rules, alerts and dashboards: written as they are, with metrics that are declared, and sections that are there."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from farm.domain.error_codes import JOB_FAILURES
from farm.telemetry.families import Family
from farm.telemetry.page import families
from monitoring import objectives
from monitoring.alerts import Alert, alerts
from monitoring.dashboards import DASHBOARDS, Dashboard, Panel
from monitoring.expressions import recorded
from monitoring.files import files, groups
from tests.docs_snippets import DOCS, executed_by
from tests.runbook import sections
from tests.unit.deploy import DEPLOY

#: Labels that Prometheus adds, and those of its own series.
_LABELS_OF_PROMETHEUS = {"instance", "pod", "container", "endpoint", "job", "service", "alertname", "alertstate", "le"}
_METRICS_OF_PROMETHEUS = {"ALERTS", "up"}
_RULES = [rule for group in groups() for rule in group["rules"]]
#: The series of a counter or gauge, and those of a histogram.
_PARTS = ("", "_bucket", "_sum", "_count")
#: Anchors of the runbook.
_SECTIONS = {title.lower().replace(" ", "-") for title in sections()}
#: Names of metrics and of what is recorded of them.
_NAMES = re.compile(r"\b(?:farm|slo)[:_][\w:]+|\bALERTS\b|\bup\b")
_KNOWN: dict[str, Family] = {family.name: family for family in families()}
_RECORDED = {recorded(f"{name}{part}"): family for name, family in _KNOWN.items() for part in _PARTS}


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    assert program, "promtool is missing; run: sudo apt install prometheus"
    words = [program, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)


def expressions_used() -> Iterator[tuple[str, str]]:
    """Yield each expression with its place."""
    yield from ((rule.get("record") or rule["alert"], rule["expr"]) for rule in _RULES)
    for dashboard in DASHBOARDS:
        yield from ((panel.title, query) for panel in dashboard.panels for query, _ in panel.queries)


def labels_of(name: str) -> tuple[str, ...]:
    """Return the labels of the metric that has this name, or is recorded under it, whole or in part."""
    family = _KNOWN.get(name) or _KNOWN.get(re.sub(r"_(?:bucket|sum|count)$", "", name)) or _RECORDED.get(name)
    return family.labels if family else ()


@pytest.mark.parametrize("name", files())
def test_a_file_is_up_to_date(name: str) -> None:
    assert (DEPLOY / name).read_text() == files()[name], "run `make docs`"


def test_prometheus_takes_the_rules_and_the_configurations() -> None:
    assert promtool("check", "rules", *sorted(DEPLOY.glob("prometheus/rules/*.yml"))).returncode == 0
    for configuration in DEPLOY.glob("prometheus/*.yml"):
        checked = promtool("check", "config", configuration)
        assert checked.returncode == 0, checked.stderr


def test_prometheus_takes_the_expression_of_the_page(tmp_path: Path) -> None:
    (snippet,) = executed_by("test_prometheus_takes_the_expression_of_the_page")
    rule = {"record": "of:the:page", "expr": snippet.code}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "page", "rules": [rule]}]}))

    assert promtool("check", "rules", tmp_path / "rules.yml").returncode == 0
    names = _NAMES.findall(snippet.code)
    assert names
    assert all(labels_of(name) or name in _KNOWN for name in names)


@pytest.mark.parametrize(("place", "expression"), list(expressions_used()))
def test_an_expression_names_declared_metrics_and_labels_only(place: str, expression: str) -> None:
    records = {rule["record"] for rule in _RULES if "record" in rule}
    for name in _NAMES.findall(expression):
        base = re.sub(r"_(?:bucket|sum|count)$", "", name)
        is_histogram = base != name and base in _KNOWN and _KNOWN[base].kind == "histogram"
        assert name in records | _METRICS_OF_PROMETHEUS | set(_KNOWN) or is_histogram, place
    used = {label for group in re.findall(r"(?:by|without) \(([^)]*)\)", expression) for label in group.split(", ")}
    used |= {label for group in re.findall(r"\{([^}]*)\}", expression) for label in re.findall(r"(\w+)[=!]", group)}
    declared = {label for name in _NAMES.findall(expression) for label in labels_of(name)}
    assert used - {""} <= declared | _LABELS_OF_PROMETHEUS


@pytest.mark.parametrize("group", groups(), ids=lambda group: group["name"])
def test_a_rule_reads_what_rules_before_it_in_its_group_record(group: dict[str, Any]) -> None:
    """Groups are evaluated at different times: what another one records is up to an interval old."""
    recorded_anywhere = {rule.get("record") for rule in _RULES}
    records: set[str] = set()
    for rule in group["rules"]:
        assert set(_NAMES.findall(rule["expr"])) & recorded_anywhere <= records, rule
        records.add(rule.get("record", ""))


def test_every_alert_is_in_one_group() -> None:
    assert sorted(rule["alert"] for rule in _RULES if "alert" in rule) == sorted(alert.name for alert in alerts())


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_an_alert_has_its_section_of_the_runbook(alert: Alert) -> None:
    sections = re.findall(r"^## (\w+)$", (DOCS / "runbook.md").read_text(), re.MULTILINE)

    assert alert.runbook.partition("#")[2] in [section.lower() for section in sections]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.title)
def test_a_panel_says_what_it_shows_and_no_two_lie_on_each_other(dashboard: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard.json()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert panel["description"]
        assert all(target["legendFormat"] for target in panel["targets"]) or panel["type"] == "table"
        assert [link["url"].partition("#")[2] in _SECTIONS for link in panel["links"]] == [True], panel["title"]
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


#: What is in an expression → the unit of a panel that shows it: the first one decides; a quotient has none.
_UNITS = {
    " / ": "",
    "histogram_quantile": "s",
    "error_ratio": "percentunit",
    "busy_seconds": "percentunit",
    "rate": "suffix:/s",
    "_bytes": "bytes",
    "_seconds": "s",
    "_ratio": "percentunit",
    "_watts": "watt",
    "_celsius": "celsius",
    "": "short",
}


@pytest.mark.parametrize(
    ("panel", "expression"),
    [(panel, query) for dashboard in DASHBOARDS for panel in dashboard.panels for query, _ in panel.queries],
    ids=lambda value: getattr(value, "title", ""),
)
def test_the_unit_of_a_panel_is_that_of_its_metric(panel: Panel, expression: str) -> None:
    unit = next(unit for part, unit in _UNITS.items() if part in expression)

    assert unit in ("", panel.unit)


def test_the_callers_own_failures_are_codes_with_which_jobs_end() -> None:
    assert set(objectives.CALLERS_OWN) <= set(JOB_FAILURES)
