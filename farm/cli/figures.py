"""Figures of a farm's `/metrics`, by name and labels."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


class Figures:
    """One answer of `/metrics`; empty where a proxy keeps it from callers."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of this name that have these labels; 0 without any."""
        return sum(sample.value for sample in self._named(name, labels))

    def by(self, label: str, name: str) -> dict[str, float]:
        """Return the sum of the samples for each value of a label."""
        found: dict[str, float] = {}
        for sample in self._named(name, {}):
            found[sample.labels[label]] = found.get(sample.labels[label], 0) + sample.value
        return found

    def has(self, name: str) -> bool:
        return any(self._named(name, {}))

    def _named(self, name: str, labels: dict[str, str]) -> Iterator[Sample]:
        return (sample for sample in self._samples if sample.name == name and labels.items() <= sample.labels.items())
