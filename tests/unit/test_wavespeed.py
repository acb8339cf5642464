"""WaveSpeed's dialect: each field's effect or refusal, its predictions and its error numbers."""

from __future__ import annotations

import json
from functools import reduce
from typing import Any

import pytest

from farm.dialects import wavespeed
from farm.errors import (
    FarmError,
    IdempotencyConflict,
    InvalidRequest,
    NotFound,
    Problem,
    QueueFull,
    StoreUnavailable,
)
from farm.job import State
from farm.request import Request
from tests.unit import golden
from tests.unit.samples import CREATED_US, JOB_ID, a_job, a_result

BASE = "https://farm.example"
SPARE = 1_234_567
DEFAULT = Request(model="srpo", prompt="a fox", width=1024, height=1024, steps=28, guidance=3.5, seed=SPARE)
PAGE = golden.load("wavespeed-flux-srpo")
JSON_KINDS = {"integer": int, "string": str, "array": list, "object": dict}


def read(**fields: Any) -> Request:
    return wavespeed.read({"prompt": "a fox"} | fields, model="srpo", spare_seed=SPARE)


def refused(**fields: Any) -> list[Problem]:
    """What is wrong with these fields."""
    with pytest.raises(InvalidRequest) as caught:
        read(**fields)
    return caught.value.problems


def size(width: int, height: int) -> dict[str, int]:
    return {"width": width, "height": height}


#: What is sent, what changes in the request.
TAKEN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"prompt": "a" * 4000}, {"prompt": "a" * 4000}),
    ({"size": "256*1536"}, size(256, 1536)),
    ({"size": "1536*256"}, size(1536, 256)),
    ({"size": "301*299"}, size(301, 299)),
    ({"size": None}, {}),
    ({"width": 300}, size(300, 1024)),
    ({"height": 300}, size(1024, 300)),
    ({"width": 256, "height": 1536}, size(256, 1536)),
    ({"width": 300.0, "height": 400.0}, size(300, 400)),
    ({"size": "300*400", "width": 300, "height": 400}, size(300, 400)),
    ({"size": "300*400", "width": 300}, size(300, 400)),
    ({"size": "300*400", "height": 400}, size(300, 400)),
    ({"strength": 0}, {}),
    ({"strength": 0.8}, {}),
    ({"strength": 1}, {}),
    ({"num_inference_steps": 1}, {"steps": 1}),
    ({"num_inference_steps": 50}, {"steps": 50}),
    ({"num_inference_steps": 2.0}, {"steps": 2}),
    ({"seed": -1}, {}),
    ({"seed": 0}, {"seed": 0}),
    ({"seed": 2**31 - 1}, {"seed": 2**31 - 1}),
    ({"seed": 5.0}, {"seed": 5}),
    ({"guidance_scale": 1}, {"guidance": 1.0}),
    ({"guidance_scale": 20}, {"guidance": 20.0}),
    ({"guidance_scale": 3.14}, {"guidance": 3.14}),
    ({"output_format": "jpeg"}, {}),
    ({"output_format": "png"}, {"output_format": "png"}),
    ({"enable_base64_output": False}, {}),
    ({"enable_sync_mode": False}, {}),
    ({"enhance_prompt": False}, {}),
]

#: What is sent, the name that the refusal must give.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": "a" * 5000}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": "\ud800"}, "prompt"),
    ({"size": "255*256"}, "size"),
    ({"size": "256*255"}, "size"),
    ({"size": "1537*256"}, "size"),
    ({"size": "256*1537"}, "size"),
    ({"size": "99999999999*256"}, "size"),
    ({"size": "1024x1024"}, "size"),
    ({"size": "1024"}, "size"),
    ({"size": "1024*"}, "size"),
    ({"size": "1024*1024*3"}, "size"),
    ({"size": " 1024*1024"}, "size"),
    ({"size": "1024.0*1024"}, "size"),
    ({"size": "-300*300"}, "size"),
    ({"size": ""}, "size"),
    ({"size": 1024}, "size"),
    ({"size": {"width": 300, "height": 300}}, "size"),
    ({"size": "300*400", "width": 400, "height": 300}, "size"),
    ({"size": "300*400", "width": 301}, "size"),
    ({"size": "300*400", "height": 401}, "size"),
    ({"width": 255}, "width"),
    ({"width": 1537}, "width"),
    ({"height": 255}, "height"),
    ({"height": 1537}, "height"),
    ({"strength": -0.01}, "strength"),
    ({"strength": 1.01}, "strength"),
    ({"strength": "0.8"}, "strength"),
    ({"strength": True}, "strength"),
    ({"strength": float("nan")}, "strength"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"num_inference_steps": 51}, "num_inference_steps"),
    ({"seed": -2}, "seed"),
    ({"seed": 2**31}, "seed"),
    ({"seed": None}, "seed"),
    ({"guidance_scale": 0.99}, "guidance_scale"),
    ({"guidance_scale": 20.01}, "guidance_scale"),
    ({"guidance_scale": float("inf")}, "guidance_scale"),
    ({"output_format": "webp"}, "output_format"),
    ({"enable_base64_output": True}, "enable_base64_output"),
    ({"enable_sync_mode": True}, "enable_sync_mode"),
    ({"enhance_prompt": True}, "enhance_prompt"),
    ({"num_images": 2}, "num_images"),
    ({"enable_safety_checker": False}, "enable_safety_checker"),
    ({"image": "https://example.com/a.png"}, "image"),
]


def brief(value: object) -> str:
    return repr(value)[:40]


def test_the_defaults_are_those_of_the_contract() -> None:
    assert read() == DEFAULT


@pytest.mark.parametrize(("sent", "changes"), TAKEN, ids=brief)
def test_a_field_has_its_effect_and_no_other(sent: dict[str, Any], changes: dict[str, Any]) -> None:
    assert read(**sent) == DEFAULT.model_copy(update=changes)


@pytest.mark.parametrize(("sent", "named"), REFUSED, ids=brief)
def test_what_cannot_be_honoured_is_refused_by_name(sent: dict[str, Any], named: str) -> None:
    assert [problem.field for problem in refused(**sent)] == [named]


@pytest.mark.parametrize("field", ["width", "height", "num_inference_steps", "seed"])
@pytest.mark.parametrize("sent", [2.5, "2", True, [2], {}])
def test_a_whole_number_is_nothing_else(field: str, sent: object) -> None:
    assert [problem.field for problem in refused(**{field: sent})] == [field]


@pytest.mark.parametrize("field", wavespeed.TextToImageInput.model_fields)
def test_every_field_of_the_schema_is_tried_here(field: str) -> None:
    """A new field fails here until its effect and its refusal stand in the tables above."""
    assert field in {name for sent, _ in TAKEN for name in sent}
    assert field in {name for sent, _ in REFUSED for name in sent}


def test_what_is_tolerated_without_effect_is_listed() -> None:
    """A field that never changes anything is a switch that can only be off, or stands in the list."""
    effective = {name for sent, changes in TAKEN if changes for name in sent}
    switches = {"enable_base64_output", "enable_sync_mode", "enhance_prompt"}

    assert set(wavespeed.TextToImageInput.model_fields) - effective - switches == set(wavespeed.TOLERATED)


def test_a_wavespeed_picture_is_always_checked() -> None:
    assert read().safety is True


@pytest.mark.parametrize(
    ("sent", "value", "allowed"),
    [
        ({"size": "9*9"}, "9*9", "256–1536"),
        ({"size": "300*400", "width": 301}, "300*400", "one of the two"),
        ({"width": 2000}, "2000", "1536"),
        ({"strength": 1.5}, "1.5", "1"),
        ({"enable_sync_mode": True}, "true", "false"),
        ({"num_images": 2}, "", "num_inference_steps"),
    ],
    ids=brief,
)
def test_a_refusal_tells_the_value_and_what_is_allowed(sent: dict[str, Any], value: str, allowed: str) -> None:
    (problem,) = refused(**sent)

    assert value in problem.message
    assert allowed in problem.message


def test_the_pages_own_example_lacks_the_prompt() -> None:
    with pytest.raises(InvalidRequest) as caught:
        wavespeed.read(PAGE["body"], model="srpo", spare_seed=SPARE)

    body = wavespeed.problem(400, caught.value)
    assert (body["code"], body["data"]["code"]) == (400, 1400)
    assert "prompt" in body["message"]
    assert "prompt" in body["data"]["error"]


def test_the_pages_own_example_with_a_prompt_is_taken() -> None:
    assert read(**PAGE["body"]) == DEFAULT


@pytest.mark.parametrize("state", State)
def test_an_answer_has_the_fields_and_types_of_the_page(state: State) -> None:
    answer = json.loads(json.dumps(wavespeed.envelope(wavespeed.prediction(a_job(state), BASE))))

    assert (answer["code"], answer["message"]) == (200, "success")
    for path, kind in PAGE["answer"].items():
        found: Any = reduce(lambda part, name: part[name], path.split("."), answer)
        assert type(found) is JSON_KINDS[kind], path


@pytest.mark.parametrize("state", State)
def test_a_prediction_has_the_same_fields_in_every_state(state: State) -> None:
    assert set(wavespeed.prediction(a_job(state), BASE)) == set(wavespeed.prediction(a_job(), BASE))


@pytest.mark.parametrize("state", [State.CREATED, State.PROCESSING])
def test_an_unfinished_prediction(state: State) -> None:
    prediction = wavespeed.prediction(a_job(state, endpoint="wavespeed-ai/flux-1-srpo"), BASE)

    assert (prediction["id"], prediction["model"]) == (JOB_ID, "wavespeed-ai/flux-1-srpo")
    assert (prediction["status"], prediction["code"], prediction["error"]) == (state.value, 0, "")
    assert (prediction["outputs"], prediction["has_nsfw_contents"], prediction["timings"]) == ([], [], {"inference": 0})
    assert (prediction["seed"], prediction["created_at"]) == (7, "2026-01-02T03:04:05.678Z")
    assert prediction["urls"] == {"get": f"{BASE}/api/v3/predictions/{JOB_ID}/result"}


def test_a_completed_prediction() -> None:
    result = a_result(flagged=(True,))
    prediction = wavespeed.prediction(a_job(State.COMPLETED, result=result), BASE)

    assert prediction["outputs"] == [f"{BASE}/files/{result.images[0].key}"]
    assert (prediction["status"], prediction["code"], prediction["error"]) == ("completed", 0, "")
    assert prediction["has_nsfw_contents"] == [True]
    assert (prediction["timings"], prediction["executionTime"]) == ({"inference": 1234}, 1234)


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("cancelled", 1403),
        ("render_failed", 1403),
        ("storage_failed", 1403),
        ("safety_check_failed", 1403),
        ("attempts_exhausted", 5000),
        ("internal_error", 5000),
    ],
)
def test_a_failed_prediction_tells_why(code: str, number: int) -> None:
    prediction = wavespeed.prediction(a_job(State.FAILED, code=code, error="It did not work."), BASE)

    assert (prediction["status"], prediction["code"], prediction["error"]) == ("failed", number, "It did not work.")
    assert (prediction["outputs"], prediction["timings"]) == ([], {"inference": 0})


def test_the_time_keeps_its_milliseconds_when_there_are_none() -> None:
    prediction = wavespeed.prediction(a_job(created_us=CREATED_US - CREATED_US % 1_000_000), BASE)

    assert prediction["created_at"] == "2026-01-02T03:04:05.000Z"


@pytest.mark.parametrize(
    ("status", "error", "number"),
    [
        (400, InvalidRequest([Problem("prompt", "required", "missing")]), 1400),
        (400, InvalidRequest([Problem("seed", "too small", "ge")]), 1401),
        (400, InvalidRequest([Problem("prompt", "required", "missing"), Problem("seed", "small", "ge")]), 1401),
        (404, NotFound(), 1401),
        (422, IdempotencyConflict(), 1401),
        (500, FarmError(), 5000),
        (503, StoreUnavailable(), 5003),
    ],
    ids=brief,
)
def test_an_error_bears_the_status_and_wavespeeds_own_number(status: int, error: FarmError, number: int) -> None:
    body = wavespeed.problem(status, error)

    assert (body["code"], body["data"]["code"]) == (status, number)
    assert body["message"] == body["data"]["error"] == str(error)
    assert body["error_code"] == error.code


def test_a_full_queue_is_no_bad_parameter() -> None:
    """1400 and 1401 say that the request is wrong; a caller that believes it never tries again."""
    assert wavespeed.problem(429, QueueFull())["data"]["code"] not in (1400, 1401)
