"""PromQL that counts a farm once, however many replicas of the API report it, and the recording rules that do so."""

from __future__ import annotations

from collections.abc import Iterator

from farm.telemetry.families import Family
from farm.telemetry.page import families

#: The labels by which replicas of the API differ, and a worker's own port from what the API tells of the worker.
_REPLICA = "without (instance, pod, container, endpoint, job, service)"
#: The window of the recorded rates.
WINDOW = "5m"
_SCOPES = ("farm", "worker")


def once(expression: str) -> str:
    """Return the expression with one series for what every replica reports."""
    return f"max {_REPLICA} ({expression})"


def total(metric: str, window: str, matchers: str = "", by: str = "") -> str:
    """Return the events a second of a counter of the whole farm, summed over its series but for the labels `by`."""
    selector = f"{metric}{{{matchers}}}" if matchers else metric
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} ({once(f'rate({selector}[{window}])')})"


def recorded(metric: str) -> str:
    """Return the name under which a metric of the farm is recorded: a gauge's value, or a counter's rate."""
    base = metric.removeprefix("farm_")
    if metric.endswith("_total"):
        return f"farm:{base.removesuffix('_total')}:rate{WINDOW}"
    return f"farm:{base}:rate{WINDOW}" if metric.endswith(("_bucket", "_sum", "_count")) else f"farm:{base}"


def recording_rules() -> list[dict[str, str]]:
    """Return a rule for each metric that several replicas report."""
    return [rule for family in families() if family.scope in _SCOPES for rule in _rules(family)]


def _rules(family: Family) -> Iterator[dict[str, str]]:
    if family.kind == "gauge":
        yield {"record": recorded(family.name), "expr": once(family.name)}
    elif family.kind == "counter":
        yield {"record": recorded(family.name), "expr": once(f"rate({family.name}[{WINDOW}])")}
    else:
        for part in ("bucket", "sum", "count"):
            name = f"{family.name}_{part}"
            yield {"record": recorded(name), "expr": once(f"rate({name}[{WINDOW}])")}


def quantile(share: float, metric: str, by: str = "") -> str:
    """Return a quantile of a histogram of the farm over the last minutes, for each value of the label `by`."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) ({recorded(f'{metric}_bucket')}))"
