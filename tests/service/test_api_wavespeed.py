"""`/api/v3`: WaveSpeed's submit, held and not, its result, its list and its webhook secret."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from farm.bootstrap import Farm, build
from farm.job import Claimed, Webhook
from farm.jobstore import keys
from farm.settings import Settings
from tests.farms import wait_for
from tests.service import jobs
from tests.service.calls import UNKNOWN_ID, WAVESPEED, bearer, gateway_error, post_prediction, submit
from tests.service.jobs import BASE, FACTS
from tests.unit import golden

PAGE = golden.load("wavespeed-flux-srpo")
LIST = "/api/v3/predictions"


@pytest.fixture
def later() -> Iterator[Callable[..., Future[TestResponse]]]:
    """Makes a call in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit


def impatient(farm: Farm, *, most_held: int = 1) -> FlaskClient:
    """An API that holds calls for a moment only."""
    farm.store.renew("w", FACTS, [])
    hasty = replace(farm, settings=Settings(hold_seconds=0.05))
    return create_app(hasty, base=BASE, with_keys=False, most_streams=1, most_held=most_held).test_client()


def render(farm: Farm, job: Claimed, picture: bytes = b"picture") -> None:
    """Store a picture for `job` and complete it."""
    done = jobs.result(job)
    farm.storage.put(done.images[0].key, picture)
    assert farm.store.complete(job, done)


def listed(api: FlaskClient, **fields: Any) -> tuple[list[str], int]:
    """Ids of a page of the list, and how many there are."""
    response = api.post(LIST, json=fields)
    assert response.status_code == 200, response.text
    data = response.get_json()["data"]
    return [item["id"] for item in data["items"]], data["total"]


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
    [({"size": "9*9"}, "size"), ({"enhance_prompt": True}, "enhance_prompt"), ({"num_images": 2}, "num_images")],
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


@pytest.mark.parametrize("model_id", ["wavespeed-ai/sdxl", "srpo", "fal-ai/flux/srpo", "x"])
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


@pytest.mark.parametrize(
    "query", ["webhook=", "webhook=http://127.0.0.1/", "mode=fast", "webhook=ftp://a.example", "webhook=http://["]
)
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
    api = create_app(small, base=BASE, with_keys=False, most_streams=1, most_held=1).test_client()
    post_prediction(api)

    response = post_prediction(api)

    gateway_error(response, 429)
    assert 1 <= int(response.headers["Retry-After"]) <= 60


def test_the_same_key_and_body_is_the_same_prediction(api: FlaskClient, farm: Farm) -> None:
    first, again = (post_prediction(api, headers={"Idempotency-Key": "k"}) for _ in range(2))

    assert first.get_json()["data"]["id"] == again.get_json()["data"]["id"]
    assert len(jobs.take(farm.store)) == 1
    gateway_error(post_prediction(api, headers={"Idempotency-Key": "k"}, seed=8), 422)


def test_the_list_is_there_with_a_slash_too(api: FlaskClient) -> None:
    assert api.post("/api/v3/predictions/", json={}).get_json() == api.get("/api/v3/predictions").get_json()


def test_another_webhook_is_another_call(api: FlaskClient) -> None:
    """The second one would not be told."""
    headers = {"Idempotency-Key": "k"}
    told = [
        api.post(f"{WAVESPEED}?webhook=https://{host}.example", json={"prompt": "a fox"}, headers=headers)
        for host in ("one", "one", "two")
    ]

    assert told[0].get_json() == told[1].get_json()
    gateway_error(told[2], 422)


@pytest.mark.parametrize(
    "query", ["webhook=https://a.example/hook?x=1&y=2", "webhook=https%3A%2F%2Fa.example%2Fhook%3Fx%3D1%26y%3D2"]
)
def test_a_webhook_is_kept_with_the_job(api: FlaskClient, farm: Farm, query: str) -> None:
    response = api.post(f"{WAVESPEED}?{query}", json={"prompt": "a fox"})

    job = jobs.record(farm.store, response.get_json()["data"]["id"])
    assert (job.dialect, job.webhook) == ("wavespeed", Webhook("https://a.example/hook?x=1&y=2"))


@pytest.mark.parametrize("switch", ["enable_base64_output", "enable_sync_mode"])
def test_a_webhook_with_the_picture_in_the_answer_is_refused(api: FlaskClient, farm: Farm, switch: str) -> None:
    response = api.post(f"{WAVESPEED}?webhook=https://a.example", json={"prompt": "a fox", switch: True})

    body = gateway_error(response, 400)
    assert switch in body["error"]
    assert jobs.take(farm.store) == ()


def test_a_held_call_is_answered_with_the_picture(
    api: FlaskClient, farm: Farm, later: Callable[..., Future[TestResponse]]
) -> None:
    answer = later(post_prediction, api, enable_sync_mode=True)
    (job,) = wait_for(lambda: jobs.take(farm.store))
    assert not answer.done()

    render(farm, job)

    response = answer.result(10)
    data = response.get_json()["data"]
    assert (response.status_code, data["id"], data["status"]) == (200, job.id, "completed")
    assert data["outputs"] == [f"{BASE}/files/{jobs.result(job).images[0].key}"]


def test_a_held_call_is_answered_with_the_failure(
    api: FlaskClient, farm: Farm, later: Callable[..., Future[TestResponse]]
) -> None:
    answer = later(post_prediction, api, enable_sync_mode=True)
    (job,) = wait_for(lambda: jobs.take(farm.store))

    farm.store.fail(job, "render_failed", "It did not work.")

    response = answer.result(10)
    data = response.get_json()["data"]
    assert response.status_code == 200
    assert (data["status"], data["code"], data["error"]) == ("failed", 1403, "It did not work.")


def test_a_call_that_was_held_in_vain_tells_its_id(farm: Farm) -> None:
    api = impatient(farm)
    response = post_prediction(api, enable_sync_mode=True)

    data = response.get_json()["data"]
    assert response.status_code == 200
    assert (data["status"], data["code"], data["outputs"]) == ("processing", 5004, [])
    assert "Sync mode timed out" in data["error"]
    assert api.get(f"{LIST}/{data['id']}/result").get_json()["data"]["status"] == "created"


def test_a_call_that_may_not_be_held_has_no_job(farm: Farm) -> None:
    response = post_prediction(impatient(farm, most_held=0), enable_sync_mode=True)

    assert gateway_error(response, 429)["data"]["code"] == 5003
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert jobs.take(farm.store) == ()


def test_a_place_is_free_again_after_a_call_was_held(farm: Farm) -> None:
    api = impatient(farm, most_held=1)

    assert [post_prediction(api, enable_sync_mode=True).status_code for _ in range(2)] == [200, 200]
    assert post_prediction(api, enable_sync_mode=True, size="9*9").status_code == 400
    assert post_prediction(api, enable_sync_mode=True).status_code == 200


def test_base64_outputs_are_the_stored_bytes(api: FlaskClient, farm: Farm) -> None:
    data = post_prediction(api, enable_base64_output=True).get_json()["data"]
    assert data["outputs"] == []
    render(farm, jobs.take_one(farm.store), b"\x00\xff picture")

    shown = api.get(f"{LIST}/{data['id']}/result").get_json()["data"]

    assert [base64.b64decode(output, validate=True) for output in shown["outputs"]] == [b"\x00\xff picture"]
    assert farm.redis.zscore(keys.EXPIRY, data["id"]) == pytest.approx(
        jobs.record(farm.store, data["id"]).finished_us + 3600e6, abs=1e6
    )


def test_a_base64_picture_that_is_gone_is_a_clear_error(
    api: FlaskClient, farm: Farm, later: Callable[..., Future[TestResponse]]
) -> None:
    answer = later(post_prediction, api, enable_base64_output=True, enable_sync_mode=True)
    (job,) = wait_for(lambda: jobs.take(farm.store))
    farm.store.complete(job, jobs.result(job))

    for response in (answer.result(10), api.get(f"{LIST}/{job.id}/result")):
        error = gateway_error(response, 404)
        assert job.id in error["message"]


def test_the_list_shows_predictions_newest_first(api: FlaskClient, farm: Farm) -> None:
    ids = [submit(api), *(post_prediction(api).get_json()["data"]["id"] for _ in range(4))][::-1]

    answer = api.post(LIST, json={"page": 1, "page_size": 100}).get_json()

    assert (answer["code"], answer["message"], set(answer["data"])) == (200, "success", {"page", "total", "items"})
    assert (answer["data"]["page"], answer["data"]["total"]) == (1, 5)
    assert answer["data"]["items"] == [api.get(f"{LIST}/{job_id}").get_json()["data"] for job_id in ids]
    assert listed(api, page=2, page_size=2) == (ids[2:4], 5)
    assert listed(api, page=3, page_size=2) == (ids[4:], 5)
    assert listed(api, page=4, page_size=2) == ([], 5)


def test_the_list_is_filtered(api: FlaskClient, farm: Farm) -> None:
    native, first, second = submit(api), *(post_prediction(api).get_json()["data"] for _ in range(2))
    api.post(f"/farm/v1/jobs/{first['id']}/cancel")

    assert listed(api, status="failed") == ([first["id"]], 1)
    assert listed(api, model="wavespeed-ai/flux-srpo") == ([second["id"], first["id"]], 2)
    assert listed(api, model="srpo", status="created") == ([native], 1)
    assert first["id"] in listed(api, created_after=first["created_at"], created_before=first["created_at"])[0]
    assert listed(api, created_after="2100-01-01") == listed(api, created_before="2000-01-01") == ([], 0)


def test_the_list_may_be_asked_for_in_the_address(api: FlaskClient) -> None:
    ids = [post_prediction(api).get_json()["data"]["id"] for _ in range(3)]

    for answer in (api.get(f"{LIST}?page=2&page_size=2"), api.post(f"{LIST}?page=2&page_size=2")):
        data = answer.get_json()["data"]
        assert ([item["id"] for item in data["items"]], data["page"], data["total"]) == (ids[:1], 2, 3)
    assert api.get(LIST).get_json() == api.post(LIST).get_json() == api.post(LIST, json={}).get_json()


@pytest.mark.parametrize(
    ("method", "query", "body", "named"),
    [
        ("POST", "", b'{"page_size": 101}', "page_size"),
        ("POST", "", b'{"created_after": "soon"}', "created_after"),
        ("POST", "?page=1", b'{"page": 1}', "page"),
        ("POST", "", b"[]", "JSON object"),
        ("POST", "", b"{", "JSON"),
        ("GET", "?page=0", None, "page"),
        ("GET", "?status=done", None, "status"),
        ("GET", "?limit=5", None, "limit"),
    ],
)
def test_a_list_that_cannot_be_given_is_refused_by_name(
    api: FlaskClient, method: str, query: str, body: bytes | None, named: str
) -> None:
    error = gateway_error(api.open(LIST + query, method=method, data=body), 400)

    assert error["data"]["code"] == 1401
    assert named in error["message"]


def test_the_list_shows_everybody_their_own_only(keyed: FlaskClient, farm: Farm) -> None:
    """An admin, too: a program that runs with such a key expects its own predictions here, as at WaveSpeed."""
    ada, root = bearer(farm.callers.create("ada")), bearer(farm.callers.create("root", is_admin=True))
    job_id = post_prediction(keyed, headers=ada).get_json()["data"]["id"]

    for filters in ({}, {"status": "created"}):
        found = [keyed.post(LIST, json=filters, headers=key).get_json()["data"] for key in (ada, root)]
        assert [[item["id"] for item in data["items"]] for data in found] == [[job_id], []]
        assert [data["total"] for data in found] == [1, 0]


def test_each_caller_has_a_webhook_secret_of_its_own(keyed: FlaskClient, farm: Farm) -> None:
    ada, bob = (bearer(farm.callers.create(name)) for name in ("ada", "bob"))
    answers = [keyed.get("/api/v3/webhook/secret", headers=key).get_json() for key in (ada, ada, bob)]

    secrets = [answer["data"]["secret"] for answer in answers]
    assert [answer["code"] for answer in answers] == [200, 200, 200]
    assert secrets[0] == secrets[1] == farm.secrets.of("ada")
    assert secrets[2] == farm.secrets.of("bob") != secrets[0]
    assert all(secret.startswith("whsec_") for secret in secrets)
