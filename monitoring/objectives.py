"""Service level objectives: what share of jobs must start in time, succeed, and be told to their receivers in time.

Alerts are on burn rates over two windows each, after chapter 5 of Google's Site Reliability Workbook: 14.4 times the
budget over an hour and 6 times over six hours page somebody, once the budget over three days is a ticket.
"""

from __future__ import annotations

from dataclasses import dataclass

from farm.domain.delivery import LATE_SECONDS
from farm.domain.error_codes import Code
from monitoring.expressions import total

#: Failures that are not the farm's: what the caller sent, or asked for, or cancelled.
CALLERS_OWN = (
    Code.CANCELLED,
    Code.CLIENT_DISCONNECTED,
    Code.START_TIMEOUT,
    Code.FILE_DOWNLOAD_ERROR,
    Code.FILE_TOO_LARGE,
    Code.IMAGE_LOAD_ERROR,
    Code.IMAGE_TOO_LARGE,
    Code.IMAGE_TOO_SMALL,
    Code.UNSUPPORTED_IMAGE_FORMAT,
)
#: Matches the failures that are the farm's.
FARMS_OWN = 'code!~"' + "|".join(CALLERS_OWN) + '"'


@dataclass(frozen=True, slots=True)
class Burn:
    """A burn rate that must be exceeded over both windows, and who is told."""

    rate: float
    long: str
    short: str
    severity: str

    @property
    def after_pause(self) -> str:
        """For how long jobs that waited for the end of a pause may start late."""
        return self.long if self.severity == "page" else self.short


BURNS = (
    Burn(14.4, "1h", "5m", "page"),
    Burn(6, "6h", "30m", "page"),
    Burn(1, "3d", "6h", "ticket"),
)
#: The windows of all burn rates.
WINDOWS = tuple(dict.fromkeys(window for burn in BURNS for window in (burn.long, burn.short)))
#: Events in the long window below which no alert fires: one failure of one job would be all of them.
MIN_EVENTS = 10
_SECONDS = {"m": 60, "h": 3600, "d": 86400}


def seconds(window: str) -> int:
    """Return the length of a window of PromQL."""
    return int(window[:-1]) * _SECONDS[window[-1]]


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective: its share of good events, and the metrics that count all events and the good or the bad ones.

    `good` or `bad` is a counter with its matchers. While the farm is paused on purpose, `pausable` ones are silent, and
    for some time after jobs were paused.
    """

    name: str
    title: str
    share: float
    events: tuple[tuple[str, str], ...]
    good: tuple[str, str] | None = None
    bad: tuple[str, str] | None = None
    is_pausable: bool = False

    def events_rate(self, window: str) -> str:
        """Return the events a second over a window."""
        return " + ".join(total(metric, window, matchers) for metric, matchers in self.events)

    def error_ratio(self, window: str) -> str:
        """Return the share of bad events over a window."""
        if self.bad:
            return f"({total(self.bad[0], window, self.bad[1])}) / ({self.events_rate(window)})"
        assert self.good
        return f"1 - ({total(self.good[0], window, self.good[1])}) / ({self.events_rate(window)})"


START_SECONDS = 60
#: Jobs of lower priorities are asked for whenever there is time.
_NORMAL = 'priority="normal"'

OBJECTIVES = (
    Objective(
        "start",
        f"jobs of normal priority start within {START_SECONDS} s",
        0.95,
        events=(("farm_job_wait_seconds_count", _NORMAL),),
        good=("farm_job_wait_seconds_bucket", f'le="{float(START_SECONDS)}",{_NORMAL}'),
        is_pausable=True,
    ),
    Objective(
        "success",
        "jobs complete, but for callers' own faults",
        0.995,
        events=(("farm_jobs_completed_total", ""), ("farm_jobs_failed_total", FARMS_OWN)),
        bad=("farm_jobs_failed_total", FARMS_OWN),
    ),
    Objective(
        "webhooks",
        f"webhooks arrive within {LATE_SECONDS:.0f} s of their job's end",
        0.95,
        events=(("farm_webhook_lag_seconds_bucket", f'le="{LATE_SECONDS}"'), ("farm_webhooks_late_total", "")),
        bad=("farm_webhooks_late_total", ""),
    ),
)


def recording_rules(objective: Objective) -> list[dict[str, str]]:
    """Return the error ratio and the rate of events of an objective over each window."""
    return [
        rule
        for window in WINDOWS
        for rule in (
            {"record": f"slo:{objective.name}:error_ratio{window}", "expr": objective.error_ratio(window)},
            {"record": f"slo:{objective.name}:events_rate{window}", "expr": objective.events_rate(window)},
        )
    ]
