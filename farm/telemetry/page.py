"""The page of metrics: `python -m farm.telemetry.page docs/metrics.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from farm.telemetry import api_metrics, caller_metrics, collector, disk_metrics, store_metrics, worker_metrics
from farm.telemetry.families import Family

_HEAD = """\
# Metrics

`GET /metrics` of each API has the metrics of the whole farm, and those of that process, in Prometheus's text format.
It needs no key, and names no caller. A scrape is two round trips to Redis, however many jobs and workers there are.
With 1,000 workers it takes 24 ms for 20,000 jobs, and 36 ms for 1,000,000, on two busy cores. If a part of Redis
cannot be read, its family is missing, and `farm_scrape_failed_families` counts it; if Redis does not answer,
`farm_store_up` is 0.

Each value that a label can have is reported from 0 on, so that `increase()` sees the first failure of each kind.
Counters of the whole farm are kept in Redis. The script that changes a job's state counts in the same step: each job
counts once, though leases are lost, and figures survive the restart of every process.

## Several APIs

Every API reports the same figures of the whole farm: three replicas report each job three times. Take the maximum over
them, not the sum, best in a recording rule:

```
max without (instance, pod) (rate(farm_jobs_completed_total[5m]))
```

Or scrape the metrics of the farm from one API only. Metrics of a process are summed: `sum by (route) (rate(…))`.

## Ports of their own

`/metrics` has the figures of up to 100 workers, which come with their heartbeats. With `FARM_METRICS_PORT` each process
also serves its own metrics, with those of its process (`process_…`), at the first free port from that one on, at
`FARM_METRICS_HOST`: an API what its `/metrics` has, a worker its own figures. If no port is free, a line of the log
says so. Figures of the graphics card need the extra `nvidia` (`.venv/bin/pip install -e '.[nvidia]'`).

Figures of callers name them. With `FARM_METRICS_CALLERS=on` the API's own port has them, and `/metrics` never has.

`make docs` generates this page from `farm/telemetry/` and `farm/domain/measures.py`.
"""

_SECTIONS = {
    "farm": "The whole farm",
    "worker": "Workers",
    "process": "The API process",
    "caller": "Callers, at the API's own port",
}


def families() -> Iterable[Family]:
    """Return every family, in the order of the page."""
    modules = (worker_metrics, collector, disk_metrics, api_metrics, caller_metrics)
    own = (value for module in modules for value in vars(module).values() if isinstance(value, Family))
    return chain(store_metrics.GAUGES, store_metrics.COUNTED.values(), own, worker_metrics.FIGURES)


def page() -> str:
    """Return docs/metrics.md."""
    return _HEAD + "".join(map(_section, _SECTIONS))


def _section(scope: str) -> str:
    rows = "".join(_row(family) for family in families() if family.scope == scope)
    return f"\n## {_SECTIONS[scope]}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n{rows}"


def _row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.kind} | {labels} | {family.help} |\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), "utf-8")
