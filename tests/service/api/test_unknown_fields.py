"""Fields that a dialect does not know: refused, or ignored with a warning (`FARM_UNKNOWN_FIELDS`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from farm.bootstrap import Farm
from tests.service.api.calls import EDITS, FAL_QUEUE, FAL_RUN, GENERATIONS, WAVESPEED, post_prediction, refusal
from tests.service.bulk.bulks import BATCHES, create, request
from tests.service.jobstore.jobs import FACTS

IMAGE = "https://a.example/a.png"
#: Each dialect: its path, and its smallest body.
CALLS: list[tuple[str, dict[str, Any], int]] = [
    ("/farm/v1/jobs", {"model": "srpo"}, 422),
    (FAL_QUEUE, {}, 422),
    (FAL_RUN, {}, 422),
    (WAVESPEED, {}, 400),
    (GENERATIONS, {"model": "srpo"}, 400),
    (GENERATIONS, {"model": "flux/srpo"}, 400),
    (GENERATIONS, {"model": "flux-1-srpo-text-to-image"}, 400),
    (EDITS, {"model": "srpo", "image_url": IMAGE}, 400),
]
EVERY_CALL = pytest.mark.parametrize(("path", "minimum", "status"), CALLS)
#: As fal's MCP server and LiteLLM send them, and others.
UNKNOWN = {"negative_prompt": "a dog", "a.b": [1], "loras": None}


@pytest.fixture
def open_with(open_api: Callable[..., FlaskClient], farm: Farm) -> Callable[[str], FlaskClient]:
    def open_one(policy: str) -> FlaskClient:
        settings = farm.settings.model_copy(update={"unknown_fields": policy, "hold_seconds": 0.05})
        api = open_api(settings=settings)
        farm.store.renew("w", FACTS | {"models": "srpo,srpo-image-to-image"}, [])
        return api

    return open_one


def notes(farm: Farm) -> tuple[str, ...]:
    """Return the warnings of the only job."""
    (job,) = farm.store.page("local", before_us=None, count=2)
    return job.request.notes


@EVERY_CALL
def test_they_are_refused_by_name_by_default(
    open_with: Callable[[str], FlaskClient], farm: Farm, path: str, minimum: dict[str, Any], status: int
) -> None:
    message = refusal(open_with("refuse").post(path, json={"prompt": "a fox"} | minimum | UNKNOWN), status, path=path)

    assert [name for name in UNKNOWN if name not in message] == []
    assert farm.store.page("local", before_us=None, count=1) == []


@EVERY_CALL
def test_they_are_ignored_with_a_warning(
    open_with: Callable[[str], FlaskClient], farm: Farm, path: str, minimum: dict[str, Any], status: int
) -> None:
    response = open_with("warn").post(path, json={"prompt": "a fox"} | minimum | UNKNOWN)

    assert response.status_code in (200, 202, 504), response.text
    assert notes(farm) == ("Unknown fields were ignored: negative_prompt, a.b, loras.",)


@EVERY_CALL
def test_a_wrong_value_of_a_known_field_is_still_refused(
    open_with: Callable[[str], FlaskClient], farm: Farm, path: str, minimum: dict[str, Any], status: int
) -> None:
    body = {"prompt": "a fox", "guidance_scale": 0} | minimum | UNKNOWN

    message = refusal(open_with("warn").post(path, json=body), status, path=path)

    assert "guidance_scale" in message
    assert "negative_prompt" not in message
    assert farm.store.page("local", before_us=None, count=1) == []


def test_a_part_of_a_field_is_ignored_too(open_with: Callable[[str], FlaskClient], farm: Farm) -> None:
    api = open_with("warn")

    api.post(FAL_QUEUE, json={"prompt": "a fox", "image_size": {"width": 300, "height": 400, "depth": 3}})

    (job,) = farm.store.page("local", before_us=None, count=2)
    request = job.request
    assert (request.width, request.height) == (300, 400)
    assert request.notes == ("Unknown fields were ignored: image_size.depth.",)


def test_a_warning_names_the_first_of_very_many(open_with: Callable[[str], FlaskClient], farm: Farm) -> None:
    many = {f"field{number}" + "x" * 200: number for number in range(90)}

    assert open_with("warn").post(FAL_QUEUE, json={"prompt": "a fox"} | many).status_code == 200

    (note,) = notes(farm)
    assert note.endswith("… and 70 more.")
    assert len(note) < 2000


def test_an_unknown_parameter_of_the_address_is_still_refused(open_with: Callable[[str], FlaskClient]) -> None:
    response = open_with("warn").post(f"{WAVESPEED}?color=red", json={"prompt": "a fox"} | UNKNOWN)

    assert "color" in refusal(response, 400, path=WAVESPEED)


@pytest.mark.parametrize("path", ["/predictions/{job_id}", "/predictions/{job_id}/result", "/webhook/secret"])
def test_wavespeeds_reads_refuse_unknown_parameters(api: FlaskClient, path: str) -> None:
    job_id = post_prediction(api).get_json()["data"]["id"]
    url = "/api/v3" + path.format(job_id=job_id)

    assert api.get(url).status_code == 200
    assert "include_inputs: unknown parameter" in refusal(api.get(f"{url}?include_inputs=true"), 400, path=url)


@pytest.mark.parametrize("path", ["/fal/rest/storage/auth/token", "/fal/cdn/files/upload/multipart"])
def test_fals_calls_that_take_no_fields_refuse_them(api: FlaskClient, path: str) -> None:
    assert "seconds: unknown field" in refusal(api.post(path, json={"seconds": 60}), 422, path=path)
    assert api.post(path, json={}).status_code == 200


def test_a_batch_is_not_cancelled_by_a_call_with_fields(api: FlaskClient) -> None:
    url = f"{BATCHES}/{create(api, request(1))}/cancel"

    assert "reason: unknown field" in refusal(api.post(url, json={"reason": "late"}), 400, path=url)
    assert api.post(url, json={}).get_json()["status"] == "cancelling"
