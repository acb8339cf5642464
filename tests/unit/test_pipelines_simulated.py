"""The simulated pipeline: pictures that follow from the request, in step, and stoppable."""

from __future__ import annotations

from dataclasses import replace

import pytest

from farm import clock
from farm.errors import RenderError
from farm.request import ImageRequest
from workers.pipelines.pipeline import Painted, Pipeline
from workers.pipelines.simulated import SimulatedPipeline

FOX = ImageRequest("srpo", "a red fox", width=301, height=257, steps=3, guidance=4.5, seed=7)


def paint(request: ImageRequest) -> bytes:
    pipeline: Pipeline = SimulatedPipeline(step_ms=0)
    (painted,) = pipeline.render([request], lambda *_: True)
    return painted.image.tobytes()


def test_paints_rgb_of_exactly_the_size_asked_for() -> None:
    (painted,) = SimulatedPipeline(step_ms=0).render([FOX], lambda *_: True)

    assert (painted.index, painted.warnings) == (0, ())
    assert (painted.image.mode, painted.image.size) == ("RGB", (301, 257))


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
    assert paint(FOX) == paint(FOX)
    assert paint(FOX) != paint(other)


def test_guidance_changes_no_pixel() -> None:
    assert paint(FOX) == paint(replace(FOX, guidance=9))


def test_company_changes_no_pixel() -> None:
    batch = [replace(FOX, seed=seed) for seed in (7, 8, 9)]

    painted = list(SimulatedPipeline(step_ms=0).render(batch, lambda *_: True))

    assert [one.image.tobytes() for one in painted] == [paint(request) for request in batch]


def test_a_batch_goes_in_step_and_a_shorter_image_is_finished_earlier() -> None:
    seen: list[tuple[int, int]] = []

    def watch(index: int, step: int) -> bool:
        seen.append((index, step))
        return True

    batch = [replace(FOX, steps=3), replace(FOX, steps=1)]
    painted = SimulatedPipeline(step_ms=0).render(batch, watch)

    assert next(painted).index == 1
    assert seen == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert next(painted).index == 0
    assert seen[4:] == [(0, 2), (0, 3)]


def test_an_abandoned_image_is_not_painted_and_not_asked_for_again() -> None:
    seen: list[tuple[int, int]] = []

    def watch(index: int, step: int) -> bool:
        seen.append((index, step))
        return (index, step) != (0, 1)

    painted = list(SimulatedPipeline(step_ms=0).render([FOX, FOX], watch))

    assert [one.index for one in painted] == [1]
    assert [step for index, step in seen if index == 0] == [0, 1]
    assert [step for index, step in seen if index == 1] == [0, 1, 2, 3]


def test_stops_at_once_when_nobody_wants_an_image() -> None:
    began = clock.monotonic()

    assert list(SimulatedPipeline(step_ms=60_000).render([FOX, FOX], lambda *_: False)) == []
    assert clock.monotonic() - began < 5


def test_a_step_takes_its_time_once_for_the_whole_batch() -> None:
    began = clock.monotonic()

    list(SimulatedPipeline(step_ms=50).render([FOX] * 4, lambda *_: True))

    assert 0.15 <= clock.monotonic() - began < 0.6


@pytest.mark.parametrize("other", [replace(FOX, acceleration="high"), replace(FOX, model="kontext")])
def test_refuses_what_it_does_not_serve(other: ImageRequest) -> None:
    with pytest.raises(RenderError):
        SimulatedPipeline(step_ms=0).render([other], lambda *_: True)


def test_says_what_it_is() -> None:
    pipeline = SimulatedPipeline(step_ms=0)
    pipeline.warm_up()

    assert (pipeline.models, pipeline.weights) == (("srpo",), "simulated")
    assert pipeline.build == SimulatedPipeline(step_ms=99).build
    assert len(pipeline.build) == 16


def test_painted_images_carry_their_place_in_the_batch() -> None:
    painted: list[Painted] = list(SimulatedPipeline(step_ms=0).render([FOX] * 4, lambda *_: True))

    assert [one.index for one in painted] == [0, 1, 2, 3]
