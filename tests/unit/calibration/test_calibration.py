"""`farm weights calibrate` on the miniature: what it measures, prints and writes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from farm.domain.acceleration import Level
from farm.domain.calibration import Calibration
from farm.domain.errors import ConfigurationError
from farm.domain.request import ImageRequest
from farm.step_masks import read_levels
from tests.unit.pipelines.denoising import record
from workers.calibration.__main__ import main
from workers.calibration.likeness import measures, psnr
from workers.calibration.measurement import Reference
from workers.pipelines.flux import FluxModels

STAR = ImageRequest("srpo", "a red star", 256, 256, steps=6, guidance=4.5, seed=7)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_figures_are_those_of_the_same_images(parts: Any, pipeline: FluxModels) -> None:
    requests = [STAR, replace(STAR, seed=8)]
    reference = Reference(pipeline, requests, {"PSNR": psnr})
    forwards: list[Any] = []
    record(parts.transformer, forwards)

    unchanged = reference.compare(Level(order=2, masks={6: "111111"}))
    skipping = reference.compare(Level(order=2, masks={6: "111101"}))
    plain = reference.compare_plain(5)

    assert len(forwards) == 2 * (6 + 5 + 5)
    assert list(unchanged.likeness["PSNR"]) == [math.inf, math.inf]
    assert len(skipping.likeness["PSNR"]) == 2
    assert math.inf > skipping.median_psnr >= skipping.worst_psnr > 20
    assert math.inf > plain.median_psnr > 20
    assert min(reference.seconds, skipping.seconds, plain.seconds) > 0


def test_the_best_masks_are_written_and_the_table_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, grid = tmp_path / "masks.json", tmp_path / "grid.jpeg"

    main(Calibration(out=out, images=1, width=256, height=256, steps=7, orders=(1,), checked_steps=(6,), grid=grid))

    levels, lines = read_levels(out), capsys.readouterr().out.splitlines()
    assert (levels.regular.order, list(levels.regular.masks), levels.full_steps("regular", 7)) == (1, [7], 5)
    assert "farm weights calibrate with miniature, 1 images of 256x256, 7 steps: regular PSNR median" in levels.source
    rows = [line.split() for line in lines if line[:2] in ("11", "10", "5 ")]
    tried = {row[0]: float(row[5]) for row in rows[:-4] if row[0] != "5"}
    assert max(tried[mask] for mask in tried if mask.count("1") == 5) == tried[levels.regular.mask(7)]
    plain = [line.split()[0] for line in lines if "plain steps" in line]
    assert plain == [*sorted({str(mask.count("1")) for mask in tried}, reverse=True), "5", "5"]
    assert lines[4].split() == ["denoising", "steps,", "1:", "full", "full", "order", "s/image", "time"] + [
        word for name in measures() for word in (name, "median", name, "worst")
    ]
    assert "6 steps" in lines
    with Image.open(grid) as image:
        assert image.size == (3 * 256 + 2 * 8, 256)
    assert lines[-2].split()[0] == levels.high.mask(6)


def test_the_simulated_pipeline_cannot_be_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_PIPELINE", "simulated")

    with pytest.raises(ConfigurationError, match="unset FARM_PIPELINE"):
        main(Calibration(out=tmp_path / "masks.json"))
