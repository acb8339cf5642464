"""The farm's own dialect: each field's effect or refusal, and what a caller is shown."""

from __future__ import annotations

import base64
import json
from typing import Any, get_args

import pytest

from farm.dialects import native
from farm.dialects.fields import Preset
from farm.errors import InvalidRequest, NotFound, Problem
from farm.job import Order, State, Webhook
from farm.request import Request
from tests.unit.samples import BASE, CREATED_US, JOB_ID, LINKS, a_job, a_request, a_result

SPARE = 1_234_567
DEFAULT = Request(model="srpo", prompt="a fox", width=1024, height=768, steps=28, guidance=4.5, seed=SPARE)


def read(**fields: Any) -> Order:
    return native.read({"model": "srpo", "prompt": "a fox"} | fields, model="srpo", spare_seed=SPARE)


def refused(**fields: Any) -> list[Problem]:
    """What is wrong with these fields."""
    with pytest.raises(InvalidRequest) as caught:
        read(**fields)
    return caught.value.problems


def size(width: int, height: int) -> dict[str, int]:
    return {"width": width, "height": height}


#: field, what is sent, what changes in the request.
TAKEN: list[tuple[str, Any, dict[str, Any]]] = [
    ("prompt", "🦊", {"prompt": "🦊"}),
    ("prompt", "a" * 4000, {"prompt": "a" * 4000}),
    ("image_size", "square_hd", size(1024, 1024)),
    ("image_size", "square", size(512, 512)),
    ("image_size", "portrait_4_3", size(768, 1024)),
    ("image_size", "portrait_16_9", size(576, 1024)),
    ("image_size", "landscape_4_3", size(1024, 768)),
    ("image_size", "landscape_16_9", size(1024, 576)),
    ("image_size", size(256, 2560), size(256, 2560)),
    ("image_size", size(301, 299), size(301, 299)),
    ("image_size", {"width": 300}, size(300, 512)),
    ("image_size", {"height": 300}, size(512, 300)),
    ("image_size", {}, size(512, 512)),
    ("image_size", {"width": 300.0, "height": 400.0}, size(300, 400)),
    ("image_size", size(2560, 1093), size(2560, 1093)),
    ("num_inference_steps", 1, {"steps": 1}),
    ("num_inference_steps", 50, {"steps": 50}),
    ("num_inference_steps", 2.0, {"steps": 2}),
    ("seed", 0, {"seed": 0}),
    ("seed", 2**32 - 1, {"seed": 2**32 - 1}),
    ("seed", 5.0, {"seed": 5}),
    ("seed", None, {}),
    ("guidance_scale", 1, {"guidance": 1.0}),
    ("guidance_scale", 20, {"guidance": 20.0}),
    ("guidance_scale", 3.14, {"guidance": 3.14}),
    ("num_images", 1, {}),
    ("num_images", 4, {"images": 4}),
    ("num_images", 4.0, {"images": 4}),
    ("enable_safety_checker", True, {}),
    ("enable_safety_checker", False, {"safety": False}),
    ("output_format", "jpeg", {}),
    ("output_format", "png", {"output_format": "png"}),
    ("acceleration", "none", {}),
    ("acceleration", "regular", {"acceleration": "regular"}),
    ("acceleration", "high", {"acceleration": "high"}),
    ("enhance_prompt", False, {}),
]

#: field, what is sent, the name that the refusal must give.
REFUSED: list[tuple[str, Any, str]] = [
    ("model", None, "model"),
    ("model", 5, "model"),
    ("prompt", "", "prompt"),
    ("prompt", "a" * 4001, "prompt"),
    ("prompt", "a" * 5000, "prompt"),
    ("prompt", 5, "prompt"),
    ("prompt", None, "prompt"),
    ("prompt", ["a fox"], "prompt"),
    ("prompt", "\ud800", "prompt"),
    ("image_size", "huge", "image_size"),
    ("image_size", "1024x768", "image_size"),
    ("image_size", None, "image_size"),
    ("image_size", [1024, 768], "image_size"),
    ("image_size", size(255, 256), "image_size.width"),
    ("image_size", size(256, 255), "image_size.height"),
    ("image_size", size(2561, 256), "image_size.width"),
    ("image_size", size(256, 2561), "image_size.height"),
    ("image_size", {"width": 300.5}, "image_size.width"),
    ("image_size", {"width": "300"}, "image_size.width"),
    ("image_size", {"width": True}, "image_size.width"),
    ("image_size", {"width": None}, "image_size.width"),
    ("image_size", {"width": 300, "depth": 3}, "image_size.depth"),
    ("image_size", size(2560, 1094), "image_size"),
    ("image_size", size(1674, 1674), "image_size"),
    ("num_inference_steps", 0, "num_inference_steps"),
    ("num_inference_steps", 51, "num_inference_steps"),
    ("num_inference_steps", None, "num_inference_steps"),
    ("seed", -1, "seed"),
    ("seed", 2**32, "seed"),
    ("seed", 10**300, "seed"),
    ("seed", 1e300, "seed"),
    ("guidance_scale", 0.99, "guidance_scale"),
    ("guidance_scale", 20.01, "guidance_scale"),
    ("guidance_scale", "4.5", "guidance_scale"),
    ("guidance_scale", True, "guidance_scale"),
    ("guidance_scale", float("nan"), "guidance_scale"),
    ("guidance_scale", float("inf"), "guidance_scale"),
    ("guidance_scale", 10**400, "guidance_scale"),
    ("num_images", 0, "num_images"),
    ("num_images", 5, "num_images"),
    ("enable_safety_checker", 1, "enable_safety_checker"),
    ("enable_safety_checker", "false", "enable_safety_checker"),
    ("enable_safety_checker", None, "enable_safety_checker"),
    ("output_format", "webp", "output_format"),
    ("output_format", "JPEG", "output_format"),
    ("acceleration", "fast", "acceleration"),
    ("priority", "high", "priority"),
    ("priority", 1, "priority"),
    ("webhook_url", "", "webhook_url"),
    ("webhook_url", 1, "webhook_url"),
    ("webhook_events", [], "webhook_events"),
    ("webhook_events", ["job.cancelled"], "webhook_events.0"),
    ("webhook_events", "job.failed", "webhook_events"),
    ("sync_mode", 1, "sync_mode"),
    ("sync_mode", "true", "sync_mode"),
    ("enhance_prompt", True, "enhance_prompt"),
    ("enhance_prompt", 1, "enhance_prompt"),
    ("num_image", 2, "num_image"),
    ("negative_prompt", "a dog", "negative_prompt"),
    ("\ud800", 1, ""),
]

WHOLE = ("num_inference_steps", "seed", "num_images")


def brief(value: object) -> str:
    return repr(value)[:40]


def test_the_defaults_are_those_of_the_contract() -> None:
    assert read() == Order("srpo", DEFAULT)


@pytest.mark.parametrize(("field", "sent", "changes"), TAKEN, ids=brief)
def test_a_field_has_its_effect_and_no_other(field: str, sent: object, changes: dict[str, Any]) -> None:
    assert read(**{field: sent}) == Order("srpo", DEFAULT.model_copy(update=changes))


@pytest.mark.parametrize("priority", ["normal", "low"])
def test_the_priority_goes_with_the_job(priority: Any) -> None:
    assert read(priority=priority) == Order("srpo", DEFAULT, priority)


@pytest.mark.parametrize("sent", [False, True])
def test_sync_mode_has_the_pictures_sent_with_the_answer(sent: bool) -> None:
    assert read(sync_mode=sent) == Order("srpo", DEFAULT, inline=sent)


@pytest.mark.parametrize(
    ("names", "states"),
    [
        (None, set(State)),
        (["job.failed"], {State.FAILED}),
        (["job.created", "job.completed", "job.created"], {State.CREATED, State.COMPLETED}),
    ],
)
def test_a_webhook_is_told_of_the_events_that_were_asked_for(names: list[str] | None, states: set[State]) -> None:
    order = read(webhook_url="https://hook.example/x", webhook_events=names)

    assert order == Order("srpo", DEFAULT, webhook=Webhook("https://hook.example/x", frozenset(states)))


def test_events_without_a_webhook_are_refused() -> None:
    assert [problem.field for problem in refused(webhook_events=["job.failed"])] == ["webhook_url"]


@pytest.mark.parametrize(("field", "sent", "named"), REFUSED, ids=brief)
def test_what_cannot_be_honoured_is_refused_by_name(field: str, sent: object, named: str) -> None:
    assert [problem.field for problem in refused(**{field: sent})] == [named]


@pytest.mark.parametrize("field", WHOLE)
@pytest.mark.parametrize("sent", [2.5, "2", True, [2], {}])
def test_a_whole_number_is_nothing_else(field: str, sent: object) -> None:
    assert [problem.field for problem in refused(**{field: sent})] == [field]


@pytest.mark.parametrize("field", native.SrpoInput.model_fields)
def test_every_field_of_the_schema_is_tried_here(field: str) -> None:
    """A new field fails here until its effect and its refusal stand in the tables above."""
    assert field in {field for field, _, _ in TAKEN} | {
        "model",
        "priority",
        "webhook_url",
        "webhook_events",
        "sync_mode",
    }
    assert field in {field for field, _, _ in REFUSED}


def test_every_preset_is_tried_here() -> None:
    assert set(get_args(Preset)) == {sent for _, sent, _ in TAKEN if isinstance(sent, str) and "_" in sent} | {"square"}


def test_a_missing_prompt_is_named() -> None:
    with pytest.raises(InvalidRequest) as caught:
        native.read({"model": "srpo"}, model="srpo", spare_seed=SPARE)

    assert [(problem.field, problem.kind) for problem in caught.value.problems] == [("prompt", "missing")]


def test_all_that_is_wrong_is_told_at_once() -> None:
    problems = refused(prompt="", num_images=5, guidance_scale=0, seed="x")

    assert {problem.field for problem in problems} == {"prompt", "num_images", "guidance_scale", "seed"}


@pytest.mark.parametrize(
    ("field", "sent", "value", "allowed"),
    [
        ("num_images", 5, "5", "4"),
        ("num_inference_steps", 2.5, "2.5", "integer"),
        ("seed", "2", '"2"', "integer"),
        ("guidance_scale", 20.5, "20.5", "20"),
        ("output_format", "webp", '"webp"', "'jpeg' or 'png'"),
        ("image_size", "huge", '"huge"', "landscape_16_9"),
        ("image_size", {"width": 255}, "255", "256"),
        ("image_size", size(2560, 1094), "2560x1094", "2800000"),
        ("image_size", {"depth": 3}, "", "height, width"),
        ("negative_prompt", "a dog", "", "num_images"),
        ("enhance_prompt", True, "true", "false"),
    ],
    ids=brief,
)
def test_a_refusal_tells_the_value_and_what_is_allowed(field: str, sent: object, value: str, allowed: str) -> None:
    (problem,) = refused(**{field: sent})

    assert value in problem.message
    assert allowed in problem.message


def test_a_refusal_repeats_no_novel() -> None:
    (problem,) = refused(prompt="a" * 5000)

    assert len(problem.message) < 200


def test_an_accepted_job_tells_where_to_look() -> None:
    url = f"{BASE}/farm/v1/jobs/{JOB_ID}"

    assert native.accepted(JOB_ID, BASE) == {
        "id": JOB_ID,
        "status": "created",
        "urls": {"get": url, "cancel": f"{url}/cancel", "events": f"{url}/events"},
    }


#: The contract, section 2.
SHOWN = {
    "id": str,
    "model": str,
    "status": str,
    "code": str | None,
    "error": str | None,
    "progress": dict,
    "images": list,
    "seed": int,
    "has_nsfw_concepts": list,
    "timings": dict,
    "warnings": list,
    "created_at": str,
    "started_at": str | None,
    "finished_at": str | None,
}


@pytest.mark.parametrize("state", State)
def test_a_job_shows_the_same_fields_in_every_state(state: State) -> None:
    view = native.view(a_job(state), LINKS)

    assert set(view) == set(native.view(a_job(), LINKS))
    assert all(isinstance(view[field], kind) for field, kind in SHOWN.items())
    assert json.loads(json.dumps(view)) == view


def test_a_waiting_job() -> None:
    view = native.view(a_job(endpoint="flux/srpo"), LINKS)

    assert (view["id"], view["model"], view["status"], view["seed"]) == (JOB_ID, "flux/srpo", "created", 7)
    assert (view["images"], view["timings"], view["progress"]) == ([], {}, {"step": 0, "steps": 4})
    assert (view["created_at"], view["started_at"]) == ("2026-01-02T03:04:05.678901Z", None)
    assert (view["code"], view["error"], view["finished_at"]) == (None, None, None)


def test_a_running_job_shows_its_step() -> None:
    view = native.view(a_job(State.PROCESSING), LINKS)

    assert (view["status"], view["progress"]) == ("processing", {"step": 2, "steps": 4})
    assert view["started_at"] == "2026-01-02T03:04:06.678901Z"


def test_a_completed_job_shows_its_pictures() -> None:
    result = a_result(images=2, flagged=(False, True), warnings=("long prompt",))
    view = native.view(a_job(State.COMPLETED, request=a_request(images=2), result=result), LINKS)

    assert [image["url"] for image in view["images"]] == [f"{BASE}/files/{image.key}" for image in result.images]
    assert view["images"][0] | {"url": ""} == {
        "url": "",
        "width": 256,
        "height": 256,
        "content_type": "image/jpeg",
        "file_size": 1234,
    }
    assert (view["has_nsfw_concepts"], view["warnings"]) == ([False, True], ["long prompt"])
    assert (view["progress"], view["timings"]["inference"]) == ({"step": 8, "steps": 8}, 1.2345)
    assert (view["code"], view["error"], view["finished_at"]) == (None, None, "2026-01-02T03:04:08.678901Z")


def test_an_inline_job_shows_the_picture_itself_to_who_asks_for_it_alone() -> None:
    """Lists, events and webhooks name its URL: there would be too much of it."""
    job = a_job(State.COMPLETED, inline=True)
    assert job.result is not None
    (image,) = job.result.images

    (told,) = native.view(job, LINKS)["images"]
    (shown,) = native.view(job, LINKS, inline=True)["images"]

    assert told["url"] == LINKS.file(image.key)
    assert shown == told | {"url": LINKS.data(image)}
    assert base64.b64decode(shown["url"].partition("data:image/jpeg;base64,")[2]) == image.key.encode()


def test_a_failed_job_tells_why() -> None:
    view = native.view(a_job(State.FAILED), LINKS)

    assert (view["status"], view["code"], view["error"]) == ("failed", "cancelled", "The job was cancelled.")
    assert view["images"] == []


def test_times_are_utc_to_the_microsecond() -> None:
    view = native.view(a_job(created_us=CREATED_US - CREATED_US % 1_000_000), LINKS)

    assert view["created_at"] == "2026-01-02T03:04:05.000000Z"


def test_a_problem_names_each_wrong_field() -> None:
    error = InvalidRequest([Problem("seed", "too small", "ge", -1), Problem("prompt", "missing", "missing")])

    assert native.problem(422, "Unprocessable Entity", error) == {
        "type": "about:blank",
        "title": "Unprocessable Entity",
        "status": 422,
        "code": "invalid_request",
        "detail": "seed: too small; prompt: missing",
        "errors": [
            {"field": "seed", "message": "too small", "type": "ge"},
            {"field": "prompt", "message": "missing", "type": "missing"},
        ],
    }


def test_any_other_problem_has_no_fields() -> None:
    assert native.problem(404, "Not Found", NotFound("No job.")) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "code": "not_found",
        "detail": "No job.",
    }
