"""An image of the levels side by side: where likeness is lowest, figures say little and eyes decide."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from farm.domain.acceleration import Levels
from workers.calibration.measurement import Figures, Reference
from workers.pipelines.pipeline import RenderedImage

#: The images that are shown: those that the fastest level changes most.
_ROWS = 4
#: Pixels between two images.
_GAP = 8


def side_by_side(reference: Reference, levels: Levels, of_high: Figures) -> Image.Image:
    """Return the worst images of `high`, a row each: computed in full, by `regular`, and by `high`."""
    order = sorted(range(len(of_high.likeness["PSNR"])), key=of_high.likeness["PSNR"].__getitem__)
    shown = sorted(order[:_ROWS])
    columns = [
        [reference.images[number] for number in shown],
        *(reference.rendered(levels.level(name), shown) for name in ("regular", "high")),
    ]
    return _grid(columns)


def _grid(columns: Sequence[Sequence[RenderedImage]]) -> Image.Image:
    width, height = columns[0][0].size
    across, down = len(columns) * (width + _GAP) - _GAP, len(columns[0]) * (height + _GAP) - _GAP
    grid = Image.new("RGB", (across, down), "white")
    for column, images in enumerate(columns):
        for row, rendered in enumerate(images):
            grid.paste(rendered.image, (column * (width + _GAP), row * (height + _GAP)))
    return grid
