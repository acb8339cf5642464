"""Siraya's dialect: each field's effect or refusal, its answers and its errors."""

from __future__ import annotations

from typing import Any

import pytest

from farm.dialects import siraya
from farm.dialects.openai_common import TOLERATED, Asked, Failed
from farm.domain.errors import InvalidRequest, Problem, QueueFull, Unauthorized
from farm.domain.job import Order, State
from farm.domain.request import Request
from tests.unit.dialects import golden, openai_requests
from tests.unit.dialects.openai_requests import SPARE, brief, size, untried, without_effect
from tests.unit.dialects.samples import BASE, CREATED_US, LINKS, a_job, a_request, a_result

PAGE = golden.load("siraya-flux-1-srpo")
MODEL = "flux-1-srpo-text-to-image"
DEFAULT = Request(
    model="srpo",
    prompt="a fox",
    width=1024,
    height=768,
    steps=28,
    guidance=4.5,
    seed=SPARE,
    output_format="png",
    safety=False,
)


def read(**sent: Any) -> Asked:
    return siraya.generation({"model": MODEL, "prompt": "a fox"} | sent, default_seed=SPARE)


TAKEN: list[openai_requests.Taken] = [
    *openai_requests.TAKEN,
    *openai_requests.SRPO_TAKEN,
    ({"seed": 0}, {"seed": 0}),
    ({"num_inference_steps": 1}, {"steps": 1}),
    ({"output_format": "url"}, {}),
    ({"output_format": "jpeg"}, {"output_format": "jpeg"}),
    ({"output_format": "png"}, {}),
    ({"size": "landscape_4_3"}, {}),
    ({"size": "auto"}, {}),
    ({"size": "256x2560"}, size(256, 2560)),
    ({"image_size": {"width": 300}}, size(300, 512)),
    ({"image_size": {}}, size(512, 512)),
    ({"size": "square", "image_size": "square_hd"}, size(1024, 1024)),
    ({"size": "300x400", "image_size": size(301, 401)}, size(301, 401)),
]
REFUSED: list[openai_requests.Refused] = [
    *openai_requests.REFUSED,
    *openai_requests.SRPO_REFUSED,
    ({"size": "255x256"}, "size"),
    ({"size": "256x2561"}, "size"),
    ({"size": "2560x1094"}, "size"),
    ({"size": "no", "image_size": "square"}, "size"),
    ({"image_size": size(256, 2561)}, "image_size"),
    ({"image_size": size(2560, 1094)}, "image_size"),
    ({"strength": 0.5}, "strength"),
]


@pytest.mark.parametrize(("sent", "changes"), TAKEN, ids=brief)
def test_a_field_has_its_effect(sent: dict[str, Any], changes: dict[str, Any]) -> None:
    assert read(**sent) == Asked(Order(MODEL, DEFAULT.model_copy(update=changes), dialect="siraya"), "url")


@pytest.mark.parametrize(("sent", "named"), REFUSED, ids=brief)
def test_what_cannot_be_done_is_refused_by_name(sent: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(**sent)
    assert [problem.field for problem in caught.value.problems] == [named]


def test_every_field_is_tried_here() -> None:
    assert untried(siraya.TextToImage, TAKEN, REFUSED) == set()


def test_what_has_no_effect_is_listed_as_tolerated() -> None:
    assert without_effect(TAKEN) - {"sync_mode", "response_format", "style"} == set(TOLERATED)


def test_the_pages_own_curl_is_taken() -> None:
    request = siraya.generation(PAGE["curl"], default_seed=SPARE).order.request

    assert request.model_copy(update={"notes": ()}) == DEFAULT.model_copy(update={"prompt": PAGE["curl"]["prompt"]})
    assert "regular" in request.notes[0]


def test_the_pages_minimal_call_is_taken() -> None:
    asked = siraya.generation(PAGE["minimal"], default_seed=SPARE)

    assert asked.order.request == DEFAULT.model_copy(update={"prompt": PAGE["minimal"]["prompt"]})


def test_the_pages_own_defaults_hold() -> None:
    spoken = read(**PAGE["defaults"]).order.request

    assert spoken.model_copy(update={"notes": ()}) == read().order.request


@pytest.mark.parametrize(
    ("sent", "carriage"),
    [
        ({}, "url"),
        ({"output_format": "b64_json"}, "b64_json"),
        ({"response_format": "b64_json"}, "b64_json"),
        ({"output_format": "b64_json", "response_format": "url"}, "url"),
        ({"output_format": "url", "response_format": "b64_json"}, "b64_json"),
        ({"output_format": "jpeg", "response_format": "b64_json"}, "b64_json"),
        ({"sync_mode": True}, "data"),
    ],
    ids=brief,
)
def test_response_format_decides_how_images_are_carried(sent: dict[str, Any], carriage: str) -> None:
    asked = read(**sent)

    assert (asked.carriage, asked.order.inline) == (carriage, carriage != "url")


def test_an_answer_has_no_second_field_for_the_image() -> None:
    """Siraya's page shows an empty one, which some clients take for an image of no bytes."""
    result = a_result()

    answer = siraya.answer(a_job(State.COMPLETED), result, "url", LINKS)

    assert answer == {
        "created": CREATED_US // 1_000_000 + 3,
        "data": [{"url": f"{BASE}/files/{result.images[0].key}", "revised_prompt": ""}],
        "seed": 7,
        "has_nsfw_concepts": [False],
    }


def test_a_prompt_that_was_rewritten_is_told() -> None:
    job = a_job(State.COMPLETED, request=a_request(prompt="a fox in the snow", original_prompt="a fox"))

    (item,) = siraya.answer(job, a_result(), "b64_json", LINKS)["data"]

    assert item["revised_prompt"] == "a fox in the snow"
    assert set(item) == {"b64_json", "revised_prompt"}


def test_an_error_has_the_pages_shape() -> None:
    refusal = siraya.refusal(401, Unauthorized("Invalid API Key"))

    assert (refusal.status, refusal.body["error"]) == (401, PAGE["error"]["error"])


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (422, InvalidRequest([Problem("seed", "too small", "k")]), 400),
        (429, QueueFull(), 429),
        (504, Failed("request_timeout", "not yet"), 504),
    ],
    ids=brief,
)
def test_the_code_of_an_error_is_its_status(status: int, error: Any, told: int) -> None:
    refusal = siraya.refusal(status, error)

    assert (refusal.status, refusal.body["error"]["code"], refusal.body["statusCode"]) == (told, told, told)
