"""The table of the demo's images."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from farm.cli.demo import show_timings
from farm.cli.download import FinishedJob


def test_each_timing_stands_below_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    timings = {"device": 2.0, "decode": 0.5, "full_steps": 28.0, "start": 0.01, "denoise": 1.5, "inference": 2.02}
    view = {"images": [{"width": 1024, "height": 768}], "timings": timings}

    show_timings([FinishedJob(view, [Path("out/a.jpeg")])])

    names, cells = (re.split(" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines())
    assert dict(zip(names, cells, strict=True)) == {
        "image": "out/a.jpeg",
        "size": "1024x768",
        "start": "0.01 s",
        "denoise": "1.50 s",
        "decode": "0.50 s",
        "device": "2.00 s",
        "full_steps": "28",
        "inference": "2.02 s",
    }
