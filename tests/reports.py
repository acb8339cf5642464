"""Reports of a program that a test ran: lines of its output that begin with `report `, and JSON."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Ran:
    """The outcome of a program: what it reported, in order, and what else it printed."""

    reports: list[Any]
    output: str

    @property
    def report(self) -> Any:
        """The only report."""
        (report,) = self.reports
        return report


def outcome(done: subprocess.CompletedProcess[str]) -> Ran:
    """Return the outcome of a program, which must have ended with status 0."""
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    lines = done.stdout.splitlines()
    reports = [json.loads(line.removeprefix("report ")) for line in lines if line.startswith("report ")]
    return Ran(reports, done.stdout + done.stderr)
