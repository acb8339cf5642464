"""AI/ML API's dialect: each field's effect or refusal, and its answers."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from farm.dialects import aimlapi
from farm.dialects.openai_common import ParsedCall
from farm.domain.job import Image, State
from tests.unit.dialects import golden
from tests.unit.dialects.endpoints import DEFAULT_SEED, ENDPOINTS, size
from tests.unit.dialects.samples import BASE, LINKS, a_job, a_request, a_result

PAGE = golden.load("aimlapi-flux-srpo")
ENDPOINT = ENDPOINTS["aimlapi srpo"]
REQUEST = ENDPOINT.request


def read(**sent: Any) -> ParsedCall:
    return aimlapi.generation({"model": "flux/srpo", "prompt": "a fox"} | sent, default_seed=DEFAULT_SEED)


@pytest.mark.parametrize("example", ["minimal", "quick_example"])
def test_the_pages_own_examples_are_taken(example: str) -> None:
    body = PAGE[example]
    sides = size(1440, 512) if example == "quick_example" else {}

    asked = aimlapi.generation(body, default_seed=DEFAULT_SEED)

    assert asked.order.request == REQUEST.model_copy(update={"prompt": body["prompt"]} | sides)


def test_the_pages_own_defaults_hold() -> None:
    assert read(**PAGE["defaults"]).order.request == read().order.request


def test_every_missing_side_is_named() -> None:
    problems = ENDPOINT.problems({"image_size": {}})

    assert [problem.field for problem in problems] == ["image_size.width", "image_size.height"]


def kinds(value: object) -> object:
    """Return the shape of some JSON: its names and types."""
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


def test_warnings_are_returned() -> None:
    result = a_result(warnings=("The prompt is long.",))

    assert aimlapi.answer(a_job(State.COMPLETED), result, "url", LINKS)["warnings"] == ["The prompt is long."]
