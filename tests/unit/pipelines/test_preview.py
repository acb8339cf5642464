"""Previews from latents: like the image that comes of them, cheap, and without effect on it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image

from farm import clock
from farm.domain.request import ImageRequest
from tests.unit.pipelines.denoising import miniature_parts, pipeline_of
from workers.calibration.likeness import psnr
from workers.pipelines.flux import FluxImage, FluxModels
from workers.pipelines.pipeline import RenderedImage
from workers.pipelines.preview import PIXELS
from workers.previews import MAX_SIDE, SECONDS, encoded

STAR = ImageRequest("srpo", "a red star", width=512, height=384, steps=6, guidance=4.5, seed=7)
OFF_GRID = ImageRequest("srpo", "a red star", width=500, height=372, steps=1, guidance=4.5, seed=7)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def pipeline() -> FluxModels:
    made = pipeline_of(miniature_parts())
    made.fit_previews()
    return made


def steps(pipeline: FluxModels, request: ImageRequest) -> Iterator[FluxImage]:
    """Yield the image after each of its steps."""
    image = pipeline.start(request)
    assert isinstance(image, FluxImage)
    while image.step < request.steps:
        pipeline.advance([image])
        yield image


def likeness(image: Image.Image, other: Image.Image) -> float:
    return psnr(*(RenderedImage(each.tobytes(), each.size) for each in (image, other)))


def test_a_preview_is_like_the_image_from_the_second_half_on(pipeline: FluxModels) -> None:
    previews = []
    for image in steps(pipeline, STAR):
        previews.append(pipeline.preview(image))
    finished = pipeline.finish(image).image

    wide = (STAR.width // PIXELS, STAR.height // PIXELS)
    assert {preview.size for preview in previews} == {wide}
    shrunk = finished.resize(wide, Image.Resampling.BOX)
    for preview in previews[STAR.steps // 2 :]:
        assert likeness(preview, shrunk) > 15
        # Upside down, it shows as much of the same colours, and something else.
        assert likeness(preview, shrunk) > likeness(preview.rotate(180), shrunk) + 1


def test_the_map_is_fitted_to_the_decoder_that_is_loaded() -> None:
    parts: Any = miniature_parts()
    decode = parts.vae.decode
    parts.vae.decode = lambda *args, **kwargs: (-decode(*args, **kwargs)[0],)  # all colours inverted
    inverted = pipeline_of(parts)
    inverted.fit_previews()

    *_, image = steps(inverted, STAR)

    shrunk = inverted.finish(image).image.resize((64, 48), Image.Resampling.BOX)
    assert likeness(inverted.preview(image), shrunk) > 15


def test_previews_change_no_byte_of_the_image(pipeline: FluxModels) -> None:
    plain = pipeline_of(miniature_parts())
    *_, unwatched = steps(plain, STAR)
    for watched in steps(pipeline, STAR):
        pipeline.preview(watched)

    assert pipeline.finish(watched).pixels == plain.finish(unwatched).pixels


def test_a_preview_has_no_margins_and_ignores_nan(pipeline: FluxModels) -> None:
    *_, image = steps(pipeline, OFF_GRID)
    image.denoising.tokens = torch.full_like(image.denoising.tokens, torch.nan)

    width, height = pipeline.preview(image).size

    assert abs(width - OFF_GRID.width / PIXELS) <= 2
    assert abs(height - OFF_GRID.height / PIXELS) <= 2


def test_a_preview_costs_less_than_a_hundredth_of_a_render(pipeline: FluxModels) -> None:
    (image,) = steps(pipeline, OFF_GRID)

    def cost() -> float:
        began = clock.cpu_seconds()
        encoded(pipeline.preview(image), MAX_SIDE)
        return clock.cpu_seconds() - began

    # While an image is rendered there is one of them each SECONDS.
    assert statistics.median(cost() for _ in range(20)) < 0.01 * SECONDS
