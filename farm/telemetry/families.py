"""Families of metrics: name, type, labels and help, as Prometheus is told them and as the documentation lists them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

#: Label values → the value.
Samples = Iterable[tuple[tuple[str, ...], float]]
#: Label values → the number of values in each bucket, and their sum.
Distributions = Iterable[tuple[tuple[str, ...], tuple[list[int], float]]]

#: `farm`: of the whole farm, the same from each API. `worker`: of each render worker, the same from each API and from
#: the worker itself. `caller`: of callers, whose names not everyone may see. `process`: of the process that is asked.
Scope = Literal["farm", "worker", "caller", "process"]


@dataclass(frozen=True, slots=True)
class Family:
    """One family. The names of counters end in `_total`; histograms have `buckets`, the upper bounds."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    scope: Scope = "farm"

    @property
    def kind(self) -> Literal["counter", "gauge", "histogram"]:
        if self.buckets:
            return "histogram"
        return "counter" if self.name.endswith("_total") else "gauge"

    def metric(self, samples: Samples) -> Metric:
        """Return the metric, a counter or a gauge, with these samples."""
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        metric = make(self.name, self.help, labels=self.labels)
        for labels, value in samples:
            metric.add_metric(labels, value)
        return metric

    def histogram(self, distributions: Distributions) -> Metric:
        """Return the histogram with these distributions."""
        metric = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        bounds = [*map(str, map(float, self.buckets)), "+Inf"]
        for labels, (counts, total) in distributions:
            metric.add_metric(labels, list(zip(bounds, _cumulated(counts), strict=True)), total)
        return metric


def _cumulated(counts: Iterable[int]) -> Iterable[int]:
    so_far = 0
    for count in counts:
        so_far += count
        yield so_far
