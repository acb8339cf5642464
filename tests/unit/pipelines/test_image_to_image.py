"""SRPO from an image: FluxImg2ImgPipeline's images, bit for bit, and what that one cannot do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops, ImageStat

from farm.domain.errors import RenderError
from farm.domain.request import ImageRequest
from miniature.tokenizer import T5_TOKENS
from tests.unit.pipelines.denoising import (
    INPUTS,
    as_diffusers,
    differences,
    keeping,
    pipeline_of,
    record,
    render,
    with_one_pixel_changed,
)
from workers.pipelines.engine import FluxImg2ImgPipeline
from workers.pipelines.flux import FluxModels

FOX = ImageRequest(
    "srpo-image-to-image",
    "a red fox in the snow",
    width=256,
    height=320,
    steps=4,
    guidance=4.5,
    seed=7,
    strength=0.6,
    inputs=("waves",),
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize(
    ("key", "width", "height", "steps", "strength"),
    [
        ("waves", 256, 256, 1, 1.0),
        ("wide", 256, 320, 28, 0.3),
        ("red", 384, 256, 10, 0.01),
        ("wide", 320, 256, 7, 0.95),
    ],
)
def test_computes_what_fluximg2imgpipeline_computes(
    parts: Any, key: str, width: int, height: int, steps: int, strength: float
) -> None:
    request = replace(FOX, width=width, height=height, steps=steps, strength=strength, inputs=(key,))

    ours, theirs = both(parts, request)

    assert len(ours) == len(theirs) == request.denoising_steps + 1
    assert differences(ours, theirs) == []


def test_computes_it_in_bf16_as_well(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.to(torch.bfloat16)
    decoded: list[Any] = []
    monkeypatch.setattr(parts.vae, "decode", keeping(decoded))

    ours, theirs = both(parts, replace(FOX, height=256, steps=10))

    assert differences(ours, theirs) == []
    assert torch.equal(*decoded)


def both(parts: Any, request: ImageRequest) -> tuple[list[Any], list[Any]]:
    """Return what our pipeline and diffusers' have computed: each step of the transformer, and the image."""
    ours: list[Any] = []
    theirs: list[Any] = []
    end = record(parts.transformer, ours)
    ours += render(pipeline_of(parts), request)
    end()
    reference = as_diffusers(parts, FluxImg2ImgPipeline)
    record(reference.transformer, theirs)
    theirs += reference(
        request.prompt,
        image=INPUTS[request.inputs[0]],
        width=request.width,
        height=request.height,
        strength=request.strength,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        max_sequence_length=T5_TOKENS,
        generator=torch.Generator().manual_seed(request.seed),
    ).images
    return ours, theirs


def test_steps_are_counted_from_the_first_that_is_done(pipeline: FluxModels) -> None:
    seen: list[int] = []

    def watch(_index: int, step: int) -> bool:
        seen.append(step)
        return True

    list(pipeline.render([replace(FOX, steps=10, strength=0.35)], watch, INPUTS))

    assert seen == [0, 1, 2, 3, 4]


def test_the_input_strength_and_seed_are_seen(pipeline: FluxModels) -> None:
    others = [replace(FOX, inputs=("wide",)), replace(FOX, strength=0.9), replace(FOX, seed=8)]
    fox, *rest = render(pipeline, FOX, *others)

    for other in rest:
        assert sum(ImageStat.Stat(ImageChops.difference(fox, other)).mean) / 3 > 2


def test_one_pixel_of_the_input_counts_and_other_images_do_not(pipeline: FluxModels) -> None:
    assert render(pipeline, FOX) != render(pipeline, FOX, inputs=with_one_pixel_changed("waves"))
    assert render(pipeline, FOX) == render(pipeline, FOX, inputs=with_one_pixel_changed("wide"))


def test_full_strength_still_follows_from_the_seed(pipeline: FluxModels) -> None:
    """All is noise then, but the seed is first asked for the input's latents: another image than from text."""
    from_text = replace(FOX, model="srpo", strength=None, inputs=())

    remade, made = render(pipeline, replace(FOX, strength=1.0), from_text)

    assert remade != made
    assert [remade] == render(pipeline, replace(FOX, strength=1.0))


@pytest.mark.parametrize(("width", "height"), [(256, 320), (301, 263), (300, 200)])
def test_strength_0_returns_the_input_resized_without_a_step(
    parts: Any, pipeline: FluxModels, width: int, height: int
) -> None:
    forwards: list[Any] = []
    record(parts.transformer, forwards)
    request = replace(FOX, width=width, height=height, strength=0.0, inputs=("wide",))
    seen: list[tuple[int, int]] = []

    def watch(index: int, step: int) -> bool:
        seen.append((index, step))
        return True

    (rendered,) = pipeline.render([request], watch, INPUTS)

    assert rendered.image == INPUTS["wide"].resize((width, height), Image.Resampling.LANCZOS)
    assert (rendered.index, forwards, seen) == (0, [], [(0, 0)])
    assert list(pipeline.render([request], lambda *_: False, INPUTS)) == []


def test_off_the_grid_the_input_lies_where_the_image_is_cut_out(pipeline: FluxModels) -> None:
    """The result is that of an input of the next size on the grid, with its edges repeated outwards."""
    image = INPUTS["wide"].resize((301, 263))
    left, top = (320 - 301) // 2, (320 - 263) // 2
    around = Image.new("RGB", (320, 320))
    for y in range(320):
        row = min(max(y - top, 0), 262)
        line = image.crop((0, row, 301, row + 1))
        around.paste(line.crop((0, 0, 1, 1)).resize((left, 1)), (0, y))
        around.paste(line, (left, y))
        around.paste(line.crop((300, 0, 301, 1)).resize((320 - left - 301, 1)), (left + 301, y))
    request = replace(FOX, width=301, height=263, inputs=("exact",))

    (part,) = render(pipeline, request, inputs={"exact": image})
    (whole,) = render(pipeline, replace(request, width=320, height=320), inputs={"exact": around})

    assert part == whole.crop((left, top, left + 301, top + 263))


def test_the_image_is_the_same_alone_in_a_batch_twice_and_after_another_model(pipeline: FluxModels) -> None:
    (alone,) = render(pipeline, FOX)
    from_text = replace(FOX, model="srpo", strength=None, inputs=(), seed=8)
    batch = [replace(FOX, seed=8), from_text, FOX, replace(FOX, inputs=("wide",)), FOX]

    together = render(pipeline, *batch)

    assert [image == alone for image in together] == [False, False, True, False, True]
    assert render(pipeline, FOX) == [alone]
    assert [together[1]] == render(pipeline, from_text)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (replace(FOX, inputs=()), "given 0 images"),
        (replace(FOX, strength=None), "given the strength None"),
        (replace(FOX, model="srpo"), "given 1 images"),
    ],
)
def test_refuses_what_lacks_an_image_or_has_one_too_many(
    pipeline: FluxModels, request_: ImageRequest, reason: str
) -> None:
    with pytest.raises(RenderError, match=reason):
        pipeline.render([request_], lambda *_: True, INPUTS)
