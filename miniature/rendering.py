"""Rendering of single images by a pipeline, as the farm does."""

from __future__ import annotations

from PIL import Image

from farm.domain.catalogue import SIZE_PRESETS, SRPO
from farm.domain.request import ImageRequest
from workers.pipelines.pipeline import NO_INPUTS, InputImages, Pipeline


def in_turn(number: int) -> tuple[int, int]:
    """Return the preset size for this number, in rotation."""
    return list(SIZE_PRESETS.values())[number % len(SIZE_PRESETS)]


def render_prompt(
    pipeline: Pipeline,
    prompt: str,
    seed: int,
    size: tuple[int, int],
    *,
    steps: int = 28,
    guidance: float = SRPO.parameters.guidance.default,
) -> Image.Image:
    """Render a prompt, at SRPO's default guidance unless another is given."""
    request = ImageRequest(SRPO.name, prompt, *size, steps=steps, guidance=guidance, seed=seed)
    return only_image(pipeline, request)


def only_image(pipeline: Pipeline, request: ImageRequest, inputs: InputImages = NO_INPUTS) -> Image.Image:
    """Render a request for one image."""
    (rendered,) = pipeline.render([request], lambda *_: True, inputs)
    return rendered.image
