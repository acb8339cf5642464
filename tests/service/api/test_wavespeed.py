"""`/api/v3`: WaveSpeed's submit (blocking or not), result, list, delete and webhook secret."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from api.routes import wavespeed as routes
from farm.bootstrap import Farm
from farm.domain.catalogue import SRPO, SRPO_IMAGE
from farm.domain.errors import StoreUnavailable
from farm.domain.job import Claimed, Job, Search, Webhook
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from farm.settings import Settings
from tests.farms import wait_for
from tests.images import data_uri, sample_image
from tests.service.api.calls import (
    UNKNOWN_ID,
    WAVESPEED,
    WAVESPEED_IMAGE,
    bearer,
    gateway_error,
    post_prediction,
    post_request,
    submit,
)
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import BASE, FACTS
from tests.unit.dialects import golden

PAGE = golden.load("wavespeed-flux-srpo")
LIST = "/api/v3/predictions"
DELETE = "/api/v3/predictions/delete"
#: Where nothing is fetched by these tests: only a worker of the farm would.
FOX = "https://example.com/fox.png"


@pytest.fixture
def later() -> Iterator[Callable[..., Future[TestResponse]]]:
    """Make a call in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit


def impatient(farm: Farm, *, max_held_calls: int = 1) -> FlaskClient:
    """Return an API whose blocking calls time out at once."""
    farm.store.renew("w", FACTS, [])
    hasty = replace(farm, settings=Settings(hold_seconds=0.05))
    return create_app(hasty, base=BASE, with_keys=False, max_streams=1, max_held_calls=max_held_calls).test_client()


def render(farm: Farm, job: Claimed, image: bytes = b"content") -> None:
    """Store an image for `job` and complete it."""
    done = jobs.result(job)
    farm.storage.put(done.images[0].key, image)
    assert farm.store.complete(job, done)


@pytest.fixture
def images(api: FlaskClient, farm: Farm) -> FlaskClient:
    """Return the API of a farm that also serves image to image."""
    farm.store.renew("w2", FACTS | {"models": "srpo,srpo-image-to-image"}, [])
    return api


def transform(api: FlaskClient, path: str = WAVESPEED_IMAGE, /, **fields: Any) -> TestResponse:
    """Submit an image to transform."""
    return api.post(path, json={"prompt": "a red fox", "image": FOX, "size": "256*256"} | fields)


def ended(farm: Farm, api: FlaskClient) -> str:
    """Return the id of a completed prediction."""
    job_id: str = post_prediction(api).get_json()["data"]["id"]
    render(farm, jobs.take_one(farm.store))
    return job_id


def image_of(farm: Farm, job_id: str) -> str:
    """Return the storage key of its image."""
    result = jobs.record(farm.store, job_id).result
    assert result is not None
    return result.images[0].key


def listed(api: FlaskClient, **fields: Any) -> tuple[list[str], int]:
    """Return the ids of a page of the list, and the total."""
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


def test_the_result_is_at_the_url_of_the_answer(api: FlaskClient) -> None:
    result = post_prediction(api).get_json()["data"]
    assert result["urls"]["get"] == f"{BASE}/api/v3/predictions/{result['id']}/result"

    response = api.get(result["urls"]["get"].removeprefix(BASE))

    assert (response.status_code, response.get_json()["data"]) == (200, result)
    assert api.get(f"/api/v3/predictions/{result['id']}").get_json() == response.get_json()


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


@pytest.mark.parametrize("path", ["/api/v3/predictions/{}", "/api/v3/predictions/{}/result"])
@pytest.mark.parametrize("job_id", [UNKNOWN_ID, "x"])
def test_an_unknown_prediction_is_404(api: FlaskClient, path: str, job_id: str) -> None:
    gateway_error(api.get(path.format(job_id)), 404)


@pytest.mark.parametrize("model_id", ["wavespeed-ai/sdxl", "srpo", "fal-ai/flux/srpo", "x"])
def test_a_model_that_wavespeed_does_not_name_so_is_404(api: FlaskClient, model_id: str) -> None:
    body = gateway_error(api.post(f"/api/v3/{model_id}", json={"prompt": "a"}), 404)

    assert body["error_code"] == "unknown_model"
    assert body["message"].endswith("served here: wavespeed-ai/flux-srpo, wavespeed-ai/flux-1-srpo")


def test_a_job_store_that_goes_away_behind_a_submit_does_not_make_callers_submit_again(
    api: FlaskClient, farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_job_id: str) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(farm.store, "get", away)
        response = post_prediction(api)

    data = response.get_json()["data"]
    assert (response.status_code, data["status"]) == (200, "created")
    assert jobs.record(farm.store, data["id"]).endpoint == "wavespeed-ai/flux-srpo"


def test_a_slash_at_the_end_of_the_model_is_no_matter(api: FlaskClient) -> None:
    """Callers append `?webhook=…` to the model's name, with a slash or without."""
    response = api.post(f"{WAVESPEED}/", json={"prompt": "a fox"})

    assert (response.status_code, response.get_json()["data"]["model"]) == (200, "wavespeed-ai/flux-srpo")


@pytest.mark.parametrize(
    "query", ["webhook=", "webhook=http://127.0.0.1/", "webhook=ftp://a.example", "webhook=http://["]
)
def test_a_parameter_of_the_address_is_refused_by_name(api: FlaskClient, farm: Farm, query: str) -> None:
    body = gateway_error(api.post(f"{WAVESPEED}?{query}", json={"prompt": "a fox"}), 400)

    assert query.partition("=")[0] in body["message"]
    assert jobs.take(farm.store) == ()


def test_without_a_checker_wavespeed_is_refused(open_api: Callable[..., FlaskClient]) -> None:
    """Its images are always checked."""
    body = gateway_error(post_prediction(open_api(safety="off")), 400)

    assert "FARM_SAFETY=off" in body["message"]


def test_the_list_is_there_with_a_slash_too(api: FlaskClient) -> None:
    assert api.post("/api/v3/predictions/", json={}).get_json() == api.get("/api/v3/predictions").get_json()


def test_another_webhook_is_another_call(api: FlaskClient) -> None:
    """The second one would not be told."""
    headers = {"Idempotency-Key": "k"}
    result = [
        api.post(f"{WAVESPEED}?webhook=https://{host}.example", json={"prompt": "a fox"}, headers=headers)
        for host in ("one", "one", "two")
    ]

    assert result[0].get_json() == result[1].get_json()
    gateway_error(result[2], 422)


@pytest.mark.parametrize(
    "query", ["webhook=https://a.example/hook?x=1&y=2", "webhook=https%3A%2F%2Fa.example%2Fhook%3Fx%3D1%26y%3D2"]
)
def test_a_webhook_is_kept_with_the_job(api: FlaskClient, farm: Farm, query: str) -> None:
    response = api.post(f"{WAVESPEED}?{query}", json={"prompt": "a fox"})

    job = jobs.record(farm.store, response.get_json()["data"]["id"])
    assert (job.dialect, job.webhook) == ("wavespeed", Webhook("https://a.example/hook?x=1&y=2"))


@pytest.mark.parametrize("switch", ["enable_base64_output", "enable_sync_mode"])
def test_a_webhook_with_the_image_in_the_answer_is_refused(api: FlaskClient, farm: Farm, switch: str) -> None:
    response = api.post(f"{WAVESPEED}?webhook=https://a.example", json={"prompt": "a fox", switch: True})

    body = gateway_error(response, 400)
    assert switch in body["error"]
    assert jobs.take(farm.store) == ()


def test_a_held_call_is_answered_with_the_image(
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


def test_a_call_that_times_out_has_its_id(farm: Farm) -> None:
    api = impatient(farm)
    response = post_prediction(api, enable_sync_mode=True)

    data = response.get_json()["data"]
    assert response.status_code == 200
    assert (data["status"], data["code"], data["outputs"]) == ("processing", 5004, [])
    assert "Sync mode timed out" in data["error"]
    assert api.get(f"{LIST}/{data['id']}/result").get_json()["data"]["status"] == "created"


def test_base64_outputs_are_the_stored_bytes(api: FlaskClient, farm: Farm) -> None:
    data = post_prediction(api, enable_base64_output=True).get_json()["data"]
    assert data["outputs"] == []
    render(farm, jobs.take_one(farm.store), b"\x00\xff image")

    shown = api.get(f"{LIST}/{data['id']}/result").get_json()["data"]

    assert [base64.b64decode(output, validate=True) for output in shown["outputs"]] == [b"\x00\xff image"]
    assert farm.redis.zscore(redis_keys.EXPIRY, data["id"]) == pytest.approx(
        jobs.record(farm.store, data["id"]).finished_us + 3600e6, abs=1e6
    )


def test_a_base64_image_that_is_gone_is_a_clear_error(
    api: FlaskClient, farm: Farm, later: Callable[..., Future[TestResponse]]
) -> None:
    answer = later(post_prediction, api, enable_base64_output=True, enable_sync_mode=True)
    (job,) = wait_for(lambda: jobs.take(farm.store))
    farm.store.complete(job, jobs.result(job))

    for response in (answer.result(10), api.get(f"{LIST}/{job.id}/result")):
        error = gateway_error(response, 404)
        assert job.id in error["message"]


def test_the_list_shows_predictions_newest_first(api: FlaskClient, farm: Farm) -> None:
    ids = [post_prediction(api).get_json()["data"]["id"] for _ in range(5)][::-1]

    answer = api.post(LIST, json={"page": 1, "page_size": 100}).get_json()

    assert (answer["code"], answer["message"], set(answer["data"])) == (200, "success", {"page", "total", "items"})
    assert (answer["data"]["page"], answer["data"]["total"]) == (1, 5)
    assert answer["data"]["items"] == [api.get(f"{LIST}/{job_id}").get_json()["data"] for job_id in ids]
    assert listed(api, page=2, page_size=2) == (ids[2:4], 5)
    assert listed(api, page=3, page_size=2) == (ids[4:], 5)
    assert listed(api, page=4, page_size=2) == ([], 5)


def test_a_result_has_its_warnings(api: FlaskClient, farm: Farm) -> None:
    job_id = post_prediction(api).get_json()["data"]["id"]
    job = jobs.take_one(farm.store)
    farm.store.complete(job, replace(jobs.result(job), warnings=("The prompt is long.",)))

    (item,) = api.get(LIST).get_json()["data"]["items"]

    assert (item["id"], item["warnings"]) == (job_id, ["The prompt is long."])


@pytest.mark.parametrize("query", ["", "?include_inputs=true"])
def test_the_list_has_the_parameters_if_asked_for(api: FlaskClient, query: str) -> None:
    """They are those of the webhook: complete enough to submit the prediction again."""
    post_prediction(api, seed=7)

    (item,) = api.post(LIST + query, json={} if query else {"include_inputs": True}).get_json()["data"]["items"]

    assert api.post(WAVESPEED, json=item["inputs"]).status_code == 200
    assert item["inputs"] | {"prompt": "a red fox", "size": "256*256", "seed": 7} == item["inputs"]
    assert "inputs" not in api.post(LIST, json={"include_inputs": False}).get_json()["data"]["items"][0]


def test_the_models_are_listed_with_their_parameters(images: FlaskClient) -> None:
    models = {model["model_id"]: model for model in images.get("/api/v3/models").get_json()["data"]}

    assert models.keys() == {*SRPO.of("wavespeed"), *SRPO_IMAGE.of("wavespeed")}
    for model_id, model in models.items():
        (call,) = model["api_schema"]["api_schemas"]
        schema = call["request_schema"]
        body = {name: {"prompt": "a fox", "image": FOX}[name] for name in schema["required"]}
        assert images.post(call["api_path"], json=body).status_code == 200, model_id
        assert call["server"] == BASE
        assert schema["x-order-properties"] == list(schema["properties"])
        assert model["type"] == ("image-to-image" if "image" in schema["required"] else "text-to-image")


def test_models_that_no_worker_serves_are_not_listed(api: FlaskClient) -> None:
    models = api.get("/api/v3/models").get_json()["data"]

    assert [model["model_id"] for model in models] == list(SRPO.of("wavespeed"))


def test_the_list_is_filtered(api: FlaskClient, farm: Farm) -> None:
    first, second = (post_prediction(api).get_json()["data"] for _ in range(2))
    api.post(f"/farm/v1/jobs/{first['id']}/cancel")

    assert listed(api, status="failed") == ([first["id"]], 1)
    assert listed(api, model="wavespeed-ai/flux-srpo") == ([second["id"], first["id"]], 2)
    assert listed(api, model="wavespeed-ai/flux-srpo", status="created") == ([second["id"]], 1)
    assert listed(api, model="srpo") == listed(api, status="cancelled") == listed(api, status="timeout") == ([], 0)
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


def test_a_caller_searches_its_records_once_at_a_time(
    keyed: FlaskClient, ada: dict[str, str], bob: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search reads the record of each job that the caller has: many at once would hold up Redis for all others."""
    begun, released, search = threading.Event(), threading.Event(), JobStore.search

    def search_slowly(store: JobStore, caller: str, wanted: Search, **page: int) -> tuple[list[Job], int]:
        if wanted.endpoint == "slow":
            begun.set()
            assert released.wait(10)
        return search(store, caller, wanted, **page)

    def page(headers: dict[str, str], **query: str) -> TestResponse:
        return keyed.get("/api/v3/predictions", query_string=query, headers=headers)

    monkeypatch.setattr(JobStore, "search", search_slowly)
    monkeypatch.setattr(routes, "SEARCH_WAIT_SECONDS", 0.05)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(page, ada, model="slow")
        assert begun.wait(10)

        refused = page(ada, status="failed")
        answered = [page(ada), page(bob, status="failed")]

        released.set()
        assert slow.result().status_code == 200
    assert "Too many searches" in gateway_error(refused, 429)["message"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert [answer.status_code for answer in answered] == [200, 200]
    assert page(ada, status="failed").status_code == 200


def test_the_list_shows_wavespeeds_predictions_only(api: FlaskClient, farm: Farm) -> None:
    """Jobs of other dialects have ids, states and images that a client of WaveSpeed does not expect."""
    ids = [post_prediction(api).get_json()["data"]["id"] for _ in range(2)]
    submit(api)
    post_request(api)

    for filters, size in (({}, 2), ({"status": "created"}, 2), ({"page_size": 1}, 1)):
        data = api.post(LIST, json=filters).get_json()["data"]
        assert (data["total"], [item["id"] for item in data["items"]]) == (2, ids[::-1][:size])

    farm.store.cancel(ids[0])
    assert api.post(DELETE, json={"ids": ids[:1]}).status_code == 200
    assert api.get(LIST).get_json()["data"]["total"] == 1
    assert not [key for key in farm.redis.scan_iter("*wavespeed*") if farm.redis.zscore(key, ids[0])]


def test_a_caller_sees_only_its_own_jobs_in_the_list(keyed: FlaskClient, farm: Farm) -> None:
    """An admin, too: a program that runs with such a key expects its own predictions here, as at WaveSpeed."""
    ada, root = bearer(farm.callers.create("ada")), bearer(farm.callers.create("root", is_admin=True))
    job_id = post_prediction(keyed, headers=ada).get_json()["data"]["id"]

    for filters in ({}, {"status": "created"}):
        found = [keyed.post(LIST, json=filters, headers=key).get_json()["data"] for key in (ada, root)]
        assert [[item["id"] for item in data["items"]] for data in found] == [[job_id], []]
        assert [data["total"] for data in found] == [1, 0]


def test_an_image_is_the_jobs_own_and_not_in_the_record(images: FlaskClient, farm: Farm) -> None:
    image = sample_image()

    response = transform(images, image=data_uri(image), strength=0.25)

    data = response.get_json()["data"]
    assert (response.status_code, data["status"]) == (200, "created")
    assert data["model"] == "wavespeed-ai/flux-srpo-image-to-image"
    request = jobs.record(farm.store, data["id"]).request
    assert (request.model, request.strength, request.steps) == ("srpo-image-to-image", 0.25, 28)
    (key,) = request.sources
    assert key.startswith(f"{data['id']}-input-0-")
    assert farm.storage.read(key) == image


@pytest.mark.parametrize("model_id", ["wavespeed-ai/flux-srpo", "wavespeed-ai/flux-1-srpo"])
def test_text_to_image_with_an_image_is_image_to_image(images: FlaskClient, farm: Farm, model_id: str) -> None:
    data = transform(images, f"/api/v3/{model_id}").get_json()["data"]

    assert data["model"] == model_id
    request = jobs.record(farm.store, data["id"]).request
    assert (request.model, request.strength, request.sources) == ("srpo-image-to-image", 0.8, (FOX,))


def test_text_to_image_with_an_image_is_rejected_where_no_worker_serves_image_to_image(api: FlaskClient) -> None:
    body = gateway_error(transform(api, WAVESPEED), 400)

    assert body["error_code"] == "model_not_served"
    assert "'srpo-image-to-image'" in body["message"]


def test_image_to_image_lacks_its_image(images: FlaskClient) -> None:
    body = gateway_error(images.post(WAVESPEED_IMAGE, json={"prompt": "a fox"}), 400)

    assert (body["data"]["code"], body["message"]) == (1400, "image: this field is required")


@pytest.mark.parametrize("path", [WAVESPEED, WAVESPEED_IMAGE])
@pytest.mark.parametrize(
    ("image", "number"),
    [
        ("data:image/png;base64,!", 1401),
        (data_uri(b"no image"), 1401),
        (data_uri(sample_image(8, 8)), 1401),
        (data_uri(sample_image(form="GIF"), "image/gif"), 1401),
        ("http://127.0.0.1/fox.png", 1402),
        ("ftp://example.com/fox.png", 1402),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_image_that_cannot_be_one_is_refused_at_once(
    images: FlaskClient, farm: Farm, path: str, image: str, number: int
) -> None:
    body = gateway_error(transform(images, path, image=image), 400)

    assert body["data"]["code"] == number
    assert body["message"].startswith("image: ")
    assert (listed(images), farm.redis.keys("srpo:job:*")) == (([], 0), [])


def test_an_image_and_another_field_are_refused_together(images: FlaskClient) -> None:
    body = gateway_error(
        transform(images, f"{WAVESPEED_IMAGE}?webhook=ftp://a.example", image="http://127.0.0.1/"), 400
    )

    assert (body["data"]["code"], "image: " in body["message"], "webhook: " in body["message"]) == (1401, True, True)


def test_an_image_of_the_farm_may_be_transformed(images: FlaskClient, farm: Farm) -> None:
    (url,) = images.get(f"{LIST}/{ended(farm, images)}").get_json()["data"]["outputs"]

    data = transform(images, image=url).get_json()["data"]

    assert jobs.record(farm.store, data["id"]).request.sources == (url.removeprefix(f"{BASE}/files/"),)


def test_a_prompt_is_to_be_enhanced_before_it_is_rendered(api: FlaskClient, farm: Farm) -> None:
    data = post_prediction(api, enhance_prompt=True).get_json()["data"]

    assert (data["status"], jobs.record(farm.store, data["id"]).request.enhance) == ("created", True)
    assert jobs.take(farm.store) == ()


def test_an_image_that_was_not_reached_is_a_failed_prediction(images: FlaskClient, farm: Farm) -> None:
    job_id = transform(images).get_json()["data"]["id"]
    farm.store.claim_unprepared(1, 60)
    assert farm.store.fail_preparation(job_id, "file_download_error", "image: nobody answers there")

    response = images.get(f"{LIST}/{job_id}/result")

    data = response.get_json()["data"]
    assert (response.status_code, data["status"], data["code"]) == (200, "failed", 1402)
    assert data["error"] == "image: nobody answers there"


def test_predictions_are_deleted_with_their_images(api: FlaskClient, farm: Farm) -> None:
    one, two, kept = (ended(farm, api) for _ in range(3))
    gone, still = image_of(farm, one), image_of(farm, kept)

    answer = api.post(DELETE, json={"ids": [one, two, one, UNKNOWN_ID, "no id"]})

    assert (answer.status_code, answer.get_json()) == (
        200,
        {"code": 200, "message": "success", "data": {"deleted_count": 2}},
    )
    for job_id in (one, two):
        gateway_error(api.get(f"{LIST}/{job_id}/result"), 404)
    assert listed(api) == ([kept], 1)
    assert (farm.storage.find(gone), farm.storage.find(still) is None) == (None, False)


def test_a_deletion_with_an_unfinished_job_deletes_nothing(api: FlaskClient, farm: Farm) -> None:
    done, waiting = ended(farm, api), post_prediction(api).get_json()["data"]["id"]

    error = gateway_error(api.post(DELETE, json={"ids": [done, waiting]}), 409)

    assert (error["error_code"], waiting in error["message"], done in error["message"]) == ("not_finished", True, False)
    assert listed(api) == ([waiting, done], 2)


def test_another_callers_predictions_are_not_deleted(keyed: FlaskClient, farm: Farm) -> None:
    """The answer does not tell whether they exist."""
    ada, bob = (bearer(farm.callers.create(name)) for name in ("ada", "bob"))
    job_id = post_prediction(keyed, headers=ada).get_json()["data"]["id"]

    for ids in ([job_id], [UNKNOWN_ID]):
        assert keyed.post(DELETE, json={"ids": ids}, headers=bob).get_json()["data"] == {"deleted_count": 0}
    render(farm, jobs.take_one(farm.store))
    assert keyed.post(DELETE, json={"ids": [job_id]}, headers=bob).get_json()["data"] == {"deleted_count": 0}
    assert keyed.get(f"{LIST}/{job_id}", headers=ada).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (DELETE, b"{}", "ids"),
        (DELETE, b'{"ids": []}', "ids"),
        (DELETE, b'{"ids": "x"}', "ids"),
        (DELETE, b"[]", "JSON object"),
        (DELETE, b"", "JSON"),
        (f"{DELETE}?ids=x", b'{"ids": ["x"]}', "ids"),
    ],
)
def test_a_delete_that_makes_no_sense_is_400(api: FlaskClient, path: str, body: bytes, named: str) -> None:
    assert named in gateway_error(api.post(path, data=body), 400)["message"]


def test_each_caller_has_a_webhook_secret_of_its_own(keyed: FlaskClient, farm: Farm) -> None:
    ada, bob = (bearer(farm.callers.create(name)) for name in ("ada", "bob"))
    answers = [keyed.get("/api/v3/webhook/secret", headers=key).get_json() for key in (ada, ada, bob)]

    secrets = [answer["data"]["secret"] for answer in answers]
    assert [answer["code"] for answer in answers] == [200, 200, 200]
    assert secrets[0] == secrets[1] == farm.secrets.of("ada")
    assert secrets[2] == farm.secrets.of("bob") != secrets[0]
    assert all(secret.startswith("whsec_") for secret in secrets)
