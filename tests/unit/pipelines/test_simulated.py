"""The simulated pipeline: images that depend on the request alone, in step, and cancellable."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from farm import clock
from farm.domain.catalogue import MODELS
from farm.domain.errors import RenderError
from farm.domain.request import ImageRequest
from workers.pipelines.pipeline import InputImages, Pipeline, RenderedImage
from workers.pipelines.simulated import SimulatedPipeline

FOX = ImageRequest("srpo", "a red fox", width=301, height=257, steps=3, guidance=4.5, seed=7)
REMIX = replace(FOX, model="srpo-image-to-image", strength=0.5, inputs=("red",))
MIX = replace(FOX, model="kontext-multi", inputs=("red", "blue"))
INPUTS = {
    "red": Image.linear_gradient("L").convert("RGB"),
    "blue": Image.radial_gradient("L").convert("RGB"),
}


def render(request: ImageRequest, inputs: InputImages = INPUTS) -> bytes:
    pipeline: Pipeline = SimulatedPipeline(step_ms=0)
    (rendered,) = pipeline.render([request], lambda *_: True, inputs)
    return rendered.image.tobytes()


def with_one_pixel_changed(key: str) -> InputImages:
    image = INPUTS[key].copy()
    image.putpixel((9, 9), (1, 2, 3))
    return INPUTS | {key: image}


def test_renders_rgb_of_exactly_the_size_asked_for() -> None:
    (rendered,) = SimulatedPipeline(step_ms=0).render([FOX], lambda *_: True)

    assert (rendered.index, rendered.warnings) == (0, ())
    assert (rendered.image.mode, rendered.image.size) == ("RGB", (301, 257))


@pytest.mark.parametrize(
    "other",
    [
        replace(FOX, prompt="a blue fox"),
        replace(FOX, seed=8),
        replace(FOX, steps=4),
        replace(FOX, width=257, height=301),
    ],
)
def test_pixels_follow_from_what_decides_them(other: ImageRequest) -> None:
    assert render(FOX) == render(FOX)
    assert render(FOX) != render(other)


def test_every_model_of_the_catalogue_renders_an_image_of_its_own() -> None:
    names = [model.name for model in MODELS]
    requests = [
        FOX,
        replace(FOX, model="srpo-image-to-image", strength=1.0, inputs=("red",)),
        replace(FOX, model="kontext-text-to-image"),
        replace(FOX, model="kontext", inputs=("red",)),
        replace(FOX, model="kontext-multi", inputs=("red",)),
    ]

    assert [request.model for request in requests] == names == list(SimulatedPipeline(0).models)
    assert len({render(request) for request in requests}) == 5


@pytest.mark.parametrize("key", MIX.inputs)
def test_every_pixel_of_every_input_counts(key: str) -> None:
    assert render(MIX) != render(MIX, with_one_pixel_changed(key))


def test_the_order_of_inputs_counts() -> None:
    assert render(MIX) != render(replace(MIX, inputs=("blue", "red")))


def test_an_input_that_is_not_named_changes_nothing() -> None:
    assert render(REMIX) == render(REMIX, with_one_pixel_changed("blue"))


def test_strength_leads_away_from_the_input() -> None:
    strengths = (0.1, 0.5, 0.9)
    resized = INPUTS["red"].resize((FOX.width, FOX.height))
    distances = [
        sum(abs(a - b) for a, b in zip(render(replace(REMIX, strength=strength)), resized.tobytes(), strict=True))
        for strength in strengths
    ]

    assert 0 < distances[0] < distances[1] < distances[2]


def test_strength_0_returns_the_input_resized_without_a_step() -> None:
    seen: list[tuple[int, int]] = []

    def watch(index: int, step: int) -> bool:
        seen.append((index, step))
        return True

    (rendered,) = SimulatedPipeline(60_000).render([replace(REMIX, strength=0.0)], watch, INPUTS)

    assert rendered.image == INPUTS["red"].resize((FOX.width, FOX.height), Image.Resampling.LANCZOS)
    assert seen == [(0, 0)]


def test_image_to_image_does_the_steps_that_its_strength_leaves() -> None:
    seen: list[int] = []

    def watch(_index: int, step: int) -> bool:
        seen.append(step)
        return True

    request = replace(REMIX, steps=10, strength=0.35)
    list(SimulatedPipeline(0).render([request], watch, INPUTS))

    assert seen == list(range(request.denoising_steps + 1)) == [0, 1, 2, 3, 4]


def test_guidance_changes_no_pixel() -> None:
    assert render(FOX) == render(replace(FOX, guidance=9))


def test_company_changes_no_pixel() -> None:
    batch = [replace(FOX, seed=seed) for seed in (7, 8, 9)]

    rendered = list(SimulatedPipeline(step_ms=0).render(batch, lambda *_: True))

    assert [one.image.tobytes() for one in rendered] == [render(request) for request in batch]


def test_images_join_and_leave_between_steps() -> None:
    pipeline = SimulatedPipeline(step_ms=0)
    long, short = pipeline.start(replace(FOX, steps=3)), pipeline.start(replace(FOX, steps=1, seed=8))
    pipeline.advance([long, short])
    finished = pipeline.finish(short)
    late = pipeline.start(replace(FOX, steps=2, seed=9))
    pipeline.advance([long, late])
    pipeline.advance([long, late])

    assert [image.step for image in (long, short, late)] == [3, 1, 2]
    images = [pipeline.finish(long), finished, pipeline.finish(late)]
    assert [one.pixels for one in images] == [render(image.request) for image in (long, short, late)]


def test_an_abandoned_image_is_not_rendered_and_not_asked_for_again() -> None:
    seen: list[tuple[int, int]] = []

    def watch(index: int, step: int) -> bool:
        seen.append((index, step))
        return (index, step) != (0, 1)

    rendered = list(SimulatedPipeline(step_ms=0).render([FOX, FOX], watch))

    assert [one.index for one in rendered] == [1]
    assert [step for index, step in seen if index == 0] == [0, 1]
    assert [step for index, step in seen if index == 1] == [0, 1, 2, 3]


def test_rendering_stops_at_once_when_no_image_is_wanted() -> None:
    began = clock.monotonic()

    assert list(SimulatedPipeline(step_ms=60_000).render([FOX, FOX], lambda *_: False)) == []
    assert clock.monotonic() - began < 5


def test_a_step_takes_its_time_once_for_the_whole_batch() -> None:
    began = clock.monotonic()

    pipeline = SimulatedPipeline(step_ms=200)
    images = [pipeline.start(FOX) for _ in range(4)]

    for _ in range(FOX.steps):
        pipeline.advance(images)

    assert 0.6 <= clock.monotonic() - began < 2.4


def test_a_step_that_a_level_skips_takes_no_time() -> None:
    """Unless another image of the batch needs it."""
    seen: list[int] = []
    began = clock.monotonic()

    def watch(_index: int, step: int) -> bool:
        seen.append(step)
        return True

    (rendered,) = SimulatedPipeline(step_ms=100).render([replace(FOX, steps=28, acceleration="high")], watch)

    assert (rendered.full_steps, seen) == (10, list(range(29)))
    assert 1.0 <= clock.monotonic() - began < 2.8


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (replace(FOX, model="redux"), 'not "redux"'),
        (replace(FOX, model="kontext"), "given 0 images"),
        (replace(FOX, inputs=("red",)), "given 1 images"),
        (replace(REMIX, strength=None), "given the strength None"),
        (replace(FOX, strength=0.5), "given the strength 0.5"),
    ],
)
def test_refuses_what_it_does_not_serve(other: ImageRequest, reason: str) -> None:
    with pytest.raises(RenderError, match=reason):
        SimulatedPipeline(step_ms=0).render([FOX, other], lambda *_: True, INPUTS)


def test_says_what_it_is() -> None:
    pipeline = SimulatedPipeline(step_ms=0)
    pipeline.warm_up()

    assert pipeline.weights == "simulated"
    assert pipeline.build == SimulatedPipeline(step_ms=99).build
    assert len(pipeline.build) == 16


def test_rendered_images_carry_their_place_in_the_batch() -> None:
    rendered: list[RenderedImage] = list(SimulatedPipeline(step_ms=0).render([FOX] * 4, lambda *_: True))

    assert [one.index for one in rendered] == [0, 1, 2, 3]
