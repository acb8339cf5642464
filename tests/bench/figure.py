"""A figure of the benchmark, its requirement, and the table of all figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from farm.cli.terminal import show_table


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table. `value` is the quantity that the requirement limits: a ratio, milliseconds, or decibels."""

    what: str
    measured: str
    value: float
    baseline: str = ""
    is_ratio: bool = True
    at_least: float | None = None
    at_most: float | None = None
    under: float | None = None

    @property
    def is_met(self) -> bool:
        return (
            (self.at_least is None or self.value >= self.at_least)
            and (self.at_most is None or self.value <= self.at_most)
            and (self.under is None or self.value < self.under)
        )

    @property
    def required(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:.2f}"
        if self.at_most is not None:
            return f"<= {self.at_most:.2f}"
        return f"< {self.under:.0f} ms" if self.under is not None else ""

    @property
    def verdict(self) -> str:
        if not self.required:
            return ""
        return "ok" if self.is_met else "missed"

    def cells(self) -> tuple[str, ...]:
        ratio = f"{self.value:.3f}" if self.is_ratio else ""
        return self.what, self.measured, self.baseline, ratio, self.required, self.verdict


def print_table(figures: Sequence[Figure]) -> None:
    columns = ("what", "measured", "baseline", "ratio", "required", "")
    show_table(columns, (figure.cells() for figure in figures))


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that `percent` of 100 do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
