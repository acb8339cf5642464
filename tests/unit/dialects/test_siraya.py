"""Siraya's dialect: each field's effect or refusal, its answers and its errors."""

from __future__ import annotations

from typing import Any

import pytest

from farm.dialects import siraya
from farm.dialects.openai_common import Failed, ParsedCall
from farm.domain.errors import InvalidRequest, Problem, QueueFull, Unauthorized
from farm.domain.job import State
from tests.unit.dialects import golden
from tests.unit.dialects.endpoints import DEFAULT_SEED, ENDPOINTS, brief
from tests.unit.dialects.samples import BASE, CREATED_US, LINKS, a_job, a_request, a_result

PAGE = golden.load("siraya-flux-1-srpo")
REQUEST = ENDPOINTS["siraya srpo"].request
MODEL = "flux-1-srpo-text-to-image"


def read(**sent: Any) -> ParsedCall:
    return siraya.generation({"model": MODEL, "prompt": "a fox"} | sent, default_seed=DEFAULT_SEED)


def test_the_pages_own_curl_is_taken() -> None:
    request = siraya.generation(PAGE["curl"], default_seed=DEFAULT_SEED).order.request

    assert request == REQUEST.model_copy(update={"prompt": PAGE["curl"]["prompt"]})


def test_the_pages_minimal_call_is_taken() -> None:
    asked = siraya.generation(PAGE["minimal"], default_seed=DEFAULT_SEED)

    assert asked.order.request == REQUEST.model_copy(update={"prompt": PAGE["minimal"]["prompt"]})


def test_the_pages_own_defaults_hold() -> None:
    assert read(**PAGE["defaults"]).order.request == read().order.request


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


def test_a_rewritten_prompt_is_returned() -> None:
    job = a_job(State.COMPLETED, request=a_request(prompt="a fox in the snow", original_prompt="a fox"))

    (item,) = siraya.answer(job, a_result(), "b64_json", LINKS)["data"]

    assert item["revised_prompt"] == "a fox in the snow"
    assert set(item) == {"b64_json", "revised_prompt"}


def test_an_error_has_the_pages_shape() -> None:
    error_response = siraya.error_response(401, Unauthorized("Invalid API Key"))

    assert (error_response.status, error_response.body["error"]) == (401, PAGE["error"]["error"])


@pytest.mark.parametrize(
    ("status", "error", "result"),
    [
        (422, InvalidRequest([Problem("seed", "too small", "k")]), 400),
        (429, QueueFull(), 429),
        (504, Failed("request_timeout", "not yet"), 504),
    ],
    ids=brief,
)
def test_the_code_of_an_error_is_its_status(status: int, error: Any, result: int) -> None:
    error_response = siraya.error_response(status, error)

    assert (error_response.status, error_response.body["error"]["code"], error_response.body["statusCode"]) == (
        result,
        result,
        result,
    )
