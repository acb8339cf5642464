"""`/farm/v1`: submit, get, list, cancel, delete."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from farm.bootstrap import Farm
from farm.domain.catalogue import MAX_RANDOM_SEED, MODELS, SIZE_PRESETS
from farm.storage.storage import new_key
from tests.images import data_uri, sample_image
from tests.service.api.calls import UNKNOWN_ID, post_job, problem, submit
from tests.service.conftest import patient_store
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import BASE, FACTS
from tests.unit.dialects.samples import a_request

#: Where nothing is fetched by these tests: only a worker of the farm would.
FOX_URL = "https://example.com/fox.png"


def test_a_submit_is_accepted_and_recorded(api: FlaskClient, farm: Farm) -> None:
    response = post_job(api, seed=7)

    body = response.get_json()
    url = f"{BASE}/farm/v1/jobs/{body['id']}"
    assert response.status_code == 202
    assert body == {
        "id": body["id"],
        "status": "created",
        "urls": {"get": url, "cancel": f"{url}/cancel", "events": f"{url}/events"},
    }
    job = jobs.record(farm.store, body["id"])
    assert (job.request.prompt, job.request.width, job.request.seed, job.caller) == ("a red fox", 256, 7, "local")


@pytest.mark.parametrize("model_id", MODELS[0].ids)
def test_the_id_by_which_the_model_was_named_is_shown(api: FlaskClient, farm: Farm, model_id: str) -> None:
    job_id = submit(api, model=model_id)

    assert api.get(f"/farm/v1/jobs/{job_id}").get_json()["model"] == model_id
    assert jobs.record(farm.store, job_id).request.model == "srpo"


#: What each model must be sent beside a prompt.
IMAGES: dict[str, dict[str, Any]] = {
    "srpo": {},
    "srpo-image-to-image": {"image_url": FOX_URL},
    "kontext-text-to-image": {},
    "kontext": {"image_url": FOX_URL},
    "kontext-multi": {"image_urls": [FOX_URL, FOX_URL]},
}


@pytest.fixture
def every(api: FlaskClient, farm: Farm) -> FlaskClient:
    """Return the API of a farm that serves every model."""
    farm.store.renew("w2", FACTS | {"models": ",".join(model.name for model in MODELS)}, [])
    return api


def begin(api: FlaskClient, model: str, /, **fields: Any) -> TestResponse:
    """Submit the smallest body that the model accepts."""
    return api.post("/farm/v1/jobs", json={"model": model, "prompt": "a red fox"} | IMAGES[model] | fields)


@pytest.mark.parametrize(("name", "model_id"), [(model.name, model_id) for model in MODELS for model_id in model.ids])
def test_every_model_is_taken_by_any_of_its_ids(every: FlaskClient, farm: Farm, name: str, model_id: str) -> None:
    response = begin(every, name, model=model_id)

    assert response.status_code == 202, response.text
    view = every.get(f"/farm/v1/jobs/{response.get_json()['id']}").get_json()
    assert (view["model"], view["status"]) == (model_id, "created")
    assert view["inputs"] == [FOX_URL] * {"srpo": 0, "kontext-text-to-image": 0, "kontext-multi": 2}.get(name, 1)
    assert jobs.record(farm.store, view["id"]).request.model == name


def test_an_image_that_came_with_the_job_is_shown_where_the_farm_keeps_it(every: FlaskClient, farm: Farm) -> None:
    fox, owl = sample_image(64, 64, colour="orange"), sample_image(64, 64, colour="white")

    answer = begin(every, "kontext-multi", image_urls=[data_uri(owl), FOX_URL, data_uri(fox)]).get_json()

    view = every.get(f"/farm/v1/jobs/{answer['id']}").get_json()
    assert [url.startswith(f"{BASE}/files/{view['id']}-input-") for url in view["inputs"]] == [True, False, True]
    stored = [farm.storage.read(url.removeprefix(f"{BASE}/files/")) for url in view["inputs"][::2]]
    assert stored == [owl, fox]
    assert view["inputs"][1] == FOX_URL


def test_the_images_of_a_disconnected_client_are_not_read(every: FlaskClient, farm: Farm) -> None:
    """The second one is no image, which nobody is told."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
        answering, _ = server.accept()
    with answering:
        response = every.post(
            "/farm/v1/jobs",
            json={
                "model": "kontext-multi",
                "prompt": "a red fox",
                "image_urls": [data_uri(sample_image()), data_uri(b"none")],
            },
            environ_overrides={"gunicorn.socket": answering},
        )

    assert "closed its connection" in problem(response, 400)["detail"]
    assert farm.store.page(None, before_us=None, count=1) == []


def test_images_of_several_megabytes_are_taken(every: FlaskClient) -> None:
    fox = sample_image(64, 64) + bytes(3_000_000)

    assert begin(every, "kontext", image_url=data_uri(fox)).status_code == 202


def test_the_strength_is_shown_and_counts_the_steps(every: FlaskClient) -> None:
    answer = begin(every, "srpo-image-to-image", strength=0.5).get_json()

    view = every.get(f"/farm/v1/jobs/{answer['id']}").get_json()
    assert (view["strength"], view["progress"]) == (0.5, {"step": 0, "steps": 20})


@pytest.mark.parametrize(
    ("model", "sent", "named"),
    [
        ("kontext", {"image_url": data_uri(b"no image")}, "image_url"),
        ("kontext", {"image_url": "http://10.0.0.1/"}, "image_url"),
        ("kontext-multi", {"image_urls": [FOX_URL, data_uri(sample_image(4, 4))]}, "image_urls.1"),
    ],
)
def test_an_image_that_cannot_be_one_is_refused_by_name(
    every: FlaskClient, farm: Farm, model: str, sent: dict[str, Any], named: str
) -> None:
    body = problem(begin(every, model, **sent), 422)

    assert [error["field"] for error in body["errors"]] == [named]
    assert farm.redis.keys("srpo:job:*") == []


@pytest.mark.parametrize("model", IMAGES)
def test_an_unprepared_job_is_created_and_not_claimed(every: FlaskClient, farm: Farm, model: str) -> None:
    job_id = begin(every, model, enhance_prompt=True).get_json()["id"]

    assert every.get(f"/farm/v1/jobs/{job_id}").get_json()["status"] == "created"
    assert farm.store.claim("w2", [model]).batch.jobs == ()


def test_a_prepared_job_shows_both_prompts(every: FlaskClient, farm: Farm) -> None:
    job_id = begin(every, "srpo", enhance_prompt=True).get_json()["id"]
    (job,) = farm.store.claim_unprepared(1, 60)
    better = {"prompt": "a red fox in fresh snow", "original_prompt": "a red fox", "enhance": False, "notes": ("so",)}
    assert farm.store.finish_preparation(job_id, job.request.model_copy(update=better))

    view = every.get(f"/farm/v1/jobs/{job_id}").get_json()

    assert (view["prompt"], view["original_prompt"]) == ("a red fox in fresh snow", "a red fox")
    assert (view["status"], view["warnings"]) == ("created", ["so"])
    assert len(jobs.take(farm.store)) == 1


def test_a_random_seed_is_drawn_once_and_returned(api: FlaskClient) -> None:
    job_ids = [submit(api) for _ in range(8)]

    seeds = [api.get(f"/farm/v1/jobs/{job_id}").get_json()["seed"] for job_id in job_ids]

    assert len(set(seeds)) == 8
    assert all(1 <= seed <= MAX_RANDOM_SEED for seed in seeds)
    assert [api.get(f"/farm/v1/jobs/{job_id}").get_json()["seed"] for job_id in job_ids] == seeds


def test_the_priority_is_taken_and_shown(api: FlaskClient) -> None:
    job_id = submit(api, priority="low")

    assert api.get(f"/farm/v1/jobs/{job_id}").get_json()["priority"] == "low"


def test_a_job_is_seen_through_its_life(api: FlaskClient, farm: Farm) -> None:
    job_id = submit(api, num_inference_steps=4)

    def view() -> dict[str, Any]:
        found: dict[str, Any] = api.get(f"/farm/v1/jobs/{job_id}").get_json()
        return found

    assert (view()["status"], view()["started_at"]) == ("created", None)
    job = jobs.take_one(farm.store)
    farm.store.renew("w1", FACTS, [jobs.held(job, 2)])
    assert (view()["status"], view()["progress"]) == ("processing", {"step": 2, "steps": 4})
    farm.store.complete(job, jobs.result(job))
    assert (view()["status"], view()["progress"]) == ("completed", {"step": 4, "steps": 4})
    assert view()["images"][0]["url"].startswith(f"{BASE}/files/{job_id}-")


@pytest.mark.parametrize("path", ["", "/cancel", "/events"])
@pytest.mark.parametrize("job_id", [UNKNOWN_ID, "x", UNKNOWN_ID.upper(), "srpo:jobs", "%2e%2e", "a" * 3000])
def test_an_unknown_job_is_not_found(api: FlaskClient, job_id: str, path: str) -> None:
    response = api.open(f"/farm/v1/jobs/{job_id}{path}", method="POST" if path == "/cancel" else "GET")

    assert problem(response, 404)["code"] == "not_found"


def test_an_unknown_job_cannot_be_deleted(api: FlaskClient) -> None:
    problem(api.delete(f"/farm/v1/jobs/{UNKNOWN_ID}"), 404)


def test_cancelling_a_waiting_job_ends_it(api: FlaskClient, farm: Farm) -> None:
    job_id = submit(api)

    response = api.post(f"/farm/v1/jobs/{job_id}/cancel")

    assert (response.status_code, response.get_json()) == (200, {"id": job_id, "outcome": "cancelled"})
    view = api.get(f"/farm/v1/jobs/{job_id}").get_json()
    assert (view["status"], view["code"], view["started_at"]) == ("failed", "cancelled", None)
    assert jobs.take(farm.store) == ()


def test_cancelling_a_running_job_says_that_it_is_stopping(api: FlaskClient, farm: Farm) -> None:
    job_id = submit(api)
    jobs.take_one(farm.store)

    response = api.post(f"/farm/v1/jobs/{job_id}/cancel")

    assert (response.status_code, response.get_json()["outcome"]) == (202, "stopping")


def test_cancelling_too_late_says_so(api: FlaskClient, farm: Farm) -> None:
    job_id = submit(api)
    job = jobs.take_one(farm.store)
    farm.store.complete(job, jobs.result(job))

    response = api.post(f"/farm/v1/jobs/{job_id}/cancel")

    assert (response.status_code, response.get_json()["outcome"]) == (200, "ended")
    assert api.get(f"/farm/v1/jobs/{job_id}").get_json()["status"] == "completed"


def test_deleting_removes_record_and_images(api: FlaskClient, farm: Farm) -> None:
    job_id = submit(api)
    job = jobs.take_one(farm.store)
    key = new_key(job_id, job.fence, 0, "jpeg")
    farm.storage.put(key, b"content")
    farm.store.complete(job, jobs.result(job))

    response = api.delete(f"/farm/v1/jobs/{job_id}")

    assert (response.status_code, response.data) == (204, b"")
    problem(api.get(f"/farm/v1/jobs/{job_id}"), 404)
    problem(api.get(f"/files/{key}"), 404)
    assert farm.storage.find(key) is None


@pytest.mark.parametrize("running", [False, True])
def test_an_unfinished_job_cannot_be_deleted(api: FlaskClient, farm: Farm, running: bool) -> None:
    job_id = submit(api)
    if running:
        jobs.take_one(farm.store)

    assert problem(api.delete(f"/farm/v1/jobs/{job_id}"), 409)["code"] == "not_finished"
    assert api.get(f"/farm/v1/jobs/{job_id}").status_code == 200


def test_the_list_is_newest_first(api: FlaskClient) -> None:
    job_ids = [submit(api) for _ in range(3)]

    listed = api.get("/farm/v1/jobs").get_json()

    assert [view["id"] for view in listed["jobs"]] == job_ids[::-1]
    assert listed["jobs"][0] == api.get(f"/farm/v1/jobs/{job_ids[2]}").get_json()


def test_the_list_comes_in_pages(api: FlaskClient) -> None:
    job_ids = [submit(api) for _ in range(7)]
    seen: list[str] = []
    query = "limit=3"
    while query:
        page = api.get(f"/farm/v1/jobs?{query}").get_json()
        seen += [view["id"] for view in page["jobs"]]
        query = f"limit=3&before={page['before']}" if page["before"] is not None else ""

    assert seen == job_ids[::-1]


def test_the_list_shows_one_status_when_asked(api: FlaskClient) -> None:
    waiting, cancelled = submit(api), submit(api)
    api.post(f"/farm/v1/jobs/{cancelled}/cancel")

    def listed(status: str) -> list[str]:
        return [view["id"] for view in api.get(f"/farm/v1/jobs?status={status}").get_json()["jobs"]]

    assert (listed("created"), listed("failed"), listed("completed")) == ([waiting], [cancelled], [])


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=2.0", "limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("limit=%C2%B2", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("before=-1", "before"),
        ("before=x", "before"),
        ("status=done", "status"),
        ("status=", "status"),
    ],
    ids=lambda value: value[:20],
)
def test_a_bad_query_is_refused_by_name(api: FlaskClient, query: str, named: str) -> None:
    body = problem(api.get(f"/farm/v1/jobs?{query}"), 422)

    assert [error["field"] for error in body["errors"]] == [named]
    assert "allowed" in body["errors"][0]["message"]


def test_the_same_key_and_body_is_the_same_job(api: FlaskClient, farm: Farm) -> None:
    first, again = (post_job(api, headers={"Idempotency-Key": "k"}) for _ in range(2))

    assert (first.status_code, again.status_code) == (202, 202)
    assert first.get_json() == again.get_json()
    assert ("Idempotent-Replayed" in first.headers, again.headers["Idempotent-Replayed"]) == (False, "true")
    assert len(jobs.take(farm.store)) == 1


def test_an_unknown_model_is_not_found(api: FlaskClient) -> None:
    body = problem(post_job(api, model="sdxl"), 404)

    assert body["code"] == "unknown_model"
    assert "'sdxl'" in body["detail"]


@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": 5}, {"model": ["srpo"]}, {"model": {}}])
def test_a_body_without_a_model_is_refused_by_name(api: FlaskClient, body: dict[str, Any]) -> None:
    response = api.post("/farm/v1/jobs", json=body)

    assert [error["field"] for error in problem(response, 422)["errors"]] == ["model"]


def test_without_a_checker_checking_is_refused_by_name(open_api: Callable[..., FlaskClient]) -> None:
    api = open_api(safety="off")

    for response in (post_job(api), post_job(api, enable_safety_checker=True)):
        body = problem(response, 422)
        assert [error["field"] for error in body["errors"]] == ["enable_safety_checker"]
    assert post_job(api, enable_safety_checker=False).status_code == 202


def test_all_refusals_of_the_service_come_at_once(open_api: Callable[..., FlaskClient]) -> None:
    body = problem(post_job(open_api(safety="off"), webhook_url="http://10.0.0.7/hook"), 422)

    assert {error["field"] for error in body["errors"]} == {"webhook_url", "enable_safety_checker"}


def test_the_queue_tells_depth_and_age(api: FlaskClient, farm: Farm) -> None:
    submit(api)
    jobs.take_one(farm.store)
    for priority in ("normal", "normal", "low"):
        submit(api, priority=priority)
    submit(api, enhance_prompt=True)

    seen = api.get("/farm/v1/queue").get_json()

    assert (seen["unprepared"], seen["waiting"], seen["processing"]) == (1, 3, 1)
    queues = {(queue["model"], queue["priority"]): queue for queue in seen["queues"]}
    waiting = {name: queue for name, queue in queues.items() if queue["jobs"]}
    assert {name: queue["jobs"] for name, queue in waiting.items()} == {("srpo", "normal"): 2, ("srpo", "low"): 1}
    assert all(0 < queue["oldest_seconds"] < 10 for queue in waiting.values())


def test_the_workers_are_listed_with_what_they_do(api: FlaskClient, farm: Farm) -> None:
    submit(api)
    job = jobs.take_one(farm.store, "w")
    farm.store.renew("w", FACTS, [jobs.held(job, 3)])

    (worker,) = api.get("/farm/v1/workers").get_json()["workers"]

    assert (worker["id"], worker["state"], worker["models"], worker["jobs"]) == ("w", "warm", ["srpo"], 1)
    assert worker["running"] == [{"id": job.id, "step": 3, "steps": 28}]
    assert 0 <= worker["silent_seconds"] < 10
    seen_at = datetime.fromisoformat(worker["seen_at"])
    assert abs(seen_at.timestamp() - farm.stats.now_us() / 1e6) < 10


def test_every_number_and_time_of_a_worker_is_one(api: FlaskClient, farm: Farm) -> None:
    facts = FACTS | {"pid": "42", "busy_seconds": "1.500", "host": "h", "version": "1", "device": "cpu"}
    farm.store.renew("w", facts, [])
    farm.store.renew("new", {"state": "loading"}, [])

    new, warm = sorted(api.get("/farm/v1/workers").get_json()["workers"], key=lambda worker: str(worker["id"]))

    assert {name: type(value) for name, value in warm.items()} == {
        **dict.fromkeys(("id", "state", "host", "version", "device", "weights", "build", "safety", "seen_at"), str),
        **dict.fromkeys(("pid", "jobs"), int),
        **dict.fromkeys(("busy_seconds", "silent_seconds"), float),
        **dict.fromkeys(("models", "running"), list),
    }
    assert (new["state"], new["pid"], new["models"], new["jobs"], new["weights"]) == ("loading", None, [], 0, None)


def test_a_worker_is_shown_without_prompts(api: FlaskClient, farm: Farm) -> None:
    submit(api)
    job = jobs.take_one(farm.store, "w")
    farm.store.renew("w", FACTS, [jobs.held(job)])

    (worker,) = api.get("/farm/v1/workers").get_json()["workers"]

    assert "a red fox" not in str(worker)


def test_the_models_are_listed_with_what_is_served(api: FlaskClient) -> None:
    listed = {model["name"]: model for model in api.get("/farm/v1/models").get_json()["models"]}

    assert set(listed) == {model.name for model in MODELS}
    assert [name for name, model in listed.items() if model["served"]] == ["srpo"]
    assert (listed["srpo"]["weights"], listed["srpo"]["safety"]) == ("miniature", "bundled")
    assert listed["kontext"]["weights"] is None
    assert "fal-ai/flux/srpo" in listed["srpo"]["ids"]


def test_the_models_are_listed_with_their_limits(api: FlaskClient) -> None:
    listed = {model["name"]: model["limits"] for model in api.get("/farm/v1/models").get_json()["models"]}

    assert listed["srpo-image-to-image"] == {
        "num_inference_steps": {"min": 10, "max": 50, "default": 40},
        "guidance_scale": {"min": 1, "max": 20, "default": 4.5},
        "strength": {"min": 0.01, "max": 1, "default": 0.95},
        "input_images": {"min": 1, "max": 1},
        "sides": {"min": 256, "max": 2560},
    }
    assert (listed["kontext"]["sides"], listed["kontext"]["strength"]) == ({"min": 672, "max": 1568}, None)


@pytest.mark.parametrize("is_admin", [True, False])
def test_the_workers_that_have_a_model_loaded_are_listed_for_admins(
    open_api: Callable[..., FlaskClient], farm: Farm, is_admin: bool
) -> None:
    api = open_api(with_keys=True)
    farm.store.renew("w2", FACTS | {"models": "kontext,srpo", "host": "gpu-1", "device": "cuda:0"}, [])
    key = farm.callers.create("ann", is_admin=is_admin)

    answer = api.get("/farm/v1/models", headers={"Authorization": f"Bearer {key}"}).get_json()
    workers = {model["name"]: model["workers"] for model in answer["models"]}

    second = {"id": "w2", "state": "warm", "host": "gpu-1", "device": "cuda:0"}
    assert workers["kontext"] == ([second] if is_admin else None)
    assert workers["srpo"] == (
        [{"id": "w", "state": "warm", "host": None, "device": None}, second] if is_admin else None
    )
    assert workers["kontext-multi"] == ([] if is_admin else None)


def test_the_content_type_of_a_body_is_no_matter(api: FlaskClient) -> None:
    for content_type in ("application/json", "text/plain", "application/x-www-form-urlencoded", ""):
        response = api.post(
            "/farm/v1/jobs", data=b'{"model": "srpo", "prompt": "a fox"}', headers={"Content-Type": content_type}
        )
        assert response.status_code == 202, content_type


def test_the_body_as_sent_and_not_as_meant_goes_with_the_key(api: FlaskClient) -> None:
    """Two spellings of one request are two bodies."""
    headers = {"Idempotency-Key": "k"}
    api.post("/farm/v1/jobs", data=b'{"model": "srpo", "prompt": "a fox"}', headers=headers)

    problem(api.post("/farm/v1/jobs", data=b'{"prompt": "a fox", "model": "srpo"}', headers=headers), 422)


# What operators do


def test_a_pause_is_shown_and_ends(api: FlaskClient, farm: Farm) -> None:
    assert api.get("/farm/v1/queue").get_json()["paused"] is False

    assert api.post("/farm/v1/pause").get_json() == {"paused": True, "paused_groups": []}
    job_id = submit(api)

    assert api.get("/farm/v1/queue").get_json()["paused"] is True
    assert jobs.take(farm.store) == ()
    assert api.post("/farm/v1/resume").get_json() == {"paused": False, "paused_groups": []}
    assert jobs.take_one(farm.store).id == job_id


@pytest.mark.parametrize(
    "path", ["pause", "resume", "workers/w/drain", "jobs/{id}/cancel", "jobs/{id}/retry", "deliveries/{id}/redeliver"]
)
def test_a_call_without_a_body_refuses_fields_instead_of_ignoring_them(api: FlaskClient, path: str) -> None:
    """A caller that pauses a model by a field of the body must not pause the farm."""
    answer = problem(api.post("/farm/v1/" + path.format(id=submit(api)), json={"model": "srpo"}), 422)

    assert answer["errors"][0]["field"] == "model"
    assert not api.get("/farm/v1/queue").get_json()["paused"]
    assert api.post("/farm/v1/" + path.format(id=submit(api)), json={}).status_code != 422


def test_a_waiting_worker_is_woken_by_resume_and_not_before(
    api: FlaskClient, farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[int] = []
    monkeypatch.setattr(farm.wake_ups, "send", rung.append)
    api.post("/farm/v1/pause")
    jobs.take(farm.store)
    submit(api)
    farm.service.reap()
    assert sum(rung) == 0

    api.post("/farm/v1/resume")

    assert sum(rung) == 1


@pytest.mark.parametrize(
    ("named", "kind", "name"),
    [
        ("model=fal-ai/flux/srpo", "model", "srpo"),
        ("priority=normal", "priority", "normal"),
        ("caller=local", "caller", "local"),
    ],
)
def test_a_group_of_jobs_is_paused_shown_and_resumed(
    api: FlaskClient, farm: Farm, named: str, kind: str, name: str
) -> None:
    answer = api.post(f"/farm/v1/pause?{named}").get_json()
    job_id = submit(api)
    queue = api.get("/farm/v1/queue").get_json()

    (group,) = answer["paused_groups"]
    assert (answer["paused"], group["kind"], group["name"]) == (False, kind, name)
    assert (queue["paused"], queue["paused_groups"], queue["waiting"]) == (False, [group], 1)
    assert jobs.take(farm.store) == ()
    assert api.post(f"/farm/v1/resume?{named}").get_json() == {"paused": False, "paused_groups": []}
    assert jobs.take_one(farm.store).id == job_id


@pytest.mark.parametrize(
    ("query", "status"),
    [("model=nothing", 404), ("priority=urgent", 422), ("model=srpo&priority=low", 422), ("worker=w", 422)],
)
def test_a_group_that_does_not_exist_is_refused(api: FlaskClient, farm: Farm, query: str, status: int) -> None:
    problem(api.post(f"/farm/v1/pause?{query}"), status)

    assert farm.stats.paused_groups() == []


def test_a_caller_is_named_by_its_key_and_hidden_from_others(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str], admin: dict[str, str]
) -> None:
    (key_id,) = (key.id for key in farm.callers.all() if key.name == "ada")
    keyed.post("/farm/v1/pause?caller=bob", headers=admin)
    keyed.post(f"/farm/v1/pause?caller={key_id}", headers=admin)

    def seen_by(headers: dict[str, str]) -> list[str]:
        queue = keyed.get("/farm/v1/queue", headers=headers).get_json()
        return [group["name"] for group in queue["paused_groups"]]

    assert (seen_by(ada), seen_by(admin)) == (["ada"], ["ada", "bob"])


def test_a_worker_can_be_drained(api: FlaskClient, farm: Farm) -> None:
    response = api.post("/farm/v1/workers/w/drain")

    assert (response.status_code, response.get_json()) == (202, {"id": "w", "draining": True})
    assert farm.store.is_draining("w")
    problem(api.post("/farm/v1/workers/nobody/drain"), 404)


@pytest.mark.parametrize("path", ["pause", "resume", "workers/w/drain"])
def test_operators_have_an_admin_key(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str], admin: dict[str, str], path: str
) -> None:
    refused = problem(keyed.post(f"/farm/v1/{path}", headers=ada), 403)

    assert "admin" in refused["detail"]
    assert (farm.stats.is_paused(), farm.store.is_draining("w")) == (False, False)
    assert keyed.post(f"/farm/v1/{path}", headers=admin).status_code in (200, 202)


def test_an_admin_lists_the_jobs_of_one_caller(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str], bob: dict[str, str], admin: dict[str, str]
) -> None:
    of_ada, _of_bob = (submit(keyed, headers=key) for key in (ada, bob))
    (key_id,) = (key.id for key in farm.callers.all() if key.name == "ada")

    listings = [keyed.get(f"/farm/v1/jobs?caller={named}", headers=admin).get_json() for named in ("ada", key_id)]

    assert [[job["id"] for job in listing["jobs"]] for listing in listings] == [[of_ada], [of_ada]]
    problem(keyed.get("/farm/v1/jobs?caller=bob", headers=ada), 403)


def test_the_queue_tells_which_workers_a_model_has(api: FlaskClient, farm: Farm) -> None:
    patient_store(farm).renew("w", FACTS | {"state": "warm", "models": "srpo"}, [])
    submit(api)

    models = {one["model"]: one for one in api.get("/farm/v1/queue").get_json()["models"]}

    assert (models["srpo"]["workers"]["warm"], models["kontext"]["workers"]["warm"]) == (1, 0)
    assert models["srpo"]["drained_at"] is not None
    assert models["kontext"]["drained_at"] is None


def test_the_queue_tells_a_scaler_how_much_work_there_is(api: FlaskClient, farm: Farm) -> None:
    def cost(size: str) -> float:
        width, height = SIZE_PRESETS[size]
        return a_request(width=width, height=height, steps=10, images=2).cost

    idle = api.get("/farm/v1/queue").get_json()
    for size in ("square", "square_hd"):
        submit(api, num_images=2, image_size=size, num_inference_steps=10)
    assumed = api.get("/farm/v1/queue").get_json()
    job = jobs.take_one(farm.store, "w")
    rendered = job.request.cost
    farm.store.complete(job, replace(jobs.result(job), timings={"device": 2 * rendered, "inference": 1.0}))
    learned = api.get("/farm/v1/queue").get_json()
    (other,) = (model for model in learned["models"] if model["model"] == "srpo")

    assert (idle["work_seconds"], idle["waiting_images"], idle["workers"]["warm"]) == (0, 0, 1)
    assert (assumed["waiting_jobs"], assumed["waiting_images"]) == (2, 4)
    assert assumed["work_seconds"] == pytest.approx(0.2 * (cost("square") + cost("square_hd")), abs=0.01)
    assert (learned["waiting_jobs"], learned["waiting_images"]) == (1, 2)
    assert learned["work_seconds"] == other["work_seconds"] > 2 * cost("square") - 0.01
    assert learned["drained_at"] is not None


def test_running_and_unprepared_jobs_count_as_work(api: FlaskClient, farm: Farm) -> None:
    submit(api, num_inference_steps=10)
    jobs.take_one(farm.store, "w")
    processing = api.get("/farm/v1/queue").get_json()
    submit(api, enhance_prompt=True)
    both = api.get("/farm/v1/queue").get_json()

    assert (processing["waiting_jobs"], processing["processing"]) == (0, 1)
    assert 0 < processing["work_seconds"] < both["work_seconds"]
    assert both["paused_seconds"] == 0


def test_a_paused_farm_asks_for_no_workers_but_those_that_render(api: FlaskClient, farm: Farm) -> None:
    submit(api, num_inference_steps=10)
    jobs.take_one(farm.store, "w")
    rendering = api.get("/farm/v1/queue").get_json()["work_seconds"]
    submit(api, enhance_prompt=True)
    submit(api)
    before = api.get("/farm/v1/queue").get_json()
    farm.store.pause()
    paused = api.get("/farm/v1/queue").get_json()
    (model,) = (model for model in paused["models"] if model["model"] == "srpo")

    assert (paused["work_seconds"], model["work_seconds"]) == (rendering, rendering)
    assert paused["work_seconds"] + paused["paused_seconds"] == pytest.approx(before["work_seconds"], abs=0.01)
    assert (paused["waiting_jobs"], paused["drained_at"]) == (2, None)


@pytest.mark.parametrize(("group", "share"), [("model=srpo", 1), ("priority=low", 0.5), ("caller=local", 1)])
def test_a_paused_group_asks_for_no_workers(api: FlaskClient, group: str, share: float) -> None:
    for priority in ("normal", "low"):
        submit(api, num_inference_steps=10, priority=priority)
    before = api.get("/farm/v1/queue").get_json()["work_seconds"]
    api.post(f"/farm/v1/pause?{group}")
    paused = api.get("/farm/v1/queue").get_json()

    assert paused["paused_seconds"] == pytest.approx(share * before, abs=0.01)
    assert paused["work_seconds"] == pytest.approx((1 - share) * before, abs=0.01)
    assert paused["waiting_jobs"] == 2
