"""Break a farm in turn, and measure when the pager told of each fault and of its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from farm.cli.terminal import show_table
from tests.demo_ops import quick_rules
from tests.demo_ops.breakable_farm import BreakableFarm, breakable_farm
from tests.demo_ops.breakages import BREAKAGES, Breakage
from tests.demo_ops.pager import Pager, running_pager
from tests.farms import wait_for
from tests.prometheus import Prometheus

#: An alert that has not come, or not gone, after so many seconds does not count.
_LIMIT_SECONDS = 180.0
#: How often Prometheus asks the API; `/metrics` answers within two seconds while Redis is down.
_SCRAPE_SECONDS = 3


@dataclass(frozen=True, slots=True)
class Course:
    """Alert that followed a breakage: when it fired and, after the mend, resolved; None: it did not in time."""

    breakage: Breakage
    fired_after: float | None
    resolved_after: float | None
    others: Sequence[str]

    @property
    def is_complete(self) -> bool:
        return self.fired_after is not None and self.resolved_after is not None

    def cells(self) -> tuple[str, ...]:
        return (
            self.breakage.what,
            self.breakage.alert,
            _seconds(self.fired_after),
            _seconds(self.resolved_after),
            quick_rules.lasting(self.breakage.alert),
            ", ".join(self.others),
        )


COLUMNS = ("broken", "alert", "fired after", "resolved after", "lasts in production", "also fired")


def run(folder: Path, *, divisor: int, say: Callable[[str], None] = print) -> list[Course]:
    """Return the course of each breakage of a new farm, with all times of the rules divided."""
    rules = quick_rules.write(folder, divisor=divisor)
    with breakable_farm(folder) as farm, running_pager(folder) as (pager, alertmanager):
        target = f"127.0.0.1:{farm.port}"
        prometheus = Prometheus(
            folder, [target], rules=rules, scrape_seconds=_SCRAPE_SECONDS, alertmanager=alertmanager
        )
        with prometheus.running():
            return [_course(breakage, farm, pager, prometheus, say) for breakage in BREAKAGES]


def print_table(courses: Sequence[Course]) -> None:
    show_table(COLUMNS, (course.cells() for course in courses))


def _course(
    breakage: Breakage, farm: BreakableFarm, pager: Pager, prometheus: Prometheus, say: Callable[[str], None]
) -> Course:
    silent = f'absent(ALERTS{{alertname="{breakage.alert}"}})'
    wait_for(lambda: prometheus.query(silent), seconds=_LIMIT_SECONDS, what=f"silence of {breakage.alert}")
    say(f"{breakage.what} …")
    since = pager.count()
    breakage.break_it(farm)
    fired = _seconds_until(lambda: breakage.alert in pager.names("firing", since=since))
    breakage.mend(farm)
    resolved = _seconds_until(lambda: breakage.alert in pager.names("resolved", since=since))
    others = [name for name in pager.names("firing", since=since) if name != breakage.alert]
    say(f"  {breakage.alert}: fired after {_seconds(fired)}, resolved after {_seconds(resolved)}")
    return Course(breakage, fired, resolved, others)


def _seconds_until(condition: Callable[[], bool]) -> float | None:
    began = time.monotonic()
    with suppress(AssertionError):
        wait_for(condition, seconds=_LIMIT_SECONDS)
        return time.monotonic() - began
    return None


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f} s"
