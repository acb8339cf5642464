"""The farm's own dialect: each field's effect or refusal, and the answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from farm.dialects import native
from farm.domain.errors import InvalidRequest, NotFound, Problem
from farm.domain.job import State, Webhook
from tests.unit.dialects.endpoints import FOX, HOOK, Endpoint, of
from tests.unit.dialects.samples import BASE, CREATED_US, JOB_ID, LINKS, a_job, a_request, a_result


@pytest.mark.parametrize(
    ("names", "states"),
    [
        (None, set(State)),
        (["job.failed"], {State.FAILED}),
        (["job.created", "job.completed", "job.created"], {State.CREATED, State.COMPLETED}),
    ],
)
@pytest.mark.parametrize("endpoint", of(["native"]), ids=str)
def test_a_webhook_has_the_requested_events(endpoint: Endpoint, names: list[str] | None, states: set[State]) -> None:
    read = endpoint.read({"webhook_url": HOOK, "webhook_events": names})

    assert read == endpoint.expected({"webhook": Webhook(HOOK, frozenset(states))})


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
def test_notes_of_a_job_are_returned_before_its_result(state: State) -> None:
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


def test_an_inline_job_contains_its_image_only_in_its_own_view() -> None:
    """Lists, events and webhooks name its URL: there would be too much of it."""
    job = a_job(State.COMPLETED, inline=True)
    assert job.result is not None
    (image,) = job.result.images

    (result,) = native.view(job, LINKS)["images"]
    (shown,) = native.view(job, LINKS, inline=True)["images"]

    assert result["url"] == LINKS.file(image.key)
    assert shown == result | {"url": LINKS.data(image)}
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
