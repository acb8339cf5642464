"""SRPO from text: FluxPipeline's images, bit for bit, cancellable, and independent of the batch."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import ImageChops, ImageStat

from farm.domain.errors import RenderError
from farm.domain.request import ImageRequest
from miniature.tokenizer import T5_TOKENS
from tests.unit.pipelines.denoising import as_diffusers, differences, keeping, miniature_parts, pipeline_of, record
from workers.pipelines import flux
from workers.pipelines.flux import FluxModels

FOX = ImageRequest("srpo", "a red fox in the snow", width=256, height=320, steps=4, guidance=4.5, seed=7)


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def render(pipeline: FluxModels, *requests: ImageRequest) -> list[bytes]:
    return [rendered.image.tobytes() for rendered in pipeline.render(requests, lambda *_: True)]


@pytest.mark.parametrize(
    ("width", "height", "steps", "guidance"),
    [(256, 256, 1, 1.0), (256, 320, 28, 3.5), (640, 384, 3, 4.5), (512, 512, 2, 20.0)],
)
def test_computes_what_fluxpipeline_computes(parts: Any, width: int, height: int, steps: int, guidance: float) -> None:
    request = replace(FOX, width=width, height=height, steps=steps, guidance=guidance)

    ours, theirs = both(parts, request)

    assert len(ours) == len(theirs) == steps + 1
    assert differences(ours, theirs) == []


def test_computes_it_in_bf16_as_well(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.to(torch.bfloat16)
    decoded: list[Any] = []
    monkeypatch.setattr(parts.vae, "decode", keeping(decoded))

    ours, theirs = both(parts, FOX)

    assert differences(ours, theirs) == []
    assert torch.equal(*decoded)


def both(parts: Any, request: ImageRequest) -> tuple[list[Any], list[Any]]:
    """Return what our pipeline and diffusers' have computed: each step of the transformer, and the image."""
    ours: list[Any] = []
    theirs: list[Any] = []
    end = record(parts.transformer, ours)
    ours += [rendered.image for rendered in pipeline_of(parts).render([request], lambda *_: True)]
    end()
    reference = as_diffusers(parts)
    record(reference.transformer, theirs)
    theirs += reference(
        request.prompt,
        width=request.width,
        height=request.height,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        max_sequence_length=T5_TOKENS,
        generator=torch.Generator().manual_seed(request.seed),
    ).images
    return ours, theirs


def test_an_image_of_a_batch_is_the_image_of_its_seed_alone(pipeline: FluxModels) -> None:
    batch = [
        FOX,
        replace(FOX, seed=8),
        replace(FOX, prompt="a blue whale", steps=2),
        replace(FOX, guidance=9.0),
    ]

    together = render(pipeline, *batch)

    assert together == [image for request in batch for image in render(pipeline, request)]
    assert len(set(together)) == 4


def test_prompts_and_seeds_are_seen(pipeline: FluxModels) -> None:
    others = [replace(FOX, seed=8), replace(FOX, prompt="a blue whale")]
    (fox, *rest) = [rendered.image for rendered in pipeline.render([FOX, *others], lambda *_: True)]

    for other in rest:
        assert sum(ImageStat.Stat(ImageChops.difference(fox, other)).mean) / 3 > 5


def test_an_image_is_yielded_before_the_next_is_begun(pipeline: FluxModels) -> None:
    seen: list[tuple[int, int]] = []

    def watch(index: int, step: int) -> bool:
        seen.append((index, step))
        return True

    rendered = pipeline.render([FOX, FOX], watch)

    assert next(rendered).index == 0
    assert seen == [(0, step) for step in range(5)]
    assert next(rendered).index == 1
    assert seen[5:] == [(1, step) for step in range(5)]


@pytest.mark.parametrize("last", [0, 1, 3, 4])
def test_an_abandoned_image_stops_at_once_and_changes_nothing(parts: Any, pipeline: FluxModels, last: int) -> None:
    untouched = render(pipeline, FOX, replace(FOX, seed=8))
    forwards: list[Any] = []
    end = record(parts.transformer, forwards)

    rendered = list(pipeline.render([FOX, replace(FOX, seed=8)], lambda index, step: (index, step) != (0, last)))
    end()

    assert len(forwards) == last + FOX.steps
    assert [(one.index, one.image.tobytes()) for one in rendered] == [(1, untouched[1])]
    assert render(pipeline, FOX) == untouched[:1]


def test_an_exception_in_mid_loop_changes_nothing(parts: Any, pipeline: FluxModels) -> None:
    untouched = render(pipeline, FOX)
    reference = parts(FOX.prompt, width=256, height=320, num_inference_steps=4, output_type="latent")[0].shape

    def watch(index: int, step: int) -> bool:
        if step == 2:
            raise KeyError
        return True

    with pytest.raises(KeyError):
        list(pipeline.render([FOX], watch))

    assert render(pipeline, FOX) == untouched
    assert not torch.is_inference_mode_enabled()
    assert parts(FOX.prompt, width=256, height=320, num_inference_steps=4, output_type="latent")[0].shape == reference


def test_inference_mode_is_off_between_two_images(pipeline: FluxModels) -> None:
    assert [torch.is_inference_mode_enabled() for _ in pipeline.render([FOX, FOX], lambda *_: True)] == [False, False]


@pytest.mark.parametrize(("width", "height"), [(257, 256), (256, 319), (301, 263), (320, 320)])
def test_any_size_is_the_middle_of_the_next_size_on_the_grid(pipeline: FluxModels, width: int, height: int) -> None:
    request = replace(FOX, width=width, height=height, steps=1)
    on_grid = replace(request, width=-(-width // 64) * 64, height=-(-height // 64) * 64)
    whole, part = (rendered.image for rendered in pipeline.render([on_grid, request], lambda *_: True))

    left, top = (whole.width - width) // 2, (whole.height - height) // 2
    assert (part.size, part.mode) == ((width, height), "RGB")
    assert part.tobytes() == whole.crop((left, top, left + width, top + height)).tobytes()


def test_a_prompt_is_encoded_once_and_gives_the_same_image(parts: Any, pipeline: FluxModels) -> None:
    calls: list[Any] = []
    record(parts.text_encoder_2, calls)

    first, second = render(pipeline, FOX), render(pipeline, FOX)

    assert len(calls) == 1
    assert first == second
    parts.text_encoder_2.shared.weight.data.mul_(2)
    assert render(pipeline_of(parts), FOX) != first


def test_embeddings_of_many_prompts_are_not_kept_for_ever(parts: Any, pipeline: FluxModels) -> None:
    calls: list[Any] = []
    record(parts.text_encoder_2, calls)
    prompts = [replace(FOX, prompt=f"fox {number}", height=256, steps=1) for number in range(33)]

    render(pipeline, *prompts, prompts[0])

    assert len(calls) == 34


def test_a_prompt_beyond_the_encoder_warns_and_is_rendered(
    pipeline: FluxModels, caplog: pytest.LogCaptureFixture
) -> None:
    request = replace(FOX, prompt="a red fox " * 60, steps=1)

    with caplog.at_level(logging.WARNING):
        first, second = pipeline.render([request, request], lambda *_: True)

    assert first.warnings == second.warnings
    assert first.warnings == ("The prompt has 182 tokens; what comes after the first 32 had no effect.",)
    assert [entry.getMessage() for entry in caplog.records] == [*first.warnings, *second.warnings]


@pytest.mark.parametrize(("words", "warnings"), [(30, 0), (31, 1)])
def test_the_last_token_that_fits_is_no_cause_for_a_warning(pipeline: FluxModels, words: int, warnings: int) -> None:
    """Beside the words there are a token for the start and one for the end."""
    (rendered,) = pipeline.render([replace(FOX, prompt="fox " * words, steps=1)], lambda *_: True)

    assert len(rendered.warnings) == warnings


def test_refuses_a_model_that_it_does_not_serve(pipeline: FluxModels) -> None:
    with pytest.raises(RenderError, match='srpo, srpo-image-to-image, not "kontext"'):
        pipeline.render([replace(FOX, model="kontext")], lambda *_: True)


def test_values_that_are_no_colours_are_no_image(pipeline: FluxModels) -> None:
    untouched = render(pipeline, FOX)

    with pytest.raises(RenderError, match="not colours"):
        render(pipeline, replace(FOX, guidance=float("nan")))

    assert render(pipeline, FOX) == untouched


def test_memory_that_ran_out_is_released_before_the_next_image(
    pipeline: FluxModels, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    untouched = render(pipeline, FOX)
    released: list[bool] = []
    monkeypatch.setattr(flux, "release_cached_memory", lambda: released.append(True))

    def run_out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(parts.vae, "decode", run_out)
        with pytest.raises(torch.OutOfMemoryError):
            render(pipeline, FOX)
    assert not released

    assert [render(pipeline, FOX) for _ in range(2)] == [untouched] * 2
    assert released == [True]


def test_another_thread_renders_the_same(pipeline: FluxModels) -> None:
    with ThreadPoolExecutor(max_workers=1) as pool:
        elsewhere = pool.submit(render, pipeline, FOX).result()

    assert render(pipeline, FOX) == elsewhere


def test_warming_up_changes_nothing(pipeline: FluxModels) -> None:
    cold = render(pipeline_of(miniature_parts()), FOX)

    pipeline.warm_up()

    assert render(pipeline, FOX) == cold
