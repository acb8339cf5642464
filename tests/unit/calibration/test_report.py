"""The table of a calibration: the median image and the worst one, by every measure."""

from __future__ import annotations

import pytest

from workers.calibration.measurement import Figures
from workers.calibration.report import Report


def test_a_line_has_the_median_and_the_worst_of_each_measure(capsys: pytest.CaptureFixture[str]) -> None:
    figures = Figures(0.5, {"PSNR": (50.0, 40.0, 60.0, 41.0), "FLIP": (0.1, 0.4, 0.2, 0.15)})

    Report(list(figures.likeness), full_seconds=2.0).add("101", 2, 1, figures)

    header, line = (line.split() for line in capsys.readouterr().out.splitlines())
    assert header[-8:] == ["PSNR", "median", "PSNR", "worst", "FLIP", "median", "FLIP", "worst"]
    assert line == ["101", "2", "1", "0.500", "0.25", "45.5", "40.0", "0.1750", "0.4000"]
    assert (figures.median_psnr, figures.worst_psnr) == (45.5, 40.0)
