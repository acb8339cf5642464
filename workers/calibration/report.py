"""The printed table of a calibration: a line as soon as it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from farm.printable import say
from workers.calibration.measurement import Figures

_WIDTHS = (40, 5, 5, 9, 5)
#: Decimal places of a measure.
_PLACES = {"PSNR": 1, "SSIM": 4, "FLIP": 4}


class Report:
    """Prints lines of figures beside the time of the full computation, `full_seconds`."""

    def __init__(self, measures: Sequence[str], full_seconds: float) -> None:
        self._full_seconds = full_seconds
        names = [f"{name} {kind}" for name in measures for kind in ("median", "worst")]
        _print(("denoising steps, 1: full", "full", "order", "s/image", "time"), names)

    def add(self, what: str, full_steps: int, order: int | None, figures: Figures) -> None:
        """Print one line. `order`: None where nothing is extrapolated."""
        time = f"{figures.seconds / self._full_seconds:.2f}"
        cells = (what, str(full_steps), "" if order is None else str(order), f"{figures.seconds:.3f}", time)
        _print(cells, [text for name, values in figures.likeness.items() for text in _summary(name, values)])


def _summary(measure: str, values: Sequence[float]) -> tuple[str, str]:
    worst = max(values) if measure == "FLIP" else min(values)
    return f"{median(values):.{_PLACES[measure]}f}", f"{worst:.{_PLACES[measure]}f}"


def _print(cells: Sequence[str], likeness: Sequence[str]) -> None:
    first, *rest = (cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True))
    say("  ".join([first, *rest, *(text.rjust(11) for text in likeness)]).rstrip())
