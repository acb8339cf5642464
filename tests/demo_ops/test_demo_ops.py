"""The demonstration of the alerts: a long test, since a fault must last before anybody is called."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.demo_ops import quick_rules
from tests.demo_ops.breakages import BREAKAGES
from tests.demo_ops.demonstration import Course
from tests.farms import clean_environment
from tests.unit.monitoring.test_files import promtool


def test_quick_rules_are_the_farms_own_with_every_time_divided(tmp_path: Path) -> None:
    (path,) = quick_rules.write(tmp_path, divisor=10)
    rules = {rule.get("alert", rule.get("record")): rule for group in _groups(path) for rule in group["rules"]}

    assert promtool("check", "rules", path).returncode == 0
    assert rules["FarmNobodyConsumes"]["for"] == "12s"
    assert "[30s]" in rules["FarmStorageErrors"]["expr"]
    assert "[25920s]" in rules["slo:start:error_ratio3d"]["expr"]
    assert {breakage.alert for breakage in BREAKAGES} <= set(rules)


def test_an_alert_that_does_not_come_or_does_not_go_is_a_failure() -> None:
    course = Course(BREAKAGES[0], fired_after=20.0, resolved_after=3.0, others=())

    assert course.is_complete
    assert not replace(course, fired_after=None).is_complete
    assert not replace(course, resolved_after=None).is_complete


@pytest.mark.full
def test_every_breakage_calls_the_person_on_duty_and_its_end_does_too() -> None:
    demonstration = subprocess.run(
        [sys.executable, "-m", "tests.demo_ops"], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert demonstration.returncode == 0, demonstration.stdout + demonstration.stderr


def _groups(path: Path) -> list[dict[str, list[dict[str, str]]]]:
    groups: list[dict[str, list[dict[str, str]]]] = yaml.safe_load(path.read_text())["groups"]
    return groups
