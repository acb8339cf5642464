"""Levels of acceleration in the denoising loop: against diffusers' TaylorSeer, against NumPy, and without a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import TaylorSeerCacheConfig

from farm.domain.acceleration import BUNDLED, Level, Levels
from farm.domain.request import ImageRequest
from miniature.tokenizer import T5_TOKENS
from tests.unit.pipelines.denoising import INPUTS, kontext_of, pipeline_of, record, render
from workers.pipelines.denoise import Denoising, advance
from workers.pipelines.extrapolation import step_plan
from workers.pipelines.latents import Size, positions
from workers.pipelines.network import Network, Schedule
from workers.pipelines.pipeline import NO_INPUTS
from workers.pipelines.srpo import TextToImage

FOX = ImageRequest("srpo", "a red star", 256, 320, steps=12, guidance=4.5, seed=7, acceleration="regular")
REMIX = replace(FOX, model="srpo-image-to-image", steps=28, strength=0.5, inputs=("waves",))
EDIT = replace(FOX, model="kontext-multi", inputs=("waves", "red"))
GRID = Size(320, 256, 64)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize(("order", "bound"), [(0, 0.0), (1, 2e-6)])
def test_on_the_axis_of_steps_it_is_taylorseer(parts: Any, order: int, bound: float) -> None:
    """TaylorSeer's "lite" mode: a full step, then one that continues the model's output, by Taylor's polynomial."""
    ours = tokens_of(Network(parts), mask="111010101011", axis=range(12), order=order)
    config = TaylorSeerCacheConfig(
        cache_interval=2,
        disable_cache_before_step=3,
        disable_cache_after_step=10,
        max_order=order,
        taylor_factors_dtype=torch.float32,
        use_lite_mode=True,
    )

    parts.transformer.enable_cache(config)
    theirs = parts(
        FOX.prompt,
        width=FOX.width,
        height=FOX.height,
        num_inference_steps=FOX.steps,
        guidance_scale=FOX.guidance,
        max_sequence_length=T5_TOKENS,
        generator=torch.Generator().manual_seed(FOX.seed),
        output_type="latent",
    ).images

    assert float((ours - theirs).abs().max()) <= bound
    parts.transformer.disable_cache()
    assert not torch.equal(ours, tokens_of(Network(parts), mask="1" * 12, axis=range(12), order=order))


def tokens_of(network: Network, mask: str, axis: Sequence[float], order: int) -> torch.Tensor:
    """Return the tokens of `FOX`, denoised by this mask."""
    with torch.inference_mode():
        start = TextToImage(network).prepare(FOX, GRID, NO_INPUTS)
        prompt = network.prompt(FOX.prompt)
        plan = step_plan(mask, axis, order)
        image = Denoising(start, network.to_device(positions(GRID)), prompt, FOX.guidance, plan)
        while not image.is_finished:
            advance(network, [image])
        return image.tokens


@pytest.mark.parametrize("acceleration", ["regular", "high"])
def test_skipped_steps_continue_the_parabola_of_the_velocity(parts: Any, acceleration: Any) -> None:
    forwards: list[Any] = []
    record(parts.transformer, forwards)

    render(pipeline_of(parts), replace(FOX, acceleration=acceleration))

    check_steps(forwards, BUNDLED.level(acceleration).mask(12), Network(parts).schedule(12, GRID))


def check_steps(forwards: Sequence[Any], mask: str, schedule: Schedule) -> None:
    """Do the steps again in NumPy, in double precision, from the transformer's own velocities of the image's tokens."""
    sigmas, full = schedule.sigmas.numpy(), [step for step, digit in enumerate(mask) if digit == "1"]
    before = [forward["hidden_states"][:, : GRID.rows * GRID.columns].double().numpy() for forward in forwards]
    velocities = [forward["output"][:, : GRID.rows * GRID.columns].double().numpy() for forward in forwards]

    assert len(forwards) == len(full) < len(mask)
    for number in range(len(full) - 1):
        tokens = before[number] + (sigmas[full[number] + 1] - sigmas[full[number]]) * velocities[number]
        for step in range(full[number] + 1, full[number + 1]):
            last = range(max(0, number - 2), number + 1)
            velocity = newton([sigmas[full[n]] for n in last], [velocities[n] for n in last], sigmas[step])
            tokens = tokens + (sigmas[step + 1] - sigmas[step]) * velocity
        np.testing.assert_allclose(before[number + 1], tokens, atol=1e-5)


def newton(at: Sequence[float], values: Sequence[Any], point: float) -> Any:
    """Return the value at `point` of the polynomial through `values`, by divided differences."""
    differences, total, factor = list(values), values[0], 1.0
    for degree in range(1, len(at)):
        differences = [
            (differences[n + 1] - differences[n]) / (at[n + degree] - at[n]) for n in range(len(differences) - 1)
        ]
        factor *= point - at[degree - 1]
        total = total + factor * differences[0]
    return total


def test_skipped_steps_skip_the_transformer_only(parts: Any) -> None:
    """The watch is asked after every step, and the image tells how many of them were full."""
    forwards: list[Any] = []
    record(parts.transformer, forwards)
    seen: list[int] = []

    def watch(_index: int, step: int) -> bool:
        seen.append(step)
        return True

    (rendered,) = pipeline_of(parts).render([FOX], watch)

    assert seen == list(range(13))
    assert rendered.full_steps == len(forwards) == BUNDLED.full_steps("regular", 12) == 6


def test_image_to_image_skips_among_the_steps_that_it_does(parts: Any) -> None:
    forwards: list[Any] = []
    record(parts.transformer, forwards)

    (rendered,) = pipeline_of(parts).render([REMIX], lambda *_: True, INPUTS)

    assert rendered.full_steps == len(forwards) == BUNDLED.full_steps("regular", 14) == 7


@pytest.fixture
def small_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.pipelines.kontext.PREFERRED_KONTEXT_RESOLUTIONS", [(128, 192), (192, 128)])


@pytest.mark.usefixtures("small_inputs")
def test_kontext_extrapolates_the_image_and_leaves_its_inputs_as_they_are(parts: Any) -> None:
    kontext = kontext_of(parts)
    forwards: list[Any] = []
    record(kontext.transformer, forwards)
    render(pipeline_of(None, kontext), EDIT)

    inputs = [forward["hidden_states"][:, GRID.rows * GRID.columns :] for forward in forwards]
    assert inputs[0].shape[1] == 2 * (2 * 3)
    assert all(torch.equal(tokens, inputs[0]) for tokens in inputs)
    check_steps(forwards, BUNDLED.regular.mask(12), Network(kontext).schedule(12, GRID))


def test_the_levels_are_those_that_the_pipeline_was_given(parts: Any) -> None:
    level = Level(order=0, masks={12: "111100000001"})
    other = pipeline_of(parts, levels=Levels(source="a test", regular=level, high=level))

    (rendered,) = other.render([FOX], lambda *_: True)

    assert rendered.full_steps == 5
    assert rendered.image != render(pipeline_of(parts), FOX)[0]
