"""`/fal`: fal's queue and direct call, by path and by host name."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from api.app import MAX_BODY, create_app
from api.http import fal_hosts
from api.http.body import IMAGES_BODY
from api.routes import fal as routes
from farm import service
from farm.bootstrap import Farm
from farm.dialects import fal
from farm.dialects.fields import FIELDS, image_field
from farm.domain.catalogue import MODELS
from farm.domain.job import Claimed, Conditions, NewJob, Order, Webhook
from farm.domain.limits import Limits
from farm.jobstore.store import Accepted, JobStore
from tests.farms import wait_for
from tests.service.api.calls import (
    FAL_QUEUE,
    FAL_RUN,
    UNKNOWN_ID,
    WAVESPEED,
    UnreadableStorage,
    fal_error,
    post_job,
    post_request,
    problem,
)
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import BASE, FACTS
from tests.unit.dialects import golden

ENDPOINT = "fal-ai/flux/srpo"
KONTEXT = "fal-ai/flux-pro/kontext"
PAGE = golden.load("fal-flux-srpo")
KONTEXT_PAGES = golden.load("fal-flux-pro-kontext")


def data_uri(padding: int = 0) -> str:
    """Return an image as a data URI, with so many bytes appended."""
    content = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue() + bytes(padding)).decode()


#: Model → the least that it takes.
MINIMUM: dict[str, dict[str, Any]] = {
    "srpo": {"prompt": "a fox"},
    "srpo-image-to-image": {"prompt": "a fox", "image_url": data_uri()},
    "kontext-text-to-image": {"prompt": "a fox"},
    "kontext": {"prompt": "a fox", "image_url": data_uri()},
    "kontext-multi": {"prompt": "a fox", "image_urls": [data_uri(), "https://example.com/a.png"]},
}
#: Every endpoint, its model and what its requests have behind `requests`.
ENDPOINTS = [(endpoint, model.name) for model in MODELS for endpoint in model.of("fal")]


@pytest.fixture
def studio(api: FlaskClient, farm: Farm) -> FlaskClient:
    """Return the API of a farm with a worker that has announced every model."""
    farm.store.renew("w2", FACTS | {"models": ",".join(FIELDS)}, [])
    return api


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[Order]:
    """Return the orders that the job store receives."""
    taken: list[Order] = []
    submit = JobStore.submit

    def watched(store: JobStore, new: NewJob, limits: Limits, *, memory_is_shared: bool) -> Accepted:
        taken.append(new.order)
        return submit(store, new, limits, memory_is_shared=memory_is_shared)

    monkeypatch.setattr(JobStore, "submit", watched)
    return taken


def submit(api: FlaskClient, **fields: Any) -> str:
    """Return the path of a new request."""
    response = post_request(api, **fields)
    assert response.status_code == 200, response.text
    url: str = response.get_json()["response_url"]
    return url.removeprefix(BASE)


def request_id(path: str) -> str:
    return path.rpartition("/")[2]


def finish(farm: Farm, job: Claimed) -> None:
    """Store the job's image and complete it."""
    result = jobs.result(job)
    for image in result.images:
        farm.storage.put(image.key, b"an image")
    assert farm.store.complete(job, result)


def status(api: FlaskClient, path: str, **query: str) -> dict[str, Any]:
    answer: dict[str, Any] = api.get(f"{path}/status", query_string=query).get_json()
    return answer


# Submit


def test_a_submit_is_answered_with_where_to_ask(api: FlaskClient, farm: Farm) -> None:
    response = post_request(api)

    body = response.get_json()
    url = f"{BASE}/fal/queue/fal-ai/flux/requests/{body['request_id']}"
    assert response.status_code == 200
    assert response.headers["x-fal-request-id"] == body["request_id"]
    assert body == {
        "status": "IN_QUEUE",
        "queue_position": 0,
        "request_id": body["request_id"],
        "gateway_request_id": body["request_id"],
        "response_url": url,
        "status_url": f"{url}/status",
        "cancel_url": f"{url}/cancel",
    }
    job = jobs.record(farm.store, body["request_id"])
    assert (job.dialect, job.endpoint, job.request.model, job.priority) == ("fal", ENDPOINT, "srpo", "normal")


@pytest.mark.parametrize("example", ["quick_start", "input_example"])
def test_the_pages_own_example_is_accepted(api: FlaskClient, example: str) -> None:
    assert api.post(f"/fal/queue/{PAGE['endpoint']}", json=PAGE[example]).status_code == 200


def test_the_place_in_the_queue_counts_from_0(api: FlaskClient) -> None:
    assert [post_request(api).get_json()["queue_position"] for _ in range(3)] == [0, 1, 2]


def test_a_slash_at_the_end_of_the_endpoint_is_no_matter(api: FlaskClient) -> None:
    """fal's JavaScript client posts there when it was given a whole URL."""
    assert post_request(api, f"{FAL_QUEUE}/").status_code == 200


@pytest.mark.parametrize("priority", ["normal", "low"])
def test_the_priority_is_honoured(api: FlaskClient, farm: Farm, priority: str) -> None:
    response = api.post(FAL_QUEUE, json={"prompt": "a fox"}, headers={"X-Fal-Queue-Priority": priority})

    assert jobs.record(farm.store, response.get_json()["request_id"]).priority == priority


def test_an_unknown_priority_is_refused_by_name(api: FlaskClient) -> None:
    response = api.post(FAL_QUEUE, json={"prompt": "a fox"}, headers={"X-Fal-Queue-Priority": "high"})

    (detail,) = fal_error(response, 422)["detail"]
    assert (detail["loc"], detail["input"]) == (["header", "X-Fal-Queue-Priority"], "high")


@pytest.mark.parametrize("name", fal.TOLERATED_HEADERS)
@pytest.mark.parametrize("value", ["1", "nonsense", '{"a": 1}'])
def test_a_tolerated_header_changes_nothing(api: FlaskClient, farm: Farm, name: str, value: str) -> None:
    response = api.post(FAL_QUEUE, json={"prompt": "a fox", "seed": 7}, headers={name: value})

    plain = post_request(api, seed=7, image_size="landscape_4_3", prompt="a fox")
    with_it, without = (jobs.record(farm.store, r.get_json()["request_id"]) for r in (response, plain))
    assert replace(with_it, id="", created_us=0) == replace(without, id="", created_us=0)


def test_a_request_that_is_sent_again_is_not_refused_for_waiting_itself(api: FlaskClient) -> None:
    def send(key: str) -> TestResponse:
        body, headers = {"prompt": "a fox"}, {"Idempotency-Key": key}
        return api.post(FAL_QUEUE, json=body, headers=headers, query_string={"fal_max_queue_length": 0})

    first, again, another = send("k1"), send("k1"), send("k2")

    assert again.get_json()["request_id"] == first.get_json()["request_id"]
    assert another.status_code == 429


def test_a_webhook_is_kept_with_the_job(api: FlaskClient, farm: Farm) -> None:
    response = api.post(FAL_QUEUE, json={"prompt": "a"}, query_string={"fal_webhook": "https://a.example/hook?x=1&y=2"})

    job = jobs.record(farm.store, response.get_json()["request_id"])
    assert job.webhook == Webhook("https://a.example/hook?x=1&y=2")


@pytest.mark.parametrize(
    "query",
    [
        "fal_webhook=",
        "fal_webhook=http://127.0.0.1/",
        "fal_webhook=ftp://a.example",
        "fal_webhook=https://a.example&fal_webhook=https://b.example",
        "fal_max_queue_length=",
        "fal_max_queue_length=-1",
        "fal_max_queue_length=1.5",
        "fal_max_queue_length=many",
        "mode=fast",
        "webhook=https://a.example",
        "logs=1",
    ],
)
def test_a_bad_parameter_of_the_address_is_refused_by_name(api: FlaskClient, farm: Farm, query: str) -> None:
    (detail,) = fal_error(api.post(f"{FAL_QUEUE}?{query}", json={"prompt": "a fox"}), 422)["detail"]

    assert detail["loc"] == ["query", query.partition("=")[0]]
    assert jobs.take(farm.store) == ()


@pytest.mark.parametrize(("maximum", "status"), [(0, 429), (1, 429), (2, 200), (10, 200)])
def test_a_queue_longer_than_the_caller_wants_is_429(api: FlaskClient, farm: Farm, maximum: int, status: int) -> None:
    """It counts the waiting requests of everybody, whatever their dialect and priority, also those to be prepared."""
    jobs.submit(farm.store, "somebody", enhance=True)
    jobs.submit(farm.store, "somebody else", priority="low")
    jobs.submit(farm.store, "somebody", enhance=True, model="kontext")

    response = api.post(f"{FAL_QUEUE}?fal_max_queue_length={maximum}", json={"prompt": "a fox"})

    assert response.status_code == status
    if status == 429:
        assert f"fal_max_queue_length={maximum}" in fal_error(response, 429)["message"]
        assert (response.headers["X-Fal-Needs-Retry"], response.headers["Retry-After"]) == ("1", "5")


@pytest.mark.parametrize("content_type", ["application/json", None])
def test_no_body_is_an_empty_object(api: FlaskClient, content_type: str | None) -> None:
    """fal's JavaScript client sends an empty input so."""
    (detail,) = fal_error(api.post(FAL_QUEUE, content_type=content_type), 422)["detail"]

    assert (detail["loc"], detail["type"]) == (["body", "prompt"], "missing")


@pytest.mark.parametrize("prefix", ["/fal/queue", "/fal/run"])
@pytest.mark.parametrize("endpoint", ["fal-ai/flux/dev", "srpo", "wavespeed-ai/flux-srpo", "x", "fal-ai/flux"])
def test_an_endpoint_that_fal_does_not_name_so_is_404(api: FlaskClient, prefix: str, endpoint: str) -> None:
    fal_error(post_request(api, f"{prefix}/{endpoint}"), 404)


@pytest.mark.parametrize("endpoint", ["fal-ai/flux/srpo/image-to-image", "fal-ai/flux-pro/kontext"])
def test_a_model_that_is_loaded_nowhere_is_refused_with_what_is_served(api: FlaskClient, endpoint: str) -> None:
    body = fal_error(post_request(api, f"/fal/queue/{endpoint}"), 400)

    assert ENDPOINT in body["message"]
    assert body["error_type"] == "bad_request"


def test_the_same_key_with_another_meaning_is_refused(api: FlaskClient, farm: Farm) -> None:
    """Another dialect, endpoint or priority is another call; another way to the same endpoint is not."""
    body, headers = {"prompt": "a fox"}, {"Idempotency-Key": "k"}
    first = api.post(FAL_QUEUE, json=body, headers=headers).get_json()

    fal_error(api.post(FAL_QUEUE, json=body, headers=headers | {"X-Fal-Queue-Priority": "low"}), 422)
    assert api.post(WAVESPEED, json=body, headers=headers).status_code == 422
    assert api.post(f"/{ENDPOINT}", json=body, headers=headers | {"Host": "queue.fal.run"}).status_code == 200
    farm.store.cancel(first["request_id"])
    assert api.post(FAL_RUN, json=body, headers=headers).headers["x-fal-request-id"] == first["request_id"]


def test_an_empty_webhook_url_is_refused(api: FlaskClient) -> None:
    (detail,) = fal_error(api.post(f"{FAL_QUEUE}?fal_webhook=", json={"prompt": "a"}), 422)["detail"]

    assert (detail["loc"], detail["type"]) == (["query", "fal_webhook"], "string_too_short")
    assert "send a URL" in detail["msg"]


# Every model


@pytest.mark.parametrize(("endpoint", "model"), ENDPOINTS)
def test_every_endpoint_takes_its_models_fields(studio: FlaskClient, farm: Farm, endpoint: str, model: str) -> None:
    response = studio.post(f"/fal/queue/{endpoint}", json=MINIMUM[model])

    body = response.get_json()
    assert response.status_code == 200, response.text
    url = f"{BASE}/fal/queue/{'/'.join(endpoint.split('/')[:2])}/requests/{body['request_id']}"
    assert (body["response_url"], body["status"]) == (url, "IN_QUEUE")
    job = jobs.record(farm.store, body["request_id"])
    assert (job.endpoint, job.request.model) == (endpoint, model)
    assert (len(job.request.sources) > 0) == (image_field(model) is not None)


@pytest.mark.parametrize("page", KONTEXT_PAGES["examples"], ids=lambda page: str(page["name"]))
@pytest.mark.parametrize("example", ["quick_start", "input_example"])
def test_the_example_of_each_of_kontexts_pages_is_accepted(
    studio: FlaskClient, farm: Farm, page: dict[str, Any], example: str
) -> None:
    response = studio.post(f"/fal/queue/{page['endpoint']}", json=page[example])

    job = jobs.record(farm.store, response.get_json()["request_id"])
    assert (job.request.prompt, job.request.guidance) == (page[example]["prompt"], 3.5)


@pytest.mark.parametrize("app", ["fal-ai/flux-pro", KONTEXT])
@pytest.mark.parametrize("suffix", ["", "/", "/response", "/response/", "/status", "/status/"])
def test_a_request_to_kontext_is_found_as_any_other(studio: FlaskClient, app: str, suffix: str) -> None:
    job_id = studio.post(f"/fal/queue/{KONTEXT}", json=MINIMUM["kontext"]).get_json()["request_id"]

    response = studio.get(f"/fal/queue/{app}/requests/{job_id}{suffix}")

    assert response.status_code == (202 if "status" in suffix else 400)
    fal_error(studio.get(f"/fal/queue/fal-ai/flux/requests/{job_id}{suffix}"), 404)


@pytest.mark.parametrize("endpoint", [f"{KONTEXT}/redux", "fal-ai/flux-pro/v1.1-ultra", f"{KONTEXT}/max/redux"])
def test_other_models_of_the_family_are_404(studio: FlaskClient, endpoint: str) -> None:
    fal_error(studio.post(f"/fal/queue/{endpoint}", json=MINIMUM["kontext"]), 404)


def test_an_unusable_image_is_refused_with_its_index(studio: FlaskClient, farm: Farm) -> None:
    body = {"prompt": "a fox", "image_urls": [data_uri(), "data:image/png;base64,AAAA"]}

    (detail,) = fal_error(studio.post("/fal/queue/fal-ai/flux-pro/kontext/multi", json=body), 422)["detail"]

    assert detail["loc"] == ["body", "image_urls", "1"]
    assert detail["type"] in golden.load("fal-errors")["model"]
    assert farm.store.page(None, before_us=None, count=1) == []


def test_an_image_may_be_large_where_a_model_takes_one(studio: FlaskClient, farm: Farm) -> None:
    large = {"prompt": "a fox", "image_url": data_uri(padding=MAX_BODY)}

    assert studio.post(f"/fal/queue/{KONTEXT}", json=large).status_code == 200
    assert str(MAX_BODY) in fal_error(studio.post(FAL_QUEUE, json=large), 413)["message"]
    too_large = {"CONTENT_LENGTH": str(IMAGES_BODY + 1)}
    refused = studio.post(f"/fal/queue/{KONTEXT}", data=b"{}", environ_overrides=too_large)
    assert str(IMAGES_BODY) in fal_error(refused, 413)["message"]


# Headers of a submit


CONDITIONS = [
    ({"X-Fal-Request-Timeout": "30.0"}, Conditions(start_within=30)),
    ({"x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 60}'}, Conditions(keep_seconds=60)),
    ({"x-fal-store-io": "0"}, Conditions(keeps_payload=False)),
    ({"X-Fal-No-Retry": "1"}, Conditions(may_retry=False)),
    ({"X-Fal-Runner-Hint": "mine"}, Conditions(runner_hint="mine")),
]


@pytest.mark.parametrize(("headers", "conditions"), CONDITIONS)
def test_fals_headers_set_the_conditions_of_the_order(
    patient: Callable[[float], FlaskClient], orders: list[Order], headers: dict[str, str], conditions: Conditions
) -> None:
    api = patient(0.05)

    assert api.post(FAL_QUEUE, json={"prompt": "a fox"}, headers=headers).status_code == 200
    assert api.post(FAL_RUN, json={"prompt": "a fox"}, headers=headers).status_code == 504

    assert [order.conditions for order in orders] == [conditions] * 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, "soon") for name in (fal.REQUEST_TIMEOUT, fal.LIFECYCLE, fal.STORE_IO, fal.NO_RETRY)),
        (fal.RUNNER_HINT, "h" * 300),
    ],
)
@pytest.mark.parametrize("path", [FAL_QUEUE, FAL_RUN])
def test_a_header_that_cannot_be_read_is_a_bad_request(
    api: FlaskClient, farm: Farm, path: str, name: str, text: str
) -> None:
    """fal's page says so of a malformed timeout, and nothing of the others."""
    response = api.post(path, json={"prompt": "a fox"}, headers={name: text})

    body = fal_error(response, 400)
    assert (body["error_type"], name in body["message"]) == ("bad_request", True)
    assert jobs.take(farm.store) == ()


@pytest.mark.parametrize(("headers", "conditions"), CONDITIONS)
def test_the_same_key_with_another_wish_is_refused(
    api: FlaskClient, headers: dict[str, str], conditions: Conditions
) -> None:
    body, key = {"prompt": "a fox"}, {"Idempotency-Key": "k"}
    first = api.post(FAL_QUEUE, json=body, headers=key | headers).get_json()

    assert api.post(FAL_QUEUE, json=body, headers=key | headers).get_json() == first
    fal_error(api.post(FAL_QUEUE, json=body, headers=key), 422)


@pytest.mark.parametrize("where", ["queue", "run"])
def test_a_request_that_is_not_started_in_time_is_504(api: FlaskClient, farm: Farm, where: str) -> None:
    """The clients do not retry it: the limit was the caller's own."""
    headers = {"X-Fal-Request-Timeout": "0.2"}
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(api.post, f"/fal/{where}/{ENDPOINT}", json={"prompt": "a fox"}, headers=headers)
        (job,) = wait_for(lambda: farm.store.page(None, before_us=None, count=1))
        wait_for(lambda: farm.store.reap() or jobs.state(farm.store, job.id).is_terminal)
        response = call.result()

    if where == "queue":
        response = api.get(f"/fal/queue/fal-ai/flux/requests/{job.id}")
    assert fal_error(response, 504)["error_type"] == "startup_timeout"
    assert response.headers["X-Fal-Request-Timeout-Type"] == "user"
    assert response.headers["x-fal-request-id"] == job.id


def test_a_request_whose_payload_is_not_kept_is_answered_without_its_prompt(api: FlaskClient, farm: Farm) -> None:
    response = api.post(FAL_QUEUE, json={"prompt": "a fox"}, headers={"X-Fal-Store-IO": "0"})
    path = response.get_json()["response_url"].removeprefix(BASE)
    finish(farm, jobs.take_one(farm.store))

    output = api.get(path).get_json()

    assert output["prompt"] == ""
    assert api.get(output["images"][0]["url"].removeprefix(BASE), buffered=True).data == b"an image"


def test_a_result_is_not_kept_for_longer_than_the_farm_keeps_results(api: FlaskClient, farm: Farm) -> None:
    week = int(farm.settings.result_ttl)
    body, name = {"prompt": "a fox"}, "X-Fal-Object-Lifecycle-Preference"
    as_long, longer = (f'{{"expiration_duration_seconds": {seconds}}}' for seconds in (week, week + 1))

    assert api.post(FAL_QUEUE, json=body, headers={name: as_long}).status_code == 200
    for path in (FAL_QUEUE, FAL_RUN):
        message = fal_error(api.post(path, json=body, headers={name: longer}), 400)["message"]
        assert (name in message, f"allowed: 1 to {week}" in message) == (True, True)


def test_a_result_is_gone_when_its_lifecycle_is_over(api: FlaskClient, farm: Farm) -> None:
    headers = {"X-Fal-Object-Lifecycle-Preference": '{"expiration_duration_seconds": 1}'}
    response = api.post(FAL_QUEUE, json={"prompt": "a fox"}, headers=headers)
    path = response.get_json()["response_url"].removeprefix(BASE)
    finish(farm, jobs.take_one(farm.store))
    assert api.get(path).status_code == 200

    wait_for(lambda: farm.store.claim_expired(10) == [request_id(path)])


@pytest.mark.parametrize("path", ["/fal/queue/fal-ai/flux/requests/x/status", FAL_QUEUE, FAL_RUN, "/fal/queue/x"])
def test_a_token_in_the_address_is_refused(keyed: FlaskClient, ada: dict[str, str], path: str) -> None:
    """Addresses end in logs."""
    method = "GET" if "requests" in path else "POST"

    body = fal_error(keyed.open(f"{path}?fal_jwt_token=x", method=method, headers=ada), 401)

    assert "Authorization" in body["message"]


# Status, result


def test_a_request_is_seen_through_its_life(api: FlaskClient, farm: Farm) -> None:
    path = submit(api, num_inference_steps=4)

    waiting = api.get(f"{path}/status")
    assert (waiting.status_code, waiting.get_json()["status"], waiting.get_json()["queue_position"]) == (
        202,
        "IN_QUEUE",
        0,
    )
    job = jobs.take_one(farm.store)
    farm.store.renew("w1", FACTS, [jobs.held(job, 2)])
    running = api.get(f"{path}/status?logs=1")
    assert (running.status_code, running.get_json()["status"]) == (202, "IN_PROGRESS")
    assert [line["message"] for line in running.get_json()["logs"]] == [
        "Accepted.",
        "Started, attempt 1.",
        "Step 2 of 4.",
    ]
    finish(farm, job)
    ended = api.get(f"{path}/status")
    assert (ended.status_code, ended.get_json()["status"]) == (200, "COMPLETED")
    assert ended.get_json()["metrics"]["inference_time"] > 0
    assert {r.headers["x-fal-request-id"] for r in (waiting, running, ended)} == {request_id(path)}


@pytest.mark.parametrize("wanted", ["1", "true", "True"])
def test_logs_that_are_wanted_are_a_list(api: FlaskClient, wanted: str) -> None:
    assert [line["message"] for line in status(api, submit(api), logs=wanted)["logs"]] == ["Accepted."]


@pytest.mark.parametrize("query", [{}, {"logs": "0"}, {"logs": "false"}, {"logs": "False"}])
def test_logs_that_are_not_wanted_are_null(api: FlaskClient, query: dict[str, str]) -> None:
    assert status(api, submit(api), **query)["logs"] is None


@pytest.mark.parametrize("query", ["logs=2", "logs=", "logs=TRUE", "log=1", "logs=1&logs=0"])
def test_a_status_refuses_what_it_does_not_know(api: FlaskClient, query: str) -> None:
    (detail,) = fal_error(api.get(f"{submit(api)}/status?{query}"), 422)["detail"]

    assert detail["loc"] == ["query", query.partition("=")[0]]


def test_a_result_asked_for_too_early_is_400(api: FlaskClient, farm: Farm) -> None:
    path = submit(api)
    early = api.get(path)
    jobs.take_one(farm.store)
    running = api.get(path)

    assert fal_error(early, 400)["detail"] == fal_error(running, 400)["detail"] == "Request is still in progress"
    assert early.headers["x-fal-request-id"] == request_id(path)


def test_a_result_is_the_models_bare_output(api: FlaskClient, farm: Farm) -> None:
    path = submit(api, seed=7)
    finish(farm, jobs.take_one(farm.store))

    response = api.get(path)

    body = response.get_json()
    assert (response.status_code, response.headers["x-fal-request-id"]) == (200, request_id(path))
    assert set(body) == {"images", "timings", "seed", "has_nsfw_concepts", "prompt"}
    assert (body["seed"], body["prompt"]) == (7, "a red fox")
    assert api.get(body["images"][0]["url"].removeprefix(BASE), buffered=True).data == b"an image"


@pytest.mark.parametrize("suffix", ["", "/", "/response", "/response/"])
@pytest.mark.parametrize("app", ["fal-ai/flux", "fal-ai/flux/srpo"])
def test_a_result_may_be_asked_for_in_several_ways(api: FlaskClient, farm: Farm, app: str, suffix: str) -> None:
    path = submit(api)
    finish(farm, jobs.take_one(farm.store))

    assert api.get(f"/fal/queue/{app}/requests/{request_id(path)}{suffix}").get_json()["images"]


@pytest.mark.parametrize("app", ["fal-ai/flux", "fal-ai/flux/srpo"])
def test_status_and_cancel_may_be_asked_for_in_several_ways(api: FlaskClient, app: str) -> None:
    path = f"/fal/queue/{app}/requests/{request_id(submit(api))}"

    assert {api.get(f"{path}/status{slash}").status_code for slash in ("", "/")} == {202}
    assert api.put(f"{path}/cancel/").status_code == 202


def test_an_image_can_be_returned_inline(api: FlaskClient, farm: Farm) -> None:
    path = submit(api, sync_mode=True)
    finish(farm, jobs.take_one(farm.store))

    url = api.get(path).get_json()["images"][0]["url"]

    assert url == "data:image/jpeg;base64," + base64.b64encode(b"an image").decode()


def test_an_inline_image_that_is_gone_is_no_5xx(api: FlaskClient, farm: Farm) -> None:
    path = submit(api, sync_mode=True)
    finish(farm, jobs.take_one(farm.store))
    farm.storage.delete_job(request_id(path))

    response = api.get(path)

    fal_error(response, 404)
    assert response.headers["x-fal-request-id"] == request_id(path)


def test_the_farms_own_dialect_sends_images_inline_too(api: FlaskClient, farm: Farm) -> None:
    """Only single jobs have inline images; a list would be too large."""
    job_id = post_job(api, sync_mode=True).get_json()["id"]
    finish(farm, jobs.take_one(farm.store))

    one = api.get(f"/farm/v1/jobs/{job_id}").get_json()
    (listed,) = api.get("/farm/v1/jobs").get_json()["jobs"]

    assert one["images"][0]["url"].startswith("data:image/jpeg;base64,")
    assert listed["images"][0]["url"].startswith(f"{BASE}/files/{job_id}")


@pytest.mark.parametrize(
    ("code", "status", "slug"),
    [("render_failed", 500, "internal_server_error"), ("cancelled", 499, "client_cancelled")],
)
def test_a_failed_request_answers_with_its_own_error(
    api: FlaskClient, farm: Farm, code: str, status: int, slug: str
) -> None:
    path = submit(api)
    farm.store.fail(jobs.take_one(farm.store), code, "It did not work.")

    about, response = api.get(f"{path}/status"), api.get(path)

    assert (about.status_code, about.get_json()["status"]) == (200, "COMPLETED")
    assert (about.get_json()["error"], about.get_json()["error_type"]) == ("It did not work.", slug)
    body = fal_error(response, status)
    assert (body["message"], body["error_type"]) == ("It did not work.", slug)
    assert response.headers["x-fal-request-id"] == request_id(path)


# The stream of a status


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look into the record often, so that no test waits for a notification or a pause."""
    monkeypatch.setattr(service, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(routes, "CHECK_SECONDS", 0.02)


def stream(api: FlaskClient, path: str, query: str = "logs=1", **headers: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a request's stream: unnamed, each a status."""
    response = api.get(f"{path}/status/stream?{query}", headers=headers, buffered=False)
    assert (response.status_code, response.mimetype) == (200, "text/event-stream")
    assert response.headers["x-fal-request-id"] == request_id(path)
    kept = ""
    try:
        for chunk in response.response:
            *blocks, kept = (kept + (chunk.decode() if isinstance(chunk, bytes) else chunk)).split("\n\n")
            for block in blocks:
                lines = [line for line in block.splitlines() if not line.startswith((":", "retry:"))]
                assert len(lines) == 1, lines
                yield json.loads(lines[0].removeprefix("data: "))
    finally:
        response.close()


def result(events: list[dict[str, Any]]) -> list[list[str]]:
    """Return the messages of each event's log lines."""
    return [[line["message"] for line in event["logs"]] for event in events]


@pytest.mark.usefixtures("quick")
def test_a_stream_tells_every_step_and_each_line_once(api: FlaskClient, farm: Farm) -> None:
    """fal's JavaScript client collects the lines that come."""
    path = submit(api, num_inference_steps=4)
    events = stream(api, path)
    seen = [next(events)]
    job = jobs.take_one(farm.store)
    seen.append(next(events))
    for step in (1, 2):
        farm.store.renew("w1", FACTS, [jobs.held(job, step)])
        seen.append(next(events))
    finish(farm, job)
    seen += events

    assert [event["status"] for event in seen] == ["IN_QUEUE", *["IN_PROGRESS"] * 3, "COMPLETED"]
    *before, last = result(seen)
    assert before == [["Accepted."], ["Started, attempt 1."], ["Step 1 of 4."], ["Step 2 of 4."]]
    assert [message.split(",")[0] for message in last] == ["Completed"]
    assert seen[-1] | {"logs": None} == status(api, path)


@pytest.mark.usefixtures("quick")
def test_a_stream_tells_the_place_in_the_queue(api: FlaskClient, farm: Farm) -> None:
    ahead, path = submit(api), submit(api)
    events = stream(api, path)

    first = next(events)
    farm.store.cancel(request_id(ahead))
    second = next(events)

    assert [event["queue_position"] for event in (first, second)] == [1, 0]
    assert result([first, second]) == [["Accepted."], []]
    farm.store.cancel(request_id(path))
    assert [event["error_type"] for event in events] == ["client_cancelled"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("query", ["", "logs=0", "logs=false"])
def test_a_stream_without_logs_has_none(api: FlaskClient, farm: Farm, query: str) -> None:
    path = submit(api)
    finish(farm, jobs.take_one(farm.store))

    (event,) = stream(api, path, query)

    assert (event["status"], event["logs"]) == ("COMPLETED", None)


@pytest.mark.usefixtures("quick")
def test_a_stream_whose_request_is_deleted_ends(api: FlaskClient, farm: Farm) -> None:
    """The client then asks for the result, and learns what has become of it."""
    path = submit(api)
    events = stream(api, path)
    next(events)
    farm.redis.delete(f"srpo:job:{request_id(path)}")

    assert list(events) == []


@pytest.mark.parametrize("query", ["logs=2", "mode=fast", "last_event_id=1.0"])
def test_a_stream_refuses_what_it_does_not_know(api: FlaskClient, query: str) -> None:
    (detail,) = fal_error(api.get(f"{submit(api)}/status/stream?{query}"), 422)["detail"]

    assert detail["loc"] == ["query", query.partition("=")[0]]


def test_one_stream_too_many_gets_429_with_retry_after(open_api: Callable[..., FlaskClient]) -> None:
    api = open_api(max_streams=1)
    path = submit(api)
    events = stream(api, path)
    next(events)

    refused = api.get(f"{path}/status/stream")

    assert fal_error(refused, 429)["error_type"] == "concurrent_requests_limit"
    events.close()  # type: ignore[attr-defined]  # it is a generator
    assert next(stream(api, path))["status"] == "IN_QUEUE"


# Cancel


def test_a_waiting_request_is_cancelled(api: FlaskClient, farm: Farm) -> None:
    path = submit(api)

    response = api.put(f"{path}/cancel")

    assert (response.status_code, response.get_json()) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert response.headers["x-fal-request-id"] == request_id(path)
    assert jobs.take(farm.store) == ()
    assert status(api, path)["error_type"] == "client_cancelled"


def test_cancelling_a_running_request_is_accepted(api: FlaskClient, farm: Farm) -> None:
    path = submit(api)
    jobs.take_one(farm.store)

    response = api.put(f"{path}/cancel", data=b"not looked at", content_type="application/json")

    assert (response.status_code, response.get_json()) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert jobs.record(farm.store, request_id(path)).cancelling


def test_a_finished_request_is_not_cancelled(api: FlaskClient, farm: Farm) -> None:
    path = submit(api)
    finish(farm, jobs.take_one(farm.store))

    body = fal_error(api.put(f"{path}/cancel"), 400)

    assert body["status"] == "ALREADY_COMPLETED"


CALLS = [("GET", ""), ("GET", "/response"), ("GET", "/status"), ("GET", "/status/stream"), ("PUT", "/cancel")]


@pytest.mark.parametrize(("method", "suffix"), CALLS)
def test_an_unknown_request_is_404(api: FlaskClient, method: str, suffix: str) -> None:
    for job_id in [UNKNOWN_ID, "x", "a\nb", "ü", "srpo:jobs", "a" * 3000]:
        response = api.open(f"/fal/queue/fal-ai/flux/requests/{job_id}{suffix}", method=method)
        assert fal_error(response, 404)["status"] == "NOT_FOUND", job_id


@pytest.mark.parametrize(("method", "suffix"), CALLS)
def test_a_request_is_not_found_under_another_application(api: FlaskClient, method: str, suffix: str) -> None:
    job_id = request_id(submit(api))

    for app in ["fal-ai/flux-pro", "fal-ai", "fal-ai/flux/dev", "other/flux", "fal-ai/flux/srpo/x"]:
        response = api.open(f"/fal/queue/{app}/requests/{job_id}{suffix}", method=method)
        assert fal_error(response, 404)["status"] == "NOT_FOUND", app


# The direct call


@pytest.fixture
def patient(farm: Farm) -> Callable[[float], FlaskClient]:
    """Make a client of an API that holds a direct call for so many seconds, and one call at a time."""

    def make(seconds: float) -> FlaskClient:
        farm.store.renew("w", FACTS, [])
        settings = farm.settings.model_copy(update={"hold_seconds": seconds})
        app = create_app(replace(farm, settings=settings), base=BASE, with_keys=False, max_streams=1, max_held_calls=1)
        return app.test_client()

    return make


def run_while(api: FlaskClient, act: Callable[[], object], **fields: Any) -> TestResponse:
    """Return the answer to a direct call during which `act` runs."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post_request, api, FAL_RUN, **fields)
        act()
        return answer.result()


def take_when_there(farm: Farm) -> Claimed:
    (job,) = wait_for(lambda: jobs.take(farm.store))
    return job


def test_a_direct_call_is_answered_with_the_output(api: FlaskClient, farm: Farm) -> None:
    response = run_while(api, lambda: finish(farm, take_when_there(farm)), seed=7)

    body = response.get_json()
    assert (response.status_code, body["seed"]) == (200, 7)
    assert api.get(body["images"][0]["url"].removeprefix(BASE), buffered=True).data == b"an image"
    job = jobs.record(farm.store, response.headers["x-fal-request-id"])
    assert (job.dialect, job.state) == ("fal", "completed")


def test_a_direct_call_may_get_its_image_inline(api: FlaskClient, farm: Farm) -> None:
    response = run_while(api, lambda: finish(farm, take_when_there(farm)), sync_mode=True)

    assert response.get_json()["images"][0]["url"].startswith("data:image/jpeg;base64,")


def test_a_direct_call_that_fails_is_answered_with_the_failure(api: FlaskClient, farm: Farm) -> None:
    response = run_while(api, lambda: farm.store.fail(take_when_there(farm), "render_failed", "It did not work."))

    assert fal_error(response, 500)["message"] == "It did not work."
    assert response.headers["x-fal-request-id"]


def test_a_direct_call_that_lasts_too_long_gets_504_with_the_address_of_its_request(
    patient: Callable[[float], FlaskClient], farm: Farm
) -> None:
    api = patient(0.05)

    response = post_request(api, FAL_RUN)

    job_id = response.headers["x-fal-request-id"]
    body = fal_error(response, 504)
    assert body["error_type"] == "request_timeout"
    assert body["detail"].endswith(f"{BASE}/fal/queue/fal-ai/flux/requests/{job_id}")
    # Without it the clients would send the request again.
    assert response.headers["X-Fal-Request-Timeout-Type"] == "user"
    finish(farm, jobs.take_one(farm.store))
    assert api.get(f"/fal/queue/fal-ai/flux/requests/{job_id}").status_code == 200


def test_an_image_that_cannot_be_read_now_does_not_make_clients_ask_for_another(farm: Farm, tmp_path: Path) -> None:
    farm.store.renew("w", FACTS, [])
    unreadable = replace(farm, storage=UnreadableStorage(tmp_path))
    api = create_app(unreadable, base=BASE, with_keys=False, max_streams=1, max_held_calls=1).test_client()

    response = run_while(api, lambda: finish(farm, take_when_there(farm)), sync_mode=True)

    assert fal_error(response, 504)["error_type"] == "request_timeout"
    assert response.headers["X-Fal-Request-Timeout-Type"] == "user"
    again = api.get(f"/fal/queue/fal-ai/flux/requests/{response.headers['x-fal-request-id']}")
    assert fal_error(again, 503)["error_type"] == "internal_error"


@pytest.mark.parametrize("query", ["fal_webhook=https://a.example", "fal_max_queue_length=1", "logs=1"])
def test_a_direct_call_takes_no_parameters_in_its_address(api: FlaskClient, farm: Farm, query: str) -> None:
    (detail,) = fal_error(api.post(f"{FAL_RUN}?{query}", json={"prompt": "a fox"}), 422)["detail"]

    assert detail["loc"] == ["query", query.partition("=")[0]]
    assert jobs.take(farm.store) == ()


# Host names


@pytest.mark.parametrize("host", ["queue.fal.run", "queue.farm.example", "queue.localhost:8000", "QUEUE.FAL.RUN."])
def test_the_queue_is_at_the_root_of_its_hosts(api: FlaskClient, farm: Farm, host: str) -> None:
    response = api.post(f"/{ENDPOINT}", json={"prompt": "a fox"}, base_url=f"https://{host}")

    body = response.get_json()
    assert response.status_code == 200
    assert body["status_url"].lower() == f"https://{host}/fal-ai/flux/requests/{body['request_id']}/status".lower()
    path = body["response_url"].partition("//")[2].partition("/")[2]
    finish(farm, jobs.take_one(farm.store))
    assert api.get(f"/{path}", base_url=f"https://{host}").status_code == 200


@pytest.mark.parametrize("host", ["fal.run", "fal.farm.example", "fal.localhost:8000"])
def test_the_direct_call_is_at_the_root_of_its_hosts(
    patient: Callable[[float], FlaskClient], farm: Farm, host: str
) -> None:
    """The answer names the queue at the farm's own address: the caller has not shown that it knows the queue's host."""
    response = patient(0.05).post(f"/{ENDPOINT}", json={"prompt": "a fox"}, base_url=f"https://{host}")

    assert f"{BASE}/fal/queue/" in fal_error(response, 504)["message"]


@pytest.mark.parametrize(
    "host", ["fal.run", "queue.fal.run", "rest.fal.ai", "rest.alpha.fal.ai", "v3.fal.media", "cdn.farm.example"]
)
@pytest.mark.parametrize("path", ["/farm/v1/jobs", "/healthz", "/api/v3/predictions/x", "/fal/proxy", "/"])
def test_fals_hosts_serve_nothing_else(api: FlaskClient, host: str, path: str) -> None:
    response = api.get(path, base_url=f"https://{host}")

    assert response.status_code in (404, 405)
    fal_error(response, response.status_code)


@pytest.mark.parametrize("host", ["fal.run", "queue.farm.example", "cdn.farm.example"])
def test_images_and_the_keys_of_signatures_are_under_every_name(api: FlaskClient, farm: Farm, host: str) -> None:
    path = submit(api)
    finish(farm, jobs.take_one(farm.store))
    url = api.get(path).get_json()["images"][0]["url"].removeprefix(BASE)

    assert api.get(url, base_url=f"https://{host}", buffered=True).data == b"an image"
    assert api.get("/.well-known/jwks.json", base_url=f"https://{host}").get_json()["keys"]


@pytest.mark.parametrize("host", ["xfal.run", "queuefal.run", "farm.example", "fal-run.example", "my.queue.example"])
def test_any_other_host_is_served_by_path(keyed: FlaskClient, host: str) -> None:
    problem(keyed.get(f"/{ENDPOINT}", base_url=f"https://{host}"), 404)
    assert keyed.get("/healthz", base_url=f"https://{host}").status_code == 200


# The proxy


def through_the_proxy(api: FlaskClient, method: str, target: str | None, **call: Any) -> TestResponse:
    """Make a call as fal's JavaScript client does if it has a `proxyUrl`."""
    headers = call.pop("headers", {}) | ({} if target is None else {"x-fal-target-url": target})
    return api.open(call.pop("path", "/fal/proxy"), method=method, headers=headers, **call)


@pytest.mark.parametrize("path", ["/fal/proxy", "/fal/proxy/"])
def test_a_request_goes_its_whole_way_through_the_proxy(api: FlaskClient, farm: Farm, path: str) -> None:
    url = f"https://queue.fal.run/{ENDPOINT}?fal_webhook=https%3A%2F%2Fa.example%2Fhook%3Fx%3D1"
    accepted = through_the_proxy(api, "POST", url, path=path, json={"prompt": "a fox"})
    job_id = accepted.get_json()["request_id"]
    assert jobs.record(farm.store, job_id).webhook == Webhook("https://a.example/hook?x=1")
    # The client builds the others itself.
    about = f"https://queue.fal.run/fal-ai/flux/requests/{job_id}"

    waiting = through_the_proxy(api, "GET", f"{about}/status?logs=1", path=path)
    finish(farm, jobs.take_one(farm.store))
    ended = through_the_proxy(api, "GET", f"{about}/status", path=path)
    output = through_the_proxy(api, "GET", about, path=path)
    late = through_the_proxy(api, "PUT", f"{about}/cancel", path=path)

    assert [line["message"] for line in waiting.get_json()["logs"]] == ["Accepted."]
    assert (ended.get_json()["status"], output.get_json()["prompt"]) == ("COMPLETED", "a fox")
    assert fal_error(late, 400)["status"] == "ALREADY_COMPLETED"
    assert {r.headers["x-fal-request-id"] for r in (accepted, waiting, ended, output, late)} == {job_id}
    # A client that follows the answers uses the farm's own address.
    assert accepted.get_json()["status_url"] == f"{BASE}/fal/queue/fal-ai/flux/requests/{job_id}/status"


def test_a_direct_call_goes_through_the_proxy(patient: Callable[[float], FlaskClient]) -> None:
    response = through_the_proxy(patient(0.05), "POST", f"https://fal.run/{ENDPOINT}", json={"prompt": "a fox"})

    assert fal_error(response, 504)["error_type"] == "request_timeout"


@pytest.mark.usefixtures("quick")
def test_a_stream_goes_through_the_proxy(api: FlaskClient, farm: Farm) -> None:
    path = submit(api)
    finish(farm, jobs.take_one(farm.store))
    target = f"https://queue.fal.run{path.removeprefix('/fal/queue')}/status/stream?logs=0"

    response = through_the_proxy(api, "GET", target)

    assert response.mimetype == "text/event-stream"
    assert "COMPLETED" in response.text


def test_images_and_the_keys_of_signatures_come_through_the_proxy(api: FlaskClient, farm: Farm) -> None:
    path = submit(api)
    finish(farm, jobs.take_one(farm.store))
    image = api.get(path).get_json()["images"][0]["url"].removeprefix(BASE)

    assert through_the_proxy(api, "GET", f"https://v3.fal.media{image}", buffered=True).data == b"an image"
    keys = through_the_proxy(api, "GET", "https://rest.fal.ai/.well-known/jwks.json")
    assert keys.get_json()["keys"]


@pytest.mark.parametrize(("host", "prefix"), fal_hosts.FAL_HOSTS.items())
def test_each_of_fals_hosts_is_served_as_below_its_path(api: FlaskClient, host: str, prefix: str) -> None:
    """A 404 names the path that was requested."""
    target = f"https://{host.upper()}/nothing%20here/%C3%BC?x=1"

    assert through_the_proxy(api, "GET", target).data == api.get(f"{prefix}/nothing%20here/%C3%BC?x=1").data


FOREIGN = [
    None,
    "",
    "https://example.com/",
    "https://fal.run.evil.com/x",
    "https://evil.com/fal.run",
    "https://evil.com#fal.run/",
    "https://evil.com?fal.run/",
    "https://fal.run@evil.com/x",
    "https://user:password@fal.run/x",
    "https://fal.run:443/x",
    "https://fal.run:8000/x",
    "https://fal.run./x",
    "https://xfal.run/x",
    "https://www.fal.run/x",
    "https://v3b.fal.media/x",
    "https://fal.media/x",
    "https://fal.farm.example/x",
    "https://localhost/x",
    "https://127.0.0.1/x",
    "https://[::1]/x",
    "https://fal.run",
    "https://fal.run/x#fragment",
    "https://fal.run\\@evil.com/x",
    "https://fal.run/x\\y",
    "https:/fal.run/x",
    "//fal.run/x",
    "/fal-ai/flux/srpo",
    "fal.run/x",
    "wss://fal.run/x",
    "file://fal.run/x",
    "ftp://fal.run/x",
    " https://fal.run/x",
    "https://fal.run/x, https://fal.run/y",
    "javascript:alert(1)",
]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_any_other_target_is_a_bad_request(api: FlaskClient, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the target was called"))

    for target in FOREIGN:
        body = fal_error(through_the_proxy(api, method, target), 400)
        assert body["error_type"] == "bad_request", target
        assert all(host in body["message"] for host in fal_hosts.FAL_HOSTS), target


def test_the_proxys_address_has_no_parameters_of_its_own(api: FlaskClient) -> None:
    target = f"https://queue.fal.run/{ENDPOINT}"

    fal_error(through_the_proxy(api, "POST", target, path="/fal/proxy?x=1", json={"prompt": "a fox"}), 400)


def test_nothing_but_fals_paths_is_behind_the_proxy(api: FlaskClient) -> None:
    for path in [
        "/farm/v1/jobs",
        "/healthz",
        "/fal/proxy",
        "/../farm/v1/jobs",
        "/%2e%2e/%2e%2e/farm/v1/jobs",
        "//farm",
    ]:
        for host in fal_hosts.FAL_HOSTS:
            response = through_the_proxy(api, "GET", f"https://{host}{path}")
            fal_error(response, response.status_code)
            assert response.status_code in (404, 405)


def test_the_header_means_nothing_elsewhere(api: FlaskClient) -> None:
    response = api.get("/healthz", headers={"x-fal-target-url": f"https://fal.run/{ENDPOINT}"})

    assert response.status_code == 200


def test_the_proxy_asks_for_the_callers_own_key(keyed: FlaskClient, ada: dict[str, str], bob: dict[str, str]) -> None:
    target = f"https://queue.fal.run/{ENDPOINT}"

    fal_error(through_the_proxy(keyed, "POST", target, json={"prompt": "a fox"}), 401)
    accepted = through_the_proxy(keyed, "POST", target, json={"prompt": "a fox"}, headers=ada)
    about = f"https://queue.fal.run/fal-ai/flux/requests/{accepted.get_json()['request_id']}"
    assert through_the_proxy(keyed, "GET", about, headers=ada).status_code == 400
    assert through_the_proxy(keyed, "GET", about, headers=bob).status_code == 404


# Errors of the address


@pytest.mark.parametrize("path", ["/fal/nothing", "/fal/", "/fal/queue", "/fal/run/", "/fal/rest/nothing"])
def test_an_unknown_path_is_404_in_fals_shape(api: FlaskClient, path: str) -> None:
    fal_error(api.post(path, json={}), 404)


@pytest.mark.parametrize("path", [FAL_QUEUE, FAL_RUN])
def test_the_wrong_method_is_405_in_fals_shape(api: FlaskClient, path: str) -> None:
    response = api.get(path)

    fal_error(response, 405)
    assert "POST" in response.headers["Allow"]


def test_without_a_key_fal_is_401(keyed: FlaskClient) -> None:
    assert "key" in fal_error(post_request(keyed), 401)["detail"]
