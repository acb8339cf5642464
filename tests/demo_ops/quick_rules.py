"""The farm's own rules and alerts in a hurry: every window, and how long a condition must last, is divided."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from monitoring.alerts import alerts
from monitoring.files import groups

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+)([smhd])")
_WINDOW = re.compile(r"\[(\d+[smhd])\]")


def write(folder: Path, *, divisor: int) -> list[Path]:
    """Write the rules with all their times divided, and return the files."""
    quick = [group | {"rules": [_quick(rule, divisor) for rule in group["rules"]]} for group in groups()]
    path = folder / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": quick}, sort_keys=False))
    return [path]


def lasting(name: str) -> str:
    """Return for how long the condition of an alert must last in production."""
    (found,) = (alert.lasting for alert in alerts() if alert.name == name)
    return found


def seconds(duration: str) -> int:
    """Return the seconds of a duration as Prometheus writes it."""
    match = _DURATION.fullmatch(duration)
    assert match, duration
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def _quick(rule: dict[str, Any], divisor: int) -> dict[str, Any]:
    def shorter(duration: str) -> str:
        return f"{seconds(duration) // divisor}s"

    quick = rule | {"expr": _WINDOW.sub(lambda found: f"[{shorter(found[1])}]", rule["expr"])}
    return quick | {"for": shorter(rule["for"])} if "for" in rule else quick
