"""`/api/v3`: WaveSpeed's submit and result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from farm.bootstrap import Farm, build
from farm.settings import Settings
from tests.service import jobs
from tests.service.calls import UNKNOWN_ID, WAVESPEED, gateway_error, post_prediction, submit
from tests.service.jobs import BASE, FACTS
from tests.unit import golden

PAGE = golden.load("wavespeed-flux-srpo")


@pytest.mark.parametrize("model_id", ["wavespeed-ai/flux-srpo", "wavespeed-ai/flux-1-srpo"])
def test_a_submit_is_answered_with_exactly_200(api: FlaskClient, farm: Farm, model_id: str) -> None:
    response = api.post(f"/api/v3/{model_id}", json={"prompt": "a red fox"})

    body = response.get_json()
    assert (response.status_code, body["code"], body["message"]) == (200, 200, "success")
    assert (body["data"]["status"], body["data"]["model"], body["data"]["outputs"]) == ("created", model_id, [])
    job = jobs.record(farm.store, body["data"]["id"])
    assert (job.endpoint, job.request.model, job.request.guidance) == (model_id, "srpo", 3.5)


def test_the_result_is_at_the_url_that_was_told(api: FlaskClient) -> None:
    told = post_prediction(api).get_json()["data"]
    assert told["urls"]["get"] == f"{BASE}/api/v3/predictions/{told['id']}/result"

    response = api.get(told["urls"]["get"].removeprefix(BASE))

    assert (response.status_code, response.get_json()["data"]) == (200, told)
    assert api.get(f"/api/v3/predictions/{told['id']}").get_json() == response.get_json()


def test_a_prediction_completes(api: FlaskClient, farm: Farm) -> None:
    job_id = post_prediction(api).get_json()["data"]["id"]
    job = jobs.take_one(farm.store)
    path = f"/api/v3/predictions/{job_id}/result"
    assert api.get(path).get_json()["data"]["status"] == "processing"

    farm.store.complete(job, jobs.result(job))

    data = api.get(path).get_json()["data"]
    assert (data["status"], data["error"], data["seed"]) == ("completed", "", job.request.seed)
    assert data["outputs"] == [f"{BASE}/files/{jobs.result(job).images[0].key}"]


def test_a_failed_prediction_is_a_good_answer_about_it(api: FlaskClient, farm: Farm) -> None:
    job_id = post_prediction(api).get_json()["data"]["id"]
    farm.store.fail(jobs.take_one(farm.store), "render_failed", "It did not work.")

    response = api.get(f"/api/v3/predictions/{job_id}/result")

    data = response.get_json()["data"]
    assert (response.status_code, response.get_json()["code"]) == (200, 200)
    assert (data["status"], data["code"], data["error"]) == ("failed", 1403, "It did not work.")


def test_a_job_of_another_dialect_is_shown_as_a_prediction(api: FlaskClient) -> None:
    job_id = submit(api)

    assert api.get(f"/api/v3/predictions/{job_id}/result").get_json()["data"]["model"] == "srpo"


def test_the_pages_own_example_is_answered_with_its_missing_prompt(api: FlaskClient) -> None:
    body = gateway_error(api.post(PAGE["path"], json=PAGE["body"]), 400)

    assert body["data"]["code"] == 1400
    assert "prompt" in body["message"]


def test_the_pages_own_example_with_a_prompt_is_accepted(api: FlaskClient) -> None:
    response = api.post(PAGE["path"], json=PAGE["body"] | {"prompt": "a red fox"})

    assert response.status_code == 200


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"size": "9*9"}, "size"), ({"enable_sync_mode": True}, "enable_sync_mode"), ({"num_images": 2}, "num_images")],
)
def test_a_bad_parameter_is_400_by_name(api: FlaskClient, fields: dict[str, Any], named: str) -> None:
    body = gateway_error(post_prediction(api, **fields), 400)

    assert body["data"]["code"] == 1401
    assert named in body["message"]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"prompt=a+fox", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_400(api: FlaskClient, data: bytes) -> None:
    assert gateway_error(api.post(WAVESPEED, data=data), 400)["data"]["code"] == 1401


@pytest.mark.parametrize("path", ["/api/v3/predictions/{}", "/api/v3/predictions/{}/result"])
@pytest.mark.parametrize("job_id", [UNKNOWN_ID, "x"])
def test_an_unknown_prediction_is_404(api: FlaskClient, path: str, job_id: str) -> None:
    gateway_error(api.get(path.format(job_id)), 404)


@pytest.mark.parametrize("model_id", ["wavespeed-ai/sdxl", "srpo", "fal-ai/flux/srpo", "x", "predictions"])
def test_a_model_that_wavespeed_does_not_name_so_is_404(api: FlaskClient, model_id: str) -> None:
    assert gateway_error(api.post(f"/api/v3/{model_id}", json={"prompt": "a"}), 404)["error_code"] == "unknown_model"


def test_a_model_that_is_loaded_nowhere_is_refused_with_what_is_served(api: FlaskClient) -> None:
    body = gateway_error(api.post("/api/v3/wavespeed-ai/flux-srpo-image-to-image", json={"prompt": "a"}), 400)

    assert body["error_code"] == "model_not_served"
    assert "wavespeed-ai/flux-srpo" in body["message"]


def test_a_slash_at_the_end_of_the_model_is_no_matter(api: FlaskClient) -> None:
    """Callers append `?webhook=…` to the model's name, with a slash or without."""
    response = api.post(f"{WAVESPEED}/", json={"prompt": "a fox"})

    assert (response.status_code, response.get_json()["data"]["model"]) == (200, "wavespeed-ai/flux-srpo")


@pytest.mark.parametrize("query", ["webhook=https://example.com/hook", "webhook=", "mode=fast"])
def test_a_parameter_of_the_address_is_refused_by_name(api: FlaskClient, farm: Farm, query: str) -> None:
    body = gateway_error(api.post(f"{WAVESPEED}?{query}", json={"prompt": "a fox"}), 400)

    assert query.partition("=")[0] in body["message"]
    assert jobs.take(farm.store) == ()


def test_without_a_checker_wavespeed_is_refused(open_api: Callable[..., FlaskClient]) -> None:
    """Its pictures are always checked."""
    body = gateway_error(post_prediction(open_api(safety="off")), 400)

    assert "FARM_SAFETY=off" in body["message"]


def test_a_full_queue_says_when_to_come_back(redis_dir: Path, farm: Farm) -> None:
    small = build(Settings(queue_limit=1), redis_dir)
    small.store.renew("w", FACTS, [])
    api = create_app(small, base=BASE, with_keys=False, most_streams=1).test_client()
    post_prediction(api)

    response = post_prediction(api)

    gateway_error(response, 429)
    assert 1 <= int(response.headers["Retry-After"]) <= 60


def test_the_same_key_and_body_is_the_same_prediction(api: FlaskClient, farm: Farm) -> None:
    first, again = (post_prediction(api, headers={"Idempotency-Key": "k"}) for _ in range(2))

    assert first.get_json()["data"]["id"] == again.get_json()["data"]["id"]
    assert len(jobs.take(farm.store)) == 1
    gateway_error(post_prediction(api, headers={"Idempotency-Key": "k"}, seed=8), 422)
