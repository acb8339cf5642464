"""The images that the requests should produce, rendered here a second time."""

from __future__ import annotations

import io

from PIL import Image, ImageChops, ImageStat

from farm.domain.catalogue import SEEDS
from farm.domain.request import ImageRequest
from tests.chaos.requests import Ask
from workers.pipelines.simulated import SimulatedPipeline

#: How far a JPEG may be from what was encoded: the mean over all pixels and colours, of 255.
_LOSS = 3.0
_INPUT = "input"


def is_right(ask: Ask, number: int, prompt: str, content: bytes) -> bool:
    """Return True if a file shows the `number`-th image of a request; `prompt` is the rendered one."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            form, shown = opened.format, opened.convert("RGB")
    except OSError:
        return False
    wanted = image(ask, number, prompt)
    if form != ask.form.upper() or shown.size != wanted.size:
        return False
    if ask.form == "png":
        return shown.tobytes() == wanted.tobytes()
    return max(ImageStat.Stat(ImageChops.difference(shown, wanted)).mean) < _LOSS


def image(ask: Ask, number: int, prompt: str) -> Image.Image:
    """Return the `number`-th image of a request, counted from 0."""
    inputs = {_INPUT: Image.open(io.BytesIO(ask.image)).convert("RGB")} if ask.image else {}
    request = ImageRequest(
        model="srpo-image-to-image" if ask.image else "srpo",
        prompt=prompt,
        width=ask.width,
        height=ask.height,
        steps=ask.steps,
        guidance=1.0,
        seed=(ask.seed + number) % SEEDS,
        strength=ask.strength,
        inputs=tuple(inputs),
    )
    (rendered,) = SimulatedPipeline(0).render([request], lambda _index, _step: True, inputs)
    return rendered.image
