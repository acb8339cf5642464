"""AI/ML API's dialect: each field's effect or refusal, and its answers."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from farm.dialects import aimlapi
from farm.dialects.openai_common import TOLERATED, Asked
from farm.domain.errors import InvalidRequest, Problem
from farm.domain.job import Image, Order, State
from farm.domain.request import Request
from tests.unit.dialects import golden, openai_requests
from tests.unit.dialects.openai_requests import SPARE, brief, size, untried, without_effect
from tests.unit.dialects.samples import BASE, LINKS, a_job, a_request, a_result

PAGE = golden.load("aimlapi-flux-srpo")
DEFAULT = Request(model="srpo", prompt="a fox", width=1024, height=768, steps=28, guidance=4.5, seed=SPARE)


def read(**sent: Any) -> Asked:
    return aimlapi.generation({"model": "flux/srpo", "prompt": "a fox"} | sent, default_seed=SPARE)


def refused(**sent: Any) -> list[Problem]:
    with pytest.raises(InvalidRequest) as caught:
        read(**sent)
    return caught.value.problems


TAKEN: list[openai_requests.Taken] = [
    *openai_requests.TAKEN,
    *openai_requests.SRPO_TAKEN,
    ({"num_inference_steps": 1}, {"steps": 1}),
    ({"output_format": "jpeg"}, {}),
    ({"output_format": "png"}, {"output_format": "png"}),
    ({"size": "auto"}, {}),
    ({"size": "1536x512"}, size(1536, 512)),
    ({"image_size": size(1536, 1536)}, size(1536, 1536)),
    ({"size": "1024x768", "image_size": "landscape_4_3"}, {}),
]
REFUSED: list[openai_requests.Refused] = [
    *openai_requests.REFUSED,
    *openai_requests.SRPO_REFUSED,
    ({"seed": 0}, "seed"),
    ({"size": "480x512"}, "size"),
    ({"size": "1568x512"}, "size"),
    ({"size": "513x512"}, "size"),
    ({"size": "512x540"}, "size"),
    ({"image_size": size(480, 512)}, "image_size"),
    ({"image_size": size(512, 1568)}, "image_size"),
    ({"image_size": size(512, 513)}, "image_size"),
    ({"image_size": {"width": 512}}, "image_size.height"),
    ({"image_size": {"height": 512}}, "image_size.width"),
    ({"size": "512x512", "image_size": "square_hd"}, "size"),
    ({"output_format": "url"}, "output_format"),
    ({"strength": 0.5}, "strength"),
    ({"image_url": "https://a.example/a.png"}, "image_url"),
]


@pytest.mark.parametrize(("sent", "changes"), TAKEN, ids=brief)
def test_a_field_has_its_effect(sent: dict[str, Any], changes: dict[str, Any]) -> None:
    assert read(**sent) == Asked(Order("flux/srpo", DEFAULT.model_copy(update=changes), dialect="aimlapi"), "url")


@pytest.mark.parametrize(("sent", "named"), REFUSED, ids=brief)
def test_what_cannot_be_done_is_refused_by_name(sent: dict[str, Any], named: str) -> None:
    assert [problem.field for problem in refused(**sent)] == [named]


def test_every_field_is_tried_here() -> None:
    assert untried(aimlapi.TextToImage, TAKEN, REFUSED) == set()


def test_what_has_no_effect_is_listed_as_tolerated() -> None:
    assert without_effect(TAKEN) - {"sync_mode", "response_format", "style"} == set(TOLERATED)


@pytest.mark.parametrize("example", ["minimal", "quick_example"])
def test_the_pages_own_examples_are_taken(example: str) -> None:
    body = PAGE[example]
    sides = size(1440, 512) if example == "quick_example" else {}

    asked = aimlapi.generation(body, default_seed=SPARE)

    assert asked.order.request == DEFAULT.model_copy(update={"prompt": body["prompt"]} | sides)


def test_the_pages_own_defaults_hold() -> None:
    spoken = read(**PAGE["defaults"]).order.request

    assert spoken.model_copy(update={"notes": ()}) == read().order.request


def test_regular_is_the_full_computation_and_who_asks_for_it_is_told() -> None:
    spoken = read(acceleration="regular").order.request

    assert (spoken.acceleration, read().order.request.acceleration) == ("none", "none")
    assert "regular" in spoken.notes[0]
    assert read().order.request.notes == ()


def test_every_missing_side_is_named() -> None:
    assert [problem.field for problem in refused(image_size={})] == ["image_size.width", "image_size.height"]


@pytest.mark.parametrize("sent", [{"size": "500x512"}, {"image_size": size(500, 512)}], ids=brief)
def test_a_refused_size_tells_what_is_allowed(sent: dict[str, Any]) -> None:
    (problem,) = refused(**sent)

    assert "500x512" in problem.message
    assert "512–1536 pixels a side, in multiples of 32" in problem.message


@pytest.mark.parametrize(
    ("sent", "carriage"),
    [
        ({"sync_mode": True}, "data"),
        ({"response_format": "b64_json"}, "b64_json"),
        ({"response_format": "b64_json", "sync_mode": True}, "b64_json"),
    ],
    ids=brief,
)
def test_images_that_the_answer_carries_are_not_kept(sent: dict[str, Any], carriage: str) -> None:
    asked = read(**sent)

    assert (asked.carriage, asked.order.inline) == (carriage, True)


def kinds(value: object) -> object:
    """The shape of some JSON: its names and types."""
    if isinstance(value, dict):
        return {name: kinds(part) for name, part in value.items()}
    return [kinds(part) for part in value] if isinstance(value, list) else type(value)


def test_an_answer_has_the_shape_of_the_pages_example() -> None:
    request = a_request(width=1440, height=512, prompt=PAGE["answer"]["prompt"], seed=PAGE["answer"]["seed"])
    image = Image("key.jpeg", 1440, 512, "image/jpeg", 1234)
    result = replace(a_result(), images=(image,))

    answer = aimlapi.answer(a_job(State.COMPLETED, request=request), result, "url", LINKS)

    assert kinds(answer) == kinds(PAGE["answer"])
    for name in ("seed", "has_nsfw_concepts", "prompt", "meta"):
        assert answer[name] == PAGE["answer"][name]
    assert answer["images"] == answer["data"]
    assert answer["data"][0] == PAGE["answer"]["data"][0] | {"url": f"{BASE}/files/key.jpeg"}
    assert answer["timings"] == {"inference": 1.2345}


def test_base64_takes_the_urls_place() -> None:
    result = a_result()

    (item,) = aimlapi.answer(a_job(State.COMPLETED, result=result), result, "b64_json", LINKS)["data"]

    assert set(item) == {"b64_json", "width", "height", "content_type"}
    assert base64.b64decode(item["b64_json"]) == result.images[0].key.encode()


def test_sync_mode_has_the_image_in_the_urls_place() -> None:
    result = a_result()

    (item,) = aimlapi.answer(a_job(State.COMPLETED, result=result), result, "data", LINKS)["data"]

    assert item["url"] == LINKS.data(result.images[0])
    assert item["url"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    ("sides", "images", "tokens"),
    [((1440, 512), 1, 52_500), ((1024, 1024), 2, 105_000), ((1024, 1056), 1, 105_000), ((1536, 1536), 4, 630_000)],
)
def test_tokens_are_counted_by_images_and_started_mebipixels(sides: tuple[int, int], images: int, tokens: int) -> None:
    assert aimlapi.tokens(a_request(width=sides[0], height=sides[1], images=images)) == tokens


def test_warnings_are_told() -> None:
    result = a_result(warnings=("The prompt is long.",))

    assert aimlapi.answer(a_job(State.COMPLETED), result, "url", LINKS)["warnings"] == ["The prompt is long."]
