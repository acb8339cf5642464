"""A scrape of `/metrics`, by families and samples."""

from __future__ import annotations

from collections.abc import Iterable

from flask.testing import FlaskClient
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """The metrics of a page."""

    def __init__(self, api: FlaskClient) -> None:
        response = api.get("/metrics")
        assert response.status_code == 200
        self.families: list[Metric] = list(text_string_to_metric_families(response.text))
        found = [
            ((sample.name, tuple(sorted(sample.labels.items()))), sample.value)
            for family in self.families
            for sample in family.samples
        ]
        self.samples = dict(found)
        assert len(self.samples) == len(found), "a label is missing: series are there twice"

    def of(self, name: str, **labels: str) -> float | None:
        """Return the value of one series; None if it is not there."""
        return self.samples.get((name, tuple(sorted(labels.items()))))

    def values(self, names: Iterable[str]) -> dict[str, float | None]:
        return {name: self.of(name) for name in names}

    def total(self, name: str) -> float:
        """Return the sum of all series of this name."""
        return sum(value for (sample, _), value in self.samples.items() if sample == name)
