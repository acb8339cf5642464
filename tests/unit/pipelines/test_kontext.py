"""Kontext: FluxKontextPipeline's images, bit for bit, and several inputs, each of which has an effect."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from PIL import Image

from farm.domain.request import ImageRequest
from miniature.tokenizer import T5_TOKENS
from tests.unit.pipelines.denoising import (
    INPUTS,
    as_diffusers,
    count_encodings,
    differences,
    keeping,
    kontext_of,
    pipeline_of,
    record,
    render,
    with_one_pixel_changed,
)
from workers.pipelines.engine import PREFERRED_KONTEXT_RESOLUTIONS, FluxKontextPipeline
from workers.pipelines.flux import FluxModels
from workers.pipelines.kontext import input_size, tiled_positions
from workers.pipelines.latents import Size

FOX = ImageRequest("kontext", "make the fox red", 256, 320, steps=2, guidance=3.5, seed=7, inputs=("waves",))
TEXT = replace(FOX, model="kontext-text-to-image", inputs=())
SEVERAL = replace(FOX, model="kontext-multi", inputs=("waves", "wide", "red", "blue"), steps=1)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def kontext(parts: Any) -> Any:
    return kontext_of(parts)


@pytest.fixture
def pipeline(parts: Any, kontext: Any) -> FluxModels:
    return pipeline_of(parts, kontext)


@pytest.fixture
def small_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrink inputs in tests that are not about Kontext's sizes: a CPU takes a second for each input of those."""
    for reader in ("workers.pipelines.kontext", FluxKontextPipeline.__module__):
        monkeypatch.setattr(f"{reader}.PREFERRED_KONTEXT_RESOLUTIONS", [(128, 192), (192, 128), (192, 192)])


@pytest.mark.parametrize(
    ("key", "width", "height", "steps"),
    [("waves", 256, 320, 2), ("wide", 384, 256, 1), (None, 256, 320, 3)],
)
def test_computes_what_fluxkontextpipeline_computes(
    kontext: Any, key: str | None, width: int, height: int, steps: int
) -> None:
    request = replace(FOX if key else TEXT, width=width, height=height, steps=steps, inputs=(key,) if key else ())

    ours, theirs = both(kontext, request)

    assert len(ours) == len(theirs) == steps + 1
    assert differences(ours, theirs) == []


@pytest.mark.usefixtures("small_inputs")
def test_computes_it_in_bf16_as_well(kontext: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kontext.to(torch.bfloat16)
    decoded: list[Any] = []
    monkeypatch.setattr(kontext.vae, "decode", keeping(decoded))

    ours, theirs = both(kontext, replace(FOX, height=256, inputs=("wide",)))

    assert differences(ours, theirs) == []
    assert torch.equal(*decoded)
    assert ours[0]["hidden_states"].shape[1] == 4 * 4 + 2 * 3


def both(kontext: Any, request: ImageRequest) -> tuple[list[Any], list[Any]]:
    """Return what our pipeline and diffusers' have computed: each step of the transformer, and the image."""
    ours: list[Any] = []
    theirs: list[Any] = []
    end = record(kontext.transformer, ours)
    ours += render(pipeline_of(kontext, kontext), request)
    end()
    reference = as_diffusers(kontext, FluxKontextPipeline)
    record(reference.transformer, theirs)
    theirs += reference(
        image=INPUTS[request.inputs[0]] if request.inputs else None,
        prompt=request.prompt,
        width=request.width,
        height=request.height,
        max_area=request.width * request.height,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        max_sequence_length=T5_TOKENS,
        generator=torch.Generator().manual_seed(request.seed),
    ).images
    return ours, theirs


@pytest.mark.usefixtures("small_inputs")
def test_each_model_renders_its_own_image(pipeline: FluxModels) -> None:
    from_text, edited = render(pipeline, TEXT, FOX)
    (of_srpo,) = render(pipeline, replace(TEXT, model="srpo"))

    assert pipeline.models == (
        "srpo",
        "srpo-image-to-image",
        "kontext-text-to-image",
        "kontext",
        "kontext-multi",
    )
    assert len({image.tobytes() for image in (from_text, edited, of_srpo)}) == 3


@pytest.mark.usefixtures("small_inputs")
def test_every_one_of_several_inputs_is_seen(pipeline: FluxModels) -> None:
    (image,) = render(pipeline, SEVERAL)

    for key in SEVERAL.inputs:
        assert render(pipeline, SEVERAL, inputs=with_one_pixel_changed(key)) != [image], key


@pytest.mark.usefixtures("small_inputs")
def test_the_order_of_the_inputs_counts(pipeline: FluxModels) -> None:
    one, other = render(pipeline, replace(SEVERAL, inputs=("red", "blue")), replace(SEVERAL, inputs=("blue", "red")))

    assert one != other


@pytest.mark.usefixtures("small_inputs")
def test_several_inputs_of_one_are_the_edit_of_one(pipeline: FluxModels) -> None:
    edited, of_several = render(pipeline, FOX, replace(FOX, model="kontext-multi"))

    assert edited == of_several


@pytest.mark.usefixtures("small_inputs")
def test_images_that_begin_from_the_same_images_encode_them_once(kontext: Any) -> None:
    calls = count_encodings(kontext.vae)
    request = replace(SEVERAL, inputs=("red", "blue"))

    render(pipeline_of(kontext, kontext), *[replace(request, seed=seed) for seed in range(3)])

    assert len(calls) == 2


@pytest.mark.usefixtures("small_inputs")
def test_images_of_one_call_are_forgotten_with_it(pipeline: FluxModels) -> None:
    (before,) = render(pipeline, FOX)

    assert render(pipeline, FOX, inputs={"waves": INPUTS["red"]}) != [before]


@pytest.mark.usefixtures("small_inputs")
def test_the_image_is_the_same_alone_in_a_batch_twice_and_after_another_model(pipeline: FluxModels) -> None:
    (alone,) = render(pipeline, FOX)
    strangers = [replace(FOX, model="srpo", inputs=()), replace(FOX, inputs=("wide",)), TEXT]

    together = render(pipeline, *strangers, FOX, replace(FOX, seed=8), FOX)

    assert [image == alone for image in together] == [False, False, False, True, False, True]
    assert render(pipeline, FOX) == [alone]


@pytest.mark.usefixtures("small_inputs")
def test_an_output_off_the_grid_is_the_middle_of_the_next_size(pipeline: FluxModels) -> None:
    part, whole = render(pipeline, replace(FOX, width=301, height=263), replace(FOX, width=320, height=320))

    assert part == whole.crop((9, 28, 310, 291))


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1000, 1000, (1024, 1024)),
        (4000, 3000, (1184, 880)),
        (3000, 4000, (880, 1184)),
        (1920, 1080, (1392, 752)),
        (9000, 900, (1568, 672)),
        (1, 900, (672, 1568)),
    ],
)
def test_an_input_is_read_at_the_nearest_size_that_kontext_knows(
    width: int, height: int, expected: tuple[int, int]
) -> None:
    size = input_size(Image.new("1", (width, height)), grid=16)

    assert (size.width, size.height) == expected


def test_an_input_is_read_on_the_grid() -> None:
    size = input_size(Image.new("RGB", (1920, 1080)), grid=64)

    assert (size.width, size.height) == (1344, 704)


SIZES = [Size(height, width, 16) for width, height in PREFERRED_KONTEXT_RESOLUTIONS]
FEW = [SIZES[0], SIZES[8], SIZES[13]]


def test_one_input_lies_where_fluxkontextpipeline_puts_it() -> None:
    places = tiled_positions([Size(48, 64, 16)])

    assert places.tolist() == [[1, row, column] for row in range(3) for column in range(4)]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_several_inputs_lie_beside_one_another_and_never_over(count: int) -> None:
    for sizes in product(FEW, repeat=count):
        places = tiled_positions(sizes)
        assert len(places) == sum(size.rows * size.columns for size in sizes)
        assert len(torch.unique(1000 * places[:, 1] + places[:, 2])) == len(places), sizes
        # bf16, in which the network takes them, holds whole numbers up to 256 exactly.
        assert int(places.max()) <= 256, sizes


def test_the_mosaic_stays_nearly_square() -> None:
    square, tall = Size(1024, 1024, 16), Size(1568, 672, 16)

    assert extent(tiled_positions([square] * 2)) in {(128, 64), (64, 128)}
    assert extent(tiled_positions([square] * 4)) in {(192, 128), (128, 192)}
    assert extent(tiled_positions([tall] * 2)) == (98, 84)


def extent(places: torch.Tensor) -> tuple[int, ...]:
    """Return the rows and columns that the positions cover."""
    return tuple((places.max(dim=0).values + 1).tolist()[1:])
