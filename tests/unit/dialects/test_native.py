"""The farm's own dialect: each field's effect or refusal, and what a caller is shown."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any, get_args

import pytest

from farm.dialects import native
from farm.dialects.fields import Preset
from farm.domain.catalogue import MODELS
from farm.domain.errors import InvalidRequest, NotFound, Problem
from farm.domain.job import Order, Source, State, Webhook
from farm.domain.request import Request
from tests.unit.dialects.samples import BASE, CREATED_US, JOB_ID, LINKS, a_job, a_request, a_result

SPARE = 1_234_567
SRPO, IMAGE, TEXT, EDIT, MULTI = "srpo", "srpo-image-to-image", "kontext-text-to-image", "kontext", "kontext-multi"
SRPOS, KONTEXTS, ALL = (SRPO, IMAGE), (TEXT, EDIT, MULTI), tuple(native.INPUTS)
FOX, OWL, DATA = "https://example.com/fox.png", "https://example.com/owl.png", "data:image/png;base64,iVBORw0KGgo="

#: By model: what must be sent beside the prompt, and what then is asked for.
LEAST: dict[str, dict[str, Any]] = {
    SRPO: {},
    IMAGE: {"image_url": FOX},
    TEXT: {},
    EDIT: {"image_url": FOX},
    MULTI: {"image_urls": [FOX, OWL]},
}
DEFAULT = Request(model=SRPO, prompt="a fox", width=1024, height=768, steps=28, guidance=4.5, seed=SPARE)
SQUARE = {"width": 1024, "height": 1024}
CHANGES: dict[str, dict[str, Any]] = {
    SRPO: {},
    IMAGE: SQUARE | {"sizing": "input", "steps": 40, "strength": 0.95},
    TEXT: SQUARE | {"guidance": 3.5},
    EDIT: SQUARE | {"guidance": 3.5, "sizing": "ratio"},
    MULTI: SQUARE | {"guidance": 3.5, "sizing": "ratio"},
}
SOURCES: dict[str, tuple[Source, ...]] = {
    SRPO: (),
    IMAGE: (Source("image_url", FOX),),
    TEXT: (),
    EDIT: (Source("image_url", FOX),),
    MULTI: (Source("image_urls.0", FOX), Source("image_urls.1", OWL)),
}


def read(model: str = SRPO, /, **fields: Any) -> Order:
    return native.read({"model": model, "prompt": "a fox"} | LEAST[model] | fields, model=model, default_seed=SPARE)


def ordered(model: str = SRPO, **changes: Any) -> Order:
    """What the least that is sent asks for, with these changes of its request."""
    sources = changes.pop("sources", SOURCES[model])
    return Order(model, DEFAULT.model_copy(update={"model": model} | CHANGES[model] | changes), sources=sources)


def refused(model: str = SRPO, /, **fields: Any) -> list[Problem]:
    """What is wrong with these fields."""
    with pytest.raises(InvalidRequest) as caught:
        read(model, **fields)
    return caught.value.problems


def size(width: int, height: int) -> dict[str, int]:
    return {"width": width, "height": height}


#: Models, field, what is sent, what changes in the request, or which sources it names.
TAKEN: list[tuple[tuple[str, ...], str, Any, dict[str, Any]]] = [
    (ALL, "prompt", "🦊", {"prompt": "🦊"}),
    (ALL, "prompt", "a" * 4000, {"prompt": "a" * 4000}),
    ((SRPO,), "image_size", "square_hd", size(1024, 1024)),
    ((SRPO,), "image_size", "square", size(512, 512)),
    ((SRPO,), "image_size", "portrait_4_3", size(768, 1024)),
    ((SRPO,), "image_size", "portrait_16_9", size(576, 1024)),
    ((SRPO,), "image_size", "landscape_4_3", size(1024, 768)),
    ((SRPO,), "image_size", "landscape_16_9", size(1024, 576)),
    ((SRPO,), "image_size", size(256, 2560), size(256, 2560)),
    ((SRPO,), "image_size", size(301, 299), size(301, 299)),
    ((SRPO,), "image_size", {"width": 300}, size(300, 512)),
    ((SRPO,), "image_size", {"height": 300}, size(512, 300)),
    ((SRPO,), "image_size", {}, size(512, 512)),
    ((SRPO,), "image_size", {"width": 300.0, "height": 400.0}, size(300, 400)),
    ((SRPO,), "image_size", size(2560, 1093), size(2560, 1093)),
    ((SRPO,), "num_inference_steps", 1, {"steps": 1}),
    ((SRPO,), "num_inference_steps", 50, {"steps": 50}),
    ((SRPO,), "num_inference_steps", 2.0, {"steps": 2}),
    (ALL, "seed", 0, {"seed": 0}),
    (ALL, "seed", 2**32 - 1, {"seed": 2**32 - 1}),
    (ALL, "seed", 5.0, {"seed": 5}),
    (ALL, "seed", None, {}),
    (ALL, "guidance_scale", 1, {"guidance": 1.0}),
    (ALL, "guidance_scale", 20, {"guidance": 20.0}),
    (ALL, "guidance_scale", 3.14, {"guidance": 3.14}),
    (ALL, "num_images", 1, {}),
    (ALL, "num_images", 4, {"images": 4}),
    (ALL, "num_images", 4.0, {"images": 4}),
    (SRPOS, "enable_safety_checker", True, {}),
    (SRPOS, "enable_safety_checker", False, {"safety": False}),
    (ALL, "output_format", "jpeg", {}),
    (ALL, "output_format", "png", {"output_format": "png"}),
    (SRPOS, "acceleration", "none", {}),
    (SRPOS, "acceleration", "regular", {"acceleration": "regular"}),
    (SRPOS, "acceleration", "high", {"acceleration": "high"}),
    (ALL, "enhance_prompt", False, {}),
    (ALL, "enhance_prompt", True, {"enhance": True}),
    ((IMAGE,), "num_inference_steps", 10, {"steps": 10}),
    ((IMAGE,), "num_inference_steps", 50, {"steps": 50}),
    ((IMAGE,), "strength", 0.01, {"strength": 0.01}),
    ((IMAGE,), "strength", 1, {"strength": 1.0}),
    ((IMAGE, EDIT), "image_url", DATA, {"sources": (Source("image_url", DATA),)}),
    ((MULTI,), "image_urls", [OWL], {"sources": (Source("image_urls.0", OWL),)}),
    ((MULTI,), "image_urls", [OWL] * 4, {"sources": tuple(Source(f"image_urls.{n}", OWL) for n in range(4))}),
    (KONTEXTS, "safety_tolerance", "1", {"safety_tolerance": 1}),
    (KONTEXTS, "safety_tolerance", "6", {"safety_tolerance": 6}),
    (KONTEXTS, "safety_tolerance", 5, {"safety_tolerance": 5}),
    (KONTEXTS, "aspect_ratio", "1:1", {"sizing": "asked"}),
    (KONTEXTS, "aspect_ratio", "21:9", size(1568, 672) | {"sizing": "asked"}),
    (KONTEXTS, "aspect_ratio", "9:16", size(752, 1392) | {"sizing": "asked"}),
    ((EDIT, MULTI), "aspect_ratio", None, {}),
]

#: Models, field, what is sent, the name that the refusal must give.
REFUSED: list[tuple[tuple[str, ...], str, Any, str]] = [
    (ALL, "model", None, "model"),
    (ALL, "model", 5, "model"),
    (ALL, "prompt", "", "prompt"),
    (ALL, "prompt", "a" * 4001, "prompt"),
    (ALL, "prompt", "a" * 5000, "prompt"),
    (ALL, "prompt", 5, "prompt"),
    (ALL, "prompt", None, "prompt"),
    (ALL, "prompt", ["a fox"], "prompt"),
    (ALL, "prompt", "\ud800", "prompt"),
    ((SRPO,), "image_size", "huge", "image_size"),
    ((SRPO,), "image_size", "1024x768", "image_size"),
    ((SRPO,), "image_size", None, "image_size"),
    ((SRPO,), "image_size", [1024, 768], "image_size"),
    ((SRPO,), "image_size", size(255, 256), "image_size.width"),
    ((SRPO,), "image_size", size(256, 255), "image_size.height"),
    ((SRPO,), "image_size", size(2561, 256), "image_size.width"),
    ((SRPO,), "image_size", size(256, 2561), "image_size.height"),
    ((SRPO,), "image_size", {"width": 300.5}, "image_size.width"),
    ((SRPO,), "image_size", {"width": "300"}, "image_size.width"),
    ((SRPO,), "image_size", {"width": True}, "image_size.width"),
    ((SRPO,), "image_size", {"width": None}, "image_size.width"),
    ((SRPO,), "image_size", {"width": 300, "depth": 3}, "image_size.depth"),
    ((SRPO,), "image_size", size(2560, 1094), "image_size"),
    ((SRPO,), "image_size", size(1674, 1674), "image_size"),
    ((SRPO,), "num_inference_steps", 0, "num_inference_steps"),
    ((SRPO,), "num_inference_steps", 51, "num_inference_steps"),
    ((SRPO,), "num_inference_steps", None, "num_inference_steps"),
    (ALL, "seed", -1, "seed"),
    (ALL, "seed", 2**32, "seed"),
    (ALL, "seed", 10**300, "seed"),
    (ALL, "seed", 1e300, "seed"),
    (ALL, "guidance_scale", 0.99, "guidance_scale"),
    (ALL, "guidance_scale", 20.01, "guidance_scale"),
    (ALL, "guidance_scale", "4.5", "guidance_scale"),
    (ALL, "guidance_scale", True, "guidance_scale"),
    (ALL, "guidance_scale", float("nan"), "guidance_scale"),
    (ALL, "guidance_scale", float("inf"), "guidance_scale"),
    (ALL, "guidance_scale", 10**400, "guidance_scale"),
    (ALL, "num_images", 0, "num_images"),
    (ALL, "num_images", 5, "num_images"),
    (SRPOS, "enable_safety_checker", 1, "enable_safety_checker"),
    (SRPOS, "enable_safety_checker", "false", "enable_safety_checker"),
    (SRPOS, "enable_safety_checker", None, "enable_safety_checker"),
    (ALL, "output_format", "webp", "output_format"),
    (ALL, "output_format", "JPEG", "output_format"),
    (SRPOS, "acceleration", "fast", "acceleration"),
    (ALL, "priority", "high", "priority"),
    (ALL, "priority", 1, "priority"),
    (ALL, "webhook_url", "", "webhook_url"),
    (ALL, "webhook_url", 1, "webhook_url"),
    (ALL, "webhook_events", [], "webhook_events"),
    (ALL, "webhook_events", ["job.cancelled"], "webhook_events.0"),
    (ALL, "webhook_events", "job.failed", "webhook_events"),
    (ALL, "sync_mode", 1, "sync_mode"),
    (ALL, "sync_mode", "true", "sync_mode"),
    (ALL, "enhance_prompt", "true", "enhance_prompt"),
    (ALL, "enhance_prompt", None, "enhance_prompt"),
    ((IMAGE,), "num_inference_steps", 9, "num_inference_steps"),
    ((IMAGE,), "num_inference_steps", 51, "num_inference_steps"),
    ((IMAGE,), "strength", 0, "strength"),
    ((IMAGE,), "strength", 1.01, "strength"),
    ((IMAGE,), "strength", "0.5", "strength"),
    ((IMAGE,), "strength", None, "strength"),
    ((IMAGE, EDIT), "image_url", "", "image_url"),
    ((IMAGE, EDIT), "image_url", None, "image_url"),
    ((IMAGE, EDIT), "image_url", [FOX], "image_url"),
    ((IMAGE, *KONTEXTS), "image_size", "square", "image_size"),
    ((MULTI,), "image_urls", [], "image_urls"),
    ((MULTI,), "image_urls", [FOX] * 5, "image_urls"),
    ((MULTI,), "image_urls", FOX, "image_urls"),
    ((MULTI,), "image_urls", [FOX, ""], "image_urls.1"),
    ((MULTI,), "image_urls", [FOX, 5], "image_urls.1"),
    (KONTEXTS, "safety_tolerance", "0", "safety_tolerance"),
    (KONTEXTS, "safety_tolerance", 7, "safety_tolerance"),
    (KONTEXTS, "safety_tolerance", True, "safety_tolerance"),
    (KONTEXTS, "aspect_ratio", "5:4", "aspect_ratio"),
    (KONTEXTS, "aspect_ratio", 1, "aspect_ratio"),
    ((TEXT,), "aspect_ratio", None, "aspect_ratio"),
    (KONTEXTS, "num_inference_steps", 28, "num_inference_steps"),
    (KONTEXTS, "enable_safety_checker", True, "enable_safety_checker"),
    (KONTEXTS, "acceleration", "none", "acceleration"),
    ((SRPO, TEXT, EDIT, MULTI), "strength", 0.5, "strength"),
    ((SRPO, TEXT, MULTI), "image_url", FOX, "image_url"),
    ((SRPO, IMAGE, TEXT, EDIT), "image_urls", [FOX], "image_urls"),
    (SRPOS, "aspect_ratio", "1:1", "aspect_ratio"),
    (SRPOS, "safety_tolerance", "2", "safety_tolerance"),
    (ALL, "enhance_prompt", 1, "enhance_prompt"),
    (ALL, "num_image", 2, "num_image"),
    (ALL, "negative_prompt", "a dog", "negative_prompt"),
    (ALL, "\ud800", 1, ""),
]

#: What is said of the job rather than of its images, or of the answer; tried by tests of their own.
OF_THE_JOB = {"model", "priority", "webhook_url", "webhook_events", "sync_mode"}
#: (model, field) of every field there is.
FIELDS = [(model, field) for model in ALL for field in native.INPUTS[model].model_fields]
WHOLE = [(model, field) for model, field in FIELDS if field in ("num_inference_steps", "seed", "num_images")]


def brief(value: object) -> str:
    return repr(value)[:40]


@pytest.mark.parametrize("model", ALL)
def test_the_defaults_are_those_of_the_contract(model: str) -> None:
    assert read(model) == ordered(model)


@pytest.mark.parametrize("model", ALL)
def test_the_model_is_shown_as_the_caller_named_it(model: str) -> None:
    assert read(model, model="any id").endpoint == "any id"


@pytest.mark.parametrize(
    ("model", "field", "sent", "changes"), [(model, *case) for models, *case in TAKEN for model in models], ids=brief
)
def test_a_field_has_its_effect_and_no_other(model: str, field: str, sent: object, changes: dict[str, Any]) -> None:
    assert read(model, **{field: sent}) == ordered(model, **changes)


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize("priority", ["normal", "low"])
def test_the_priority_goes_with_the_job(model: str, priority: Any) -> None:
    assert read(model, priority=priority) == replace(ordered(model), priority=priority)


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize("sent", [False, True])
def test_sync_mode_has_the_images_sent_with_the_answer(model: str, sent: bool) -> None:
    assert read(model, sync_mode=sent) == replace(ordered(model), inline=sent)


@pytest.mark.parametrize(
    ("names", "states"),
    [
        (None, set(State)),
        (["job.failed"], {State.FAILED}),
        (["job.created", "job.completed", "job.created"], {State.CREATED, State.COMPLETED}),
    ],
)
@pytest.mark.parametrize("model", ALL)
def test_a_webhook_is_told_of_the_events_that_were_asked_for(
    model: str, names: list[str] | None, states: set[State]
) -> None:
    order = read(model, webhook_url="https://hook.example/x", webhook_events=names)

    assert order == replace(ordered(model), webhook=Webhook("https://hook.example/x", frozenset(states)))


@pytest.mark.parametrize("model", ALL)
def test_events_without_a_webhook_are_refused(model: str) -> None:
    assert [problem.field for problem in refused(model, webhook_events=["job.failed"])] == ["webhook_url"]


@pytest.mark.parametrize(
    ("model", "field", "sent", "named"), [(model, *case) for models, *case in REFUSED for model in models], ids=brief
)
def test_what_cannot_be_honoured_is_refused_by_name(model: str, field: str, sent: object, named: str) -> None:
    assert [problem.field for problem in refused(model, **{field: sent})] == [named]


@pytest.mark.parametrize(("model", "field"), WHOLE)
@pytest.mark.parametrize("sent", [2.5, "2", True, [2], {}])
def test_a_whole_number_is_nothing_else(model: str, field: str, sent: object) -> None:
    assert [problem.field for problem in refused(model, **{field: sent})] == [field]


@pytest.mark.parametrize(("model", "field"), FIELDS)
def test_every_field_of_every_schema_is_tried_here(model: str, field: str) -> None:
    """A new field fails here until its effect and its refusal stand in the tables above."""
    effects = {field for models, field, _, changes in TAKEN if model in models and changes}

    assert field in effects | OF_THE_JOB
    assert field in {field for models, field, _, _ in REFUSED if model in models}


def test_every_model_of_the_catalogue_is_taken() -> None:
    assert list(native.INPUTS) == [model.name for model in MODELS]


def test_every_preset_is_tried_here() -> None:
    presets = {sent for _, field, sent, _ in TAKEN if field == "image_size" and isinstance(sent, str)}

    assert presets == set(get_args(Preset))


@pytest.mark.parametrize(("model", "field"), [(IMAGE, "image_url"), (EDIT, "image_url"), (MULTI, "image_urls")])
def test_a_missing_image_is_named(model: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        native.read({"model": model, "prompt": "a fox"}, model=model, default_seed=SPARE)

    assert [(problem.field, problem.kind) for problem in caught.value.problems] == [(field, "missing")]


def test_a_missing_prompt_is_named() -> None:
    with pytest.raises(InvalidRequest) as caught:
        native.read({"model": "srpo"}, model="srpo", default_seed=SPARE)

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
        ("enhance_prompt", "on", '"on"', "boolean"),
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
    view: Any = native.view(a_job(state), LINKS)

    assert set(view) == set(native.view(a_job(), LINKS))
    assert all(isinstance(view[field], kind) for field, kind in SHOWN.items())
    assert json.loads(json.dumps(view)) == view


def test_a_waiting_job() -> None:
    view = native.view(a_job(endpoint="flux/srpo"), LINKS)

    assert (view["id"], view["model"], view["status"], view["seed"]) == (JOB_ID, "flux/srpo", "created", 7)
    assert (view["images"], view["timings"], view["progress"]) == ([], {}, {"step": 0, "steps": 4})
    assert (view["created_at"], view["started_at"]) == ("2026-01-02T03:04:05.678901Z", None)
    assert (view["code"], view["error"], view["finished_at"]) == (None, None, None)
    assert (view["original_prompt"], view["inputs"], view["strength"], view["warnings"]) == (None, [], None, [])


def test_a_job_with_images_names_them_by_their_urls() -> None:
    """The caller's, or where the farm keeps what came without one."""
    request = a_request(sources=(FOX, "a-input-1-b.png"), inputs=("a-input-2-c.png",), strength=0.5, steps=4)
    view = native.view(a_job(State.PROCESSING, request=request), LINKS)

    assert view["inputs"] == [FOX, f"{BASE}/files/a-input-1-b.png"]
    assert (view["strength"], view["progress"]) == (0.5, {"step": 2, "steps": 2})


def test_a_rewritten_prompt_is_shown_beside_the_callers_own() -> None:
    request = a_request(prompt="a red fox in fresh snow", original_prompt="a fox")
    view = native.view(a_job(request=request), LINKS)

    assert (view["prompt"], view["original_prompt"]) == ("a red fox in fresh snow", "a fox")


@pytest.mark.parametrize("state", [State.CREATED, State.FAILED])
def test_what_was_noted_on_the_way_is_told_without_a_result(state: State) -> None:
    view = native.view(a_job(state, request=a_request(notes=("The image was made smaller.",))), LINKS)

    assert view["warnings"] == ["The image was made smaller."]


def test_a_running_job_shows_its_step() -> None:
    view = native.view(a_job(State.PROCESSING), LINKS)

    assert (view["status"], view["progress"]) == ("processing", {"step": 2, "steps": 4})
    assert view["started_at"] == "2026-01-02T03:04:06.678901Z"


def test_a_completed_job_shows_its_images() -> None:
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


def test_an_inline_job_shows_the_image_itself_to_who_asks_for_it_alone() -> None:
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
